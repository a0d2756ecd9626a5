/* Gradients for tests: a float32 backward against central differences, in double, of a plain double forward. */
#ifndef MULL_TESTS_ENGINE_BACKWARD_UTIL_H
#define MULL_TESTS_ENGINE_BACKWARD_UTIL_H

#include "engine/core/rng.h"
#include "engine/ops/kernels.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define EACH_ISA(...)                                                                                                  \
    do {                                                                                                               \
        const mull_kernels *isa_list[MULL_ISAS];                                                                       \
        int isa_n = mull_kernels_list(isa_list);                                                                       \
        for (int isa = 0; isa < isa_n; isa++) {                                                                        \
            mull_kernels_force(isa_list[isa]);                                                                         \
            __VA_ARGS__                                                                                                \
        }                                                                                                              \
    } while (0)

static inline void grad_fill(float *x, int64_t n, uint64_t key, double spread) {
    for (int64_t i = 0; i < n; i++) x[i] = (float)((mull_uniform(key, 0, (uint64_t)i) * 2 - 1) * spread);
}

/* A loss in double of inputs that the test owns: ctx says the rest. */
typedef double (*grad_loss)(const double *x, void *ctx);

/* got[i] against (loss(x + h) - loss(x - h)) / 2h for every step-th i. With h = 1e-5 and losses of order one the
 * difference itself is good to 1e-9; the bound is float32's, on the scale of the largest gradient. */
static inline void grad_check(const float *x, int64_t n, int64_t step, const float *got, grad_loss loss, void *ctx,
                              double bound, const char *what) {
    double *p = malloc((size_t)n * sizeof *p), largest = 0, worst = 0;
    assert_non_null(p);
    for (int64_t i = 0; i < n; i++) p[i] = x[i];
    int64_t at = 0;
#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
    step = step * 8 < n ? step * 8 : step; /* slow there, and nothing of it is the code under test */
#endif
    for (int64_t i = 0; i < n; i += step) {
        double h = 1e-5, keep = p[i];
        p[i] = keep + h;
        double up = loss(p, ctx);
        p[i] = keep - h;
        double want = (up - loss(p, ctx)) / (2 * h);
        p[i] = keep;
        double d = fabs(got[i] - want);
        if (!isfinite(d)) fail_msg("%s [%lld]: %g, not %g", what, (long long)i, (double)got[i], want);
        if (fabs(want) > largest) largest = fabs(want);
        if (d > worst) worst = d, at = i;
    }
    assert_true(largest > 0);
    if (!(worst <= bound * largest))
        fail_msg("%s [%lld]: off by %.3g of %.3g, allowed %.3g", what, (long long)at, worst, largest, bound * largest);
    free(p);
}

#endif
