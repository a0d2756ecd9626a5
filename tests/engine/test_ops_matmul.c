/* Products with packed weights against a double-precision loop, on every instruction set of this CPU; and the promise
 * that a row's bits depend on nothing but the row. */
#include "engine/core/rng.h"
#include "engine/ops/kernels.h"
#include "engine/ops/ops.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static float *randoms(size_t n, uint64_t key) {
    float *x = malloc(n * sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++) x[i] = (float)(mull_uniform(key, 0, i) * 2 - 1);
    return x;
}

static mull_matrix *matrix(const float *w, int64_t n, int64_t k, mull_weight_type type) {
    mull_matrix *m = NULL;
    mull_error err = {0};
    assert_int_equal(mull_matrix_create(n, k, type, &m, &err), MULL_OK);
    mull_matrix_set_rows(m, 0, n, w, MULL_F32);
    return m;
}

static const struct {
    int64_t m, n, k;
} shapes[] = {{1, 1, 1},      {1, 33, 7},    {2, 64, 130},   {3, 31, 513},  {12, 96, 1024}, {13, 40, 1029},
              {25, 100, 600}, {530, 37, 65}, {1, 600, 1029}, {3, 520, 600}, {6, 545, 514}};

/* |got - want| <= bound * sum |x w|: rounding of a chain of k float32 steps stays far below k * 2^-24 of that sum. */
static void check(const mull_kernels *kn, mull_weight_type type, double bound) {
    mull_kernels_force(kn);
    mull_pool *pool = mull_pool_create(2);
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        int64_t m = shapes[s].m, n = shapes[s].n, k = shapes[s].k;
        float *x = randoms((size_t)(m * k), 1), *w = randoms((size_t)(n * k), 2), *b = randoms((size_t)n, 3),
              *y = randoms((size_t)(m * n), 4), *y0 = randoms((size_t)(m * n), 4),
              *row = malloc((size_t)k * sizeof *row);
        mull_matrix *mat = matrix(w, n, k, type);
        assert_int_equal(mull_matrix_rows(mat), n);
        assert_int_equal(mull_matrix_cols(mat), k);
        bool acc = s % 2;
        mull_matmul(pool, x, m, k, mat, s % 3 ? b : NULL, y, n, acc);
        for (int64_t j = 0; j < n; j++) {
            mull_matrix_get_row(mat, j, row);
            for (int64_t i = 0; i < m; i++) {
                double want = 0, mag = 1e-3;
                for (int64_t q = 0; q < k; q++) {
                    want += (double)x[i * k + q] * row[q];
                    mag += fabs((double)x[i * k + q] * row[q]);
                }
                want += (s % 3 ? b[j] : 0) + (acc ? y0[i * n + j] : 0);
                if (!(fabs(y[i * n + j] - want) <= bound * (mag + 2)))
                    fail_msg("%s type %d shape %zu [%d,%d]: %g, not %g", kn->name, type, s, (int)i, (int)j,
                             y[i * n + j], want);
            }
        }
        mull_matrix_destroy(mat);
        free(x), free(w), free(b), free(y), free(y0), free(row);
    }
    mull_pool_destroy(pool);
}

static void values(void **state) {
    (void)state;
    const mull_kernels *k[MULL_ISAS];
    int n = mull_kernels_list(k);
    for (int i = 0; i < n; i++) {
        check(k[i], MULL_WEIGHT_F32, 4e-6);
        check(k[i], MULL_WEIGHT_BF16, 4e-6);
        check(k[i], MULL_WEIGHT_BF16_DOT, 2e-3); /* each activation within 2^-9 */
        check(k[i], MULL_WEIGHT_INT8, 8e-3);     /* activations on 255 steps: half a step of each row's largest value */
    }
}

/* float types keep what a checkpoint stores, and the sum of a product may not hide a NaN or an infinity */
static void exact_and_nan(void **state) {
    (void)state;
    const mull_kernels *kn[MULL_ISAS];
    int n = mull_kernels_list(kn);
    float w[3 * 40], back[40], x[40], y[3];
    uint16_t h[3 * 40];
    for (int i = 0; i < 120; i++) h[i] = mull_f32_to_bf16(w[i] = (float)i * 0.37f - 11), w[i] = mull_bf16_to_f32(h[i]);
    for (int t = 0; t <= MULL_WEIGHT_BF16_DOT; t++) {
        mull_matrix *m = NULL;
        assert_int_equal(mull_matrix_create(3, 40, (mull_weight_type)t, &m, NULL), MULL_OK);
        mull_matrix_set_rows(m, 0, 1, h, MULL_BF16);
        mull_matrix_set_rows(m, 1, 2, w + 40, MULL_F32);
        for (int r = 0; r < 3 && t != MULL_WEIGHT_INT8; r++) {
            mull_matrix_get_row(m, r, back);
            assert_memory_equal(back, w + r * 40, sizeof back);
        }
        for (int i = 0; i < n; i++) {
            mull_kernels_force(kn[i]);
            for (int bad = 0; bad < 2; bad++) {
                for (int q = 0; q < 40; q++) x[q] = 1;
                x[17] = bad ? NAN : INFINITY;
                mull_matmul(NULL, x, 1, 40, m, NULL, y, 3, false);
                for (int r = 0; r < 3; r++) assert_false(isfinite(y[r]));
            }
        }
        mull_matrix_destroy(m);
    }
}

/* A row alone, in a batch, with other threads: the same bits. */
static void batch_invariant(void **state) {
    (void)state;
    enum { M = 600, N = 300, K = 1100 };
    const mull_kernels *kn[MULL_ISAS];
    int n = mull_kernels_list(kn);
    float *x = randoms(M * K, 5), *w = randoms(N * K, 6), *y = malloc(M * N * sizeof *y), one[N];
    mull_pool *pools[3] = {mull_pool_create(1), mull_pool_create(2), mull_pool_create(3)};
    for (int t = 0; t <= MULL_WEIGHT_BF16_DOT; t++) {
        mull_matrix *m = matrix(w, N, K, (mull_weight_type)t);
        for (int i = 0; i < n; i++) {
            mull_kernels_force(kn[i]);
            for (int p = 0; p < 3; p++) {
                mull_matmul(pools[p], x, M, K, m, NULL, y, N, false);
                for (int r = 0; r < M; r += 37) {
                    mull_matmul(pools[(p + 1) % 3], x + r * K, 1, K, m, NULL, one, N, false);
                    assert_memory_equal(one, y + r * N, sizeof one);
                }
            }
        }
        mull_matrix_destroy(m);
    }
    for (int p = 0; p < 3; p++) mull_pool_destroy(pools[p]);
    free(x), free(w), free(y);
}

/* int8 sums are integers: every instruction set gives the same bits */
static void int8_everywhere_equal(void **state) {
    (void)state;
    enum { M = 14, N = 70, K = 333 };
    const mull_kernels *kn[MULL_ISAS];
    int n = mull_kernels_list(kn);
    float *x = randoms(M * K, 7), *w = randoms(N * K, 8), y[MULL_ISAS][M * N];
    mull_matrix *m = matrix(w, N, K, MULL_WEIGHT_INT8);
    for (int i = 0; i < n; i++) {
        mull_kernels_force(kn[i]);
        mull_matmul(NULL, x, M, K, m, NULL, y[i], N, false);
        assert_memory_equal(y[i], y[0], sizeof y[0]);
    }
    mull_matrix_destroy(m);
    free(x), free(w);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(values), cmocka_unit_test(exact_and_nan),
                                       cmocka_unit_test(batch_invariant), cmocka_unit_test(int8_everywhere_equal)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
