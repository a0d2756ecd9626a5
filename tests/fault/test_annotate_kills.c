/* SIGKILL of each process of a running queue in the middle of an annotate job: after `mull up` has brought back what
 * died, the job completes, and its output is byte for byte that of the same work done once by hand, undisturbed.
 *
 * One row in seven is bad in some way, and media are among them, so that errors and the vision tower are hit as well.
 * When in the job's life the kill comes is drawn from a seed, which is printed; MULL_FAULT_SEED replays it. */
#include "tests/support/run.h"
#include "tests/support/servers.h"

#include <signal.h>
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

/* Long enough to be disturbed on a fast machine: wait_for_the_middle fails when it is not. */
enum { ROWS = 2400, JOB_SECONDS = 240 };

#define BIN(name) MULL_BIN_DIR "/" name

static char *folder, *model, *input, *state, *reference_output, *reference_errors;
static unsigned seed;

static char *in_folder(const char *name) {
    char *path = malloc(strlen(folder) + strlen(name) + 2);
    assert_non_null(path);
    sprintf(path, "%s/%s", folder, name);
    return path;
}

static void write_rows(void) {
    FILE *f = fopen(input, "we");
    assert_non_null(f);
    for (int i = 0; i < ROWS; i++) {
        if (i % 14 == 6)
            fprintf(f, "{\"custom_id\":\"r%d\",\"method\":\"POST\"\n", i); /* cut off */
        else if (i % 14 == 13)
            fprintf(
                f,
                "{\"custom_id\":\"r%d\",\"method\":\"POST\",\"url\":\"/v1/chat/completions\",\"body\":{\"messages\":"
                "[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"file://%s/"
                "none.png\"}},{\"type\":\"text\",\"text\":\"What?\"}]}]}}\n",
                i, MULL_TEST_DATA "/media");
        else if (i % 14 == 3)
            fprintf(
                f,
                "{\"custom_id\":\"r%d\",\"method\":\"POST\",\"url\":\"/v1/chat/completions\",\"body\":{\"messages\":"
                "[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"file://%s/"
                "small_palette.png\"}},{\"type\":\"text\",\"text\":\"Row %d?\"}]}]}}\n",
                i, MULL_TEST_DATA "/media", i);
        else
            fprintf(
                f,
                "{\"custom_id\":\"r%d\",\"method\":\"POST\",\"url\":\"/v1/chat/completions\",\"body\":{\"messages\":"
                "[{\"role\":\"user\",\"content\":\"Row %d of many\"}],\"temperature\":0.8,\"seed\":%d}}\n",
                i, i, i * 7);
    }
    assert_int_equal(fclose(f), 0);
}

static int set_up(void **unused) {
    (void)unused;
    const char *given = getenv("MULL_FAULT_SEED");
    seed = given ? (unsigned)strtoul(given, NULL, 10) : (unsigned)time(NULL);
    printf("MULL_FAULT_SEED=%u\n", seed);
    srand(seed);
    folder = mull_temp_folder("fault");
    model = in_folder("model");
    input = in_folder("rows.jsonl");
    state = in_folder("state");
    setenv("MULL_STATE", state, 1);
    write_rows();
    free(mull_run_ok((const char *[]){BIN("mull-engine"), "init", "--preset", "tiny", "--out", model, NULL}, 60));
    char *out = in_folder("reference");
    free(mull_run_ok((const char *[]){BIN("mull-engine"), "annotate", "--model", model, "--in", input, "--out", out,
                                      "--max-new-tokens", "200", "--shard-rows", "50", "--media-root",
                                      MULL_TEST_DATA "/media", NULL},
                     JOB_SECONDS));
    free(out);
    char *path = in_folder("reference/output.jsonl");
    reference_output = mull_slurp(path, NULL);
    free(path);
    path = in_folder("reference/errors.jsonl");
    reference_errors = mull_slurp(path, NULL);
    free(path);
    return reference_output && reference_errors ? 0 : -1;
}

static json_t *up(void) {
    return mull_run_json((const char *[]){BIN("mull"), "up", "--devices", "cpu:2", "--json", NULL}, 90);
}

static int tear_down(void **unused) {
    (void)unused;
    free(mull_run_ok((const char *[]){BIN("mull"), "down", NULL}, 90));
    mull_tree_remove(folder);
    return 0;
}

static pid_t pid_of(const json_t *upped, const char *process) {
    return (pid_t)json_integer_value(json_object_get(json_object_get(upped, "pids"), process));
}

static json_t *job_now(const char *id) {
    return mull_run_json((const char *[]){BIN("mull"), "show", id, "--json", NULL}, 30);
}

/* Waits until some rows are done, then a while longer by chance. Fails when the job ends before: the work is too short
 * to be disturbed. */
static void wait_for_the_middle(const char *id) {
    for (int i = 0; i < 1200; i++) {
        json_t *j = job_now(id);
        json_int_t done = json_integer_value(json_object_get(json_object_get(j, "progress"), "done"));
        const char *s = json_string_value(json_object_get(j, "state"));
        bool ended = s && strcmp(s, "PENDING") != 0 && strcmp(s, "RUNNING") != 0;
        if (ended) fail_msg("job %s ended as %s before it could be disturbed", id, s);
        json_decref(j);
        if (done > 0) {
            mull_sleep_ms(rand() % 400);
            return;
        }
        mull_sleep_ms(50);
    }
    fail_msg("job %s made no progress in a minute", id);
}

static void expect_file(const char *out, const char *name, const char *want) {
    char path[600];
    snprintf(path, sizeof path, "%s/%s", out, name);
    char *got = mull_slurp(path, NULL);
    if (!got) fail_msg("%s is not there", path);
    if (strcmp(got, want) != 0) {
        size_t at = 0;
        while (got[at] && got[at] == want[at]) at++;
        fail_msg("%s differs from the undisturbed one at byte %zu of %zu:\n%.300s\nwanted:\n%.300s", path, at,
                 strlen(want), got + at, want + at);
    }
    free(got);
}

/* victim: a key of "pids", or "engine". */
static void kill_in_the_middle(const char *victim) {
    json_t *upped = up();
    char out[600], id[64];
    snprintf(out, sizeof out, "%s/out-%s-%d", folder, victim, rand());
    json_t *job = mull_run_json((const char *[]){BIN("mull"), "submit", "annotate", "--model", model, "--in", input,
                                                 "--out", out, "--max-new-tokens", "200", "--shard-rows", "50",
                                                 "--media-root", MULL_TEST_DATA "/media", "--json", NULL},
                                30);
    snprintf(id, sizeof id, "%s", json_string_value(json_object_get(job, "id")));
    json_decref(job);
    wait_for_the_middle(id);
    pid_t worker = pid_of(upped, "worker"), engine = mull_find_descendant(worker, "mull-engine");
    pid_t pid = strcmp(victim, "engine") == 0 ? engine : pid_of(upped, victim);
    assert_true(pid > 1);
    assert_int_equal(kill(pid, SIGKILL), 0);
    json_decref(upped);
    mull_sleep_ms(500);
    json_decref(up());
    mull_run waited = mull_run_command((const char *[]){BIN("mull"), "wait", id, NULL}, JOB_SECONDS);
    if (waited.status != 0) fail_msg("mull wait after the death of %s: %d: %s", victim, waited.status, waited.err);
    mull_run_fini(&waited);
    if (strcmp(victim, "worker") == 0 || strcmp(victim, "engine") == 0) assert_false(mull_pid_alive(engine));
    json_t *shown = job_now(id);
    assert_string_equal(json_string_value(json_object_get(shown, "state")), "COMPLETED");
    json_decref(shown);
    expect_file(out, "output.jsonl", reference_output);
    expect_file(out, "errors.jsonl", reference_errors);
}

static void engine_killed(void **unused) {
    (void)unused;
    kill_in_the_middle("engine");
}
static void worker_killed(void **unused) {
    (void)unused;
    kill_in_the_middle("worker");
}
static void scheduler_killed(void **unused) {
    (void)unused;
    kill_in_the_middle("scheduler");
}
static void redis_killed(void **unused) {
    (void)unused;
    kill_in_the_middle("redis");
}
static void postgres_killed(void **unused) {
    (void)unused;
    kill_in_the_middle("postgres");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(engine_killed), cmocka_unit_test(worker_killed),
                                       cmocka_unit_test(scheduler_killed), cmocka_unit_test(redis_killed),
                                       cmocka_unit_test(postgres_killed)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
