/* What a worker does when something dies or stands still: itself, a supervisor, the engine, Redis, the leader. Nothing
 * that was said is lost, repeated or out of order, and no process outlives its attempt. */
#include "tests/worker/play.h"

static play p;

static int open_one(void **state) {
    (void)state;
    play_open(&p);
    play_worker(&p);
    play_hello(&p);
    return 0;
}

static int close_one(void **state) {
    (void)state;
    play_close(&p);
    return 0;
}

/* An engine with a child in another session, both deaf to SIGTERM. */
#define FAMILY                                                                                                         \
    "trap '' TERM\n"                                                                                                   \
    "setsid sh -c 'echo $$ >'${0%/*}/child'; exec sleep 600' &\n"                                                      \
    "echo $$ >${0%/*}/engine.pid\n"                                                                                    \
    "while :; do sleep 0.1; done\n"

/* Takes events to the end of an attempt whose standard output is the lines 1, 2, 3 …; returns how many there were. */
static long long count_lines(long long fence) {
    long long n = 0;
    for (;;) {
        json_t *e = play_next(&p, MANY_MS), *line;
        size_t i;
        if (!e) fail_msg("nothing came after line %lld", n);
        if (!strcmp(play_text(e, "stream"), "stdout")) json_array_foreach(json_object_get(e, "lines"), i, line) {
                long long got = strtoll(json_string_value(line), NULL, 10);
                if (got != ++n) fail_msg("line %lld came where %lld was due", got, n);
            }
        bool end = !strcmp(play_text(e, "type"), "attempt_ended");
        if (end) {
            assert_int_equal(play_int(e, "fence"), fence);
            assert_string_equal(play_text(e, "class"), "ok");
        }
        json_decref(e);
        if (end) return n;
    }
}

static void a_killed_worker_leaves_nothing(void **state) {
    (void)state;
    play_start(&p, 5, 50, FAMILY);
    pid_t engine = play_pid(&p, "engine.pid"), child = play_pid(&p, "child");
    assert_int_equal(mull_reap(p.worker, SIGKILL), 128 + SIGKILL);
    p.worker = 0;
    play_expect_dead(engine, SOON_MS);
    play_expect_dead(child, SOON_MS);
}

/* The supervisor is gone too: nobody is left to kill what the engine had started, so the next start does. */
static void the_next_start_ends_leftovers(void **state) {
    (void)state;
    play_start(&p, 5, 50, FAMILY);
    pid_t engine = play_pid(&p, "engine.pid"), child = play_pid(&p, "child");
    pid_t supervisor = mull_find_descendant(p.worker, "__supervise");
    assert_true(supervisor > 1);
    kill(p.worker, SIGSTOP);
    kill(supervisor, SIGKILL);
    play_expect_dead(engine, SOON_MS);
    mull_reap(p.worker, SIGKILL);
    assert_true(mull_pid_alive(child));
    play_worker(&p);
    play_hello(&p); /* devices are offered only after that */
    assert_false(mull_pid_alive(child));
}

static void a_killed_supervisor_ends_its_attempt_only(void **state) {
    (void)state;
    json_t *other = play_start_message(&p, 6, 60, "while test ! -e ${0%/*}/go; do sleep 0.1; done\n");
    json_object_set_new(other, "devices", json_pack("[{s:s, s:i}]", "kind", "cpu", "index", 1));
    play_start(&p, 5, 50, FAMILY);
    pid_t engine = play_pid(&p, "engine.pid"), child = play_pid(&p, "child");
    kill(mull_find_descendant(p.worker, "__supervise"), SIGKILL);
    play_tell(&p, other);
    json_decref(play_end(&p, 50, "infra", -1, SIGKILL));
    play_expect_dead(engine, SOON_MS);
    play_expect_dead(child, SOON_MS);
    char go[128];
    snprintf(go, sizeof go, "%s/go", p.s.dir);
    play_write(go, "");
    json_decref(play_end(&p, 60, "ok", 0, 0));
}

/* Stopped, it obeys nobody: then it is killed, and the kernel kills its engine. */
static void a_stopped_supervisor_is_killed(void **state) {
    (void)state;
    play_start(&p, 5, 50, FAMILY);
    pid_t engine = play_pid(&p, "engine.pid"), child = play_pid(&p, "child");
    kill(mull_find_descendant(p.worker, "__supervise"), SIGSTOP);
    play_cancel(&p, 5, 50, "cancel");
    json_decref(play_end(&p, 50, "cancelled", -1, SIGKILL));
    play_expect_dead(engine, SOON_MS);
    play_expect_dead(child, SOON_MS);
}

#define COUNT_SLOWLY "i=0\nwhile test $i -lt 60; do i=$((i+1)); echo $i; sleep 0.05; done\n"

static void redis_comes_back_with_every_line(void **state) {
    (void)state;
    p.mute = true; /* what is not acknowledged must come again */
    play_start(&p, 5, 50, COUNT_SLOWLY);
    mull_sleep_ms(800);
    mull_servers_kill_redis(&p.s);
    mull_sleep_ms(700);
    mull_servers_redis(&p.s);
    p.mute = false;
    assert_int_equal(count_lines(50), 60);
}

static void a_flushed_redis_loses_nothing(void **state) {
    (void)state;
    play_start(&p, 5, 50, COUNT_SLOWLY);
    mull_sleep_ms(800); /* lines lie in the stream that nobody has read */
    json_decref(mull_redis_do(&p.s, "FLUSHALL"));
    assert_int_equal(count_lines(50), 60);
    assert_true(p.gaps > 0);
}

/* Commands lie in a stream too: one that was given before the flush is given again, and one behind it is heard. */
static void the_inbox_is_found_again_after_a_flush(void **state) {
    (void)state;
    play_start(&p, 5, 50, "exit 0\n");
    json_decref(play_end(&p, 50, "ok", 0, 0));
    json_decref(mull_redis_do(&p.s, "FLUSHALL"));
    /* As the leader does until it is known to have started: the first may have an id that was read already. */
    json_t *m = play_start_message(&p, 6, 60, "exit 0\n"), *e = NULL;
    for (int i = 0; i < 20 && !e; i++) {
        play_tell(&p, json_incref(m));
        e = play_next(&p, 1000);
    }
    json_decref(e);
    json_decref(m);
    json_decref(play_end(&p, 60, "ok", 0, 0));
}

/* 48 MB while Redis is away: three times what is kept in memory, so most of it goes through the spool. */
static void a_chatty_engine_while_redis_is_away(void **state) {
    (void)state;
    mull_servers_kill_redis(&p.s);
    mull_servers_redis(&p.s);
    play_start(&p, 5, 50,
               "echo $$ >${0%/*}/engine.pid\n"
               "while test ! -e ${0%/*}/go; do sleep 0.05; done\n"
               "pad=$(printf '%01000d' 0)\n"
               "i=0\nwhile test $i -lt 48000; do i=$((i+1)); echo $i $pad; done\n"
               "echo $$ >${0%/*}/said\n");
    play_pid(&p, "engine.pid");
    mull_servers_kill_redis(&p.s);
    char path[128];
    snprintf(path, sizeof path, "%s/go", p.s.dir);
    play_write(path, "");
    play_pid(&p, "said"); /* it was not held up */
    struct stat st;
    snprintf(path, sizeof path, "%s/spool", p.state);
    assert_int_equal(stat(path, &st), 0);
    assert_true(st.st_size > 1 << 20);
    mull_servers_redis(&p.s);
    assert_int_equal(count_lines(50), 48000);
}

static bool stream_is_long(void *unused) {
    (void)unused;
    json_t *n = mull_redis_do(&p.s, "XLEN mull:events");
    bool yes = json_integer_value(n) >= 900;
    json_decref(n);
    return yes;
}

/* Nobody acknowledges: what lies in Redis stays bounded (1000 events and the heartbeats). */
static void an_absent_leader_does_not_fill_redis(void **state) {
    (void)state;
    play_start(&p, 5, 50,
               "i=0\nwhile test $i -lt 3000; do i=$((i+1)); "
               "echo \"{\\\"ev\\\":\\\"metric\\\",\\\"step\\\":$i,\\\"values\\\":{\\\"x\\\":1}}\" >&3; done\n"
               "echo $$ >${0%/*}/said\n");
    play_pid(&p, "said");
    if (!mull_wait_for(stream_is_long, NULL, MANY_MS)) fail_msg("the stream stays short");
    mull_sleep_ms(500);
    json_t *n = mull_redis_do(&p.s, "XLEN mull:events");
    assert_in_range(json_integer_value(n), 900, 1100);
    json_decref(n);
    for (int step = 1; step <= 3000; step++) {
        json_t *e = play_await(&p, "engine", SOON_MS);
        assert_int_equal(play_int(json_object_get(e, "line"), "step"), step);
        json_decref(e);
    }
    json_decref(play_end(&p, 50, "ok", 0, 0));
}

static void a_drain_lets_engines_save(void **state) {
    (void)state;
    play_start(&p, 5, 50,
               "trap 'echo saved; exit 75' TERM\necho $$ >${0%/*}/engine.pid\nwhile :; do sleep 0.05; done\n");
    play_pid(&p, "engine.pid");
    json_t *deaf = play_start_message(&p, 6, 60, FAMILY);
    json_object_set_new(deaf, "devices", json_pack("[{s:s, s:i}]", "kind", "cpu", "index", 1));
    play_tell(&p, deaf);
    pid_t child = play_pid(&p, "child");
    kill(p.worker, SIGTERM);
    json_t *e = play_await(&p, "node_hello", SOON_MS);
    assert_int_equal(json_array_size(json_object_get(e, "devices")), 0);
    json_decref(e);
    json_t *late = play_start_message(&p, 7, 70, "exit 0\n");
    json_object_set_new(late, "devices", json_pack("[{s:s, s:i}]", "kind", "cpu", "index", 2));
    play_tell(&p, late);
    bool saved = false, killed = false, put_back = false;
    while (!(saved && killed && put_back)) {
        e = play_await(&p, "attempt_ended", SOON_MS);
        assert_string_equal(play_text(e, "class"), "requeue");
        saved |= play_int(e, "fence") == 50 && play_int(e, "exit_code") == 75;
        killed |= play_int(e, "fence") == 60 && play_int(e, "exit_signal") == SIGKILL;
        put_back |= play_int(e, "fence") == 70;
        json_decref(e);
    }
    assert_int_equal(mull_reap(p.worker, 0), 0);
    p.worker = 0;
    assert_false(mull_pid_alive(child));
}

/* Neither Redis nor the engine answers: asked twice, it leaves. */
static void asked_twice_it_leaves_at_once(void **state) {
    (void)state;
    json_t *m = play_start_message(&p, 5, 50, FAMILY);
    json_object_set_new(m, "grace_s", json_integer(3600));
    play_tell(&p, m);
    pid_t engine = play_pid(&p, "engine.pid");
    json_decref(play_await(&p, "attempt_started", SOON_MS));
    mull_servers_kill_redis(&p.s);
    kill(p.worker, SIGTERM);
    mull_sleep_ms(500);
    assert_true(mull_pid_alive(engine)); /* it has its grace */
    assert_int_equal(mull_reap(p.worker, SIGTERM), 0);
    p.worker = 0;
    assert_false(mull_pid_alive(engine));
    mull_servers_redis(&p.s);
}

static void the_hung_are_killed_and_the_living_are_not(void **state) {
    (void)state;
    play_open(&p);
    p.hang = "2";
    play_worker(&p);
    play_hello(&p);
    json_t *living = play_start_message(
        &p, 6, 60, "i=0\nwhile test $i -lt 24; do i=$((i+1)); echo '{\"ev\":\"heartbeat\"}' >&3; sleep 0.25; done\n");
    json_object_set_new(living, "devices", json_pack("[{s:s, s:i}]", "kind", "cpu", "index", 1));
    play_start(&p, 5, 50, FAMILY);
    play_tell(&p, living);
    json_t *e = play_end(&p, 50, "infra", -1, SIGKILL);
    assert_non_null(strstr(play_text(e, "message"), "no sign of life for 2 s"));
    json_decref(e);
    json_decref(play_end(&p, 60, "ok", 0, 0));
}

/* PostgreSQL was emptied: the leader knows nothing of this boot and says so again and again. */
static void a_leader_without_a_past_gets_a_new_boot(void **state) {
    (void)state;
    char before[64];
    play_start(&p, 5, 50, FAMILY);
    pid_t engine = play_pid(&p, "engine.pid"), child = play_pid(&p, "child");
    json_decref(play_await(&p, "attempt_started", SOON_MS));
    snprintf(before, sizeof before, "%s", p.boot);
    p.mute = true;
    play_ask(&p, 1); /* once may be an old message */
    json_t *e = play_next(&p, 3000);
    assert_null(e);
    assert_true(mull_pid_alive(engine));
    for (int i = 0; i < 20 && !strcmp(p.boot, before); i++) {
        play_ask(&p, 1);
        json_decref(play_next(&p, 2000));
    }
    assert_string_not_equal(p.boot, before);
    play_expect_dead(engine, SOON_MS);
    play_expect_dead(child, SOON_MS);
    p.mute = false;
    play_ask(&p, 1); /* its hello was not acknowledged */
    play_start(&p, 5, 51, "exit 0\n");
    json_decref(play_end(&p, 51, "ok", 0, 0));
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, open_one, close_one)
    const struct CMUnitTest tests[] = {
        TEST(a_killed_worker_leaves_nothing),
        TEST(the_next_start_ends_leftovers),
        TEST(a_killed_supervisor_ends_its_attempt_only),
        TEST(a_stopped_supervisor_is_killed),
        TEST(redis_comes_back_with_every_line),
        TEST(a_flushed_redis_loses_nothing),
        TEST(the_inbox_is_found_again_after_a_flush),
        TEST(a_chatty_engine_while_redis_is_away),
        TEST(an_absent_leader_does_not_fill_redis),
        TEST(a_drain_lets_engines_save),
        TEST(asked_twice_it_leaves_at_once),
        cmocka_unit_test_teardown(the_hung_are_killed_and_the_living_are_not, close_one),
        TEST(a_leader_without_a_past_gets_a_new_boot),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
