/* The kernels themselves, compiled once per instruction set by kernels_*.c, which set MULL_VL (floats a vector),
 * MULL_MR (rows of a full gemm block, chosen to fill the register file), MULL_ISA_NAME and MULL_TABLE.
 *
 * Why panels: a weight panel holds 32 outputs for each k side by side, so a product needs no horizontal sums and the
 * lanes of a vector are different outputs. Every output is one chain of multiply-adds in ascending k, whatever the
 * number of rows: a row computed alone has the same bits as in a batch. */
#include "engine/ops/kernels.h"
#include "engine/ops/simd.h"
#include "engine/ops/transpose.h"
#include "engine/core/dtype.h"
#if MULL_VL > 4
#include <immintrin.h>
#endif
#include <stdbool.h>

#define NV (MULL_NR / MULL_VL)

/* ---- products */
MULL_INLINE void ahead(const void *p, int64_t bytes) {
    __builtin_prefetch((const void *)((uintptr_t)p + (uintptr_t)bytes)); /* never faults, also past the end */
}
/* A line of a stream of weights, in two steps: from memory into the second cache, which has three times the first one's
 * room for requests on their way, and shortly before its use into the first. */
MULL_INLINE void stream(const void *p) {
    __builtin_prefetch((const void *)((uintptr_t)p + MULL_AHEAD), 0, 2);
    ahead(p, MULL_NEAR);
}

/* A: element (row i, kk) of the left operand. B: vector v of row kk of the right one. AHEAD: prefetches for row kk. */
#define GEMM_BODY(A, B, AHEAD)                                                                                         \
    vf acc[MULL_MR][NV];                                                                                               \
    _Pragma("GCC unroll 16") for (int i = 0; i < mr; i++) _Pragma("GCC unroll 8") for (int v = 0; v < NV; v++)         \
        acc[i][v] = first ? (vf){0} : v_load(c + i * ldc + v * MULL_VL);                                               \
    for (int64_t kk = 0; kk < k; kk++) {                                                                               \
        vf bv[NV];                                                                                                     \
        AHEAD;                                                                                                         \
        _Pragma("GCC unroll 8") for (int v = 0; v < NV; v++) bv[v] = B;                                                \
        _Pragma("GCC unroll 16") for (int i = 0; i < mr; i++) {                                                        \
            vf av = v_set(A);                                                                                          \
            _Pragma("GCC unroll 8") for (int v = 0; v < NV; v++) acc[i][v] += av * bv[v];                              \
        }                                                                                                              \
    }                                                                                                                  \
    _Pragma("GCC unroll 16") for (int i = 0; i < mr; i++) _Pragma("GCC unroll 8") for (int v = 0; v < NV; v++)         \
        v_store(c + i * ldc + v * MULL_VL, acc[i][v]);

/* One copy for each number of rows: it must be a constant for the accumulators to stay in registers. */
#if MULL_MR == 12
#define MULL_PAIR 6 /* most rows of two panels whose accumulators stay in registers */
#define PAIR_ROWS(X) X(1) X(2) X(3) X(4) X(5) X(6)
#define GEMM_ROWS(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12)
#else
#define MULL_PAIR 1
#define PAIR_ROWS(X) X(1)
#define GEMM_ROWS(X) X(1) X(2) X(3)
#endif

/* clang-format off */
MULL_INLINE void gemm_f32_mr(const int mr, int64_t k, const float *a, const float *b, float *c, int64_t ldc,
                             int first) {
    GEMM_BODY(a[kk * mr + i], v_load(b + kk * MULL_NR + v * MULL_VL),
              stream(b + kk * MULL_NR); stream(b + kk * MULL_NR + 16))
}
MULL_INLINE void fetch(mull_ahead *a, int *place) {
    if (a->left <= 0) return;
    __builtin_prefetch((const void *)a->line, 0, 2);
    a->left--;
    bool last = ++*place == a->row;
    a->line += last ? (uintptr_t)a->jump : 64;
    *place = last ? 0 : *place;
}
/* The lines of the results are fetched while the sum is taken, into the second cache: rows may be a multiple of 4 KB
 * apart, and a whole block of them would then fill a set of the nearest. */
MULL_INLINE void gemm_many_mr(const int mr, int64_t k, const float *a, const float *b, const mull_sums *s,
                              const mull_ahead *lines) {
    vf acc[MULL_MR][NV];
    _Pragma("GCC unroll 16") for (int i = 0; i < mr; i++) _Pragma("GCC unroll 8") for (int v = 0; v < NV; v++)
        acc[i][v] = s->from ? v_load(s->from + i * s->ld_from + v * MULL_VL) : (vf){0};
    mull_ahead next = {lines->line, lines->left, lines->row, lines->jump}; /* not one wide load of what was just written */
    int place = 0;
    const float *line = s->to, *end_line = s->to + mr * s->ld_to;
    for (int64_t k0 = 0; k0 < k; k0 += MULL_AHEAD_K) {
        int64_t end = k - k0 < MULL_AHEAD_K ? k : k0 + MULL_AHEAD_K;
        fetch(&next, &place), fetch(&next, &place);
        if (line < end_line) {
            __builtin_prefetch(line, 1, 2);
            __builtin_prefetch(line + MULL_NR - 1, 1, 2);
            line += s->ld_to;
        }
        for (int64_t kk = k0; kk < end; kk++) {
            ahead(a + kk * mr, 1024); /* rows come from further away than b: a block of theirs is used a few times only */
            vf bv[NV];
            _Pragma("GCC unroll 8") for (int v = 0; v < NV; v++) bv[v] = v_load(b + kk * MULL_NR + v * MULL_VL);
            _Pragma("GCC unroll 16") for (int i = 0; i < mr; i++) {
                vf av = v_set(a[kk * mr + i]);
                _Pragma("GCC unroll 8") for (int v = 0; v < NV; v++) acc[i][v] += av * bv[v];
            }
        }
    }
    _Pragma("GCC unroll 8") for (int v = 0; v < NV; v++) {
        vf bias = s->bias ? v_load(s->bias + v * MULL_VL) : (vf){0};
        _Pragma("GCC unroll 16") for (int i = 0; i < mr; i++) {
            float *to = s->to + i * s->ld_to + v * MULL_VL;
            vf sum = s->bias ? acc[i][v] + bias : acc[i][v]; /* -0 stays */
            v_store(to, s->add ? v_load(to) + sum : sum);
        }
    }
}
/* GEMM_BODY by pairs of k; each accumulator still takes one product after the other. */
MULL_INLINE void gemm_bf16_mr(const int mr, int64_t k, const float *a, const uint16_t *b, float *c, int64_t ldc,
                              int first) {
    vf acc[MULL_MR][NV];
    _Pragma("GCC unroll 16") for (int i = 0; i < mr; i++) _Pragma("GCC unroll 8") for (int v = 0; v < NV; v++)
        acc[i][v] = first ? (vf){0} : v_load(c + i * ldc + v * MULL_VL);
    for (int64_t kk = 0; kk < k; kk += 2) {
        vu pair[NV];
        memcpy(pair, b + kk * MULL_NR, sizeof pair);
        stream(b + kk * MULL_NR);
        stream(b + kk * MULL_NR + 32);
        _Pragma("GCC unroll 2") for (int odd = 0; odd < 2; odd++)
            _Pragma("GCC unroll 16") for (int i = 0; i < mr; i++) {
                vf av = v_set(a[(kk + odd) * mr + i]);
                _Pragma("GCC unroll 8") for (int v = 0; v < NV; v++)
                    acc[i][v] += av * (odd ? v_bf16_second(pair[v]) : v_bf16_first(pair[v]));
            }
    }
    _Pragma("GCC unroll 16") for (int i = 0; i < mr; i++) _Pragma("GCC unroll 8") for (int v = 0; v < NV; v++)
        v_store(c + i * ldc + v * MULL_VL, acc[i][v]);
}
/* Two panels at a time, `next` elements apart: each belongs to a stream of its own from memory, and one core with two
 * streams reads faster than with one. */
MULL_INLINE void pair_bf16_mr(const int mr, int64_t k, const float *a, const uint16_t *b, int64_t next, float *c,
                              int first) {
    vf acc[MULL_PAIR][2][NV];
    _Pragma("GCC unroll 8") for (int i = 0; i < mr; i++) _Pragma("GCC unroll 2") for (int p = 0; p < 2; p++)
        _Pragma("GCC unroll 8") for (int v = 0; v < NV; v++)
            acc[i][p][v] = first ? (vf){0} : v_load(c + (p * mr + i) * MULL_NR + v * MULL_VL);
    for (int64_t kk = 0; kk < k; kk += 2)
        _Pragma("GCC unroll 2") for (int p = 0; p < 2; p++) {
            vu pair[NV];
            const uint16_t *at = b + p * next + kk * MULL_NR;
            memcpy(pair, at, sizeof pair);
            stream(at);
            stream(at + 32);
            _Pragma("GCC unroll 2") for (int odd = 0; odd < 2; odd++)
                _Pragma("GCC unroll 8") for (int i = 0; i < mr; i++) {
                    vf av = v_set(a[(kk + odd) * mr + i]);
                    _Pragma("GCC unroll 8") for (int v = 0; v < NV; v++)
                        acc[i][p][v] += av * (odd ? v_bf16_second(pair[v]) : v_bf16_first(pair[v]));
                }
        }
    _Pragma("GCC unroll 8") for (int i = 0; i < mr; i++) _Pragma("GCC unroll 2") for (int p = 0; p < 2; p++)
        _Pragma("GCC unroll 8") for (int v = 0; v < NV; v++)
            v_store(c + (p * mr + i) * MULL_NR + v * MULL_VL, acc[i][p][v]);
}
MULL_INLINE void scores_mr(const int mr, int64_t k, const float *a, const float *b, int64_t ldb, int64_t next, float *c) {
    enum { ldc = MULL_KEYS, first = 1 };
    GEMM_BODY(a[kk * mr + i], v_load(b + kk * ldb + v * MULL_VL),
              ahead(b + kk * ldb, next); ahead(b + kk * ldb + 16, next))
}
MULL_INLINE void weigh_mr(const int mr, int64_t k, const float *a, const float *b, int64_t ldb, int64_t next,
                          float *c, int64_t ldc) {
    enum { first = 0 };
    GEMM_BODY(a[i * MULL_KEYS + kk], v_load(b + kk * ldb + v * MULL_VL),
              ahead(b + kk * ldb, next); ahead(b + kk * ldb + 16, next))
}
/* clang-format on */

#define SWITCH(call)                                                                                                   \
    switch (mr) { GEMM_ROWS(call) }
static void gemm_f32(int mr, int64_t k, const float *a, const float *b, float *c, int64_t ldc, int first) {
#define CALL(n)                                                                                                        \
    case n:                                                                                                            \
        gemm_f32_mr(n, k, a, b, c, ldc, first);                                                                        \
        break;
    SWITCH(CALL)
#undef CALL
}
static void gemm_many(int mr, int64_t k, const float *a, const float *b, const mull_sums *s, const mull_ahead *next) {
#define CALL(n)                                                                                                        \
    case n:                                                                                                            \
        gemm_many_mr(n, k, a, b, s, next);                                                                             \
        break;
    SWITCH(CALL)
#undef CALL
}
static void gemm_bf16(int mr, int64_t k, const float *a, const uint16_t *b, float *c, int64_t ldc, int first) {
#define CALL(n)                                                                                                        \
    case n:                                                                                                            \
        gemm_bf16_mr(n, k, a, b, c, ldc, first);                                                                       \
        break;
    SWITCH(CALL)
#undef CALL
}
static void pair_bf16(int mr, int64_t k, const float *a, const uint16_t *b, int64_t next, float *c, int first) {
#define CALL(n)                                                                                                        \
    case n:                                                                                                            \
        pair_bf16_mr(n, k, a, b, next, c, first);                                                                      \
        break;
    switch (mr) { PAIR_ROWS(CALL) }
#undef CALL
}
static void scores(int mr, int64_t k, const float *a, const float *b, int64_t ldb, int64_t next, float *c) {
#define CALL(n)                                                                                                        \
    case n:                                                                                                            \
        scores_mr(n, k, a, b, ldb, next, c);                                                                           \
        break;
    SWITCH(CALL)
#undef CALL
}
static void weigh(int mr, int64_t k, const float *a, const float *b, int64_t ldb, int64_t next, float *c, int64_t ldc) {
#define CALL(n)                                                                                                        \
    case n:                                                                                                            \
        weigh_mr(n, k, a, b, ldb, next, c, ldc);                                                                       \
        break;
    SWITCH(CALL)
#undef CALL
}

#if MULL_VL == 16
/* 16 rows by 16 columns: 4 x 4 blocks within the lanes of 128 bits, then the lanes. */
MULL_INLINE void transpose16(const float *src, int64_t lds, float *dst, int64_t ldd) {
    __m512 r[16], t[16];
    _Pragma("GCC unroll 16") for (int i = 0; i < 16; i++) r[i] = _mm512_loadu_ps(src + i * lds);
    _Pragma("GCC unroll 4") for (int i = 0; i < 16; i += 4) {
        __m512d lo0 = _mm512_castps_pd(_mm512_unpacklo_ps(r[i], r[i + 1])),
                lo1 = _mm512_castps_pd(_mm512_unpacklo_ps(r[i + 2], r[i + 3])),
                hi0 = _mm512_castps_pd(_mm512_unpackhi_ps(r[i], r[i + 1])),
                hi1 = _mm512_castps_pd(_mm512_unpackhi_ps(r[i + 2], r[i + 3]));
        t[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(lo0, lo1));
        t[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(lo0, lo1));
        t[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(hi0, hi1));
        t[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(hi0, hi1));
    }
    /* t[4 g + c], lane l: column 4 l + c of rows 4 g .. 4 g + 3 */
    _Pragma("GCC unroll 4") for (int c = 0; c < 4; c++) {
        __m512 a = _mm512_shuffle_f32x4(t[c], t[4 + c], 0x88), b = _mm512_shuffle_f32x4(t[8 + c], t[12 + c], 0x88),
               d = _mm512_shuffle_f32x4(t[c], t[4 + c], 0xdd), e = _mm512_shuffle_f32x4(t[8 + c], t[12 + c], 0xdd);
        _mm512_storeu_ps(dst + c * ldd, _mm512_shuffle_f32x4(a, b, 0x88));
        _mm512_storeu_ps(dst + (4 + c) * ldd, _mm512_shuffle_f32x4(d, e, 0x88));
        _mm512_storeu_ps(dst + (8 + c) * ldd, _mm512_shuffle_f32x4(a, b, 0xdd));
        _mm512_storeu_ps(dst + (12 + c) * ldd, _mm512_shuffle_f32x4(d, e, 0xdd));
    }
}
#endif

/* Rows to [k][rows]. A row is a stream of its own from memory, too short for the hardware to guess it. */
static void left(int rows, int64_t k, const float *src, int64_t lds, float *to) {
    enum { COLUMNS = 16, FAR = 256 };
    for (int64_t c = 0; c < k; c += COLUMNS) {
        for (int r = 0; r < rows; r++) ahead(src + r * lds + c, FAR * (int64_t)sizeof *src);
        mull_transpose(src + c, lds, rows, k - c < COLUMNS ? k - c : COLUMNS, to + c * rows, rows);
    }
}

/* Some columns at a time, so that what is written stays in the nearest cache. */
static void panel(int rows, int64_t k, const float *src, int64_t lds, float *to) {
    enum { COLUMNS = 64 };
    int64_t c = 0;
#if MULL_VL == 16
    for (; rows == MULL_NR && c + 16 <= k; c += 16)
        for (int r = 0; r < MULL_NR; r += 16) transpose16(src + r * lds + c, lds, to + c * MULL_NR + r, MULL_NR);
#endif
    for (; c < k; c += COLUMNS)
        mull_transpose(src + c, lds, rows, k - c < COLUMNS ? k - c : COLUMNS, to + c * MULL_NR, MULL_NR);
}

static void widen(const uint16_t *b, int64_t k, float *f32) {
    for (int64_t i = 0; i < k * MULL_NR; i += 2 * MULL_NR)
        for (int v = 0; v < NV; v++) {
            vu pair;
            memcpy(&pair, b + i + v * 2 * MULL_VL, sizeof pair);
            if (v * MULL_VL % 16 == 0) ahead(b + i + v * 2 * MULL_VL, MULL_AHEAD);
            v_store(f32 + i + v * MULL_VL, v_bf16_first(pair));
            v_store(f32 + i + MULL_NR + v * MULL_VL, v_bf16_second(pair));
        }
}

#ifdef MULL_BF16_DOT
static void round_bf16(const float *x, int64_t n, uint16_t *y) {
    for (int64_t i = 0; i < n; i += 16) {
        __mmask16 m = n - i < 16 ? (__mmask16)((1u << (n - i)) - 1) : (__mmask16)0xffff;
        _mm256_mask_storeu_epi16(y + i, m, (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(m, x + i)));
    }
}

/* The instruction adds to float32 without an intermediate rounding of the products, and takes subnormals as 0. */
MULL_INLINE void gemm_dot_mr(const int mr, int64_t k, const uint16_t *a, const uint16_t *b, float *c, int64_t ldc,
                             int first) {
    __m512 acc[12][2];
    _Pragma("GCC unroll 16") for (int i = 0; i < mr; i++) _Pragma("GCC unroll 2") for (int v = 0; v < 2; v++)
        acc[i][v] = first ? _mm512_setzero_ps() : _mm512_loadu_ps(c + i * ldc + v * 16);
    for (int64_t kk = 0; kk < k; kk += 2) {
        __m512bh b0 = (__m512bh)_mm512_loadu_si512(b + kk * MULL_NR),
                 b1 = (__m512bh)_mm512_loadu_si512(b + kk * MULL_NR + 32);
        stream(b + kk * MULL_NR);
        stream(b + kk * MULL_NR + 32);
        _Pragma("GCC unroll 16") for (int i = 0; i < mr; i++) {
            int32_t w;
            memcpy(&w, a + kk * mr + i * 2, 4);
            __m512bh av = (__m512bh)_mm512_set1_epi32(w);
            acc[i][0] = _mm512_dpbf16_ps(acc[i][0], av, b0);
            acc[i][1] = _mm512_dpbf16_ps(acc[i][1], av, b1);
        }
    }
    _Pragma("GCC unroll 16") for (int i = 0; i < mr; i++) _Pragma("GCC unroll 2") for (int v = 0; v < 2; v++)
        _mm512_storeu_ps(c + i * ldc + v * 16, acc[i][v]);
}
static __attribute__((noinline)) void gemm_dot(int mr, int64_t k, const uint16_t *a, const uint16_t *b, float *c,
                                               int64_t ldc, int first) {
#define CALL(n)                                                                                                        \
    case n:                                                                                                            \
        gemm_dot_mr(n, k, a, b, c, ldc, first);                                                                        \
        break;
    SWITCH(CALL)
#undef CALL
}
#else
static void round_bf16(const float *x, int64_t n, uint16_t *y) {
    for (int64_t i = 0; i < n; i++) y[i] = mull_f32_to_bf16(x[i]);
}
#endif

/* Integers add exactly, so every instruction set gives the same bits here. */
#ifdef MULL_VNNI
#define MULL_MR_I8 12
MULL_INLINE void gemm_i8_mr(const int mr, int64_t k4, const uint8_t *a, int64_t lda, const int8_t *b, int32_t *c) {
    __m512i acc[12][2];
    _Pragma("GCC unroll 16") for (int i = 0; i < mr; i++) acc[i][0] = acc[i][1] = _mm512_setzero_si512();
    for (int64_t k = 0; k < k4; k++) {
        __m512i b0 = _mm512_loadu_si512(b + k * 128), b1 = _mm512_loadu_si512(b + k * 128 + 64);
        stream(b + k * 128);
        stream(b + k * 128 + 64);
        _Pragma("GCC unroll 16") for (int i = 0; i < mr; i++) {
            int32_t w;
            memcpy(&w, a + i * lda + k * 4, 4);
            __m512i av = _mm512_set1_epi32(w);
            acc[i][0] = _mm512_dpbusd_epi32(acc[i][0], av, b0);
            acc[i][1] = _mm512_dpbusd_epi32(acc[i][1], av, b1);
        }
    }
    _Pragma("GCC unroll 16") for (int i = 0; i < mr; i++) {
        _mm512_storeu_si512(c + i * MULL_NR, acc[i][0]);
        _mm512_storeu_si512(c + i * MULL_NR + 16, acc[i][1]);
    }
}
static __attribute__((noinline)) void gemm_i8(int mr, int64_t k4, const uint8_t *a, int64_t lda, const int8_t *b,
                                              int32_t *c) {
#define CALL(n)                                                                                                        \
    case n:                                                                                                            \
        gemm_i8_mr(n, k4, a, lda, b, c);                                                                               \
        break;
    SWITCH(CALL)
#undef CALL
}
#else
#define MULL_MR_I8 4
static void gemm_i8(int mr, int64_t k4, const uint8_t *a, int64_t lda, const int8_t *b, int32_t *c) {
    for (int i = 0; i < mr; i++) {
        int32_t acc[MULL_NR] = {0};
        for (int64_t k = 0; k < k4; k++) {
            const uint8_t *av = a + i * lda + k * 4;
            const int8_t *bv = b + k * 128;
            for (int n = 0; n < MULL_NR; n++)
                acc[n] += av[0] * bv[n * 4] + av[1] * bv[n * 4 + 1] + av[2] * bv[n * 4 + 2] + av[3] * bv[n * 4 + 3];
        }
        memcpy(c + i * MULL_NR, acc, sizeof acc);
    }
}
#endif

/* A vector of x * inv (within 127 by its scale) to bytes, rounded to nearest even by adding 1.5 * 2^23. */
MULL_INLINE vu8 quantise(vf x, float inv) {
    const vf magic = v_set(12582912.0f);
    vf v = x * inv;
    v = v_select(v < 127.0f, v, v_set(127.0f)); /* also keeps product and sum apart: all sets round alike */
    return __builtin_convertvector((vi)(v + magic) - (vi)magic + 128, vu8);
}

static float quantise_row(const float *x, int64_t k, uint8_t *q) {
    vf amax = {0}, poison = {0};
    int64_t whole = k / MULL_VL * MULL_VL;
    for (int64_t i = 0; i < k; i += MULL_VL) {
        vf v = i < whole ? v_load(x + i) : v_load_n(x + i, k - i, 0);
        vf mag = (vf)((vi)v & 0x7fffffff);
        amax = v_select(mag > amax, mag, amax);
        poison += v * 0.0f; /* NaN as soon as one value is NaN or infinite */
    }
    float bad = v_sum(poison), top = v_max(amax);
    if (!(bad == 0)) {
        memset(q, 128, (size_t)k);
        return bad;
    }
    float inv = top > 0 ? 127.0f / top : 0;
    for (int64_t i = 0; i < k; i += MULL_VL) {
        vu8 b = quantise(i < whole ? v_load(x + i) : v_load_n(x + i, k - i, 0), inv);
        memcpy(q + i, &b, i < whole ? sizeof b : (size_t)(k - i));
    }
    return top;
}

/* ---- row-wise */
static void rmsnorm(const float *x, int64_t d, const float *w, float eps, float *y) {
    vf s0 = {0}, s1 = {0};
    int64_t i = 0;
    for (; i + 2 * MULL_VL <= d; i += 2 * MULL_VL) {
        vf a = v_load(x + i), b = v_load(x + i + MULL_VL);
        s0 += a * a;
        s1 += b * b;
    }
    for (; i < d; i += MULL_VL) {
        vf a = d - i >= MULL_VL ? v_load(x + i) : v_load_n(x + i, d - i, 0);
        s0 += a * a;
    }
    float inv = 1.0f / sqrtf(v_sum(s0 + s1) / (float)d + eps);
    for (i = 0; i + MULL_VL <= d; i += MULL_VL) v_store(y + i, v_load(x + i) * inv * v_load(w + i));
    for (; i < d; i++) y[i] = x[i] * inv * w[i];
}

MULL_INLINE vf silu_mul(vf g, vf u) {
    return g / (1.0f + v_exp(-g)) * u;
}

static void swiglu(const float *gate, const float *up, int64_t f, float *y) {
    int64_t i = 0;
    for (; i + MULL_VL <= f; i += MULL_VL) v_store(y + i, silu_mul(v_load(gate + i), v_load(up + i)));
    if (i < f) v_store_n(y + i, f - i, silu_mul(v_load_n(gate + i, f - i, 0), v_load_n(up + i, f - i, 0)));
}

/* x P(x) through the tail of |x|, so that nothing cancels for negative x. */
MULL_INLINE vf gelu1(vf x) {
    vf tail = v_normal_tail((vf)((vi)x & 0x7fffffff));
    return x * v_select(x < 0, tail, 1.0f - tail);
}

static void gelu(float *x, int64_t n) {
    int64_t i = 0;
    for (; i + MULL_VL <= n; i += MULL_VL) v_store(x + i, gelu1(v_load(x + i)));
    if (i < n) v_store_n(x + i, n - i, gelu1(v_load_n(x + i, n - i, 0)));
}

static void rope(float *x, int heads, int hd, const float *cos, const float *sin) {
    int half = hd / 2;
    for (int h = 0; h < heads; h++) {
        float *a = x + (int64_t)h * hd, *b = a + half;
        int i = 0;
        for (; i + MULL_VL <= half; i += MULL_VL) {
            vf va = v_load(a + i), vb = v_load(b + i), c = v_load(cos + i), s = v_load(sin + i);
            v_store(a + i, va * c - vb * s);
            v_store(b + i, vb * c + va * s);
        }
        if (i < half) {
            int r = half - i;
            vf va = v_load_n(a + i, r, 0), vb = v_load_n(b + i, r, 0), c = v_load_n(cos + i, r, 0),
               s = v_load_n(sin + i, r, 0);
            v_store_n(a + i, r, va * c - vb * s);
            v_store_n(b + i, r, vb * c + va * s);
        }
    }
}

/* ---- softmax. s has room for MULL_KEYS scores; what lies past n is overwritten with zeros up to a whole vector. */
static float softmax_step(float *s, int n, float scale, float *max, float *sum) {
    int nv = (n + MULL_VL - 1) / MULL_VL;
    for (int i = n; i < nv * MULL_VL; i++) s[i] = -INFINITY;
    vf m = v_set(-INFINITY);
    for (int v = 0; v < nv; v++) {
        vf x = v_load(s + v * MULL_VL) * scale;
        v_store(s + v * MULL_VL, x);
        m = v_select(x > m, x, m);
    }
    float top = v_max(m), carry = 1;
    if (top > *max) {
        vf e = v_exp_neg(v_set(*max - top));
        carry = e[0];
    } else {
        top = *max;
    }
    /* All NaN: top stays -inf and exp(NaN) below carries the NaN into the sum. */
    vf acc = {0}, sub = v_set(top == -INFINITY ? 0 : top);
    for (int v = 0; v < nv; v++) {
        vf e = v_exp_neg(v_load(s + v * MULL_VL) - sub);
        v_store(s + v * MULL_VL, e);
        acc += e;
    }
    *max = top;
    *sum = *sum * carry + v_sum(acc);
    return carry;
}

static void scale_row(float *x, int64_t n, float f) {
    int64_t i = 0;
    for (; i + MULL_VL <= n; i += MULL_VL) v_store(x + i, v_load(x + i) * f);
    for (; i < n; i++) x[i] *= f;
}

#include "engine/ops/kernels_train_impl.h"

/* ---- roofs */
static uint64_t read_sum(const void *data, size_t bytes) {
    typedef uint64_t vq __attribute__((vector_size(4 * MULL_VL)));
    vq s[4] = {{0}}, v;
    const char *p = data;
    for (size_t i = 0; i < bytes; i += sizeof s) {
        for (size_t q = 0; q < 4; q++) {
            memcpy(&v, p + i + q * sizeof v, sizeof v);
            s[q] += v;
        }
        ahead(p + i, MULL_AHEAD);
        if (sizeof s > 64) ahead(p + i + sizeof s / 2, MULL_AHEAD);
    }
    s[0] += s[1] + s[2] + s[3];
    return s[0][0] ^ s[0][1];
}

/* As many independent chains as a full gemm block has, which hides the latency of each. */
static double peak_f32(int64_t n, uint64_t *sink) {
    vf acc[12];
    const vf a = v_set(1.0000001f), b = v_set(1e-7f);
    for (int i = 0; i < 12; i++) acc[i] = v_set((float)i);
    for (int64_t k = 0; k < n; k++) {
        _Pragma("GCC unroll 12") for (int i = 0; i < 12; i++) acc[i] = acc[i] * a + b;
    }
    for (int i = 1; i < 12; i++) acc[0] += acc[i];
    float s = v_sum(acc[0]);
    memcpy(sink, &s, sizeof s);
    return 2.0 * 12 * MULL_VL * (double)n;
}

/* Operands in the nearest cache: loads run beside the multiply-adds. */
static double peak_i8(int64_t n, uint64_t *sink) {
    enum { K4 = 64 };
    _Alignas(64) static const uint8_t a[MULL_MR_I8 * K4 * 4] = {1, 2, 3};
    _Alignas(64) static const int8_t b[K4 * MULL_NR * 4] = {4, 5, 6};
    _Alignas(64) int32_t c[MULL_MR_I8 * MULL_NR];
    int64_t calls = n / (K4 * 4);
    *sink = 0;
    for (int64_t i = 0; i < calls; i++) {
        gemm_i8(MULL_MR_I8, K4, a, K4 * 4, b, c);
        *sink += (uint32_t)c[i % MULL_NR];
    }
    return 2.0 * MULL_MR_I8 * MULL_NR * K4 * 4 * (double)calls;
}

#ifdef MULL_BF16_DOT
static double peak_dot(int64_t n, uint64_t *sink) {
    enum { K = 128 };
    _Alignas(64) static const uint16_t a[12 * K] = {1, 2, 3}, b[K * MULL_NR] = {4, 5, 6};
    _Alignas(64) float c[12 * MULL_NR] = {0};
    for (int64_t i = 0; i < n / K; i++) gemm_dot(12, K, a, b, c, MULL_NR, 0);
    memcpy(sink, c, sizeof *sink);
    return 2.0 * 12 * MULL_NR * K * (double)(n / K);
}
#endif

const mull_kernels MULL_TABLE = {
    .name = MULL_ISA_NAME,
    .mr = MULL_MR,
    .mr_i8 = MULL_MR_I8,
    .gemm_f32 = gemm_f32,
    .gemm_bf16 = gemm_bf16,
    .gemm_many = gemm_many,
    .left = left,
    .panel = panel,
    .pair = MULL_PAIR,
    .pair_bf16 = pair_bf16,
    .gemm_i8 = gemm_i8,
    .widen = widen,
    .round_bf16 = round_bf16,
    .scores = scores,
    .weigh = weigh,
    .quantise_row = quantise_row,
    .rmsnorm = rmsnorm,
    .swiglu = swiglu,
    .gelu = gelu,
    .rope = rope,
    .softmax_step = softmax_step,
    .scale_row = scale_row,
    .axpy = axpy,
    .dot = dot,
    .rmsnorm_backward = rmsnorm_backward,
    .swiglu_backward = swiglu_backward,
    .gelu_backward = gelu_backward,
    .row_max = row_max,
    .exp_sum = exp_sum,
    .exp_dot = exp_dot,
    .exp_scale = exp_scale,
    .softmax_backward = softmax_backward,
    .square_sum = square_sum,
    .adamw = adamw,
    .read_sum = read_sum,
    .peak_f32 = peak_f32,
    .peak_i8 = peak_i8,
#ifdef MULL_BF16_DOT
    .gemm_dot = gemm_dot,
    .peak_dot = peak_dot,
#else
    .peak_dot = peak_f32,
#endif
};
