/* What GRPO asks of the device beside a training step. Rollouts read the very values that are trained: both sides keep
 * matrices row-major with q, k, v and gate, up one below the other, so the inference model is given addresses and a
 * refresh moves no byte (engines that answer elsewhere broadcast the weights each time). Only a matrix with an adapter
 * has a copy, the sum. The reference is a copy in the type that products read, and the net computes with it by other
 * addresses, so that activations exist once. */
#include "engine/model/cuda_model.h"
#include "engine/model/model_internal.h"
#include "engine/train/cuda_net.h"
#include "engine/train/tower_internal.h"

#include <stdio.h>
#include <stdlib.h>

static const char *const WHAT = "cannot train with rollouts on the GPU";

static bool adapted(const mull__linear *l) {
    for (int i = 0; i < l->parts; i++)
        if (l->a[i]) return true;
    return false;
}

/* Values as rollouts read them: of float32, and of T. */
static float *wide(const mull_cuda_net *d, const mull_param *p) {
    return (float *)(uintptr_t)mull__cuda_wide(d, p);
}
static void *narrow(const mull_cuda_net *d, const mull_param *p) {
    return (void *)(uintptr_t)mull__cuda_data(d, p);
}

/* The matrix as rollouts see it; matrices with adapters are parts of a. Counting (a without memory) gives no data. */
static mull_cuda_matrix matrix(mull_cuda_net *d, const mull__linear *l, mull_cuda_arena *a, void *scaled) {
    mull_cuda_matrix w = {.n = l->out, .k = l->in, .type = d->t};
    if (!adapted(l)) {
        w.data = narrow(d, l->w[0]);
        return w;
    }
    w.data = mull_cuda_part(a, (size_t)(l->out * l->in) * mull_dtype_size(d->t));
    if (w.data) mull__cuda_linear_merge(d, l, w.data, scaled);
    return w;
}

static void walk(mull_cuda_net *d, mull_cuda_model *m, mull_cuda_arena *a) {
    const mull_net *n = d->n;
    const mull_config *c = n->c;
    int64_t most = 0;
    for (int i = 0; i < c->layers; i++) {
        const mull__linear *l[] = {&n->layers[i].qkv, &n->layers[i].o, &n->layers[i].gate_up, &n->layers[i].down};
        for (int k = 0; k < 4; k++)
            if (adapted(l[k]) && l[k]->out > most) most = l[k]->out;
    }
    void *scaled = mull_cuda_part(a, (size_t)(most * n->rank) * mull_dtype_size(d->t));
    m->embed = m->head = (mull_cuda_matrix){.n = c->vocab, .k = c->hidden, .type = d->t};
    m->embed.data = narrow(d, n->embed);
    m->head.data = narrow(d, n->head);
    m->norm = wide(d, n->norm);
    for (int i = 0; i < c->layers; i++) {
        const mull__layer *l = &n->layers[i];
        mull_cuda_layer *y = &m->layers[i];
        *y = (mull_cuda_layer){.input_norm = wide(d, l->input_norm), .post_norm = wide(d, l->post_norm)};
        y->qkv = matrix(d, &l->qkv, a, scaled);
        y->qkv_bias = narrow(d, l->qkv.bias[0]);
        y->o = matrix(d, &l->o, a, scaled);
        y->gate_up = matrix(d, &l->gate_up, a, scaled);
        y->down = matrix(d, &l->down, a, scaled);
    }
}

/* A tower that is trained: the same for its values. It has no adapters. */
static void lend_tower(mull_cuda_net *d, mull_cuda_model *m, const mull_tower *t) {
    m->patch_embed = matrix(d, &t->embed, NULL, NULL);
    for (int i = 0; i < t->v->depth; i++) {
        const mull__tower_block *b = &t->blocks[i];
        m->blocks[i] = (mull_cuda_block){.norm1 = wide(d, b->norm1),
                                         .norm2 = wide(d, b->norm2),
                                         .qkv = matrix(d, &b->qkv, NULL, NULL),
                                         .qkv_bias = narrow(d, b->qkv.bias[0]),
                                         .proj = matrix(d, &b->proj, NULL, NULL),
                                         .proj_bias = wide(d, b->proj.bias[0]),
                                         .gate_up = matrix(d, &b->gate_up, NULL, NULL),
                                         .gate_up_bias = narrow(d, b->gate_up.bias[0]),
                                         .down = matrix(d, &b->down, NULL, NULL),
                                         .down_bias = wide(d, b->down.bias[0])};
    }
    m->ln_q = wide(d, t->ln_q);
    m->merge0 = matrix(d, &t->merge0, NULL, NULL);
    m->merge0_bias = narrow(d, t->merge0.bias[0]);
    m->merge2 = matrix(d, &t->merge2, NULL, NULL);
    m->merge2_bias = wide(d, t->merge2.bias[0]);
}

int mull__cuda_lend(void *dev, mull_model *model, const mull_tower *trained, mull_error *err) {
    mull_cuda_net *d = dev;
    mull_cuda_model *m = model->state;
    mull_cuda_arena a = {0};
    if (m->t != d->t)
        return mull_fail(err, MULL_EINTERNAL, WHAT, "weights", "report this", "the model has another type");
    walk(d, m, &a);
    if (d->n->rank && !d->merged) {
        int rc = mull_cuda_alloc(d->c, a.used, "matrices with their adapters", &d->merged, err);
        if (rc) return rc;
        d->rollout_bytes += a.used;
    }
    if (d->n->rank) {
        a = (mull_cuda_arena){.base = d->merged};
        walk(d, m, &a);
    }
    if (trained) lend_tower(d, m, trained);
    m->vision_only = false;
    /* The model's stream is another one: what it reads has to be there. */
    return mull_cuda_sync(d->c, err);
}

/* ---- the reference */
static void lay_out(mull_cuda_net *d, mull_cuda_arena *a, int64_t narrow, int64_t floats) {
    d->ref_half = d->half ? mull_cuda_part(a, (size_t)narrow * sizeof *d->ref_half) : NULL;
    d->ref_w = mull_cuda_part(a, (size_t)floats * sizeof *d->ref_w);
}

int mull__cuda_keep_reference(void *dev, const bool *copied, mull_error *err) {
    mull_cuda_net *d = dev;
    const mull_params *p = d->n->params;
    int64_t narrow = 0, floats = 0;
    if (!d->ref_at) d->ref_at = malloc(2 * p->n * sizeof *d->ref_at + 1);
    if (!d->ref_at) return mull_fail(err, MULL_ENOMEM, WHAT, "reference", "", "out of memory");
    d->ref_wide_at = d->ref_at + p->n;
    for (size_t i = 0; i < p->n; i++) {
        const mull_param *q = &p->list[i];
        bool as_float = copied[i] && (!d->half || q->ndim < 2);
        d->ref_at[i] = copied[i] ? narrow : -1;
        d->ref_wide_at[i] = as_float ? floats : -1;
        narrow += copied[i] ? q->count : 0;
        floats += as_float ? q->count : 0;
    }
    mull_cuda_arena a = {0};
    lay_out(d, &a, narrow, floats);
    int rc = mull_cuda_alloc(d->c, a.used, "a second copy of the trained weights", &d->reference, err);
    if (rc) {
        if (rc == MULL_ENOMEM)
            snprintf(err->todo, sizeof err->todo,
                     "set no_ref_model: True, freeze more, set lora_rank, or use a larger GPU");
        return rc;
    }
    d->rollout_bytes += a.used;
    a = (mull_cuda_arena){.base = d->reference};
    lay_out(d, &a, narrow, floats);
    for (size_t i = 0; i < p->n; i++) {
        const mull_param *q = &p->list[i];
        if (d->half && copied[i])
            mull_cuda_move(d->c, d->ref_half + d->ref_at[i], mull__cuda_data(d, q), (size_t)q->count * sizeof *d->half);
        if (d->ref_wide_at[i] >= 0)
            mull_cuda_move(d->c, d->ref_w + d->ref_wide_at[i], mull__cuda_wide(d, q),
                           (size_t)q->count * sizeof *d->ref_w);
    }
    return mull_cuda_sync(d->c, err);
}

int mull__cuda_set_reference(void *dev, const mull_param *q, const float *values, mull_error *err) {
    mull_cuda_net *d = dev;
    int64_t i = q - d->n->params->list, n = q->count;
    if (d->ref_wide_at[i] >= 0) mull_cuda_put(d->c, d->ref_w + d->ref_wide_at[i], values, (size_t)n * sizeof *values);
    for (int64_t at = 0, k; d->half && d->ref_at[i] >= 0 && at < n; at += k) {
        k = n - at < MULL_CUDA_STAGE / 2 ? n - at : MULL_CUDA_STAGE / 2;
        uint16_t *to = mull_cuda_stage(d->c);
        for (int64_t j = 0; j < k; j++) to[j] = mull_f32_to_bf16(values[at + j]);
        mull_cuda_send(d->c, d->ref_half + d->ref_at[i] + at, (size_t)k * sizeof *to);
    }
    return mull_cuda_sync(d->c, err);
}

void mull__cuda_use_reference(void *dev, bool on) {
    ((mull_cuda_net *)dev)->on_reference = on;
}
