/* Quotas, preemption, drained nodes and the memory of use through the real scheduler, PostgreSQL and Redis, with a
 * worker played by hand. */
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

/* The scheduler is told as the front door tells it. */
static void set_team(const char *name, const char *members) {
    char sql[300];
    snprintf(sql, sizeof sql, "SELECT COALESCE(problem, '') FROM mull_team_set('%s', '%s', 'test')", name, members);
    char *problem = mull_sql(f.pg, sql);
    assert_string_equal(problem, "");
    free(problem);
    const char *argv[] = {"XADD", "mull:ready", "*", "m", "{\"op\":\"team\",\"job\":\"0\"}"};
    json_decref(mull_redis_argv(&f.s, 5, argv));
}

static void gpu_worker(by_hand *w, const char *node, const char *boot, int gpus) {
    memset(w, 0, sizeof *w);
    w->f = &f;
    snprintf(w->node, sizeof w->node, "%s", node);
    snprintf(w->boot, sizeof w->boot, "%s", boot);
    strcpy(w->last, "0-0");
    char devices[400] = "\"devices\":[";
    for (int i = 0; i < gpus; i++)
        sprintf(devices + strlen(devices), "%s{\"kind\":\"cuda\",\"index\":%d}", i ? "," : "", i);
    strcat(devices, "]");
    say(w, "node_hello", devices);
    json_t *m = hear(w, "ack", 20000);
    assert_non_null(m);
    json_decref(m);
}

static void expect_preempted(by_hand *w, const attempt *victim) {
    json_t *m = hear(w, "cancel", 20000);
    assert_non_null(m);
    assert_string_equal(text_of(m, "reason"), "preempt");
    assert_int_equal(json_integer_value(json_object_get(m, "fence")), victim->fence);
    json_decref(m);
}

/* The event on the victim names the preemptor and the ground. */
static void expect_event(long long job, long long by, const char *reason) {
    json_t *j = flow_show(&f, job), *e;
    size_t i;
    int found = 0;
    char id[24];
    snprintf(id, sizeof id, "%lld", by);
    json_array_foreach(json_object_get(j, "events"), i, e) {
        if (strcmp(text_of(e, "kind"), "preempted") != 0) continue;
        found++;
        assert_string_equal(text_of(json_object_get(e, "detail"), "by"), id);
        assert_string_equal(text_of(json_object_get(e, "detail"), "reason"), reason);
    }
    assert_int_equal(found, 1);
    json_decref(j);
}

static void a_higher_priority_preempts_and_the_victim_goes_on(void **state) {
    (void)state;
    by_hand w;
    worker_hello(&w, &f, "n1", "boot-prio", 1);
    long long low = flow_submit(&f, ",\"preemptible\":true,\"min_run\":0");
    attempt a = begin_next(&w);
    assert_int_equal(a.job, low);
    long long equal = flow_submit(&f, "");
    long long high = flow_submit(&f, ",\"priority\":10");
    expect_preempted(&w, &a);
    end_attempt(&w, &a, "requeue", 75);
    attempt b = begin_next(&w);
    assert_int_equal(b.job, high);
    flow_expect(&f, low, "PENDING", 5000);
    expect_event(low, high, "priority");
    char target[64];
    snprintf(target, sizeof target, "/v1/jobs/%lld/why", low);
    json_t *j = flow_get(&f, target);
    assert_non_null(strstr(text_of(j, "message"), "preempted by job"));
    json_decref(j);
    end_attempt(&w, &b, "ok", 0);
    flow_expect(&f, high, "COMPLETED", 5000);
    attempt c = begin_next(&w); /* submitted first, so it is before its equal */
    assert_int_equal(c.job, low);
    assert_int_equal(c.attempt, 2);
    assert_true(c.fence > a.fence);
    end_attempt(&w, &c, "ok", 0);
    flow_expect(&f, low, "COMPLETED", 5000);
    c = begin_next(&w);
    assert_int_equal(c.job, equal);
    end_attempt(&w, &c, "ok", 0);
    flow_expect(&f, equal, "COMPLETED", 5000);
}

static void who_may_not_be_preempted_is_not(void **state) {
    (void)state;
    by_hand w;
    worker_hello(&w, &f, "n1", "boot-spared", 1);
    long long own = flow_submit(&f, ""); /* a generate job has nothing to go on from */
    attempt a = begin_next(&w);
    assert_int_equal(a.job, own);
    long long high = flow_submit(&f, ",\"priority\":10");
    json_t *m = hear(&w, "cancel", 1500); /* passes come with the submit and with every reconcile */
    assert_null(m);
    end_attempt(&w, &a, "ok", 0);
    a = begin_next(&w);
    assert_int_equal(a.job, high);
    end_attempt(&w, &a, "ok", 0);
    flow_expect(&f, high, "COMPLETED", 5000);
}

typedef struct reason_wait {
    long long job;
    const char *reason;
} reason_wait;

static bool reason_is(void *arg) {
    const reason_wait *w = arg;
    json_t *j = flow_show(&f, w->job);
    bool ok = strcmp(text_of(j, "reason"), w->reason) == 0;
    json_decref(j);
    return ok;
}

static void quotas_hold_and_lent_gpus_come_back(void **state) {
    (void)state;
    by_hand w;
    set_team("red", "{\"nominal\":1,\"borrow\":0}");
    set_team("blue", "{\"nominal\":1}");
    gpu_worker(&w, "g1", "boot-gpu", 2);
    long long one = flow_submit(&f, ",\"gpus\":1,\"team\":\"red\",\"preemptible\":true,\"min_run\":0");
    attempt a = begin_next(&w);
    assert_int_equal(a.job, one);
    long long two = flow_submit(&f, ",\"gpus\":1,\"team\":\"red\",\"preemptible\":true,\"min_run\":0");
    reason_wait quota = {two, "Quota"};
    assert_true(mull_wait_for(reason_is, &quota, 10000));
    char target[64];
    snprintf(target, sizeof target, "/v1/jobs/%lld/why", two);
    json_t *j = flow_get(&f, target);
    assert_string_equal(text_of(j, "reason"), "Quota");
    assert_non_null(strstr(text_of(j, "message"), "team red uses 1 of its 1 GPUs"));
    json_decref(j);
    /* What blue leaves idle may be borrowed now, and is taken back as soon as blue wants it. */
    set_team("red", "{\"borrow\":null}");
    attempt b = begin_next(&w);
    assert_int_equal(b.job, two);
    long long mine = flow_submit(&f, ",\"gpus\":1,\"team\":\"blue\"");
    json_t *m = hear(&w, "cancel", 20000);
    assert_non_null(m);
    assert_string_equal(text_of(m, "reason"), "preempt");
    const attempt *victim = json_integer_value(json_object_get(m, "fence")) == a.fence ? &a : &b;
    json_decref(m);
    end_attempt(&w, victim, "requeue", 75);
    attempt c = begin_next(&w);
    assert_int_equal(c.job, mine);
    expect_event(victim->job, mine, "reclaim");
    const attempt *other = victim == &a ? &b : &a;
    end_attempt(&w, other, "ok", 0);
    attempt d = begin_next(&w); /* the victim, within its own quota again */
    assert_int_equal(d.job, victim->job);
    end_attempt(&w, &c, "ok", 0);
    end_attempt(&w, &d, "ok", 0);
    flow_expect(&f, mine, "COMPLETED", 5000);
    flow_expect(&f, one, "COMPLETED", 5000);
    flow_expect(&f, two, "COMPLETED", 5000);
}

static void a_gang_larger_than_the_cluster_waits(void **state) {
    (void)state;
    by_hand w, v;
    gpu_worker(&w, "g1", "boot-gang1", 2);
    gpu_worker(&v, "g2", "boot-gang2", 2);
    long long big = flow_submit(&f, ",\"gpus\":5"), small = flow_submit(&f, ",\"gpus\":2");
    reason_wait waits = {big, "Resources"};
    assert_true(mull_wait_for(reason_is, &waits, 10000));
    flow_expect(&f, small, "RUNNING", 10000);
    flow_expect(&f, big, "PENDING", 1000);
    assert_int_equal(flow_act(&f, big, "cancel"), 200);
    assert_int_equal(flow_act(&f, small, "cancel"), 200);
}

static void what_was_used_is_written_down_and_read_again(void **state) {
    (void)state;
    by_hand w;
    worker_hello(&w, &f, "n1", "boot-used", 1);
    long long id = flow_submit(&f, ",\"team\":\"green\"");
    attempt a = begin_next(&w);
    assert_int_equal(a.job, id);
    mull_sleep_ms(1200); /* a tick comes twice a second */
    assert_int_equal(mull_reap(f.scheduler, SIGTERM), 0);
    /* One device for about a second of a half-life of seven days: above 0, far below one. */
    const char *sql = "SELECT count(*) FROM team WHERE name = 'green' AND used > 1e-7 AND used < 1e-3";
    assert_int_equal(mull_sql_int(f.pg, sql), 1);
    assert_int_equal(mull_sql_int(f.pg, "SELECT count(*) FROM user_usage WHERE team = 'green' AND used > 1e-7"), 1);
    free(mull_sql(f.pg,
                  "UPDATE team SET used = 8, used_at = clock_timestamp() - interval '7 days' WHERE name = 'green'"));
    flow_serve(&f);
    end_attempt(&w, &a, "ok", 0);
    flow_expect(&f, id, "COMPLETED", 20000);
    assert_int_equal(mull_reap(f.scheduler, SIGTERM), 0);
    /* One half-life later it was 4; the seconds of this test change it by less than 1e-3. */
    assert_int_equal(
        mull_sql_int(f.pg, "SELECT count(*) FROM team WHERE name = 'green' AND used > 3.999 AND used < 4.001"), 1);
    flow_serve(&f);
}

static int put_team(const char *name, const char *body) {
    char target[200];
    snprintf(target, sizeof target, "/v1/teams/%s", name);
    return mull_http_do(f.sock, "PUT", target, "application/json", body, NULL);
}

static void teams_over_http(void **state) {
    (void)state;
    assert_int_equal(put_team("lab", "{}"), 200);
    assert_int_equal(put_team("sea%20life", "{\"parent\":\"lab\",\"weight\":2.5,\"nominal\":4,\"lend\":1}"), 200);
    static const char *const bad[] = {"",
                                      "[]",
                                      "{\"wieght\":1}",
                                      "{\"weight\":0}",
                                      "{\"weight\":\"1\"}",
                                      "{\"nominal\":-1}",
                                      "{\"nominal\":1.5}",
                                      "{\"lend\":4294967297}",
                                      "{\"parent\":7}",
                                      "{\"parent\":\"nobody\"}",
                                      "{\"parent\":\"sea life\"}"}; /* its own child */
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_int_equal(put_team("lab", bad[i]), 400);
    json_t *j = flow_get(&f, "/v1/teams"), *t;
    size_t i, found = 0;
    json_array_foreach(json_object_get(j, "teams"), i, t) {
        if (strcmp(text_of(t, "name"), "sea life") != 0) continue;
        found++;
        assert_string_equal(text_of(t, "parent"), "lab");
        assert_int_equal(json_integer_value(json_object_get(t, "nominal")), 4);
        assert_true(json_is_null(json_object_get(t, "borrow")));
        assert_true(json_number_value(json_object_get(t, "weight")) == 2.5);
    }
    assert_int_equal(found, 1);
    json_decref(j);
}

static void a_drained_node_takes_no_jobs_until_it_is_resumed(void **state) {
    (void)state;
    by_hand w;
    worker_hello(&w, &f, "drainme", "boot-drain", 1);
    assert_int_equal(mull_http_do(f.sock, "POST", "/v1/nodes/none/drain", NULL, NULL, NULL), 404);
    assert_int_equal(mull_http_do(f.sock, "POST", "/v1/nodes/drainme/drain", NULL, NULL, NULL), 200);
    by_hand again;
    worker_hello(&again, &f, "drainme", "boot-drain2", 1); /* a new worker does not undo it */
    free(mull_sql(f.pg, "UPDATE node SET state = 'DOWN' WHERE name <> 'drainme'"));
    long long id = flow_submit(&f, "");
    json_t *m = hear(&again, "start", 1500);
    assert_null(m);
    assert_int_equal(mull_http_do(f.sock, "POST", "/v1/nodes/drainme/resume", NULL, NULL, NULL), 200);
    attempt a = begin_next(&again);
    assert_int_equal(a.job, id);
    end_attempt(&again, &a, "ok", 0);
    flow_expect(&f, id, "COMPLETED", 5000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_higher_priority_preempts_and_the_victim_goes_on),
        cmocka_unit_test(who_may_not_be_preempted_is_not),
        cmocka_unit_test(what_was_used_is_written_down_and_read_again),
        cmocka_unit_test(quotas_hold_and_lent_gpus_come_back),
        cmocka_unit_test(teams_over_http),
        cmocka_unit_test(a_drained_node_takes_no_jobs_until_it_is_resumed),
        cmocka_unit_test(a_gang_larger_than_the_cluster_waits),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
