/* The operations of the model on the CPU. Rows are tokens; every tensor is dense row-major float32
 * unless said. All work is split by rows or columns in a fixed way, and each output element is one fixed
 * sequence of operations over K, so a row's result does not depend on the other rows of the batch, on the
 * chunking of a prompt, or on the number of threads. */
#ifndef MULL_ENGINE_OPS_OPS_H
#define MULL_ENGINE_OPS_OPS_H

#include "engine/core/dtype.h"
#include "engine/core/error.h"
#include "engine/core/pool.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- matrix: a weight [N, K] (out x in, as checkpoints store it), packed once for both matrix-matrix and
 * matrix-vector use. Packed column panels: lanes are outputs, so K is summed in the same order for any M. */
typedef enum mull_weight_type {
    MULL_WEIGHT_F32,
    MULL_WEIGHT_BF16,     /* products with float32 activations: as exact as F32 with these weights */
    MULL_WEIGHT_INT8,     /* symmetric per row; activations to int8 per row as well, sums exact */
    MULL_WEIGHT_BF16_DOT, /* BF16 with activations rounded to bf16 too (each within 2^-9): twice the rate where the CPU
                             has bf16 dot products, else the same rounding and the rate of BF16 */
} mull_weight_type;

typedef struct mull_matrix mull_matrix;

/* An empty matrix of n outputs by k inputs; fill every row with mull_matrix_set_rows. */
int mull_matrix_create(int64_t n, int64_t k, mull_weight_type type, mull_matrix **out, mull_error *err);
/* Rows [row0, row0 + rows) from src [rows, k] of a float type. INT8 quantises per row, symmetric. */
void mull_matrix_set_rows(mull_matrix *w, int64_t row0, int64_t rows, const void *src, mull_dtype type);
/* Row r back as float32 (embedding look-up of tied heads; exact for all but INT8). dst [k]. */
void mull_matrix_get_row(const mull_matrix *w, int64_t r, float *dst);
int64_t mull_matrix_rows(const mull_matrix *w);
int64_t mull_matrix_cols(const mull_matrix *w);
mull_weight_type mull_matrix_type(const mull_matrix *w);
size_t mull_matrix_bytes(const mull_matrix *w);
void mull_matrix_destroy(mull_matrix *w);

/* y[m, n] = x[m, k] w^T + bias (bias [N] or NULL); accumulate adds to what y holds (residual).
 * ldx, ldy: row strides in elements. */
void mull_matmul(mull_pool *pool, const float *x, int64_t m, int64_t ldx, const mull_matrix *w, const float *bias,
                 float *y, int64_t ldy, bool accumulate);

/* ---- row-wise ops */
/* y = x * rsqrt(mean(x^2) + eps) * weight. x, y [m, d]; y may be x. */
void mull_rmsnorm(mull_pool *pool, const float *x, int64_t m, int64_t d, const float *weight, float eps, float *y);
/* y = silu(gate) * up. gate_up [m, 2f]: gate in columns 0..f-1, up in f..2f-1; y [m, f]. */
void mull_swiglu(mull_pool *pool, const float *gate_up, int64_t m, int64_t f, float *y);
/* Exact (erf) GELU in place, n elements. */
void mull_gelu(mull_pool *pool, float *x, int64_t n);
/* Rotate-half rope in place on heads of x: row r, head h at x[r * ldx + h * hd]; cos, sin [m, hd/2]:
 * out[i] = a cos - b sin, out[i + hd/2] = b cos + a sin. */
void mull_rope(mull_pool *pool, float *x, int64_t m, int64_t ldx, int heads, int hd, const float *cos,
               const float *sin);

/* ---- attention */
/* Full attention inside each packed segment: q, k, v rows of stride ld (elements), heads of hd; segments
 * [cu[s], cu[s+1]). out [m, heads * hd] with stride ldo. scale is usually 1/sqrt(hd). Vision tower. */
void mull_attention_varlen(mull_pool *pool, const float *q, const float *k, const float *v, int64_t ld,
                           const int32_t *cu, int segments, int heads, int hd, float scale, float *out, int64_t ldo);

/* Heads larger than this are refused when a checkpoint is loaded. */
enum { MULL_HEAD_DIM_MAX = 256 };

/* Paged keys and values of one layer. Page p holds page_tokens tokens (a multiple of 32): keys at k + p * page_stride,
 * transposed, [kv_heads][hd][page_tokens], so that lanes are keys; values [kv_heads][page_tokens][hd]. The view's
 * memory must allow reading 32 floats past the last value (pages before the end always do). */
typedef struct mull_kv_view {
    float *k, *v;
    int64_t page_stride; /* elements */
    int page_tokens, kv_heads, hd;
} mull_kv_view;

/* One sequence's share of a packed batch: rows [row0, row0 + rows) are its tokens at cache positions
 * [pos0, pos0 + rows); its keys for 0 .. pos0 + rows - 1 are already in the cache. */
typedef struct mull_attn_seq {
    int64_t row0, rows, pos0;
    const int32_t *pages; /* page table */
} mull_attn_seq;

/* Copies k, v rows [rows][kv_heads * hd] (stride ld) of each sequence into its pages. */
void mull_kv_store(mull_pool *pool, const mull_kv_view *kv, const mull_attn_seq *seqs, int nseq, const float *k,
                   const float *v, int64_t ld);
/* Causal grouped-query attention by sequence index over the paged cache. q rows of stride ldq, heads of hd;
 * out stride ldo. Online softmax over key blocks at absolute positions: the same bits however chunked. */
void mull_attention_paged(mull_pool *pool, const mull_kv_view *kv, const mull_attn_seq *seqs, int nseq, const float *q,
                          int64_t ldq, int heads, float scale, float *out, int64_t ldo);

#endif
