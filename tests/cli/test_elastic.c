/* Elastic pilots: the plan as a pure function, played over time against a small world; and lines of a provider. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cli/elastic.h"

#include <stdio.h>
#include <string.h>

static const mull_elastic_rules RULES = {
    .prefix = "p", .min = 0, .max = 4, .devices = 2, .idle_s = 60, .lead_s = 30, .boot_s = 100};
static mull_elastic_step steps[MULL_PILOTS_MAX];

static mull_pilot pilot(const char *name, bool up, int running, double since) {
    mull_pilot p = {.started = true, .up = up, .running = running, .since = since};
    snprintf(p.name, sizeof p.name, "%s", name);
    snprintf(p.id, sizeof p.id, "id-%s", name);
    return p;
}

static int plan(const mull_pilot *p, int n, long long demand, double now) {
    return mull_elastic_plan(&RULES, p, n, demand, now, steps);
}

static void as_many_as_jobs_want(void **state) {
    (void)state;
    assert_int_equal(plan(NULL, 0, 0, 0), 0);
    assert_int_equal(plan(NULL, 0, 3, 0), 2); /* two of two */
    assert_int_equal(steps[0].op, MULL_ELASTIC_START);
    assert_string_equal(steps[0].name, "p-0");
    assert_string_equal(steps[1].name, "p-1");
    assert_int_equal(plan(NULL, 0, 1000000, 0), 4); /* no more than max */
    mull_pilot booting[] = {pilot("p-0", false, 0, 5), pilot("p-2", true, 2, 0)};
    assert_int_equal(plan(booting, 2, 2, 10), 0); /* one is on its way */
    assert_int_equal(plan(booting, 2, 3, 10), 1);
    assert_string_equal(steps[0].name, "p-1"); /* the lowest free name */
}

static void idle_ones_are_drained_then_stopped(void **state) {
    (void)state;
    mull_pilot p[] = {pilot("p-0", true, 0, 100), pilot("p-1", true, 1, 0)};
    assert_int_equal(plan(p, 2, 0, 159), 0);
    assert_int_equal(plan(p, 2, 0, 160), 1);
    assert_int_equal(steps[0].op, MULL_ELASTIC_DRAIN);
    assert_string_equal(steps[0].name, "p-0");
    p[0].drained = p[0].retiring = true;
    assert_int_equal(plan(p, 2, 0, 161), 1);
    assert_int_equal(steps[0].op, MULL_ELASTIC_STOP);
    assert_string_equal(steps[0].id, "id-p-0");
    p[0].running = 1; /* a job was quicker than the drain: it ends first */
    assert_int_equal(plan(p, 2, 0, 161), 0);
    p[0].running = 0;
    assert_int_equal(plan(p, 2, 1, 161), 1); /* wanted again */
    assert_int_equal(steps[0].op, MULL_ELASTIC_RESUME);
    p[0].retiring = false; /* an admin drained it: not ours to touch */
    assert_int_equal(plan(p, 2, 0, 500), 0);
}

static void min_stay(void **state) {
    (void)state;
    mull_elastic_rules r = RULES;
    r.min = 2;
    mull_pilot p[] = {pilot("p-0", true, 0, 1), pilot("p-1", true, 0, 1), pilot("p-2", true, 0, 1)};
    assert_int_equal(mull_elastic_plan(&r, NULL, 0, 0, 0, steps), 2);
    assert_int_equal(mull_elastic_plan(&r, p, 3, 0, 1000, steps), 1);
    assert_int_equal(steps[0].op, MULL_ELASTIC_DRAIN);
}

static void an_end_comes(void **state) {
    (void)state;
    mull_pilot p[] = {pilot("p-0", true, 1, 0)};
    p[0].ends = 1000;
    assert_int_equal(plan(p, 1, 0, 969), 0);
    assert_int_equal(plan(p, 1, 0, 971), 1);
    assert_int_equal(steps[0].op, MULL_ELASTIC_DRAIN);
    p[0].drained = true;
    assert_int_equal(plan(p, 1, 0, 972), 0); /* what runs there is told by its allocation */
    assert_int_equal(plan(p, 1, 2, 972), 1); /* it does not count for what waits */
    assert_int_equal(steps[0].op, MULL_ELASTIC_START);
    p[0].running = 0;
    assert_int_equal(plan(p, 1, 0, 972), 1); /* empty: given back early */
    assert_int_equal(steps[0].op, MULL_ELASTIC_STOP);
}

static void one_that_never_comes_up(void **state) {
    (void)state;
    mull_pilot p[] = {pilot("p-0", false, 0, 10)};
    assert_int_equal(plan(p, 1, 2, 109), 0);
    assert_int_equal(plan(p, 1, 2, 110), 1);
    assert_int_equal(steps[0].op, MULL_ELASTIC_STOP);
    p[0].started = false; /* waits in the other system's queue: as long as anybody wants it */
    p[0].since = 0;
    assert_int_equal(plan(p, 1, 2, 100000), 0);
    assert_int_equal(plan(p, 1, 0, 100000), 1);
    assert_int_equal(steps[0].op, MULL_ELASTIC_STOP);
}

/* Jobs of two devices come at random for an hour; pilots take 20 s to boot, live 600 s. There are never more than max,
 * every job runs in the end, no pilot is stopped with a job on it, and in the end none is left. */
static void an_hour_of_a_world(void **state) {
    (void)state;
    for (unsigned seed = 1; seed <= 50; seed++) {
        mull_pilot p[MULL_PILOTS_MAX];
        double born[MULL_PILOTS_MAX], busy[MULL_PILOTS_MAX];
        int n = 0, waiting = 0, came = 0, ran = 0;
        unsigned x = seed * 2654435761u;
        for (int t = 1; t < 6000; t++) {
            x = x * 1664525u + 1013904223u;
            if (t < 3600 && (x >> 16) % 40 == 0) waiting++, came++;
            for (int i = 0; i < n; i++) {
                bool was = p[i].up;
                p[i].up = t - born[i] > 20;
                if (p[i].running && t > busy[i]) p[i].running = 0, p[i].since = t;
                if (p[i].up && !was) p[i].since = t;
                if (p[i].up && !p[i].drained && !p[i].running && waiting && t + 30 < p[i].ends) {
                    p[i].running = 1;
                    busy[i] = t + 25;
                    waiting--;
                    ran++;
                }
            }
            int count = mull_elastic_plan(&RULES, p, n, 2ll * waiting, t, steps);
            for (int s = 0; s < count; s++) {
                int at = 0;
                while (at < n && strcmp(p[at].name, steps[s].name) != 0) at++;
                if (steps[s].op == MULL_ELASTIC_START) {
                    assert_int_equal(at, n);
                    assert_true(n < RULES.max);
                    p[n] = pilot(steps[s].name, false, 0, t);
                    p[n].ends = t + 600;
                    born[n++] = t;
                    continue;
                }
                assert_true(at < n);
                if (steps[s].op == MULL_ELASTIC_STOP) {
                    assert_int_equal(p[at].running, 0);
                    n--;
                    p[at] = p[n];
                    born[at] = born[n];
                    busy[at] = busy[n];
                } else {
                    p[at].drained = p[at].retiring = steps[s].op == MULL_ELASTIC_DRAIN;
                }
            }
            for (int i = 0; i < n; i++) /* its time is over: whatever runs there is lost */
                if (t >= p[i].ends) fail_msg("seed %u: a pilot outlived its allocation at %d", seed, t);
        }
        assert_true(came > 10);
        assert_int_equal(ran, came);
        assert_int_equal(n, 0);
    }
}

static void lines_of_a_provider(void **state) {
    (void)state;
    mull_pilot p;
    assert_int_equal(mull_pilot_parse("pilot-0 4711 running 1700000000", &p), 0);
    assert_true(p.started);
    assert_true(p.ends == 1700000000);
    assert_int_equal(mull_pilot_parse("pilot-0 mull/x pending -", &p), -1);
    assert_int_equal(mull_pilot_parse("pilot-0 x pending -", &p), 0);
    assert_false(p.started);
    static const char *const wrong[] = {"",
                                        "one",
                                        "a b running",
                                        "a b walking 5",
                                        "a b running soon",
                                        "a b running -5",
                                        "a b running 5 6",
                                        "-a b running 5",
                                        "a ../b running 5",
                                        "a b running nan"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        if (mull_pilot_parse(wrong[i], &p) == 0) fail_msg("taken: '%s'", wrong[i]);
}

static void names_of_ours(void **state) {
    (void)state;
    assert_true(mull_pilot_named("a-0", "a"));
    assert_true(mull_pilot_named("a-b-12", "a-b"));
    static const char *const others[] = {"a-b-0", "a-", "a", "ab-0", "a-0x", "a--1", "b-0"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (mull_pilot_named(others[i], "a")) fail_msg("taken for ours: '%s'", others[i]);
}

static void memory_over_a_restart(void **state) {
    (void)state;
    mull_pilot p = pilot("p-0", true, 0, 0);
    p.drained = true;
    mull_pilot_remember(&p, NULL, 50); /* the first look after a restart: it goes on to be stopped */
    assert_true(p.retiring);
    assert_true(p.since == 50);
    assert_int_equal(plan(&p, 1, 0, 51), 1);
    assert_int_equal(steps[0].op, MULL_ELASTIC_STOP);
    mull_pilot before = pilot("p-0", true, 0, 40), now = pilot("p-0", true, 0, 0);
    now.drained = true; /* by an admin while we looked on: not ours */
    mull_pilot_remember(&now, &before, 60);
    assert_false(now.retiring);
    assert_true(now.since == 40);
    before.up = false; /* came up since: it has been idle from now on */
    mull_pilot_remember(&now, &before, 60);
    assert_true(now.since == 60);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_many_as_jobs_want),
        cmocka_unit_test(idle_ones_are_drained_then_stopped),
        cmocka_unit_test(min_stay),
        cmocka_unit_test(an_end_comes),
        cmocka_unit_test(one_that_never_comes_up),
        cmocka_unit_test(an_hour_of_a_world),
        cmocka_unit_test(lines_of_a_provider),
        cmocka_unit_test(names_of_ours),
        cmocka_unit_test(memory_over_a_restart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
