/* The CUDA training backend: its memory and its table; see backend.h and cuda_net.h. Values are taken when the net is
 * created, activations when a batch is announced (mull_net_reserve): a step takes nothing. */
#include "engine/train/cuda_net.h"

#include "engine/infer/clock.h"

#include <stdlib.h>
#include <string.h>

/* 256 MB of logits at a time, but no fewer rows. */
enum { LOGIT_FLOATS = 64 << 20, LOGIT_ROWS_MIN = 12 };
static const char *const WHAT = "cannot train on the GPU";

static int64_t most(int64_t a, int64_t b) {
    return a > b ? a : b;
}
static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* As walk of net.c, in T where products read. */
static void lay_out(mull_cuda_net *d, mull_cuda_arena *a, int64_t rows, int64_t loss_rows, int64_t chunk_rows) {
    const mull_config *c = d->n->c;
    size_t s = mull_dtype_size(d->t), f4 = sizeof(float), r = (size_t)rows, loss = (size_t)loss_rows,
           chunk = (size_t)chunk_rows, h = (size_t)c->hidden, f = (size_t)c->intermediate, v = (size_t)c->vocab,
           q = (size_t)(c->heads * c->head_dim), ld = q + 2 * (size_t)(c->kv_heads * c->head_dim),
           heads = (size_t)c->heads, slice = (size_t)least(rows, MULL__SLICE), rank = (size_t)d->n->rank,
           widest = h > ld ? h : ld;
    mull_recompute level = d->n->opts.recompute;
    bool keep_all = level == MULL_RECOMPUTE_NONE, keep_mlp = level != MULL_RECOMPUTE_LAYER;
    for (int i = 0; i <= c->layers; i++) {
        mull_cuda_kept *k = i < c->layers ? &d->layers[i] : &d->own;
        bool own = i == c->layers, all = own != keep_all, mlp = own != keep_mlp;
        *k = (mull_cuda_kept){0};
        if (!own) k->x_in = mull_cuda_part(a, r * h * f4);
        if (all) {
            k->qkv = mull_cuda_part(a, r * ld * s);
            k->att = mull_cuda_part(a, r * q * s);
            k->lse = mull_cuda_part(a, r * heads * f4);
        }
        if (mlp) {
            k->x_mid = mull_cuda_part(a, r * h * f4);
            k->gu = mull_cuda_part(a, 2 * (own ? slice : r) * f * s);
        }
    }
    d->x = mull_cuda_part(a, r * h * f4);
    d->features = mull_cuda_part(a, r * h * f4);
    d->norm = mull_cuda_part(a, r * h * s);
    d->act = mull_cuda_part(a, slice * f * s);
    d->cos = mull_cuda_part(a, r * (size_t)c->head_dim / 2 * f4);
    d->sin = mull_cuda_part(a, r * (size_t)c->head_dim / 2 * f4);
    d->dx = mull_cuda_part(a, r * h * f4);
    d->dxt = mull_cuda_part(a, d->t == MULL_F32 ? 0 : r * h * s);
    d->dnorm = mull_cuda_part(a, r * h * f4);
    d->dqkv = mull_cuda_part(a, r * ld * s);
    d->datt = mull_cuda_part(a, r * q * s);
    d->delta = mull_cuda_part(a, r * heads * f4);
    d->dact = mull_cuda_part(a, slice * f * s);
    d->sums = mull_cuda_part(a, ((r > loss ? r : loss) + MULL_CUDA_SUM_PARTS * widest) * f4);
    d->lora_t = mull_cuda_part(a, r * rank * s);
    d->lora_u = mull_cuda_part(a, r * rank * s);
    d->hx = mull_cuda_part(a, loss * h * f4);
    d->h = mull_cuda_part(a, loss * h * f4);
    d->dh = mull_cuda_part(a, loss * h * f4);
    d->targets = mull_cuda_part(a, loss * h * f4);
    d->ht = d->t == MULL_F32 ? (void *)d->h : mull_cuda_part(a, loss * h * s);
    d->logits = mull_cuda_part(a, chunk * v * f4);
    d->dlogits = d->t == MULL_F32 ? (void *)d->logits : mull_cuda_part(a, chunk * v * s);
    d->top = mull_cuda_part(a, chunk * f4);
    d->sum = mull_cuda_part(a, chunk * f4);
    d->logp = mull_cuda_part(a, loss * sizeof(double));
    d->entropy = mull_cuda_part(a, loss * sizeof(double));
    d->cosines = mull_cuda_part(a, loss * sizeof(double));
}

static int reserve(void *dev, int64_t rows, int64_t loss_rows, mull_error *err) {
    mull_cuda_net *d = dev;
    if (rows <= d->cap && loss_rows <= d->loss_cap) return MULL_OK;
    rows = most(d->cap, (rows + 63) / 64 * 64);
    loss_rows = most(d->loss_cap, (loss_rows + 63) / 64 * 64);
    int64_t chunk = least(loss_rows, most(LOGIT_ROWS_MIN, LOGIT_FLOATS / d->n->c->vocab));
    mull_cuda_arena batch = {0}, a = {0};
    mull__cuda_batch_lay_out(d, &batch, rows, loss_rows, &d->here);
    lay_out(d, &a, rows, loss_rows, chunk);
    mull_cuda_release(d->c, d->arena);
    d->arena = NULL;
    d->arena_bytes = 0;
    d->cap = d->loss_cap = 0;
    char *host = realloc(d->host, batch.used);
    if (!host) return mull_fail(err, MULL_ENOMEM, WHAT, "", NULL, "out of memory");
    d->host = host;
    int rc = mull_cuda_alloc(d->c, a.used + batch.used, "the activations of a batch", &d->arena, err);
    if (rc) {
        if (rc == MULL_ENOMEM)
            snprintf(err->todo, sizeof err->todo,
                     "lower pack_tokens or max_length, set recompute: layer, or use a larger GPU");
        return rc;
    }
    d->arena_bytes = a.used + batch.used;
    d->batch_bytes = batch.used;
    d->batch_base = d->arena;
    batch = (mull_cuda_arena){.base = d->host};
    mull__cuda_batch_lay_out(d, &batch, rows, loss_rows, &d->here);
    batch = (mull_cuda_arena){.base = d->batch_base};
    mull__cuda_batch_lay_out(d, &batch, rows, loss_rows, &d->there);
    a = (mull_cuda_arena){.base = d->batch_base + d->batch_bytes};
    lay_out(d, &a, rows, loss_rows, chunk);
    memset(d->host, 0, d->batch_bytes);
    d->cap = rows;
    d->loss_cap = loss_rows;
    d->chunk = chunk;
    return MULL_OK;
}

static void close_net(void *dev) {
    mull_cuda_net *d = dev;
    if (!d) return;
    if (d->c) {
        mull_cuda_release(d->c, d->arena);
        mull_cuda_release(d->c, d->values);
        mull_cuda_release(d->c, d->merged);
        mull_cuda_release(d->c, d->reference);
        mull_cuda_release(d->c, d->tower);
        mull_cuda_close(d->c);
    }
    free(d->host);
    free(d->layers);
    free(d->ref_at);
    free(d);
}

static int open_net(mull_net *n, void **dev, mull_error *err) {
    *dev = NULL;
    if (mull_comm_world(n->params->comm) > 1)
        return mull_fail(err, MULL_EUNSUPPORTED, WHAT, "ranks", "use one rank, or --device cpu",
                         "several ranks train on the CPU only");
    mull_cuda_net *d = calloc(1, sizeof *d);
    if (d) d->layers = calloc((size_t)n->c->layers + 1, sizeof *d->layers);
    if (!d || !d->layers) {
        close_net(d);
        return mull_fail(err, MULL_ENOMEM, WHAT, "", NULL, "out of memory");
    }
    d->n = n;
    d->t = n->params->half ? MULL_BF16 : MULL_F32;
    int rc = mull_cuda_open(0, &d->c, err);
    if (!rc) rc = mull__cuda_params_open(d, err);
    if (rc)
        close_net(d);
    else
        *dev = d;
    return rc;
}

static int status(void *dev, mull_error *err) {
    return mull_cuda_sync(((mull_cuda_net *)dev)->c, err);
}
static size_t bytes(const void *dev) {
    const mull_cuda_net *d = dev;
    return d->value_bytes + d->arena_bytes + d->rollout_bytes + d->tower_bytes;
}

/* Ever larger square products until one takes 5 ms; in memory of its own, for this once. */
static double roof(void *dev) {
    mull_cuda_net *d = dev;
    double flops = 0, ms = 0;
    for (int64_t n = 128; n <= 8192 && ms < 5; n *= 2) {
        size_t each = (size_t)(n * n) * sizeof(float);
        mull_error err;
        void *p;
        if (mull_cuda_alloc(d->c, 3 * each, "measuring", &p, &err)) break;
        mull_cuda_zero(d->c, p, 3 * each);
        mull_cuda_product j = {.m = n,
                               .n = n,
                               .k = n,
                               .type = d->t,
                               .a = p,
                               .lda = n,
                               .b = (char *)p + each,
                               .ldb = n,
                               .b_t = true,
                               .y = (char *)p + 2 * each,
                               .y_type = MULL_F32,
                               .ldy = n};
        mull_cuda_multiply(d->c, &j); /* the first asks for an algorithm */
        int rc = mull_cuda_sync(d->c, &err);
        double start = mull_clock_ms();
        mull_cuda_multiply(d->c, &j);
        if (!rc) rc = mull_cuda_sync(d->c, &err);
        ms = mull_clock_ms() - start;
        mull_cuda_release(d->c, p);
        if (rc) return 0;
        if (ms > 0) flops = 2.0 * (double)n * (double)n * (double)n / ms * 1e3;
    }
    return flops;
}

const mull_train_backend *mull_cuda_train_backend(void) {
    static const mull_train_backend table = {.name = "cuda",
                                             .model = mull_cuda_backend,
                                             .open = open_net,
                                             .close = close_net,
                                             .status = status,
                                             .reserve = reserve,
                                             .bytes = bytes,
                                             .forward = mull__cuda_net_forward,
                                             .gather = mull__cuda_net_gather,
                                             .head = mull__cuda_net_head,
                                             .cosines = mull__cuda_net_cosines,
                                             .backward = mull__cuda_net_backward,
                                             .zero_grad = mull__cuda_params_zero_grad,
                                             .update = mull__cuda_params_update,
                                             .pull = mull__cuda_params_pull,
                                             .roof = roof,
                                             .lend = mull__cuda_lend,
                                             .keep_reference = mull__cuda_keep_reference,
                                             .set_reference = mull__cuda_set_reference,
                                             .use_reference = mull__cuda_use_reference,
                                             .tower = mull__cuda_tower};
    return &table;
}
