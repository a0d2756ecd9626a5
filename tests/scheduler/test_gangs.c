/* Attempts over several nodes, labels, maintenance windows, quarantine and poison jobs through the real scheduler,
 * PostgreSQL and Redis, with workers played by hand. */
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

static void hello(by_hand *w, const char *node, const char *boot, const char *kind, int n) {
    memset(w, 0, sizeof *w);
    w->f = &f;
    snprintf(w->node, sizeof w->node, "%s", node);
    snprintf(w->boot, sizeof w->boot, "%s", boot);
    strcpy(w->last, "0-0");
    char devices[800] = "\"address\":\"";
    sprintf(devices + strlen(devices), "host-%s\",\"devices\":[", node);
    for (int i = 0; i < n; i++)
        sprintf(devices + strlen(devices), "%s{\"kind\":\"%s\",\"index\":%d,\"name\":\"%s\"}", i ? "," : "", kind, i,
                strcmp(kind, "cuda") ? "CPU slot"
                : node[0] == 'h'     ? "H100"
                                     : "L4");
    strcat(devices, "]");
    say(w, "node_hello", devices);
    json_t *m = hear(w, "ack", 20000);
    assert_non_null(m);
    json_decref(m);
}

/* No node of an earlier test takes anything. */
static void only(const char *pattern) {
    char sql[300];
    snprintf(sql, sizeof sql,
             "UPDATE node SET state = CASE WHEN name LIKE '%s' THEN 'UP' ELSE 'DOWN' END, drained = false", pattern);
    free(mull_sql(f.pg, sql));
    const char *argv[] = {"XADD", "mull:ready", "*", "m", "{\"op\":\"team\",\"job\":\"0\"}"};
    json_decref(mull_redis_argv(&f.s, 5, argv));
    mull_sleep_ms(300);
}

typedef struct part {
    attempt a;
    int first, world, node, nodes, devices, port;
    char master[80];
} part;

/* The next start that this worker gets. */
static part begin_part(by_hand *w) {
    json_t *m = hear(w, "start", 20000);
    if (!m) fail_msg("%s got no start", w->node);
    const json_t *g = json_object_get(m, "gang");
    part p = {.first = (int)json_integer_value(json_object_get(g, "first_rank")),
              .world = (int)json_integer_value(json_object_get(g, "world_size")),
              .node = (int)json_integer_value(json_object_get(g, "node_rank")),
              .nodes = (int)json_integer_value(json_object_get(g, "node_count")),
              .port = (int)json_integer_value(json_object_get(g, "master_port")),
              .devices = (int)json_array_size(json_object_get(m, "devices"))};
    snprintf(p.master, sizeof p.master, "%s", text_of(g, "master_addr"));
    p.a = (attempt){atoll(text_of(m, "job")), json_integer_value(json_object_get(m, "attempt")),
                    json_integer_value(json_object_get(m, "fence")), ""};
    json_decref(m);
    snprintf(p.a.ids, sizeof p.a.ids, "\"job\":\"%lld\",\"attempt\":%lld,\"fence\":%lld", p.a.job, p.a.attempt,
             p.a.fence);
    return p;
}

static void begun(by_hand *w, const part *p) {
    char more[200];
    snprintf(more, sizeof more, "%s,\"pid\":4711", p->a.ids);
    say(w, "attempt_started", more);
}

static void expect_stop(by_hand *w, const part *p, const char *reason) {
    json_t *m = hear(w, "cancel", 20000);
    if (!m) fail_msg("%s was not told to stop", w->node);
    assert_string_equal(text_of(m, "reason"), reason);
    assert_int_equal(json_integer_value(json_object_get(m, "fence")), p->a.fence);
    json_decref(m);
}

static const char *running_state(long long job) {
    char sql[120];
    snprintf(sql, sizeof sql, "SELECT state FROM attempt WHERE job = %lld ORDER BY attempt DESC LIMIT 1", job);
    return mull_sql(f.pg, sql);
}

typedef struct attempt_wait {
    long long job;
    const char *state;
} attempt_wait;
static bool attempt_is(void *arg) {
    const attempt_wait *w = arg;
    char *s = (char *)(uintptr_t)running_state(w->job);
    bool ok = !strcmp(s, w->state);
    free(s);
    return ok;
}
static void expect_attempt(long long job, const char *state) {
    attempt_wait w = {job, state};
    if (!mull_wait_for(attempt_is, &w, 10000)) fail_msg("the attempt of job %lld never became %s", job, state);
}

static void a_gang_starts_everywhere_and_ends_together(void **state) {
    (void)state;
    by_hand a, b;
    hello(&a, "g1", "boot-g1", "cuda", 2);
    hello(&b, "g2", "boot-g2", "cuda", 2);
    long long id = flow_submit(&f, ",\"gpus\":3");
    part p = begin_part(&a), q = begin_part(&b);
    long long small = flow_submit(&f, ",\"gpus\":2");
    assert_int_equal(p.a.job, id);
    assert_int_equal(p.a.fence, q.a.fence);
    assert_int_equal(p.world, 3);
    assert_int_equal(q.world, 3);
    assert_int_equal(p.nodes, 2);
    assert_int_equal(p.devices + q.devices, 3);
    const part *head = p.node == 0 ? &p : &q, *tail = p.node == 0 ? &q : &p;
    assert_int_equal(head->first, 0);
    assert_int_equal(tail->node, 1);
    assert_int_equal(tail->first, head->devices);
    assert_string_equal(p.master, head == &p ? "host-g1" : "host-g2");
    assert_string_equal(p.master, q.master);
    assert_int_equal(p.port, q.port);
    begun(&a, &p);
    mull_sleep_ms(400);
    expect_attempt(id, "STARTING"); /* not before every part has begun */
    begun(&b, &q);
    expect_attempt(id, "RUNNING");
    json_t *m = hear(&b, "start", 1200); /* one device is left, small needs two */
    assert_null(m);
    end_attempt(&a, &p.a, "ok", 0);
    mull_sleep_ms(400);
    flow_expect(&f, id, "RUNNING", 1000);
    json_t *j = flow_get(&f, "/v1/nodes"), *n;
    size_t i;
    json_array_foreach(json_object_get(j, "nodes"), i, n)
        assert_int_equal(json_array_size(json_object_get(n, "running")), !strcmp(text_of(n, "name"), "g2"));
    json_decref(j);
    end_attempt(&b, &q.a, "ok", 0);
    flow_expect(&f, id, "COMPLETED", 10000);
    assert_int_equal(flow_act(&f, small, "cancel"), 200);
}

static void one_part_lost_stops_the_others(void **state) {
    (void)state;
    by_hand a, b, again;
    hello(&a, "g1", "boot-g3", "cuda", 2);
    hello(&b, "g2", "boot-g4", "cuda", 2);
    only("g%");
    long long id = flow_submit(&f, ",\"gpus\":4");
    part p = begin_part(&a), q = begin_part(&b);
    begun(&a, &p);
    begun(&b, &q);
    expect_attempt(id, "RUNNING");
    end_attempt(&a, &p.a, "user", 1);
    expect_stop(&b, &q, "gang");
    flow_expect(&f, id, "RUNNING", 1000); /* the other part may still have something to save */
    end_attempt(&b, &q.a, "requeue", 75);
    flow_expect(&f, id, "FAILED", 10000); /* the worst end counts, whichever comes last */
    json_t *j = flow_show(&f, id);
    assert_non_null(strstr(text_of(j, "message"), "node g1"));
    json_decref(j);
    /* A worker that is started again has lost its part; the gang goes on elsewhere, with a new fence. */
    id = flow_submit(&f, ",\"gpus\":4");
    p = begin_part(&a);
    q = begin_part(&b);
    begun(&a, &p);
    begun(&b, &q);
    expect_attempt(id, "RUNNING");
    hello(&again, "g1", "boot-g5", "cuda", 2);
    expect_stop(&b, &q, "gang");
    end_attempt(&b, &q.a, "requeue", 75);
    part p2 = begin_part(&again), q2 = begin_part(&b);
    assert_int_equal(p2.a.job, id);
    assert_int_equal(p2.a.attempt, 2);
    assert_true(p2.a.fence > p.a.fence && p2.a.fence == q2.a.fence);
    begun(&again, &p2);
    begun(&b, &q2);
    /* Cancelled by a user: both are told, and a stale word of the old part changes nothing. */
    expect_attempt(id, "RUNNING");
    end_attempt(&a, &p.a, "ok", 0);
    assert_int_equal(flow_act(&f, id, "cancel"), 200);
    expect_stop(&again, &p2, "cancel");
    expect_stop(&b, &q2, "cancel");
    end_attempt(&again, &p2.a, "cancelled", -1);
    end_attempt(&b, &q2.a, "cancelled", -1);
    flow_expect(&f, id, "CANCELLED", 10000);
    assert_int_equal(mull_sql_int(f.pg, "SELECT count(*) FROM attempt_part WHERE ended_at IS NULL"), 0);
}

static void a_gang_outlasts_a_new_leader(void **state) {
    (void)state;
    by_hand a, b;
    hello(&a, "c1", "boot-c1", "cpu", 2);
    hello(&b, "c2", "boot-c2", "cpu", 2);
    only("c%");
    long long id = flow_submit(&f, ",\"slots\":4");
    part p = begin_part(&a), q = begin_part(&b);
    assert_int_equal(p.world, 4);
    begun(&a, &p);
    const char *begun_sql = "SELECT count(*) FROM attempt_part WHERE ended_at IS NULL AND started_at IS NOT NULL";
    for (int i = 0; i < 200 && mull_sql_int(f.pg, begun_sql) == 0; i++) mull_sleep_ms(25);
    assert_int_equal(mull_reap(f.scheduler, SIGKILL), 128 + SIGKILL);
    flow_serve(&f);
    /* Only the part that has not begun is sent again. */
    json_t *m = hear(&b, "start", 20000);
    assert_non_null(m);
    assert_int_equal(json_integer_value(json_object_get(m, "fence")), q.a.fence);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(m, "gang"), "first_rank")), q.first);
    assert_int_equal(json_array_size(json_object_get(m, "devices")), 2);
    json_decref(m);
    assert_null(hear(&a, "start", 600));
    begun(&b, &q);
    expect_attempt(id, "RUNNING");
    long long other = flow_submit(&f, "");
    assert_null(hear(&a, "start", 1200)); /* its devices are known to be held */
    end_attempt(&a, &p.a, "ok", 0);
    end_attempt(&b, &q.a, "ok", 0);
    flow_expect(&f, id, "COMPLETED", 10000);
    flow_expect(&f, other, "RUNNING", 10000);
    assert_int_equal(flow_act(&f, other, "cancel"), 200);
    free(mull_sql(f.pg, "UPDATE node SET state = 'DOWN'"));
}

/* Who comes later has the name; the other is told, and its engines with it. */
static void of_two_workers_with_one_name_the_first_is_told(void **state) {
    (void)state;
    by_hand a, b;
    hello(&a, "t1", "boot-t1", "cpu", 1);
    only("t1");
    heartbeat(&a, "");
    assert_null(hear(&a, "replaced", 800));
    hello(&b, "t1", "boot-t2", "cpu", 1);
    mull_sleep_ms(300);
    heartbeat(&b, "");
    heartbeat(&a, "");
    json_t *m = hear(&a, "replaced", 10000);
    assert_non_null(m);
    json_decref(m);
    assert_null(hear(&b, "replaced", 500));
}

/* ---- labels, windows ---- */

static int post(const char *target, const char *body) {
    return mull_http_do(f.sock, "POST", target, NULL, body, NULL);
}

static void labels_say_where(void **state) {
    (void)state;
    by_hand a, b;
    hello(&a, "h1", "boot-h1", "cuda", 1);
    hello(&b, "l1", "boot-l1", "cuda", 1);
    only("_1");
    free(mull_sql(f.pg, "UPDATE node SET state = 'DOWN' WHERE name IN ('g1', 'c1')"));
    long long on_l4 = flow_submit(&f, ",\"gpus\":1,\"labels\":[\"gpu=L4\"]"),
              nowhere = flow_submit(&f, ",\"gpus\":1,\"labels\":[\"fast disk\"]");
    part p = begin_part(&b);
    assert_int_equal(p.a.job, on_l4);
    begun(&b, &p);
    assert_null(hear(&a, "start", 1200));
    assert_int_equal(post("/v1/nodes/h1/labels", "{\"set\":[\"fast disk\",\"rack=7\"]}"), 200);
    assert_int_equal(post("/v1/nodes/h1/labels", "{\"set\":[\"a=b=c\"]}"), 400);
    assert_int_equal(post("/v1/nodes/h1/labels", "{\"sets\":[]}"), 400);
    assert_int_equal(post("/v1/nodes/none/labels", "{\"set\":[\"x\"]}"), 404);
    part q = begin_part(&a);
    assert_int_equal(q.a.job, nowhere);
    begun(&a, &q);
    assert_int_equal(post("/v1/nodes/h1/labels", "{\"unset\":[\"rack\"]}"), 200);
    json_t *j = flow_get(&f, "/v1/nodes"), *n;
    size_t i;
    json_array_foreach(json_object_get(j, "nodes"), i, n) {
        if (!strcmp(text_of(n, "name"), "h1")) assert_int_equal(json_array_size(json_object_get(n, "labels")), 1);
    }
    json_decref(j);
    end_attempt(&a, &q.a, "ok", 0);
    end_attempt(&b, &p.a, "ok", 0);
    flow_expect(&f, nowhere, "COMPLETED", 10000);
}

static void nothing_starts_that_would_run_into_a_window(void **state) {
    (void)state;
    by_hand a;
    hello(&a, "m1", "boot-m1", "cpu", 1);
    only("m1");
    assert_int_equal(
        post("/v1/maintenance", "{\"nodes\":[\"m1\"],\"starts\":\"now+1h\",\"ends\":\"now+2h\",\"reason\":\"disk\"}"),
        200);
    assert_int_equal(post("/v1/maintenance", "{\"starts\":\"now+2h\",\"ends\":\"now+1h\"}"), 400);
    assert_int_equal(post("/v1/maintenance", "{\"nodes\":[\"none\"],\"starts\":\"now\",\"ends\":\"now+1h\"}"), 400);
    assert_int_equal(post("/v1/maintenance", "{\"starts\":\"soon\",\"ends\":\"now+1h\"}"), 400);
    long long endless = flow_submit(&f, ""), long_ = flow_submit(&f, ",\"time_limit\":\"2:00:00\""),
              quick = flow_submit(&f, ",\"time_limit\":\"10:00\"");
    part p = begin_part(&a);
    assert_int_equal(p.a.job, quick);
    begun(&a, &p);
    end_attempt(&a, &p.a, "ok", 0);
    flow_expect(&f, quick, "COMPLETED", 10000);
    assert_null(hear(&a, "start", 1200));
    json_t *j = flow_get(&f, "/v1/maintenance");
    json_t *w = json_array_get(json_object_get(j, "maintenance"), 0);
    assert_string_equal(text_of(w, "state"), "planned");
    char target[80];
    snprintf(target, sizeof target, "/v1/maintenance/%s", text_of(w, "id"));
    json_decref(j);
    /* Inside of a window it takes nothing at all. */
    free(mull_sql(f.pg, "UPDATE maintenance SET starts_at = clock_timestamp() - interval '1 s'"));
    only("m1"); /* the leader reads the nodes */
    long long now = flow_submit(&f, ",\"time_limit\":\"10:00\"");
    assert_null(hear(&a, "start", 1500));
    assert_int_equal(mull_http_do(f.sock, "DELETE", target, NULL, NULL, NULL), 200);
    assert_int_equal(mull_http_do(f.sock, "DELETE", target, NULL, NULL, NULL), 404);
    p = begin_part(&a);
    assert_int_equal(p.a.job, endless);
    begun(&a, &p);
    end_attempt(&a, &p.a, "ok", 0);
    assert_int_equal(flow_act(&f, long_, "cancel"), 200);
    assert_int_equal(flow_act(&f, now, "cancel"), 200);
}

/* ---- what fails again and again ---- */

static bool is_quarantined(void *arg) {
    (void)arg;
    return mull_sql_int(f.pg,
                        "SELECT count(*) FROM node WHERE name = 'q1' AND state = 'DRAINED' AND quarantine <> ''") == 1;
}

static void a_node_that_only_fails_is_taken_out(void **state) {
    (void)state;
    by_hand a, b;
    hello(&a, "q1", "boot-q1", "cpu", 1);
    hello(&b, "q2", "boot-q2", "cpu", 1);
    only("q%");
    long long busy = flow_submit(&f, ",\"labels\":[\"two\"]");
    assert_int_equal(post("/v1/nodes/q2/labels", "{\"set\":[\"two\"]}"), 200);
    part keep = begin_part(&b);
    assert_int_equal(keep.a.job, busy);
    begun(&b, &keep);
    long long ids[3];
    for (int i = 0; i < 3; i++) {
        ids[i] = flow_submit(&f, "");
        part p = begin_part(&a);
        assert_int_equal(p.a.job, ids[i]);
        begun(&a, &p);
        end_attempt(&a, &p.a, "infra", -1);
        /* In its back-off it is held, so that the next failure is another job's. */
        flow_expect(&f, ids[i], "PENDING", 10000);
        flow_act(&f, ids[i], "cancel");
        assert_true(mull_sql_int(f.pg, "SELECT count(*) FROM node WHERE quarantine <> ''") == (i == 2));
    }
    assert_true(mull_wait_for(is_quarantined, NULL, 5000));
    long long next = flow_submit(&f, "");
    assert_null(hear(&a, "start", 1500));
    assert_int_equal(post("/v1/nodes/q1/resume", NULL), 200);
    part p = begin_part(&a);
    assert_int_equal(p.a.job, next);
    begun(&a, &p);
    end_attempt(&a, &p.a, "ok", 0);
    end_attempt(&b, &keep.a, "ok", 0);
    flow_expect(&f, busy, "COMPLETED", 10000);
}

static void a_job_that_costs_three_workers_is_not_tried_again(void **state) {
    (void)state;
    by_hand w;
    char boot[40];
    hello(&w, "p1", "boot-p0", "cpu", 1);
    only("p1");
    long long id = flow_submit(&f, ",\"retries\":100");
    for (int i = 0; i < 3; i++) {
        part p = begin_part(&w);
        assert_int_equal(p.a.job, id);
        begun(&w, &p);
        expect_attempt(id, "RUNNING");
        snprintf(boot, sizeof boot, "boot-p%d", i + 1);
        hello(&w, "p1", boot, "cpu", 1);
    }
    flow_expect(&f, id, "FAILED", 10000);
    json_t *j = flow_show(&f, id);
    assert_non_null(strstr(text_of(j, "message"), "three workers in a row"));
    json_decref(j);
    assert_null(hear(&w, "start", 1500));
    assert_int_equal(flow_act(&f, id, "requeue"), 200); /* a user may insist */
    part p = begin_part(&w);
    end_attempt(&w, &p.a, "ok", 0);
    flow_expect(&f, id, "COMPLETED", 10000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_gang_starts_everywhere_and_ends_together),
        cmocka_unit_test(one_part_lost_stops_the_others),
        cmocka_unit_test(a_gang_outlasts_a_new_leader),
        cmocka_unit_test(of_two_workers_with_one_name_the_first_is_told),
        cmocka_unit_test(labels_say_where),
        cmocka_unit_test(nothing_starts_that_would_run_into_a_window),
        cmocka_unit_test(a_node_that_only_fails_is_taken_out),
        cmocka_unit_test(a_job_that_costs_three_workers_is_not_tried_again),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
