/* The release's scores of 17,400 real replies, through the whole queue: rows with replies, a sharded eval job, and what
 * lies in OUT, in the records and in the metrics at the end. Every clean reply, letter and verdict is the release's. */
#include "tests/engine/eval_util.h"
#include "tests/support/run.h"
#include "tests/support/servers.h"

#include <sys/stat.h>

#define MULL MULL_BIN_DIR "/mull"
enum { LIMIT_S = 300, TASKS = 5, ROWS_MAX = 20000 };
static const char *const NAMES[TASKS] = {"blink_iqtest", "blink_sprel", "blink_mv", "blink_reldepth", "blink_jigsaw"};

static char *folder;
static json_t *want[TASKS]; /* [{"clean", "pred", "correct"}] in row order */
static FILE *rows[TASKS];

static int task_of(const char *name) {
    for (int i = 0; i < TASKS; i++)
        if (!strcmp(NAMES[i], name)) return i;
    fail_msg("unknown task %s", name);
    return -1;
}

static void take(const json_t *row, long line) {
    (void)line;
    int t = task_of(eval_text(row, "task"));
    json_t *doc = json_pack("{s:O, s:s, s:s, s:O, s:n, s:O}", "idx", json_object_get(row, "idx"), "sub_task", NAMES[t],
                            "prompt", "Which?", "answer", json_object_get(row, "answer"), "image_1", "reply",
                            json_object_get(row, "reply"));
    assert_non_null(doc);
    json_dumpf(doc, rows[t], JSON_COMPACT);
    fputc('\n', rows[t]);
    json_decref(doc);
    json_array_append_new(want[t], json_pack("{s:O, s:O, s:O}", "clean", json_object_get(row, "clean"), "pred",
                                             json_object_get(row, "pred"), "correct", json_object_get(row, "correct")));
}

static int start(void **state) {
    (void)state;
    char path[400];
    folder = mull_temp_folder("oracle-eval");
    unsetenv("MULL_SERVER");
    setenv("MULL_STATE", folder, 1);
    snprintf(path, sizeof path, "%s/data", folder);
    mkdir(path, 0777);
    for (int i = 0; i < TASKS; i++) {
        snprintf(path, sizeof path, "%s/data/%s", folder, NAMES[i]);
        mkdir(path, 0777);
        snprintf(path, sizeof path, "%s/data/%s/val.jsonl", folder, NAMES[i]);
        want[i] = json_array();
        assert_non_null(rows[i] = fopen(path, "we"));
    }
    eval_each_row("blink_replies.jsonl.zst", 17000, take);
    for (int i = 0; i < TASKS; i++) assert_int_equal(fclose(rows[i]), 0);
    json_decref(mull_run_json((const char *const[]){MULL, "up", "--devices", "cpu:2", "--json", NULL}, LIMIT_S));
    return 0;
}

static int stop(void **state) {
    (void)state;
    free(mull_run_ok((const char *const[]){MULL, "down", NULL}, LIMIT_S));
    mull_tree_remove(folder);
    free(folder);
    for (int i = 0; i < TASKS; i++) json_decref(want[i]);
    return 0;
}

/* Share of right ones, as the release has it. */
static double check_samples(const char *out, int t) {
    char path[400], *line = NULL;
    size_t cap = 0, n = 0;
    double right = 0;
    snprintf(path, sizeof path, "%s/samples_%s.jsonl", out, NAMES[t]);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    for (ssize_t k; (k = getline(&line, &cap, f)) > 0; n++) {
        json_t *o = json_loadb(line, (size_t)k, JSON_ALLOW_NUL, NULL);
        const json_t *w = json_array_get(want[t], n),
                     *pred = json_object_get(json_object_get(o, "blink_score_overall"), "pred");
        assert_int_equal(json_integer_value(json_object_get(o, "doc_id")), n);
        if (!json_equal(json_object_get(o, "clean"), json_object_get(w, "clean")))
            fail_msg("%s, row %zu: clean", path, n);
        if (!json_equal(pred, json_object_get(w, "pred"))) fail_msg("%s, row %zu: letter", path, n);
        bool yes = json_is_true(json_object_get(w, "correct"));
        if ((json_number_value(json_object_get(o, "score")) == 1) != yes) fail_msg("%s, row %zu: verdict", path, n);
        right += yes;
        json_decref(o);
    }
    free(line);
    fclose(f);
    assert_int_equal(n, json_array_size(want[t]));
    return right / (double)n;
}

static void real_replies(void **state) {
    (void)state;
    char out[300], data[300];
    snprintf(out, sizeof out, "%s/out", folder);
    snprintf(data, sizeof data, "%s/data", folder);
    mull_run r = mull_run_command((const char *const[]){MULL, "submit", "eval", "--replies", "reply", "--tasks",
                                                        "blink_iqtest,blink_sprel,blink_mv,blink_reldepth,blink_jigsaw",
                                                        "--data", data, "--out", out, "--compat", "release",
                                                        "--bootstrap", "100", "--shards", "2", "--wait", NULL},
                                  LIMIT_S);
    if (r.status) fail_msg("%d: %s", r.status, r.err);
    char id[24];
    snprintf(id, sizeof id, "%.*s", (int)strcspn(r.out, "\n"), r.out);
    mull_run_fini(&r);
    json_t *job = mull_run_json((const char *const[]){MULL, "show", id, "--json", NULL}, LIMIT_S);
    const json_t *results = json_object_get(job, "eval_results");
    assert_int_equal(json_array_size(results), TASKS);
    for (size_t i = 0; i < TASKS; i++) {
        const json_t *one = json_array_get(results, i);
        int t = task_of(eval_text(one, "task"));
        double mean = check_samples(out, t), value = json_number_value(json_object_get(one, "value"));
        if (!(fabs(value - mean) <= 1e-9)) fail_msg("%s: %.12g, not %.12g", NAMES[t], value, mean);
        assert_int_equal(json_integer_value(json_object_get(one, "errors")), 0);
    }
    json_decref(job);
}

int main(void) {
    if (!eval_oracle_present()) return 77;
    if (access("/usr/bin/redis-server", X_OK) || access("/usr/lib/postgresql", X_OK)) return 77;
    const struct CMUnitTest tests[] = {cmocka_unit_test(real_replies)};
    return cmocka_run_group_tests(tests, start, stop);
}
