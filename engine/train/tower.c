/* Training the vision tower; see tower.h and MODEL.md, "Vision tower". */
#include "engine/train/tower_internal.h"

#include "engine/model/vision.h"
#include "engine/ops/backward.h"
#include "engine/ops/gemm.h"
#include "engine/ops/kernels.h"
#include "engine/ops/ops.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GROUP_ROWS = 2048 };
static const float EPS = 1e-6f; /* the tower's own */
static const char *const WHAT = "cannot train the vision tower";

/* ---- parts */
static mull_param *find(const mull_net *n, const char *prefix, const char *name) {
    char full[128];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    return mull_params_find(n->params, full);
}

static bool linear(const mull_net *n, mull__linear *l, const char *prefix, const char *const *names, int parts,
                   int64_t in) {
    char name[64];
    *l = (mull__linear){.in = in, .parts = parts};
    for (int i = 0; i < parts; i++) {
        snprintf(name, sizeof name, "%s.weight", names[i]);
        if (!(l->w[i] = find(n, prefix, name))) return false;
        l->out += l->w[i]->shape[0];
        snprintf(name, sizeof name, "%s.bias", names[i]);
        l->bias[i] = find(n, prefix, name);
    }
    return true;
}

static bool find_parts(mull_tower *t) {
    const mull_net *n = t->n;
    int64_t e = t->v->hidden, f = t->v->intermediate;
    bool ok = linear(n, &t->embed, "visual.", (const char *[]){"patch_embed.proj"}, 1, t->in) &&
              (t->ln_q = find(n, "visual.merger.", "ln_q.weight")) &&
              linear(n, &t->merge0, "visual.merger.", (const char *[]){"mlp.0"}, 1, t->wide) &&
              linear(n, &t->merge2, "visual.merger.", (const char *[]){"mlp.2"}, 1, t->wide);
    for (int i = 0; ok && i < t->v->depth; i++) {
        char prefix[48];
        mull__tower_block *b = &t->blocks[i];
        snprintf(prefix, sizeof prefix, "visual.blocks.%d.", i);
        ok = (b->norm1 = find(n, prefix, "norm1.weight")) && (b->norm2 = find(n, prefix, "norm2.weight")) &&
             linear(n, &b->qkv, prefix, (const char *[]){"attn.qkv"}, 1, e) &&
             linear(n, &b->proj, prefix, (const char *[]){"attn.proj"}, 1, e) &&
             linear(n, &b->gate_up, prefix, (const char *[]){"mlp.gate_proj", "mlp.up_proj"}, 2, e) &&
             linear(n, &b->down, prefix, (const char *[]){"mlp.down_proj"}, 1, f);
    }
    return ok;
}

int mull_tower_create(mull_net *n, mull_tower **out, mull_error *err) {
    const mull_vision_config *v = &n->c->vision;
    *out = NULL;
    mull_tower *t = calloc(1, sizeof *t);
    if (t) {
        t->n = n;
        t->v = v;
        t->in = mull_vision_patch_floats(v);
        t->unit = (int64_t)v->merge * v->merge;
        t->wide = t->unit * v->hidden;
        t->hidden = v->out_hidden;
        t->blocks = calloc((size_t)v->depth + 1, sizeof *t->blocks);
    }
    if (!t || !t->blocks) {
        mull_tower_destroy(t);
        return mull_fail(err, MULL_ENOMEM, WHAT, "", NULL, "out of memory");
    }
    if (!find_parts(t)) {
        mull_tower_destroy(t);
        return mull_fail(err, MULL_EINTERNAL, WHAT, "visual", NULL, "its tensors are not among the parameters");
    }
    *out = t;
    return MULL_OK;
}

void mull_tower_destroy(mull_tower *t) {
    if (!t) return;
    free(t->arena);
    free(t->blocks);
    free(t);
}

/* ---- memory: one list of sizes, walked to add up and to hand out */
static size_t walk(mull_tower *t, int64_t n, int64_t steps, bool back, float *base) {
    const mull_vision_config *v = t->v;
    int64_t e = v->hidden, f = v->intermediate, units = n / t->unit, half = v->head_dim / 2,
            raw = t->step_rows * v->head_dim;
    struct {
        void *at;
        int64_t floats;
    } list[] = {{&t->kept, (back ? v->depth + 1 : 1) * n * e},
                {&t->norm, n * e},
                {&t->mid, n * e},
                {&t->qkv, 3 * n * e},
                {&t->att, n * e},
                {&t->lse, n * v->heads},
                {&t->gu, 2 * n * f},
                {&t->act, n * f},
                {&t->h0, n * e},
                {&t->h1, n * e},
                {&t->out, units * t->hidden},
                {&t->cos, n * half},
                {&t->sin, n * half},
                {&t->nsin, n * half},
                {&t->raw, raw > n * e ? raw : n * e},
                {&t->window_cu, steps * t->windows.n + 1},
                {&t->full_cu, steps + 1},
                {&t->dx, back ? n * e : 0},
                {&t->dnorm, back ? n * e : 0},
                {&t->dqkv, back ? 3 * n * e : 0},
                {&t->datt, back ? n * e : 0},
                {&t->dact, back ? n * f : 0},
                {&t->d0, back ? n * e : 0},
                {&t->partial, back ? MULL_DW_PARTS * (int64_t)e : 0}};
    size_t used = 0;
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        float *here = base ? base + used : NULL;
        memcpy(list[i].at, &here, sizeof here); /* float and int32_t pointers alike */
        used += ((size_t)list[i].floats + 15) & ~(size_t)15;
    }
    return used;
}

static int reserve(mull_tower *t, int64_t n, int64_t steps, bool back, mull_error *err) {
    size_t need = walk(t, n, steps, back, NULL);
    if (need > t->cap) {
        free(t->arena);
        t->cap = 0;
        t->arena = aligned_alloc(64, need * sizeof *t->arena);
        if (!t->arena || n > INT32_MAX)
            return mull_fail(err, MULL_ENOMEM, WHAT, "", "lower image_max_pixels, or freeze_vision",
                             "no memory for %zu bytes of activations", need * sizeof *t->arena);
        t->cap = need;
    }
    walk(t, n, steps, back, t->arena);
    return MULL_OK;
}

/* dst = src by unit, floats a unit: into window order, or out of it. */
static void permute(const mull_tower *t, int64_t steps, float *dst, const float *src, size_t floats, bool back) {
    for (int64_t s = 0; s < steps; s++)
        for (int64_t i = 0; i < t->windows.units; i++) {
            size_t here = (size_t)(s * t->windows.units + i);
            size_t there = (size_t)(s * t->windows.units + t->windows.order[i]);
            memcpy(dst + (back ? there : here) * floats, src + (back ? here : there) * floats, floats * sizeof(float));
        }
}

/* Segment borders and rotary tables of a group. */
static void prepare(mull_tower *t, int64_t h, int64_t w, int64_t steps) {
    int64_t half = t->v->head_dim / 2, table = t->step_rows * half;
    t->nwindows = 0;
    t->window_cu[0] = t->full_cu[0] = 0;
    for (int64_t s = 0; s < steps; s++) {
        for (int i = 1; i <= t->windows.n; i++)
            t->window_cu[++t->nwindows] = (int32_t)(s * t->step_rows) + t->windows.cu[i];
        t->full_cu[s + 1] = (int32_t)((s + 1) * t->step_rows);
    }
    t->nfull = (int)steps;
    mull_vision_rope(t->v, h, w, t->raw, t->raw + table);
    for (int64_t s = 0; s < steps; s++) {
        permute(t, 1, t->cos + s * table, t->raw, (size_t)(t->unit * half), false);
        permute(t, 1, t->sin + s * table, t->raw + table, (size_t)(t->unit * half), false);
    }
    for (int64_t i = 0; i < steps * table; i++) t->nsin[i] = -t->sin[i];
}

static mull_attn_shape shape_of(const mull_tower *t, int index) {
    bool full = t->v->full_attention[index];
    return (mull_attn_shape){full ? t->full_cu : t->window_cu,
                             full ? t->nfull : t->nwindows,
                             t->v->heads,
                             t->v->heads,
                             t->v->head_dim,
                             false,
                             1.0f / sqrtf((float)t->v->head_dim)};
}

/* ---- forward */
/* mid = x + proj(attention(qkv(norm1 x))); qkv, att and lse stay for the backward. */
static void attention_half(mull_tower *t, int index, int64_t n, const float *x) {
    mull_net *net = t->n;
    const mull__tower_block *b = &t->blocks[index];
    int64_t e = t->v->hidden;
    mull_attn_shape shape = shape_of(t, index);
    mull_rmsnorm(net->pool, x, n, e, b->norm1->w, EPS, t->norm);
    mull__linear_forward(net, &b->qkv, t->norm, n, t->qkv, 3 * e, false);
    mull_rope(net->pool, t->qkv, n, 3 * e, 2 * t->v->heads, t->v->head_dim, t->cos, t->sin);
    mull_attention_train(net->pool, &shape, t->qkv, t->qkv + e, t->qkv + 2 * e, 3 * e, t->att, e, t->lse);
    memcpy(t->mid, x, (size_t)(n * e) * sizeof *x);
    mull__linear_forward(net, &b->proj, t->att, n, t->mid, e, true);
}

/* norm, gu and act of the second half stay for the backward. */
static void mlp_inside(mull_tower *t, int index, int64_t n) {
    mull_net *net = t->n;
    const mull__tower_block *b = &t->blocks[index];
    int64_t e = t->v->hidden, f = t->v->intermediate;
    mull_rmsnorm(net->pool, t->mid, n, e, b->norm2->w, EPS, t->norm);
    mull__linear_forward(net, &b->gate_up, t->norm, n, t->gu, 2 * f, false);
    mull_swiglu(net->pool, t->gu, n, f, t->act);
}

/* One group: features in window order to t->out; with back each block's input stays in t->kept. */
static void forward(mull_tower *t, const float *patches, int64_t n, int64_t steps, bool back) {
    mull_net *net = t->n;
    int64_t e = t->v->hidden, units = n / t->unit;
    mull__linear_forward(net, &t->embed, patches, n, t->raw, e, false);
    permute(t, steps, t->kept, t->raw, (size_t)(t->unit * e), false);
    float *x = t->kept;
    for (int i = 0; i < t->v->depth; i++) {
        float *next = back ? x + n * e : x;
        attention_half(t, i, n, x);
        mlp_inside(t, i, n);
        memcpy(next, t->mid, (size_t)(n * e) * sizeof *x);
        mull__linear_forward(net, &t->blocks[i].down, t->act, n, next, e, true);
        x = next;
    }
    mull_rmsnorm(net->pool, x, n, e, t->ln_q->w, EPS, t->norm);
    mull__linear_forward(net, &t->merge0, t->norm, units, t->h0, t->wide, false);
    memcpy(t->h1, t->h0, (size_t)(units * t->wide) * sizeof *x);
    mull_gelu(net->pool, t->h1, units * t->wide);
    mull__linear_forward(net, &t->merge2, t->h1, units, t->out, t->hidden, false);
}

/* ---- backward */
static void merge_backward(mull_tower *t, int64_t n, const float *x) {
    mull_net *net = t->n;
    int64_t e = t->v->hidden, units = n / t->unit;
    mull__linear_backward(net, &t->merge2, t->h1, t->out, t->hidden, units, t->d0);
    mull_gelu_backward(net->pool, t->h0, units * t->wide, t->d0, t->d0);
    mull__linear_backward(net, &t->merge0, t->norm, t->d0, t->wide, units, t->dnorm);
    memset(t->dx, 0, (size_t)(n * e) * sizeof *t->dx);
    mull_rmsnorm_backward(net->pool, x, n, e, t->ln_q->w, EPS, t->dnorm, t->dx, t->ln_q->g, t->partial);
}

static void block_backward(mull_tower *t, int index, int64_t n, const float *x) {
    mull_net *net = t->n;
    const mull__tower_block *b = &t->blocks[index];
    int64_t e = t->v->hidden, f = t->v->intermediate;
    mull_attn_shape shape = shape_of(t, index);
    attention_half(t, index, n, x);
    mlp_inside(t, index, n);
    mull__linear_backward(net, &b->down, t->act, t->dx, e, n, t->dact);
    mull_swiglu_backward(net->pool, t->gu, n, f, t->dact, t->gu);
    mull__linear_backward(net, &b->gate_up, t->norm, t->gu, 2 * f, n, t->dnorm);
    mull_rmsnorm_backward(net->pool, t->mid, n, e, b->norm2->w, EPS, t->dnorm, t->dx, b->norm2->g, t->partial);

    mull__linear_backward(net, &b->proj, t->att, t->dx, e, n, t->datt);
    mull_attention_backward(net->pool, &shape, t->qkv, t->qkv + e, t->qkv + 2 * e, 3 * e, t->att, t->datt, e, t->lse,
                            t->dqkv, t->dqkv + e, t->dqkv + 2 * e, 3 * e, NULL);
    mull_rope(net->pool, t->dqkv, n, 3 * e, 2 * t->v->heads, t->v->head_dim, t->cos, t->nsin);
    mull_rmsnorm(net->pool, x, n, e, b->norm1->w, EPS, t->norm);
    mull__linear_backward(net, &b->qkv, t->norm, t->dqkv, 3 * e, n, t->dnorm);
    mull_rmsnorm_backward(net->pool, x, n, e, b->norm1->w, EPS, t->dnorm, t->dx, b->norm1->g, t->partial);
}

/* out, or the gradients from dout, of one medium. */
static int medium(mull_tower *t, const mull_grid *g, const float *patches, float *out, const float *dout,
                  mull_error *err) {
    const mull_train_backend *backend = t->n->backend;
    if (backend) return backend->tower(t->n->dev, t, g, patches, out, dout, err);
    int64_t e = t->v->hidden;
    t->step_rows = g->h * g->w;
    int64_t group = GROUP_ROWS / t->step_rows;
    group = group < 1 ? 1 : group > g->t ? g->t : group;
    int rc = mull_windows_init(&t->windows, t->v, g->h, g->w, err);
    for (int64_t s = 0; !rc && s < g->t; s += group) {
        int64_t steps = g->t - s < group ? g->t - s : group, n = steps * t->step_rows, first = s * t->windows.units;
        const float *from = patches + s * t->step_rows * t->in;
        if ((rc = reserve(t, n, steps, dout != NULL, err))) break;
        prepare(t, g->h, g->w, steps);
        forward(t, from, n, steps, dout != NULL);
        if (!dout) {
            permute(t, steps, out + first * t->hidden, t->out, (size_t)t->hidden, true);
            continue;
        }
        permute(t, steps, t->out, dout + first * t->hidden, (size_t)t->hidden, false);
        merge_backward(t, n, t->kept + t->v->depth * n * e);
        for (int i = t->v->depth - 1; i >= 0; i--) block_backward(t, i, n, t->kept + i * n * e);
        permute(t, steps, t->raw, t->dx, (size_t)(t->unit * e), true);
        mull__linear_backward(t->n, &t->embed, from, t->raw, e, n, NULL);
    }
    mull_windows_fini(&t->windows);
    return rc;
}

static int encode(void *ctx, const mull_grid *g, const float *patches, float *out, mull_error *err) {
    return medium(ctx, g, patches, out, NULL, err);
}

mull_pack_source mull_tower_source(mull_tower *t) {
    return (mull_pack_source){encode, t};
}

int mull_tower_backward(mull_tower *t, mull_pack *p, const mull_batch *b, mull_error *err) {
    const mull_kernels *kn = mull_kernels_get();
    int rc = MULL_OK;
    for (size_t i = b->nmedia; i-- > 0;) {
        /* One that was encoded for an earlier place as well: its gradient is added there. */
        size_t first = 0;
        while (first < i && p->starts[first] != p->starts[i]) first++;
        if (first == i) continue;
        kn->axpy(p->d_starts[first], p->d_starts[i], 1, mull_grid_tokens(t->n->c, &b->media[i]) * t->hidden);
    }
    for (size_t i = 0; i < b->nmedia && !rc; i++) {
        size_t first = 0;
        while (first < i && p->starts[first] != p->starts[i]) first++;
        if (first == i) rc = medium(t, &b->media[i], b->patches[i], NULL, p->d_starts[i], err);
    }
    return rc;
}

void mull_tower_enter(mull_tower *t) {
    for (int i = 0; i <= t->v->depth; i++) mull__net_enter(t->n, MULL_PART_BLOCK(t->n->c, i));
}

void mull_tower_leave(mull_tower *t, bool backward) {
    for (int i = 0; i <= t->v->depth; i++) mull__net_leave(t->n, MULL_PART_BLOCK(t->n->c, i), backward);
}
