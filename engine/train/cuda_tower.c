/* The vision tower when it is trained, on the device: twin of tower.c, with the types of cuda_net.h. A medium's patches
 * come from the host and its features go back there, as those of a frozen tower do; so do the gradients on their way
 * from the language model. Memory grows to the largest group of grid steps seen and stays. */
#include "engine/model/cuda_model.h"
#include "engine/train/cuda_net.h"
#include "engine/train/tower_internal.h"

#include <math.h>
#include <stdlib.h>

enum { GROUP_ROWS = 8192 };
static const float EPS = 1e-6f; /* the tower's own */
static const char *const WHAT = "cannot train the vision tower on the GPU";

/* One kind of attention: its segments and plans, on the device. */
typedef struct kind {
    mull_cuda_seq *seqs;
    mull_cuda_work *work, *keys;
    mull_cuda_plan plan;
    int32_t n, nkeys;
} kind;

typedef struct group {
    mull_cuda_net *d;
    const mull_tower *t;
    const mull_vision_config *v;
    mull_windows windows;
    int64_t step_rows, steps, n, units; /* rows of a step; of the group */
    bool back;
    float *kept;            /* [depth + 1][n, E] with back, else [n, E]: what each block gets, and the merger */
    float *mid, *raw, *out; /* [n, E]; [n, patch's values] or less; [units, hidden] in window order */
    void *patches, *norm, *qkv, *att, *gu, *act, *h0, *h1;
    float *lse, *cos, *sin;
    int32_t *order;
    kind window, full;
    float *dx, *dnorm, *delta, *sums;
    void *dxt, *dqkv, *datt, *dact, *d0, *dout;
} group;

static size_t most(size_t a, size_t b) {
    return a > b ? a : b;
}

static void lay_out(group *o, mull_cuda_arena *a) {
    const mull_vision_config *v = o->v;
    const mull_tower *t = o->t;
    size_t n = (size_t)o->n, e = (size_t)v->hidden, f = (size_t)v->intermediate, in = (size_t)t->in, f4 = sizeof(float),
           s = mull_dtype_size(o->d->t), half = (size_t)v->head_dim / 2, heads = (size_t)v->heads,
           features = (size_t)(o->units * t->hidden), back = o->back;
    o->kept = mull_cuda_part(a, (back ? (size_t)v->depth + 1 : 1) * n * e * f4);
    o->mid = mull_cuda_part(a, n * e * f4);
    o->raw = mull_cuda_part(a, most(most(n * in, n * e), features) * f4);
    o->out = mull_cuda_part(a, features * f4);
    o->patches = mull_cuda_part(a, n * in * s);
    o->norm = mull_cuda_part(a, n * e * s);
    o->qkv = mull_cuda_part(a, 3 * n * e * s);
    o->att = mull_cuda_part(a, n * e * s);
    o->gu = mull_cuda_part(a, 2 * n * f * s);
    o->act = mull_cuda_part(a, n * f * s);
    o->h0 = mull_cuda_part(a, n * e * s);
    o->h1 = mull_cuda_part(a, n * e * s);
    o->lse = mull_cuda_part(a, n * heads * f4);
    o->cos = mull_cuda_part(a, n * half * f4);
    o->sin = mull_cuda_part(a, n * half * f4);
    o->order = mull_cuda_part(a, (size_t)o->windows.units * sizeof *o->order);
    kind *kinds[] = {&o->window, &o->full};
    for (int k = 0; k < 2; k++) {
        kind *g = kinds[k];
        g->seqs = mull_cuda_part(a, (size_t)g->n * sizeof *g->seqs);
        g->work = mull_cuda_part(a, (size_t)(g->plan.wide + g->plan.few) * sizeof *g->work);
        g->keys = mull_cuda_part(a, (size_t)g->nkeys * sizeof *g->keys);
    }
    o->dx = mull_cuda_part(a, back * n * e * f4);
    o->dxt = o->d->t == MULL_F32 ? (void *)o->dx : mull_cuda_part(a, back * n * e * s);
    o->dnorm = mull_cuda_part(a, back * n * e * f4);
    o->delta = mull_cuda_part(a, back * n * heads * f4);
    o->dqkv = mull_cuda_part(a, back * 3 * n * e * s);
    o->datt = mull_cuda_part(a, back * n * e * s);
    o->dact = mull_cuda_part(a, back * n * f * s);
    o->d0 = mull_cuda_part(a, back * n * e * s);
    o->dout = o->d->t == MULL_F32 ? (void *)o->out : mull_cuda_part(a, back * features * s);
    size_t widest = most(most(3 * e, f), most((size_t)t->wide, (size_t)t->hidden));
    o->sums = mull_cuda_part(a, back * (n + MULL_CUDA_SUM_PARTS * widest) * f4);
}

static int nomem(mull_error *err) {
    return mull_fail(err, MULL_ENOMEM, WHAT, "", NULL, "out of memory");
}

/* Segments of the group and their work: counted, and with send written to the device. */
static int plan_kind(group *o, bool full, bool send, mull_error *err) {
    kind *g = full ? &o->full : &o->window;
    g->n = mull__cuda_vision_segments(&o->windows, o->step_rows, o->steps, full, NULL);
    mull_cuda_seq *seqs = malloc((size_t)g->n * sizeof *seqs + 1);
    if (!seqs) return nomem(err);
    mull__cuda_vision_segments(&o->windows, o->step_rows, o->steps, full, seqs);
    mull_cuda_plan_attention(seqs, g->n, 1, false, &g->plan, NULL, NULL);
    g->nkeys = mull_cuda_plan_keys(seqs, g->n, NULL);
    int32_t count = g->plan.wide + g->plan.few;
    mull_cuda_work *work = send ? malloc((size_t)(count + g->nkeys) * sizeof *work + 1) : NULL;
    if (work) {
        mull_cuda_plan_attention(seqs, g->n, 1, false, &g->plan, work, NULL); /* so few rows have few keys: no joins */
        mull_cuda_plan_keys(seqs, g->n, work + count);
        mull_cuda_put(o->d->c, g->seqs, seqs, (size_t)g->n * sizeof *seqs);
        mull_cuda_put(o->d->c, g->work, work, (size_t)count * sizeof *work);
        mull_cuda_put(o->d->c, g->keys, work + count, (size_t)g->nkeys * sizeof *work);
    }
    int rc = send && !work ? nomem(err) : MULL_OK;
    free(seqs);
    free(work);
    return rc;
}

/* Everything that a group of o->steps needs besides its patches. */
static int prepare(group *o, const mull_grid *g, mull_error *err) {
    mull_cuda_net *d = o->d;
    int rc = plan_kind(o, false, false, err);
    if (!rc) rc = plan_kind(o, true, false, err);
    if (rc) return rc;
    mull_cuda_arena a = {0};
    lay_out(o, &a);
    if (a.used > d->tower_bytes) {
        mull_cuda_release(d->c, d->tower);
        d->tower = NULL;
        d->tower_bytes = 0;
        rc = mull_cuda_alloc(d->c, a.used, "the vision tower's activations", &d->tower, err);
        if (rc == MULL_ENOMEM) snprintf(err->todo, sizeof err->todo, "lower image_max_pixels, or freeze_vision");
        if (rc) return rc;
        d->tower_bytes = a.used;
    }
    a = (mull_cuda_arena){.base = d->tower};
    lay_out(o, &a);
    rc = plan_kind(o, false, true, err);
    if (!rc) rc = plan_kind(o, true, true, err);
    if (!rc && !mull__cuda_vision_tables(d->c, o->v, &o->windows, g->h, g->w, o->steps, o->cos, o->sin, o->order))
        rc = nomem(err);
    return rc;
}

static void normed(group *o, const float *x, const mull_param *w) {
    mull_cuda_rmsnorm(o->d->c, x, NULL, o->n, o->v->hidden, mull__cuda_wide(o->d, w), EPS, o->norm, o->d->t);
}

/* ---- forward */
static void attention_half(group *o, int index, const float *x) {
    mull_cuda_net *d = o->d;
    const mull__tower_block *b = &o->t->blocks[index];
    const kind *g = o->v->full_attention[index] ? &o->full : &o->window;
    int64_t e = o->v->hidden;
    normed(o, x, b->norm1);
    mull__cuda_linear_forward(d, &b->qkv, o->norm, o->n, o->qkv, d->t, 3 * e, false);
    mull_cuda_rope(d->c, o->qkv, o->n, 3 * e, 2 * o->v->heads, o->v->head_dim, o->cos, o->sin, d->t);
    mull_cuda_attention a = {.t = d->t,
                             .q = o->qkv,
                             .ldq = 3 * e,
                             .k = mull__cuda_at(d, o->qkv, e),
                             .v = mull__cuda_at(d, o->qkv, 2 * e),
                             .ldkv = 3 * e,
                             .heads = o->v->heads,
                             .hd = o->v->head_dim,
                             .scale = 1.0f / sqrtf((float)o->v->head_dim),
                             .seqs = g->seqs,
                             .work = g->work,
                             .plan = g->plan,
                             .out = o->att,
                             .ldo = e,
                             .lse = o->lse,
                             .lse_rows = o->n};
    mull_cuda_attend(d->c, &a);
    mull_cuda_move(d->c, o->mid, x, (size_t)(o->n * e) * sizeof *x);
    mull__cuda_linear_forward(d, &b->proj, o->att, o->n, o->mid, MULL_F32, e, true);
}

static void mlp_inside(group *o, int index) {
    const mull__tower_block *b = &o->t->blocks[index];
    int64_t f = o->v->intermediate;
    normed(o, o->mid, b->norm2);
    mull__cuda_linear_forward(o->d, &b->gate_up, o->norm, o->n, o->gu, o->d->t, 2 * f, false);
    mull_cuda_swiglu(o->d->c, o->gu, o->n, f, o->act, o->d->t);
}

static void forward(group *o, const float *patches) {
    mull_cuda_net *d = o->d;
    const mull_tower *t = o->t;
    int64_t e = o->v->hidden, n = o->n;
    mull_cuda_put(d->c, o->raw, patches, (size_t)(n * t->in) * sizeof *patches);
    mull_cuda_convert(d->c, o->raw, n * t->in, o->patches, d->t);
    mull__cuda_linear_forward(d, &t->embed, o->patches, n, o->raw, MULL_F32, e, false);
    mull_cuda_permute(d->c, o->raw, o->order, o->windows.units, o->steps, t->unit * e, false, o->kept);
    float *x = o->kept;
    for (int i = 0; i < o->v->depth; i++) {
        float *next = o->back ? x + n * e : x;
        attention_half(o, i, x);
        mlp_inside(o, i);
        mull_cuda_move(d->c, next, o->mid, (size_t)(n * e) * sizeof *x);
        mull__cuda_linear_forward(d, &t->blocks[i].down, o->act, n, next, MULL_F32, e, true);
        x = next;
    }
    normed(o, x, t->ln_q);
    mull__cuda_linear_forward(d, &t->merge0, o->norm, o->units, o->h0, d->t, t->wide, false);
    mull_cuda_move(d->c, o->h1, o->h0, (size_t)(n * e) * mull_dtype_size(d->t));
    mull_cuda_gelu(d->c, o->h1, n * e, d->t);
    if (o->back) return; /* the features themselves are known */
    mull__cuda_linear_forward(d, &t->merge2, o->h1, o->units, o->out, MULL_F32, t->hidden, false);
}

/* ---- backward: dx is the gradient of the residual stream; products read it as T */
static const void *narrow(group *o, const float *x) {
    if (o->d->t == MULL_F32) return x;
    mull_cuda_convert(o->d->c, x, o->n * o->v->hidden, o->dxt, o->d->t);
    return o->dxt;
}

static void norm_backward(group *o, const mull_param *w, const float *x) {
    mull_cuda_rmsnorm_backward(o->d->c, x, o->n, o->v->hidden, mull__cuda_wide(o->d, w), EPS, o->dnorm, o->dx,
                               mull__cuda_grad(o->d, w), o->sums);
}

static void merge_backward(group *o, const float *dout) {
    mull_cuda_net *d = o->d;
    const mull_tower *t = o->t;
    int64_t e = o->v->hidden, n = o->n, features = o->units * t->hidden;
    mull_cuda_put(d->c, o->raw, dout, (size_t)features * sizeof *dout);
    mull_cuda_permute(d->c, o->raw, o->order, o->windows.units, o->steps, t->hidden, false, o->out);
    if (d->t != MULL_F32) mull_cuda_convert(d->c, o->out, features, o->dout, d->t);
    mull__cuda_linear_backward(d, &t->merge2, o->h1, o->dout, t->hidden, o->units, o->d0, d->t);
    mull_cuda_gelu_backward(d->c, o->h0, n * e, o->d0, o->d0, d->t);
    mull__cuda_linear_backward(d, &t->merge0, o->norm, o->d0, t->wide, o->units, o->dnorm, MULL_F32);
    mull_cuda_zero(d->c, o->dx, (size_t)(n * e) * sizeof *o->dx);
    norm_backward(o, t->ln_q, o->kept + o->v->depth * n * e);
}

static void block_backward(group *o, int index, const float *x) {
    mull_cuda_net *d = o->d;
    const mull__tower_block *b = &o->t->blocks[index];
    const kind *g = o->v->full_attention[index] ? &o->full : &o->window;
    int64_t e = o->v->hidden, f = o->v->intermediate, n = o->n;
    attention_half(o, index, x);
    mlp_inside(o, index);
    mull__cuda_linear_backward(d, &b->down, o->act, narrow(o, o->dx), e, n, o->dact, d->t);
    mull_cuda_swiglu_backward(d->c, o->gu, n, f, o->dact, o->gu, d->t);
    mull__cuda_linear_backward(d, &b->gate_up, o->norm, o->gu, 2 * f, n, o->dnorm, MULL_F32);
    norm_backward(o, b->norm2, o->mid);

    mull__cuda_linear_backward(d, &b->proj, o->att, narrow(o, o->dx), e, n, o->datt, d->t);
    mull_cuda_attention_grad a = {.t = d->t,
                                  .q = o->qkv,
                                  .k = mull__cuda_at(d, o->qkv, e),
                                  .v = mull__cuda_at(d, o->qkv, 2 * e),
                                  .ld = 3 * e,
                                  .out = o->att,
                                  .dout = o->datt,
                                  .ldo = e,
                                  .lse = o->lse,
                                  .dq = o->dqkv,
                                  .dk = mull__cuda_at(d, o->dqkv, e),
                                  .dv = mull__cuda_at(d, o->dqkv, 2 * e),
                                  .ldd = 3 * e,
                                  .heads = o->v->heads,
                                  .kv_heads = o->v->heads,
                                  .hd = o->v->head_dim,
                                  .scale = 1.0f / sqrtf((float)o->v->head_dim),
                                  .rows = n,
                                  .seqs = g->seqs,
                                  .work = g->work,
                                  .nwork = g->plan.wide + g->plan.few,
                                  .key_work = g->keys,
                                  .nkey_work = g->nkeys,
                                  .delta = o->delta};
    mull_cuda_attend_backward(d->c, &a);
    mull_cuda_rope_backward(d->c, o->dqkv, n, 3 * e, 2 * o->v->heads, o->v->head_dim, o->cos, o->sin, d->t);
    normed(o, x, b->norm1);
    mull__cuda_linear_backward(d, &b->qkv, o->norm, o->dqkv, 3 * e, n, o->dnorm, MULL_F32);
    norm_backward(o, b->norm1, x);
}

static void backward(group *o, const float *dout) {
    mull_cuda_net *d = o->d;
    int64_t e = o->v->hidden;
    float *sums = d->sums; /* the language model's are as wide as its own products */
    d->sums = o->sums;
    merge_backward(o, dout);
    for (int i = o->v->depth - 1; i >= 0; i--) block_backward(o, i, o->kept + i * o->n * e);
    mull_cuda_permute(d->c, o->dx, o->order, o->windows.units, o->steps, o->t->unit * e, true, o->raw);
    mull__cuda_linear_backward(d, &o->t->embed, o->patches, narrow(o, o->raw), e, o->n, NULL, MULL_F32);
    d->sums = sums;
}

int mull__cuda_tower(void *dev, const mull_tower *t, const mull_grid *g, const float *patches, float *out,
                     const float *dout, mull_error *err) {
    mull_cuda_net *d = dev;
    group o = {.d = d, .t = t, .v = t->v, .step_rows = g->h * g->w, .back = dout != NULL};
    int64_t each = GROUP_ROWS / o.step_rows;
    each = each < 1 ? 1 : each > g->t ? g->t : each;
    int rc = mull_windows_init(&o.windows, t->v, g->h, g->w, err);
    for (int64_t s = 0; !rc && s < g->t; s += each) {
        int64_t steps = g->t - s < each ? g->t - s : each;
        bool other = steps != o.steps; /* what a group needs is that of the one before it, of as many steps */
        o.steps = steps;
        o.n = o.steps * o.step_rows;
        o.units = o.steps * o.windows.units;
        int64_t first = s * o.windows.units * t->hidden;
        if (other && (rc = prepare(&o, g, err))) break;
        forward(&o, patches + s * o.step_rows * t->in);
        if (dout) {
            backward(&o, dout + first);
            if (mull_cuda_failed(d->c)) rc = mull_cuda_sync(d->c, err);
        } else {
            mull_cuda_permute(d->c, o.out, o.order, o.windows.units, o.steps, t->hidden, true, o.raw);
            rc = mull_cuda_get(d->c, out + first, o.raw, (size_t)(o.units * t->hidden) * sizeof *out, err);
        }
    }
    mull_windows_fini(&o.windows);
    return rc;
}
