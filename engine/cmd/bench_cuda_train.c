/* mull-engine bench cuda: the operations of training. Attention there and back over packed rows beside the rate of one
 * large product; AdamW and the softmax over a vocabulary beside the copy bandwidth. Whole steps: bench train --device
 * cuda. */
#include "engine/cmd/bench_cuda.h"

#if MULL_HAVE_CUDA
#include "engine/core/cuda_arena.h"
#include "engine/ops/cuda_train.h"

#include <math.h>
#include <stdlib.h>

typedef struct attention {
    mull_cuda *c;
    mull_cuda_attention there;
    mull_cuda_attention_grad back;
} attention;

static void queue_there(void *ctx, int i) {
    const attention *a = ctx;
    (void)i;
    mull_cuda_attend(a->c, &a->there);
}
static void queue_back(void *ctx, int i) {
    const attention *a = ctx;
    (void)i;
    mull_cuda_attend_backward(a->c, &a->back);
}

/* One sequence. FLOP of the backward as is customary: 2.5 times the forward's, whatever is computed twice. */
static int attention_of(mull_cuda_bench *b, int heads, int kv_heads, int hd, int32_t rows, bool causal) {
    int64_t q = (int64_t)heads * hd, kv = (int64_t)kv_heads * hd, ld = q + 2 * kv;
    const mull_cuda_seq seq = {.rows = rows};
    mull_cuda_plan plan;
    mull_cuda_plan_attention(&seq, 1, heads / kv_heads, causal, &plan, NULL, NULL);
    int32_t n = plan.wide + plan.few, keys = mull_cuda_plan_keys(&seq, 1, NULL);
    mull_cuda_work *work = malloc((size_t)(n + keys) * sizeof *work);
    if (!work) return mull_fail(b->err, MULL_ENOMEM, "cannot measure", "attention", "", "out of memory");
    mull_cuda_plan_attention(&seq, 1, heads / kv_heads, causal, &plan, work, NULL);
    mull_cuda_plan_keys(&seq, 1, work + n);
    mull_cuda_arena a = {.base = b->memory};
    size_t r = (size_t)rows;
    uint16_t *qkv = mull_cuda_part(&a, r * (size_t)ld * 2), *out = mull_cuda_part(&a, r * (size_t)q * 2),
             *dout = mull_cuda_part(&a, r * (size_t)q * 2), *grad = mull_cuda_part(&a, r * (size_t)ld * 2);
    float *lse = mull_cuda_part(&a, r * (size_t)heads * 4), *delta = mull_cuda_part(&a, r * (size_t)heads * 4);
    mull_cuda_seq *seqs = mull_cuda_part(&a, sizeof seq);
    mull_cuda_work *there = mull_cuda_part(&a, (size_t)(n + keys) * sizeof *there);
    mull_cuda_put(b->c, seqs, &seq, sizeof seq);
    mull_cuda_put(b->c, there, work, (size_t)(n + keys) * sizeof *work);
    free(work);
    float scale = 1.0f / sqrtf((float)hd);
    attention at = {.c = b->c,
                    .there = {.t = MULL_BF16,
                              .q = qkv,
                              .ldq = ld,
                              .k = qkv + q,
                              .v = qkv + q + kv,
                              .ldkv = ld,
                              .kv_heads = kv_heads,
                              .heads = heads,
                              .hd = hd,
                              .causal = causal,
                              .scale = scale,
                              .seqs = seqs,
                              .work = there,
                              .plan = plan,
                              .out = out,
                              .ldo = q,
                              .lse = lse,
                              .lse_rows = rows},
                    .back = {.t = MULL_BF16,
                             .q = qkv,
                             .k = qkv + q,
                             .v = qkv + q + kv,
                             .ld = ld,
                             .out = out,
                             .dout = dout,
                             .ldo = q,
                             .lse = lse,
                             .dq = grad,
                             .dk = grad + q,
                             .dv = grad + q + kv,
                             .ldd = ld,
                             .heads = heads,
                             .kv_heads = kv_heads,
                             .hd = hd,
                             .causal = causal,
                             .scale = scale,
                             .rows = rows,
                             .seqs = seqs,
                             .work = there,
                             .nwork = n,
                             .key_work = there + n,
                             .nkey_work = keys,
                             .delta = delta}};
    double flop = 4.0 * (double)rows * rows * (causal ? 0.5 : 1) * hd * heads, ms;
    int rc = mull__bench_cuda_per_call(b, queue_there, &at, &ms);
    if (rc) return rc;
    json_t *what = json_pack("{s:i, s:i, s:i, s:i, s:b}", "heads", heads, "kv_heads", kv_heads, "hd", hd, "rows",
                             (int)rows, "causal", (int)causal);
    mull__bench_cuda_emit(b, "attention training", flop / ms * 1e3, b->product, "FLOP/s", json_incref(what));
    if (!(rc = mull__bench_cuda_per_call(b, queue_back, &at, &ms)))
        mull__bench_cuda_emit(b, "attention backward", 2.5 * flop / ms * 1e3, b->product, "FLOP/s", json_incref(what));
    json_decref(what);
    return rc;
}

typedef struct memory_bound {
    mull_cuda *c;
    float *w, *g, *m, *v;
    uint16_t *half;
    mull_cuda_piece *pieces;
    mull_cuda_adamw_state *state;
    double *partial;
    int64_t npieces;
    /* softmax */
    float *logits, *top, *sum, *coef;
    int32_t *targets;
    double *logp;
    int64_t rows, vocab;
} memory_bound;

static void queue_adamw(void *ctx, int i) {
    const memory_bound *p = ctx;
    const mull_cuda_adamw o = {.lr = 1e-6, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .max_grad_norm = 1, .scale = 1};
    (void)i;
    mull_cuda_adamw_step(p->c, p->pieces, p->npieces, &o, p->state, p->w, p->half, p->g, p->m, p->v, p->partial);
}
static void queue_softmax(void *ctx, int i) {
    const memory_bound *p = ctx;
    (void)i;
    mull_cuda_log_softmax(p->c, p->logits, p->rows, p->vocab, p->targets, 1, p->top, p->sum, p->logp, NULL);
}

static int memory(mull_cuda_bench *b) {
    memory_bound p = {.c = b->c, .npieces = 2048, .rows = 512, .vocab = 151936};
    size_t count = (size_t)p.npieces * MULL_CUDA_PIECE, rows = (size_t)p.rows;
    mull_cuda_arena a = {.base = b->memory};
    p.w = mull_cuda_part(&a, count * 4);
    p.g = mull_cuda_part(&a, count * 4);
    p.m = mull_cuda_part(&a, count * 4);
    p.v = mull_cuda_part(&a, count * 4);
    p.half = mull_cuda_part(&a, count * 2);
    p.pieces = mull_cuda_part(&a, (size_t)p.npieces * sizeof *p.pieces);
    p.partial = mull_cuda_part(&a, (size_t)p.npieces * sizeof *p.partial);
    p.state = mull_cuda_part(&a, sizeof *p.state);
    p.logits = mull_cuda_part(&a, rows * (size_t)p.vocab * 4);
    p.top = mull_cuda_part(&a, rows * 4);
    p.sum = mull_cuda_part(&a, rows * 4);
    p.targets = mull_cuda_part(&a, rows * 4);
    p.logp = mull_cuda_part(&a, rows * 8);
    mull_cuda_piece *pieces = malloc((size_t)p.npieces * sizeof *pieces);
    if (!pieces || a.used > b->bytes) {
        free(pieces);
        return mull_fail(b->err, MULL_ENOMEM, "cannot measure", "AdamW", "", "out of memory");
    }
    for (int64_t i = 0; i < p.npieces; i++)
        pieces[i] = (mull_cuda_piece){i * MULL_CUDA_PIECE, i * MULL_CUDA_PIECE, MULL_CUDA_PIECE, i % 2};
    mull_cuda_put(b->c, p.pieces, pieces, (size_t)p.npieces * sizeof *pieces);
    free(pieces);
    mull_cuda_zero(b->c, p.w, count * 4 * 4); /* no gradient: finite whatever lay there */
    mull_cuda_zero(b->c, p.state, sizeof *p.state);
    mull_cuda_zero(b->c, p.logits, rows * (size_t)p.vocab * 4);
    mull_cuda_zero(b->c, p.targets, rows * 4);
    double ms;
    int rc = mull__bench_cuda_per_call(b, queue_adamw, &p, &ms);
    if (rc) return rc;
    /* the norm reads g; the update reads w, g, m, v and writes w, m, v and the rounded copy */
    mull__bench_cuda_emit(b, "AdamW", (double)count * 34 / ms * 1e3, b->copy, "bytes/s",
                          json_pack("{s:I, s:f}", "values", (json_int_t)count, "ms", ms));
    if ((rc = mull__bench_cuda_per_call(b, queue_softmax, &p, &ms))) return rc;
    mull__bench_cuda_emit(
        b, "log softmax", (double)p.rows * (double)p.vocab * 4 / ms * 1e3, b->copy, "bytes/s",
        json_pack("{s:I, s:I, s:f}", "rows", (json_int_t)p.rows, "vocab", (json_int_t)p.vocab, "us", ms * 1e3));
    return MULL_OK;
}

int mull__bench_cuda_train(mull_cuda_bench *b) {
    int rc = attention_of(b, 28, 4, 128, 8192, true);
    if (!rc) rc = attention_of(b, 16, 2, 128, 4096, true);
    if (!rc) rc = attention_of(b, 16, 16, 80, 8192, false);
    return rc ? rc : memory(b);
}
#endif
