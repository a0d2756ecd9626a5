/* Products of plain matrices on the micro-kernels of kernels_impl.h; see gemm.h.
 *
 * The left operand is packed once into blocks of mr rows ([K/KC][M/mr][KC][mr]); a task takes some panels of 32 columns
 * and a group of at most GROUP rows, packs one KC x 32 block of the right operand into its own cache and lets the rows
 * pass over it. Packing the right operand costs one pass over what is read from memory anyway.
 *
 * Sums over k are taken in blocks of KC and the blocks' sums are added up: one chain over a vocabulary of 150,000 would
 * lose two digits that the gradients' comparison with the reference has.
 *
 * Own kernels rather than a library, as for inference (matrix.c): the same bits for any number of threads, bf16 weights
 * without a float32 copy. Whether OpenBLAS or oneDNN would be faster for training shapes has not been measured; `bench
 * train` gives whole steps against this machine's roof. */
#include "engine/ops/gemm.h"

#include "engine/core/scratch.h"
#include "engine/ops/kernels.h"
#include "engine/ops/transpose.h"

#include <stdlib.h>
#include <string.h>

enum {
    GROUP = 600,         /* most rows of a task: whole blocks of 12 and of 3 */
    A_FLOATS = 12 << 20, /* most floats of the packed left operand: 48 MB */
};

typedef struct product {
    const mull_kernels *kn;
    const mull_gemm_job *j;
    int64_t row0, m;               /* rows [row0, row0 + m) of this slab */
    int64_t panels, chunk, chunks; /* panels a task takes, tasks across */
    int64_t group;                 /* rows of a task */
    float *a;                      /* [kb][block][KC][mr] of the slab */
} product;

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static void pack_a(void *ctx, int part, int parts) {
    const product *p = ctx;
    const mull_gemm_job *j = p->j;
    (void)parts;
    int mr = p->kn->mr;
    int64_t i0 = (int64_t)part * mr;
    int rows = (int)least(p->m - i0, mr);
    for (int64_t kb = 0; kb < j->k; kb += MULL_KC) {
        int64_t kc = least(j->k - kb, MULL_KC);
        float *dst = p->a + kb * p->m + i0 * kc; /* the blocks before this one are full */
        if (j->a_t) {
            const float *src = j->a + kb * j->lda + p->row0 + i0;
            if (rows == 12) /* a constant length is a few vector moves */
                for (int64_t k = 0; k < kc; k++) memcpy(dst + k * 12, src + k * j->lda, 12 * sizeof *dst);
            else
                for (int64_t k = 0; k < kc; k++) memcpy(dst + k * rows, src + k * j->lda, (size_t)rows * sizeof *dst);
        } else {
            mull_transpose(j->a + (p->row0 + i0) * j->lda + kb, j->lda, rows, kc, dst, rows);
        }
    }
}

/* Rows [kb, kb + kc) of columns [col, col + cols) of the right operand to panel [kc][32], zero beyond cols. */
static void pack_b(const mull_gemm_job *j, int64_t kb, int64_t kc, int64_t col, int cols, float *panel) {
    bool half = j->b_type == MULL_BF16;
    size_t size = half ? 2 : 4;
    if (cols < MULL_NR) memset(panel, 0, (size_t)(kc * MULL_NR) * sizeof *panel);
    if (!j->b_t) {
        const char *src = (const char *)j->b + (size_t)(kb * j->ldb + col) * size;
        for (int64_t k = 0; k < kc; k++, src += (size_t)j->ldb * size, panel += MULL_NR) {
            if (half)
                for (int i = 0; i < cols; i++) panel[i] = mull_bf16_to_f32(((const uint16_t *)(const void *)src)[i]);
            else if (cols == MULL_NR)
                memcpy(panel, src, MULL_NR * sizeof *panel);
            else
                memcpy(panel, src, (size_t)cols * sizeof *panel);
        }
        return;
    }
    const char *src = (const char *)j->b + (size_t)(col * j->ldb + kb) * size;
    if (!half) {
        mull_transpose(src, j->ldb, cols, kc, panel, MULL_NR);
        return;
    }
    float wide[4 * MULL_KC];
    for (int r = 0; r < cols; r += 4) {
        int n = cols - r < 4 ? cols - r : 4;
        for (int i = 0; i < n; i++) {
            const uint16_t *row = (const uint16_t *)(const void *)(src + (size_t)((r + i) * j->ldb) * size);
            for (int64_t k = 0; k < kc; k++) wide[i * MULL_KC + k] = mull_bf16_to_f32(row[k]);
        }
        mull_transpose(wide, MULL_KC, n, kc, panel + r, MULL_NR);
    }
}

static void store(const product *p, const float *tile, int64_t row0, int64_t rows, int64_t col, int cols) {
    const mull_gemm_job *j = p->j;
    const float *bias = j->bias ? j->bias + col : NULL;
    for (int64_t i = 0; i < rows; i++) {
        float *c = j->c + (row0 + i) * j->ldc + col;
        const float *t = tile + i * MULL_NR;
        if (j->accumulate && cols == MULL_NR && !bias)
            for (int n = 0; n < MULL_NR; n++) c[n] += t[n];
        else if (j->accumulate)
            for (int n = 0; n < cols; n++) c[n] += t[n] + (bias ? bias[n] : 0);
        else if (bias)
            for (int n = 0; n < cols; n++) c[n] = t[n] + bias[n];
        else
            memcpy(c, t, (size_t)cols * sizeof *c);
    }
}

static void product_task(void *ctx, int part, int parts) {
    const product *p = ctx;
    const mull_gemm_job *j = p->j;
    (void)parts;
    int mr = p->kn->mr;
    int64_t i0 = part / p->chunks * p->group, i1 = least(p->m, i0 + p->group);
    int64_t p0 = part % p->chunks * p->chunk, p1 = least(p->panels, p0 + p->chunk);
    _Alignas(64) float sum[GROUP * MULL_NR], tile[GROUP * MULL_NR], panel[MULL_KC * MULL_NR];
    for (int64_t q = p0; q < p1; q++) {
        int64_t col = q * MULL_NR;
        int cols = (int)least(j->n - col, MULL_NR);
        for (int64_t kb = 0; kb < j->k; kb += MULL_KC) {
            int64_t kc = least(j->k - kb, MULL_KC);
            pack_b(j, kb, kc, col, cols, panel);
            float *to = kb == 0 ? sum : tile;
            for (int64_t i = i0; i < i1; i += mr)
                p->kn->gemm_f32((int)least(p->m - i, mr), kc, p->a + kb * p->m + i * kc, panel, to + (i - i0) * MULL_NR,
                                MULL_NR, 1);
            if (kb) p->kn->axpy(sum, tile, 1, (i1 - i0) * MULL_NR);
        }
        store(p, sum, p->row0 + i0, i1 - i0, col, cols);
    }
}

void mull_gemm(mull_pool *pool, const mull_gemm_job *j) {
    if (j->m <= 0 || j->n <= 0) return;
    if (j->k <= 0) { /* an empty sum */
        for (int64_t i = 0; !j->accumulate && i < j->m; i++) memset(j->c + i * j->ldc, 0, (size_t)j->n * sizeof *j->c);
        for (int64_t i = 0; j->bias && i < j->m; i++)
            for (int64_t n = 0; n < j->n; n++) j->c[i * j->ldc + n] += j->bias[n];
        return;
    }
    product p = {.kn = mull_kernels_get(), .j = j, .panels = (j->n + MULL_NR - 1) / MULL_NR};
    int64_t threads = mull_pool_threads(pool), slab = A_FLOATS / j->k / GROUP * GROUP;
    if (slab < GROUP) slab = GROUP;
    for (p.row0 = 0; p.row0 < j->m; p.row0 += slab) {
        p.m = least(j->m - p.row0, slab);
        p.a = mull_scratch(MULL_SCRATCH_GEMM, (size_t)(p.m * j->k) + 64);
        /* About eight takings a thread even out a late one. Few panels: more groups of rows instead. */
        int64_t groups = (p.m + GROUP - 1) / GROUP, most = (p.m + 95) / 96;
        if (p.panels * groups < 4 * threads) groups = least(most, (4 * threads + p.panels - 1) / p.panels);
        p.group = ((p.m + groups - 1) / groups + 11) / 12 * 12;
        groups = (p.m + p.group - 1) / p.group;
        p.chunk = p.panels * groups / (threads * 8);
        p.chunk = p.chunk < 1 ? 1 : least(p.chunk, p.panels);
        p.chunks = (p.panels + p.chunk - 1) / p.chunk;
        bool small = 2.0 * (double)p.m * (double)j->n * (double)j->k < 4e5; /* less than a wake-up costs */
        mull_pool_run(small ? NULL : pool, pack_a, &p, (int)((p.m + p.kn->mr - 1) / p.kn->mr));
        mull_pool_run(small ? NULL : pool, product_task, &p, (int)(p.chunks * groups));
    }
}

void mull_linear(mull_pool *pool, const float *x, int64_t m, int64_t ldx, const void *w, mull_dtype w_type, int64_t in,
                 int64_t out, const float *bias, float *y, int64_t ldy, bool accumulate) {
    mull_gemm(pool, &(mull_gemm_job){.m = m,
                                     .n = out,
                                     .k = in,
                                     .a = x,
                                     .lda = ldx,
                                     .b = w,
                                     .ldb = in,
                                     .b_t = true,
                                     .b_type = w_type,
                                     .bias = bias,
                                     .c = y,
                                     .ldc = ldy,
                                     .accumulate = accumulate});
}

void mull_linear_dx(mull_pool *pool, const float *dy, int64_t m, int64_t ldy, const void *w, mull_dtype w_type,
                    int64_t in, int64_t out, float *dx, int64_t ldx, bool accumulate) {
    mull_gemm(pool, &(mull_gemm_job){.m = m,
                                     .n = in,
                                     .k = out,
                                     .a = dy,
                                     .lda = ldy,
                                     .b = w,
                                     .ldb = in,
                                     .b_type = w_type,
                                     .c = dx,
                                     .ldc = ldx,
                                     .accumulate = accumulate});
}

void mull_linear_dw(mull_pool *pool, const float *dy, int64_t m, int64_t ldy, const float *x, int64_t ldx, int64_t in,
                    int64_t out, float *dw) {
    mull_gemm(pool, &(mull_gemm_job){.m = out,
                                     .n = in,
                                     .k = m,
                                     .a = dy,
                                     .lda = ldy,
                                     .a_t = true,
                                     .b = x,
                                     .ldb = ldx,
                                     .b_type = MULL_F32,
                                     .c = dw,
                                     .ldc = in,
                                     .accumulate = true});
}
