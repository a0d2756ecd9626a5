/* Forward of the net. Same operations as model/lm.c, over plain weights, keeping what the backward needs. */
#include "engine/ops/backward.h"
#include "engine/ops/ops.h"
#include "engine/train/net_internal.h"

#include <assert.h>
#include <math.h>
#include <string.h>

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static void embed(const mull_net *n, const mull_net_batch *b, float *x) {
    int64_t h = n->c->hidden;
    for (int64_t r = 0; r < b->rows; r++) {
        const float *f = b->features ? b->features[r] : NULL;
        if (f)
            memcpy(x + r * h, f, (size_t)h * sizeof *x);
        else if (n->embed->half)
            mull_to_f32(n->embed->half + b->ids[r] * h, MULL_BF16, (size_t)h, x + r * h);
        else
            memcpy(x + r * h, n->embed->w + b->ids[r] * h, (size_t)h * sizeof *x);
    }
}

/* x_mid = x_in + o(attention(qkv(norm x_in))) */
void mull__attention_half(mull_net *n, const mull_net_batch *b, const mull__layer *l, const float *x_in, float *x_mid) {
    const mull_config *c = n->c;
    int64_t h = c->hidden, hd = c->head_dim, q = c->heads * hd, kv = c->kv_heads * hd, ld = q + 2 * kv;
    float *qkv = l->qkv_out ? l->qkv_out : n->qkv_out, *att = l->att ? l->att : n->att, *lse = l->lse ? l->lse : n->lse;
    mull_attn_shape shape = {.cu = b->cu,
                             .nseq = b->nseq,
                             .heads = c->heads,
                             .kv_heads = c->kv_heads,
                             .hd = c->head_dim,
                             .causal = true,
                             .scale = 1.0f / sqrtf((float)hd),
                             .trunk = b->trunk,
                             .branch = b->branch};
    mull_rmsnorm(n->pool, x_in, b->rows, h, l->input_norm->w, c->rms_eps, n->norm_out);
    mull__linear_forward(n, &l->qkv, n->norm_out, b->rows, qkv, ld, false);
    mull_rope(n->pool, qkv, b->rows, ld, c->heads + c->kv_heads, c->head_dim, n->cos, n->sin);
    mull_attention_train(n->pool, &shape, qkv, qkv + q, qkv + q + kv, ld, att, q, lse);
    if (!x_mid) return;
    memcpy(x_mid, x_in, (size_t)(b->rows * h) * sizeof *x_mid);
    mull__linear_forward(n, &l->o, att, b->rows, x_mid, h, true);
}

/* x = x_mid + down(swiglu(gate_up(norm x_mid))) */
static void mlp_half(mull_net *n, int64_t rows, const mull__layer *l, const float *x_mid, float *x) {
    int64_t h = n->c->hidden, f = n->c->intermediate;
    memcpy(x, x_mid, (size_t)(rows * h) * sizeof *x);
    mull_rmsnorm(n->pool, x_mid, rows, h, l->post_norm->w, n->c->rms_eps, n->norm_out);
    for (int64_t r = 0; r < rows; r += MULL__SLICE) {
        int64_t k = least(MULL__SLICE, rows - r);
        float *gu = l->gu ? l->gu + r * 2 * f : n->gu;
        mull__linear_forward(n, &l->gate_up, n->norm_out + r * h, k, gu, 2 * f, false);
        mull_swiglu(n->pool, gu, k, f, n->act);
        mull__linear_forward(n, &l->down, n->act, k, x + r * h, h, true);
    }
}

void mull_net_forward(mull_net *n, const mull_net_batch *b) {
    if (n->backend) {
        n->backend->forward(n->dev, b);
        return;
    }
    assert(b->rows <= n->cap);
    const mull_config *c = n->c;
    mull__net_enter(n, MULL_PART_OUTER(c));
    mull_mrope_table(&n->rope, b->pos, b->rows, b->rows, n->cos, n->sin);
    for (int64_t i = 0; i < b->rows * c->head_dim / 2; i++) n->nsin[i] = -n->sin[i];
    embed(n, b, c->layers ? n->layers[0].x_in : n->x);
    for (int i = 0; i < c->layers; i++) {
        mull__layer *l = &n->layers[i];
        float *x_mid = l->x_mid ? l->x_mid : n->x_mid;
        mull__net_enter(n, i);
        mull__attention_half(n, b, l, l->x_in, x_mid);
        mlp_half(n, b->rows, l, x_mid, i + 1 < c->layers ? n->layers[i + 1].x_in : n->x);
        mull__net_leave(n, i, false);
    }
}

void mull_net_gather(mull_net *n, const int32_t *rows, int64_t count) {
    if (n->backend) {
        n->backend->gather(n->dev, rows, count);
        return;
    }
    assert(count <= n->loss_cap);
    int64_t h = n->c->hidden;
    for (int64_t i = 0; i < count; i++) memcpy(n->hx + i * h, n->x + rows[i] * h, (size_t)h * sizeof(float));
    if (count) memcpy(n->gathered, rows, (size_t)count * sizeof *rows);
    n->ngathered = count;
    mull_rmsnorm(n->pool, n->hx, count, h, n->norm->w, n->c->rms_eps, n->h);
    memset(n->dh, 0, (size_t)(count * h) * sizeof(float));
}
