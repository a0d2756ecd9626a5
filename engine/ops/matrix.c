/* Packed weight matrices and the products with them.
 *
 * Layout: panels of 32 outputs, [N/32][K][32] in f32, [N/32][K/2][32][2] in bf16, [N/32][K/4][32][4] in int8,
 * zero-padded. A product packs the activations in blocks of mr rows ([K/KC][M/mr][KC][mr]) once, then every thread
 * takes whole panels: a KC x 32 block of the panel stays in the nearest caches while all rows pass over it, so weights
 * come from memory once per product, however many rows there are; with many rows some panels take turns, so that the
 * rows come from the third cache once for these. The order of additions of an output is k = 0 .. K-1
 * always.
 *
 * Few rows are bound by memory: the kernels prefetch, and bf16-dot and int8 do less arithmetic a byte, which matters
 * from about four rows on. What each loop asks of memory decides: on two cores of a Xeon (580 MB, huge pages) a plain
 * sum reads 32.3 GB/s, one bf16 row with one stream a core and one prefetch 29.4, with two streams of whole
 * takings 31.2, and with a second prefetch that goes to the second cache only, far ahead, 32.9.
 *
 * Many rows are bound by arithmetic: full blocks of rows keep all accumulators in registers. There the kernel alone
 * reaches the rate of multiply-adds on registers (174 of 175 GFLOP/s a core with all in the second cache); 512 rows
 * times the 340M model's matrices 90 % of it.
 *
 * Own kernels rather than a BLAS, for three reasons. A row's bits do not depend on the batch, while libraries pick
 * kernels by M. bf16 weights need no float32 copy. And nothing is lost: on one thread of a Zen 5 core (248 GFLOP/s on
 * registers alone), 512 rows by the shapes of the 340M model and 2048^3, these reach 229-241 GFLOP/s in f32, oneDNN 2.6
 * sgemm 217-242, OpenBLAS 0.3.21 120-123; with 64 rows 234 against 146 and 101.
 *
 * Errors, root mean square relative to the exact product of float32 values, normal values, K = 1024: f32 6e-7, bf16
 * 1.7e-3 (the weights' rounding), bf16-dot 2.3e-3, int8 1.1e-2, and 5e-2 when three inputs of a row are 30 times the
 * others. int8 is symmetric, weights per output channel and activations per row, always, also for one row: a row's bits
 * then do not depend on the batch, and sums are exact integers on every CPU. */
#include "engine/ops/kernels.h"
#include "engine/ops/ops.h"
#include "engine/ops/transpose.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct mull_matrix {
    int64_t n, k, panels;
    int64_t kp; /* k rounded up to what the layout groups: 1, 2 or 4 */
    mull_weight_type type;
    size_t bytes, panel_bytes;
    void *data;      /* mmap'ed, huge pages where the kernel has them */
    float *scale;    /* int8: [panels * 32] */
    int32_t *offset; /* int8: 128 * sum of the row, what the unsigned activations add */
};

enum { INT8_K_MAX = 65536 }; /* 255 * 127 * 65536 < 2^31 */

int mull_matrix_create(int64_t n, int64_t k, mull_weight_type type, mull_matrix **out, mull_error *err) {
    if (n <= 0 || k <= 0 || n > INT64_C(1) << 32 || k > INT64_C(1) << 32 || (double)n * (double)k > 1e13)
        return mull_fail(err, MULL_ELIMIT, "cannot make a weight matrix", NULL, NULL, "%lld x %lld is out of range",
                         (long long)n, (long long)k);
    if (type == MULL_WEIGHT_INT8 && k > INT8_K_MAX)
        return mull_fail(err, MULL_ELIMIT, "cannot make a weight matrix", NULL, "use bf16 weights",
                         "%lld inputs could overflow an int8 product's 32-bit sums", (long long)k);
    mull_matrix *w = calloc(1, sizeof *w);
    if (!w) goto nomem;
    w->n = n;
    w->k = k;
    w->type = type;
    w->panels = (n + MULL_NR - 1) / MULL_NR;
    int64_t group = type == MULL_WEIGHT_F32 ? 1 : type == MULL_WEIGHT_INT8 ? 4 : 2;
    w->kp = (k + group - 1) / group * group;
    w->panel_bytes = (size_t)w->kp * MULL_NR * (4 / (size_t)group);
    w->bytes = w->panel_bytes * (size_t)w->panels;
    void *p = mmap(NULL, w->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) goto nomem;
    w->data = p;
    madvise(p, w->bytes, MADV_HUGEPAGE);
    if (type == MULL_WEIGHT_INT8) {
        w->scale = calloc((size_t)w->panels * MULL_NR, sizeof *w->scale);
        w->offset = calloc((size_t)w->panels * MULL_NR, sizeof *w->offset);
        if (!w->scale || !w->offset) goto nomem;
    }
    *out = w;
    return MULL_OK;
nomem:
    mull_matrix_destroy(w);
    return mull_fail(err, MULL_ENOMEM, "cannot make a weight matrix", NULL, "use bf16 or int8 weights, or more memory",
                     "out of memory for %lld x %lld", (long long)n, (long long)k);
}

void mull_matrix_destroy(mull_matrix *w) {
    if (!w) return;
    if (w->data) munmap(w->data, w->bytes);
    free(w->scale);
    free(w->offset);
    free(w);
}

static void set_row_i8(mull_matrix *w, int64_t r, const void *src, mull_dtype type, int64_t base) {
    size_t size = mull_dtype_size(type);
    const char *s = (const char *)src + (size_t)base * size;
    float amax = 0, poison = 0;
    for (int64_t i = 0; i < w->k; i++) {
        float v;
        mull_to_f32(s + (size_t)i * size, type, 1, &v);
        amax = fabsf(v) > amax ? fabsf(v) : amax;
        poison += v * 0.0f;
    }
    int64_t p = r / MULL_NR, lane = r % MULL_NR;
    int8_t *d = (int8_t *)w->data + (size_t)p * w->panel_bytes;
    float inv = amax > 0 && poison == 0 ? 127.0f / amax : 0;
    int32_t sum = 0;
    for (int64_t i = 0; i < w->k; i++) {
        float v;
        mull_to_f32(s + (size_t)i * size, type, 1, &v);
        int q = inv > 0 ? (int)rintf(v * inv) : 0;
        sum += q;
        d[(i / 4 * MULL_NR + lane) * 4 + i % 4] = (int8_t)q;
    }
    w->scale[r] = poison == 0 ? amax / 127.0f : poison;
    w->offset[r] = 128 * sum;
}

/* Where a panel in bf16 holds input k of output lane, in elements. */
static size_t bf16_at(int64_t k, int64_t lane) {
    return (size_t)((k / 2 * MULL_NR + lane) * 2 + k % 2);
}

void mull_matrix_set_rows(mull_matrix *w, int64_t row0, int64_t rows, const void *src, mull_dtype type) {
    size_t size = mull_dtype_size(type);
    for (int64_t r = 0; r < rows; r++) {
        if (w->type == MULL_WEIGHT_INT8) {
            set_row_i8(w, row0 + r, src, type, r * w->k);
            continue;
        }
        int64_t p = (row0 + r) / MULL_NR, lane = (row0 + r) % MULL_NR;
        char *d = (char *)w->data + (size_t)p * w->panel_bytes;
        const char *s = (const char *)src + (size_t)r * (size_t)w->k * size;
        if (w->type != MULL_WEIGHT_F32 && type == MULL_BF16) {
            for (int64_t k = 0; k < w->k; k++) memcpy(d + bf16_at(k, lane) * 2, s + (size_t)k * 2, 2);
            continue;
        }
        float buf[256];
        for (int64_t k = 0; k < w->k; k += 256) {
            int64_t m = w->k - k < 256 ? w->k - k : 256;
            mull_to_f32(s + (size_t)k * size, type, (size_t)m, buf);
            for (int64_t i = 0; i < m; i++) {
                if (w->type == MULL_WEIGHT_F32)
                    ((float *)(void *)d)[(k + i) * MULL_NR + lane] = buf[i];
                else
                    ((uint16_t *)(void *)d)[bf16_at(k + i, lane)] = mull_f32_to_bf16(buf[i]);
            }
        }
    }
}

void mull_matrix_get_row(const mull_matrix *w, int64_t r, float *dst) {
    int64_t p = r / MULL_NR, lane = r % MULL_NR;
    const char *d = (const char *)w->data + (size_t)p * w->panel_bytes;
    for (int64_t k = 0; k < w->k; k++) {
        if (w->type == MULL_WEIGHT_F32)
            dst[k] = ((const float *)(const void *)d)[k * MULL_NR + lane];
        else if (w->type == MULL_WEIGHT_INT8)
            dst[k] = (float)((const int8_t *)d)[(k / 4 * MULL_NR + lane) * 4 + k % 4] * w->scale[r];
        else
            dst[k] = mull_bf16_to_f32(((const uint16_t *)(const void *)d)[bf16_at(k, lane)]);
    }
}

int64_t mull_matrix_rows(const mull_matrix *w) {
    return w->n;
}
int64_t mull_matrix_cols(const mull_matrix *w) {
    return w->k;
}
mull_weight_type mull_matrix_type(const mull_matrix *w) {
    return w->type;
}
size_t mull_matrix_bytes(const mull_matrix *w) {
    return w->bytes + (w->scale ? (size_t)w->panels * MULL_NR * 8 : 0);
}

/* ---- products */
enum { FEW_ROWS = 16 };
enum { MANY_BLOCKS = 2 }; /* more blocks of rows than this, and it pays to widen bf16 weights into memory */
enum { SLAB = 600 };      /* most rows packed at a time, whole blocks of 12, 4 and 3: bounds the scratch */
enum { GROUP = 4 };       /* most panels that share the rows in the second cache */

typedef struct job {
    const mull_kernels *kn;
    const mull_matrix *w;
    const float *x, *bias;
    float *y;
    int64_t m, ldx, ldy;
    int64_t first, firsts, chunk; /* panels of each of the first takings, how many of these, panels of the others */
    int threads;
    bool accumulate;
    void *a;       /* packed activations of the slab, [kb][block][KC][mr], for dot products [..][KC/2][mr][2] in bf16 */
    uint8_t *q;    /* int8: [m][kp] */
    float *xscale; /* int8: [m] */
} job;

/* How threads share the panels. Many rows: takings of a group of panels, as many for each thread, the larger ones
 * first. Few rows, where each taking is a new stream from memory: a long one for each thread, then short ones, so that
 * all end together. An even number, because bf16 reads two at a time. */
static void plan_takings(job *j, int threads, int64_t m) {
    int64_t panels = j->w->panels;
    j->threads = threads;
    if (m > FEW_ROWS || panels < 8 * threads) {
        int64_t rounds = (panels + threads * GROUP - 1) / (threads * GROUP), n = rounds * threads;
        if (n > panels) n = panels;
        j->chunk = panels / n;
        j->firsts = panels % n;
        j->first = j->chunk + 1;
        return;
    }
    j->firsts = threads;
    j->first = panels * 3 / 4 / threads / 2 * 2;
    int64_t rest = panels - j->first * threads;
    j->chunk = rest / (threads * 4) / 2 * 2;
    if (j->chunk < 2) j->chunk = 2;
}

static void panels_of(const job *j, int part, int64_t *p0, int64_t *p1) {
    int64_t panels = j->w->panels, size = part < j->firsts ? j->first : j->chunk;
    *p0 = part < j->firsts ? part * j->first : j->firsts * j->first + (part - j->firsts) * j->chunk;
    *p1 = *p0 + size < panels ? *p0 + size : panels;
}

/* Rows of block b of the slab. */
static int block_rows(const job *j, int64_t b, int mr) {
    int64_t left = j->m - b * mr;
    return left < mr ? (int)left : mr;
}

/* Does the product take activations in bf16? */
static bool dots(const job *j) {
    return j->w->type == MULL_WEIGHT_BF16_DOT && j->kn->gemm_dot;
}

/* One block of rows. Inputs past k meet zero weights, so they only have to be finite. */
static void pack_task(void *ctx, int part, int parts) {
    job *j = ctx;
    (void)parts;
    int mr = j->kn->mr, rows = block_rows(j, part, mr);
    int64_t K = j->w->k, kp = j->w->kp;
    const float *x = j->x + (int64_t)part * mr * j->ldx;
    _Alignas(64) uint16_t half[MULL_MR_MAX * MULL_KC];
    for (int64_t kb = 0; kb < kp; kb += MULL_KC) {
        int64_t kc = kp - kb < MULL_KC ? kp - kb : MULL_KC, real = K - kb < kc ? K - kb : kc;
        /* Blocks before this one in the same kb are full, so their place follows from mr alone. */
        int64_t at = kb * j->m + (int64_t)part * mr * kc;
        if (j->w->type == MULL_WEIGHT_BF16_DOT)
            for (int i = 0; i < rows; i++) {
                j->kn->round_bf16(x + i * j->ldx + kb, real, half + i * kc);
                if (real < kc) half[i * kc + real] = 0;
            }
        if (dots(j)) { /* pairs move together */
            mull_transpose(half, kc / 2, rows, kc / 2, (uint16_t *)j->a + at, rows);
            continue;
        }
        float *a = (float *)j->a + at;
        if (j->w->type == MULL_WEIGHT_BF16_DOT) {
            for (int64_t k = 0; k < kc; k++)
                for (int i = 0; i < rows; i++) a[k * rows + i] = mull_bf16_to_f32(half[i * kc + k]);
            continue;
        }
        j->kn->left(rows, real, x + kb, j->ldx, a);
        if (real < kc) memset(a + real * rows, 0, (size_t)rows * sizeof *a);
    }
}

static void store_tile(const job *j, const float *c, int rows, int64_t row0, int64_t col0) {
    int64_t cols = j->w->n - col0 < MULL_NR ? j->w->n - col0 : MULL_NR;
    for (int i = 0; i < rows; i++) {
        float *y = j->y + (row0 + i) * j->ldy + col0;
        const float *s = c + i * MULL_NR;
        const float *b = j->bias ? j->bias + col0 : NULL;
        if (j->accumulate && b)
            for (int64_t n = 0; n < cols; n++) y[n] += s[n] + b[n];
        else if (j->accumulate)
            for (int64_t n = 0; n < cols; n++) y[n] += s[n];
        else if (b)
            for (int64_t n = 0; n < cols; n++) y[n] = s[n] + b[n];
        else
            memcpy(y, s, (size_t)cols * sizeof *y);
    }
}

/* Few rows against panels p and q > p of bf16. tile: room for [2][m][32]. */
static void pair_panels(const job *j, int64_t p, int64_t q, float *tile) {
    const mull_matrix *w = j->w;
    const uint16_t *panel = (const uint16_t *)((const char *)w->data + (size_t)p * w->panel_bytes);
    for (int64_t kb = 0; kb < w->kp; kb += MULL_KC) {
        int64_t kc = w->kp - kb < MULL_KC ? w->kp - kb : MULL_KC;
        j->kn->pair_bf16((int)j->m, kc, (const float *)j->a + kb * j->m, panel + kb * MULL_NR,
                         (q - p) * (int64_t)(w->panel_bytes / sizeof *panel), tile, kb == 0);
    }
    store_tile(j, tile, (int)j->m, 0, p * MULL_NR);
    store_tile(j, tile + j->m * MULL_NR, (int)j->m, 0, q * MULL_NR);
}

/* Where block kb of panel p lies, and how long it is. */
typedef struct weights {
    const char *at;
    int64_t bytes;
} weights;

static weights weights_of(const mull_matrix *w, int64_t p, int64_t kb) {
    int64_t kc = w->kp - kb < MULL_KC ? w->kp - kb : MULL_KC, row = (int64_t)w->panel_bytes / w->kp;
    return (weights){(const char *)w->data + (size_t)p * w->panel_bytes + kb * row, kc * row};
}

/* Many rows against at most GROUP panels from p0 on. A KC deep piece of all rows (1 MB for 512) stays in the second
 * cache while these panels pass over it. bf16 weights are widened once for a block of a panel, which is exact, so the
 * bits are those of few rows, whose kernels widen as they go. after: the panel that this thread probably takes next, or
 * -1. tile: room for [panels][m][32]. */
static void many_panels(const job *j, int64_t p0, int64_t p1, int64_t after, float *tile) {
    const mull_matrix *w = j->w;
    const mull_kernels *kn = j->kn;
    int64_t mr = kn->mr, blocks = (j->m + mr - 1) / mr;
    bool f32 = w->type == MULL_WEIGHT_F32, dot = dots(j);
    _Alignas(64) float wide[MULL_KC * MULL_NR];
    for (int64_t kb = 0; kb < w->kp; kb += MULL_KC) {
        int64_t kc = w->kp - kb < MULL_KC ? w->kp - kb : MULL_KC;
        bool last = kb + MULL_KC >= w->kp;
        for (int64_t p = p0; p < p1; p++) {
            const void *here = weights_of(w, p, kb).at;
            weights next = p + 1 < p1   ? weights_of(w, p + 1, kb)
                           : !last      ? weights_of(w, p0, kb + MULL_KC)
                           : after >= 0 ? weights_of(w, after, 0)
                                        : (weights){0};
            /* Each block of the rows fetches a share of the weights that come next. */
            int64_t col = p * MULL_NR, lines = next.bytes / 64, share = (lines + blocks - 1) / blocks;
            bool direct = last && w->n - col >= MULL_NR;
            float *c = tile + (p - p0) * j->m * MULL_NR;
            if (!f32 && !dot) kn->widen(here, kc, wide);
            for (int64_t b = 0; b < blocks; b++) {
                int rows = block_rows(j, b, (int)mr);
                int64_t at = kb * j->m + b * mr * kc;
                float *sum = c + b * mr * MULL_NR;
                if (dot) {
                    kn->gemm_dot(rows, kc, (const uint16_t *)j->a + at, here, sum, MULL_NR, kb == 0);
                    continue;
                }
                mull_sums sums = {.from = kb ? sum : NULL, .ld_from = MULL_NR, .to = sum, .ld_to = MULL_NR};
                if (direct) {
                    sums.to = j->y + b * mr * j->ldy + col;
                    sums.ld_to = j->ldy;
                    sums.bias = j->bias ? j->bias + col : NULL;
                    sums.add = j->accumulate;
                }
                int64_t left = lines - b * share;
                mull_ahead ahead = {.line = (uintptr_t)next.at + (uintptr_t)(b * share * 64),
                                    .left = (int)(left < share ? left : share),
                                    .row = (int)lines};
                kn->gemm_many(rows, kc, (const float *)j->a + at, f32 ? (const float *)here : wide, &sums, &ahead);
            }
            if (last && (dot || !direct)) store_tile(j, c, (int)j->m, 0, col);
        }
    }
}

/* All rows of the slab against the panels of a taking. */
static void float_task(void *ctx, int part, int parts) {
    job *j = ctx;
    const mull_matrix *w = j->w;
    const mull_kernels *kn = j->kn;
    int mr = kn->mr;
    bool f32 = w->type == MULL_WEIGHT_F32, dot = dots(j);
    int64_t p0, p1;
    panels_of(j, part, &p0, &p1);
    _Alignas(64) float tile[GROUP * SLAB * MULL_NR];
    if (j->m > MANY_BLOCKS * mr) {
        int64_t then = -1, end;
        if (part + j->threads < parts) panels_of(j, part + j->threads, &then, &end);
        for (int64_t p = p0; p < p1; p += GROUP)
            many_panels(j, p, p + GROUP < p1 ? p + GROUP : p1, p + GROUP < p1 ? p + GROUP : then, tile);
        return;
    }
    if (!f32 && !dot && j->m <= kn->pair) { /* each half of the taking is one long stream */
        int64_t half = (p1 - p0) / 2;
        for (int64_t p = p0; p < p0 + half; p++) pair_panels(j, p, p + half, tile);
        p0 += 2 * half;
    }
    for (int64_t p = p0; p < p1; p++) {
        for (int64_t kb = 0; kb < w->kp; kb += MULL_KC) {
            int64_t kc = w->kp - kb < MULL_KC ? w->kp - kb : MULL_KC;
            const void *here = weights_of(w, p, kb).at;
            for (int64_t b = 0; b * mr < j->m; b++) {
                int rows = block_rows(j, b, mr);
                int64_t at = kb * j->m + b * mr * kc;
                float *c = tile + b * mr * MULL_NR;
                if (dot)
                    kn->gemm_dot(rows, kc, (const uint16_t *)j->a + at, here, c, MULL_NR, kb == 0);
                else if (f32)
                    kn->gemm_f32(rows, kc, (const float *)j->a + at, here, c, MULL_NR, kb == 0);
                else
                    kn->gemm_bf16(rows, kc, (const float *)j->a + at, here, c, MULL_NR, kb == 0);
            }
        }
        store_tile(j, tile, (int)j->m, 0, p * MULL_NR);
    }
}

static void quantise_task(void *ctx, int part, int parts) {
    job *j = ctx;
    int64_t k = j->w->k, lda = j->w->kp;
    for (int64_t r = j->m * part / parts; r < j->m * (part + 1) / parts; r++) {
        j->xscale[r] = j->kn->quantise_row(j->x + r * j->ldx, k, j->q + r * lda) / 127.0f;
        for (int64_t i = k; i < lda; i++) j->q[r * lda + i] = 128; /* meets zero weights */
    }
}

static void int8_task(void *ctx, int part, int parts) {
    job *j = ctx;
    (void)parts;
    const mull_matrix *w = j->w;
    int mr = j->kn->mr_i8;
    int64_t lda = w->kp;
    int64_t p0, p1;
    panels_of(j, part, &p0, &p1);
    _Alignas(64) int32_t acc[MULL_MR_MAX * MULL_NR];
    _Alignas(64) float tile[MULL_MR_MAX * MULL_NR];
    for (int64_t p = p0; p < p1; p++) {
        const int8_t *panel = (const int8_t *)w->data + (size_t)p * w->panel_bytes;
        const float *scale = w->scale + p * MULL_NR;
        const int32_t *offset = w->offset + p * MULL_NR;
        for (int64_t b = 0; b * mr < j->m; b++) {
            int rows = block_rows(j, b, mr);
            j->kn->gemm_i8(rows, w->kp / 4, j->q + b * mr * lda, lda, panel, acc);
            for (int i = 0; i < rows; i++) {
                float xs = j->xscale[b * mr + i];
                for (int n = 0; n < MULL_NR; n++)
                    tile[i * MULL_NR + n] = (float)(acc[i * MULL_NR + n] - offset[n]) * (xs * scale[n]);
            }
            store_tile(j, tile, rows, b * mr, p * MULL_NR);
        }
    }
}

/* Scratch of the calling thread, kept between calls: decode allocates nothing after its first step. */
static _Thread_local struct {
    void *p;
    size_t size;
} scratch;

static void *scratch_get(size_t size) {
    if (scratch.size >= size) return scratch.p;
    free(scratch.p);
    size_t want = (size + 0xffff) & ~(size_t)0xffff;
    scratch.p = aligned_alloc(64, want);
    scratch.size = scratch.p ? want : 0;
    return scratch.p;
}

void mull_matmul(mull_pool *pool, const float *x, int64_t m, int64_t ldx, const mull_matrix *w, const float *bias,
                 float *y, int64_t ldy, bool accumulate) {
    job j = {.kn = mull_kernels_get(), .w = w, .bias = bias, .ldx = ldx, .ldy = ldy, .accumulate = accumulate};
    int threads = mull_pool_threads(pool);
    plan_takings(&j, threads, m);
    int parts = (int)(j.firsts + (w->panels - j.firsts * j.first + j.chunk - 1) / j.chunk);
    /* Slabs of even height: a last one of a few rows would read all weights again for little. */
    int64_t slabs = (m + SLAB - 1) / SLAB, slab = slabs > 1 ? ((m + slabs - 1) / slabs + 11) / 12 * 12 : SLAB;
    for (int64_t r = 0; r < m; r += slab) {
        void *mem;
        size_t per_row = w->type == MULL_WEIGHT_INT8 ? (size_t)w->kp + sizeof(float) : (size_t)w->kp * sizeof(float);
        /* Short of memory, fewer rows at a time give the same result more slowly; one row must fit. */
        while (!(mem = scratch_get((size_t)(m - r < slab ? m - r : slab) * per_row + 64)) && slab > 1)
            slab = (slab + 1) / 2;
        if (!mem) abort();
        j.m = m - r < slab ? m - r : slab;
        j.x = x + r * ldx;
        j.y = y + r * ldy;
        if (w->type == MULL_WEIGHT_INT8) {
            j.xscale = mem;
            j.q = (uint8_t *)mem + (((size_t)j.m * sizeof(float) + 63) & ~(size_t)63);
            mull_pool_run(j.m >= 8 ? pool : NULL, quantise_task, &j, threads);
            mull_pool_run(pool, int8_task, &j, parts);
        } else {
            j.a = mem;
            mull_pool_run(j.m >= 24 ? pool : NULL, pack_task, &j, (int)((j.m + j.kn->mr - 1) / j.kn->mr));
            mull_pool_run(pool, float_task, &j, parts);
        }
    }
}
