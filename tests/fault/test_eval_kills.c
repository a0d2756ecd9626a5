/* SIGKILL of each process of a running queue, one after another, in the middle of one evaluation: it completes, and its
 * results and samples are byte for byte those of the same evaluation done once by hand, undisturbed.
 *
 * When the kills come is drawn from a seed, which is printed; MULL_FAULT_SEED replays it, MULL_FAULT_KILLS is their
 * number. */
#include "tests/support/eval_data.h"
#include "tests/support/servers.h"

#include <signal.h>
#include <time.h>
#include <unistd.h>

enum { ROWS = 900, SAT = 200, JOB_SECONDS = 400 };
#define BIN(name) MULL_BIN_DIR "/" name
static const char *const FILES[] = {"results.json",           "samples_blink_iqtest.jsonl", "errors_blink_iqtest.jsonl",
                                    "samples_sat_real.jsonl", "errors_sat_real.jsonl",      NULL};
static const char *const VICTIMS[] = {"engine", "worker", "scheduler", "engine", "redis", "postgres"};

static char *folder, model[300], data[300], hand[300], out[300];
static int kills = 6;

static int set_up(void **unused) {
    (void)unused;
    const char *given = getenv("MULL_FAULT_SEED"), *number = getenv("MULL_FAULT_KILLS");
    char state[300];
    unsigned seed = given ? (unsigned)strtoul(given, NULL, 10) : (unsigned)time(NULL);
    if (number) kills = atoi(number);
    printf("MULL_FAULT_SEED=%u\n", seed);
    srand(seed);
    folder = mull_temp_folder("fault-eval");
    snprintf(model, sizeof model, "%s/model", folder);
    snprintf(data, sizeof data, "%s/data", folder);
    snprintf(hand, sizeof hand, "%s/hand", folder);
    snprintf(out, sizeof out, "%s/out", folder);
    snprintf(state, sizeof state, "%s/state", folder);
    unsetenv("MULL_SERVER");
    setenv("MULL_STATE", state, 1);
    mull_eval_data(data, ROWS, SAT);
    free(mull_run_ok((const char *[]){BIN("mull-engine"), "init", "--preset", "tiny", "--out", model, NULL}, 60));
    free(mull_run_ok((const char *[]){BIN("mull-engine"), "eval", "--model", model, "--tasks", "blink_iqtest,sat_real",
                                      "--data", data, "--out", hand, "--max-new-tokens", "100", "--min-pixels", "3136",
                                      "--bootstrap", "100", "--quiet", NULL},
                     JOB_SECONDS));
    return 0;
}

static json_t *up(void) {
    return mull_run_json((const char *[]){BIN("mull"), "up", "--devices", "cpu:2", "--json", NULL}, 90);
}

static int tear_down(void **unused) {
    (void)unused;
    free(mull_run_ok((const char *[]){BIN("mull"), "down", NULL}, 90));
    mull_tree_remove(folder);
    free(folder);
    return 0;
}

/* Rows done, or -1 when the job has ended. */
static json_int_t done_of(const char *id) {
    json_t *j = mull_run_json((const char *[]){BIN("mull"), "show", id, "--json", NULL}, 30);
    json_int_t done = json_integer_value(json_object_get(json_object_get(j, "progress"), "done"));
    const char *s = json_string_value(json_object_get(j, "state"));
    if (s && strcmp(s, "PENDING") != 0 && strcmp(s, "RUNNING") != 0) done = -1;
    json_decref(j);
    return done;
}

static void kill_one(const char *victim, json_t *upped) {
    const json_t *pids = json_object_get(upped, "pids");
    pid_t worker = (pid_t)json_integer_value(json_object_get(pids, "worker")), pid = 0;
    for (int i = 0; !strcmp(victim, "engine") && !pid && i < 200; i++) {
        pid = mull_find_descendant(worker, "mull-engine");
        if (!pid) mull_sleep_ms(50);
    }
    if (strcmp(victim, "engine") != 0) pid = (pid_t)json_integer_value(json_object_get(pids, victim));
    assert_true(pid > 1);
    assert_int_equal(kill(pid, SIGKILL), 0);
    printf("killed %s\n", victim);
}

static void killed_all_the_time(void **unused) {
    (void)unused;
    json_t *upped = up();
    json_t *job = mull_run_json((const char *[]){BIN("mull"),
                                                 "submit",
                                                 "eval",
                                                 "--model",
                                                 model,
                                                 "--tasks",
                                                 "blink_iqtest,sat_real",
                                                 "--data",
                                                 data,
                                                 "--out",
                                                 out,
                                                 "--max-new-tokens",
                                                 "100",
                                                 "--min-pixels",
                                                 "3136",
                                                 "--bootstrap",
                                                 "100",
                                                 "--retries",
                                                 "100",
                                                 "--json",
                                                 NULL},
                                30);
    char id[64];
    snprintf(id, sizeof id, "%s", json_string_value(json_object_get(job, "id")));
    json_decref(job);
    json_int_t last = 0, now = 0;
    int killed = 0;
    for (; killed < kills; killed++) {
        for (int i = 0; i < 1200 && (now = done_of(id)) <= last && now >= 0; i++) mull_sleep_ms(50);
        if (now < 0) break;
        if (now <= last) fail_msg("no progress behind row %lld", (long long)last);
        last = now;
        mull_sleep_ms(rand() % 500);
        kill_one(VICTIMS[killed % 6], upped);
        mull_sleep_ms(300);
        json_decref(upped);
        upped = up();
    }
    json_decref(upped);
    assert_true(killed >= 3); /* else the work is too short to be disturbed */
    mull_run waited = mull_run_command((const char *[]){BIN("mull"), "wait", id, "--quiet", NULL}, JOB_SECONDS);
    if (waited.status != 0) fail_msg("mull wait: %d: %s", waited.status, waited.err);
    mull_run_fini(&waited);
    mull_eval_same(hand, out, FILES);
    json_t *shown = mull_run_json((const char *[]){BIN("mull"), "show", id, "--json", NULL}, 30);
    assert_int_equal(json_array_size(json_object_get(shown, "eval_results")), 2);
    assert_true(json_array_size(json_object_get(shown, "attempts")) >= 2);
    json_decref(shown);
}

int main(void) {
    if (access("/usr/bin/redis-server", X_OK) || access("/usr/lib/postgresql", X_OK)) return 77;
    const struct CMUnitTest tests[] = {cmocka_unit_test(killed_all_the_time)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
