/* Products of plain row-major matrices, as training needs them: weights change every step, so nothing is packed ahead.
 * Every output is one fixed sequence of
 * additions, so it does not depend on the number of threads. */
#ifndef MULL_ENGINE_OPS_GEMM_H
#define MULL_ENGINE_OPS_GEMM_H

#include "engine/core/dtype.h"
#include "engine/core/pool.h"

#include <stdbool.h>
#include <stdint.h>

/* c[m, n] (+)= a[m, k] b[k, n] + bias[n] */
typedef struct mull_gemm_job {
    int64_t m, n, k;
    const float *a; /* row i, column p at a[i * lda + p]; with a_t at a[p * lda + i] */
    int64_t lda;
    bool a_t;
    const void *b; /* row p, column j at b[p * ldb + j]; with b_t at b[j * ldb + p] (a weight [n, k]) */
    int64_t ldb;
    bool b_t;
    mull_dtype b_type; /* F32 or BF16 (widened exactly) */
    const float *bias; /* [n] or NULL */
    float *c;
    int64_t ldc;
    bool accumulate;
} mull_gemm_job;

/* Scratch grows to the largest product seen on the calling thread and stays: a training step allocates nothing after
 * its first. Aborts when there is no memory for it. */
void mull_gemm(mull_pool *pool, const mull_gemm_job *job);

/* The three products of a linear layer with w [out, in] of w_type, over rows of x [m, in] and y [m, out]:
 *   y = x w^T + bias (accumulate: y += ..), dx = dy w (accumulate: dx += ..), dw += dy^T x. */
void mull_linear(mull_pool *pool, const float *x, int64_t m, int64_t ldx, const void *w, mull_dtype w_type, int64_t in,
                 int64_t out, const float *bias, float *y, int64_t ldy, bool accumulate);
void mull_linear_dx(mull_pool *pool, const float *dy, int64_t m, int64_t ldy, const void *w, mull_dtype w_type,
                    int64_t in, int64_t out, float *dx, int64_t ldx, bool accumulate);
void mull_linear_dw(mull_pool *pool, const float *dy, int64_t m, int64_t ldy, const float *x, int64_t ldx, int64_t in,
                    int64_t out, float *dw);

#endif
