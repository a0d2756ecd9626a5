/* The plan of a batch's attention; see cuda_ops.h. Host code without CUDA, so that it is tested everywhere.
 *
 * A sequence whose query pairs fit one small tile (decode) has its keys cut at multiples of MULL_CUDA_SPLIT: one long
 * sequence then keeps many multiprocessors busy, and the cuts depend on nothing but the sequence. Prompts have tiles
 * enough and keep their keys whole. */
#include "engine/ops/cuda_ops.h"
#include "engine/ops/cuda_train.h"

#include <stdlib.h>

static int32_t least(int64_t a, int64_t b) {
    return (int32_t)(a < b ? a : b);
}

static void plan_few(int s, const mull_cuda_seq *q, bool causal, mull_cuda_plan *p, mull_cuda_work *work,
                     mull_cuda_join *joins) {
    int32_t keys = causal ? q->pos0 + q->rows : q->rows, n = (keys + MULL_CUDA_SPLIT - 1) / MULL_CUDA_SPLIT;
    bool split = n > 1;
    for (int32_t i = 0; i < n; i++) {
        if (work)
            work[p->wide + p->few] = (mull_cuda_work){.seq = s,
                                                      .key0 = i * MULL_CUDA_SPLIT,
                                                      .key1 = least((int64_t)(i + 1) * MULL_CUDA_SPLIT, keys),
                                                      .part = split ? p->parts + i : -1};
        p->few++;
    }
    if (!split) return;
    if (joins) joins[p->joins] = (mull_cuda_join){.seq = s, .part0 = p->parts, .parts = n};
    p->joins++;
    p->parts += n;
}

void mull_cuda_plan_attention(const mull_cuda_seq *seqs, int nseq, int group, bool causal, mull_cuda_plan *plan,
                              mull_cuda_work *work, mull_cuda_join *joins) {
    *plan = (mull_cuda_plan){0};
    for (int s = 0; s < nseq; s++) {
        const mull_cuda_seq *q = &seqs[s];
        int64_t pairs = (int64_t)q->rows * group;
        if (pairs <= MULL_CUDA_TILE_FEW) continue;
        for (int64_t at = 0; at < pairs; at += MULL_CUDA_TILE) {
            int32_t last = (least(at + MULL_CUDA_TILE, pairs) - 1) / group;
            if (work)
                work[plan->wide] = (mull_cuda_work){
                    .seq = s, .pair0 = (int32_t)at, .key1 = causal ? q->pos0 + last + 1 : q->rows, .part = -1};
            plan->wide++;
        }
    }
    for (int s = 0; s < nseq; s++)
        if (seqs[s].rows > 0 && (int64_t)seqs[s].rows * group <= MULL_CUDA_TILE_FEW)
            plan_few(s, &seqs[s], causal, plan, work, joins);
}

void mull_cuda_plan_pad(mull_cuda_plan *plan, mull_cuda_work *work, int32_t few, mull_cuda_join *joins,
                        int32_t njoins) {
    /* A tile behind every pair of its sequence, without keys; a join of nothing. */
    while (plan->few < few) work[plan->wide + plan->few++] = (mull_cuda_work){.pair0 = 1 << 28, .part = -1};
    while (plan->joins < njoins) joins[plan->joins++] = (mull_cuda_join){0};
}

size_t mull_cuda_attention_scratch(int64_t parts, int kv_heads, int hd) {
    return (size_t)parts * (size_t)kv_heads * MULL_CUDA_TILE_FEW * (size_t)(hd + 2) * sizeof(float);
}

int32_t mull_cuda_plan_keys(const mull_cuda_seq *seqs, int nseq, mull_cuda_work *work) {
    int32_t n = 0;
    for (int s = 0; s < nseq; s++)
        for (int32_t k = 0; k < seqs[s].rows; k += MULL_CUDA_TILE, n++)
            if (work)
                work[n] = (mull_cuda_work){
                    .seq = s, .key0 = k, .key1 = least((int64_t)k + MULL_CUDA_TILE, seqs[s].rows), .part = -1};
    return n;
}

/* ---- rows by where they go */
typedef struct target {
    int32_t id, row;
} target;

static int by_target(const void *x, const void *y) {
    const target *a = x, *b = y;
    if (a->id != b->id) return a->id < b->id ? -1 : 1;
    return a->row < b->row ? -1 : a->row > b->row;
}

int mull_cuda_group(const int32_t *ids, int64_t n, mull_cuda_groups *g) {
    target *t = malloc((size_t)n * sizeof *t + 1);
    if (!t) return MULL_ENOMEM;
    int32_t rows = 0;
    for (int64_t i = 0; i < n; i++)
        if (ids[i] >= 0) t[rows++] = (target){ids[i], (int32_t)i};
    qsort(t, (size_t)rows, sizeof *t, by_target);
    g->n = 0;
    for (int32_t i = 0; i < rows; i++) {
        if (i == 0 || t[i].id != t[i - 1].id) {
            g->targets[g->n] = t[i].id;
            g->starts[g->n++] = i;
        }
        g->order[i] = t[i].row;
    }
    g->starts[g->n] = rows;
    free(t);
    return MULL_OK;
}
