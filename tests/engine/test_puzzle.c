/* Puzzles: the same from the same numbers, answers balanced, and what is drawn agrees with what is asked. */
#include "engine/data/puzzle.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
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

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_same_again), cmocka_unit_test(pictures_show_the_answer)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
