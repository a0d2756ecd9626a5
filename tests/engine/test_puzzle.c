/* Puzzles: the same from the same numbers, answers balanced, and what is drawn agrees with what is asked. */
#include "engine/data/dataset.h"
#include "engine/data/puzzle.h"
#include "engine/eval/prompt.h"
#include "engine/eval/task.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { W = MULL_PUZZLE_WIDTH, N = 400 };

static bool is(const mull_puzzle *p, int x, int y, int r, int g, int b) {
    const uint8_t *at = p->rgb + (y * W + x) * 3;
    return at[0] == r && at[1] == g && at[2] == b;
}

/* Mean column of the pixels of a colour, and their number. */
static double where(const mull_puzzle *p, int r, int g, int b, int *n) {
    double sum = 0;
    *n = 0;
    for (int y = 0; y < W; y++)
        for (int x = 0; x < W; x++)
            if (is(p, x, y, r, g, b)) {
                sum += x;
                ++*n;
            }
    return *n ? sum / *n : -1;
}

static void the_same_again(void **unused) {
    (void)unused;
    mull_puzzle *a = malloc(sizeof *a), *b = malloc(sizeof *b);
    assert_non_null(a);
    assert_non_null(b);
    for (int i = 0; i < 40; i++) {
        mull_puzzle_draw(3, i, 15, a);
        mull_puzzle_draw(3, i, 15, b);
        assert_memory_equal(a, b, sizeof *a);
        mull_puzzle_draw(4, i, 15, b);
        assert_memory_not_equal(a->rgb, b->rgb, sizeof a->rgb);
        assert_int_equal(a->kind, i % MULL_PUZZLE_KINDS);
        assert_in_range(a->answer, 0, a->noptions - 1);
    }
    free(a);
    free(b);
}

static void pictures_show_the_answer(void **unused) {
    (void)unused;
    mull_puzzle *p = malloc(sizeof *p);
    assert_non_null(p);
    int answers[MULL_PUZZLE_KINDS][MULL_PUZZLE_OPTIONS] = {{0}};
    for (int i = 0; i < N * MULL_PUZZLE_KINDS; i++) {
        int reds, blues;
        mull_puzzle_draw(1, i, 15, p);
        answers[p->kind][p->answer]++;
        double red = where(p, 220, 40, 40, &reds), blue = where(p, 40, 70, 220, &blues);
        if (p->kind == MULL_PUZZLE_SIDE) {
            assert_true(reds > 0 && blues > 0);
            assert_true((red < blue) == (p->answer == 0));
        } else if (p->kind == MULL_PUZZLE_BIGGER) {
            int left = 0, right = 0;
            for (int y = 0; y < W; y++)
                for (int x = 0; x < W; x++)
                    if (!is(p, x, y, 250, 250, 250)) ++*(x < W / 2 ? &left : &right);
            assert_true((left > right) == (p->answer == 0));
        } else if (p->kind == MULL_PUZZLE_COUNT) {
            int cells = 0;
            for (int c = 0; c < 16; c++) cells += !is(p, c % 4 * 28 + 13, c / 4 * 28 + 13, 250, 250, 250);
            assert_int_equal(cells, p->answer + 1);
        }
    }
    /* No answer is so frequent that guessing it pays: within 5 standard deviations of even. */
    for (int k = 0; k < MULL_PUZZLE_KINDS; k++) {
        int options = k < 2 ? 2 : 4;
        for (int a = 0; a < options; a++) assert_in_range(answers[k][a], N / options - 50, N / options + 50);
    }
    free(p);
}

/* Every layout is read by the dataset that it copies, in its number and with its answers. */
static void layouts_are_read(void **unused) {
    (void)unused;
    static const struct {
        const char *layout, *mix, *location, *file;
        bool parquet;
    } L[] = {{"videor1", "VideoR1", "video_r1_location", "/Video-R1-COT-165k.json", false},
             {"sat", "SAT", "sat_location", "", true},
             {"zebra", "ZebraCOT", "zebracot_location", "", true},
             {"messages", "Messages", "messages_location", "/rows.jsonl", false}};
    enum { COUNT = 12 };
    char dir[] = "/tmp/mull_puzzle_XXXXXX", yaml[512], out[128];
    assert_non_null(mkdtemp(dir));
    for (size_t i = 0; i < sizeof L / sizeof *L; i++) {
        mull_error err = {0};
        mull_recipe r;
        mull_dataset *d;
        snprintf(out, sizeof out, "%s/%s", dir, L[i].layout);
        int rc = mull_puzzles_write(out, L[i].layout, 3, 40, COUNT, 15, &err);
        if (!MULL_HAVE_MEDIA || (L[i].parquet && !MULL_HAVE_PARQUET)) {
            assert_int_equal(rc, MULL_EUNSUPPORTED);
            continue;
        }
        if (rc) fail_msg("%s: %s", L[i].layout, err.why);
        snprintf(yaml, sizeof yaml,
                 "model_path: m\ntrain_dataset_args:\n  mix_datas:\n    %s: 1\n  %s: %s%s\n  "
                 "mmlatent_mode_stage1: True\n",
                 L[i].mix, L[i].location, out, L[i].file);
        rc = mull_recipe_parse(yaml, strlen(yaml), "yaml", NULL, 0, &r, NULL, &err);
        if (!rc) rc = mull_dataset_open(&r, (mull_set)(i == 0 ? 1 : i == 1 ? 0 : i == 2 ? 2 : 4), &d, &err);
        if (rc) fail_msg("%s: %s", L[i].layout, err.why);
        assert_int_equal(mull_dataset_rows(d), COUNT);
        for (int k = 0; k < COUNT; k++) {
            mull_example e;
            if (mull_dataset_get(d, k, 7, &e, &err)) fail_msg("%s: %s", L[i].layout, err.why);
            assert_int_equal(e.nmedia, 1);
            assert_int_equal(e.nreasoning, L[i].layout[0] == 'z');
            mull_example_fini(&e);
        }
        mull_dataset_close(d);
        mull_recipe_fini(&r);
    }
    mull_error err = {0};
    assert_int_equal(mull_puzzles_write(dir, "nonsense", 3, 0, 1, 15, &err), MULL_EARG);
    snprintf(out, sizeof out, "rm -rf %s", dir);
    assert_int_equal(system(out), 0);
}

/* The task asks in the words of training, and scores the letter. */
static void the_task_asks_as_training_does(void **unused) {
    (void)unused;
    const mull_task *t = mull_task_find("puzzles");
    mull_error err = {0};
    mull_buf text = {0};
    mull_scored sc;
    assert_non_null(t);
    json_t *doc = json_pack("{s:s, s:[s, s], s:s, s:s}", "question", "Which?", "options", "A. left", "B. right",
                            "answer", "B", "question_type", "side");
    assert_int_equal(mull_task_prompt(t, doc, &(mull_prompt_opts){.style = MULL_STYLE_SFT}, &text, &err), 0);
    assert_string_equal(text.data,
                        "Which?Options:\nA. left\nB. right\n\nProvide your final answer between the <answer> "
                        "</answer> tags. Please provide only the single option letter (e.g., A, B, C, D, etc.) within "
                        "the <answer> </answer> tags.");
    mull_buf_fini(&text);
    static const struct {
        const char *reply;
        double score;
    } R[] = {
        {"<answer>B</answer>", 1}, {"<answer>A</answer>", 0}, {"<think>A</think>\n<answer>B</answer>", 1}, {"", 0}};
    for (size_t i = 0; i < sizeof R / sizeof *R; i++) {
        assert_int_equal(mull_task_score(t, doc, R[i].reply, strlen(R[i].reply), MULL_COMPAT_OURS, 0, &sc, &err), 0);
        assert_true(sc.score == R[i].score);
        assert_string_equal(json_string_value(sc.category), "side");
        mull_scored_fini(&sc);
    }
    json_decref(doc);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_same_again), cmocka_unit_test(pictures_show_the_answer),
                                       cmocka_unit_test(layouts_are_read),
                                       cmocka_unit_test(the_task_asks_as_training_does)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
