/* The net's parts and its arena; see net.h. The arena is planned by walking one list of sizes twice: first with nothing
 * to add them up, then with memory to hand it out. */
#include "engine/train/net_internal.h"

#include "engine/ops/backward.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static const char *const WHAT = "cannot prepare training";
/* 256 MB of logits at a time (a chunk reads the head three times), but no fewer rows. */
enum { LOGIT_FLOATS = 64 << 20, LOGIT_ROWS_MIN = 12 };

static int64_t most(int64_t a, int64_t b) {
    return a > b ? a : b;
}
static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* ---- parts */
static mull_param *find(const mull_net *n, const char *fmt, int layer, const char *name) {
    char full[128];
    snprintf(full, sizeof full, fmt, layer, name);
    return mull_params_find(n->params, full);
}

static void make_linear(mull_net *n, mull__linear *l, int layer, const char *const *names, int parts, int64_t in) {
    static const char LAYER[] = "model.layers.%d.%s", BASE[] = "base_model.model.model.layers.%d.%s";
    char name[48];
    *l = (mull__linear){.in = in, .parts = parts};
    for (int i = 0; i < parts; i++) {
        snprintf(name, sizeof name, "%s.weight", names[i]);
        l->w[i] = find(n, LAYER, layer, name);
        l->out += l->w[i]->shape[0];
        snprintf(name, sizeof name, "%s.bias", names[i]);
        l->bias[i] = find(n, LAYER, layer, name);
        snprintf(name, sizeof name, "%s.lora_A.weight", names[i]);
        l->a[i] = find(n, BASE, layer, name);
        snprintf(name, sizeof name, "%s.lora_B.weight", names[i]);
        l->b[i] = find(n, BASE, layer, name);
        if (l->a[i]) n->rank = l->a[i]->shape[0];
    }
}

static bool trained(const mull__linear *l) {
    for (int i = 0; i < l->parts; i++)
        if (l->w[i]->g || (l->bias[i] && l->bias[i]->g) || (l->a[i] && (l->a[i]->g || l->b[i]->g))) return true;
    return false;
}

static void find_parts(mull_net *n) {
    const mull_config *c = n->c;
    n->embed = mull_params_find(n->params, "model.embed_tokens.weight");
    n->norm = mull_params_find(n->params, "model.norm.weight");
    n->head = c->tied ? n->embed : mull_params_find(n->params, "lm_head.weight");
    n->first = c->layers;
    for (int i = c->layers - 1; i >= 0; i--) {
        mull__layer *l = &n->layers[i];
        l->input_norm = find(n, "model.layers.%d.%s", i, "input_layernorm.weight");
        l->post_norm = find(n, "model.layers.%d.%s", i, "post_attention_layernorm.weight");
        make_linear(n, &l->qkv, i, (const char *[]){"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}, 3,
                    c->hidden);
        make_linear(n, &l->o, i, (const char *[]){"self_attn.o_proj"}, 1, (int64_t)c->heads * c->head_dim);
        make_linear(n, &l->gate_up, i, (const char *[]){"mlp.gate_proj", "mlp.up_proj"}, 2, c->hidden);
        make_linear(n, &l->down, i, (const char *[]){"mlp.down_proj"}, 1, c->intermediate);
        if (l->input_norm->g || l->post_norm->g || trained(&l->qkv) || trained(&l->o) || trained(&l->gate_up) ||
            trained(&l->down))
            n->first = i;
    }
    /* The inputs' gradient is wanted when the embedding learns from them or the tower does. */
    if (n->embed->g || mull_params_find(n->params, "visual.merger.ln_q.weight")) n->first = -1;
}

/* ---- arena */
typedef struct plan {
    float *base; /* NULL: only add up */
    size_t used;
} plan;

static void take(plan *p, float **at, int64_t floats) {
    if (p->base) *at = p->base + p->used;
    p->used += ((size_t)floats + 15) & ~(size_t)15;
}

static void walk(const mull_config *c, mull_net *n, mull_recompute level, int64_t rank, int64_t r, int64_t loss,
                 int64_t chunk, plan *p) {
    int64_t h = c->hidden, f = c->intermediate, q = (int64_t)c->heads * c->head_dim,
            ld = q + 2 * (int64_t)c->kv_heads * c->head_dim, slice = least(r, MULL__SLICE);
    bool keep_all = level == MULL_RECOMPUTE_NONE, keep_mlp = level != MULL_RECOMPUTE_LAYER;
    mull_attn_shape shape = {.heads = c->heads, .kv_heads = c->kv_heads, .hd = c->head_dim};
    float *none;
    for (int i = 0; i < c->layers; i++) {
        mull__layer *l = n ? &n->layers[i] : NULL;
        take(p, l ? &l->x_in : &none, r * h);
        if (keep_all) {
            take(p, l ? &l->qkv_out : &none, r * ld);
            take(p, l ? &l->att : &none, r * q);
            take(p, l ? &l->lse : &none, r * c->heads);
        }
        if (keep_mlp) {
            take(p, l ? &l->x_mid : &none, r * h);
            take(p, l ? &l->gu : &none, 2 * r * f);
        }
    }
    mull_net dummy, *o = n ? n : &dummy;
    take(p, &o->x, r * h);
    take(p, &o->norm_out, r * h);
    if (!keep_all) {
        take(p, &o->qkv_out, r * ld);
        take(p, &o->att, r * q);
        take(p, &o->lse, r * c->heads);
    }
    if (!keep_mlp) {
        take(p, &o->x_mid, r * h);
        take(p, &o->gu, 2 * slice * f);
    }
    take(p, &o->act, slice * f);
    take(p, &o->cos, r * c->head_dim / 2);
    take(p, &o->sin, r * c->head_dim / 2);
    take(p, &o->nsin, r * c->head_dim / 2);
    take(p, &o->dx, r * h);
    take(p, &o->dnorm, r * h);
    take(p, &o->dqkv, r * ld);
    take(p, &o->datt, r * q);
    take(p, &o->kv, mull_attention_scratch(&shape, r));
    take(p, &o->dact, slice * f);
    take(p, &o->partial, MULL_DW_PARTS * h);
    take(p, &o->lora_t, r * rank);
    take(p, &o->lora_u, r * rank);
    take(p, &o->hx, loss * h);
    take(p, &o->h, loss * h);
    take(p, &o->dh, loss * h);
    take(p, &o->logits, chunk * c->vocab);
}

static int64_t logit_rows(const mull_config *c, int64_t loss) {
    return least(loss, most(LOGIT_ROWS_MIN, LOGIT_FLOATS / c->vocab));
}

size_t mull_net_plan(const mull_config *c, mull_recompute recompute, int64_t rows, int64_t loss_rows) {
    plan p = {0};
    walk(c, NULL, recompute, 0, rows, loss_rows, logit_rows(c, loss_rows), &p);
    return p.used * sizeof(float);
}

int mull_net_reserve(mull_net *n, int64_t rows, int64_t loss_rows, mull_error *err) {
    if (n->backend) return n->backend->reserve(n->dev, rows, loss_rows, err);
    if (rows <= n->cap && loss_rows <= n->loss_cap) return MULL_OK;
    /* In steps of 64 rows: lengths that grow a little with every batch would otherwise allocate with every batch. */
    rows = most(n->cap, (rows + 63) / 64 * 64);
    loss_rows = most(n->loss_cap, (loss_rows + 63) / 64 * 64);
    int64_t chunk = logit_rows(n->c, loss_rows);
    plan p = {0};
    walk(n->c, NULL, n->opts.recompute, n->rank, rows, loss_rows, chunk, &p);
    if (n->arena) munmap(n->arena, n->bytes);
    n->arena = NULL;
    n->cap = n->loss_cap = 0;
    n->bytes = p.used * sizeof(float);
    void *m = mmap(NULL, n->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int32_t *gathered = realloc(n->gathered, (size_t)loss_rows * sizeof *gathered);
    if (gathered) n->gathered = gathered;
    if (m == MAP_FAILED || !gathered) {
        if (m != MAP_FAILED) munmap(m, n->bytes);
        n->bytes = 0;
        return mull_fail(err, MULL_ENOMEM, "cannot train on the batch", "activations",
                         "lower pack_tokens or max_length, or set recompute: layer",
                         "no memory for %zu bytes of %lld tokens", p.used * sizeof(float), (long long)rows);
    }
    madvise(m, n->bytes, MADV_HUGEPAGE);
    n->arena = m;
    p = (plan){.base = m};
    walk(n->c, n, n->opts.recompute, n->rank, rows, loss_rows, chunk, &p);
    n->cap = rows;
    n->loss_cap = loss_rows;
    n->chunk = chunk;
    return MULL_OK;
}

int mull_net_create(const mull_config *c, mull_params *params, mull_pool *pool, const mull_net_opts *opts,
                    mull_net **out, mull_error *err) {
    *out = NULL;
    mull_net *n = calloc(1, sizeof *n);
    if (!n) return mull_fail(err, MULL_ENOMEM, WHAT, "", NULL, "out of memory");
    *n = (mull_net){.c = c, .params = params, .pool = pool, .opts = *opts};
    n->layers = calloc((size_t)c->layers, sizeof *n->layers);
    int rc =
        n->layers ? mull_mrope_init(&n->rope, c, err) : mull_fail(err, MULL_ENOMEM, WHAT, "", NULL, "out of memory");
    if (rc) {
        mull_net_destroy(n);
        return rc;
    }
    find_parts(n);
    n->backend = opts->backend;
    if (n->backend && (rc = n->backend->open(n, &n->dev, err))) {
        mull_net_destroy(n);
        return rc;
    }
    *out = n;
    return MULL_OK;
}

void mull_net_destroy(mull_net *n) {
    if (!n) return;
    if (n->dev) n->backend->close(n->dev);
    mull_mrope_fini(&n->rope);
    if (n->arena) munmap(n->arena, n->bytes);
    free(n->gathered);
    free(n->layers);
    free(n);
}

size_t mull_net_bytes(const mull_net *n) {
    return n->backend ? n->backend->bytes(n->dev) : n->bytes;
}
