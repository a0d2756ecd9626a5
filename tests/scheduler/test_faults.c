/* What survives what: Redis emptied, killed and restarted, PostgreSQL crashed, both away at the start, the scheduler
 * killed, paused and replaced. The rule checked each time: what was acknowledged is there, and nothing happened twice.
 */
#include "tests/scheduler/flow.h"

static flow f;

static int setup(void **state) {
    (void)state;
    flow_start(&f, MULL_DURABLE);
    return 0;
}
static int teardown(void **state) {
    (void)state;
    flow_stop(&f);
    return 0;
}

static int attempts_of(long long job) {
    json_t *j = flow_show(&f, job);
    int n = (int)json_array_size(json_object_get(j, "attempts"));
    json_decref(j);
    return n;
}

static void redis_emptied_under_a_queue_and_a_running_job(void **state) {
    (void)state;
    by_hand w;
    worker_hello(&w, &f, "n1", "boot-flush", 1);
    long long running = flow_submit(&f, ""), waiting[20];
    attempt a = begin_next(&w);
    assert_int_equal(a.job, running);
    flow_expect(&f, running, "RUNNING", 5000);
    json_t *m;
    while (1) { /* until attempt_started is safe */
        m = hear(&w, "ack", 5000);
        assert_non_null(m);
        bool last = json_integer_value(json_object_get(m, "seq")) == w.seq;
        json_decref(m);
        if (last) break;
    }
    for (int i = 0; i < 20; i++) waiting[i] = flow_submit(&f, "");
    json_decref(mull_redis_do(&f.s, "FLUSHALL"));
    strcpy(w.last, "0-0");
    long long later = flow_submit(&f, "");
    end_attempt(&w, &a, "ok", 0);
    flow_expect(&f, running, "COMPLETED", 10000);
    for (int i = 0; i <= 20; i++) {
        attempt b = begin_next(&w);
        assert_int_equal(b.job, i < 20 ? waiting[i] : later); /* in the order of submission */
        end_attempt(&w, &b, "ok", 0);
        flow_expect(&f, b.job, "COMPLETED", 10000);
        assert_int_equal(attempts_of(b.job), 1);
    }
}

static void a_worker_that_lost_its_hello_is_asked_for_everything(void **state) {
    (void)state;
    by_hand w;
    json_decref(mull_redis_do(&f.s, "FLUSHALL"));
    memset(&w, 0, sizeof w);
    w.f = &f;
    strcpy(w.node, "n2");
    strcpy(w.boot, "boot-nohello");
    strcpy(w.last, "0-0");
    heartbeat(&w, "");
    json_t *m = hear(&w, "resync", 5000);
    assert_non_null(m);
    assert_int_equal(json_integer_value(json_object_get(m, "from")), 1);
    json_decref(m);
}

static void redis_killed_and_restarted(void **state) {
    (void)state;
    by_hand w;
    worker_hello(&w, &f, "n1", "boot-redis", 1);
    long long id = flow_submit(&f, "");
    attempt a = begin_next(&w);
    flow_expect(&f, id, "RUNNING", 5000);
    mull_servers_kill_redis(&f.s);
    long long while_away = flow_submit(&f, ""); /* PostgreSQL is the truth: a submit needs no Redis */
    assert_int_equal(mull_http_do(f.sock, "GET", "/readyz", NULL, NULL, NULL), 503);
    mull_servers_redis(&f.s);
    assert_true(mull_wait_for(flow_ready, f.sock, 10000));
    end_attempt(&w, &a, "ok", 0);
    flow_expect(&f, id, "COMPLETED", 10000);
    attempt b = begin_next(&w);
    assert_int_equal(b.job, while_away);
    end_attempt(&w, &b, "ok", 0);
    flow_expect(&f, while_away, "COMPLETED", 10000);
    assert_int_equal(attempts_of(id), 1);
}

static void postgres_crashed_and_restarted(void **state) {
    (void)state;
    by_hand w;
    worker_hello(&w, &f, "n1", "boot-pg", 1);
    long long id = flow_submit(&f, ",\"key\":\"k1\"");
    attempt a = begin_next(&w);
    flow_expect(&f, id, "RUNNING", 5000);
    mull_servers_kill_postgres(&f.s);
    /* Refused in words; what runs goes on and its events wait in Redis. */
    char *text, body[300];
    snprintf(body, sizeof body, "{\"kind\":\"generate\",\"model\":\"%s\",\"prompt\":\"x\"}", f.model);
    assert_int_equal(mull_http_do(f.sock, "POST", "/v1/jobs", NULL, body, &text), 503);
    assert_non_null(strstr(text, "\"unavailable\""));
    assert_non_null(strstr(text, "try again"));
    free(text);
    assert_int_equal(mull_http_do(f.sock, "GET", "/healthz", NULL, NULL, NULL), 200);
    assert_int_equal(mull_http_do(f.sock, "GET", "/metrics", NULL, NULL, &text), 200);
    assert_non_null(strstr(text, "\nmull_postgres_up 0\n"));
    free(text);
    say_of(&w, &a, "log", "\"rank\":0,\"stream\":\"stdout\",\"lines\":[\"said meanwhile\"]");
    end_attempt(&w, &a, "ok", 0);
    mull_servers_postgres(&f.s);
    assert_true(mull_wait_for(flow_ready, f.sock, 10000));
    flow_expect(&f, id, "COMPLETED", 15000);
    char target[80];
    snprintf(target, sizeof target, "/v1/jobs/%lld/logs", id);
    json_t *j = flow_get(&f, target);
    assert_int_equal(json_array_size(json_object_get(j, "lines")), 1);
    json_decref(j);
    assert_int_equal(attempts_of(id), 1);
}

static void scheduler_killed_with_a_job_running(void **state) {
    (void)state;
    by_hand w;
    worker_hello(&w, &f, "n1", "boot-kill", 1);
    long long id = flow_submit(&f, ""), next = flow_submit(&f, "");
    attempt a = begin_next(&w);
    flow_expect(&f, id, "RUNNING", 5000);
    mull_reap(f.scheduler, SIGKILL);
    end_attempt(&w, &a, "ok", 0);
    flow_serve(&f); /* the same name: it need not wait for the old lease */
    flow_expect(&f, id, "COMPLETED", 5000);
    attempt b = begin_next(&w);
    assert_int_equal(b.job, next);
    end_attempt(&w, &b, "ok", 0);
    flow_expect(&f, next, "COMPLETED", 10000);
    assert_int_equal(attempts_of(id), 1);
}

static bool leads(void *arg) {
    char *text;
    bool yes = mull_http_do(arg, "GET", "/metrics", NULL, NULL, &text) == 200 &&
               !strstr(text, "\nmull_leader_term 0\n") && strstr(text, "\nmull_leader_term ");
    free(text);
    return yes;
}

static void a_standby_takes_over_and_the_paused_leader_does_no_harm(void **state) {
    (void)state;
    char sock2[96];
    by_hand w;
    snprintf(sock2, sizeof sock2, "%s/two.sock", f.s.dir);
    pid_t two = flow_serve_as(&f, sock2, "two");
    assert_true(mull_wait_for(flow_ready, sock2, 10000));
    assert_true(leads(f.sock));
    assert_false(leads(sock2));
    worker_hello(&w, &f, "n1", "boot-standby", 1);
    long long id = flow_submit(&f, "");
    attempt a = begin_next(&w);
    flow_expect(&f, id, "RUNNING", 5000);
    kill(f.scheduler, SIGSTOP);
    long long from = mull_now_ms();
    assert_true(mull_wait_for(leads, sock2, 10000)); /* the promise: under 10 s */
    print_message("take-over after %lld ms\n", mull_now_ms() - from);
    end_attempt(&w, &a, "ok", 0);
    flow g = f;
    strcpy(g.sock, sock2);
    flow_expect(&g, id, "COMPLETED", 5000);
    long long next = flow_submit(&g, "");
    attempt b = begin_next(&w);
    assert_int_equal(b.job, next);
    kill(f.scheduler, SIGCONT); /* wakes up and believes it leads */
    mull_sleep_ms(1500);
    assert_false(leads(f.sock));
    assert_true(leads(sock2));
    end_attempt(&w, &b, "ok", 0);
    flow_expect(&g, next, "COMPLETED", 5000);
    long long last = flow_submit(&f, ""); /* any front door takes a job, whoever leads */
    attempt c = begin_next(&w);
    assert_int_equal(c.job, last);
    end_attempt(&w, &c, "ok", 0);
    flow_expect(&f, last, "COMPLETED", 5000);
    for (long long j = id; j <= last; j++) {
        char sql[100];
        snprintf(sql, sizeof sql, "SELECT count(*) FROM attempt WHERE job = %lld", j);
        assert_int_equal(mull_sql_int(f.pg, sql), 1);
    }
    assert_int_equal(mull_reap(two, SIGTERM), 0);
    from = mull_now_ms();
    assert_true(mull_wait_for(leads, f.sock, 10000)); /* an orderly stop hands over at once */
    print_message("hand-over after %lld ms\n", mull_now_ms() - from);
}

static void both_servers_away_at_the_start(void **state) {
    (void)state;
    long long id = flow_submit(&f, "");
    assert_int_equal(mull_reap(f.scheduler, SIGTERM), 0);
    mull_servers_kill_redis(&f.s);
    mull_servers_kill_postgres(&f.s);
    f.scheduler = flow_serve_as(&f, f.sock, "one");
    char *text;
    for (int i = 0; i < 500 && mull_http_do(f.sock, "GET", "/healthz", NULL, NULL, NULL) != 200; i++) mull_sleep_ms(10);
    assert_int_equal(mull_http_do(f.sock, "GET", "/readyz", NULL, NULL, &text), 503);
    assert_non_null(strstr(text, "\"postgres\":false"));
    free(text);
    assert_int_equal(mull_http_do(f.sock, "GET", "/v1/jobs", NULL, NULL, NULL), 503);
    mull_sleep_ms(1500);
    mull_servers_postgres(&f.s);
    mull_servers_redis(&f.s);
    assert_true(mull_wait_for(flow_ready, f.sock, 15000));
    by_hand w;
    worker_hello(&w, &f, "n1", "boot-after", 1);
    attempt a = begin_next(&w);
    assert_int_equal(a.job, id);
    end_attempt(&w, &a, "ok", 0);
    flow_expect(&f, id, "COMPLETED", 10000);
}

static void a_stopped_database_does_not_block_the_loop(void **state) {
    (void)state;
    /* The postmaster's children serve; stopping the whole group is what a hung machine looks like. */
    char sql[] = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND datname LIKE 't%'";
    assert_true(mull_sql_int(f.pg, sql) >= 2);
    char *pids = mull_sql(f.s.pg, "SELECT string_agg(pid::text, ' ') FROM pg_stat_activity WHERE datname LIKE 't%'");
    for (char *save, *p = strtok_r(pids, " ", &save); p; p = strtok_r(NULL, " ", &save)) kill(atoi(p), SIGSTOP);
    long long from = mull_now_ms();
    assert_int_equal(mull_http_do(f.sock, "GET", "/healthz", NULL, NULL, NULL), 200);
    assert_true(mull_now_ms() - from < 2000); /* far below any time limit of a statement: it did not wait for one */
    free(pids);
    pids = mull_sql(f.s.pg, "SELECT string_agg(pid::text, ' ') FROM pg_stat_activity WHERE datname LIKE 't%'");
    for (char *save, *p = strtok_r(pids, " ", &save); p; p = strtok_r(NULL, " ", &save)) kill(atoi(p), SIGCONT);
    free(pids);
    assert_true(mull_wait_for(flow_ready, f.sock, 10000));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(redis_emptied_under_a_queue_and_a_running_job),
        cmocka_unit_test(a_worker_that_lost_its_hello_is_asked_for_everything),
        cmocka_unit_test(redis_killed_and_restarted),
        cmocka_unit_test(postgres_crashed_and_restarted),
        cmocka_unit_test(scheduler_killed_with_a_job_running),
        cmocka_unit_test(a_standby_takes_over_and_the_paused_leader_does_no_harm),
        cmocka_unit_test(both_servers_away_at_the_start),
        cmocka_unit_test(a_stopped_database_does_not_block_the_loop),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
