/* Jobs from submit to their ends through the real commands: time limit, cancel and requeue with partial output kept,
 * down and up in the middle, hold, dependencies, client keys, refused specs, exit statuses. Where work was interrupted
 * its result is, byte for byte, that of the same work done once by hand. One `mull up` serves all of them. */
#include "tests/support/run.h"
#include "tests/support/servers.h"

#include "tests/support/check.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MULL MULL_BIN_DIR "/mull"
#define RUN(...) mull_run_command((const char *const[]){MULL, __VA_ARGS__, NULL}, LIMIT_S)
/* ROWS: long enough to be interrupted; the tests fail when it is not. LONG_ROWS: never finished. */
enum { LIMIT_S = 240, ROWS = 2400, LONG_ROWS = 60000 };

static char *folder, *want, model[300], rows[300], endless[300];

static void write_rows(const char *path, int n) {
    FILE *f = fopen(path, "we");
    assert_non_null(f);
    for (int i = 0; i < n; i++)
        fprintf(f,
                "{\"custom_id\":\"r%d\",\"messages\":[{\"role\":\"user\",\"content\":\"Row %d of many\"}],"
                "\"temperature\":0.8,\"seed\":%d}\n",
                i, i, i * 7);
    assert_int_equal(fclose(f), 0);
}

static void mull_up(void) {
    json_decref(mull_run_json((const char *const[]){MULL, "up", "--devices", "cpu:2", "--json", NULL}, LIMIT_S));
}

static int start(void **state) {
    (void)state;
    char out[400];
    folder = mull_temp_folder("jobs");
    unsetenv("MULL_SERVER");
    setenv("MULL_STATE", folder, 1);
    snprintf(model, sizeof model, "%s/model", folder);
    snprintf(rows, sizeof rows, "%s/rows.jsonl", folder);
    snprintf(endless, sizeof endless, "%s/endless.jsonl", folder);
    snprintf(out, sizeof out, "%s/by-hand", folder);
    free(mull_run_ok(
        (const char *const[]){MULL_BIN_DIR "/mull-engine", "init", "--preset", "tiny", "--out", model, NULL}, LIMIT_S));
    write_rows(rows, ROWS);
    write_rows(endless, LONG_ROWS);
    free(mull_run_ok((const char *const[]){MULL_BIN_DIR "/mull-engine", "annotate", "--model", model, "--in", rows,
                                           "--out", out, "--max-new-tokens", "200", "--shard-rows", "50", NULL},
                     LIMIT_S));
    strcat(out, "/output.jsonl");
    want = mull_slurp(out, NULL);
    assert_non_null(want);
    mull_up();
    return 0;
}

static int stop(void **state) {
    (void)state;
    mull_run r = RUN("down");
    int status = r.status;
    mull_run_fini(&r);
    mull_tree_remove(folder);
    free(folder);
    free(want);
    return status;
}

/* ---- the words of the tests ---- */

static void expect_status(mull_run r, int status) {
    if (r.status != status) fail_msg("status %d, not %d: %s%s", r.status, status, r.out, r.err);
    mull_run_fini(&r);
}

/* The id that submit prints. */
static const char *id_of(mull_run r) {
    static char ids[16][24];
    static int at;
    if (r.status != 0) fail_msg("submit: %d: %s", r.status, r.err);
    char *id = ids[at++ % 16];
    snprintf(id, 24, "%.*s", (int)strcspn(r.out, "\n"), r.out);
    assert_true(strtoll(id, NULL, 10) > 0);
    mull_run_fini(&r);
    return id;
}

static json_t *show(const char *id) {
    return mull_run_json((const char *const[]){MULL, "show", id, "--json", NULL}, LIMIT_S);
}

/* Reasons are written by the next pass of the scheduler, a second or so after they have become true. */
static void expect_word(const char *id, const char *key, const char *value) {
    bool right = false;
    json_t *j = NULL;
    for (int i = 0; i < 150 && !right; i++) {
        if (i > 0) mull_sleep_ms(100);
        json_decref(j);
        j = show(id);
        const char *got = json_string_value(json_object_get(j, key));
        right = got && strcmp(got, value) == 0;
    }
    char *text = right ? NULL : json_dumps(j, 0);
    if (!right) fail_msg("job %s: %s is not %s: %s", id, key, value, text);
    json_decref(j);
}

static bool running_with_rows_done(void *id) {
    json_t *j = show(id);
    bool yes = json_integer_value(json_object_get(json_object_get(j, "progress"), "done")) >= 100;
    const char *s = json_string_value(json_object_get(j, "state"));
    if (strcmp(s, "RUNNING") != 0 && strcmp(s, "PENDING") != 0) fail_msg("it ended as %s before it was disturbed", s);
    json_decref(j);
    return yes;
}

static const char *annotate(const char *in, const char *out, const char *time) {
    char path[400];
    snprintf(path, sizeof path, "%s/%s", folder, out);
    return id_of(RUN("submit", "annotate", "--model", model, "--in", in, "--out", path, "--max-new-tokens", "200",
                     "--shard-rows", "50", "--time", time));
}

static void wait_for_the_middle(const char *id) {
    if (!mull_wait_for(running_with_rows_done, (void *)(uintptr_t)id, LIMIT_S * 1000))
        fail_msg("job %s made no progress", id);
}

static void expect_output(const char *out) {
    char path[400];
    snprintf(path, sizeof path, "%s/%s/output.jsonl", folder, out);
    char *got = mull_slurp(path, NULL);
    if (!got) fail_msg("%s is not there", path);
    if (strcmp(got, want) != 0) fail_msg("%s differs from the work done by hand", path);
    free(got);
}

static const char *generate(const char *more, const char *value) {
    return id_of(RUN("submit", "generate", "--model", model, "--prompt", "x", "--max-new-tokens", "2", more, value));
}

/* A job whose input goes away between submit and start. */
static const char *failing(void) {
    char in[400], out[400];
    snprintf(in, sizeof in, "%s/gone.jsonl", folder);
    snprintf(out, sizeof out, "%s/gone", folder);
    write_rows(in, 1);
    const char *id = id_of(RUN("submit", "annotate", "--model", model, "--in", in, "--out", out, "--hold"));
    unlink(in);
    return id;
}

/* ---- the tests ---- */

static void a_time_limit(void **state) {
    (void)state;
    const char *id = annotate(endless, "limited", "2");
    expect_status(RUN("wait", id, "--quiet"), 124);
    expect_word(id, "state", "TIMEOUT");
    expect_word(id, "message", "ran longer than its time limit of 2 s");
}

static void a_cancel_keeps_what_is_done(void **state) {
    (void)state;
    char path[400];
    struct stat st;
    const char *id = annotate(rows, "cancelled", "1:00:00");
    wait_for_the_middle(id);
    expect_status(RUN("cancel", id), 0);
    expect_status(RUN("wait", id, "--quiet"), 3);
    expect_word(id, "state", "CANCELLED");
    snprintf(path, sizeof path, "%s/cancelled/.mull/shard-00000000.rows", folder);
    assert_int_equal(stat(path, &st), 0);
    assert_true(st.st_size > 0);
    json_t *j = show(id);
    json_int_t done = json_integer_value(json_object_get(json_object_get(j, "progress"), "done"));
    assert_true(done >= 100);
    json_decref(j);
    expect_status(RUN("requeue", id), 0);
    expect_status(RUN("wait", id, "--quiet"), 0);
    expect_word(id, "state", "COMPLETED");
    expect_output("cancelled");
    j = show(id);
    assert_int_equal(json_array_size(json_object_get(j, "attempts")), 2);
    json_decref(j);
}

static void down_and_up_in_the_middle(void **state) {
    (void)state;
    const char *id = annotate(rows, "downed", "1:00:00");
    wait_for_the_middle(id);
    expect_status(RUN("down"), 0);
    mull_up();
    expect_status(RUN("wait", id, "--quiet"), 0);
    expect_output("downed");
    json_t *j = show(id);
    const json_t *attempts = json_object_get(j, "attempts");
    assert_int_equal(json_array_size(attempts), 2);
    /* The engine was asked, saved and said so: not a failure of anybody. */
    size_t i;
    json_t *a;
    int preempted = 0;
    json_array_foreach(attempts, i, a) preempted +=
        !strcmp(json_string_value(json_object_get(a, "class")), "requeue") &&
        json_integer_value(json_object_get(a, "exit")) == 75;
    assert_int_equal(preempted, 1);
    json_decref(j);
}

static void a_finished_job_again(void **state) {
    (void)state;
    const char *id = generate("--name", "twice");
    expect_status(RUN("wait", id, "--quiet"), 0);
    expect_status(RUN("cancel", id), 0); /* nothing to do is no error */
    expect_word(id, "state", "COMPLETED");
    expect_status(RUN("requeue", id), 0);
    expect_status(RUN("wait", id, "--quiet"), 0);
    json_t *j = show(id);
    assert_int_equal(json_integer_value(json_object_get(j, "attempt")), 2);
    json_decref(j);
}

static void hold_and_release(void **state) {
    (void)state;
    const char *id = generate("--begin", "now+1h");
    expect_status(RUN("hold", id), 0);
    expect_word(id, "reason", "Held");
    expect_status(RUN("release", id), 0);
    expect_status(RUN("wait", id, "--quiet", "--timeout", "1"), 124); /* its time has not come */
    expect_word(id, "reason", "BeginTime");
    expect_status(RUN("cancel", id), 0);
    expect_status(RUN("requeue", id), 0);
    expect_status(RUN("cancel", id), 0);
    const char *held =
        id_of(RUN("submit", "generate", "--model", model, "--prompt", "x", "--max-new-tokens", "2", "--hold"));
    expect_status(RUN("wait", held, "--quiet", "--timeout", "1"), 124);
    expect_status(RUN("release", held), 0);
    expect_status(RUN("wait", held, "--quiet"), 0);
}

static void after_other_jobs(void **state) {
    (void)state;
    char ok[64], fail[64], any[64];
    const char *bad = failing();
    snprintf(ok, sizeof ok, "afterok:%s", bad);
    snprintf(fail, sizeof fail, "afterfail:%s", bad);
    snprintf(any, sizeof any, "afterany:%s", bad);
    const char *never = generate("--after", ok), *then = generate("--after", fail), *always = generate("--after", any);
    expect_status(RUN("wait", then, "--quiet", "--timeout", "1"), 124);
    expect_word(then, "reason", "Dependency");
    expect_status(RUN("release", bad), 0);
    expect_status(RUN("wait", bad, "--quiet"), 1);
    expect_word(bad, "state", "FAILED");
    expect_status(RUN("wait", then, always, "--quiet"), 0);
    expect_status(RUN("wait", never, "--quiet"), 3);
    expect_status(RUN("wait", then, bad, never, "--quiet"), 1); /* the first bad one's */
    snprintf(ok, sizeof ok, "afterok:%s:%s", then, always);
    expect_status(RUN("wait", generate("--after", ok), "--quiet"), 0);
    snprintf(fail, sizeof fail, "afterfail:%s", then);
    const char *hopeless = generate("--after", fail);
    expect_status(RUN("wait", hopeless, "--quiet"), 3);
    expect_status(RUN("submit", "generate", "--model", model, "--prompt", "x", "--after", "afterok:99999999"), 2);
}

static void the_same_key_is_the_same_job(void **state) {
    (void)state;
    const char *first = generate("--key", "nightly"), *again = generate("--key", "nightly"),
               *other = generate("--key", "weekly");
    assert_string_equal(first, again);
    assert_string_not_equal(first, other);
    expect_status(RUN("wait", first, other, "--quiet"), 0);
    again = generate("--key", "nightly"); /* also when it has ended */
    assert_string_equal(first, again);
}

static void every_error_of_a_spec(void **state) {
    (void)state;
    static const char *const words[] = {"line 2: modle",
                                        "did you mean model?",
                                        "line 4: priority",
                                        "line 6: sampling.max_new_token",
                                        "did you mean max_new_tokens?",
                                        "line 7: time_limit"};
    char spec[400], text[1000];
    snprintf(spec, sizeof spec, "%s/bad.yaml", folder);
    snprintf(text, sizeof text,
             "kind: annotate\nmodle: %s\ninput: %s\npriority: lots\nsampling:\n  max_new_token: 5\n"
             "time_limit: soon\n",
             model, rows);
    mull_write_file(spec, text, strlen(text));
    mull_run r = RUN("submit", spec);
    assert_int_equal(r.status, 2);
    assert_int_equal(r.out_len, 0);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (!strstr(r.err, words[i])) fail_msg("not said: %s\n%s", words[i], r.err);
    mull_run_fini(&r);
    expect_status(RUN("submit", spec, "--dry-run"), 2);
    expect_status(RUN("submit", "annotate", "--model", model, "--in", "/nowhere.jsonl", "--out", "x"), 2);
}

/* The start command is lost (Redis forgets the worker's inbox while the worker stands still) and the job is cancelled
 * before it is sent again: from then on only the cancel is sent, and the worker must answer it. */
static void a_cancel_when_the_start_was_lost(void **state) {
    (void)state;
    char sock[400];
    json_t *upped = mull_run_json((const char *const[]){MULL, "up", "--json", NULL}, LIMIT_S);
    pid_t worker = (pid_t)json_integer_value(json_object_get(json_object_get(upped, "pids"), "worker"));
    json_decref(upped);
    snprintf(sock, sizeof sock, "%s/run/redis.sock", folder);
    kill(worker, SIGSTOP);
    mull_sleep_ms(6000); /* its blocked read of the inbox has been answered: the command stays in Redis */
    const char *id = generate("--name", "lost");
    bool running = false;
    for (int i = 0; i < 100 && !running; i++) {
        json_t *j = show(id);
        running = !strcmp(json_string_value(json_object_get(j, "state")), "RUNNING");
        json_decref(j);
        mull_sleep_ms(20);
    }
    assert_true(running);
    mull_run r = mull_run_command((const char *const[]){"redis-cli", "-s", sock, "FLUSHALL", NULL}, LIMIT_S);
    expect_status(r, 0);
    expect_status(RUN("cancel", id), 0);
    kill(worker, SIGCONT);
    expect_status(RUN("wait", id, "--quiet", "--timeout", "60"), 3);
    expect_word(id, "state", "CANCELLED");
    expect_word(id, "message", "cancelled before it started");
    expect_status(RUN("wait", generate("--name", "next"), "--quiet"), 0);
}

int main(void) {
    if (access("/usr/bin/redis-server", X_OK) || access("/usr/lib/postgresql", X_OK)) {
        fprintf(stderr, "skipped: redis-server and PostgreSQL are not installed (ops/deps)\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_time_limit),
        cmocka_unit_test(a_cancel_keeps_what_is_done),
        cmocka_unit_test(down_and_up_in_the_middle),
        cmocka_unit_test(a_finished_job_again),
        cmocka_unit_test(hold_and_release),
        cmocka_unit_test(after_other_jobs),
        cmocka_unit_test(the_same_key_is_the_same_job),
        cmocka_unit_test(every_error_of_a_spec),
        cmocka_unit_test(a_cancel_when_the_start_was_lost),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
