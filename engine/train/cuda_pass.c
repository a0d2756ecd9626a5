/* Forward and backward of the net on the device, twin of net_forward.c and net_backward.c. */
#include "engine/train/cuda_net.h"

#include <math.h>

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* A layer's kept activations, or the shared ones where it keeps none. */
static mull_cuda_kept kept(const mull_cuda_net *d, int layer) {
    mull_cuda_kept k = d->layers[layer];
    if (!k.qkv) k.qkv = d->own.qkv, k.att = d->own.att, k.lse = d->own.lse;
    if (!k.x_mid) k.x_mid = d->own.x_mid, k.gu = d->own.gu;
    return k;
}
static bool keeps_mlp(const mull_cuda_net *d, int layer) {
    return d->layers[layer].x_mid != NULL;
}

typedef struct sizes {
    int64_t h, f, q, kv, ld;
} sizes;
static sizes sizes_of(const mull_config *c) {
    int64_t q = (int64_t)c->heads * c->head_dim, kv = (int64_t)c->kv_heads * c->head_dim;
    return (sizes){c->hidden, c->intermediate, q, kv, q + 2 * kv};
}

/* x_mid = x_in + o(attention(qkv(norm x_in))); x_mid false: only what the backward of attention needs. */
static void attention_half(mull_cuda_net *d, const mull__layer *l, const mull_cuda_kept *k, bool x_mid) {
    const mull_config *c = d->n->c;
    sizes z = sizes_of(c);
    mull_cuda_rmsnorm(d->c, k->x_in, NULL, d->rows, z.h, mull__cuda_wide(d, l->input_norm), c->rms_eps, d->norm, d->t);
    mull__cuda_linear_forward(d, &l->qkv, d->norm, d->rows, k->qkv, d->t, z.ld, false);
    mull_cuda_rope(d->c, k->qkv, d->rows, z.ld, c->heads + c->kv_heads, c->head_dim, d->cos, d->sin, d->t);
    mull_cuda_attention a = {.t = d->t,
                             .q = k->qkv,
                             .ldq = z.ld,
                             .k = mull__cuda_at(d, k->qkv, z.q),
                             .v = mull__cuda_at(d, k->qkv, z.q + z.kv),
                             .ldkv = z.ld,
                             .kv_heads = c->kv_heads,
                             .heads = c->heads,
                             .hd = c->head_dim,
                             .causal = true,
                             .scale = 1.0f / sqrtf((float)c->head_dim),
                             .seqs = d->there.seqs,
                             .work = d->there.work,
                             .plan = d->plan,
                             .out = k->att,
                             .ldo = z.q,
                             .lse = k->lse,
                             .lse_rows = d->rows};
    mull_cuda_attend(d->c, &a);
    if (!x_mid) return;
    mull_cuda_move(d->c, k->x_mid, k->x_in, (size_t)(d->rows * z.h) * sizeof(float));
    mull__cuda_linear_forward(d, &l->o, k->att, d->rows, k->x_mid, MULL_F32, z.h, true);
}

/* x = x_mid + down(swiglu(gate_up(norm x_mid))) */
static void mlp_half(mull_cuda_net *d, const mull__layer *l, const mull_cuda_kept *k, bool keep, float *x) {
    sizes z = sizes_of(d->n->c);
    mull_cuda_move(d->c, x, k->x_mid, (size_t)(d->rows * z.h) * sizeof(float));
    mull_cuda_rmsnorm(d->c, k->x_mid, NULL, d->rows, z.h, mull__cuda_wide(d, l->post_norm), d->n->c->rms_eps, d->norm,
                      d->t);
    for (int64_t r = 0; r < d->rows; r += MULL__SLICE) {
        int64_t n = least(MULL__SLICE, d->rows - r);
        void *gu = keep ? mull__cuda_at(d, k->gu, r * 2 * z.f) : k->gu;
        mull__cuda_linear_forward(d, &l->gate_up, mull__cuda_at(d, d->norm, r * z.h), n, gu, d->t, 2 * z.f, false);
        mull_cuda_swiglu(d->c, gu, n, z.f, d->act, d->t);
        mull__cuda_linear_forward(d, &l->down, d->act, n, x + r * z.h, MULL_F32, z.h, true);
    }
}

void mull__cuda_net_forward(void *dev, const mull_net_batch *b) {
    mull_cuda_net *d = dev;
    const mull_net *n = d->n;
    const mull_config *c = n->c;
    if (!mull__cuda_batch_send(d, b)) return;
    mull_cuda_mrope_table(d->c, d->there.pos, b->rows, b->rows, d->inv_freq, d->axis, n->rope.half, d->cos, d->sin);
    mull_cuda_embed(d->c, mull__cuda_data(d, n->embed), d->t, d->there.ids, d->there.features, b->rows, c->hidden,
                    c->layers ? d->layers[0].x_in : d->x);
    for (int i = 0; i < c->layers; i++) {
        mull_cuda_kept k = kept(d, i);
        attention_half(d, &n->layers[i], &k, true);
        mlp_half(d, &n->layers[i], &k, keeps_mlp(d, i), i + 1 < c->layers ? d->layers[i + 1].x_in : d->x);
    }
}

/* ---- backward: dx is the gradient of the residual stream; products read it as T */
static const void *narrow_dx(mull_cuda_net *d) {
    if (d->t == MULL_F32) return d->dx;
    mull_cuda_convert(d->c, d->dx, d->rows * d->n->c->hidden, d->dxt, d->t);
    return d->dxt;
}

/* What came through a norm joins dx. */
static void norm_backward(mull_cuda_net *d, const mull_param *norm, const float *x) {
    mull_cuda_rmsnorm_backward(d->c, x, d->rows, d->n->c->hidden, mull__cuda_wide(d, norm), d->n->c->rms_eps, d->dnorm,
                               d->dx, mull__cuda_grad(d, norm), d->sums);
}

static void mlp_backward(mull_cuda_net *d, const mull__layer *l, const mull_cuda_kept *k, bool keep) {
    sizes z = sizes_of(d->n->c);
    const void *dx = narrow_dx(d);
    mull_cuda_rmsnorm(d->c, k->x_mid, NULL, d->rows, z.h, mull__cuda_wide(d, l->post_norm), d->n->c->rms_eps, d->norm,
                      d->t);
    for (int64_t r = 0; r < d->rows; r += MULL__SLICE) {
        int64_t n = least(MULL__SLICE, d->rows - r);
        void *gu = keep ? mull__cuda_at(d, k->gu, r * 2 * z.f) : k->gu, *norm = mull__cuda_at(d, d->norm, r * z.h);
        if (!keep) mull__cuda_linear_forward(d, &l->gate_up, norm, n, gu, d->t, 2 * z.f, false);
        mull_cuda_swiglu(d->c, gu, n, z.f, d->act, d->t);
        mull__cuda_linear_backward(d, &l->down, d->act, mull__cuda_at(d, dx, r * z.h), z.h, n, d->dact, d->t);
        mull_cuda_swiglu_backward(d->c, gu, n, z.f, d->dact, gu, d->t);
        mull__cuda_linear_backward(d, &l->gate_up, norm, gu, 2 * z.f, n, d->dnorm + r * z.h, MULL_F32);
    }
    norm_backward(d, l->post_norm, k->x_mid);
}

static void attention_backward(mull_cuda_net *d, const mull__layer *l, const mull_cuda_kept *k) {
    const mull_config *c = d->n->c;
    sizes z = sizes_of(c);
    mull__cuda_linear_backward(d, &l->o, k->att, narrow_dx(d), z.h, d->rows, d->datt, d->t);
    mull_cuda_attention_grad g = {.t = d->t,
                                  .q = k->qkv,
                                  .k = mull__cuda_at(d, k->qkv, z.q),
                                  .v = mull__cuda_at(d, k->qkv, z.q + z.kv),
                                  .ld = z.ld,
                                  .out = k->att,
                                  .dout = d->datt,
                                  .ldo = z.q,
                                  .lse = k->lse,
                                  .dq = d->dqkv,
                                  .dk = mull__cuda_at(d, d->dqkv, z.q),
                                  .dv = mull__cuda_at(d, d->dqkv, z.q + z.kv),
                                  .ldd = z.ld,
                                  .heads = c->heads,
                                  .kv_heads = c->kv_heads,
                                  .hd = c->head_dim,
                                  .causal = true,
                                  .scale = 1.0f / sqrtf((float)c->head_dim),
                                  .rows = d->rows,
                                  .seqs = d->there.seqs,
                                  .work = d->there.work,
                                  .nwork = d->plan.wide + d->plan.few,
                                  .key_work = d->there.keys,
                                  .nkey_work = d->nkeys,
                                  .delta = d->delta};
    mull_cuda_attend_backward(d->c, &g);
    mull_cuda_rope_backward(d->c, d->dqkv, d->rows, z.ld, c->heads + c->kv_heads, c->head_dim, d->cos, d->sin, d->t);
    mull_cuda_rmsnorm(d->c, k->x_in, NULL, d->rows, z.h, mull__cuda_wide(d, l->input_norm), c->rms_eps, d->norm, d->t);
    mull__cuda_linear_backward(d, &l->qkv, d->norm, d->dqkv, z.ld, d->rows, d->dnorm, MULL_F32);
    norm_backward(d, l->input_norm, k->x_in);
}

void mull__cuda_net_backward(void *dev, const mull_net_batch *b) {
    mull_cuda_net *d = dev;
    const mull_net *n = d->n;
    int64_t h = n->c->hidden;
    /* hx is not needed after: its gradient takes h's place. */
    mull_cuda_zero(d->c, d->h, (size_t)(d->ngathered * h) * sizeof *d->h);
    mull_cuda_rmsnorm_backward(d->c, d->hx, d->ngathered, h, mull__cuda_wide(d, n->norm), n->c->rms_eps, d->dh, d->h,
                               mull__cuda_grad(d, n->norm), d->sums);
    mull_cuda_zero(d->c, d->dx, (size_t)(d->rows * h) * sizeof *d->dx);
    mull_cuda_scatter_add(d->c, d->h, &d->there.gather, h, d->dx);
    for (int i = n->c->layers - 1; i >= 0 && i >= n->first; i--) {
        const mull__layer *l = &n->layers[i];
        mull_cuda_kept k = kept(d, i);
        bool keep = keeps_mlp(d, i);
        /* What was not kept is made again: attention's parts alone, or the layer's middle too. */
        if (!keep) attention_half(d, l, &k, true);
        mlp_backward(d, l, &k, keep);
        if (keep && !d->layers[i].att) attention_half(d, l, &k, false);
        attention_backward(d, l, &k);
    }
    for (int64_t r = 0, k; b->d_features && r < b->rows; r += k) {
        float *to = b->d_features[r];
        for (k = 1; to && r + k < b->rows && b->d_features[r + k] == to + k * h; k++) {
        }
        if (to) mull_cuda_get(d->c, to, d->dx + r * h, (size_t)(k * h) * sizeof *to, NULL);
    }
    float *g = mull__cuda_grad(d, n->embed);
    if (n->first < 0 && g) mull_cuda_scatter_add(d->c, d->dx, &d->there.embed, h, g);
}
