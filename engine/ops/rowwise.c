/* Row-wise operations: rows are split between threads in fixed ranges; each row is one kernel call. */
#include "engine/ops/kernels.h"
#include "engine/ops/ops.h"

typedef struct rows_job {
    const mull_kernels *kn;
    int64_t m, d, ldx;
    const float *x, *w, *cos, *sin;
    float *y, eps;
    int heads;
} rows_job;

static int parts_for(mull_pool *pool, int64_t elements) {
    int t = mull_pool_threads(pool);
    return elements < 16384 ? 1 : t * 2; /* below that the wake-up costs more than the work */
}

static void rmsnorm_task(void *ctx, int part, int parts) {
    rows_job *j = ctx;
    for (int64_t r = j->m * part / parts; r < j->m * (part + 1) / parts; r++)
        j->kn->rmsnorm(j->x + r * j->d, j->d, j->w, j->eps, j->y + r * j->d);
}

void mull_rmsnorm(mull_pool *pool, const float *x, int64_t m, int64_t d, const float *weight, float eps, float *y) {
    rows_job j = {.kn = mull_kernels_get(), .m = m, .d = d, .x = x, .w = weight, .eps = eps, .y = y};
    mull_pool_run(pool, rmsnorm_task, &j, parts_for(pool, m * d));
}

static void swiglu_task(void *ctx, int part, int parts) {
    rows_job *j = ctx;
    for (int64_t r = j->m * part / parts; r < j->m * (part + 1) / parts; r++)
        j->kn->swiglu(j->x + r * 2 * j->d, j->x + r * 2 * j->d + j->d, j->d, j->y + r * j->d);
}

void mull_swiglu(mull_pool *pool, const float *gate_up, int64_t m, int64_t f, float *y) {
    rows_job j = {.kn = mull_kernels_get(), .m = m, .d = f, .x = gate_up, .y = y};
    mull_pool_run(pool, swiglu_task, &j, parts_for(pool, m * f));
}

static void gelu_task(void *ctx, int part, int parts) {
    rows_job *j = ctx;
    int64_t a = j->m * part / parts, b = j->m * (part + 1) / parts;
    j->kn->gelu(j->y + a, b - a);
}

void mull_gelu(mull_pool *pool, float *x, int64_t n) {
    rows_job j = {.kn = mull_kernels_get(), .m = n, .y = x};
    mull_pool_run(pool, gelu_task, &j, parts_for(pool, n * 4));
}

static void rope_task(void *ctx, int part, int parts) {
    rows_job *j = ctx;
    int64_t half = j->d / 2;
    for (int64_t r = j->m * part / parts; r < j->m * (part + 1) / parts; r++)
        j->kn->rope(j->y + r * j->ldx, j->heads, (int)j->d, j->cos + r * half, j->sin + r * half);
}

void mull_rope(mull_pool *pool, float *x, int64_t m, int64_t ldx, int heads, int hd, const float *cos,
               const float *sin) {
    rows_job j = {
        .kn = mull_kernels_get(), .m = m, .d = hd, .ldx = ldx, .y = x, .cos = cos, .sin = sin, .heads = heads};
    mull_pool_run(pool, rope_task, &j, parts_for(pool, m * heads * hd));
}
