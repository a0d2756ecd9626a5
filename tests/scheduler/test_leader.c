/* Jobs through the real scheduler, PostgreSQL and Redis, with a worker played by hand: every way an attempt can end,
 * and what the platform promises about them. */
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

static void expect_text(const json_t *o, const char *key, const char *want) {
    assert_string_equal(text_of(o, key), want);
}

static void completes_with_everything_recorded(void **state) {
    (void)state;
    by_hand w;
    worker_hello(&w, &f, "n1", "boot-a", 2);
    long long id = flow_submit(&f, ",\"name\":\"first\",\"priority\":3");
    attempt a = begin_next(&w);
    assert_int_equal(a.job, id);
    assert_int_equal(a.attempt, 1);
    flow_expect(&f, id, "RUNNING", 5000);
    say_of(&w, &a, "log", "\"rank\":0,\"stream\":\"stderr\",\"lines\":[\"one\",\"two\"]");
    say_of(&w, &a, "engine", "\"rank\":0,\"line\":{\"ev\":\"progress\",\"done\":3,\"total\":10,\"eta_s\":4.5}");
    say_of(&w, &a, "engine",
           "\"rank\":0,\"line\":{\"ev\":\"metric\",\"step\":1,\"values\":{\"loss\":0.5,\"x\":\"no\"}}");
    say_of(&w, &a, "engine", "\"rank\":0,\"line\":{\"ev\":\"metric\",\"step\":1,\"values\":{\"loss\":9}}");
    say_of(&w, &a, "engine", "\"rank\":0,\"line\":{\"ev\":\"artifact\",\"path\":\"/x\",\"bytes\":5}");
    say_of(&w, &a, "engine", "\"rank\":0,\"line\":{\"ev\":\"checkpoint\",\"path\":\"/c\",\"step\":4}");
    say_of(&w, &a, "engine", "\"rank\":0,\"line\":{\"ev\":\"result\",\"result\":{\"text\":\"hello\"}}");
    json_t *ack = hear(&w, "ack", 5000);
    assert_non_null(ack);
    json_decref(ack);
    json_t *j = flow_show(&f, id);
    assert_null(json_object_get(json_object_get(j, "result"), "text")); /* not before the attempt has ended */
    json_decref(j);
    end_attempt(&w, &a, "ok", 0);
    flow_expect(&f, id, "COMPLETED", 5000);
    j = flow_show(&f, id);
    expect_text(j, "name", "first");
    expect_text(j, "kind", "generate");
    expect_text(j, "team", "default");
    expect_text(j, "node", "n1");
    assert_int_equal(json_integer_value(json_object_get(j, "priority")), 3);
    assert_int_equal(json_integer_value(json_object_get(j, "exit")), 0);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(j, "progress"), "done")), 3);
    expect_text(json_object_get(j, "result"), "text", "hello");
    assert_int_equal(json_array_size(json_object_get(j, "attempts")), 1);
    expect_text(json_array_get(json_object_get(j, "attempts"), 0), "state", "COMPLETED");
    expect_text(json_array_get(json_object_get(j, "checkpoints"), 0), "state", "PUBLISHED");
    assert_int_equal(json_array_size(json_object_get(j, "artifacts")), 1);
    expect_text(json_object_get(j, "spec"), "prompt", "hi");
    json_decref(j);
    char target[80];
    snprintf(target, sizeof target, "/v1/jobs/%lld/logs", id);
    j = flow_get(&f, target);
    assert_int_equal(json_array_size(json_object_get(j, "lines")), 2);
    expect_text(json_array_get(json_object_get(j, "lines"), 1), "text", "two");
    json_decref(j);
    snprintf(target, sizeof target, "/v1/jobs/%lld/metrics?key=loss", id);
    j = flow_get(&f, target);
    json_t *points = json_object_get(j, "points");
    assert_int_equal(json_array_size(points), 1); /* a point is unique on (run, key, step): the first stands */
    assert_true(json_real_value(json_object_get(json_array_get(points, 0), "value")) == 0.5);
    json_decref(j);
}

static void a_job_s_own_error_is_not_retried(void **state) {
    (void)state;
    by_hand w;
    worker_hello(&w, &f, "n1", "boot-user", 1);
    long long id = flow_submit(&f, "");
    attempt a = begin_next(&w);
    end_attempt(&w, &a, "user", 1);
    flow_expect(&f, id, "FAILED", 5000);
    json_t *j = flow_show(&f, id);
    assert_int_equal(json_integer_value(json_object_get(j, "exit")), 1);
    expect_text(j, "message", "it ended");
    json_decref(j);
    /* It can be queued again by hand, and gets a larger fence. */
    assert_int_equal(flow_act(&f, id, "requeue"), 200);
    attempt b = begin_next(&w);
    assert_int_equal(b.job, id);
    assert_int_equal(b.attempt, 2);
    assert_true(b.fence > a.fence);
    end_attempt(&w, &b, "ok", 0);
    flow_expect(&f, id, "COMPLETED", 5000);
}

static void memory_and_time_limits_end_a_job(void **state) {
    (void)state;
    by_hand w;
    worker_hello(&w, &f, "n1", "boot-oom", 1);
    long long id = flow_submit(&f, "");
    attempt a = begin_next(&w);
    end_attempt(&w, &a, "oom", 137);
    flow_expect(&f, id, "OUT_OF_MEMORY", 5000);

    id = flow_submit(&f, ",\"time_limit\":1");
    a = begin_next(&w);
    assert_int_equal(a.job, id);
    json_t *m = hear(&w, "cancel", 5000);
    assert_non_null(m);
    expect_text(m, "reason", "timeout");
    assert_int_equal(json_integer_value(json_object_get(m, "fence")), a.fence);
    json_decref(m);
    end_attempt(&w, &a, "timeout", 143);
    flow_expect(&f, id, "TIMEOUT", 5000);
}

static void requeue_goes_on_at_once_and_does_not_count(void **state) {
    (void)state;
    by_hand w;
    worker_hello(&w, &f, "n1", "boot-requeue", 1);
    long long id = flow_submit(&f, ",\"retries\":0");
    for (int i = 1; i <= 3; i++) {
        attempt a = begin_next(&w);
        assert_int_equal(a.job, id);
        assert_int_equal(a.attempt, i);
        end_attempt(&w, &a, i < 3 ? "requeue" : "ok", i < 3 ? 75 : 0);
    }
    flow_expect(&f, id, "COMPLETED", 5000);
    json_t *j = flow_show(&f, id);
    expect_text(json_array_get(json_object_get(j, "attempts"), 0), "state", "PREEMPTED");
    json_decref(j);
}

static void infrastructure_failures_are_retried_within_a_limit(void **state) {
    (void)state;
    by_hand w;
    worker_hello(&w, &f, "n1", "boot-infra", 1);
    long long id = flow_submit(&f, ",\"retries\":2");
    long long began[3];
    for (int i = 0; i < 3; i++) {
        attempt a = begin_next(&w);
        began[i] = mull_now_ms();
        assert_int_equal(a.job, id);
        end_attempt(&w, &a, "infra", 137);
    }
    flow_expect(&f, id, "FAILED", 5000);
    /* The pause is at least half of 0.5 s, then half of 1 s: shorter would be no back-off. */
    assert_true(began[1] - began[0] >= 240);
    assert_true(began[2] - began[1] >= 490);
    json_t *j = flow_show(&f, id);
    assert_non_null(strstr(text_of(j, "message"), "3 infrastructure failures in a row"));
    json_decref(j);

    /* Progress begins the count anew. */
    id = flow_submit(&f, ",\"retries\":1");
    for (int i = 0; i < 3; i++) {
        attempt a = begin_next(&w);
        assert_int_equal(a.job, id);
        char line[100];
        snprintf(line, sizeof line, "\"rank\":0,\"line\":{\"ev\":\"progress\",\"done\":%d}", i + 1);
        say_of(&w, &a, "engine", line);
        end_attempt(&w, &a, i < 2 ? "infra" : "ok", i < 2 ? 137 : 0);
    }
    flow_expect(&f, id, "COMPLETED", 10000);

    id = flow_submit(&f, ",\"retries\":0");
    attempt a = begin_next(&w);
    end_attempt(&w, &a, "infra", 137);
    flow_expect(&f, id, "NODE_FAIL", 5000);
}

static void cancel_hold_release(void **state) {
    (void)state;
    by_hand w;
    worker_hello(&w, &f, "n1", "boot-cancel", 1);
    long long id = flow_submit(&f, ",\"hold\":true");
    json_t *j = flow_show(&f, id);
    expect_text(j, "reason", "Held");
    json_decref(j);
    assert_int_equal(flow_act(&f, id, "requeue"), 409);
    assert_int_equal(flow_act(&f, id, "release"), 200);
    attempt a = begin_next(&w);
    assert_int_equal(flow_act(&f, id, "hold"), 409);
    assert_int_equal(flow_act(&f, id, "cancel"), 200);
    json_t *m = hear(&w, "cancel", 5000);
    assert_non_null(m);
    expect_text(m, "reason", "cancel");
    json_decref(m);
    end_attempt(&w, &a, "cancelled", 143);
    flow_expect(&f, id, "CANCELLED", 5000);
    id = flow_submit(&f, ",\"hold\":true");
    assert_int_equal(flow_act(&f, id, "cancel"), 200);
    flow_expect(&f, id, "CANCELLED", 1000);
    assert_int_equal(flow_act(&f, 999999, "cancel"), 404);
}

static void dependencies(void **state) {
    (void)state;
    by_hand w;
    char after[64];
    worker_hello(&w, &f, "n1", "boot-dep", 4);
    long long first = flow_submit(&f, "");
    snprintf(after, sizeof after, ",\"after\":\"afterok:%lld\"", first);
    long long good = flow_submit(&f, after);
    snprintf(after, sizeof after, ",\"after\":\"afterfail:%lld\"", first);
    long long never = flow_submit(&f, after);
    snprintf(after, sizeof after, ",\"after\":\"afterok:%lld\"", never);
    long long chained = flow_submit(&f, after);
    attempt a = begin_next(&w);
    assert_int_equal(a.job, first);
    assert_null(hear(&w, "start", 300)); /* four slots, and yet nobody else */
    end_attempt(&w, &a, "ok", 0);
    a = begin_next(&w);
    assert_int_equal(a.job, good);
    flow_expect(&f, never, "CANCELLED", 10000);
    flow_expect(&f, chained, "CANCELLED", 10000);
    end_attempt(&w, &a, "ok", 0);
    flow_expect(&f, good, "COMPLETED", 5000);
}

static void a_restarted_worker_loses_its_attempts_only(void **state) {
    (void)state;
    by_hand w, again;
    worker_hello(&w, &f, "n1", "boot-old", 1);
    long long id = flow_submit(&f, "");
    attempt a = begin_next(&w);
    worker_hello(&again, &f, "n1", "boot-new", 1);
    attempt b = begin_next(&again);
    assert_int_equal(b.job, id);
    double stale = flow_metric(&f, "mull_events_stale_total");
    end_attempt(&w, &a, "ok", 0); /* the old one still speaks */
    end_attempt(&again, &b, "ok", 0);
    flow_expect(&f, id, "COMPLETED", 5000);
    assert_true(flow_metric(&f, "mull_events_stale_total") >= stale + 1);
    json_t *j = flow_show(&f, id);
    json_t *attempts = json_object_get(j, "attempts");
    assert_int_equal(json_array_size(attempts), 2);
    expect_text(json_array_get(attempts, 0), "state", "NODE_FAIL");
    json_decref(j);
}

static void duplicates_gaps_and_stale_fences_change_nothing(void **state) {
    (void)state;
    by_hand w;
    worker_hello(&w, &f, "n1", "boot-seq", 1);
    long long id = flow_submit(&f, "");
    attempt a = begin_next(&w);
    char line[300];
    snprintf(line, sizeof line, "%s,\"rank\":0,\"stream\":\"stdout\",\"lines\":[\"x\"]", a.ids);
    say(&w, "log", line);
    say_as(&w, w.seq, "log", line);     /* again: a duplicate */
    say_as(&w, w.seq + 2, "log", line); /* a gap: asked for, not applied */
    json_t *m = hear(&w, "resync", 5000);
    assert_non_null(m);
    assert_int_equal(json_integer_value(json_object_get(m, "from")), w.seq + 1);
    json_decref(m);
    double stale = flow_metric(&f, "mull_events_stale_total");
    snprintf(line, sizeof line, "\"job\":\"%lld\",\"attempt\":1,\"fence\":%lld,\"exit_code\":0,\"class\":\"ok\"", id,
             a.fence - 1);
    say(&w, "attempt_ended", line);
    say(&w, "log", "\"job\":\"x\",\"attempt\":1,\"fence\":3,\"rank\":0,\"stream\":\"s\",\"lines\":[]"); /* a job that is
                                                                                                           no number */
    end_attempt(&w, &a, "ok", 0);
    flow_expect(&f, id, "COMPLETED", 8000);
    assert_true(flow_metric(&f, "mull_events_stale_total") >= stale + 1);
    assert_true(flow_metric(&f, "mull_events_duplicate_total") >= 1);
    char target[80];
    snprintf(target, sizeof target, "/v1/jobs/%lld/logs", id);
    json_t *j = flow_get(&f, target);
    assert_int_equal(json_array_size(json_object_get(j, "lines")), 1);
    json_decref(j);
}

static void foreign_bytes_do_not_stop_the_recorder(void **state) {
    (void)state;
    by_hand w;
    worker_hello(&w, &f, "n1", "boot-bytes", 1);
    long long id = flow_submit(&f, "");
    attempt a = begin_next(&w);
    say_raw(&f, "no JSON at all");
    say_raw(&f, "{\"v\":1}");
    say_of(&w, &a, "log", "\"rank\":0,\"stream\":\"stdout\",\"lines\":[\"nul \\u0000 here\",\"bad \xff\xfe bytes\"]");
    say_of(&w, &a, "log", "\"rank\":0,\"stream\":\"stdout\",\"lines\":[7,null,{\"a\":1}]");
    /* PostgreSQL refuses these in the middle of a batch of good ones. */
    say_of(&w, &a, "engine", "\"rank\":0,\"line\":{\"ev\":\"progress\",\"done\":99999999999999999999,\"total\":1}");
    say_of(&w, &a, "engine", "\"rank\":0,\"line\":{\"ev\":\"progress\",\"done\":5,\"total\":1e300}");
    say_of(&w, &a, "engine", "\"rank\":0,\"line\":{\"ev\":\"from_the_future\",\"done\":5}");
    say(&w, "log", "\"job\":12"); /* wrong type */
    char *path = malloc(300000), *m = malloc(300200);
    memset(path, 'p', 299999);
    path[299999] = 0;
    for (int i = 0; i < 299999; i += 7) path[i] = (char)('a' + i * 31 % 26);
    sprintf(m, "\"rank\":0,\"line\":{\"ev\":\"artifact\",\"path\":\"%s\"}", path); /* longer than an index row */
    say_of(&w, &a, "engine", m);
    sprintf(m, "\"rank\":0,\"stream\":\"stdout\",\"lines\":[\"%s\"]", path);
    say_of(&w, &a, "log", m);
    free(path);
    free(m);
    end_attempt(&w, &a, "ok", 0);
    flow_expect(&f, id, "COMPLETED", 10000);
    char target[80];
    snprintf(target, sizeof target, "/v1/jobs/%lld/logs", id);
    json_t *j = flow_get(&f, target);
    json_t *lines = json_object_get(j, "lines");
    assert_int_equal(json_array_size(lines), 6);
    expect_text(json_array_get(lines, 0), "text", "nul \xef\xbf\xbd here");
    expect_text(json_array_get(lines, 1), "text", "bad \xef\xbf\xbd\xef\xbf\xbd bytes");
    assert_true(strlen(text_of(json_array_get(lines, 5), "text")) < 17000); /* a line has 16,000 characters */
    json_decref(j);
    assert_true(flow_metric(&f, "mull_events_refused_total") >= 3);
}

static void the_log_of_an_attempt_is_bounded(void **state) {
    (void)state;
    by_hand w;
    worker_hello(&w, &f, "n1", "boot-log", 1);
    long long id = flow_submit(&f, "");
    attempt a = begin_next(&w);
    /* 130 × 800 short lines: more than 100,000. */
    char *m = malloc(64 + 800 * 4);
    strcpy(m, "\"rank\":0,\"stream\":\"stdout\",\"lines\":[");
    for (int i = 0; i < 800; i++) strcat(m, i ? ",\"x\"" : "\"x\"");
    strcat(m, "]");
    for (int i = 0; i < 130; i++) say_of(&w, &a, "log", m);
    free(m);
    end_attempt(&w, &a, "ok", 0);
    flow_expect(&f, id, "COMPLETED", 60000);
    char sql[100];
    snprintf(sql, sizeof sql, "SELECT count(*) FROM job_log WHERE job = %lld", id);
    assert_int_equal(mull_sql_int(f.pg, sql), 100001);
    snprintf(sql, sizeof sql, "SELECT text FROM job_log WHERE job = %lld ORDER BY n DESC LIMIT 1", id);
    char *last = mull_sql(f.pg, sql);
    assert_non_null(strstr(last, "dropped"));
    free(last);
}

static void what_a_node_runs_and_should_not_is_stopped(void **state) {
    (void)state;
    by_hand w;
    worker_hello(&w, &f, "n1", "boot-ghost", 1);
    long long id = flow_submit(&f, "");
    attempt a = begin_next(&w);
    end_attempt(&w, &a, "ok", 0);
    flow_expect(&f, id, "COMPLETED", 5000);
    char ghost[100];
    snprintf(ghost, sizeof ghost, "{\"job\":\"%lld\",\"fence\":%lld}", id, a.fence);
    heartbeat(&w, ghost);
    json_t *m = hear(&w, "cancel", 5000);
    assert_non_null(m);
    expect_text(m, "reason", "stale");
    json_decref(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(completes_with_everything_recorded),
        cmocka_unit_test(a_job_s_own_error_is_not_retried),
        cmocka_unit_test(memory_and_time_limits_end_a_job),
        cmocka_unit_test(requeue_goes_on_at_once_and_does_not_count),
        cmocka_unit_test(infrastructure_failures_are_retried_within_a_limit),
        cmocka_unit_test(cancel_hold_release),
        cmocka_unit_test(dependencies),
        cmocka_unit_test(a_restarted_worker_loses_its_attempts_only),
        cmocka_unit_test(duplicates_gaps_and_stale_fences_change_nothing),
        cmocka_unit_test(foreign_bytes_do_not_stop_the_recorder),
        cmocka_unit_test(the_log_of_an_attempt_is_bounded),
        cmocka_unit_test(what_a_node_runs_and_should_not_is_stopped),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
