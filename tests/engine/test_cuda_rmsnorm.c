/* The CUDA rmsnorm against double precision; skipped (77) in builds without CUDA and on machines without a GPU. */
#include <stdio.h>

#if MULL_HAVE_CUDA
#include "engine/core/cuda.h"
#include "engine/core/rng.h"
#include "engine/ops/rmsnorm_cuda.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>

enum { M = 5, D = 4097 };

static float x[M * D], w[D], y[M * D], one[D];

static void norm(const float *in, int64_t m, int64_t d, float *out) {
    mull_error err = {0};
    void *dx = NULL, *dw = NULL;
    size_t bytes = (size_t)(m * d) * sizeof *in;
    int rc = mull_cuda_alloc(bytes, &dx, &err);
    if (!rc) rc = mull_cuda_alloc((size_t)d * sizeof *w, &dw, &err);
    if (!rc) rc = mull_cuda_upload(dx, in, bytes, &err);
    if (!rc) rc = mull_cuda_upload(dw, w, (size_t)d * sizeof *w, &err);
    if (!rc) rc = mull_cuda_rmsnorm(dx, m, d, dw, 1e-6f, dx, NULL, &err);
    if (!rc) rc = mull_cuda_download(out, dx, bytes, &err);
    mull_cuda_free(dx);
    mull_cuda_free(dw);
    if (rc) fail_msg("%s: %s", err.what, err.why);
}

static void values(void **state) {
    (void)state;
    const int dims[] = {1, 31, 256, 1280, D};
    for (size_t t = 0; t < sizeof dims / sizeof *dims; t++) {
        int d = dims[t];
        norm(x, M, d, y);
        for (int r = 0; r < M; r++) {
            double ss = 0;
            for (int i = 0; i < d; i++) ss += (double)x[r * d + i] * x[r * d + i];
            for (int i = 0; i < d; i++) {
                double want = x[r * d + i] / sqrt(ss / d + 1e-6f) * w[i];
                /* d/256 sequential additions and 13 tree steps, each within 2^-24 */
                if (!(fabs(y[r * d + i] - want) <= 2e-6 * fabs(want))) fail_msg("d %d [%d,%d]", d, r, i);
            }
        }
        norm(x + d, 1, d, one); /* row 1 alone: the same bits */
        assert_memory_equal(one, y + d, (size_t)d * sizeof *one);
    }
}

static void nan_and_limits(void **state) {
    (void)state;
    float save = x[700];
    x[700] = NAN;
    norm(x, 2, D, y);
    for (int i = 0; i < D; i++) assert_true(isnan(y[i]) && !isnan(y[D + i]));
    x[700] = save;
    mull_error err = {0};
    assert_int_equal(mull_cuda_rmsnorm(NULL, 0, 8, NULL, 1e-6f, NULL, NULL, &err), MULL_OK);
    assert_int_equal(mull_cuda_rmsnorm(NULL, 1LL << 40, 8, NULL, 1e-6f, NULL, NULL, &err), MULL_ELIMIT);
    assert_int_equal(mull_cuda_rmsnorm(NULL, 1, 0, NULL, 1e-6f, NULL, NULL, &err), MULL_ELIMIT);
}

int main(void) {
    if (mull_cuda_devices() == 0) {
        puts("skipped: no CUDA device");
        return 77;
    }
    for (int i = 0; i < M * D; i++) x[i] = (float)(mull_uniform(1, 0, (uint64_t)i) * 6 - 3);
    for (int i = 0; i < D; i++) w[i] = (float)(mull_uniform(2, 0, (uint64_t)i) * 2 - 1);
    const struct CMUnitTest tests[] = {cmocka_unit_test(values), cmocka_unit_test(nan_and_limits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#else
int main(void) {
    puts("skipped: built without CUDA");
    return 77;
}
#endif
