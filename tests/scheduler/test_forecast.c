/* When jobs would start: the policy run forward over queues made by hand, and the same through the front door. */
#include "scheduler/forecast.h"
#include "tests/scheduler/flow.h"

enum { T0 = 1000000000, MINUTE = 60000 };

static void put(mull_queue *q, int64_t id, int gpus, int minutes, const char *team) {
    mull_policy_job j = {.id = id,
                         .gpus = gpus,
                         .tasks = 1,
                         .avoid_node = -1,
                         .time_limit_ms = (int64_t)minutes * MINUTE,
                         .user = mull_queue_user(q, team, "u")};
    assert_int_equal(mull_queue_put_job(q, &j), 0);
}

static void make_node(mull_queue *q, const char *name, int gpus) {
    mull_device d[8];
    for (int i = 0; i < gpus; i++) d[i] = (mull_device){true, i, 0};
    int at = mull_queue_put_node(q, name, "boot", d, (size_t)gpus);
    assert_true(at >= 0);
    q->nodes[at].up = true;
}

static mull_forecast_result ahead_of(const mull_queue *q, int64_t id, const mull_policy_running *running, size_t n,
                                     const mull_policy_place *places) {
    mull_forecast_result r;
    mull_forecast *f = mull_forecast_take(q, running, n, places, n, T0);
    assert_non_null(f);
    assert_int_equal(mull_forecast_run(f, id, 60000, &r), 0);
    mull_forecast_free(f);
    return r;
}

static void one_after_the_other(void **state) {
    (void)state;
    mull_queue q = {0};
    make_node(&q, "a", 1);
    for (int i = 1; i <= 4; i++) put(&q, i, 1, 10, "t");
    for (int i = 1; i <= 4; i++) {
        mull_forecast_result r = ahead_of(&q, i, NULL, 0, NULL);
        assert_true(r.found);
        assert_int_equal(r.at_ms - T0, (i - 1) * 10 * MINUTE);
        assert_int_equal(r.ahead, i - 1);
        assert_int_equal(r.assumed, 0);
    }
    mull_queue_fini(&q);
}

/* What runs comes first, its limit tells when; and a job without a limit is assumed to take an hour. */
static void running_jobs_end_first(void **state) {
    (void)state;
    mull_queue q = {0};
    make_node(&q, "a", 2);
    mull_queue_hold(&q, 0, true, 0, 7);
    mull_queue_hold(&q, 0, true, 1, 8);
    put(&q, 1, 2, 5, "t");
    mull_policy_place places[] = {{0, 1, 0}, {0, 1, 0}};
    mull_policy_running running[] = {
        {.started_ms = T0 - MINUTE, .saved_ms = T0, .ends_ms = T0 + 3 * MINUTE, .first_place = 0, .place_count = 1},
        {.started_ms = T0 - MINUTE, .saved_ms = T0, .ends_ms = 0, .first_place = 1, .place_count = 1}};
    mull_forecast_result r = ahead_of(&q, 1, running, 2, places);
    assert_true(r.found);
    assert_int_equal(r.at_ms - T0, MULL_FORECAST_ASSUMED_S * 1000);
    assert_int_equal(r.assumed, 1);
    mull_queue_fini(&q);
}

/* Not the order of submission: the team that runs nothing has its turn between the jobs of the other. */
static void the_order_is_that_of_the_shares(void **state) {
    (void)state;
    mull_queue q = {0};
    make_node(&q, "a", 1);
    for (int i = 1; i <= 6; i++) put(&q, i, 1, 10, "red");
    put(&q, 7, 1, 10, "blue");
    q.teams[mull_queue_find_team(&q, "red")].used = 1;
    mull_forecast_result r = ahead_of(&q, 7, NULL, 0, NULL);
    assert_true(r.found);
    assert_int_equal(r.ahead, 0);
    r = ahead_of(&q, 6, NULL, 0, NULL);
    assert_int_equal(r.ahead, 6);
    assert_int_equal(r.list[0].job.id, 7);
    mull_queue_fini(&q);
}

static void what_can_never_start_has_no_time(void **state) {
    (void)state;
    mull_queue q = {0};
    make_node(&q, "a", 1);
    put(&q, 1, 5, 10, "t");
    put(&q, 2, 1, 10, "t");
    mull_forecast_result r = ahead_of(&q, 1, NULL, 0, NULL);
    assert_false(r.found);
    assert_false(r.cut);
    mull_policy_job array = {.id = 3, .gpus = 1, .tasks = 1000000, .avoid_node = -1, .time_limit_ms = 600 * MINUTE};
    array.user = mull_queue_user(&q, "t", "u");
    assert_int_equal(mull_queue_put_job(&q, &array), 0);
    put(&q, 4, 1, 10, "t");
    r = ahead_of(&q, 4, NULL, 0, NULL); /* farther than anybody looks */
    assert_false(r.found);
    assert_true(r.cut);
    assert_true(r.at_ms > T0 + (int64_t)(MULL_FORECAST_DAYS - 1) * 24 * 60 * MINUTE);
    mull_queue_fini(&q);
}

/* ---- through the front door ---- */

static flow f;

static double seconds_until(const char *when) {
    char sql[120];
    snprintf(sql, sizeof sql, "SELECT round(extract(epoch FROM '%s'::timestamptz - clock_timestamp()))::bigint", when);
    return (double)mull_sql_int(f.pg, sql);
}

/* What any front door says while first runs on the only slot, then blue and three of team red wait. */
static void ask(flow *door, long long blue, const long long *reds) {
    char target[64];
    snprintf(target, sizeof target, "/v1/jobs/%lld/why", blue);
    json_t *j = flow_get(door, target);
    assert_string_equal(text_of(j, "order"), "fair share");
    assert_int_equal(json_integer_value(json_object_get(j, "ahead_count")), 0); /* red runs already */
    assert_in_range((int)seconds_until(text_of(j, "estimated_start")), 560, 605);
    json_decref(j);
    snprintf(target, sizeof target, "/v1/jobs/%lld/why", reds[2]);
    j = flow_get(door, target);
    assert_int_equal(json_integer_value(json_object_get(j, "ahead_count")), 3);
    assert_int_equal(json_array_size(json_object_get(j, "ahead")), 3);
    assert_int_equal(atoll(text_of(json_array_get(json_object_get(j, "ahead"), 0), "id")), blue);
    assert_in_range((int)seconds_until(text_of(j, "estimated_start")), 4 * 600 - 60, 4 * 600 + 10);
    json_decref(j);
    char body[400];
    int status;
    snprintf(body, sizeof body,
             "{\"spec\":{\"kind\":\"generate\",\"model\":\"%s\",\"prompt\":\"x\",\"team\":\"green\"}}", door->model);
    j = mull_http_json(door->sock, "POST", "/v1/queue/simulate", body, &status);
    assert_int_equal(status, 200);
    /* A team that has run nothing comes after blue, which was there before it. */
    assert_in_range((int)seconds_until(text_of(j, "estimated_start")), 560, 2 * 600 + 10);
    json_decref(j);
    snprintf(body, sizeof body, "{\"spec\":{\"kind\":\"generate\",\"model\":\"%s\",\"prompt\":\"x\",\"gpus\":8}}",
             door->model);
    j = mull_http_json(door->sock, "POST", "/v1/queue/simulate", body, &status);
    assert_int_equal(status, 200);
    assert_true(json_is_null(json_object_get(j, "estimated_start")));
    json_decref(j);
    assert_int_equal(mull_http_do(door->sock, "POST", "/v1/queue/simulate", NULL, "{\"kind\":\"generate\"}", NULL),
                     400);
    assert_int_equal(mull_sql_int(door->pg, "SELECT count(*) FROM job"), 5); /* nothing was submitted */
    j = flow_get(door, "/v1/queue?next=1");
    assert_int_equal(json_array_size(json_object_get(j, "next")), 4);
    assert_int_equal(atoll(text_of(json_array_get(json_object_get(j, "next"), 0), "id")), blue);
    json_decref(j);
    j = flow_get(door, "/v1/queue");
    assert_null(json_object_get(j, "next"));
    json_decref(j);
}

static void why_and_simulate(void **state) {
    (void)state;
    by_hand w;
    flow_start(&f, 0);
    worker_hello(&w, &f, "n1", "boot-why", 1);
    long long first = flow_submit(&f, ",\"time_limit\":\"10:00\",\"team\":\"red\"");
    attempt a = begin_next(&w);
    assert_int_equal(a.job, first);
    flow_expect(&f, first, "RUNNING", 5000);
    long long reds[3], blue;
    for (int i = 0; i < 3; i++) reds[i] = flow_submit(&f, ",\"time_limit\":\"10:00\",\"team\":\"red\"");
    blue = flow_submit(&f, ",\"time_limit\":\"10:00\",\"team\":\"blue\"");
    mull_sleep_ms(500);
    ask(&f, blue, reds);
    /* One that follows reads the queue for the question. */
    /* What the leader writes down of red's use every half minute, now: until then it is only in its memory. */
    mull_sql_int(f.pg, "UPDATE team SET used = 1, used_at = clock_timestamp() WHERE name = 'red' RETURNING 1");
    flow g = f;
    snprintf(g.sock, sizeof g.sock, "%s/two.sock", f.s.dir);
    g.scheduler = flow_serve_as(&f, g.sock, "two");
    assert_true(mull_wait_for(flow_ready, g.sock, 20000));
    ask(&g, blue, reds);
    char *metrics;
    assert_int_equal(mull_http_do(g.sock, "GET", "/metrics", NULL, NULL, &metrics), 200);
    assert_non_null(strstr(metrics, "\nmull_leader_term 0\n")); /* it has not taken the lead meanwhile */
    free(metrics);
    assert_int_equal(mull_sql_int(f.pg, "SELECT count(*) FROM attempt"), 1);
    assert_int_equal(mull_reap(g.scheduler, SIGTERM), 0);
    flow_stop(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_after_the_other),
        cmocka_unit_test(running_jobs_end_first),
        cmocka_unit_test(the_order_is_that_of_the_shares),
        cmocka_unit_test(what_can_never_start_has_no_time),
        cmocka_unit_test(why_and_simulate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
