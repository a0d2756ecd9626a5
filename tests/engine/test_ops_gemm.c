/* Products of plain matrices in every layout, on every instruction set, against double precision. */
#include "tests/engine/backward_util.h"

#include "engine/ops/gemm.h"

typedef struct shape {
    int64_t m, n, k;
} shape;

/* Relative to the sum of the magnitudes of the products: float32 rounds each of k additions by 6e-8 at most, and the
 * errors of a chain of random signs grow with its root. */
static void check(const mull_gemm_job *j, const float *before, double bound) {
    for (int64_t r = 0; r < j->m; r++)
        for (int64_t c = 0; c < j->n; c++) {
            double want = 0, size = 1e-6;
            for (int64_t p = 0; p < j->k; p++) {
                double a = j->a_t ? j->a[p * j->lda + r] : j->a[r * j->lda + p];
                int64_t at = j->b_t ? c * j->ldb + p : p * j->ldb + c;
                double b = j->b_type == MULL_BF16 ? mull_bf16_to_f32(((const uint16_t *)j->b)[at])
                                                  : (double)((const float *)j->b)[at];
                want += a * b;
                size += fabs(a * b);
            }
            if (j->bias) want += j->bias[c], size += fabs(j->bias[c]);
            if (j->accumulate) want += before[r * j->ldc + c], size += fabs(before[r * j->ldc + c]);
            double got = j->c[r * j->ldc + c];
            if (!(fabs(got - want) <= bound * size))
                fail_msg("%lld x %lld x %lld a_t %d b_t %d [%lld,%lld]: %.9g, not %.9g", (long long)j->m,
                         (long long)j->n, (long long)j->k, j->a_t, j->b_t, (long long)r, (long long)c, got, want);
        }
}

static void one(mull_pool *pool, shape s, bool a_t, bool b_t, mull_dtype type, bool bias, bool accumulate) {
    enum { PAD = 3 };
    int64_t lda = (a_t ? s.m : s.k) + PAD, ldb = (b_t ? s.k : s.n) + PAD, ldc = s.n + PAD;
    int64_t na = (a_t ? s.k : s.m) * lda, nb = (b_t ? s.n : s.k) * ldb, nc = s.m * ldc;
    float *a = malloc((size_t)(na + nb + 2 * nc + s.n) * sizeof *a), *b = a + na, *c = b + nb, *old = c + nc,
          *add = old + nc;
    uint16_t *half = malloc((size_t)nb * sizeof *half);
    assert_true(a && half);
    grad_fill(a, na, 1, 1), grad_fill(b, nb, 2, 1), grad_fill(c, nc, 3, 1), grad_fill(add, s.n, 4, 1);
    memcpy(old, c, (size_t)nc * sizeof *c);
    for (int64_t i = 0; i < nb; i++) half[i] = mull_f32_to_bf16(b[i]);
    mull_gemm_job j = {.m = s.m,
                       .n = s.n,
                       .k = s.k,
                       .a = a,
                       .lda = lda,
                       .a_t = a_t,
                       .b_t = b_t,
                       .ldb = ldb,
                       .b = type == MULL_BF16 ? (const void *)half : b,
                       .b_type = type,
                       .bias = bias ? add : NULL,
                       .c = c,
                       .ldc = ldc,
                       .accumulate = accumulate};
    mull_gemm(pool, &j);
    check(&j, old, 2e-6);
    for (int64_t r = 0; r < s.m; r++) /* nothing beyond the row */
        for (int64_t i = s.n; i < ldc; i++) assert_true(c[r * ldc + i] == old[r * ldc + i]);
    free(a), free(half);
}

static void layouts(void **state) {
    (void)state;
    static const shape SHAPES[] = {{1, 1, 1}, {13, 33, 7}, {25, 64, 520}, {130, 31, 40}, {700, 40, 9}, {5, 70, 1100}};
    mull_pool *pool = mull_pool_create(3);
    EACH_ISA({
        for (size_t i = 0; i < sizeof SHAPES / sizeof *SHAPES; i++)
            for (int f = 0; f < 32; f++)
                one(f & 16 ? pool : NULL, SHAPES[i], f & 1, f & 2, f & 4 ? MULL_BF16 : MULL_F32, f & 8, (f & 9) == 9);
    });
    mull_pool_destroy(pool);
}

/* The three products of a layer, and that threads change no bit. */
static void linear(void **state) {
    (void)state;
    enum { M = 211, IN = 96, OUT = 130 };
    static float x[M * IN], w[OUT * IN], y[M * OUT], dx[M * IN], dw[OUT * IN], once[M * OUT];
    grad_fill(x, M * IN, 1, 1), grad_fill(w, OUT * IN, 2, 1);
    mull_pool *pool = mull_pool_create(2);
    mull_linear(NULL, x, M, IN, w, MULL_F32, IN, OUT, NULL, once, OUT, false);
    mull_linear(pool, x, M, IN, w, MULL_F32, IN, OUT, NULL, y, OUT, false);
    assert_memory_equal(y, once, sizeof y);
    mull_linear_dx(pool, y, M, OUT, w, MULL_F32, IN, OUT, dx, IN, false);
    mull_linear_dx(pool, y, M, OUT, w, MULL_F32, IN, OUT, dx, IN, true);
    mull_linear_dw(pool, y, M, OUT, x, IN, IN, OUT, dw);
    mull_linear_dw(pool, y, M, OUT, x, IN, IN, OUT, dw);
    for (int i = 0; i < M * IN; i += 97) {
        double want = 0;
        for (int o = 0; o < OUT; o++) want += 2.0 * y[i / IN * OUT + o] * w[o * IN + i % IN];
        assert_true(fabs(dx[i] - want) <= 1e-4);
    }
    for (int i = 0; i < OUT * IN; i += 89) {
        double want = 0;
        for (int r = 0; r < M; r++) want += 2.0 * y[r * OUT + i / IN] * x[r * IN + i % IN];
        assert_true(fabs(dw[i] - want) <= 5e-4);
    }
    x[5] = NAN;
    mull_linear_dw(pool, y, M, OUT, x, IN, IN, OUT, dw);
    assert_true(isnan(dw[5]));
    mull_pool_destroy(pool);
}

static void nothing(void **state) {
    (void)state;
    float c[4] = {1, 2, 3, 4}, bias[2] = {5, 6};
    mull_gemm(NULL, &(mull_gemm_job){.m = 2, .n = 2, .k = 0, .b_type = MULL_F32, .c = c, .ldc = 2, .accumulate = true});
    assert_true(c[0] == 1 && c[3] == 4);
    mull_gemm(NULL, &(mull_gemm_job){.m = 2, .n = 2, .k = 0, .b_type = MULL_F32, .c = c, .ldc = 2, .bias = bias});
    assert_true(c[0] == 5 && c[3] == 6);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(layouts), cmocka_unit_test(linear), cmocka_unit_test(nothing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
