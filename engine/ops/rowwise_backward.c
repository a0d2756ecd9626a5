/* Backward of the row-wise operations; see backward.h. Rows go to threads in fixed ranges. A weight's gradient is a sum
 * over rows: it is taken in MULL_DW_PARTS partial sums, whatever the number of threads, and those are added in order.
 */
#include "engine/ops/backward.h"

#include "engine/ops/kernels.h"

#include <string.h>

typedef struct rows_job {
    const mull_kernels *kn;
    int64_t m, d, ld;
    const float *x, *w, *dy;
    float *dx, *dw, eps;
} rows_job;

enum { SMALL = 16384, COLUMNS = 64 }; /* below SMALL elements the wake-up costs more than the work */

static void rmsnorm_task(void *ctx, int part, int parts) {
    rows_job *j = ctx;
    float *dw = j->dw ? j->dw + part * j->d : NULL;
    if (dw) memset(dw, 0, (size_t)j->d * sizeof *dw);
    for (int64_t r = j->m * part / parts; r < j->m * (part + 1) / parts; r++)
        j->kn->rmsnorm_backward(j->x + r * j->d, j->d, j->w, j->eps, j->dy + r * j->d, j->dx + r * j->d, dw);
}

void mull_rmsnorm_backward(mull_pool *pool, const float *x, int64_t m, int64_t d, const float *w, float eps,
                           const float *dy, float *dx, float *dw, float *partial) {
    rows_job j = {.kn = mull_kernels_get(), .m = m, .d = d, .x = x, .w = w, .dy = dy, .dx = dx, .eps = eps};
    j.dw = dw ? partial : NULL;
    mull_pool_run(m * d < SMALL ? NULL : pool, rmsnorm_task, &j, MULL_DW_PARTS);
    for (int p = 0; dw && p < MULL_DW_PARTS; p++) j.kn->axpy(dw, partial + p * d, 1, d);
}

static void swiglu_task(void *ctx, int part, int parts) {
    rows_job *j = ctx;
    int64_t f = j->d;
    for (int64_t r = j->m * part / parts; r < j->m * (part + 1) / parts; r++)
        j->kn->swiglu_backward(j->x + r * 2 * f, j->x + r * 2 * f + f, j->dy + r * f, f, j->dx + r * 2 * f,
                               j->dx + r * 2 * f + f);
}

void mull_swiglu_backward(mull_pool *pool, const float *gate_up, int64_t m, int64_t f, const float *dy,
                          float *d_gate_up) {
    rows_job j = {.kn = mull_kernels_get(), .m = m, .d = f, .x = gate_up, .dy = dy, .dx = d_gate_up};
    mull_pool_run(m * f < SMALL ? NULL : pool, swiglu_task, &j, 2 * mull_pool_threads(pool));
}

static void gelu_task(void *ctx, int part, int parts) {
    rows_job *j = ctx;
    int64_t a = j->m * part / parts, b = j->m * (part + 1) / parts;
    j->kn->gelu_backward(j->x + a, j->dy + a, b - a, j->dx + a);
}

void mull_gelu_backward(mull_pool *pool, const float *x, int64_t n, const float *dy, float *dx) {
    rows_job j = {.kn = mull_kernels_get(), .m = n, .x = x, .dy = dy, .dx = dx};
    mull_pool_run(n < SMALL ? NULL : pool, gelu_task, &j, 2 * mull_pool_threads(pool));
}

static void bias_task(void *ctx, int part, int parts) {
    rows_job *j = ctx;
    (void)parts;
    int64_t c = (int64_t)part * COLUMNS, n = j->d - c < COLUMNS ? j->d - c : COLUMNS;
    for (int64_t r = 0; r < j->m; r++) j->kn->axpy(j->dw + c, j->dy + r * j->ld + c, 1, n);
}

void mull_bias_backward(mull_pool *pool, const float *dy, int64_t m, int64_t ld, int64_t n, float *db) {
    rows_job j = {.kn = mull_kernels_get(), .m = m, .d = n, .ld = ld, .dy = dy, .dw = db};
    mull_pool_run(m * n < SMALL ? NULL : pool, bias_task, &j, (int)((n + COLUMNS - 1) / COLUMNS));
}
