/* Leases: a worker that is cut off from the queue, or that stands still, loses its engines in time, by itself, and says
 * so later; one that is not keeps them. */
#include "tests/worker/play.h"

#include <signal.h>

enum { LEASE_S = 4, BEAT_MS = 2000, SLACK_MS = 1500 };

static play p;
static char address[64];

static int open_play(void **state) {
    (void)state;
    play_open(&p);
    return 0;
}

static int close_play(void **state) {
    (void)state;
    play_close(&p);
    return 0;
}

/* Also over TCP, as a worker of another host comes. */
static void over_tcp(void) {
    char words[64];
    int port = mull_free_port();
    snprintf(words, sizeof words, "CONFIG SET port %d", port);
    json_t *reply = mull_redis_do(&p.s, words);
    assert_string_equal(json_string_value(reply), "OK");
    json_decref(reply);
    snprintf(address, sizeof address, "redis://127.0.0.1:%d", port);
    p.redis = address;
}

/* An engine with a child, and a lease; it hears no SIGTERM. */
static pid_t start(long long fence, const char *file) {
    char script[300];
    snprintf(script, sizeof script, "trap '' TERM\nsleep 1000 &\necho $! >%s/%s\nwait\n", p.s.dir, file);
    json_t *m = play_start_message(&p, fence, fence, script);
    json_object_set_new(m, "lease_s", json_integer(LEASE_S));
    play_tell(&p, m);
    pid_t child = play_pid(&p, file);
    json_decref(play_await(&p, "attempt_started", SOON_MS));
    return child;
}

/* Waits for the death of pid; ms since from. */
static long long dies_after(pid_t pid, long long from) {
    play_expect_dead(pid, (LEASE_S + 10) * 1000);
    return mull_now_ms() - from;
}

static void ended_by_its_lease(long long fence) {
    json_t *e = play_end(&p, fence, "infra", -1, SIGKILL);
    if (!strstr(play_text(e, "message"), "cut off from the queue")) fail_msg("it says: %s", play_text(e, "message"));
    json_decref(e);
}

static void a_worker_that_is_cut_off_kills_its_engines(void **state) {
    (void)state;
    over_tcp();
    play_worker(&p);
    play_hello(&p);
    pid_t child = start(10, "a");
    mull_sleep_ms((LEASE_S + 2) * 1000); /* renewed all the while */
    assert_true(mull_pid_alive(child));
    long long cut = mull_now_ms();
    kill(p.s.redis, SIGSTOP); /* a connection that stands and brings nothing: what a partition looks like */
    long long lived = dies_after(child, cut);
    kill(p.s.redis, SIGCONT);
    fprintf(stderr, "killed %lld ms after the cut\n", lived);
    /* The lease counts from the last heartbeat that was taken, at most one beat before the cut. */
    assert_true(lived >= LEASE_S * 1000 - BEAT_MS - SLACK_MS && lived <= LEASE_S * 1000 + SLACK_MS);
    ended_by_its_lease(10);
    child = start(20, "b"); /* and goes on with the next */
    mull_sleep_ms(1000);
    assert_true(mull_pid_alive(child));
}

static void a_connection_that_is_refused_is_a_cut_too(void **state) {
    (void)state;
    over_tcp();
    play_worker(&p);
    play_hello(&p);
    pid_t child = start(10, "a");
    mull_servers_kill_redis(&p.s);
    play_expect_dead(child, (LEASE_S + 2) * 1000);
    assert_true(mull_pid_alive(p.worker));
}

static void a_worker_that_stands_still_loses_its_engines(void **state) {
    (void)state;
    play_worker(&p);
    play_hello(&p);
    pid_t child = start(10, "a");
    long long cut = mull_now_ms();
    kill(p.worker, SIGSTOP);
    long long lived = dies_after(child, cut);
    assert_true(lived <= LEASE_S * 1000 + SLACK_MS);
    kill(p.worker, SIGCONT);
    ended_by_its_lease(10);
}

/* On one machine a Redis that is away is away for everybody: jobs go on. */
static void on_one_machine_jobs_outlive_redis(void **state) {
    (void)state;
    play_worker(&p);
    play_hello(&p);
    pid_t child = start(10, "a");
    mull_servers_kill_redis(&p.s);
    mull_sleep_ms((LEASE_S + 3) * 1000);
    assert_true(mull_pid_alive(child));
    mull_servers_redis(&p.s);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_play, close_play)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(a_worker_that_is_cut_off_kills_its_engines),
        TEST(a_connection_that_is_refused_is_a_cut_too),
        TEST(a_worker_that_stands_still_loses_its_engines),
        TEST(on_one_machine_jobs_outlive_redis),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
