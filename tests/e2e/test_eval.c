/* Evaluations as jobs through the real commands: the figures in `mull show` and in the metrics, the files in OUT the
 * same bytes as by hand, tasks checked at submit, refused words. One `mull up` serves all of them. */
#include "tests/support/eval_data.h"
#include "tests/support/servers.h"

#include <unistd.h>

#define MULL MULL_BIN_DIR "/mull"
#define ENGINE MULL_BIN_DIR "/mull-engine"
#define RUN(...) mull_run_command((const char *const[]){MULL, __VA_ARGS__, NULL}, LIMIT_S)
enum { LIMIT_S = 240, ROWS = 21, SAT = 5 };
static const char *const FILES[] = {"results.json",           "samples_blink_iqtest.jsonl", "errors_blink_iqtest.jsonl",
                                    "samples_sat_real.jsonl", "errors_sat_real.jsonl",      NULL};

static char *folder, model[300], data[300], hand[300];

static int start(void **state) {
    (void)state;
    folder = mull_temp_folder("eval");
    unsetenv("MULL_SERVER");
    setenv("MULL_STATE", folder, 1);
    snprintf(model, sizeof model, "%s/model", folder);
    snprintf(data, sizeof data, "%s/data", folder);
    snprintf(hand, sizeof hand, "%s/by/hand", folder);
    mull_eval_data(data, ROWS, SAT);
    free(mull_run_ok((const char *const[]){ENGINE, "init", "--preset", "tiny", "--out", model, NULL}, LIMIT_S));
    free(mull_run_ok((const char *const[]){ENGINE, "eval", "--model", model, "--tasks", "blink_iqtest,sat_real",
                                           "--data", data, "--out", hand, "--max-new-tokens", "12", "--min-pixels",
                                           "3136", "--batch", "3", "--quiet", NULL},
                     LIMIT_S));
    json_decref(mull_run_json((const char *const[]){MULL, "up", "--devices", "cpu:2", "--json", NULL}, LIMIT_S));
    return 0;
}

static int stop(void **state) {
    (void)state;
    mull_run r = RUN("down");
    int status = r.status;
    mull_run_fini(&r);
    mull_tree_remove(folder);
    free(folder);
    return status;
}

static const char *first_line(const mull_run *r) {
    static char id[24];
    snprintf(id, sizeof id, "%.*s", (int)strcspn(r->out, "\n"), r->out);
    return id;
}

static void a_job_as_by_hand(void **state) {
    (void)state;
    char out[300];
    snprintf(out, sizeof out, "%s/one", folder);
    mull_run r = RUN("submit", "eval", "--model", model, "--tasks", "blink_iqtest,sat_real", "--data", data, "--out",
                     out, "--max-new-tokens", "12", "--min-pixels", "3136", "--wait");
    if (r.status) fail_msg("%d: %s", r.status, r.err);
    assert_non_null(strstr(r.err, "blink_iqtest")); /* the table */
    assert_non_null(strstr(r.err, "95 %"));
    const char *id = first_line(&r);
    mull_eval_same(hand, out, FILES);
    char path[600];
    snprintf(path, sizeof path, "%s/results.json", out);
    json_t *file = json_load_file(path, 0, NULL),
           *job = mull_run_json((const char *const[]){MULL, "show", id, "--json", NULL}, LIMIT_S);
    const json_t *rows = json_object_get(job, "eval_results"), *blink = json_array_get(rows, 0),
                 *ci = json_object_get(json_object_get(file, "confidence"), "blink_iqtest");
    assert_int_equal(json_array_size(rows), 2);
    assert_string_equal(json_string_value(json_object_get(blink, "task")), "blink_iqtest");
    assert_string_equal(json_string_value(json_object_get(blink, "metric")), "blink_score_overall");
    assert_int_equal(json_integer_value(json_object_get(blink, "n")), ROWS);
    assert_int_equal(json_integer_value(json_object_get(blink, "errors")), ROWS / 7);
    assert_true(json_is_number(json_object_get(ci, "low")));
    assert_true(json_number_value(json_object_get(blink, "value")) ==
                json_number_value(json_object_get(ci, "estimate")));
    assert_true(json_number_value(json_object_get(blink, "low")) == json_number_value(json_object_get(ci, "low")));
    assert_int_equal(json_integer_value(json_object_get(json_object_get(job, "progress"), "done")), ROWS + 2 * SAT);
    /* the same figure is a metric, and its samples are rows */
    mull_run m = RUN("metrics", id, "--json");
    assert_int_equal(m.status, 0);
    assert_non_null(strstr(m.out, "\"blink_iqtest/blink_score_overall\""));
    assert_non_null(strstr(m.out, "\"sat_real/sat_score_overall\""));
    mull_run_fini(&m);
    m = RUN("show", id);
    assert_non_null(strstr(m.out, "sat_score_overall"));
    mull_run_fini(&m);
    mull_run_fini(&r);
    json_decref(file);
    json_decref(job);
}

static void what_is_refused(void **state) {
    (void)state;
    static const struct {
        const char *flag, *value, *word;
    } BAD[] = {{"--tasks", "blink_mw", "blink_mv"},
               {"--data", "/nowhere", "/nowhere"},
               {"--data", MULL_TEST_DATA "/media/ball.mp4", "no folder"},
               {"--compat", "theirs", "ours|release"},
               {"--prompt-style", "latent", "latents"},
               {"--top-p", "0.5", "no key of kind eval"},
               {"--limit", "0", "from 1"}};
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        char out[300];
        snprintf(out, sizeof out, "%s/bad", folder);
        mull_run r = RUN("submit", "eval", "--model", model, "--tasks", "blink_mv", "--data", data, "--out", out,
                         BAD[i].flag, BAD[i].value);
        if (r.status != 2 || !strstr(r.err, BAD[i].word))
            fail_msg("%s %s: %d, %s", BAD[i].flag, BAD[i].value, r.status, r.err);
        mull_run_fini(&r);
    }
    mull_run r = RUN("submit", "eval", "--model", model);
    assert_int_equal(r.status, 2);
    assert_non_null(strstr(r.err, "tasks"));
    assert_non_null(strstr(r.err, "data"));
    assert_non_null(strstr(r.err, "out"));
    mull_run_fini(&r);
}

/* A dataset that is not there is the job's own error, which says what to download. */
static void a_missing_dataset(void **state) {
    (void)state;
    char out[300];
    snprintf(out, sizeof out, "%s/missing", folder);
    mull_run r = RUN("submit", "eval", "--model", model, "--tasks", "erqa", "--data", data, "--out", out, "--wait");
    assert_int_equal(r.status, 1);
    if (!strstr(r.err, "ERQA")) fail_msg("%s", r.err);
    mull_run_fini(&r);
}

/* Every task that the engine lists can be submitted: the two lists are one. */
static void every_task_of_the_engine(void **state) {
    (void)state;
    char *help = mull_run_ok((const char *const[]){ENGINE, "eval", "--help", NULL}, LIMIT_S);
    char *at = strstr(help, "\nTasks:"), *save = NULL;
    int n = 0;
    assert_non_null(at);
    for (char *name = strtok_r(at + 7, " \n", &save); name; name = strtok_r(NULL, " \n", &save), n++) {
        mull_run r =
            RUN("submit", "eval", "--model", model, "--tasks", name, "--data", data, "--out", "x", "--dry-run");
        if (r.status) fail_msg("%s: %s", name, r.err);
        mull_run_fini(&r);
    }
    assert_true(n >= 15);
    free(help);
}

int main(void) {
    if (access("/usr/bin/redis-server", X_OK) || access("/usr/lib/postgresql", X_OK)) {
        fprintf(stderr, "skipped: redis-server and PostgreSQL are not installed (ops/deps)\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_job_as_by_hand), cmocka_unit_test(what_is_refused),
                                       cmocka_unit_test(a_missing_dataset), cmocka_unit_test(every_task_of_the_engine)};
    return cmocka_run_group_tests(tests, start, stop);
}
