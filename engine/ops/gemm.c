/* Products of plain matrices on the micro-kernels of kernels_impl.h; see gemm.h.
 *
 * Blocked as in Goto & van de Geijn (2008), with the roles of the caches chosen for few rows and large weights. The left
 * operand (activations) is packed into blocks of mr rows ([K/KC][M/mr][KC][mr]), a slab of bounded size at a time, so
 * that it stays in the caches also where K is a whole vocabulary. A task takes a group of rows and CHUNK panels of 32
 * columns: it packs a KC x CHUNK*32 block of the right operand (its nearest cache but one holds it), and each block of
 * rows passes over all its panels, so the rows stay in the nearest cache and results are written in long pieces.
 *
 * Weights come from memory once. While one block is computed, the kernels fetch the lines of the next, a few at a time:
 * packing would otherwise wait for memory as long as a twentieth of the multiply-adds take. The next task of a thread is
 * guessed (threads take turns), which costs nothing when it is wrong.
 *
 * Sums over k are taken in blocks of KC and the blocks' sums are added up in c: one chain over a vocabulary of 150,000
 * would lose two digits that the gradients' comparison with the reference has.
 *
 * Own kernels rather than a library, as for inference (matrix.c): the same bits for any number of threads, bf16 weights
 * without a float32 copy. `bench train` gives whole steps against this machine's roof. */
#include "engine/ops/gemm.h"

#include "engine/core/scratch.h"
#include "engine/ops/kernels.h"
#include "engine/ops/transpose.h"

#include <stdlib.h>
#include <string.h>

enum {
    CHUNK = 4,          /* most panels of a task */
    GROUP = 480,        /* most rows of a task: whole blocks of 12 and of 3 */
    PACK_BLOCKS = 4,    /* blocks of the left operand that are packed together: whole lines, also transposed */
    A_FLOATS = 2 << 20, /* floats of a slab of the left operand: 8 MB */
    LINE = 64,
};

typedef struct product {
    const mull_kernels *kn;
    const mull_gemm_job *j;
    int64_t row0, m, k0, k;        /* the slab: rows [row0, row0 + m), depth [k0, k0 + k) */
    int64_t panels, chunk, chunks; /* panels a task takes, tasks across */
    int64_t group;                 /* rows of a task */
    int parts, threads;
    float *a; /* [kb][block][KC][mr] of the slab */
} product;

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static void pack_a(void *ctx, int part, int parts) {
    const product *p = ctx;
    const mull_gemm_job *j = p->j;
    (void)parts;
    int mr = p->kn->mr;
    int64_t from = (int64_t)part * mr * PACK_BLOCKS, to = least(p->m, from + mr * PACK_BLOCKS);
    for (int64_t kb = 0; kb < p->k; kb += MULL_KC) {
        int64_t kc = least(p->k - kb, MULL_KC);
        if (!j->a_t) {
            for (int64_t i = from; i < to; i += mr) {
                int rows = (int)least(to - i, mr);
                mull_transpose(j->a + (p->row0 + i) * j->lda + p->k0 + kb, j->lda, rows, kc, p->a + kb * p->m + i * kc,
                               rows);
            }
            continue;
        }
        const float *src = j->a + (p->k0 + kb) * j->lda + p->row0;
        for (int64_t k = 0; k < kc; k++, src += j->lda)
            for (int64_t i = from; i < to; i += mr) {
                float *dst = p->a + kb * p->m + i * kc; /* the blocks before this one are full */
                if (to - i >= 12 && mr == 12)
                    memcpy(dst + k * 12, src + i, 12 * sizeof *dst); /* a constant length is a few vector moves */
                else
                    memcpy(dst + k * least(to - i, mr), src + i, (size_t)least(to - i, mr) * sizeof *dst);
            }
    }
}

/* Rows [kb, kb + kc) of columns [col, col + cols) of the right operand to panel [kc][32], zero beyond cols. */
static void pack_b(const mull_kernels *kn, const mull_gemm_job *j, int64_t kb, int64_t kc, int64_t col, int cols,
                   float *panel) {
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
        kn->panel(cols, kc, (const float *)(const void *)src, j->ldb, panel);
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

/* The raw lines of a block of the right operand, depth kc by cols columns, as its kernels fetch them: two lines at a
 * time, GROUPS times a call, `step` bytes apart. */
typedef struct fetch {
    const char *base;
    int64_t ldb, along, rows; /* bytes from row to row, lines of a row, rows */
    bool down;                /* step from row to row: rows are short, else along the row */
} fetch;

static void start_fetch(fetch *f, const mull_gemm_job *j, int64_t kb, int64_t kc, int64_t col, int64_t cols) {
    int64_t size = j->b_type == MULL_BF16 ? 2 : 4;
    int64_t row = j->b_t ? col : kb, at = j->b_t ? kb : col, length = j->b_t ? kc : cols;
    *f = (fetch){.base = (const char *)j->b + (row * j->ldb + at) * size,
                 .ldb = j->ldb * size,
                 .along = (length * size + LINE - 1) / LINE,
                 .rows = j->b_t ? cols : kc,
                 .down = !j->b_t};
}

/* The lines of call number `call`, whose kernel makes `pairs` fetches of two. */
static mull_ahead lines_of(const fetch *f, int64_t call, int64_t pairs) {
    mull_ahead none = {0};
    if (!f->base) return none;
    if (!f->down) { /* two rows, from one end to the other */
        int64_t r = call * 2;
        if (r >= f->rows) return none;
        const char *p = f->base + r * f->ldb;
        return (mull_ahead){p, r + 1 < f->rows ? p + f->ldb : p, LINE};
    }
    int64_t across = (f->along + 1) / 2, r = call / across * pairs, line = call % across * 2;
    if (r >= f->rows) return none;
    const char *p = f->base + r * f->ldb + line * LINE;
    return (mull_ahead){p, line + 1 < f->along ? p + LINE : p, f->ldb};
}

static void store(const product *p, const float *tile, int64_t row, int rows, int64_t col, int cols, bool add) {
    const mull_gemm_job *j = p->j;
    for (int i = 0; i < rows; i++) {
        float *c = j->c + (row + i) * j->ldc + col;
        const float *t = tile + i * MULL_NR;
        for (int n = 0; n < cols; n++) c[n] = add ? c[n] + t[n] : t[n];
    }
}

static void add_bias(const product *p, int64_t row, int64_t rows, int64_t col, int64_t cols) {
    const mull_gemm_job *j = p->j;
    for (int64_t i = row; i < row + rows; i++) p->kn->axpy(j->c + i * j->ldc + col, j->bias + col, 1, cols);
}

static void product_task(void *ctx, int part, int parts) {
    const product *p = ctx;
    const mull_gemm_job *j = p->j;
    int mr = p->kn->mr;
    int64_t i0 = part / p->chunks * p->group, i1 = least(p->m, i0 + p->group);
    int64_t p0 = part % p->chunks * p->chunk, p1 = least(p->panels, p0 + p->chunk), blocks = (i1 - i0 + mr - 1) / mr;
    int64_t col0 = p0 * MULL_NR, cols = least(j->n, p1 * MULL_NR) - col0;
    _Alignas(64) float panels[CHUNK * MULL_KC * MULL_NR], tile[MULL_MR_MAX * MULL_NR];
    for (int64_t kb = 0; kb < p->k; kb += MULL_KC) {
        int64_t kc = least(p->k - kb, MULL_KC), pairs = (kc + MULL_AHEAD_K - 1) / MULL_AHEAD_K, call = 0;
        bool add = j->accumulate || p->k0 + kb > 0;
        for (int64_t q = p0; q < p1; q++)
            pack_b(p->kn, j, p->k0 + kb, kc, q * MULL_NR, (int)least(j->n - q * MULL_NR, MULL_NR),
                   panels + (q - p0) * MULL_KC * MULL_NR);
        fetch f = {0};
        int64_t then = part + p->threads;
        if (kb + kc < p->k)
            start_fetch(&f, j, p->k0 + kb + kc, least(p->k - kb - kc, MULL_KC), col0, cols);
        else if (then < parts)
            start_fetch(&f, j, p->k0, least(p->k, MULL_KC), then % p->chunks * p->chunk * MULL_NR,
                        least(j->n - then % p->chunks * p->chunk * MULL_NR, p->chunk * MULL_NR));
        for (int64_t b = 0; b < blocks; b++) {
            int64_t i = i0 + b * mr;
            int rows = (int)least(p->m - i, mr);
            for (int64_t q = p0; q < p1; q++, call++) {
                mull_ahead next = lines_of(&f, call, pairs);
                const float *a = p->a + kb * p->m + i * kc, *panel = panels + (q - p0) * MULL_KC * MULL_NR;
                int64_t col = q * MULL_NR;
                if (j->n - col >= MULL_NR) {
                    p->kn->gemm_add(rows, kc, a, panel, j->c + (p->row0 + i) * j->ldc + col, j->ldc, add, &next);
                    continue;
                }
                p->kn->gemm_add(rows, kc, a, panel, tile, MULL_NR, false, &next);
                store(p, tile, p->row0 + i, rows, col, (int)(j->n - col), add);
            }
        }
    }
    if (j->bias && p->k0 + p->k == j->k) add_bias(p, p->row0 + i0, i1 - i0, col0, cols);
}

/* How the slab's rows and panels are shared out. */
static void plan(product *p) {
    int64_t threads = p->threads, groups = (p->m + GROUP - 1) / GROUP, most = (p->m + 95) / 96;
    p->chunk = least(CHUNK, p->panels);
    /* Some tasks a thread even out a late one. Few panels: fewer of them, then more groups of rows. */
    while (p->chunk > 1 && (p->panels + p->chunk - 1) / p->chunk * groups < 4 * threads) p->chunk = (p->chunk + 1) / 2;
    p->chunks = (p->panels + p->chunk - 1) / p->chunk;
    if (p->chunks * groups < 4 * threads) groups = least(most, (4 * threads + p->chunks - 1) / p->chunks);
    p->group = ((p->m + groups - 1) / groups + 11) / 12 * 12;
    groups = (p->m + p->group - 1) / p->group;
    p->parts = (int)(p->chunks * groups);
}

void mull_gemm(mull_pool *pool, const mull_gemm_job *j) {
    if (j->m <= 0 || j->n <= 0) return;
    if (j->k <= 0) { /* an empty sum */
        for (int64_t i = 0; !j->accumulate && i < j->m; i++) memset(j->c + i * j->ldc, 0, (size_t)j->n * sizeof *j->c);
        for (int64_t i = 0; j->bias && i < j->m; i++)
            for (int64_t n = 0; n < j->n; n++) j->c[i * j->ldc + n] += j->bias[n];
        return;
    }
    product p = {.kn = mull_kernels_get(),
                 .j = j,
                 .panels = (j->n + MULL_NR - 1) / MULL_NR,
                 .threads = mull_pool_threads(pool)};
    if (2.0 * (double)j->m * (double)j->n * (double)j->k < 4e5) pool = NULL; /* less than a wake-up costs */
    /* A slab: some groups of rows, as deep as fits; where that is all of k, as many rows as fit. */
    int64_t rows = least(j->m, 2 * GROUP), depth = least(j->k, A_FLOATS / rows / MULL_KC * MULL_KC);
    rows = A_FLOATS / depth / GROUP * GROUP;
    if (rows < 2 * GROUP) rows = 2 * GROUP;
    for (p.row0 = 0; p.row0 < j->m; p.row0 += rows) {
        p.m = least(j->m - p.row0, rows);
        plan(&p);
        p.a = mull_scratch(MULL_SCRATCH_GEMM, (size_t)(p.m * depth) + 64);
        for (p.k0 = 0; p.k0 < j->k; p.k0 += depth) {
            p.k = least(j->k - p.k0, depth);
            int64_t each = (int64_t)p.kn->mr * PACK_BLOCKS;
            mull_pool_run(pool, pack_a, &p, (int)((p.m + each - 1) / each));
            mull_pool_run(pool, product_task, &p, p.parts);
        }
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
