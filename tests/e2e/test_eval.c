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

/* The rows shared among the tasks of an array: one record, the same bytes. */
static void sharded(void **state) {
    (void)state;
    char out[300];
    snprintf(out, sizeof out, "%s/sharded", folder);
    mull_run r = RUN("submit", "eval", "--model", model, "--tasks", "blink_iqtest,sat_real", "--data", data, "--out",
                     out, "--max-new-tokens", "12", "--min-pixels", "3136", "--shards", "3", "--wait");
    if (r.status) fail_msg("%d: %s", r.status, r.err);
    assert_non_null(strstr(r.err, "sat_score_overall"));
    mull_eval_same(hand, out, FILES);
    const char *id = first_line(&r);
    json_t *job = mull_run_json((const char *const[]){MULL, "show", id, "--json", NULL}, LIMIT_S);
    assert_int_equal(json_array_size(json_object_get(job, "eval_results")), 2);
    mull_run m = RUN("metrics", id, "--json");
    assert_non_null(strstr(m.out, "\"blink_iqtest/blink_score_overall\""));
    mull_run_fini(&m);
    m = RUN("ps", "--array", id, "--json");
    int tasks = 0;
    for (const char *at = m.out; (at = strstr(at, "\"COMPLETED\"")); at++) tasks++;
    assert_int_equal(tasks, 3);
    mull_run_fini(&m);
    mull_run_fini(&r);
    json_decref(job);
}

/* Two evaluations side by side, by ids of jobs and by folders. */
static void compared(void **state) {
    (void)state;
    char out[300], first[24];
    snprintf(out, sizeof out, "%s/other", folder);
    mull_run r = RUN("submit", "eval", "--model", model, "--tasks", "blink_iqtest", "--data", data, "--out", out,
                     "--max-new-tokens", "3", "--min-pixels", "3136", "--wait");
    if (r.status) fail_msg("%s", r.err);
    strcpy(first, first_line(&r));
    mull_run_fini(&r);
    json_t *j = mull_run_json((const char *const[]){MULL, "compare", "--eval", hand, first, "--json", NULL}, LIMIT_S);
    const json_t *t = json_object_get(json_object_get(j, "tasks"), "blink_iqtest");
    assert_int_equal(json_integer_value(json_object_get(t, "n")), ROWS);
    assert_true(json_is_number(json_object_get(t, "p")));
    assert_string_equal(json_string_value(json_array_get(json_object_get(j, "missing"), 0)), "sat_real");
    json_decref(j);
    r = RUN("compare", "--eval", first, first);
    if (r.status || !strstr(r.out, "B - A") || !strstr(r.out, "blink_iqtest"))
        fail_msg("%d: %s%s", r.status, r.out, r.err);
    mull_run_fini(&r);
    r = RUN("compare", "--eval", hand, "/nowhere");
    assert_int_equal(r.status, 1);
    assert_non_null(strstr(r.err, "/nowhere"));
    mull_run_fini(&r);
    r = RUN("compare", "--eval", first);
    assert_int_equal(r.status, 2);
    mull_run_fini(&r);
}

/* A training job with three checkpoints and an evaluation that follows it: a job for each, their figures in the run. */
static void after_each_checkpoint(void **state) {
    (void)state;
    char rows[300], config[300], out[300], text[2000], after[64], train[24], follow[24];
    snprintf(rows, sizeof rows, "%s/rows.jsonl", folder);
    snprintf(config, sizeof config, "%s/c.yaml", folder);
    snprintf(out, sizeof out, "%s/run", folder);
    FILE *f = fopen(rows, "we");
    assert_non_null(f);
    for (int i = 0; i < 9; i++)
        fprintf(f,
                "{\"messages\":[{\"role\":\"user\",\"content\":\"How many is %d?\"},{\"role\":\"assistant\","
                "\"content\":\"<answer>%d</answer>\"}]}\n",
                i, i);
    assert_int_equal(fclose(f), 0);
    snprintf(text, sizeof text,
             "model_path: %s\nfreeze_vision: True\nlearning_rate: 0.002\nper_device_train_batch_size: 1\n"
             "gradient_accumulation_steps: 1\nsave_steps: 2\npack_tokens: 256\nmax_steps: 6\n"
             "train_dataset_args:\n  mix_datas:\n    Messages: 1.0\n  messages_location: %s\n",
             model, rows);
    mull_write_file(config, text, strlen(text));
    mull_run r = RUN("submit", "train", config, "--out", out, "--hold");
    if (r.status) fail_msg("%s", r.err);
    strcpy(train, first_line(&r));
    mull_run_fini(&r);
    snprintf(after, sizeof after, "checkpoint:%s:4", train);
    snprintf(out, sizeof out, "%s/some", folder);
    r = RUN("submit", "eval", "--after", after, "--tasks", "sat_real", "--data", data, "--out", out, "--limit", "2",
            "--max-new-tokens", "4", "--min-pixels", "3136");
    if (r.status) fail_msg("%s", r.err);
    char some[24];
    strcpy(some, first_line(&r));
    mull_run_fini(&r);
    snprintf(after, sizeof after, "checkpoint:%s:every", train);
    snprintf(out, sizeof out, "%s/follow", folder);
    r = RUN("submit", "eval", "--after", after, "--tasks", "sat_real", "--data", data, "--out", out, "--limit", "4",
            "--max-new-tokens", "4", "--min-pixels", "3136", "--name", "watch", "--shards", "2");
    if (r.status) fail_msg("%s", r.err);
    strcpy(follow, first_line(&r));
    mull_run_fini(&r);
    r = RUN("release", train);
    assert_int_equal(r.status, 0);
    mull_run_fini(&r);
    r = RUN("wait", train, follow, some, "--quiet");
    if (r.status) fail_msg("%d: %s", r.status, r.err);
    mull_run_fini(&r);
    json_t *job = mull_run_json((const char *const[]){MULL, "show", follow, "--json", NULL}, LIMIT_S);
    const json_t *made = json_object_get(json_object_get(job, "follow"), "jobs");
    char *shown = json_dumps(made, 0);
    if (json_array_size(made) != 3) fail_msg("%s", shown);
    for (size_t i = 0; i < 3; i++) {
        const json_t *one = json_array_get(made, i);
        char path[600];
        assert_int_equal(json_integer_value(json_object_get(one, "step")), 2 * (int)i + 2);
        assert_int_equal(json_array_size(json_object_get(one, "eval_results")), 1);
        snprintf(path, sizeof path, "%s/step-%d/results.json", out, 2 * (int)i + 2);
        json_t *file = json_load_file(path, 0, NULL);
        assert_non_null(file);
        snprintf(text, sizeof text, "checkpoint-%d", 2 * (int)i + 2);
        assert_string_equal(json_string_value(json_object_get(file, "model_name")), text);
        json_decref(file);
    }
    free(shown);
    json_decref(job);
    job = mull_run_json((const char *const[]){MULL, "show", some, "--json", NULL}, LIMIT_S);
    made = json_object_get(json_object_get(job, "follow"), "jobs");
    assert_int_equal(json_array_size(made), 1); /* step 4 */
    assert_int_equal(json_integer_value(json_object_get(json_array_get(made, 0), "step")), 4);
    json_decref(job);
    r = RUN("metrics", train, "--key", "eval/sat_real/sat_score_overall", "--json");
    int points = 0;
    for (const char *at = r.out; (at = strstr(at, "\"step\"")); at++) points++;
    if (points != 3) fail_msg("%d points: %s", points, r.out);
    mull_run_fini(&r);
    r = RUN("show", follow);
    assert_non_null(strstr(r.out, "follows job"));
    mull_run_fini(&r);
    /* the best by what the evaluations say: two of three checkpoints would go */
    r = RUN("ckpt", "prune", train, "--keep-last", "0", "--keep-best", "1", "--metric",
            "eval/sat_real/sat_score_overall", "--dry-run");
    int go = 0;
    for (const char *at = r.out; (at = strstr(at, "would remove")); at++) go++;
    if (r.status || go != 2) fail_msg("%d: %s%s", r.status, r.out, r.err);
    mull_run_fini(&r);
    /* a follower of what has ended evaluates what is there; of no training job it is refused */
    snprintf(out, sizeof out, "%s/late", folder);
    snprintf(after, sizeof after, "checkpoint:%s:6", train);
    r = RUN("submit", "eval", "--after", after, "--tasks", "sat_real", "--data", data, "--out", out, "--limit", "1",
            "--max-new-tokens", "2", "--min-pixels", "3136", "--wait");
    if (r.status || !strstr(r.err, "sat_score_overall")) fail_msg("%d: %s", r.status, r.err);
    mull_run_fini(&r);
    snprintf(after, sizeof after, "checkpoint:%s:every", follow);
    r = RUN("submit", "eval", "--after", after, "--tasks", "sat_real", "--data", data, "--out", out);
    assert_int_equal(r.status, 2);
    assert_non_null(strstr(r.err, "no training job"));
    mull_run_fini(&r);
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
               {"--replies", "reply", "leave model out"},
               {"--shards", "0", "from 1"},
               {"--after", "checkpoint:1", "checkpoint:ID:every"},
               {"--after", "checkpoint:1:every", "leave it out"},
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
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_job_as_by_hand),
                                       cmocka_unit_test(sharded),
                                       cmocka_unit_test(compared),
                                       cmocka_unit_test(after_each_checkpoint),
                                       cmocka_unit_test(what_is_refused),
                                       cmocka_unit_test(a_missing_dataset),
                                       cmocka_unit_test(every_task_of_the_engine)};
    return cmocka_run_group_tests(tests, start, stop);
}
