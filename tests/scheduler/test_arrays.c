/* Arrays and schedules through the real scheduler, PostgreSQL and Redis, with a worker played by hand. */
#include "tests/scheduler/flow.h"

static flow f;

static int setup(void **state) {
    (void)state;
    flow_start(&f, 0);
    return 0;
}
static int teardown(void **state) {
    (void)state;
    flow_stop(&f);
    return 0;
}

static json_t *get_path(const char *fmt, long long id, long long index, int want) {
    char target[80];
    int status;
    snprintf(target, sizeof target, fmt, id, index);
    json_t *j = mull_http_json(f.sock, "GET", target, NULL, &status);
    assert_int_equal(status, want);
    return j;
}

static int act_on(long long id, long long index, const char *what) {
    char target[80];
    snprintf(target, sizeof target, "/v1/jobs/%lld_%lld/%s", id, index, what);
    return mull_http_do(f.sock, "POST", target, NULL, NULL, NULL);
}

static long long count_of(const json_t *job, const char *key) {
    return json_integer_value(json_object_get(json_object_get(job, "array"), key));
}

typedef struct task {
    attempt a;
    long long index;
} task;

/* The next start, of a task of this array. */
static task next_task(by_hand *w, long long array) {
    json_t *m = hear(w, "start", 20000);
    assert_non_null(m);
    task t = {.index = json_integer_value(json_object_get(json_object_get(m, "spec"), "array_index"))};
    t.a = (attempt){atoll(text_of(m, "job")), json_integer_value(json_object_get(m, "attempt")),
                    json_integer_value(json_object_get(m, "fence")), ""};
    char id[24], prompt[60];
    snprintf(id, sizeof id, "%lld", array);
    assert_string_equal(text_of(json_object_get(m, "spec"), "array_job"), id);
    snprintf(prompt, sizeof prompt, "say %lld", t.index);
    assert_string_equal(text_of(json_object_get(m, "spec"), "prompt"), prompt);
    json_decref(m);
    snprintf(t.a.ids, sizeof t.a.ids, "\"job\":\"%lld\",\"attempt\":%lld,\"fence\":%lld", t.a.job, t.a.attempt,
             t.a.fence);
    char more[200];
    snprintf(more, sizeof more, "%s,\"pid\":4711", t.a.ids);
    say(w, "attempt_started", more);
    return t;
}

static long long submit_array(const char *range, const char *more) {
    char body[400];
    int status;
    snprintf(body, sizeof body,
             "{\"spec\":{\"kind\":\"generate\",\"model\":\"%s\",\"prompt\":\"say {array_index}\",\"array\":\"%s\"%s}}",
             f.model, range, more);
    json_t *j = mull_http_json(f.sock, "POST", "/v1/jobs", body, &status);
    assert_int_equal(status, 201);
    long long id = atoll(text_of(j, "id"));
    json_decref(j);
    return id;
}

static void tasks_run_within_their_limit_and_the_array_ends_with_them(void **state) {
    (void)state;
    by_hand w;
    worker_hello(&w, &f, "n1", "boot-array", 4);
    long long id = submit_array("0-8:2%2", ""), after = flow_submit(&f, ",\"hold\":true");
    char dep[60];
    snprintf(dep, sizeof dep, ",\"after\":\"afterok:%lld\"", id);
    assert_int_equal(flow_act(&f, after, "cancel"), 200);
    after = flow_submit(&f, dep);
    task a = next_task(&w, id), b = next_task(&w, id);
    assert_int_equal(a.index, 0);
    assert_int_equal(b.index, 2);
    json_t *m = hear(&w, "start", 1500); /* two slots are free, but two tasks run */
    assert_null(m);
    json_t *j = flow_show(&f, id);
    assert_string_equal(text_of(j, "state"), "PENDING");
    assert_int_equal(count_of(j, "running"), 2);
    assert_int_equal(count_of(j, "waiting"), 3);
    json_decref(j);
    assert_int_equal(mull_sql_int(f.pg, "SELECT count(*) FROM job WHERE array_job IS NOT NULL"),
                     2); /* no row before its turn */
    j = flow_get(&f, "/v1/jobs?limit=10");
    size_t i;
    json_t *v;
    json_array_foreach(json_object_get(j, "jobs"), i, v) assert_null(json_object_get(v, "array_job"));
    json_decref(j);
    end_attempt(&w, &a.a, "infra", -1); /* tried again, and holds its place meanwhile */
    task c = next_task(&w, id);
    assert_int_equal(c.index, 0);
    assert_int_equal(c.a.attempt, 2);
    end_attempt(&w, &c.a, "ok", 0);
    task d = next_task(&w, id);
    assert_int_equal(d.index, 4);
    j = get_path("/v1/jobs/%lld_%lld", id, 4, 200);
    assert_int_equal(json_integer_value(json_object_get(j, "array_index")), 4);
    json_decref(j);
    json_decref(get_path("/v1/jobs/%lld_%lld", id, 6, 404));
    json_decref(get_path("/v1/jobs/%lld_%lld", id, 1, 404));
    end_attempt(&w, &b.a, "ok", 0);
    task e = next_task(&w, id);
    end_attempt(&w, &d.a, "ok", 0);
    task g = next_task(&w, id);
    flow_expect(&f, id, "RUNNING", 5000); /* every task has begun */
    end_attempt(&w, &g.a, "ok", 0);
    flow_expect(&f, after, "PENDING", 1000);
    end_attempt(&w, &e.a, "ok", 0);
    flow_expect(&f, id, "COMPLETED", 5000);
    attempt z = begin_next(&w);
    assert_int_equal(z.job, after);
    end_attempt(&w, &z, "ok", 0);
    flow_expect(&f, after, "COMPLETED", 5000);
}

static void single_tasks_are_cancelled_held_and_queued_again(void **state) {
    (void)state;
    by_hand w;
    worker_hello(&w, &f, "n1", "boot-single", 1);
    long long id = submit_array("1-4", ""), never;
    task a = next_task(&w, id);
    assert_int_equal(a.index, 1);
    assert_int_equal(act_on(id, 2, "cancel"), 200);
    assert_int_equal(act_on(id, 3, "hold"), 200);
    assert_int_equal(act_on(id, 5, "cancel"), 404);
    assert_int_equal(act_on(id, 4, "requeue"), 409);
    end_attempt(&w, &a.a, "user", 1);
    task b = next_task(&w, id);
    assert_int_equal(b.index, 4);
    end_attempt(&w, &b.a, "ok", 0);
    json_t *m = hear(&w, "start", 1200);
    assert_null(m);
    flow_expect(&f, id, "RUNNING", 5000);
    char dep[60];
    snprintf(dep, sizeof dep, ",\"after\":\"afterok:%lld\"", id);
    never = flow_submit(&f, dep);
    assert_int_equal(act_on(id, 3, "release"), 200);
    task c = next_task(&w, id);
    assert_int_equal(c.index, 3);
    end_attempt(&w, &c.a, "ok", 0);
    flow_expect(&f, id, "FAILED", 5000);
    flow_expect(&f, never, "CANCELLED", 10000);
    json_t *j = flow_show(&f, id);
    assert_int_equal(count_of(j, "completed"), 2);
    assert_int_equal(count_of(j, "not_completed"), 2);
    assert_int_equal(json_integer_value(json_object_get(j, "exit")), 1);
    assert_non_null(strstr(text_of(j, "message"), "2 of 4 tasks did not complete"));
    json_decref(j);
    assert_int_equal(flow_act(&f, id, "requeue"), 200); /* those that did not complete */
    for (int i = 0; i < 2; i++) {
        task t = next_task(&w, id);
        assert_int_equal(t.index, i ? 2 : 1);
        end_attempt(&w, &t.a, "ok", 0);
    }
    flow_expect(&f, id, "COMPLETED", 5000);
    assert_int_equal(flow_act(&f, id, "requeue"), 409);
}

static void a_whole_array_is_held_and_cancelled(void **state) {
    (void)state;
    by_hand w;
    worker_hello(&w, &f, "n1", "boot-whole", 2);
    long long id = submit_array("0-999999", "");
    task a = next_task(&w, id), b = next_task(&w, id);
    assert_int_equal(flow_act(&f, id, "hold"), 200);
    end_attempt(&w, &a.a, "ok", 0);
    json_t *m = hear(&w, "start", 1200);
    assert_null(m);
    assert_int_equal(flow_act(&f, id, "release"), 200);
    task c = next_task(&w, id);
    assert_int_equal(c.index, 2);
    assert_int_equal(flow_act(&f, id, "cancel"), 200);
    for (int i = 0; i < 2; i++) {
        m = hear(&w, "cancel", 10000);
        assert_non_null(m);
        json_decref(m);
    }
    end_attempt(&w, &b.a, "cancelled", -1);
    end_attempt(&w, &c.a, "cancelled", -1);
    flow_expect(&f, id, "CANCELLED", 5000);
    json_t *j = flow_show(&f, id);
    assert_int_equal(count_of(j, "cancelled"), 999997);
    json_decref(j);
    assert_int_equal(flow_act(&f, id, "cancel"), 409);
    char sql[100];
    snprintf(sql, sizeof sql, "SELECT count(*) FROM job WHERE array_job = %lld", id);
    assert_int_equal(mull_sql_int(f.pg, sql), 3);
}

/* Each task after its partner, whatever the order in which they complete. */
static void tasks_come_after_their_partners(void **state) {
    (void)state;
    by_hand w;
    worker_hello(&w, &f, "n1", "boot-corr", 3);
    char after[80];
    long long first = submit_array("0-2", "");
    snprintf(after, sizeof after, ",\"after\":\"aftercorr:%lld\"", first);
    long long second = submit_array("0-3", after);
    task a[3];
    for (int i = 0; i < 3; i++) { /* by their index, whatever the order in which they were started */
        task t = next_task(&w, first);
        assert_in_range(t.index, 0, 2);
        a[t.index] = t;
    }
    assert_null(hear(&w, "start", 800));
    end_attempt(&w, &a[2].a, "ok", 0);
    task b = next_task(&w, second);
    assert_int_equal(b.index, 2);
    end_attempt(&w, &a[0].a, "ok", 0);
    task c = next_task(&w, second);
    assert_int_equal(c.index, 0);
    end_attempt(&w, &c.a, "ok", 0);
    assert_null(hear(&w, "start", 800)); /* its last partner runs */
    end_attempt(&w, &a[1].a, "user", 1);
    flow_expect(&f, first, "FAILED", 5000);
    flow_expect(&f, second, "RUNNING", 10000); /* 1 and 3 never come, 2 still runs */
    end_attempt(&w, &b.a, "ok", 0);
    flow_expect(&f, second, "CANCELLED", 10000);
    json_t *j = flow_show(&f, second);
    assert_int_equal(count_of(j, "completed"), 2);
    assert_int_equal(count_of(j, "cancelled"), 2);
    assert_non_null(strstr(text_of(j, "message"), "did not complete"));
    json_decref(j);
    /* Of jobs that are no arrays it means afterok. */
    long long plain = flow_submit(&f, after), bad = submit_array("0-1", ",\"hold\":true");
    flow_expect(&f, plain, "CANCELLED", 10000);
    assert_int_equal(flow_act(&f, bad, "cancel"), 200);
}

static void bad_arrays_are_refused(void **state) {
    (void)state;
    static const char *const bad[] = {"\"0-\"", "\"5-1\"", "\"0-1000000\"", "true", "-1", "\"1,1\""};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char body[300];
        snprintf(body, sizeof body, "{\"kind\":\"generate\",\"model\":\"%s\",\"prompt\":\"x\",\"array\":%s}", f.model,
                 bad[i]);
        assert_int_equal(mull_http_do(f.sock, "POST", "/v1/jobs", NULL, body, NULL), 400);
    }
    char body[400], *text;
    snprintf(body, sizeof body,
             "{\"kind\":\"generate\",\"model\":\"%s\",\"prompt\":\"x\",\"array\":\"0-3\",\"out\":\"/tmp/o\"}", f.model);
    assert_int_equal(mull_http_do(f.sock, "POST", "/v1/jobs", NULL, body, &text), 400);
    assert_non_null(strstr(text, "{array_index}"));
    free(text);
}

/* ---- schedules ---- */

static void expect_next(const char *schedule_fields, const char *tz, const char *after, const char *want) {
    char sql[800];
    snprintf(sql, sizeof sql, "SELECT mull__time(mull__cron_next('%s', '%s', '%s'))", schedule_fields, tz, after);
    char *got = mull_sql(f.pg, sql);
    if (strcmp(got, want) != 0) fail_msg("after %s in %s: %s, not %s", after, tz, got, want);
    free(got);
}

static void moments(void **state) {
    (void)state;
    char all[6000] = "", hours[200] = "", doms[200] = "";
    for (int i = 0; i < 24; i++) sprintf(hours + strlen(hours), "%s%d", i ? "," : "", i);
    for (int i = 1; i < 32; i++) sprintf(doms + strlen(doms), "%s%d", i > 1 ? "," : "", i);
#define F(minute, hour, hour_any, dom, dom_any, dow, dow_any)                                                          \
    (snprintf(all, sizeof all,                                                                                         \
              "{\"minute\":[%s],\"hour\":[%s],\"dom\":[%s],\"month\":[1,2,3,4,5,6,7,8,9,10,11,12],\"dow\":[%s],"       \
              "\"hour_any\":%s,\"dom_any\":%s,\"dow_any\":%s}",                                                        \
              minute, hour, dom, dow, hour_any, dom_any, dow_any),                                                     \
     all)
#define EVERY_DOW "0,1,2,3,4,5,6"
    const char *daily = F("30", "2", "false", doms, "true", EVERY_DOW, "true");
    expect_next(daily, "UTC", "2026-01-31T02:29:59Z", "2026-01-31T02:30:00.000Z");
    expect_next(daily, "UTC", "2026-01-31T02:30:00Z", "2026-02-01T02:30:00.000Z");
    /* Berlin, 2026-03-29: 02:00 becomes 03:00, and half past two comes an hour later by the clock on the wall. */
    expect_next(daily, "Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-29T01:30:00.000Z");
    expect_next(daily, "Europe/Berlin", "2026-03-29T01:30:00Z", "2026-03-30T00:30:00.000Z");
    /* 2026-10-25: 03:00 becomes 02:00; half past two once. */
    expect_next(daily, "Europe/Berlin", "2026-10-24T12:00:00Z", "2026-10-25T01:30:00.000Z");
    expect_next(daily, "Europe/Berlin", "2026-10-25T01:30:00Z", "2026-10-26T01:30:00.000Z");
    /* Every hour: each hour that passes, also the repeated one. */
    const char *hourly = F("0", hours, "true", doms, "true", EVERY_DOW, "true");
    expect_next(hourly, "Europe/Berlin", "2026-10-25T00:00:00Z", "2026-10-25T01:00:00.000Z");
    expect_next(hourly, "Europe/Berlin", "2026-10-25T01:00:00Z", "2026-10-25T02:00:00.000Z");
    expect_next(hourly, "Europe/Berlin", "2026-03-29T00:30:00Z", "2026-03-29T01:00:00.000Z");
    /* Both day fields: either. 2026-02-13 is a Friday. */
    const char *either = F("0", "12", "false", "1", "false", "5", "false");
    expect_next(either, "UTC", "2026-02-01T12:00:00Z", "2026-02-06T12:00:00.000Z");
    expect_next(either, "UTC", "2026-02-27T12:00:00Z", "2026-03-01T12:00:00.000Z");
    const char *leap = F("0", "0", "false", "31", "false", EVERY_DOW, "true");
    expect_next(leap, "UTC", "2026-01-31T00:00:00Z", "2026-03-31T00:00:00.000Z");
}

static void schedules_fire_once_also_across_leads(void **state) {
    (void)state;
    char body[600];
    snprintf(body, sizeof body,
             "{\"schedule\":\"* * * * "
             "*\",\"tz\":\"Europe/Berlin\",\"spec\":{\"kind\":\"generate\",\"model\":\"%s\",\"prompt\":"
             "\"x\",\"name\":\"by-clock\",\"hold\":true}}",
             f.model);
    assert_int_equal(mull_http_do(f.sock, "PUT", "/v1/cron/minutely", NULL, body, NULL), 200);
    static const char *const bad[] = {"{\"schedule\":\"* * * *\",\"spec\":{}}", "{\"schedule\":\"* * * * *\"}", "[]",
                                      "{\"schedule\":\"* * * * *\",\"spec\":{\"kind\":\"generate\"}}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(mull_http_do(f.sock, "PUT", "/v1/cron/bad", NULL, bad[i], NULL), 400);
    snprintf(body, sizeof body,
             "{\"schedule\":\"* * * * "
             "*\",\"tz\":\"Moon/Crater\",\"spec\":{\"kind\":\"generate\",\"model\":\"%s\",\"prompt\":\"x\"}}",
             f.model);
    assert_int_equal(mull_http_do(f.sock, "PUT", "/v1/cron/bad", NULL, body, NULL), 400);
    json_t *j = flow_get(&f, "/v1/cron");
    assert_int_equal(json_array_size(json_object_get(j, "cron")), 1);
    json_decref(j);
    /* The moment comes while no scheduler runs; then two at once. */
    assert_int_equal(mull_reap(f.scheduler, SIGKILL), 128 + SIGKILL);
    free(mull_sql(f.pg, "UPDATE cron SET next_at = date_trunc('minute', clock_timestamp())"));
    char sock2[112];
    snprintf(sock2, sizeof sock2, "%s/two.sock", f.s.dir);
    pid_t two = flow_serve_as(&f, sock2, "two");
    flow_serve(&f);
    const char *fired = "SELECT count(*) FROM job WHERE name = 'by-clock'";
    for (int i = 0; i < 200 && mull_sql_int(f.pg, fired) == 0; i++) mull_sleep_ms(100);
    assert_int_equal(mull_sql_int(f.pg, fired), 1);
    assert_int_equal(mull_sql_int(f.pg, "SELECT count(*) FROM cron WHERE next_at > clock_timestamp()"), 1);
    /* A schedule put back in time finds its job there already: the same moment is not served twice. */
    free(mull_sql(f.pg, "UPDATE cron SET next_at = last_at, last_job = NULL"));
    for (int i = 0; i < 100 && mull_sql_int(f.pg, "SELECT count(*) FROM cron WHERE last_job IS NULL"); i++)
        mull_sleep_ms(100);
    assert_int_equal(mull_sql_int(f.pg, fired), 1);
    mull_reap(two, SIGTERM);
    assert_int_equal(mull_http_do(f.sock, "DELETE", "/v1/cron/minutely", NULL, NULL, NULL), 200);
    assert_int_equal(mull_http_do(f.sock, "DELETE", "/v1/cron/minutely", NULL, NULL, NULL), 404);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tasks_run_within_their_limit_and_the_array_ends_with_them),
        cmocka_unit_test(single_tasks_are_cancelled_held_and_queued_again),
        cmocka_unit_test(a_whole_array_is_held_and_cancelled),
        cmocka_unit_test(tasks_come_after_their_partners),
        cmocka_unit_test(bad_arrays_are_refused),
        cmocka_unit_test(moments),
        cmocka_unit_test(schedules_fire_once_also_across_leads),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
