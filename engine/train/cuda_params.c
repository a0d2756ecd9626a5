/* The trained values on the device: float32 masters with their moments, the rounded copies that products read, and the
 * optimiser step over all of them. They lie at the same indices as in mull_params, whose host memory is what
 * checkpoints are written from and read into. */
#include "engine/train/cuda_net.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int64_t pieces_of(const mull_params *p, mull_cuda_piece *out) {
    int64_t n = 0;
    for (size_t i = 0; i < p->n; i++) {
        const mull_param *q = &p->list[i];
        for (int64_t at = 0; q->at >= 0 && at < q->count; at += MULL_CUDA_PIECE, n++) {
            int64_t left = q->count - at;
            if (out)
                out[n] = (mull_cuda_piece){.w = q->w - p->w + at,
                                           .at = q->at + at,
                                           .count = (int32_t)(left < MULL_CUDA_PIECE ? left : MULL_CUDA_PIECE),
                                           .decay = q->decay};
        }
    }
    return n;
}

static void lay_out(mull_cuda_net *d, mull_cuda_arena *a) {
    const mull_params *p = d->n->params;
    size_t count = (size_t)p->count, trained = (size_t)p->trained, half = (size_t)d->n->rope.half;
    d->w = mull_cuda_part(a, count * sizeof *d->w);
    d->half = d->t == MULL_BF16 ? mull_cuda_part(a, count * sizeof *d->half) : NULL;
    d->g = mull_cuda_part(a, trained * sizeof *d->g);
    d->m = p->m ? mull_cuda_part(a, trained * sizeof *d->m) : NULL;
    d->v = p->m ? mull_cuda_part(a, trained * sizeof *d->v) : NULL;
    d->pieces = mull_cuda_part(a, (size_t)d->npieces * sizeof *d->pieces);
    d->partial = mull_cuda_part(a, (size_t)d->npieces * sizeof *d->partial);
    d->state = mull_cuda_part(a, sizeof *d->state);
    d->inv_freq = mull_cuda_part(a, half * sizeof *d->inv_freq);
    d->axis = mull_cuda_part(a, half);
}

int mull__cuda_params_open(mull_cuda_net *d, mull_error *err) {
    const mull_params *p = d->n->params;
    const mull_mrope *r = &d->n->rope;
    mull_cuda_arena a = {0};
    d->npieces = pieces_of(p, NULL);
    lay_out(d, &a);
    d->value_bytes = a.used;
    int rc = mull_cuda_alloc(d->c, a.used, "the weights with their gradients and moments", &d->values, err);
    if (rc) {
        if (rc == MULL_ENOMEM) snprintf(err->todo, sizeof err->todo, "freeze more, set lora_rank, or use a larger GPU");
        return rc;
    }
    mull_cuda_piece *pieces = malloc((size_t)d->npieces * sizeof *pieces + 1);
    if (!pieces) return mull_fail(err, MULL_ENOMEM, "cannot prepare training", "", NULL, "out of memory");
    pieces_of(p, pieces);
    a = (mull_cuda_arena){.base = d->values};
    lay_out(d, &a);
    mull_cuda_adamw_state zero = {0};
    mull_cuda_put(d->c, d->w, p->w, (size_t)p->count * sizeof *p->w);
    if (d->half) mull_cuda_convert(d->c, d->w, p->count, d->half, MULL_BF16);
    if (p->m) {
        mull_cuda_put(d->c, d->m, p->m, (size_t)p->trained * sizeof *p->m);
        mull_cuda_put(d->c, d->v, p->v, (size_t)p->trained * sizeof *p->v);
    }
    mull_cuda_zero(d->c, d->g, (size_t)p->trained * sizeof *d->g);
    mull_cuda_put(d->c, d->pieces, pieces, (size_t)d->npieces * sizeof *pieces);
    mull_cuda_put(d->c, d->state, &zero, sizeof zero);
    mull_cuda_put(d->c, d->inv_freq, r->inv_freq, (size_t)r->half * sizeof *r->inv_freq);
    mull_cuda_put(d->c, d->axis, r->axis, (size_t)r->half);
    free(pieces);
    return mull_cuda_sync(d->c, err);
}

void mull__cuda_params_zero_grad(void *dev) {
    mull_cuda_net *d = dev;
    mull_cuda_zero(d->c, d->g, (size_t)d->n->params->trained * sizeof *d->g);
}

int mull__cuda_params_update(void *dev, const mull_optim_opts *o, int64_t step, double scale, int64_t *applied,
                             mull_optim_result *out, mull_error *err) {
    mull_cuda_net *d = dev;
    mull_cuda_adamw_state s = {.applied = *applied};
    mull_cuda_adamw how = {.lr = mull_optim_lr(o, step),
                           .beta1 = o->beta1,
                           .beta2 = o->beta2,
                           .eps = o->eps,
                           .weight_decay = o->weight_decay,
                           .max_grad_norm = o->max_grad_norm,
                           .scale = scale};
    if (d->applied != *applied) mull_cuda_put(d->c, d->state, &s, sizeof s); /* the first step of a run that goes on */
    mull_cuda_adamw_step(d->c, d->pieces, d->npieces, &how, d->state, d->w, d->half, d->g, d->m, d->v, d->partial);
    int rc = mull_cuda_get(d->c, &s, d->state, sizeof s, err);
    *out = (mull_optim_result){
        .lr = how.lr, .grad_norm = rc ? NAN : s.norm, .clip = rc ? 1 : s.clip, .skipped = rc || s.skipped};
    if (!rc) *applied = d->applied = s.applied;
    return rc;
}

int mull__cuda_params_pull(void *dev, mull_net_pull what, mull_error *err) {
    mull_cuda_net *d = dev;
    mull_params *p = d->n->params;
    size_t trained = (size_t)p->trained * sizeof(float);
    if (what == MULL_PULL_GRADIENTS) return mull_cuda_get(d->c, p->g, d->g, trained, err);
    int rc = MULL_OK;
    for (size_t i = 0; i < p->n && !rc; i++)
        if (p->list[i].at >= 0)
            rc = mull_cuda_get(d->c, p->list[i].w, mull__cuda_wide(d, &p->list[i]),
                               (size_t)p->list[i].count * sizeof(float), err);
    if (!rc && p->m) rc = mull_cuda_get(d->c, p->m, d->m, trained, err);
    if (!rc && p->m) rc = mull_cuda_get(d->c, p->v, d->v, trained, err);
    if (!rc) mull_params_round(d->n->pool, p);
    return rc;
}
