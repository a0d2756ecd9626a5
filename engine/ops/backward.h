/* Backward passes of the row-wise operations and of attention, and the forward of attention that keeps what its
 * backward needs. Dense row-major float32; "+=" says what accumulates. Work is divided by index alone, so the bits do
 * not depend on the number of threads. */
#ifndef MULL_ENGINE_OPS_BACKWARD_H
#define MULL_ENGINE_OPS_BACKWARD_H

#include "engine/core/pool.h"

#include <stdbool.h>
#include <stdint.h>

enum { MULL_DW_PARTS = 16 }; /* partial sums of a norm's weight gradient */

/* y = rmsnorm(x) with weight w: dx += .., dw += .. (dw NULL: not wanted). x, dy, dx [m, d]; partial holds
 * MULL_DW_PARTS * d floats of scratch. */
void mull_rmsnorm_backward(mull_pool *pool, const float *x, int64_t m, int64_t d, const float *w, float eps,
                           const float *dy, float *dx, float *dw, float *partial);
/* d_gate_up [m, 2f] from gate_up [m, 2f] and dy [m, f]; d_gate_up may be gate_up. */
void mull_swiglu_backward(mull_pool *pool, const float *gate_up, int64_t m, int64_t f, const float *dy,
                          float *d_gate_up);
/* dx = dy gelu'(x), n elements; dx may be dy. */
void mull_gelu_backward(mull_pool *pool, const float *x, int64_t n, const float *dy, float *dx);
/* db[j] += sum over rows of dy[r * ld + j], j < n: the gradient of a bias. */
void mull_bias_backward(mull_pool *pool, const float *dy, int64_t m, int64_t ld, int64_t n, float *db);

/* Attention inside packed sequences [cu[s], cu[s+1]). Query head h uses key head h / (heads / kv_heads). */
typedef struct mull_attn_shape {
    const int32_t *cu;
    int nseq, heads, kv_heads, hd;
    bool causal;
    float scale;
    /* Causal only, or NULL: sequences that branch. Sequence s begins with trunk[s] rows that all its branches share;
     * row r behind them belongs to the branch whose first row is branch[r] (an index of the pack) and sees the trunk
     * and its own branch, not the branches between. */
    const int32_t *trunk, *branch; /* [nseq], [T] */
} mull_attn_shape;

/* q, k, v rows of stride ld; out [T, heads * hd] with stride ldo; lse [heads, T] the log of each row's sum. */
void mull_attention_train(mull_pool *pool, const mull_attn_shape *a, const float *q, const float *k, const float *v,
                          int64_t ld, float *out, int64_t ldo, float *lse);
/* dq, dk, dv rows of stride ldd, overwritten, from dout (stride ldo like out). kv: scratch of
 * mull_attention_scratch(a, T) floats. */
void mull_attention_backward(mull_pool *pool, const mull_attn_shape *a, const float *q, const float *k, const float *v,
                             int64_t ld, const float *out, const float *dout, int64_t ldo, const float *lse, float *dq,
                             float *dk, float *dv, int64_t ldd, float *kv);
int64_t mull_attention_scratch(const mull_attn_shape *a, int64_t rows);

#endif
