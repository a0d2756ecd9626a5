/* Moving values between ranks; see ranks.h. The trained values are cut into runs: tensors of one part of the model that
 * are neighbours in the weights and among the trained values. A run is the unit of a collective. */
#include "engine/train/ranks.h"

#include "engine/ops/kernels.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const WHAT = "cannot train on several ranks";

typedef struct run {
    int part;
    bool small; /* one-dimensional tensors: read as float32 by everybody, always */
    float *w, *g;
    uint16_t *half;
    int64_t at, count;
} run;

struct mull_ranks {
    mull_params *p;
    mull_pool *pool;
    int rank, world, layers;
    int64_t own[MULL_WORLD_MAX + 1]; /* borders of the ranks' ranges */
    run *runs;
    size_t n;
    bool *here; /* of each part: it was gathered and not let go */
    int failed;
    mull_error err;
};

/* The part of the model that a tensor is of: a layer, a block of the tower, the rest of the tower, the rest. */
static int part_of(const mull_config *c, const char *name) {
    const char *layer = strstr(name, "model.layers."), *block = strstr(name, "visual.blocks.");
    if (layer) return atoi(layer + 13);
    if (block) return MULL_PART_BLOCK(c, atoi(block + 14));
    return strstr(name, "visual.") ? MULL_PART_TOWER(c) : MULL_PART_OUTER(c);
}

int mull_ranks_create(const mull_config *c, mull_params *p, mull_pool *pool, mull_ranks **out, mull_error *err) {
    *out = NULL;
    mull_ranks *r = calloc(1, sizeof *r);
    if (r) {
        *r = (mull_ranks){.p = p,
                          .pool = pool,
                          .rank = mull_comm_rank(p->comm),
                          .world = mull_comm_world(p->comm),
                          .layers = c->layers};
        r->runs = calloc(p->n + 1, sizeof *r->runs);
        r->here = calloc((size_t)MULL_PARTS(c), sizeof *r->here);
    }
    if (!r || !r->runs || !r->here) {
        mull_ranks_destroy(r);
        return mull_fail(err, MULL_ENOMEM, WHAT, "", NULL, "out of memory");
    }
    for (int k = 0; k <= r->world; k++)
        r->own[k] = mull_params_border(p->trained, p->zero ? mull_params_piece(k, r->world) : 0);
    for (size_t i = 0; i < p->n; i++) {
        const mull_param *q = &p->list[i];
        if (q->at < 0) continue;
        int part = part_of(c, q->name);
        run *last = r->n ? &r->runs[r->n - 1] : NULL;
        if (last && last->part == part && last->small == (q->ndim < 2) && last->w + last->count == q->w &&
            last->at + last->count == q->at)
            last->count += q->count;
        else
            r->runs[r->n++] = (run){part, q->ndim < 2, q->w, q->g, q->half, q->at, q->count};
    }
    *out = r;
    return MULL_OK;
}

void mull_ranks_destroy(mull_ranks *r) {
    if (!r) return;
    free(r->runs);
    free(r->here);
    free(r);
}

/* ---- collectives on a range of trained values */
static int64_t clamp(int64_t x, int64_t lo, int64_t hi) {
    return x < lo ? lo : x > hi ? hi : x;
}

/* Where the ranks' ranges cut [at, at + count), counted from at. */
static void cut(const mull_ranks *r, int64_t at, int64_t count, int64_t *cuts) {
    for (int k = 0; k <= r->world; k++) cuts[k] = clamp(r->own[k] - at, 0, count);
}

static void keep(mull_ranks *r, int rc) {
    if (rc && !r->failed) r->failed = rc;
}

static int told(const mull_ranks *r, mull_error *err) {
    if (r->failed && err) *err = r->err;
    return r->failed;
}

static void gather(mull_ranks *r, void *data, mull_dtype type, int64_t at, int64_t count) {
    int64_t cuts[MULL_WORLD_MAX + 1];
    if (r->failed) return;
    cut(r, at, count, cuts);
    keep(r, mull_comm_all_gather(r->p->comm, data, type, cuts, &r->err));
}

/* The gradient of a run to its owners, who add it to the step's. */
static void reduce(mull_ranks *r, const run *k) {
    int64_t cuts[MULL_WORLD_MAX + 1];
    cut(r, k->at, k->count, cuts);
    if (!r->failed) keep(r, mull_comm_reduce_scatter(r->p->comm, k->g, MULL_F32, cuts, &r->err));
    if (!r->p->sum) return;
    int64_t from = cuts[r->rank], n = cuts[r->rank + 1] - from;
    if (n > 0 && !r->failed) mull_kernels_get()->axpy(r->p->sum + (k->at + from - r->p->lo), k->g + from, 1, n);
    mull_params_forget(k->g, k->count);
}

/* ---- parts of the model */
static void enter(void *ctx, int part) {
    mull_ranks *r = ctx;
    if (r->p->zero < 3 || r->here[part]) return;
    r->here[part] = true;
    for (size_t i = 0; i < r->n; i++) {
        const run *k = &r->runs[i];
        if (k->part != part || k->small) continue;
        if (k->half)
            gather(r, k->half, MULL_BF16, k->at, k->count);
        else
            gather(r, k->w, MULL_F32, k->at, k->count);
    }
}

static void leave(void *ctx, int part, bool backward) {
    mull_ranks *r = ctx;
    for (size_t i = 0; backward && r->p->zero > 1 && i < r->n; i++)
        if (r->runs[i].part == part) reduce(r, &r->runs[i]);
    if (r->p->zero < 3 || !r->here[part]) return;
    r->here[part] = false;
    for (size_t i = 0; i < r->n; i++) {
        const run *k = &r->runs[i];
        if (k->part != part || k->small) continue;
        mull_param q = {.ndim = 2, .w = k->w, .half = k->half, .at = k->at, .count = k->count};
        mull_params_release(r->p, &q);
    }
}

mull_net_parts mull_ranks_parts(mull_ranks *r) {
    return r->p->zero > 1 ? (mull_net_parts){enter, leave, r} : (mull_net_parts){0};
}

/* ---- a step */
int mull_ranks_reduce(mull_ranks *r, mull_error *err) {
    if (r->world == 1) return MULL_OK;
    mull_params *p = r->p;
    if (p->zero == 0 && !r->failed) keep(r, mull_comm_all_reduce(p->comm, p->g, MULL_F32, p->trained, &r->err));
    if (p->zero == 1 && !r->failed) keep(r, mull_comm_reduce_scatter(p->comm, p->g, MULL_F32, r->own, &r->err));
    return told(r, err);
}

int mull_ranks_publish(mull_ranks *r, mull_error *err) {
    if (r->world == 1 || !r->p->zero) return told(r, err);
    for (size_t i = 0; i < r->n && !r->failed; i++) {
        const run *k = &r->runs[i];
        if (k->small || (!k->half && r->p->zero < 3)) gather(r, k->w, MULL_F32, k->at, k->count);
        if (k->half && (k->small || r->p->zero < 3)) gather(r, k->half, MULL_BF16, k->at, k->count);
    }
    return told(r, err);
}

int mull_ranks_fetch(mull_ranks *r, const mull_param *q, bool master, mull_error *err) {
    if (!r || r->world == 1) return MULL_OK;
    bool split = r->p->zero > 2 || (r->p->zero && master && q->half);
    if (!split || q->at < 0 || q->ndim < 2) return told(r, err);
    if (q->half && !master)
        gather(r, q->half, MULL_BF16, q->at, q->count);
    else
        gather(r, q->w, MULL_F32, q->at, q->count);
    return told(r, err);
}

void mull_ranks_release(mull_ranks *r, const mull_param *q) {
    if (r && r->p->zero) mull_params_release(r->p, q);
}

int mull_ranks_agree(mull_ranks *r, int word, int *most, mull_error *err) {
    *most = word;
    if (!r || r->world == 1) return MULL_OK;
    int all[MULL_WORLD_MAX];
    if (!r->failed) keep(r, mull_comm_collect(r->p->comm, &word, sizeof word, all, &r->err));
    if (r->failed) return told(r, err);
    for (int k = 0; k < r->world; k++)
        if (all[k] > *most) *most = all[k];
    return MULL_OK;
}

/* Each of n values over the ranks, in their order. */
static int fold(mull_ranks *r, double *values, int n, double (*with)(double, double), mull_error *err) {
    if (r->world == 1) return MULL_OK;
    double *all = malloc((size_t)r->world * (size_t)n * sizeof *all);
    if (!all) return mull_fail(err, MULL_ENOMEM, WHAT, "", NULL, "out of memory");
    if (!r->failed) keep(r, mull_comm_collect(r->p->comm, values, (size_t)n * sizeof *all, all, &r->err));
    for (int i = 0; i < n && !r->failed; i++) {
        values[i] = all[i];
        for (int k = 1; k < r->world; k++) values[i] = with(values[i], all[k * n + i]);
    }
    free(all);
    return told(r, err);
}

static double plus(double a, double b) {
    return a + b;
}

int mull_ranks_add(mull_ranks *r, double *values, int n, mull_error *err) {
    return fold(r, values, n, plus, err);
}

int mull_ranks_most(mull_ranks *r, double *values, int n, mull_error *err) {
    return fold(r, values, n, fmax, err);
}

int mull_ranks_collect(mull_ranks *r, const void *mine, size_t bytes, void **all, size_t *at, mull_error *err) {
    size_t each[MULL_WORLD_MAX] = {bytes}, most = bytes;
    *all = NULL;
    if (r->world > 1 && !r->failed) keep(r, mull_comm_collect(r->p->comm, &bytes, sizeof bytes, each, &r->err));
    if (r->failed) return told(r, err);
    for (int k = 0; k < r->world; k++)
        if (each[k] > most) most = each[k];
    char *padded = calloc(1, most + 1), *to = malloc((size_t)r->world * most + 1);
    if (!padded || !to) {
        free(padded), free(to);
        return mull_fail(err, MULL_ENOMEM, WHAT, "", NULL, "out of memory");
    }
    if (bytes) memcpy(padded, mine, bytes);
    if (r->world > 1 && most) keep(r, mull_comm_collect(r->p->comm, padded, most, to, &r->err));
    at[0] = 0;
    for (int k = 0; k < r->world; k++) {
        at[k + 1] = at[k] + each[k];
        memmove(to + at[k], r->world > 1 ? to + (size_t)k * most : padded, each[k]);
    }
    free(padded);
    if (r->failed)
        free(to);
    else
        *all = to;
    return told(r, err);
}
