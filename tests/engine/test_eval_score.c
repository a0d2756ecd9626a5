/* Rewards, numbers and scorers on small vectors of our own (worked out by hand from method.md, sections 6 and 7), and
 * texts made to hurt: each must be done in time linear in its length (the test's time limit is the bound). */
#include "engine/eval/number.h"
#include "engine/eval/patterns.h"
#include "engine/eval/prompt.h"
#include "engine/eval/rouge.h"
#include "engine/eval/stats.h"
#include "engine/eval/task.h"
#include "tests/engine/eval_util.h"

static void reward_is(const char *completion, const char *solution, const char *type, mull_compat compat,
                      const char *extract, double accuracy, double format) {
    mull_reward r;
    assert_int_equal(
        mull_reward_score(completion, strlen(completion), solution, strlen(solution), type, compat, &r, NULL), MULL_OK);
    if (r.extract.len != strlen(extract) || memcmp(r.extract.data, extract, r.extract.len))
        fail_msg("'%s' gives '%.*s', not '%s'", completion, (int)r.extract.len, r.extract.data, extract);
    /* 1e-12: a handful of float64 operations on values up to 1 */
    if (!(fabs(r.accuracy - accuracy) <= 1e-12))
        fail_msg("'%s' is worth %.17g, not %.17g", completion, r.accuracy, accuracy);
    assert_true(r.format == format && r.total == r.accuracy + format);
    mull_reward_fini(&r);
}

static void rewards(void **state) {
    (void)state;
    reward_is("<think>a</think>\n<answer>B</answer>", "<answer>B</answer>", "multiple choice", MULL_COMPAT_OURS, "B", 1,
              .5);
    reward_is("The answer is (c) or D", "D", "multiple choice", MULL_COMPAT_OURS, "c", 0, 0);
    reward_is("anſwer iſ B", "B", "multiple choice", MULL_COMPAT_OURS, "B", 1, 0);
    reward_is("I counted a total of ١٢", "12", "numerical", MULL_COMPAT_OURS, "12.0", 1, 0);
    reward_is("it is -7", "-7", "numerical", MULL_COMPAT_OURS, "-7.0", 1, 0);
    reward_is("it is -7", "7", "numerical", MULL_COMPAT_RELEASE, "7.0", 1, 0);
    reward_is("10-20", "20", "numerical", MULL_COMPAT_OURS, "20.0", 1, 0);
    reward_is("<answer>1e+16</answer>", "16", "numerical", MULL_COMPAT_OURS, "16.0", 1, .5);
    reward_is("10000000000000000", "16", "numerical", MULL_COMPAT_OURS, "1e+16", 1, 0);
    reward_is("0", "0", "regression", MULL_COMPAT_OURS, "0.0", 0, 0); /* guarded: (0+1e-9)/(0+1e-9) */
    reward_is("none", "4", "regression", MULL_COMPAT_OURS, "none", 0, 0);
    reward_is("<answer>red cats</answer>", "<answer>red cat sat</answer>", "OCR", MULL_COMPAT_OURS, "red cats", 1. / 3,
              .5);
    reward_is("<answer>running dogs</answer>", "<answer>dogs run</answer>", "free-form", MULL_COMPAT_OURS,
              "running dogs", (1 + 0 + .5) / 3, .5);
    reward_is("x", "x", "unknown", MULL_COMPAT_OURS, "x", 0, 0);
    reward_is("", "", "multiple choice", MULL_COMPAT_OURS, "", 1, 0);
}

static void repr(void **state) {
    (void)state;
    static const struct {
        double x;
        const char *s;
    } ROWS[] = {{0, "0.0"},
                {-0.0, "-0.0"},
                {42, "42.0"},
                {0.1, "0.1"},
                {1e16, "1e+16"},
                {1e15, "1000000000000000.0"},
                {123456789.125, "123456789.125"},
                {1e-5, "1e-05"},
                {0.0001, "0.0001"},
                {5e-324, "5e-324"},
                {0x1p-44, "5.684341886080802e-14"},
                {1.7976931348623157e308, "1.7976931348623157e+308"},
                {INFINITY, "inf"}};
    for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++) {
        char s[MULL__REPR_BYTES];
        mull__py_repr(ROWS[i].x, s);
        assert_string_equal(s, ROWS[i].s);
    }
    assert_true(mull__py_round2(2.675) == 2.67 && mull__py_round2(0.125) == 0.12 && mull__py_round2(-1.005) == -1.0);
}

static void floats(void **state) {
    (void)state;
    static const struct {
        const char *s;
        bool ok;
        double x;
    } ROWS[] = {{" 1_000.5 ", true, 1000.5},
                {"1__0", false, 0},
                {"_1", false, 0},
                {"1e5", true, 1e5},
                {"+.5", true, .5},
                {".", false, 0},
                {"1e", false, 0},
                {"0x10", false, 0},
                {"-Infinity", true, -INFINITY},
                {"ınf", false, 0},
                {"٣", true, 3},
                {"1 2", false, 0},
                {"", false, 0}};
    for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++) {
        mull__arena a = {0};
        double x = 0;
        bool ok = mull__py_float(&a, mull__decode(&a, ROWS[i].s, strlen(ROWS[i].s)), &x);
        if (ok != ROWS[i].ok || (ok && x != ROWS[i].x)) fail_msg("float('%s'): %d %g", ROWS[i].s, ok, x);
        mull__arena_fini(&a);
    }
}

static double score_of(const char *name, const char *doc_json, const char *reply, mull_compat compat, json_t **record) {
    json_t *doc = json_loads(doc_json, 0, NULL);
    mull_scored s;
    mull_error err = {0};
    assert_non_null(doc);
    if (mull_task_score(mull_task_find(name), doc, reply, strlen(reply), compat, MULL_SCORE_RAW, &s, &err))
        fail_msg("%s: %s", name, err.why);
    double score = s.score;
    if (record) *record = json_incref(s.cleaned);
    mull_scored_fini(&s);
    json_decref(doc);
    return score;
}

static void tasks(void **state) {
    (void)state;
    static const char
        SAT[] = "{\"answers\":[\"w\",\"x\",\"y\",\"z\"],\"correct_answer\":\"z\",\"question_type\":\"q\"}",
        VSI[] = "{\"question_type\":\"object_counting\",\"ground_truth\":\"4\"}",
        VQA[] = "{\"question_id\":1,\"answers\":[{\"answer\":\"two\",\"answer_id\":1},{\"answer\":\"2\","
                "\"answer_id\":2},{\"answer\":\"the 2\",\"answer_id\":3},{\"answer\":\"3\",\"answer_id\":4}]}",
        MME[] = "{\"index\":1,\"category\":\"Perception/OCR\",\"l2-category\":\"a\",\"answer\":\"B\"}",
        OPEN[] = "{\"id\":\"validation_Art_1\",\"question_type\":\"open\",\"answer\":\"['8', 'eight']\"}",
        SITE[] = "{\"options\":[\"a\",\"b\"],\"answer\":\"B\",\"category\":\"c\",\"dataset\":\"d\"}";
    json_t *r;
    assert_true(score_of("sat_real", SAT, "The answer is D", MULL_COMPAT_OURS, NULL) == 1);
    score_of("sat_real", SAT, "The answer is D", MULL_COMPAT_RELEASE, &r); /* the release knows three letters */
    assert_string_equal(json_string_value(json_object_get(r, "error")), "KeyError");
    json_decref(r);
    assert_true(score_of("vsibench", VSI, "<answer>4</answer>", MULL_COMPAT_OURS, NULL) == 1);
    assert_true(score_of("vsibench", VSI, "about 5", MULL_COMPAT_OURS, NULL) == 0);      /* the first word counts */
    assert_true(score_of("vsibench", VSI, "count is 5", MULL_COMPAT_OURS, NULL) == 0.6); /* off by .25: .5 .. .75 */
    assert_true(score_of("vsibench", VSI, "<answer>nan</answer>", MULL_COMPAT_OURS, NULL) == 0);
    /* "two" becomes 2: three of four agree; left out in turn 2, 2, 2 and 3 of them remain */
    assert_true(fabs(score_of("vqav2", VQA, "<answer>two.</answer>", MULL_COMPAT_OURS, NULL) - 0.75) < 1e-12);
    score_of("vqav2", VQA, "The answer is . two\nso 2", MULL_COMPAT_OURS,
             &r); /* (.+?) takes the space before the stop */
    assert_string_equal(json_string_value(json_object_get(r, "prediction")), "");
    json_decref(r);
    assert_true(score_of("mme_realworld", MME, "The best answer is B", MULL_COMPAT_OURS, NULL) == 1);
    assert_true(score_of("mmmu_val", OPEN, "so it is eight", MULL_COMPAT_OURS, NULL) == 1);
    assert_true(score_of("mmmu_val", OPEN, "so it is eight", MULL_COMPAT_RELEASE, NULL) == 0);
    assert_true(score_of("sitebench", SITE, "no idea", MULL_COMPAT_OURS, NULL) == 0);
    assert_true(score_of("sitebench", SITE, "no idea", MULL_COMPAT_RELEASE, NULL) == 1); /* drawn: the last choice */
}

static void missing_columns(void **state) {
    (void)state;
    json_t *empty = json_object();
    for (size_t i = 0; i < mull_task_count(); i++) {
        mull_scored s;
        mull_error err = {0};
        int rc = mull_task_score(mull_task_at(i), empty, "A", 1, MULL_COMPAT_OURS, 0, &s, &err);
        if (!strcmp(mull_task_name(mull_task_at(i)), "vqav2")) { /* no answers: 0, as in the release */
            assert_int_equal(rc, MULL_OK);
            mull_scored_fini(&s);
            continue;
        }
        assert_int_equal(rc, MULL_EARG);
        assert_true(err.where[0] && err.why[0]);
    }
    json_decref(empty);
}

/* n copies of unit */
static char *many(const char *unit, size_t n, const char *end) {
    size_t k = strlen(unit);
    char *s = malloc(n * k + strlen(end) + 1);
    assert_non_null(s);
    for (size_t i = 0; i < n; i++) memcpy(s + i * k, unit, k);
    strcpy(s + n * k, end);
    return s;
}

static void hostile(void **state) {
    (void)state;
    static const char *const UNITS[] = {"<answer>",
                                        "<answer>\n",
                                        "<answer> ",
                                        "answer is ",
                                        "answer is",
                                        "\\boxed{",
                                        "`",
                                        "{",
                                        "answer: x\n",
                                        "I counted a total of ",
                                        "answer:",
                                        "count is  ",
                                        "(A) ",
                                        "A.",
                                        "y",
                                        ",1",
                                        "Σ",
                                        "</answer>",
                                        "the choice is: ",
                                        " ",
                                        "<answer>\n\t",
                                        "-",
                                        "ﬃ",
                                        "a b ",
                                        "\xff\xf0\x9f"};
    static const char DOC[] =
        "{\"answer\":\"B\",\"sub_task\":\"x\",\"idx\":1,\"question_type\":\"object_counting\",\"ground_truth\":\"4\","
        "\"answers\":[{\"answer\":\"a\"}],\"correct_answer\":{\"answer\":\"a\"},\"category\":\"x\",\"options\":["
        "\"aaaa\"],"
        "\"dataset\":\"d\",\"label\":\"A\",\"id\":\"validation_x_1\",\"video_path\":\"a/b/c\",\"index\":1}";
    json_t *doc = json_loads(DOC, 0, NULL);
    assert_non_null(doc);
    for (size_t u = 0; u < sizeof UNITS / sizeof *UNITS; u++)
        for (int end = 0; end < 2; end++) {
            char *s = many(UNITS[u], 60000 / strlen(UNITS[u]), end ? "\n  </answer>" : "");
            for (size_t t = 0; t < mull_task_count(); t++) {
                mull_scored r = {0};
                if (!mull_task_score(mull_task_at(t), doc, s, strlen(s), MULL_COMPAT_OURS, MULL_SCORE_RAW, &r, NULL))
                    mull_scored_fini(&r);
            }
            static const char *const TYPES[] = {"numerical", "OCR", "free-form"};
            for (size_t t = 0; t < 3; t++) {
                mull_reward r;
                assert_int_equal(mull_reward_score(s, strlen(s), s, strlen(s), TYPES[t], MULL_COMPAT_OURS, &r, NULL),
                                 MULL_OK);
                assert_true(r.accuracy >= 0 && r.accuracy <= 1);
                mull_reward_fini(&r);
            }
            free(s);
        }
    json_decref(doc);
}

/* Both by bit-vectors against the plain recurrences. */
static void alignment(void **state) {
    (void)state;
    static size_t lcs[301][301], edit[301][301];
    uint32_t x[300], y[300];
    unsigned seed = 1;
    for (int round = 0; round < 60; round++) {
        size_t n = (size_t)round * 5, m = (size_t)(round * 7) % 300, ids = 2 + (size_t)round % 9;
        for (size_t i = 0; i < n; i++) x[i] = (uint32_t)((seed = seed * 1103515245 + 12345) >> 16) % (uint32_t)ids;
        for (size_t i = 0; i < m; i++) y[i] = (uint32_t)((seed = seed * 1103515245 + 12345) >> 16) % (uint32_t)ids;
        for (size_t i = 0; i <= n; i++)
            for (size_t j = 0; j <= m; j++) {
                bool same = i && j && x[i - 1] == y[j - 1];
                size_t up = i ? edit[i - 1][j] : 0, left = j ? edit[i][j - 1] : 0, best;
                lcs[i][j] = !i || !j                        ? 0
                            : same                          ? lcs[i - 1][j - 1] + 1
                            : lcs[i - 1][j] > lcs[i][j - 1] ? lcs[i - 1][j]
                                                            : lcs[i][j - 1];
                best = up < left ? up : left;
                if (i && j && edit[i - 1][j - 1] < best) best = edit[i - 1][j - 1];
                edit[i][j] = !i ? j : !j ? i : same ? edit[i - 1][j - 1] : 1 + best;
            }
        mull__arena a = {0};
        assert_int_equal(mull__lcs(&a, x, n, y, m, ids), lcs[n][m]);
        assert_int_equal(mull__edit_distance(&a, x, n, y, m, ids), edit[n][m]);
        mull__arena_fini(&a);
    }
}

static void stems(void **state) {
    (void)state;
    static const char *const ROWS[][2] = {{"skies", "sky"},       {"dying", "die"},       {"relational", "relat"},
                                          {"hopping", "hop"},     {"hoping", "hope"},     {"agreed", "agre"},
                                          {"generally", "gener"}, {"geologi", "geolog"},  {"flies", "fli"},
                                          {"ties", "tie"},        {"happily", "happili"}, {"controll", "control"}};
    for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++) {
        char s[32];
        strcpy(s, ROWS[i][0]);
        s[mull__porter_stem(s, strlen(s))] = 0;
        if (strcmp(s, ROWS[i][1])) fail_msg("%s: %s, not %s", ROWS[i][0], s, ROWS[i][1]);
    }
}

static void groups_of_completions(void **state) {
    (void)state;
    double accuracy[] = {1, 1, 0}, format[] = {.5, .5, .5};
    int tokens[] = {320, 600, 400};
    float rewards_[3], advantages[3];
    mull_group_opts o = {.len_control = true};
    mull_group_advantages(accuracy, format, tokens, 3, &o, rewards_, advantages);
    /* 1.7, 1.5, .5: mean 1.2333, std .64291 */
    assert_true(fabsf(rewards_[0] - 1.7f) < 1e-6f && rewards_[1] == 1.5f && rewards_[2] == 0.5f);
    assert_true(fabsf(advantages[0] - 0.725764f) < 1e-4f && fabsf(advantages[2] + 1.140486f) < 1e-4f);
    mull_group_advantages(accuracy, format, tokens, 1, &o, rewards_, advantages);
    assert_true(advantages[0] == 0);
}

static void statistics(void **state) {
    (void)state;
    double a[20] = {0}, b[20] = {0};
    mull_paired p;
    for (int i = 0; i < 9; i++) b[i] = 1; /* nine right in b alone, one in a alone */
    a[9] = 1;
    assert_int_equal(mull_compare_paired(a, b, 20, 500, &p, NULL), MULL_OK);
    assert_true(p.exact && p.only_a == 1 && p.only_b == 9 && fabs(p.diff - 0.4) < 1e-12);
    assert_true(fabs(p.p - 22. / 1024) < 1e-12); /* 2 * (1 + 10) / 2^10 */
    assert_true(p.low <= 0.4 && p.high >= 0.4 && p.low < p.high);
    for (int i = 0; i < 20; i++) {
        a[i] = 0.25;
        b[i] = 0.25 + (i % 2 ? 0.1 : 0.2);
    }
    assert_int_equal(mull_compare_paired(a, b, 20, 999, &p, NULL), MULL_OK);
    assert_true(!p.exact && p.p <= 0.01);
    mull_tally t = {0};
    mull_interval ci;
    for (int i = 0; i < 100; i++) assert_int_equal(mull_tally_add_score(&t, "x", i < 30), MULL_OK);
    assert_int_equal(mull_bootstrap(mull_task_find("erqa"), &t, 1000, &ci, NULL), MULL_OK);
    assert_true(ci.estimate == 0.3 && ci.low > 0.15 && ci.low < 0.3 && ci.high > 0.3 && ci.high < 0.45);
    /* sqrt(.3 * .7 / 100) = .0458, to a few of its own percent at 1000 rounds */
    assert_true(fabs(ci.stderr_ - 0.0458) < 0.006);
    mull_tally_fini(&t);
}

static void shuffled(void **state) {
    (void)state;
    /* numpy.random.default_rng(42).permutation(10) */
    static const uint32_t WANT[] = {5, 6, 0, 7, 3, 2, 4, 9, 1, 8};
    uint32_t got[10];
    assert_int_equal(mull_shuffle_order(42, 10, got), MULL_OK);
    assert_memory_equal(got, WANT, sizeof got);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(rewards),
                                       cmocka_unit_test(repr),
                                       cmocka_unit_test(floats),
                                       cmocka_unit_test(tasks),
                                       cmocka_unit_test(missing_columns),
                                       cmocka_unit_test(hostile),
                                       cmocka_unit_test(alignment),
                                       cmocka_unit_test(stems),
                                       cmocka_unit_test(groups_of_completions),
                                       cmocka_unit_test(statistics),
                                       cmocka_unit_test(shuffled)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
