/* Products of plain matrices on the micro-kernels of kernels_impl.h; see gemm.h.
 *
 * Blocked as in Goto & van de Geijn (2008), with the caches' roles chosen for few rows and large weights. The left
 * operand (activations) is packed into blocks of mr rows ([K/KC][M/mr][KC][mr]), a slab of bounded size at a time, so
 * that it stays in the caches also where K is a whole vocabulary. A task takes a group of rows and CHUNK panels of 32
 * columns, and has a KC x CHUNK*32 block of the right operand in the cache next to the nearest; each block of rows
 * passes over all its panels, so that the rows stay in the nearest and results are written in long pieces.
 *
 * Weights come from memory once, and while one block is multiplied the next is on its way: the kernels fetch its lines,
 * a few at a time. A right operand that is used as it lies is also packed between the kernels' calls: its rows are
 * often a multiple of 4 KB apart, and a whole block of them would meet in few sets of the caches. The next task of a
 * thread is guessed (threads take turns); a wrong guess costs little. A right operand that many groups of rows use and
 * that is small (the inputs, in a weight's gradient) is packed once for all.
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
    A_FLOATS = 2 << 20, /* floats of a slab of the left operand, and most of a packed right one: 8 MB */
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
    float *b; /* NULL, or the whole right operand of the slab: [kb][panel][KC][32] */
} product;

/* A block of the right operand: depth [kb, kb + kc), columns [col, col + cols). */
typedef struct block {
    int64_t kb, kc, col, cols;
} block;

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static void pack_a(void *ctx, int part, int parts) {
    const product *p = ctx;
    const mull_gemm_job *j = p->j;
    (void)parts;
    int mr = p->kn->mr;
    int64_t from = (int64_t)part * mr * PACK_BLOCKS, to = least(p->m, from + mr * PACK_BLOCKS);
    for (int64_t i = from; i < to && !j->a_t; i += mr)
        for (int64_t kb = 0; kb < p->k; kb += MULL_KC) {
            int64_t kc = least(p->k - kb, MULL_KC);
            p->kn->left((int)least(to - i, mr), kc, j->a + (p->row0 + i) * j->lda + p->k0 + kb, j->lda,
                        p->a + kb * p->m + i * kc);
        }
    for (int64_t kb = 0; kb < p->k && j->a_t; kb += MULL_KC) {
        int64_t kc = least(p->k - kb, MULL_KC);
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

/* Rows [r0, r1) of a block that is used as it lies, to its panels [kc][32], MULL_KC rows apart; zero beyond the
 * columns. */
static void pack_rows(const mull_gemm_job *j, const block *b, int64_t r0, int64_t r1, float *panels) {
    for (int64_t r = r0; r < r1; r++) {
        int64_t at = (b->kb + r) * j->ldb + b->col;
        for (int64_t c = 0; c < b->cols; c += MULL_NR) {
            float *dst = panels + c * MULL_KC + r * MULL_NR;
            int64_t n = least(b->cols - c, MULL_NR);
            if (j->b_type == MULL_BF16)
                for (int64_t i = 0; i < n; i++) dst[i] = mull_bf16_to_f32(((const uint16_t *)j->b)[at + c + i]);
            else if (n == MULL_NR)
                memcpy(dst, (const float *)j->b + at + c, MULL_NR * sizeof *dst);
            else
                memcpy(dst, (const float *)j->b + at + c, (size_t)n * sizeof *dst);
            if (n < MULL_NR) memset(dst + n, 0, (size_t)(MULL_NR - n) * sizeof *dst);
        }
    }
}

/* A transposed panel of at most 32 columns, [kc][32], zero beyond them. */
static void pack_columns(const mull_kernels *kn, const mull_gemm_job *j, const block *b, float *panel) {
    int64_t at = b->col * j->ldb + b->kb;
    if (b->cols < MULL_NR) memset(panel, 0, (size_t)(b->kc * MULL_NR) * sizeof *panel);
    if (j->b_type != MULL_BF16) {
        kn->panel((int)b->cols, b->kc, (const float *)j->b + at, j->ldb, panel);
        return;
    }
    float wide[4 * MULL_KC];
    for (int r = 0; r < b->cols; r += 4) {
        int n = (int)least(b->cols - r, 4);
        for (int i = 0; i < n; i++) {
            const uint16_t *row = (const uint16_t *)j->b + at + (r + i) * j->ldb;
            for (int64_t k = 0; k < b->kc; k++) wide[i * MULL_KC + k] = mull_bf16_to_f32(row[k]);
        }
        mull_transpose(wide, MULL_KC, n, b->kc, panel + r, MULL_NR);
    }
}

static void pack_block(const product *p, const block *b, float *panels) {
    if (!p->j->b_t) {
        pack_rows(p->j, b, 0, b->kc, panels);
        return;
    }
    for (int64_t c = 0; c < b->cols; c += MULL_NR) {
        block one = {b->kb, b->kc, b->col + c, least(b->cols - c, MULL_NR)};
        pack_columns(p->kn, p->j, &one, panels + c * MULL_KC);
    }
}

/* A right operand that is packed once for all: one panel, in all its depth. */
static void pack_b(void *ctx, int part, int parts) {
    const product *p = ctx;
    int64_t col = (int64_t)part * MULL_NR;
    for (int64_t kb = 0; kb < p->k; kb += MULL_KC) {
        block b = {p->k0 + kb, least(p->k - kb, MULL_KC), col, least(p->j->n - col, MULL_NR)};
        float *panel = p->b + kb * MULL_NR * parts + (int64_t)part * b.kc * MULL_NR;
        pack_block(p, &b, panel);
    }
}

/* The lines of rows [r0, r1) of a block as it lies in memory: a row is kc long if transposed, else cols. */
static mull_ahead lines_of(const mull_gemm_job *j, const block *b, int64_t r0, int64_t r1) {
    int64_t size = j->b_type == MULL_BF16 ? 2 : 4, rows = j->b_t ? b->cols : b->kc;
    int64_t length = (j->b_t ? b->kc : b->cols) * size, lines = (length + LINE - 1) / LINE;
    int64_t at = j->b_t ? (b->col + r0) * j->ldb + b->kb : (b->kb + r0) * j->ldb + b->col;
    if (r1 > rows) r1 = rows;
    if (r0 >= r1) return (mull_ahead){0};
    return (mull_ahead){.line = (uintptr_t)j->b + (uintptr_t)(at * size),
                        .left = (int)((r1 - r0) * lines),
                        .row = (int)lines,
                        .jump = j->ldb * size - (lines - 1) * LINE};
}

static void store(const float *tile, int rows, float *c, int64_t ldc, int cols, bool add) {
    for (int i = 0; i < rows; i++, c += ldc, tile += MULL_NR)
        for (int n = 0; n < cols; n++) c[n] = add ? c[n] + tile[n] : tile[n];
}

/* Rows [i0, i1) of the slab times one block. What comes next: its lines are fetched, and packed into `to` if that is
 * given. */
static void multiply(const product *p, const block *b, const float *panels, int64_t stride, int64_t i0, int64_t i1,
                     const block *next, float *to) {
    const mull_gemm_job *j = p->j;
    int mr = p->kn->mr;
    bool add = j->accumulate || b->kb > 0;
    _Alignas(64) float tile[MULL_MR_MAX * MULL_NR];
    /* The next block in as many pieces as there are calls. */
    int64_t calls = (i1 - i0 + mr - 1) / mr * ((b->cols + MULL_NR - 1) / MULL_NR), call = 0;
    int64_t rows_next = next->kc == 0 ? 0 : j->b_t ? next->cols : next->kc, piece = (rows_next + calls - 1) / calls;
    if (j->b_t && piece == 1) piece = 2; /* early rather than late */
    for (int64_t i = i0; i < i1; i += mr) {
        int rows = (int)least(p->m - i, mr);
        const float *a = p->a + (b->kb - p->k0) * p->m + i * b->kc;
        float *c = j->c + (p->row0 + i) * j->ldc + b->col;
        for (int64_t q = 0; q < b->cols; q += MULL_NR, call++) {
            int64_t r = call * piece;
            mull_ahead lines = lines_of(j, next, to ? r + piece : r, to ? r + 2 * piece : r + piece);
            bool whole = b->cols - q >= MULL_NR;
            mull_sums sums = {.to = whole ? c + q : tile, .ld_to = whole ? j->ldc : MULL_NR, .add = whole && add};
            p->kn->gemm_many(rows, b->kc, a, panels + q * stride, &sums, &lines);
            if (!whole) store(tile, rows, c + q, j->ldc, (int)(b->cols - q), add);
            if (to && r < rows_next) pack_rows(j, next, r, least(r + piece, rows_next), to);
        }
    }
}

static void product_task(void *ctx, int part, int parts) {
    const product *p = ctx;
    const mull_gemm_job *j = p->j;
    int64_t i0 = part / p->chunks * p->group, i1 = least(p->m, i0 + p->group), wide = p->chunk * MULL_NR;
    int64_t col = part % p->chunks * wide, cols = least(j->n - col, wide), then = part + p->threads;
    float *own = p->b ? NULL : mull_scratch(MULL_SCRATCH_PANELS, 2 * CHUNK * MULL_KC * MULL_NR);
    bool ready = false;
    for (int64_t kb = 0, turn = 0; kb < p->k; kb += MULL_KC, turn ^= 1) {
        block b = {p->k0 + kb, least(p->k - kb, MULL_KC), col, cols}, next = {0};
        if (p->b) {
            multiply(p, &b, p->b + kb * MULL_NR * p->panels + col * b.kc, b.kc, i0, i1, &next, NULL);
            continue;
        }
        float *panels = own + turn * CHUNK * MULL_KC * MULL_NR, *other = own + (turn ^ 1) * CHUNK * MULL_KC * MULL_NR;
        bool more = kb + MULL_KC < p->k;
        if (!ready) pack_block(p, &b, panels);
        if (more)
            next = (block){b.kb + MULL_KC, least(p->k - kb - MULL_KC, MULL_KC), col, cols};
        else if (then < parts)
            next = (block){p->k0, least(p->k, MULL_KC), then % p->chunks * wide,
                           least(j->n - then % p->chunks * wide, wide)};
        ready = more && !j->b_t;
        multiply(p, &b, panels, MULL_KC, i0, i1, &next, ready ? other : NULL);
    }
    if (j->bias && p->k0 + p->k == j->k)
        for (int64_t i = p->row0 + i0; i < p->row0 + i1; i++)
            p->kn->axpy(j->c + i * j->ldc + col, j->bias + col, 1, cols);
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
    product p = {
        .kn = mull_kernels_get(), .j = j, .panels = (j->n + MULL_NR - 1) / MULL_NR, .threads = mull_pool_threads(pool)};
    if (2.0 * (double)j->m * (double)j->n * (double)j->k < 4e5) pool = NULL; /* less than a wake-up costs */
    /* A slab: some groups of rows, as deep as fits; where that is all of k, as many rows as fit. */
    int64_t rows = least(j->m, 2 * GROUP), depth = least(j->k, A_FLOATS / rows / MULL_KC * MULL_KC);
    rows = A_FLOATS / depth / GROUP * GROUP;
    if (rows < 2 * GROUP) rows = 2 * GROUP;
    for (p.row0 = 0; p.row0 < j->m; p.row0 += rows) {
        p.m = least(j->m - p.row0, rows);
        plan(&p);
        bool pack = p.m > p.group && p.panels * MULL_NR * depth <= A_FLOATS;
        p.b = pack ? mull_scratch(MULL_SCRATCH_GEMM_RIGHT, (size_t)(p.panels * MULL_NR * depth)) : NULL;
        p.a = mull_scratch(MULL_SCRATCH_GEMM, (size_t)(p.m * depth) + 64);
        for (p.k0 = 0; p.k0 < j->k; p.k0 += depth) {
            p.k = least(j->k - p.k0, depth);
            int64_t each = (int64_t)p.kn->mr * PACK_BLOCKS;
            mull_pool_run(pool, pack_a, &p, (int)((p.m + each - 1) / each));
            if (p.b && (p.row0 == 0 || depth < j->k)) mull_pool_run(pool, pack_b, &p, (int)p.panels);
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
