/* Attention of training; see backward.h. Forward and backward by tiles of QB queries over blocks of MULL_KEYS keys, as
 * in FlashAttention (Dao et al. 2022): the forward keeps only the log of each row's sum, and the backward makes each
 * tile's weights again from it, so nothing of size [T, T] exists.
 *
 * One task is one head of one sequence. It lays its operands out as the micro-kernels want them ([k][32] panels) once;
 * all five products of a tile are then gemm calls. Keys shared by a group of query heads get one gradient per query
 * head, which are added in the order of the heads: the bits do not depend on which thread came first. */
#include "engine/ops/backward.h"

#include "engine/core/scratch.h"
#include "engine/ops/kernels.h"
#include "engine/ops/ops.h"
#include "engine/ops/transpose.h"

#include <math.h>
#include <string.h>

enum { QB = 48, KB = MULL_KEYS, NR = MULL_NR, HD_MAX = MULL_HEAD_DIM_MAX };

typedef struct job {
    const mull_kernels *kn;
    const mull_attn_shape *a;
    const float *q, *k, *v, *out, *dout;
    float *o, *lse_out, *dq, *dk, *dv, *kv;
    const float *lse;
    int64_t ld, ldo, ldd, rows;
} job;

/* One tile on the stack of its thread. */
typedef struct tile {
    float a[QB * HD_MAX], a2[QB * HD_MAX]; /* left operands, blocks of mr rows: [hd][rows] */
    float p[QB * KB], ds[QB * KB];         /* [rows][KB] */
    float t[QB * KB];                      /* a block of p or ds, transposed or packed */
    float o[QB * HD_MAX];                  /* [rows][hdp] */
    float max[QB], sum[QB], d[QB];
} tile;

static int64_t round_up(int64_t n, int64_t to) {
    return (n + to - 1) / to * to;
}
static int least(int64_t a, int64_t b) {
    return (int)(a < b ? a : b);
}

/* Rows x [n, hd] as panels of features [hdp/32][np][32], zero-padded. */
static void panels_rows(const float *x, int64_t ld, int64_t n, int64_t np, int hd, float *dst) {
    for (int c = 0; c < hd; c += NR, dst += np * NR) {
        int w = hd - c < NR ? hd - c : NR;
        if (w < NR || n < np) memset(dst, 0, (size_t)(np * NR) * sizeof *dst);
        for (int64_t i = 0; i < n; i++) memcpy(dst + i * NR, x + i * ld + c, (size_t)w * sizeof *dst);
    }
}

/* The same transposed: panels of rows [np/32][hd][32]. */
static void panels_cols(const float *x, int64_t ld, int64_t n, int hd, float *dst) {
    for (int64_t i = 0; i < n; i += NR, dst += (int64_t)hd * NR) {
        int w = least(n - i, NR);
        if (w < NR) memset(dst, 0, (size_t)(hd * NR) * sizeof *dst);
        mull_transpose(x + i * ld, ld, w, hd, dst, NR);
    }
}

/* Rows x [rows, hd] as a left operand: per block of mr rows [hd][rows of the block]. */
static void pack_left(const float *x, int64_t ld, int rows, int hd, int mr, float *dst) {
    for (int b = 0; b < rows; b += mr)
        mull_transpose(x + b * ld, ld, least(rows - b, mr), hd, dst + b * hd, least(rows - b, mr));
}

/* s [rows][KB] = left [rows, hd] times keys [k0, k0 + n) of the column panels. */
static void scores(const mull_kernels *kn, const float *left, int rows, int hd, const float *cols, int64_t k0, int n,
                   float *s) {
    for (int c = 0; c < n; c += NR)
        for (int b = 0; b < rows; b += kn->mr)
            kn->gemm_f32(least(rows - b, kn->mr), hd, left + b * hd, cols + (k0 + c) * hd, s + b * KB + c, KB, 1);
}

/* c [rows][hdp] += s [rows][KB] (its first n columns) times rows [k0, k0 + n) of the row panels. */
static void weigh(const mull_kernels *kn, const float *s, int rows, int n, const float *panels, int64_t np, int64_t k0,
                  int hdp, float *c) {
    for (int d = 0; d < hdp; d += NR)
        for (int b = 0; b < rows; b += kn->mr)
            kn->weigh(least(rows - b, kn->mr), n, s + b * KB, panels + (d / NR * np + k0) * NR, NR, 0, c + b * hdp + d,
                      hdp);
}

/* c [n][hdp] += s^T, s [rows][KB] of which n columns count, times rows [q0, q0 + rows) of the row panels. */
static void weigh_t(const mull_kernels *kn, const float *s, int rows, int n, const float *panels, int64_t np,
                    int64_t q0, int hdp, float *t, float *c) {
    for (int b = 0; b < n; b += kn->mr) {
        int w = least(n - b, kn->mr);
        for (int r = 0; r < rows; r++) memcpy(t + r * w, s + r * KB + b, (size_t)w * sizeof *t);
        for (int d = 0; d < hdp; d += NR)
            kn->gemm_f32(w, rows, t, panels + (d / NR * np + q0) * NR, c + (int64_t)b * hdp + d, hdp, 0);
    }
}

/* Keys of block k0 that row i (of tile q0) sees. */
static int seen(const job *j, int64_t q0, int i, int64_t k0, int n) {
    if (!j->a->causal) return n;
    int64_t c = q0 + i + 1 - k0;
    return c < 0 ? 0 : least(c, n);
}

/* The branch that row q0 of a sequence is in begins at this row of the sequence; the trunk's rows: at trunk. */
static int64_t branch_of(const job *j, int seq, int64_t row) {
    int64_t trunk = j->a->trunk[seq], r0 = j->a->cu[seq];
    return row < trunk ? trunk : j->a->branch[r0 + row] - r0;
}

/* Is the whole block of keys between the trunk and the branch of the tile's first row, and so of all its rows? */
static bool between(const job *j, int seq, int64_t q0, int64_t k0, int n) {
    return j->a->trunk && k0 >= j->a->trunk[seq] && k0 + n <= branch_of(j, seq, q0);
}

/* What row i of the tile at q0 does not see of its first c keys from k0 on becomes -inf. */
static void hide(const job *j, int seq, int64_t q0, int i, int64_t k0, int c, float *s) {
    if (!j->a->trunk) return;
    int64_t from = j->a->trunk[seq] - k0, to = branch_of(j, seq, q0 + i) - k0;
    if (to > c) to = c;
    for (int64_t k = from > 0 ? from : 0; k < to; k++) s[k] = -INFINITY;
}

static void forward_task(void *ctx, int part, int parts) {
    job *j = ctx;
    (void)parts;
    const mull_attn_shape *a = j->a;
    const mull_kernels *kn = j->kn;
    int seq = part / a->heads, head = part % a->heads, hd = a->hd, kvh = head / (a->heads / a->kv_heads);
    int64_t r0 = a->cu[seq], n = a->cu[seq + 1] - r0, np = round_up(n, NR);
    int hdp = (int)round_up(hd, NR);
    if (n <= 0) return;
    float *kc = mull_scratch(MULL_SCRATCH_ATTENTION, (size_t)(np * (hd + hdp))), *vr = kc + np * hd;
    panels_cols(j->k + r0 * j->ld + kvh * hd, j->ld, n, hd, kc);
    panels_rows(j->v + r0 * j->ld + kvh * hd, j->ld, n, np, hd, vr);
    tile mem, *t = &mem;
    for (int64_t q0 = 0; q0 < n; q0 += QB) {
        int rows = least(n - q0, QB);
        pack_left(j->q + (r0 + q0) * j->ld + head * hd, j->ld, rows, hd, kn->mr, t->a);
        memset(t->o, 0, (size_t)(rows * hdp) * sizeof *t->o);
        for (int i = 0; i < rows; i++) t->max[i] = -INFINITY, t->sum[i] = 0;
        int64_t end = a->causal ? q0 + rows : n;
        for (int64_t k0 = 0; k0 < end; k0 += KB) {
            int keys = least(end - k0, KB);
            if (between(j, seq, q0, k0, keys)) continue;
            scores(kn, t->a, rows, hd, kc, k0, keys, t->p);
            for (int i = 0; i < rows; i++) {
                int c = seen(j, q0, i, k0, keys);
                float *s = t->p + i * KB;
                hide(j, seq, q0, i, k0, c, s);
                if (c > 0) {
                    float carry = kn->softmax_step(s, c, a->scale, &t->max[i], &t->sum[i]);
                    if (carry != 1) kn->scale_row(t->o + i * hdp, hdp, carry);
                }
                for (; c < keys; c++) s[c] = 0;
            }
            weigh(kn, t->p, rows, keys, vr, np, k0, hdp, t->o);
        }
        for (int i = 0; i < rows; i++) {
            float inv = 1.0f / t->sum[i], *o = j->o + (r0 + q0 + i) * j->ldo + head * hd;
            for (int d = 0; d < hd; d++) o[d] = t->o[i * hdp + d] * inv;
            j->lse_out[head * j->rows + r0 + q0 + i] = t->max[i] + logf(t->sum[i]);
        }
    }
}

void mull_attention_train(mull_pool *pool, const mull_attn_shape *a, const float *q, const float *k, const float *v,
                          int64_t ld, float *out, int64_t ldo, float *lse) {
    job j = {.kn = mull_kernels_get(),
             .a = a,
             .q = q,
             .k = k,
             .v = v,
             .ld = ld,
             .o = out,
             .ldo = ldo,
             .lse_out = lse,
             .rows = a->cu[a->nseq]};
    mull_pool_run(pool, forward_task, &j, a->nseq * a->heads);
}

/* dp of the tile to ds, p from the scores and the kept sums; what a row does not see becomes 0. */
static void tile_gradient(const job *j, tile *t, int seq, int64_t q0, int rows, int64_t k0, int keys,
                          const float *lse) {
    for (int i = 0; i < rows; i++) {
        int c = seen(j, q0, i, k0, keys);
        float *p = t->p + i * KB, *ds = t->ds + i * KB;
        hide(j, seq, q0, i, k0, c, p);
        j->kn->exp_scale(p, c, j->a->scale, lse[q0 + i], 1);
        j->kn->softmax_backward(p, ds, c, t->d[i], j->a->scale);
        for (; c < keys; c++) p[c] = ds[c] = 0;
    }
}

static void backward_task(void *ctx, int part, int parts) {
    job *j = ctx;
    (void)parts;
    const mull_attn_shape *a = j->a;
    const mull_kernels *kn = j->kn;
    int seq = part / a->heads, head = part % a->heads, hd = a->hd, group = a->heads / a->kv_heads, kvh = head / group;
    int64_t r0 = a->cu[seq], n = a->cu[seq + 1] - r0, np = round_up(n, NR);
    int hdp = (int)round_up(hd, NR);
    if (n <= 0) return;
    float *kc = mull_scratch(MULL_SCRATCH_ATTENTION, (size_t)(np * (2 * hd + 5 * hdp)));
    float *vc = kc + np * hd, *kr = vc + np * hd, *qr = kr + np * hdp, *dor = qr + np * hdp, *dk = dor + np * hdp,
          *dv = dk + np * hdp;
    const float *q = j->q + r0 * j->ld + head * hd, *dout = j->dout + r0 * j->ldo + head * hd,
                *out = j->out + r0 * j->ldo + head * hd, *k = j->k + r0 * j->ld + kvh * hd,
                *lse = j->lse + head * j->rows + r0;
    panels_cols(k, j->ld, n, hd, kc);
    panels_rows(k, j->ld, n, np, hd, kr);
    panels_cols(j->v + r0 * j->ld + kvh * hd, j->ld, n, hd, vc);
    panels_rows(q, j->ld, n, np, hd, qr);
    panels_rows(dout, j->ldo, n, np, hd, dor);
    memset(dk, 0, (size_t)(2 * np * hdp) * sizeof *dk);
    tile mem, *t = &mem;
    for (int64_t q0 = 0; q0 < n; q0 += QB) {
        int rows = least(n - q0, QB);
        pack_left(q + q0 * j->ld, j->ld, rows, hd, kn->mr, t->a);
        pack_left(dout + q0 * j->ldo, j->ldo, rows, hd, kn->mr, t->a2);
        memset(t->o, 0, (size_t)(rows * hdp) * sizeof *t->o);
        for (int i = 0; i < rows; i++) t->d[i] = kn->dot(dout + (q0 + i) * j->ldo, out + (q0 + i) * j->ldo, hd);
        int64_t end = a->causal ? q0 + rows : n;
        for (int64_t k0 = 0; k0 < end; k0 += KB) {
            int keys = least(end - k0, KB);
            if (between(j, seq, q0, k0, keys)) continue;
            scores(kn, t->a, rows, hd, kc, k0, keys, t->p);
            scores(kn, t->a2, rows, hd, vc, k0, keys, t->ds);
            tile_gradient(j, t, seq, q0, rows, k0, keys, lse);
            weigh(kn, t->ds, rows, keys, kr, np, k0, hdp, t->o);
            weigh_t(kn, t->ds, rows, keys, qr, np, q0, hdp, t->t, dk + k0 * hdp);
            weigh_t(kn, t->p, rows, keys, dor, np, q0, hdp, t->t, dv + k0 * hdp);
        }
        for (int i = 0; i < rows; i++)
            memcpy(j->dq + (r0 + q0 + i) * j->ldd + head * hd, t->o + i * hdp, (size_t)hd * sizeof(float));
    }
    /* One head a key head: in place; else beside, [T][heads][2][hd]. */
    for (int64_t i = 0; i < n; i++) {
        float *to_k = j->dk + (r0 + i) * j->ldd + kvh * hd, *to_v = j->dv + (r0 + i) * j->ldd + kvh * hd;
        if (group > 1) {
            to_k = j->kv + ((r0 + i) * a->heads + head) * 2 * hd;
            to_v = to_k + hd;
        }
        memcpy(to_k, dk + i * hdp, (size_t)hd * sizeof(float));
        memcpy(to_v, dv + i * hdp, (size_t)hd * sizeof(float));
    }
}

static void gather_task(void *ctx, int part, int parts) {
    job *j = ctx;
    const mull_attn_shape *a = j->a;
    int group = a->heads / a->kv_heads, hd = a->hd;
    for (int64_t r = j->rows * part / parts; r < j->rows * (part + 1) / parts; r++)
        for (int h = 0; h < a->heads; h++) {
            const float *from = j->kv + (r * a->heads + h) * 2 * hd;
            float *k = j->dk + r * j->ldd + h / group * hd, *v = j->dv + r * j->ldd + h / group * hd;
            if (h % group == 0) {
                memcpy(k, from, (size_t)hd * sizeof *k);
                memcpy(v, from + hd, (size_t)hd * sizeof *v);
            } else {
                j->kn->axpy(k, from, 1, hd);
                j->kn->axpy(v, from + hd, 1, hd);
            }
        }
}

int64_t mull_attention_scratch(const mull_attn_shape *a, int64_t rows) {
    return a->heads > a->kv_heads ? rows * a->heads * 2 * a->hd : 0;
}

void mull_attention_backward(mull_pool *pool, const mull_attn_shape *a, const float *q, const float *k, const float *v,
                             int64_t ld, const float *out, const float *dout, int64_t ldo, const float *lse, float *dq,
                             float *dk, float *dv, int64_t ldd, float *kv) {
    job j = {.kn = mull_kernels_get(),
             .a = a,
             .q = q,
             .k = k,
             .v = v,
             .ld = ld,
             .out = out,
             .dout = dout,
             .ldo = ldo,
             .lse = lse,
             .dq = dq,
             .dk = dk,
             .dv = dv,
             .ldd = ldd,
             .kv = kv,
             .rows = a->cu[a->nseq]};
    mull_pool_run(pool, backward_task, &j, a->nseq * a->heads);
    if (a->heads > a->kv_heads) mull_pool_run(pool, gather_task, &j, 2 * mull_pool_threads(pool));
}
