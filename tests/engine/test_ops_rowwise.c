/* rmsnorm, swiglu, gelu and rope on every instruction set, against double precision. */
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

static void fill(float *x, int n, uint64_t key, double spread) {
    for (int i = 0; i < n; i++) x[i] = (float)((mull_uniform(key, 0, (uint64_t)i) * 2 - 1) * spread);
}
static void near(float got, double want, double rel, const char *what, int i) {
    if (!(fabs(got - want) <= rel * fabs(want) + 1e-37)) fail_msg("%s [%d]: %.9g, not %.9g", what, i, got, want);
}
#define EACH_ISA(...)                                                                                                  \
    do {                                                                                                               \
        const mull_kernels *isa_list[MULL_ISAS];                                                                       \
        int isa_n = mull_kernels_list(isa_list);                                                                       \
        for (int isa = 0; isa < isa_n; isa++) {                                                                        \
            mull_kernels_force(isa_list[isa]);                                                                         \
            __VA_ARGS__                                                                                                \
        }                                                                                                              \
    } while (0)

static void rmsnorm(void **state) {
    (void)state;
    float x[3 * 1031], w[1031], y[3 * 1031];
    fill(x, 3 * 1031, 1, 3), fill(w, 1031, 2, 1);
    const int dims[] = {1, 5, 64, 100, 1031};
    EACH_ISA({
        for (int t = 0; t < 5; t++) {
            int d = dims[t];
            mull_rmsnorm(NULL, x, 3, d, w, 1e-6f, y);
            for (int r = 0; r < 3; r++) {
                double ss = 0;
                for (int i = 0; i < d; i++) ss += (double)x[r * d + i] * x[r * d + i];
                for (int i = 0; i < d; i++)
                    near(y[r * d + i], x[r * d + i] / sqrt(ss / d + 1e-6f) * w[i], 1e-6, "rmsnorm", i);
            }
        }
        x[700] = NAN;
        mull_rmsnorm(NULL, x, 1, 1031, w, 1e-6f, y);
        for (int i = 0; i < 1031; i++) assert_true(isnan(y[i]));
        x[700] = 1;
    });
}

static void swiglu(void **state) {
    (void)state;
    enum { F = 2003 };
    static float x[2 * F], y[F];
    fill(x, 2 * F, 3, 30);
    x[0] = -200, x[1] = 200, x[2] = -88, x[3] = -103.5f, x[4] = 0, x[5] = NAN, x[6] = 1e-30f;
    EACH_ISA({
        mull_swiglu(NULL, x, 1, F, y);
        for (int i = 0; i < F; i++) {
            if (i == 5) {
                assert_true(isnan(y[i]));
                continue;
            }
            double want = x[i] / (1 + exp(-(double)x[i])) * x[F + i];
            if (fabs(want) < 1e-34)
                assert_true(fabs(y[i]) <= 1e-33);
            else
                near(y[i], want, 1e-6, "swiglu", i);
        }
    });
}

/* Relative to the exact value also far below zero, where 1 + erf(x) would have cancelled to nothing. */
static void gelu(void **state) {
    (void)state;
    enum { N = 2611 };
    static float x[N], y[N];
    EACH_ISA({
        for (int i = 0; i < N; i++) y[i] = x[i] = (float)i * 0.01f - 13.0f;
        y[0] = x[0] = NAN, y[1] = INFINITY, y[2] = 3e38f, y[3] = -3e38f, y[4] = 1e-30f, y[5] = -0.0f;
        mull_gelu(NULL, y, N);
        assert_true(isnan(y[0]));
        assert_true(isinf(y[1]) && y[1] > 0);
        assert_true(y[2] == 3e38f && y[3] == 0);
        assert_true(y[4] == 0.5e-30f && y[5] == 0 && signbit(y[5]));
        for (int i = 6; i < N; i++) near(y[i], x[i] * 0.5 * erfc(-(double)x[i] / sqrt(2)), 1e-6, "gelu", i);
    });
}

static void rope(void **state) {
    (void)state;
    enum { ROWS = 5, HEADS = 3 };
    const int dims[] = {8, 16, 80, 128};
    EACH_ISA({
        for (int t = 0; t < 4; t++) {
            int hd = dims[t], half = hd / 2, ld = HEADS * hd + 4;
            float x[ROWS * (HEADS * 128 + 4)], y[ROWS * (HEADS * 128 + 4)], c[ROWS * 64], s[ROWS * 64];
            fill(x, ROWS * ld, 5, 2), fill(c, ROWS * half, 6, 1), fill(s, ROWS * half, 7, 1);
            memcpy(y, x, sizeof x);
            mull_rope(NULL, y, ROWS, ld, HEADS, hd, c, s);
            for (int r = 0; r < ROWS; r++) {
                for (int h = 0; h < HEADS; h++)
                    for (int i = 0; i < half; i++) {
                        const float *a = x + r * ld + h * hd;
                        double want = (double)a[i] * c[r * half + i] - (double)a[i + half] * s[r * half + i];
                        assert_true(fabs(y[r * ld + h * hd + i] - want) <= 1e-6);
                        want = (double)a[i + half] * c[r * half + i] + (double)a[i] * s[r * half + i];
                        assert_true(fabs(y[r * ld + h * hd + i + half] - want) <= 1e-6);
                    }
                assert_memory_equal(y + r * ld + HEADS * hd, x + r * ld + HEADS * hd, 4 * sizeof *x); /* untouched */
            }
        }
    });
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(rmsnorm), cmocka_unit_test(swiglu), cmocka_unit_test(gelu),
                                       cmocka_unit_test(rope)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
