/* Backward of the net; see net.h. dx is the gradient of the residual stream and is carried down through the layers:
 * each half layer adds to it what comes through its norm. */
#include "engine/ops/backward.h"
#include "engine/ops/kernels.h"
#include "engine/ops/ops.h"
#include "engine/train/net_internal.h"

#include <math.h>
#include <string.h>

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static void mlp_backward(mull_net *n, int64_t rows, const mull__layer *l, const float *x_mid) {
    int64_t h = n->c->hidden, f = n->c->intermediate;
    mull_rmsnorm(n->pool, x_mid, rows, h, l->post_norm->w, n->c->rms_eps, n->norm_out);
    for (int64_t r = 0; r < rows; r += MULL__SLICE) {
        int64_t k = least(MULL__SLICE, rows - r);
        float *gu = l->gu ? l->gu + r * 2 * f : n->gu;
        if (!l->gu) mull__linear_forward(n, &l->gate_up, n->norm_out + r * h, k, gu, 2 * f, false);
        mull_swiglu(n->pool, gu, k, f, n->act);
        mull__linear_backward(n, &l->down, n->act, n->dx + r * h, h, k, n->dact);
        mull_swiglu_backward(n->pool, gu, k, f, n->dact, gu);
        mull__linear_backward(n, &l->gate_up, n->norm_out + r * h, gu, 2 * f, k, n->dnorm + r * h);
    }
    mull_rmsnorm_backward(n->pool, x_mid, rows, h, l->post_norm->w, n->c->rms_eps, n->dnorm, n->dx, l->post_norm->g,
                          n->partial);
}

static void attention_backward(mull_net *n, const mull_net_batch *b, const mull__layer *l) {
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
    mull__linear_backward(n, &l->o, att, n->dx, h, b->rows, n->datt);
    mull_attention_backward(n->pool, &shape, qkv, qkv + q, qkv + q + kv, ld, att, n->datt, q, lse, n->dqkv, n->dqkv + q,
                            n->dqkv + q + kv, ld, n->kv);
    mull_rope(n->pool, n->dqkv, b->rows, ld, c->heads + c->kv_heads, c->head_dim, n->cos, n->nsin);
    mull_rmsnorm(n->pool, l->x_in, b->rows, h, l->input_norm->w, c->rms_eps, n->norm_out);
    mull__linear_backward(n, &l->qkv, n->norm_out, n->dqkv, ld, b->rows, n->dnorm);
    mull_rmsnorm_backward(n->pool, l->x_in, b->rows, h, l->input_norm->w, c->rms_eps, n->dnorm, n->dx, l->input_norm->g,
                          n->partial);
}

/* In the order of the rows: an id that occurs twice gets the same sum every time. */
static void embed_backward(mull_net *n, const mull_net_batch *b) {
    int64_t h = n->c->hidden;
    const mull_kernels *kn = mull_kernels_get();
    for (int64_t r = 0; r < b->rows; r++) {
        if (b->features && b->features[r]) {
            if (b->d_features && b->d_features[r]) memcpy(b->d_features[r], n->dx + r * h, (size_t)h * sizeof(float));
        } else if (n->embed->g) {
            kn->axpy(n->embed->g + b->ids[r] * h, n->dx + r * h, 1, h);
        }
    }
}

void mull_net_backward(mull_net *n, const mull_net_batch *b) {
    if (n->backend) {
        n->backend->backward(n->dev, b);
        return;
    }
    int64_t h = n->c->hidden;
    const mull_kernels *kn = mull_kernels_get();
    /* hx is not needed after: its gradient takes h's place. */
    memset(n->h, 0, (size_t)(n->ngathered * h) * sizeof(float));
    mull_rmsnorm_backward(n->pool, n->hx, n->ngathered, h, n->norm->w, n->c->rms_eps, n->dh, n->h, n->norm->g,
                          n->partial);
    memset(n->dx, 0, (size_t)(b->rows * h) * sizeof(float));
    for (int64_t i = 0; i < n->ngathered; i++) kn->axpy(n->dx + n->gathered[i] * h, n->h + i * h, 1, h);
    for (int i = n->c->layers - 1; i >= 0 && i >= n->first; i--) {
        mull__layer *l = &n->layers[i];
        float *x_mid = l->x_mid ? l->x_mid : n->x_mid;
        mull__net_enter(n, i);
        /* What was not kept is made again: attention's parts alone, or the layer's middle too. */
        if (!l->x_mid) mull__attention_half(n, b, l, l->x_in, x_mid);
        mlp_backward(n, b->rows, l, x_mid);
        if (l->x_mid && !l->att) mull__attention_half(n, b, l, l->x_in, NULL);
        attention_backward(n, b, l);
        mull__net_leave(n, i, true);
    }
    if (n->first < 0) embed_backward(n, b);
    mull__net_leave(n, MULL_PART_OUTER(n->c), true);
}

void mull__net_enter(const mull_net *n, int part) {
    if (n->opts.parts.enter) n->opts.parts.enter(n->opts.parts.ctx, part);
}

void mull__net_leave(const mull_net *n, int part, bool backward) {
    if (n->opts.parts.leave) n->opts.parts.leave(n->opts.parts.ctx, part, backward);
}

void mull_net_end(mull_net *n) {
    mull__net_leave(n, MULL_PART_OUTER(n->c), false);
}

void mull_net_idle(mull_net *n, bool backward) {
    mull__net_enter(n, MULL_PART_OUTER(n->c));
    for (int i = 0; i < n->c->layers; i++) {
        mull__net_enter(n, i);
        mull__net_leave(n, i, false);
    }
    for (int i = n->c->layers - 1; backward && i >= 0 && i >= n->first; i--) {
        mull__net_enter(n, i);
        mull__net_leave(n, i, true);
    }
    mull__net_leave(n, MULL_PART_OUTER(n->c), backward);
}
