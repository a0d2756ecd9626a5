/* Rewards, ROUGE, stems, numbers, word error rate and group advantages against the reference: texts exact, figures to
 * 1e-9 (the order of a few float64 operations), groups to 1e-5 (the reference computes them in float32). */
#include "engine/eval/number.h"
#include "engine/eval/reward.h"
#include "engine/eval/rouge.h"
#include "tests/engine/eval_util.h"

static void close_to(double got, const json_t *want, double bound, const char *what, long line) {
    double w = json_number_value(want);
    if (!(fabs(got - w) <= bound)) fail_msg("%s, row %ld: %.17g, not %.17g", what, line, got, w);
}

static void reward_row(const json_t *row, long line) {
    const json_t *c = json_object_get(row, "completion"), *s = json_object_get(row, "solution"),
                 *ours = json_object_get(row, "ours"), *release = json_object_get(row, "release");
    for (int compat = 0; compat < 2; compat++) {
        const json_t *want = compat == MULL_COMPAT_OURS && ours ? ours : release;
        mull_reward r;
        assert_int_equal(mull_reward_score(json_string_value(c), json_string_length(c), json_string_value(s),
                                           json_string_length(s), eval_text(row, "problem_type"), (mull_compat)compat,
                                           &r, NULL),
                         MULL_OK);
        eval_bytes_equal(r.extract.data, r.extract.len, json_object_get(want, "pred"), "pred", line);
        eval_bytes_equal(r.gold.data, r.gold.len, json_object_get(want, "gold"), "gold", line);
        close_to(r.accuracy, json_object_get(want, "accuracy"), 1e-9, "accuracy", line);
        close_to(r.format, json_object_get(row, "format"), 0, "format", line);
        close_to(r.total - r.accuracy, json_object_get(row, "format"), 1e-9, "reward", line);
        mull_reward_fini(&r);
    }
}

static void rewards(void **state) {
    (void)state;
    eval_each_row("reward/rewards.jsonl.zst", 3000, reward_row);
}

static void prf_close(const mull__prf *got, const json_t *want, const char *what, long line) {
    close_to(got->precision, json_array_get(want, 0), 1e-9, what, line);
    close_to(got->recall, json_array_get(want, 1), 1e-9, what, line);
    close_to(got->f, json_array_get(want, 2), 1e-9, what, line);
}

static void rouge_row(const json_t *row, long line) {
    mull__arena a = {0};
    mull__rouge r;
    mull__rouge_score(&a, mull__decode_json(&a, json_object_get(row, "reference")),
                      mull__decode_json(&a, json_object_get(row, "hypothesis")), &r);
    prf_close(&r.rouge1, json_object_get(row, "rouge1"), "rouge1", line);
    prf_close(&r.rouge2, json_object_get(row, "rouge2"), "rouge2", line);
    prf_close(&r.rouge_l, json_object_get(row, "rougeL"), "rougeL", line);
    close_to((r.rouge1.f + r.rouge2.f + r.rouge_l.f) / 3, json_object_get(row, "mean_f"), 1e-9, "mean_f", line);
    mull__arena_fini(&a);
}

static void rouge(void **state) {
    (void)state;
    eval_each_row("reward/rouge.jsonl", 700, rouge_row);
}

static void wer_row(const json_t *row, long line) {
    mull__arena a = {0};
    double w = mull__wer(&a, mull__decode_json(&a, json_object_get(row, "reference")),
                         mull__decode_json(&a, json_object_get(row, "hypothesis")));
    close_to(w, json_object_get(row, "wer"), 1e-9, "wer", line);
    mull__arena_fini(&a);
}

static void word_errors(void **state) {
    (void)state;
    eval_each_row("reward/wer.jsonl", 300, wer_row);
}

static void number_row(const json_t *row, long line) {
    mull__arena a = {0};
    for (int keep = 0; keep < 2; keep++) {
        char got[MULL__REPR_BYTES] = "None";
        double x;
        if (mull__last_number(&a, mull__decode_json(&a, json_object_get(row, "text")), keep, &x)) mull__py_repr(x, got);
        eval_bytes_equal(got, strlen(got), json_object_get(row, keep ? "ours_str" : "release_str"), "number", line);
    }
    mull__arena_fini(&a);
}

static void numbers(void **state) {
    (void)state;
    eval_each_row("reward/numbers.jsonl", 400, number_row);
}

static void group_row(const json_t *row, long line) {
    const json_t *acc = json_object_get(row, "accuracy");
    size_t n = json_array_size(acc);
    double accuracy[64], format[64];
    int tokens[64];
    float rewards_[64], advantages[64];
    assert_true(n > 0 && n <= 64);
    for (size_t i = 0; i < n; i++) {
        accuracy[i] = json_number_value(json_array_get(acc, i));
        format[i] = json_number_value(json_array_get(json_object_get(row, "format"), i));
        tokens[i] = (int)json_integer_value(json_array_get(json_object_get(row, "tokens"), i));
    }
    mull_group_opts o = {json_is_true(json_object_get(row, "len_control")),
                         json_is_true(json_object_get(row, "basic_reinforce"))};
    mull_group_advantages(accuracy, format, tokens, n, &o, rewards_, advantages);
    for (size_t i = 0; i < n; i++) {
        close_to((double)rewards_[i], json_array_get(json_object_get(row, "rewards"), i), 1e-5, "reward", line);
        close_to((double)advantages[i], json_array_get(json_object_get(row, "advantages"), i), 1e-5, "advantage", line);
    }
}

static void groups(void **state) {
    (void)state;
    eval_each_row("reward/group.jsonl", 200, group_row);
}

static void stems(void **state) {
    (void)state;
    FILE *f = fopen(MULL_ORACLE_DIR "/reward/stems.tsv", "r");
    char line[512], word[256], want[256];
    long n = 0;
    assert_non_null(f);
    while (fgets(line, sizeof line, f)) {
        assert_int_equal(sscanf(line, "%254s\t%254s", word, want), 2);
        char got[258];
        strcpy(got, word);
        got[mull__porter_stem(got, strlen(word))] = 0;
        if (strcmp(got, want)) fail_msg("%s: %s, not %s", word, got, want);
        n++;
    }
    assert_true(n > 5000);
    fclose(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(rewards),     cmocka_unit_test(rouge),
                                       cmocka_unit_test(word_errors), cmocka_unit_test(numbers),
                                       cmocka_unit_test(groups),      cmocka_unit_test(stems)};
    if (!eval_oracle_present()) return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
