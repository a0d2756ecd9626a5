/* The operations of the model on a CUDA device, twins of ops.h. All pointers are device memory unless said; rows are
 * tokens, tensors dense row-major. Ops are queued on the context's stream and return at once; errors are sticky
 * (core/cuda.h). "T" is the type of activations, MULL_F32 (checks) or MULL_BF16. The residual stream is float32 with
 * either: products add to it in their epilogue, so nothing of it is ever rounded to bf16.
 *
 * A product over at most MULL_CUDA_FEW rows is a matrix-vector kernel whose order of additions does not depend on the
 * number of rows; more rows are cuBLASLt's, whose order is its own for each shape. */
#ifndef MULL_ENGINE_OPS_CUDA_OPS_H
#define MULL_ENGINE_OPS_CUDA_OPS_H

#ifdef __cplusplus
extern "C" {
#endif

#include "engine/core/cuda.h"
#include "engine/core/dtype.h"

/* ---- products */
enum { MULL_CUDA_FEW = 8 };

/* A weight [n, k]. type F32 or BF16: inputs have the same type. I8: symmetric with a scale per row, inputs bf16, which
 * are quantised by row as well, sums exact in int32; k is a multiple of 16. */
typedef struct mull_cuda_matrix {
    void *data;
    float *scale; /* [n], I8 only */
    int64_t n, k;
    mull_dtype type;
} mull_cuda_matrix;

/* y [m, n] = x [m, k] w^T + bias; accumulate adds to y, which is then F32. bias [n] of y's type or NULL. y_type: F32,
 * or BF16 with BF16 inputs. I8 needs MULL_CUDA_QUANT and MULL_CUDA_PRODUCT scratch of mull_cuda_linear_scratch bytes.
 */
void mull_cuda_linear(mull_cuda *c, const void *x, int64_t m, int64_t ldx, const mull_cuda_matrix *w, const void *bias,
                      void *y, mull_dtype y_type, int64_t ldy, bool accumulate);
void mull_cuda_linear_scratch(int64_t m, int64_t n, int64_t k, size_t *quant, size_t *product);
/* The two ways of it, for tests and benches: at most MULL_CUDA_FEW rows, and cuBLASLt (not for I8). */
void mull_cuda_gemv(mull_cuda *c, const void *x, int64_t m, int64_t ldx, const mull_cuda_matrix *w, const void *bias,
                    void *y, mull_dtype y_type, int64_t ldy, bool accumulate);
void mull_cuda_gemm(mull_cuda *c, const void *x, int64_t m, int64_t ldx, const mull_cuda_matrix *w, const void *bias,
                    void *y, mull_dtype y_type, int64_t ldy, bool accumulate);
/* y [m, n] int32 = x [m, k] w^T of int8; ldx = k. */
void mull_cuda_gemm_i8(mull_cuda *c, const int8_t *x, int64_t m, const int8_t *w, int64_t n, int64_t k, int32_t *y);
/* Rows of x [m, k] (bf16) to int8 with a scale each. */
void mull_cuda_quantise(mull_cuda *c, const void *x, int64_t m, int64_t ldx, int64_t k, int8_t *q, float *scale);

/* ---- row-wise */
/* y (T) = x * rsqrt(mean(x^2) + eps) * weight; x [m, d] float32 with rows rows[i], or i where rows is NULL; weight
 * float32. */
void mull_cuda_rmsnorm(mull_cuda *c, const float *x, const int32_t *rows, int64_t m, int64_t d, const float *weight,
                       float eps, void *y, mull_dtype t);
/* y [m, f] = silu(gate) * up, gate_up [m, 2f], both T. */
void mull_cuda_swiglu(mull_cuda *c, const void *gate_up, int64_t m, int64_t f, void *y, mull_dtype t);
/* Exact (erf) GELU in place, n elements of T. */
void mull_cuda_gelu(mull_cuda *c, void *x, int64_t n, mull_dtype t);
/* x [m, d] float32 = row ids[i] of table [*, d] (T), or features[i] (float32, device memory) where that is not NULL.
 * features: m pointers, or NULL. */
void mull_cuda_embed(mull_cuda *c, const void *table, mull_dtype t, const int32_t *ids, const float *const *features,
                     int64_t m, int64_t d, float *x);
/* y (T) = x (float32), n elements. */
void mull_cuda_convert(mull_cuda *c, const float *x, int64_t n, void *y, mull_dtype t);
/* dst row i = src row order[i] (back false) or dst row order[i] = src row i (true), for units rows of `floats` float32,
 * repeated for each of steps blocks of units rows. dst and src differ. */
void mull_cuda_permute(mull_cuda *c, const float *src, const int32_t *order, int64_t units, int64_t steps,
                       int64_t floats, bool back, float *dst);

/* ---- positions */
/* cos, sin [m, half] float32 of the angles inv_freq[i] * pos[axis[i] * stride + row]. */
void mull_cuda_mrope_table(mull_cuda *c, const int32_t *pos, int64_t stride, int64_t m, const float *inv_freq,
                           const uint8_t *axis, int half, float *cos, float *sin);
/* Rotate-half in place on the first `heads` heads of rows of x (T), stride ldx; cos, sin [m, hd / 2]. */
void mull_cuda_rope(mull_cuda *c, void *x, int64_t m, int64_t ldx, int heads, int hd, const float *cos,
                    const float *sin, mull_dtype t);

/* ---- attention. Pages hold MULL_CUDA_PAGE tokens, keys and values alike [kv_heads][tokens][hd] in T. */
enum { MULL_CUDA_PAGE = 32, MULL_CUDA_HEAD_MAX = 256 };

typedef struct mull_cuda_kv {
    void *k, *v;         /* of one layer, page 0 */
    int64_t page_stride; /* elements */
    int kv_heads, hd;
} mull_cuda_kv;

/* One sequence of a batch, as mull_attn_seq; its page table begins at page0 of the batch's. */
typedef struct mull_cuda_seq {
    int32_t row0, rows, pos0, page0;
} mull_cuda_seq;

/* A piece of work for one block and kv head: query pairs [pair0, ..) of a sequence (pair = row * group + head of the
 * group) against keys [key0, key1). part: where its partial sums go, -1 when it has all keys. */
typedef struct mull_cuda_work {
    int32_t seq, pair0, key0, key1, part;
} mull_cuda_work;
typedef struct mull_cuda_join {
    int32_t seq, pair0, part0, parts;
} mull_cuda_join;

/* The plan of a batch, made on the host (cuda_plan.c): tiles of 64 pairs for prompts, of 16 for sequences that fit one
 * such tile, whose keys are split at fixed places, so that one long sequence fills the device and a row's bits do not
 * depend on the other sequences. */
enum { MULL_CUDA_TILE = 64, MULL_CUDA_TILE_FEW = 16, MULL_CUDA_SPLIT = 256 };
typedef struct mull_cuda_plan {
    int32_t wide, few, joins, parts; /* lengths: work of 64-pair tiles, of 16-pair tiles, joins; partial sums */
} mull_cuda_plan;
/* Counts; with work and joins not NULL also writes them: wide entries first, then few. causal: keys 0 .. own position;
 * else all rows of the segment (vision). */
void mull_cuda_plan_attention(const mull_cuda_seq *seqs, int nseq, int group, bool causal, mull_cuda_plan *plan,
                              mull_cuda_work *work, mull_cuda_join *joins);
/* Bytes of MULL_CUDA_ATTENTION scratch that parts partial sums need. */
size_t mull_cuda_attention_scratch(int64_t parts, int kv_heads, int hd);

typedef struct mull_cuda_attention {
    mull_dtype t;
    const void *q;
    int64_t ldq;
    const mull_cuda_kv *kv; /* paged; NULL: k and v are rows of stride ldkv, of kv_heads heads */
    const int32_t *pages;   /* page tables of all sequences */
    const void *k, *v;
    int64_t ldkv;
    int kv_heads;  /* of rows; 0: as many as q has */
    int heads, hd; /* of queries */
    bool causal;
    float scale;
    const mull_cuda_seq *seqs;
    const mull_cuda_work *work; /* wide, then few */
    const mull_cuda_join *joins;
    mull_cuda_plan plan;
    void *out; /* T, [rows, heads * hd] with stride ldo */
    int64_t ldo;
    float *lse;       /* [heads, rows] or NULL: the log of each row's sum, for a backward; the plan has no parts then */
    int64_t lse_rows; /* rows of it */
    bool simple;      /* the kernel without tensor cores, which float32 and other head sizes always take */
} mull_cuda_attention;
void mull_cuda_attend(mull_cuda *c, const mull_cuda_attention *a);
/* Fills a plan of decoding sequences up to so many entries with ones that do nothing: launches then do not depend on
 * the batch. plan->few and joins grow; parts stay what they were. */
void mull_cuda_plan_pad(mull_cuda_plan *plan, mull_cuda_work *work, int32_t few, mull_cuda_join *joins, int32_t njoins);
/* Rotates q and k of qkv rows [m, (heads + 2 kv_heads) hd] (T; q in place) and writes k and v into the pages. */
void mull_cuda_rope_store(mull_cuda *c, void *qkv, int64_t m, int heads, const mull_cuda_kv *kv,
                          const mull_cuda_seq *seqs, int nseq, const int32_t *pages, const float *cos, const float *sin,
                          mull_dtype t);

/* ---- sampling */
typedef struct mull_cuda_sampling {
    double temperature, top_p, penalty; /* 0: greedy; 1: off; 1: off */
    int32_t top_k;                      /* 0: off */
    int32_t row;                        /* of the logits */
    int32_t slot;                       /* of the seen sets, -1: none */
    uint64_t seed, index;
} mull_cuda_sampling;
/* Tokens for n rows of logits [*, vocab] float32, which are left as they are. banned: bits [ceil(vocab / 32)] or NULL;
 * seen: slots of as many bits, seen_stride words apart; the chosen id is added to its slot. id -1: no finite logit.
 * logprob [n]: the model's own log-probability of it, NULL: not wanted. The same choice as mull_sample of
 * infer/sampler.h for the same seed, index and logits, but where a random number falls within 1e-9 of a border. */
void mull_cuda_sample(mull_cuda *c, const float *logits, int64_t vocab, const mull_cuda_sampling *how, int64_t n,
                      const uint32_t *banned, uint32_t *seen, int64_t seen_stride, int32_t *ids, float *logprob);

#ifdef __cplusplus
}
#endif
#endif
