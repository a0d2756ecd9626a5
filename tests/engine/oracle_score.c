/* The evaluation tasks against the reference: prompts and records exact, figures to 1e-9 (sums of up to 300 scores). */
#include "engine/eval/prompt.h"
#include "engine/eval/task.h"
#include "engine/eval/vsi.h"
#include "tests/engine/eval_util.h"

static const mull_task *task;
static json_t *docs[512];
static mull_tally tally;
static long rows, loose;

static void doc_row(const json_t *row, size_t id) {
    const json_t *prompts = json_object_get(row, "prompts");
    const char *mode;
    json_t *want;
    assert_true(id < 512);
    docs[id] = json_incref(json_object_get(row, "doc"));
    json_object_foreach((json_t *)(uintptr_t)prompts, mode, want) {
        mull_prompt_opts o = {.vsibench_options = false};
        mull_buf text = {0};
        assert_int_equal(mull_prompt_style_parse(mode, &o.style, NULL), MULL_OK);
        assert_int_equal(mull_task_prompt(task, docs[id], &o, &text, NULL), MULL_OK);
        eval_bytes_equal(text.data, text.len, want, mode, (long)id);
        mull_buf_fini(&text);
    }
}

/* MMMU's open answers: the reference takes the first of a set of strings, in an order that Python draws anew in each
 * process; such rows are counted and may differ in that one field. */
static bool open_answer(const json_t *doc) {
    const char *kind = json_string_value(json_object_get(doc, "question_type"));
    return kind && !strcmp(kind, "open");
}

static void same(const json_t *got, const json_t *want, const json_t *doc, long line) {
    if (eval_json_close(got, want, 1e-9)) return;
    if (open_answer(doc) && !strcmp(mull_task_name(task), "mmmu_val")) {
        loose++;
        return;
    }
    char *g = json_dumps(got, JSON_ENCODE_ANY), *w = json_dumps(want, JSON_ENCODE_ANY);
    fail_msg("%s, row %ld: %s, not %s", mull_task_name(task), line, g, w);
}

static void any_row(const json_t *row, long line) {
    size_t id = (size_t)json_integer_value(json_object_get(row, "doc_id"));
    const json_t *reply = json_object_get(row, "reply");
    if (!reply) {
        doc_row(row, id);
        return;
    }
    mull_scored s;
    assert_int_equal(mull_task_score(task, docs[id], json_string_value(reply), json_string_length(reply),
                                     MULL_COMPAT_RELEASE, MULL_SCORE_RAW, &s, NULL),
                     MULL_OK);
    eval_bytes_equal(json_string_value(s.clean), json_string_length(s.clean), json_object_get(row, "clean"), "clean",
                     line);
    same(s.raw, json_object_get(row, "raw"), docs[id], line);
    same(s.cleaned, json_object_get(row, "cleaned"), docs[id], line);
    assert_int_equal(s.raw_random, json_is_true(json_object_get(row, "raw_random")));
    assert_int_equal(s.cleaned_random, json_is_true(json_object_get(row, "cleaned_random")));
    assert_int_equal(mull_tally_add(&tally, &s), MULL_OK);
    mull_scored_fini(&s);
    rows++;
}

static void tasks(void **state) {
    (void)state;
    static const char *const NAMES[] = {
        "blink_iqtest", "blink_sprel", "blink_mv", "blink_reldepth", "blink_jigsaw", "sat_real", "vsibench",
        "erqa",         "mmsi_bench",  "stare",    "sitebench",      "vstar_bench",  "mmmu_val", "mmvu"};
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
        char path[2048], name[64];
        task = mull_task_find(NAMES[i]);
        assert_non_null(task);
        rows = loose = 0;
        snprintf(name, sizeof name, "eval/%s.jsonl", NAMES[i]);
        eval_each_row(name, 200, any_row);
        assert_true(rows >= 200);
        assert_true(loose * 10 <= rows);
        snprintf(path, sizeof path, MULL_ORACLE_DIR "/eval/%s.result.json", NAMES[i]);
        json_t *want = json_load_file(path, 0, NULL), *got = mull_tally_results(task, &tally);
        assert_non_null(want);
        if (!eval_json_close(got, json_object_get(json_object_get(want, "results"), NAMES[i]), 1e-9))
            fail_msg("%s: %s", NAMES[i], json_dumps(got, 0));
        json_decref(want);
        json_decref(got);
        mull_tally_fini(&tally);
        for (size_t k = 0; k < 512; k++) {
            json_decref(docs[k]);
            docs[k] = NULL;
        }
    }
}

static void mra_row(const json_t *row, long line) {
    double got = mull__vsi_mra(json_number_value(json_object_get(row, "pred")),
                               json_number_value(json_object_get(row, "gt"))),
           want = json_number_value(json_object_get(row, "mra"));
    if (!(fabs(got - want) <= 1e-9)) fail_msg("row %ld: %.17g, not %.17g", line, got, want);
}

static void mra(void **state) {
    (void)state;
    eval_each_row("eval/mra.jsonl", 100, mra_row);
}

static void order(void **state) {
    (void)state;
    json_t *o = json_load_file(MULL_ORACLE_DIR "/eval/vsibench_order.json", 0, NULL), *first;
    size_t n = (size_t)json_integer_value(json_object_get(o, "rows"));
    uint32_t *got = calloc(n + 1, sizeof *got);
    assert_non_null(first = json_object_get(o, "first_100"));
    assert_non_null(got);
    assert_int_equal(mull_shuffle_order(42, n, got), MULL_OK);
    for (size_t i = 0; i < json_array_size(first); i++)
        assert_int_equal(got[i], json_integer_value(json_array_get(first, i)));
    free(got);
    json_decref(o);
}

/* Real replies of real models, as the release's scorer has them. */
static void blink_row(const json_t *row, long line) {
    const json_t *reply = json_object_get(row, "reply"), *want = json_object_get(row, "correct");
    const mull_task *t = mull_task_find(eval_text(row, "task"));
    assert_non_null(t);
    json_t *doc = json_pack("{s:O, s:s, s:s}", "answer", json_object_get(row, "answer"), "sub_task", "x", "idx", "y");
    mull_scored s;
    assert_int_equal(
        mull_task_score(t, doc, json_string_value(reply), json_string_length(reply), MULL_COMPAT_RELEASE, 0, &s, NULL),
        MULL_OK);
    const json_t *pred = json_object_get(json_object_get(s.cleaned, "blink_score_overall"), "pred");
    eval_bytes_equal(json_string_value(s.clean), json_string_length(s.clean), json_object_get(row, "clean"), "clean",
                     line);
    eval_bytes_equal(json_string_value(pred), json_string_length(pred), json_object_get(row, "pred"), "pred", line);
    if (!json_is_boolean(want)) fail_msg("row %ld has no verdict", line);
    if ((s.score == 1) != json_is_true(want)) fail_msg("row %ld: %g", line, s.score);
    mull_scored_fini(&s);
    json_decref(doc);
}

static void blink_replies(void **state) {
    (void)state;
    eval_each_row("blink_replies.jsonl.zst", 17000, blink_row);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(tasks), cmocka_unit_test(mra), cmocka_unit_test(order),
                                       cmocka_unit_test(blink_replies)};
    if (!eval_oracle_present()) return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
