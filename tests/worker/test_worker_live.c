/* Attempts on a real worker: from the start command to the end that is reported, and how a stop reaches whatever the
 * engine has started. */
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

static void the_node_offers_its_devices(void **state) {
    (void)state;
    play_open(&p);
    play_worker(&p);
    json_t *e = play_await(&p, "node_hello", SOON_MS);
    assert_int_equal(play_int(e, "seq"), 1);
    assert_string_equal(play_text(e, "node"), "node");
    const json_t *devices = json_object_get(e, "devices");
    assert_int_equal(json_array_size(devices), 4);
    assert_string_equal(play_text(json_array_get(devices, 3), "kind"), "cpu");
    assert_int_equal(play_int(json_array_get(devices, 3), "index"), 3);
    assert_true(play_int(json_array_get(devices, 0), "memory_bytes") > 0);
    json_decref(e);
}

/* Without a driver there are no CUDA devices, which is said and is no error; with one they are listed by name. */
static void all_cuda_devices_or_none(void **state) {
    (void)state;
    play_open(&p);
    p.devices = "cuda:all+cpu:1";
    play_worker(&p);
    json_t *e = play_await(&p, "node_hello", SOON_MS);
    size_t n = json_array_size(json_object_get(e, "devices"));
    char *log = mull_slurp(p.log, NULL);
    assert_true(n >= 1 && (n > 1) == !strstr(log, "no CUDA devices: "));
    free(log);
    json_decref(e);
}

static void every_word_in_order(void **state) {
    (void)state;
    play_start(&p, 7, 70,
               "echo first\n"
               "echo '{\"ev\":\"progress\",\"done\":1,\"total\":2}' >&3\n"
               "sleep 0.5\n"
               "printf 'no newline' >&2\n"
               "echo '{\"ev\":\"nonsense\"}' >&3\n"
               "echo '{\"ev\":\"result\",\"result\":{\"text\":\"hi\"}}' >&3\n");
    json_t *e = play_await(&p, "attempt_started", SOON_MS);
    assert_string_equal(play_text(e, "job"), "7");
    assert_int_equal(play_int(e, "fence"), 70);
    assert_true(play_int(e, "pid") > 1);
    json_decref(e);
    bool out = false, err = false, progress = false, nonsense = false, result = false;
    for (;;) {
        e = play_next(&p, SOON_MS);
        assert_non_null(e);
        const char *type = play_text(e, "type"), *stream = play_text(e, "stream"),
                   *line = json_string_value(json_array_get(json_object_get(e, "lines"), 0)),
                   *ev = play_text(json_object_get(e, "line"), "ev");
        out |= !strcmp(stream, "stdout") && !strcmp(line, "first");
        err |= !strcmp(stream, "stderr") && !strcmp(line, "no newline");
        nonsense |= !strcmp(stream, "worker") && strstr(line, "not valid");
        progress |= !strcmp(ev, "progress") && play_int(json_object_get(e, "line"), "done") == 1;
        result |= !strcmp(ev, "result");
        if (!strcmp(type, "attempt_ended")) break;
        json_decref(e);
    }
    assert_string_equal(play_text(e, "class"), "ok");
    assert_true(out && err && progress && nonsense && result);
    json_decref(e);
}

static void statuses_and_signals(void **state) {
    (void)state;
    static const struct {
        const char *script, *class_;
        int code, sig;
    } cases[] = {
        {"exit 0\n", "ok", 0, 0},
        {"exit 1\n", "user", 1, 0},
        {"exit 2\n", "user", 2, 0},
        {"exit 75\n", "requeue", 75, 0},
        {"exit 127\n", "infra", 127, 0},
        {"kill -SEGV $$\n", "infra", -1, SIGSEGV},
        {"kill -KILL $$\n", "infra", -1, SIGKILL},
        {"echo '{\"ev\":\"error\",\"class\":\"oom\",\"what\":\"no memory\"}' >&3\nexit 1\n", "oom", 1, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        play_start(&p, 100 + (long long)i, 1000 + (long long)i, cases[i].script);
        json_decref(play_end(&p, 1000 + (long long)i, cases[i].class_, cases[i].code, cases[i].sig));
    }
}

static void the_engines_own_words_are_the_message(void **state) {
    (void)state;
    play_start(&p, 1, 10, "echo 'error: cannot read the row (f:3): it is torn; mend it' >&2\nexit 1\n");
    json_t *e = play_end(&p, 10, "user", 1, 0);
    assert_string_equal(play_text(e, "message"), "error: cannot read the row (f:3): it is torn; mend it");
    json_decref(e);
}

static void an_engine_that_cannot_run(void **state) {
    (void)state;
    play_write(p.engine, "#!/no/such/interpreter\n");
    play_start(&p, 1, 10, "");
    json_t *e = play_end(&p, 10, "infra", -1, 0);
    assert_non_null(strstr(play_text(e, "message"), "error: cannot start the engine"));
    json_decref(e);
}

/* Whatever the leader says twice is done once; what is older than what is known is not done. */
static void twice_and_late(void **state) {
    (void)state;
    json_t *m = play_start_message(&p, 5, 50, "echo run >>$0.ran\nsleep 0.3\n");
    play_tell(&p, json_incref(m));
    play_tell(&p, json_incref(m));
    json_decref(play_end(&p, 50, "ok", 0, 0));
    play_tell(&p, m);
    play_start(&p, 5, 49, "exit 1\n");
    play_start(&p, 5, 51, "exit 2\n"); /* a newer fence is a new attempt */
    json_t *e = play_await(&p, "attempt_started", SOON_MS);
    assert_int_equal(play_int(e, "fence"), 51);
    json_decref(e);
    json_decref(play_end(&p, 51, "user", 2, 0));
    char path[160];
    snprintf(path, sizeof path, "%s.ran", p.engine);
    char *ran = mull_slurp(path, NULL);
    assert_string_equal(ran, "run\n");
    free(ran);
}

static void a_newer_fence_ends_the_older_attempt(void **state) {
    (void)state;
    play_start(&p, 5, 50, "trap '' TERM\necho $$ >${0%/*}/old\nsleep 600\n");
    pid_t old = play_pid(&p, "old");
    play_start(&p, 5, 51, "exit 0\n");
    json_decref(play_end(&p, 50, "infra", -1, SIGKILL));
    json_decref(play_end(&p, 51, "ok", 0, 0));
    play_expect_dead(old, SOON_MS);
}

/* Children in sessions of their own, whose parents have gone, deaf to SIGTERM. */
#define STUBBORN                                                                                                       \
    "trap '' TERM\n"                                                                                                   \
    "setsid sh -c 'trap \"\" TERM; (echo $$ >'${0%/*}/child'; exec sleep 600) & exec sleep 600' &\n"                   \
    "echo $! >${0%/*}/leader\n"                                                                                        \
    "(setsid sh -c 'trap \"\" TERM; sh -c \"echo \\$\\$ >'${0%/*}/orphan'; exec sleep 600\" & ' ) &\n"                 \
    "echo $$ >${0%/*}/engine.pid\n"                                                                                    \
    "while :; do sleep 0.1; done\n"

static void a_cancel_reaches_all_descendants(void **state) {
    (void)state;
    play_start(&p, 5, 50, STUBBORN);
    pid_t engine = play_pid(&p, "engine.pid"), child = play_pid(&p, "child"), orphan = play_pid(&p, "orphan"),
          leader = play_pid(&p, "leader");
    play_cancel(&p, 5, 50, "cancel");
    json_t *e = play_end(&p, 50, "cancelled", -1, SIGKILL);
    assert_string_equal(play_text(e, "message"), "cancelled");
    json_decref(e);
    /* The end is told when nothing of it is left. */
    assert_false(mull_pid_alive(engine) || mull_pid_alive(child) || mull_pid_alive(orphan) || mull_pid_alive(leader));
}

static void a_job_that_finishes_in_its_grace_is_finished(void **state) {
    (void)state;
    play_start(&p, 5, 50, "trap 'exit 0' TERM\necho $$ >${0%/*}/here\nwhile :; do sleep 0.05; done\n");
    play_pid(&p, "here");
    play_cancel(&p, 5, 50, "cancel");
    json_decref(play_end(&p, 50, "ok", 0, 0));
}

static void a_cancel_for_a_start_that_was_lost(void **state) {
    (void)state;
    play_cancel(&p, 5, 50, "stale"); /* nobody waits for an end */
    play_cancel(&p, 5, 50, "cancel");
    play_cancel(&p, 5, 50, "cancel");
    json_decref(play_end(&p, 50, "cancelled", -1, 0));
    play_start(&p, 5, 50, "exit 1\n"); /* late: it must not run any more */
    play_start(&p, 6, 60, "exit 0\n");
    json_decref(play_end(&p, 60, "ok", 0, 0));
}

static void the_time_limit(void **state) {
    (void)state;
    json_t *m = play_start_message(&p, 5, 50, "trap 'exit 75' TERM\nwhile :; do sleep 0.05; done\n");
    json_object_set_new(m, "time_limit_s", json_integer(1));
    play_tell(&p, m);
    json_t *e = play_end(&p, 50, "timeout", 75, 0);
    assert_non_null(strstr(play_text(e, "message"), "time limit of 1 s"));
    json_decref(e);
}

/* A task of an array finds its index in its environment. */
static void a_task_knows_its_index(void **state) {
    (void)state;
    json_t *m = play_start_message(&p, 5, 50, "test \"$MULL_ARRAY_JOB/$MULL_ARRAY_INDEX\" = 4/17 || exit 9\n");
    json_t *spec = json_object_get(m, "spec");
    json_object_set_new(spec, "array_job", json_string("4"));
    json_object_set_new(spec, "array_index", json_integer(17));
    play_tell(&p, m);
    json_decref(play_end(&p, 50, "ok", 0, 0));
    play_start(&p, 6, 60, "test -z \"${MULL_ARRAY_INDEX+x}\" || exit 9\n");
    json_decref(play_end(&p, 60, "ok", 0, 0));
}

/* Its place in a gang over nodes: told to the ranks, and refused when it makes no sense. */
static void a_part_of_a_gang(void **state) {
    (void)state;
    json_t *m = play_start_message(
        &p, 5, 50,
        "test \"$MULL_RANK/$MULL_WORLD_SIZE/$MULL_LOCAL_RANK/$MULL_NODE_RANK/$MULL_NODE_COUNT\" = "
        "3/4/0/1/2 || exit 9\n"
        "test \"$MULL_MASTER_ADDR:$MULL_MASTER_PORT $MULL_NODES\" = \"fe80::1:20007 a,b\" || exit 8\n"
        "test \"$MULL_GANG_SECRET\" = s3cret -a -n \"$MULL_NODE_ADDR\" || exit 6\n"
        "test -z \"${MULL_RENDEZVOUS+x}\" || exit 7\n");
    json_t *gang = json_pack("{s:i, s:i, s:i, s:i, s:[s, s], s:s, s:i, s:s}", "first_rank", 3, "world_size", 4,
                             "node_rank", 1, "node_count", 2, "nodes", "a", "b", "master_addr", "fe80::1",
                             "master_port", 20007, "secret", "s3cret");
    json_object_set(m, "gang", gang);
    play_tell(&p, m);
    json_decref(play_end(&p, 50, "ok", 0, 0));
    static const char *const keys[] = {"first_rank", "world_size", "node_rank", "node_count", "master_port"};
    for (int i = 0; i < 5; i++) {
        json_t *bad = json_deep_copy(gang);
        json_object_set_new(bad, keys[i], json_integer(i % 2 ? -1 : (json_int_t)INT32_MAX));
        m = play_start_message(&p, 6, 60 + i, "exit 0\n");
        json_object_set_new(m, "gang", bad);
        play_tell(&p, m);
        json_decref(play_end(&p, 60 + i, "infra", -1, 0));
    }
    json_decref(gang);
}

/* Three ranks; one is lost; the others, deaf to SIGTERM, are killed after the grace. */
static void one_rank_lost_stops_the_gang(void **state) {
    (void)state;
    json_t *m = play_start_message(&p, 5, 50,
                                   "echo $$ >${0%/*}/rank.$MULL_RANK\n"
                                   "test $MULL_WORLD_SIZE = 3 || exit 9\n"
                                   "trap '' TERM\n"
                                   "while :; do sleep 0.1; test $MULL_RANK != 1 -o ! -e ${0%/*}/go || exit 3; done\n");
    json_object_set_new(m, "devices",
                        json_pack("[{s:s, s:i}, {s:s, s:i}, {s:s, s:i}]", "kind", "cpu", "index", 0, "kind", "cpu",
                                  "index", 1, "kind", "cpu", "index", 2));
    play_tell(&p, m);
    pid_t zero = play_pid(&p, "rank.0"), two = play_pid(&p, "rank.2");
    play_pid(&p, "rank.1");
    json_decref(play_await(&p, "attempt_started", SOON_MS));
    char go[128];
    snprintf(go, sizeof go, "%s/go", p.s.dir);
    play_write(go, "");
    json_t *e = play_await(&p, "log", SOON_MS);
    assert_string_equal(play_text(e, "stream"), "worker");
    json_decref(e);
    json_decref(play_end(&p, 50, "user", 3, 0));
    assert_false(mull_pid_alive(zero) || mull_pid_alive(two));
}

/* A job may want more ranks than it has devices: they share one, and have a folder to meet in. */
static void ranks_share_a_device(void **state) {
    (void)state;
    json_t *m = play_start_message(&p, 5, 50,
                                   "test $MULL_WORLD_SIZE = 2 && test $MULL_THREADS -ge 1 || exit 9\n"
                                   "mkdir -p \"$MULL_RENDEZVOUS\" || exit 8\n"
                                   "echo here >\"$MULL_RENDEZVOUS/$MULL_RANK\"\n"
                                   "for i in $(seq 100); do\n"
                                   "  test -e \"$MULL_RENDEZVOUS/0\" -a -e \"$MULL_RENDEZVOUS/1\" && exit 0\n"
                                   "  sleep 0.1\n"
                                   "done\n"
                                   "exit 7\n");
    json_object_set_new(json_object_get(m, "spec"), "ranks", json_integer(2));
    play_tell(&p, m);
    json_decref(play_end(&p, 50, "ok", 0, 0));
    play_start(&p, 6, 60, "test -z \"${MULL_RENDEZVOUS+x}\" || exit 9\n");
    json_decref(play_end(&p, 60, "ok", 0, 0));
}

/* What a rank says about the loss of another does not hide how that one was lost. */
static void the_first_loss_is_told(void **state) {
    (void)state;
    json_t *m =
        play_start_message(&p, 5, 50,
                           "case $MULL_RANK in\n"
                           "1) sleep 0.5; kill -9 $$ ;;\n"
                           "0) echo '{\"ev\":\"error\",\"class\":\"infra\",\"what\":\"lost\",\"message\":\"error: lost "
                           "another rank\"}' >&3\n"
                           "   sleep 3; exit 1 ;;\n"
                           "esac\n");
    json_object_set_new(json_object_get(m, "spec"), "ranks", json_integer(2));
    play_tell(&p, m);
    json_t *e = play_end(&p, 50, "infra", -1, SIGKILL);
    assert_non_null(strstr(play_text(e, "message"), "killed by signal 9"));
    json_decref(e);
}

/* A device is one attempt's at a time: the second start waits for the end of the first. */
static void devices_are_not_shared(void **state) {
    (void)state;
    play_start(&p, 5, 50, "sleep 0.5\n");
    play_start(&p, 6, 60, "exit 0\n");
    json_decref(play_end(&p, 50, "ok", 0, 0));
    json_t *e = play_await(&p, "attempt_started", SOON_MS);
    assert_int_equal(play_int(e, "fence"), 60);
    json_decref(e);
    json_decref(play_end(&p, 60, "ok", 0, 0));
    json_t *m = play_start_message(&p, 7, 70, "exit 0\n");
    json_object_set_new(m, "devices", json_pack("[{s:s, s:i}]", "kind", "cuda", "index", 0));
    play_tell(&p, m);
    e = play_end(&p, 70, "infra", -1, 0);
    assert_non_null(strstr(play_text(e, "message"), "a device is not on this node"));
    json_decref(e);
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, open_one, close_one)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(the_node_offers_its_devices, close_one),
        cmocka_unit_test_teardown(all_cuda_devices_or_none, close_one),
        TEST(every_word_in_order),
        TEST(statuses_and_signals),
        TEST(the_engines_own_words_are_the_message),
        TEST(an_engine_that_cannot_run),
        TEST(twice_and_late),
        TEST(a_newer_fence_ends_the_older_attempt),
        TEST(a_cancel_reaches_all_descendants),
        TEST(a_job_that_finishes_in_its_grace_is_finished),
        TEST(a_cancel_for_a_start_that_was_lost),
        TEST(the_time_limit),
        TEST(a_task_knows_its_index),
        TEST(a_part_of_a_gang),
        TEST(one_rank_lost_stops_the_gang),
        TEST(ranks_share_a_device),
        TEST(the_first_loss_is_told),
        TEST(devices_are_not_shared),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
