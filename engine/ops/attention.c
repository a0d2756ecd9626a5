/* Attention by tiles of query rows over blocks of 64 keys with an online softmax (Milakov & Gimelshein 2018; the tiling
 * of FlashAttention). Scores and weighted sums are both micro-kernel calls: keys are kept transposed
 * ([hd][keys]) so that lanes are keys, values as they are, so that lanes are features.
 *
 * Key blocks lie at absolute positions and every row sees exactly its own keys, in ascending order, so the bits of a
 * row do not depend on the chunk of the prompt it came in, on the other rows, or on the number of threads. */
#include "engine/ops/kernels.h"
#include "engine/ops/ops.h"
#include "engine/ops/transpose.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { QB = 48, HD_MAX = MULL_HEAD_DIM_MAX }; /* QB: whole blocks of 12 and of 3 rows */

static int64_t round32(int64_t n) {
    return (n + 31) / 32 * 32;
}

/* One tile of query rows on one thread's stack. */
typedef struct tile {
    int rows, hd, hdp;
    float q[QB * HD_MAX];    /* packed per block of mr rows: [hd][rows of the block] */
    float s[QB * MULL_KEYS]; /* scores, then weights */
    float o[QB * HD_MAX];    /* sums [rows][hdp] */
    float max[QB], sum[QB];
} tile;

static void tile_begin(tile *t, int rows, int hd) {
    t->rows = rows;
    t->hd = hd;
    t->hdp = (int)round32(hd);
    memset(t->o, 0, (size_t)rows * (size_t)t->hdp * sizeof *t->o);
    for (int i = 0; i < rows; i++) {
        t->max[i] = -INFINITY;
        t->sum[i] = 0;
    }
}

/* Query rows [i, i + n) of the tile, all in one block of mr, from rows of stride ld. */
static void tile_set_q(tile *t, int mr, int i, int n, const float *q, int64_t ld) {
    int b = i / mr * mr, rows = t->rows - b < mr ? t->rows - b : mr;
    mull_transpose(q, ld, n, t->hd, t->q + b * t->hd + (i - b), rows);
}

/* Scores of all rows against 32 keys: kt [hd] rows of stride ldk, columns col..col+31 of the block. */
static void tile_scores(tile *t, const mull_kernels *kn, const float *kt, int64_t ldk, int64_t next, int col) {
    for (int b = 0; b < t->rows; b += kn->mr) {
        int rows = t->rows - b < kn->mr ? t->rows - b : kn->mr;
        kn->scores(rows, t->hd, t->q + b * t->hd, kt, ldk, next, t->s + b * MULL_KEYS + col);
    }
}

/* Softmax step of row i over its first n keys of the block. */
static void tile_softmax(tile *t, const mull_kernels *kn, int i, int n, float scale) {
    float carry = kn->softmax_step(t->s + i * MULL_KEYS, n, scale, &t->max[i], &t->sum[i]);
    if (carry != 1) kn->scale_row(t->o + i * t->hdp, t->hdp, carry);
}

/* Adds weights[b..b+rows) [k0..k0+n) times v (n rows of stride ldv, hdp wide) to the sums. */
static void tile_values(tile *t, const mull_kernels *kn, int b, int rows, int k0, int n, const float *v, int64_t ldv,
                        int64_t next) {
    for (int d = 0; d < t->hdp; d += MULL_NR)
        kn->weigh(rows, n, t->s + b * MULL_KEYS + k0, v + d, ldv, next, t->o + b * t->hdp + d, t->hdp);
}

static void tile_row_out(const tile *t, int i, float *out) {
    float inv = 1.0f / t->sum[i];
    for (int d = 0; d < t->hd; d++) out[d] = t->o[i * t->hdp + d] * inv;
}

/* ---- full attention inside segments (vision tower) */
typedef struct varlen_job {
    const mull_kernels *kn;
    const float *q, *k, *v;
    const int32_t *cu;
    float *out, scale;
    int64_t ld, ldo;
    int heads, hd;
} varlen_job;

static void varlen_task(void *ctx, int part, int parts) {
    const varlen_job *j = ctx;
    (void)parts;
    int seg = part / j->heads, head = part % j->heads, hd = j->hd;
    int64_t r0 = j->cu[seg], n = j->cu[seg + 1] - r0, hdp = round32(hd);
    if (n <= 0) return;
    int64_t blocks = (n + MULL_KEYS - 1) / MULL_KEYS;
    tile tile_mem, *t = &tile_mem;
    float *kt = malloc((size_t)(blocks * MULL_KEYS * (hd + hdp)) * sizeof *kt);
    if (!kt) abort(); /* no result is better than a wrong one; the supervisor reports it */
    float *vp = kt + blocks * MULL_KEYS * hd;
    for (int64_t i = 0; i < n; i += MULL_KEYS) {
        int keys = (int)(n - i < MULL_KEYS ? n - i : MULL_KEYS);
        float *kd = kt + i * hd;
        if (keys < MULL_KEYS) memset(kd, 0, (size_t)(MULL_KEYS * hd) * sizeof *kd);
        mull_transpose(j->k + (r0 + i) * j->ld + head * hd, j->ld, keys, hd, kd, MULL_KEYS);
    }
    for (int64_t i = 0; i < n; i++) {
        float *vd = vp + i * hdp;
        memcpy(vd, j->v + (r0 + i) * j->ld + head * hd, (size_t)hd * sizeof *vd);
        memset(vd + hd, 0, (size_t)(hdp - hd) * sizeof *vd);
    }
    for (int64_t q0 = 0; q0 < n; q0 += QB) {
        tile_begin(t, (int)(n - q0 < QB ? n - q0 : QB), hd);
        for (int i = 0; i < t->rows; i += j->kn->mr)
            tile_set_q(t, j->kn->mr, i, t->rows - i < j->kn->mr ? t->rows - i : j->kn->mr,
                       j->q + (r0 + q0 + i) * j->ld + head * hd, j->ld);
        for (int64_t b = 0; b < blocks; b++) {
            int keys = (int)(n - b * MULL_KEYS < MULL_KEYS ? n - b * MULL_KEYS : MULL_KEYS);
            for (int c = 0; c < keys; c += MULL_NR) tile_scores(t, j->kn, kt + b * MULL_KEYS * hd + c, MULL_KEYS, 0, c);
            for (int i = 0; i < t->rows; i++) tile_softmax(t, j->kn, i, keys, j->scale);
            for (int i = 0; i < t->rows; i += j->kn->mr)
                tile_values(t, j->kn, i, t->rows - i < j->kn->mr ? t->rows - i : j->kn->mr, 0, keys,
                            vp + b * MULL_KEYS * hdp, hdp, 0);
        }
        for (int i = 0; i < t->rows; i++) tile_row_out(t, i, j->out + (r0 + q0 + i) * j->ldo + head * hd);
    }
    free(kt);
}

void mull_attention_varlen(mull_pool *pool, const float *q, const float *k, const float *v, int64_t ld,
                           const int32_t *cu, int segments, int heads, int hd, float scale, float *out, int64_t ldo) {
    varlen_job j = {.kn = mull_kernels_get(),
                    .q = q,
                    .k = k,
                    .v = v,
                    .cu = cu,
                    .out = out,
                    .scale = scale,
                    .ld = ld,
                    .ldo = ldo,
                    .heads = heads,
                    .hd = hd};
    mull_pool_run(pool, varlen_task, &j, segments * heads);
}

/* ---- the paged cache */
typedef struct paged_job {
    const mull_kernels *kn;
    const mull_kv_view *kv;
    const mull_attn_seq *seqs;
    int nseq, heads, group;
    const float *q, *k, *v;
    int64_t ld, ldo;
    float *out, scale;
} paged_job;

static void store_task(void *ctx, int part, int parts) {
    const paged_job *j = ctx;
    (void)parts;
    const mull_kv_view *kv = j->kv;
    const mull_attn_seq *s = &j->seqs[part];
    int pt = kv->page_tokens, hd = kv->hd;
    for (int64_t r = 0; r < s->rows;) {
        int64_t pos = s->pos0 + r, page = s->pages[pos / pt], slot = pos % pt;
        int n = (int)(pt - slot < s->rows - r ? pt - slot : s->rows - r);
        const float *ks = j->k + (s->row0 + r) * j->ld, *vs = j->v + (s->row0 + r) * j->ld;
        for (int h = 0; h < kv->kv_heads; h++) {
            mull_transpose(ks + h * hd, j->ld, n, hd, kv->k + page * kv->page_stride + (int64_t)h * hd * pt + slot, pt);
            float *vd = kv->v + page * kv->page_stride + ((int64_t)h * pt + slot) * hd;
            for (int i = 0; i < n; i++) memcpy(vd + i * hd, vs + i * j->ld + h * hd, (size_t)hd * sizeof *vd);
        }
        r += n;
    }
}

void mull_kv_store(mull_pool *pool, const mull_kv_view *kv, const mull_attn_seq *seqs, int nseq, const float *k,
                   const float *v, int64_t ld) {
    paged_job j = {.kv = kv, .seqs = seqs, .nseq = nseq, .k = k, .v = v, .ld = ld};
    mull_pool_run(pool, store_task, &j, nseq);
}

static int64_t seq_tiles(const paged_job *j, const mull_attn_seq *s) {
    return (s->rows * j->group + QB - 1) / QB;
}

/* Bytes from the page of position pos to the page of the same place in the next block, 0 at the end. */
static int64_t next_page(const mull_kv_view *kv, const mull_attn_seq *s, int64_t pos) {
    int64_t to = pos + MULL_KEYS;
    if (to >= s->pos0 + s->rows) return 0;
    return (s->pages[to / kv->page_tokens] - s->pages[pos / kv->page_tokens]) * kv->page_stride *
           (int64_t)sizeof(float);
}

/* Values of one page for the block's keys [k0, k0 + n): in place when hd fills whole vectors, else padded into buf. */
static const float *page_values(const mull_kv_view *kv, int64_t page, int head, int slot, int n, float *buf,
                                int64_t *ldv) {
    const float *v = kv->v + page * kv->page_stride + ((int64_t)head * kv->page_tokens + slot) * kv->hd;
    if (kv->hd % MULL_NR == 0) {
        *ldv = kv->hd;
        return v;
    }
    int64_t hdp = round32(kv->hd);
    for (int i = 0; i < n; i++) {
        memcpy(buf + i * hdp, v + (int64_t)i * kv->hd, (size_t)kv->hd * sizeof *v);
        memset(buf + i * hdp + kv->hd, 0, (size_t)(hdp - kv->hd) * sizeof *v);
    }
    *ldv = hdp;
    return buf;
}

/* Adds the block's values for rows [b, b + rows) of the tile, which all see n keys of it. */
static void paged_values(const paged_job *j, tile *t, const mull_attn_seq *s, int head, int64_t k0, int b, int rows,
                         int n, float *buf) {
    int pt = j->kv->page_tokens;
    for (int at = 0; at < n;) {
        int64_t pos = k0 + at;
        int slot = (int)(pos % pt), take = pt - slot < n - at ? pt - slot : n - at;
        if (take > MULL_NR) take = MULL_NR; /* what buf holds */
        int64_t ldv;
        const float *v = page_values(j->kv, s->pages[pos / pt], head, slot, take, buf, &ldv);
        tile_values(t, j->kn, b, rows, at, take, v, ldv, v == buf ? 0 : next_page(j->kv, s, pos));
        at += take;
    }
}

static void paged_task(void *ctx, int part, int parts) {
    const paged_job *j = ctx;
    (void)parts;
    const mull_kv_view *kv = j->kv;
    int head = part % kv->kv_heads, G = j->group, hd = kv->hd, pt = kv->page_tokens, mr = j->kn->mr;
    int64_t index = part / kv->kv_heads;
    const mull_attn_seq *s = j->seqs;
    while (index >= seq_tiles(j, s)) index -= seq_tiles(j, s++);

    tile tile_mem, *t = &tile_mem;
    float buf[MULL_NR * HD_MAX];
    int64_t first = index * QB, total = s->rows * G; /* (row, query head of the group) pairs, heads fastest */
    tile_begin(t, (int)(total - first < QB ? total - first : QB), hd);
    for (int i = 0; i < t->rows; i++) {
        int64_t r = (first + i) / G, g = (first + i) % G;
        tile_set_q(t, mr, i, 1, j->q + (s->row0 + r) * j->ld + (head * G + g) * hd, 0);
    }
    int64_t least = s->pos0 + first / G + 1, most = s->pos0 + (first + t->rows - 1) / G + 1; /* keys seen */
    for (int64_t k0 = 0; k0 < most; k0 += MULL_KEYS) {
        int keys = (int)(most - k0 < MULL_KEYS ? most - k0 : MULL_KEYS);
        for (int c = 0; c < keys; c += MULL_NR) {
            int64_t pos = k0 + c;
            const float *kt = kv->k + s->pages[pos / pt] * kv->page_stride + (int64_t)head * hd * pt + pos % pt;
            tile_scores(t, j->kn, kt, pt, next_page(kv, s, pos), c);
        }
        if (least >= k0 + keys) { /* the whole block for every row */
            for (int i = 0; i < t->rows; i++) tile_softmax(t, j->kn, i, keys, j->scale);
            for (int b = 0; b < t->rows; b += mr)
                paged_values(j, t, s, head, k0, b, t->rows - b < mr ? t->rows - b : mr, keys, buf);
            continue;
        }
        /* On the diagonal: rows of the same token share their keys; each meets only its own, so nothing of a later
         * token, not even a NaN, touches an earlier one. */
        for (int b = 0; b < t->rows;) {
            int64_t r = (first + b) / G, seen = s->pos0 + r + 1 - k0;
            int e = b + 1;
            while (e < t->rows && e - b < mr && (first + e) / G == r) e++;
            if (seen > 0) {
                int n = (int)(seen < keys ? seen : keys);
                for (int i = b; i < e; i++) tile_softmax(t, j->kn, i, n, j->scale);
                paged_values(j, t, s, head, k0, b, e - b, n, buf);
            }
            b = e;
        }
    }
    for (int i = 0; i < t->rows; i++) {
        int64_t r = (first + i) / G, g = (first + i) % G;
        tile_row_out(t, i, j->out + (s->row0 + r) * j->ldo + (head * G + g) * hd);
    }
}

void mull_attention_paged(mull_pool *pool, const mull_kv_view *kv, const mull_attn_seq *seqs, int nseq, const float *q,
                          int64_t ldq, int heads, float scale, float *out, int64_t ldo) {
    paged_job j = {.kn = mull_kernels_get(),
                   .kv = kv,
                   .seqs = seqs,
                   .nseq = nseq,
                   .heads = heads,
                   .group = heads / kv->kv_heads,
                   .q = q,
                   .ld = ldq,
                   .ldo = ldo,
                   .out = out,
                   .scale = scale};
    int64_t tiles = 0;
    for (int i = 0; i < nseq; i++) tiles += seq_tiles(&j, &seqs[i]);
    mull_pool_run(pool, paged_task, &j, (int)(tiles * kv->kv_heads));
}
