/* The operations of training on a CUDA device, twins of backward.h, gemm.h and the optimiser's; conventions as in
 * cuda_ops.h. Every sum has one fixed order: no atomic additions, so the same batch gives the same bits each time.
 * Gradients of weights are float32 and accumulate (+=); gradients of activations that are operands of the next product
 * are T; those of the residual stream are float32, as the stream itself. */
#ifndef MULL_ENGINE_OPS_CUDA_TRAIN_H
#define MULL_ENGINE_OPS_CUDA_TRAIN_H

#include "engine/ops/cuda_ops.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- products: y [m, n] (+)= a [m, k] b [k, n] + bias [n], any of the operands transposed (as mull_gemm_job) */
typedef struct mull_cuda_product {
    int64_t m, n, k;
    mull_dtype type; /* of a and b: F32 or BF16 */
    const void *a;   /* row i, column p at a[i * lda + p]; with a_t at a[p * lda + i] */
    int64_t lda;
    bool a_t;
    const void *b; /* row p, column j at b[p * ldb + j]; with b_t at b[j * ldb + p] (a weight [n, k]) */
    int64_t ldb;
    bool b_t;
    const void *bias; /* of y's type, or NULL */
    void *y;
    mull_dtype y_type; /* F32, or BF16 with BF16 operands */
    int64_t ldy;
    bool accumulate; /* y += ..; y is F32 then */
} mull_cuda_product;
void mull_cuda_multiply(mull_cuda *c, const mull_cuda_product *p);

/* ---- row-wise */
enum { MULL_CUDA_SUM_PARTS = 64 }; /* a sum over rows is taken in at most so many parts, added in order */
/* y = rmsnorm(x) with weight w, x, dy, dx [m, d] float32: dx += .., dw += .. (dw NULL: not wanted). scratch:
 * m + MULL_CUDA_SUM_PARTS * d floats. */
void mull_cuda_rmsnorm_backward(mull_cuda *c, const float *x, int64_t m, int64_t d, const float *w, float eps,
                                const float *dy, float *dx, float *dw, float *scratch);
/* sum[j] += sum over rows of x[r * ld + j], j < n: a bias's gradient. scratch: MULL_CUDA_SUM_PARTS * n floats. */
void mull_cuda_column_sum(mull_cuda *c, const void *x, mull_dtype t, int64_t m, int64_t ld, int64_t n, float *sum,
                          float *scratch);
/* d_gate_up [m, 2f] from gate_up [m, 2f] and dy [m, f], all T; d_gate_up may be gate_up. */
void mull_cuda_swiglu_backward(mull_cuda *c, const void *gate_up, int64_t m, int64_t f, const void *dy, void *d_gate_up,
                               mull_dtype t);
/* dx (T) = dy times the slope of gelu at x, n elements of T; dx may be dy. */
void mull_cuda_gelu_backward(mull_cuda *c, const void *x, int64_t n, const void *dy, void *dx, mull_dtype t);
/* Turns rows back: the gradient of mull_cuda_rope, in place. */
void mull_cuda_rope_backward(mull_cuda *c, void *dx, int64_t m, int64_t ldx, int heads, int hd, const float *cos,
                             const float *sin, mull_dtype t);
/* x (T) *= factor, n elements. */
void mull_cuda_scale(mull_cuda *c, void *x, int64_t n, float factor, mull_dtype t);

/* Rows by where they go: group g is the rows order[starts[g] .. starts[g + 1]), which all go to targets[g]. Made on the
 * host by mull_cuda_group, so that rows with one target are added in ascending order. */
typedef struct mull_cuda_groups {
    int32_t *order, *starts, *targets; /* [n], [n + 1], [n] at most */
    int32_t n;                         /* groups */
} mull_cuda_groups;
/* Groups of i in [0, n) by ids[i], those with id < 0 left out; g's arrays have room. MULL_ENOMEM or 0. */
int mull_cuda_group(const int32_t *ids, int64_t n, mull_cuda_groups *g);
/* dst row targets[g] += the sum of its group's rows of src, d float32 each; g's arrays in device memory. An embedding's
 * gradient, and that of rows that were gathered. */
void mull_cuda_scatter_add(mull_cuda *c, const float *src, const mull_cuda_groups *g, int64_t d, float *dst);

/* ---- attention */
/* The backward of mull_cuda_attend over rows (kv NULL) that kept lse. A key's gradient is a sum over all later queries
 * of all heads of its group: blocks own a tile of keys and meet the queries in order (cf. FlashAttention-2, Dao 2023,
 * whose own way adds up dq by atomics; here a second pass over the tiles has dq instead). */
typedef struct mull_cuda_attention_grad {
    mull_dtype t;
    const void *q, *k, *v; /* rows of stride ld: [rows, heads * hd], [rows, kv_heads * hd] */
    int64_t ld;
    const void *out, *dout; /* [rows, heads * hd], stride ldo */
    int64_t ldo;
    const float *lse;   /* [heads, rows] as mull_cuda_attend left it */
    void *dq, *dk, *dv; /* stride ldd, overwritten */
    int64_t ldd;
    int heads, kv_heads, hd;
    bool causal;
    float scale;
    int64_t rows;
    const mull_cuda_seq *seqs;
    const mull_cuda_work *work; /* the forward's plan: parts 0 */
    int32_t nwork;
    const mull_cuda_work *key_work; /* mull_cuda_plan_keys: pair0 is not used */
    int32_t nkey_work;
    float *delta; /* scratch, [heads, rows] */
    bool simple;  /* the kernels without tensor cores, which float32 and other head sizes always take */
} mull_cuda_attention_grad;
void mull_cuda_attend_backward(mull_cuda *c, const mull_cuda_attention_grad *g);
/* Tiles of MULL_CUDA_TILE keys of all sequences; returns their number, writes them with work not NULL. */
int32_t mull_cuda_plan_keys(const mull_cuda_seq *seqs, int nseq, mull_cuda_work *work);

/* ---- losses */
/* For rows of logits [n, vocab] float32 at a temperature: the largest (times 1 / temperature) and the sum of
 * exponentials of each row (top, sum [n]), log-probability of targets (logp [n]) and entropy in nats ([n] or NULL). */
void mull_cuda_log_softmax(mull_cuda *c, const float *logits, int64_t n, int64_t vocab, const int32_t *targets,
                           double temperature, float *top, float *sum, double *logp, double *entropy);
/* d (T) [n, vocab] = coef[r] (onehot - softmax) / temperature; d may be logits when T is F32. */
void mull_cuda_log_softmax_backward(mull_cuda *c, const float *logits, int64_t n, int64_t vocab, const int32_t *targets,
                                    double temperature, const float *top, const float *sum, const float *coef, void *d,
                                    mull_dtype t);
/* cos[i] of rows i of a and b [n, d] float32, as torch has it (norms at least 1e-8); da [n, d] += scale[i] times its
 * gradient in a, with scale not NULL. */
void mull_cuda_cosine(mull_cuda *c, const float *a, const float *b, int64_t n, int64_t d, const double *scale,
                      float *da, double *cos);

/* ---- AdamW over many tensors in one launch: a piece is a part of one tensor */
enum { MULL_CUDA_PIECE = 1 << 15 }; /* most values of a piece */
typedef struct mull_cuda_piece {
    int64_t w, at; /* index of its first value among all weights, and among the trained ones */
    int32_t count;
    int32_t decay; /* weight decay applies */
} mull_cuda_piece;
typedef struct mull_cuda_adamw {
    double lr, beta1, beta2, eps, weight_decay, max_grad_norm; /* max_grad_norm 0: no clipping */
    double scale;                                              /* makes the summed gradients the mean */
} mull_cuda_adamw;
/* In device memory; what a step found and what the next goes on from. The host may read it whenever it likes. */
typedef struct mull_cuda_adamw_state {
    double norm, clip; /* of the mean gradient; what it was multiplied with */
    int64_t applied;   /* steps that were not skipped */
    int32_t skipped;   /* the norm was not finite: this step changed nothing */
    float gradient, keep, step, inv_root;
} mull_cuda_adamw_state;
/* One step, queued whole: norm, clip and update without the host in between. w, half (bf16 copies of w, or NULL) by
 * index of all weights; g, m, v by index of the trained ones. partial: [pieces] doubles of scratch. */
void mull_cuda_adamw_step(mull_cuda *c, const mull_cuda_piece *pieces, int64_t n, const mull_cuda_adamw *o,
                          mull_cuda_adamw_state *state, float *w, uint16_t *half, const float *g, float *m, float *v,
                          double *partial);

#ifdef __cplusplus
}
#endif
#endif
