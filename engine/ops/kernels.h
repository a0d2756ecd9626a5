/* The table of inner kernels, one per instruction set. All of them are straight loops over one fixed order of
 * operations per output element; blocking, packing and threads live in matrix.c, rowwise.c and attention.c. */
#ifndef MULL_ENGINE_OPS_KERNELS_H
#define MULL_ENGINE_OPS_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    MULL_NR = 32,     /* outputs of one weight panel: two 512-bit registers of float32 */
    MULL_MR_MAX = 12, /* most rows of one micro-kernel call */
    MULL_KC = 512,    /* depth of one block of K */
    MULL_AHEAD =
        8192,         /* bytes between a prefetch of a weight and its use: about the latency of memory times its rate */
    MULL_NEAR = 1024, /* the same of the second prefetch, from one cache into the nearest */
    MULL_KEYS = 64,   /* keys of one step of the online softmax; a multiple of the page size that infer uses */
};

/* One block of a product: c[i][0..32) (+)= sum_k a[k][i] * b[k][0..32), i < mr, k ascending.
 * a is packed [k][mr], b [k][32] in f32 and [k/2][32][2] in bf16 (k even). first: start from zero, else from what c
 * holds. Prefetches b MULL_AHEAD bytes on. */
typedef void (*mull_gemm_f32_fn)(int mr, int64_t k, const float *a, const float *b, float *c, int64_t ldc, int first);
typedef void (*mull_gemm_bf16_fn)(int mr, int64_t k, const float *a, const uint16_t *b, float *c, int64_t ldc,
                                  int first);
/* Lines that a kernel fetches into the caches while it computes, for whoever comes next: `left` of them, `row` side by
 * side, then `jump` bytes on from the last of a row. MULL_AHEAD_K of its k fetch two. */
enum { MULL_AHEAD_K = 16 };
typedef struct mull_ahead {
    uintptr_t line;
    int left, row;
    int64_t jump;
} mull_ahead;
/* Where a block's sums over k start and where they go: from[i * ld_from + n] or zero if that is NULL; to is it, plus
 * bias[n] unless NULL, plus what it holds if add. */
typedef struct mull_sums {
    const float *from;
    float *to;
    const float *bias;
    int64_t ld_from, ld_to;
    bool add;
} mull_sums;
/* A block of a product of many rows; a and b as for gemm_f32, b is in a cache. */
typedef void (*mull_gemm_many_fn)(int mr, int64_t k, const float *a, const float *b, const mull_sums *s,
                                  const mull_ahead *next);
/* Two panels, next elements apart, for few rows (mr <= pair): c is [2][mr][32]. */
typedef void (*mull_pair_bf16_fn)(int mr, int64_t k, const float *a, const uint16_t *b, int64_t next, float *c,
                                  int first);
/* The same with a in bf16, [k/2][mr][2]: each step adds the products of a pair. */
typedef void (*mull_gemm_dot_fn)(int mr, int64_t k, const uint16_t *a, const uint16_t *b, float *c, int64_t ldc,
                                 int first);
/* c[i][0..32) = sum_k a[i][k] * b over k4 groups of four: a unsigned bytes (value + 128) with row stride lda,
 * b [k4][32][4] signed. The caller removes the offset. */
typedef void (*mull_gemm_i8_fn)(int mr, int64_t k4, const uint8_t *a, int64_t lda, const int8_t *b, int32_t *c);

/* One step of AdamW, the same for all values of a call. */
typedef struct mull_adamw {
    float clip; /* what gradients are multiplied with first */
    float keep; /* 1 - lr * weight decay */
    float beta2, one_beta1, one_beta2;
    float step, inv_root, eps; /* lr / (1 - beta1^t), 1 / sqrt(1 - beta2^t) */
} mull_adamw;

typedef struct mull_kernels {
    const char *name;
    int mr; /* rows of a full gemm block */
    int mr_i8;
    mull_gemm_f32_fn gemm_f32;
    mull_gemm_bf16_fn gemm_bf16;
    mull_gemm_many_fn gemm_many;
    /* Rows of k floats, lds apart, to [k][rows]. */
    void (*left)(int rows, int64_t k, const float *src, int64_t lds, float *to);
    /* A panel [k][32] from rows <= 32 rows of k floats, lds apart; lanes of no row keep what they hold. */
    void (*panel)(int rows, int64_t k, const float *src, int64_t lds, float *panel);
    int pair; /* most rows of pair_bf16 */
    mull_pair_bf16_fn pair_bf16;
    mull_gemm_dot_fn gemm_dot; /* NULL where the CPU has no bf16 dot products */
    mull_gemm_i8_fn gemm_i8;
    void (*widen)(const uint16_t *b, int64_t k, float *f32);    /* [k/2][32][2] to [k][32] */
    void (*round_bf16)(const float *x, int64_t n, uint16_t *y); /* to nearest even */
    /* Attention: c[i * MULL_KEYS + (0..32)) = sum_k a[k * mr + i] * b[k * ldb + (0..32)), and
     * c[i * ldc + (0..32)) += sum_k a[i * MULL_KEYS + k] * b[k * ldb + (0..32)). What lies next bytes from each line of
     * b is prefetched: pages lie anywhere, so the hardware cannot guess the one that follows. */
    void (*scores)(int mr, int64_t k, const float *a, const float *b, int64_t ldb, int64_t next, float *c);
    void (*weigh)(int mr, int64_t k, const float *a, const float *b, int64_t ldb, int64_t next, float *c, int64_t ldc);
    /* Largest |x|, and NaN/Inf carried into the scale: returns amax, writes x / (amax / 127) + 128 to q. */
    float (*quantise_row)(const float *x, int64_t k, uint8_t *q);
    void (*rmsnorm)(const float *x, int64_t d, const float *w, float eps, float *y);
    void (*swiglu)(const float *gate, const float *up, int64_t f, float *y);
    void (*gelu)(float *x, int64_t n);
    void (*rope)(float *x, int heads, int hd, const float *cos, const float *sin);
    /* Online softmax over one block of n <= MULL_KEYS scores of a row, scaled: s becomes exp(scale s - max), *max and
     * *sum are carried; returns the factor that earlier sums must be multiplied with. */
    float (*softmax_step)(float *s, int n, float scale, float *max, float *sum);
    void (*scale_row)(float *x, int64_t n, float f);
    /* Training (kernels_train_impl.h): y += a x; dx and dw accumulate, dw may be NULL; exp_sum is the sum of
     * exp(mul x - sub), exp_dot that of exp(z) z with z = mul x - sub, exp_scale puts scale exp(mul x - sub) in place
     * (both for mul x <= sub up to rounding, a NaN comes through); softmax_backward makes dp = scale p (dp - d).
     * row_max is NaN if any value is. */
    void (*axpy)(float *y, const float *x, float a, int64_t n);
    float (*dot)(const float *x, const float *y, int64_t n);
    void (*rmsnorm_backward)(const float *x, int64_t d, const float *w, float eps, const float *dy, float *dx,
                             float *dw);
    void (*swiglu_backward)(const float *gate, const float *up, const float *dy, int64_t f, float *dgate, float *dup);
    void (*gelu_backward)(const float *x, const float *dy, int64_t n, float *dx);
    float (*row_max)(const float *x, int64_t n);
    double (*exp_sum)(const float *x, int64_t n, float mul, float sub);
    double (*exp_dot)(const float *x, int64_t n, float mul, float sub);
    void (*exp_scale)(float *x, int64_t n, float mul, float sub, float scale);
    void (*softmax_backward)(const float *p, float *dp, int64_t n, float d, float scale);
    double (*square_sum)(const float *x, int64_t n);
    void (*adamw)(float *w, const float *g, float *m, float *v, int64_t n, const mull_adamw *o);
    /* The roofs: the sum of the bytes' words (bytes a multiple of 4096), and multiply-adds on registers alone, which
     * return their FLOP. *sink takes a result, so that the work cannot be left out. */
    uint64_t (*read_sum)(const void *data, size_t bytes);
    double (*peak_f32)(int64_t n, uint64_t *sink);
    double (*peak_i8)(int64_t n, uint64_t *sink);
    double (*peak_dot)(int64_t n, uint64_t *sink);
} mull_kernels;

extern const mull_kernels mull_kernels_portable;
#if defined(__x86_64__)
extern const mull_kernels mull_kernels_avx2, mull_kernels_avx512, mull_kernels_vnni, mull_kernels_bf16;
#endif

/* The best table this CPU runs, or the one that MULL_ISA names (portable, avx2, avx512, vnni, bf16). Fixed at first
 * use. */
const mull_kernels *mull_kernels_get(void);
/* Makes every later call use k (which this CPU must be able to run): for tests that compare the tables. */
void mull_kernels_force(const mull_kernels *k);
/* The tables that this CPU can run, slowest first; returns how many. */
enum { MULL_ISAS = 5 };
int mull_kernels_list(const mull_kernels *out[MULL_ISAS]);

#endif
