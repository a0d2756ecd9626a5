/* The language model on CUDA; the steps are those of lm.c. A batch's host data (ids, positions, feature pointers,
 * sequences, page tables, the attention's plan) go over in one copy. The residual stream x is float32: attention's and
 * the MLP's last products add to it in their epilogues, so a layer is two norms, four products, rope with the write
 * into the cache, attention and SwiGLU, nine launches. */
#include "engine/model/cuda_graphs.h"
#include "engine/model/cuda_model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct cuda_lm {
    mull_cuda_model *m;
    const mull_config *config;
    int64_t max_rows;
    char *all;
    size_t bytes;
    float *x;                /* [R, hidden] */
    void *norm, *qkv, *attn; /* T: [R, hidden], [R, (heads + 2 kv_heads) hd], [R, heads hd] */
    void *gate_up, *act;     /* T: [R, 2F], [R, F] */
    float *cos, *sin;        /* [R, hd / 2] */
    int32_t *rows;           /* [R]: rows whose logits are wanted */
    char *meta, *host;       /* a batch's host data, on the device and here */
    size_t meta_bytes;
    float *logits; /* [logit_rows, vocab], then [logit_rows, hidden] */
    int64_t logit_rows;
    mull_cuda_graphs graphs;
    char *step; /* host data of decoding steps, where graphs read it; as large as meta was when it was taken */
    size_t step_bytes;
} cuda_lm;

static size_t max(size_t a, size_t b) {
    return a > b ? a : b;
}

/* int8 products need room for quantised rows and sums. */
static int reserve_products(cuda_lm *lm, int64_t rows, bool head, mull_error *err) {
    mull_cuda_model *m = lm->m;
    if (m->type != MULL_WEIGHT_INT8) return MULL_OK;
    const mull_cuda_layer *y = &m->layers[0];
    const mull_cuda_matrix *w[] = {&y->qkv, &y->o, &y->gate_up, &y->down, &m->head};
    size_t quant = 0, product = 0;
    for (int i = 0; i < (head ? 5 : 4); i++) {
        size_t q, p;
        if (w[i]->type != MULL_I8) continue;
        mull_cuda_linear_scratch(rows, w[i]->n, w[i]->k, &q, &p);
        quant = max(quant, q);
        product = max(product, p);
    }
    int rc = mull_cuda_reserve(m->c, MULL_CUDA_QUANT, quant, err);
    return rc ? rc : mull_cuda_reserve(m->c, MULL_CUDA_PRODUCT, product, err);
}

static void lay_out(cuda_lm *lm, mull_cuda_arena *a) {
    const mull_config *c = lm->config;
    size_t n = (size_t)lm->max_rows, t = mull_dtype_size(lm->m->t), h = (size_t)c->hidden, f = (size_t)c->intermediate;
    size_t hd = (size_t)c->head_dim, q = (size_t)c->heads * hd, kv = (size_t)c->kv_heads * hd;
    lm->x = mull_cuda_part(a, n * h * sizeof(float));
    lm->norm = mull_cuda_part(a, n * h * t);
    lm->qkv = mull_cuda_part(a, n * (q + 2 * kv) * t);
    lm->attn = mull_cuda_part(a, n * q * t);
    lm->gate_up = mull_cuda_part(a, n * 2 * f * t);
    lm->act = mull_cuda_part(a, n * f * t);
    lm->cos = mull_cuda_part(a, n * hd / 2 * sizeof(float));
    lm->sin = mull_cuda_part(a, n * hd / 2 * sizeof(float));
    lm->rows = mull_cuda_part(a, n * sizeof(int32_t));
}

int mull__cuda_lm_create(void *state, int64_t max_rows, void **out, size_t *bytes, mull_error *err) {
    mull_cuda_model *m = state;
    cuda_lm *lm = calloc(1, sizeof *lm);
    if (!lm) return mull_fail(err, MULL_ENOMEM, "cannot prepare the language model", "", "", "out of memory");
    *lm = (cuda_lm){.m = m, .config = m->config, .max_rows = max_rows};
    const char *graphs = getenv("MULL_CUDA_GRAPHS");
    lm->graphs.off = graphs && !strcmp(graphs, "0");
    mull_cuda_arena a = {0};
    lay_out(lm, &a);
    void *all;
    int rc = mull_cuda_alloc(m->c, a.used, "activations", &all, err);
    if (!rc) {
        lm->all = all;
        lm->bytes = a.used;
        a = (mull_cuda_arena){.base = all};
        lay_out(lm, &a);
        rc = reserve_products(lm, max_rows, false, err);
    }
    if (rc) {
        mull__cuda_lm_destroy(lm);
        return rc;
    }
    *bytes = lm->bytes;
    *out = lm;
    return MULL_OK;
}

void mull__cuda_lm_destroy(void *p) {
    cuda_lm *lm = p;
    if (!lm) return;
    mull_cuda_release(lm->m->c, lm->all);
    mull_cuda_release(lm->m->c, lm->meta);
    mull_cuda_graphs_fini(&lm->graphs);
    mull_cuda_release(lm->m->c, lm->step);
    mull_cuda_release(lm->m->c, lm->logits);
    free(lm->host);
    free(lm);
}

/* The parts of a batch's host data. Grows to the largest batch seen and stays. */
typedef struct batch {
    int32_t *ids, *pos, *pages;
    const float **features;
    mull_cuda_seq *seqs;
    mull_cuda_work *work;
    mull_cuda_join *joins;
} batch;

static void lay_out_batch(mull_cuda_arena *a, const mull_lm_batch *b, const mull_cuda_plan *p, size_t pages, batch *o) {
    size_t n = (size_t)b->rows;
    o->features = mull_cuda_part(a, b->features ? n * sizeof *o->features : 0);
    o->ids = mull_cuda_part(a, n * sizeof *o->ids);
    o->pos = mull_cuda_part(a, 3 * n * sizeof *o->pos);
    o->pages = mull_cuda_part(a, pages * sizeof *o->pages);
    o->seqs = mull_cuda_part(a, (size_t)b->nseq * sizeof *o->seqs);
    o->work = mull_cuda_part(a, (size_t)(p->wide + p->few) * sizeof *o->work);
    o->joins = mull_cuda_part(a, (size_t)p->joins * sizeof *o->joins);
}

static int grow_meta(cuda_lm *lm, size_t bytes, mull_error *err) {
    if (bytes <= lm->meta_bytes) return MULL_OK;
    bytes += bytes / 2;
    mull_cuda_release(lm->m->c, lm->meta);
    free(lm->host);
    lm->meta = NULL;
    lm->meta_bytes = 0;
    lm->host = malloc(bytes);
    if (!lm->host) return mull_fail(err, MULL_ENOMEM, "cannot run a batch", "", "", "out of memory");
    void *p;
    int rc = mull_cuda_alloc(lm->m->c, bytes, "a batch", &p, err);
    if (rc) return rc;
    lm->meta = p;
    lm->meta_bytes = bytes;
    return MULL_OK;
}

static size_t pages_of(const mull_attn_seq *s) {
    return (size_t)((s->pos0 + s->rows + MULL_PAGE_TOKENS - 1) / MULL_PAGE_TOKENS);
}

/* Fills and sends the batch's data; o points to the device afterwards. */
static int send(cuda_lm *lm, const mull_lm_batch *b, mull_cuda_plan *plan, batch *o, mull_error *err) {
    int group = lm->config->heads / lm->config->kv_heads;
    size_t n = (size_t)b->rows, pages = 0;
    mull_cuda_seq *seqs = malloc((size_t)b->nseq * sizeof *seqs + 1);
    if (!seqs) return mull_fail(err, MULL_ENOMEM, "cannot run a batch", "", "", "out of memory");
    for (int s = 0; s < b->nseq; s++) {
        const mull_attn_seq *q = &b->seqs[s];
        seqs[s] = (mull_cuda_seq){(int32_t)q->row0, (int32_t)q->rows, (int32_t)q->pos0, (int32_t)pages};
        pages += pages_of(q);
    }
    mull_cuda_plan_attention(seqs, b->nseq, group, true, plan, NULL, NULL);
    mull_cuda_arena a = {0};
    lay_out_batch(&a, b, plan, pages, o);
    size_t bytes = a.used;
    int rc = grow_meta(lm, bytes, err);
    if (!rc)
        rc = mull_cuda_reserve(lm->m->c, MULL_CUDA_ATTENTION,
                               mull_cuda_attention_scratch(plan->parts, lm->config->kv_heads, lm->config->head_dim),
                               err);
    if (!rc) {
        a = (mull_cuda_arena){.base = lm->host};
        lay_out_batch(&a, b, plan, pages, o);
        if (b->features) memcpy(o->features, b->features, n * sizeof *o->features);
        memcpy(o->ids, b->ids, n * sizeof *o->ids);
        for (size_t p = 0; p < 3; p++) memcpy(o->pos + p * n, b->pos + (int64_t)p * b->pos_stride, n * sizeof *o->pos);
        for (int s = 0; s < b->nseq; s++)
            memcpy(o->pages + seqs[s].page0, b->seqs[s].pages, pages_of(&b->seqs[s]) * sizeof *o->pages);
        memcpy(o->seqs, seqs, (size_t)b->nseq * sizeof *seqs);
        mull_cuda_plan_attention(seqs, b->nseq, group, true, plan, o->work, o->joins);
        mull_cuda_put(lm->m->c, lm->meta, lm->host, bytes);
        a = (mull_cuda_arena){.base = lm->meta};
        lay_out_batch(&a, b, plan, pages, o);
    }
    free(seqs);
    return rc;
}

static void layer(cuda_lm *lm, const mull_lm_batch *b, const mull_cuda_layer *w, const mull_kv_view *view,
                  const mull_cuda_plan *plan, const batch *d) {
    const mull_config *c = lm->config;
    mull_cuda *gpu = lm->m->c;
    mull_dtype t = lm->m->t;
    int64_t n = b->rows, h = c->hidden, f = c->intermediate, q = (int64_t)c->heads * c->head_dim;
    int64_t ld = q + 2 * (int64_t)c->kv_heads * c->head_dim;
    mull_cuda_kv kv = {
        .k = view->k, .v = view->v, .page_stride = view->page_stride, .kv_heads = c->kv_heads, .hd = c->head_dim};
    mull_cuda_rmsnorm(gpu, lm->x, NULL, n, h, w->input_norm, c->rms_eps, lm->norm, t);
    mull_cuda_linear(gpu, lm->norm, n, h, &w->qkv, w->qkv_bias, lm->qkv, t, ld, false);
    mull_cuda_rope_store(gpu, lm->qkv, n, c->heads, &kv, d->seqs, b->nseq, d->pages, lm->cos, lm->sin, t);
    mull_cuda_attention a = {.t = t,
                             .q = lm->qkv,
                             .ldq = ld,
                             .kv = &kv,
                             .pages = d->pages,
                             .heads = c->heads,
                             .hd = c->head_dim,
                             .causal = true,
                             .scale = 1.0f / sqrtf((float)c->head_dim),
                             .seqs = d->seqs,
                             .work = d->work,
                             .joins = d->joins,
                             .plan = *plan,
                             .out = lm->attn,
                             .ldo = q};
    mull_cuda_attend(gpu, &a);
    mull_cuda_linear(gpu, lm->attn, n, q, &w->o, NULL, lm->x, MULL_F32, h, true);
    mull_cuda_rmsnorm(gpu, lm->x, NULL, n, h, w->post_norm, c->rms_eps, lm->norm, t);
    mull_cuda_linear(gpu, lm->norm, n, h, &w->gate_up, NULL, lm->gate_up, t, 2 * f, false);
    mull_cuda_swiglu(gpu, lm->gate_up, n, f, lm->act, t);
    mull_cuda_linear(gpu, lm->act, n, f, &w->down, NULL, lm->x, MULL_F32, h, true);
}

/* Everything of a batch that was sent. */
static void run(cuda_lm *lm, const mull_lm_batch *b, const mull_cuda_plan *plan, const batch *d, const mull_tap *tap) {
    mull_cuda_model *m = lm->m;
    const mull_config *c = lm->config;
    mull_cuda_embed(m->c, m->embed.data, m->t, d->ids, b->features ? d->features : NULL, b->rows, c->hidden, lm->x);
    mull__cuda_show(m, tap, MULL_STAGE_EMBED, 0, lm->x, 0, b->rows, c->hidden);
    mull_cuda_mrope_table(m->c, d->pos, b->rows, b->rows, m->inv_freq, m->axis, c->head_dim / 2, lm->cos, lm->sin);
    for (int i = 0; i < c->layers; i++) {
        layer(lm, b, &m->layers[i], &b->kv[i], plan, d);
        mull__cuda_show(m, tap, MULL_STAGE_LAYER, i, lm->x, 0, b->rows, c->hidden);
    }
}

/* A step of decoding, filled up to its bucket: replayed where it was captured. False: not such a step. */
static bool run_step(cuda_lm *lm, const mull_lm_batch *b) {
    mull_cuda *gpu = lm->m->c;
    const mull_config *c = lm->config;
    int32_t rows = mull_cuda_bucket_rows(b->rows), used = 0;
    if (lm->graphs.off || !rows || rows > lm->max_rows || b->nseq != b->rows) return false;
    for (int s = 0; s < b->nseq; s++)
        if (b->seqs[s].rows != 1 || b->seqs[s].row0 != s || (b->features && b->features[s])) return false;
    size_t pages = 0;
    for (int s = 0; s < b->nseq; s++) pages += pages_of(&b->seqs[s]);
    mull_cuda_seq seqs[MULL_CUDA_GRAPH_ROWS];
    for (int s = 0; s < rows; s++) {
        bool real = s < b->nseq;
        seqs[s] = (mull_cuda_seq){s, real, real ? (int32_t)b->seqs[s].pos0 : 0, used};
        if (real) used += (int32_t)pages_of(&b->seqs[s]);
    }
    mull_cuda_plan plan, full;
    mull_cuda_plan_attention(seqs, b->nseq, c->heads / c->kv_heads, true, &plan, NULL, NULL);
    if (plan.wide) return false; /* more heads a group than a small tile has */
    full =
        (mull_cuda_plan){.few = mull_cuda_bucket_work(plan.few), .joins = plan.joins ? rows : 0, .parts = plan.parts};
    /* The page tables come last, so that their length moves nothing. */
    mull_lm_batch shape = {.rows = rows, .nseq = rows, .kv = b->kv};
    mull_cuda_arena a = {0};
    batch d;
    lay_out_batch(&a, &shape, &full, 0, &d);
    size_t bytes = a.used + pages * sizeof *d.pages;
    mull_error err;
    int rc = grow_meta(lm, bytes, &err);
    if (!rc && lm->step_bytes < bytes) {
        void *p;
        mull_cuda_release(gpu, lm->step);
        lm->step = NULL;
        lm->step_bytes = 0;
        rc = mull_cuda_alloc(gpu, lm->meta_bytes, "decoding steps", &p, &err);
        if (!rc) {
            lm->step = p;
            lm->step_bytes = lm->meta_bytes;
        }
    }
    if (!rc)
        rc = mull_cuda_reserve(gpu, MULL_CUDA_ATTENTION,
                               mull_cuda_attention_scratch(full.few, c->kv_heads, c->head_dim), &err);
    if (rc) {
        mull_cuda_refuse(gpu, err.code, "batch", err.todo, "%s", err.why);
        return true;
    }
    a = (mull_cuda_arena){.base = lm->host};
    lay_out_batch(&a, &shape, &full, 0, &d);
    d.pages = (int32_t *)(void *)(lm->host + a.used);
    memset(d.ids, 0, (size_t)rows * sizeof *d.ids);
    memset(d.pos, 0, 3 * (size_t)rows * sizeof *d.pos);
    memcpy(d.ids, b->ids, (size_t)b->rows * sizeof *d.ids);
    for (int64_t i = 0; i < 3; i++)
        memcpy(d.pos + i * rows, b->pos + i * b->pos_stride, (size_t)b->rows * sizeof *d.pos);
    for (int s = 0; s < b->nseq; s++)
        memcpy(d.pages + seqs[s].page0, b->seqs[s].pages, pages_of(&b->seqs[s]) * sizeof *d.pages);
    memcpy(d.seqs, seqs, (size_t)rows * sizeof *seqs);
    mull_cuda_plan_attention(seqs, b->nseq, c->heads / c->kv_heads, true, &plan, d.work, d.joins);
    mull_cuda_plan_pad(&plan, d.work, full.few, d.joins, full.joins);
    mull_cuda_put(gpu, lm->step, lm->host, bytes);
    a = (mull_cuda_arena){.base = lm->step};
    lay_out_batch(&a, &shape, &full, 0, &d);
    d.pages = (int32_t *)(void *)(lm->step + a.used);
    /* Joins of another step's parts would be asked for with this step's number of them: the bucket's is the same. */
    plan.parts = full.joins ? full.few : 0;
    mull_cuda_bucket key = {rows, full.few, full.joins, b->kv[0].k, lm->step, mull_cuda_scratch_epoch(gpu)};
    bool capture;
    mull_cuda_graph *g = mull_cuda_graphs_find(&lm->graphs, &key, &capture);
    if (!g && capture) {
        mull_cuda_graph_begin(gpu);
        run(lm, &shape, &plan, &d, NULL);
        g = mull_cuda_graph_end(gpu);
        mull_cuda_graphs_keep(&lm->graphs, &key, g);
    }
    if (g)
        mull_cuda_graph_replay(gpu, g);
    else
        run(lm, &shape, &plan, &d, NULL);
    return true;
}

void mull__cuda_lm_run(void *p, const mull_lm_batch *b, const mull_tap *tap) {
    cuda_lm *lm = p;
    mull_cuda_model *m = lm->m;
    mull_error err = {0};
    mull_cuda_plan plan;
    batch d;
    if (mull_cuda_failed(m->c) || (!tap && run_step(lm, b))) return;
    if (send(lm, b, &plan, &d, &err)) {
        mull_cuda_refuse(m->c, err.code, "batch", err.todo, "%s", err.why);
        return;
    }
    run(lm, b, &plan, &d, tap);
}

/* Room for n rows of logits and of float32 hidden states. */
static bool need_logits(cuda_lm *lm, int64_t n) {
    mull_error err = {0};
    int rc = MULL_OK;
    if (n > lm->logit_rows) {
        mull_cuda_release(lm->m->c, lm->logits);
        lm->logits = NULL;
        lm->logit_rows = 0;
        void *p;
        rc = mull_cuda_alloc(lm->m->c, (size_t)n * (size_t)(lm->config->vocab + lm->config->hidden) * sizeof(float),
                             "logits", &p, &err);
        if (!rc) {
            lm->logits = p;
            lm->logit_rows = n;
        }
    }
    if (!rc) rc = reserve_products(lm, n > lm->max_rows ? n : lm->max_rows, false, &err);
    if (!rc && lm->m->head.type == MULL_I8) {
        size_t quant, product;
        mull_cuda_linear_scratch(n, lm->m->head.n, lm->m->head.k, &quant, &product);
        rc = mull_cuda_reserve(lm->m->c, MULL_CUDA_QUANT, quant, &err);
        if (!rc) rc = mull_cuda_reserve(lm->m->c, MULL_CUDA_PRODUCT, product, &err);
    }
    if (rc) mull_cuda_refuse(lm->m->c, err.code, "logits", err.todo, "%s", err.why);
    return !rc && !mull_cuda_failed(lm->m->c);
}

void mull__cuda_lm_hidden(void *p, const int32_t *rows, int64_t n, float *out) {
    cuda_lm *lm = p;
    const mull_config *c = lm->config;
    if (!need_logits(lm, n)) return;
    float *hidden = lm->logits + lm->logit_rows * c->vocab;
    mull_cuda_put(lm->m->c, lm->rows, rows, (size_t)n * sizeof *rows);
    mull_cuda_rmsnorm(lm->m->c, lm->x, lm->rows, n, c->hidden, lm->m->norm, c->rms_eps, hidden, MULL_F32);
    mull_cuda_get(lm->m->c, out, hidden, (size_t)(n * c->hidden) * sizeof *out, NULL);
}

/* Logits of n rows of T in lm->norm, to lm->logits. */
static void head(cuda_lm *lm, int64_t n) {
    const mull_config *c = lm->config;
    mull_cuda_linear(lm->m->c, lm->norm, n, c->hidden, &lm->m->head, NULL, lm->logits, MULL_F32, c->vocab, false);
}

static void get_logits(cuda_lm *lm, int64_t n, float *logits) {
    mull_cuda_get(lm->m->c, logits, lm->logits, (size_t)(n * lm->config->vocab) * sizeof *logits, NULL);
}

/* The final norm of the rows named, to lm->norm. */
static void norm_rows(cuda_lm *lm, const int32_t *rows, int64_t n) {
    const mull_config *c = lm->config;
    mull_cuda_put(lm->m->c, lm->rows, rows, (size_t)n * sizeof *rows);
    mull_cuda_rmsnorm(lm->m->c, lm->x, lm->rows, n, c->hidden, lm->m->norm, c->rms_eps, lm->norm, lm->m->t);
}

void mull__cuda_lm_logits(void *p, const float *hidden, int64_t n, float *logits) {
    cuda_lm *lm = p;
    const mull_config *c = lm->config;
    if (!need_logits(lm, n)) return;
    float *on_device = lm->logits + lm->logit_rows * c->vocab;
    mull_cuda_put(lm->m->c, on_device, hidden, (size_t)(n * c->hidden) * sizeof *hidden);
    mull_cuda_convert(lm->m->c, on_device, n * c->hidden, lm->norm, lm->m->t);
    head(lm, n);
    get_logits(lm, n, logits);
}

void mull__cuda_lm_row_logits(void *p, const int32_t *rows, int64_t n, float *logits) {
    cuda_lm *lm = p;
    if (!need_logits(lm, n)) return;
    norm_rows(lm, rows, n);
    head(lm, n);
    get_logits(lm, n, logits);
}

/* The parts of a choice's data. */
typedef struct choice {
    mull_cuda_sampling *how;
    uint64_t *banned, *seen;
    int32_t *ids;
    float *logprobs;
} choice;

static void lay_out_choice(mull_cuda_arena *a, int64_t n, int64_t slots, size_t words, choice *o) {
    o->how = mull_cuda_part(a, (size_t)n * sizeof *o->how);
    o->banned = mull_cuda_part(a, words * sizeof *o->banned);
    o->seen = mull_cuda_part(a, (size_t)slots * words * sizeof *o->seen);
    o->ids = mull_cuda_part(a, (size_t)n * sizeof *o->ids);
    o->logprobs = mull_cuda_part(a, (size_t)n * sizeof *o->logprobs);
}

/* The batch's data are not needed any more: their place is used again, in the order of the stream. */
void mull__cuda_lm_choose(void *p, const int32_t *rows, int64_t n, const mull_lm_choice *how, const uint64_t *banned,
                          int32_t *ids, float *logprobs) {
    cuda_lm *lm = p;
    mull_cuda *gpu = lm->m->c;
    int64_t vocab = lm->config->vocab, slots = 0;
    size_t words = ((size_t)vocab + 63) / 64;
    mull_error err = {0};
    if (!need_logits(lm, n)) return;
    norm_rows(lm, rows, n);
    head(lm, n);
    for (int64_t i = 0; i < n; i++) slots += how[i].seen != NULL;
    mull_cuda_arena a = {0};
    choice o;
    lay_out_choice(&a, n, slots, words, &o);
    size_t bytes = a.used;
    int rc = grow_meta(lm, bytes, &err);
    if (!rc) rc = mull_cuda_reserve(gpu, MULL_CUDA_SAMPLE, (size_t)(n * vocab) * sizeof(float), &err);
    if (rc) {
        mull_cuda_refuse(gpu, err.code, "sample", err.todo, "%s", err.why);
        return;
    }
    a = (mull_cuda_arena){.base = lm->host};
    lay_out_choice(&a, n, slots, words, &o);
    if (banned)
        memcpy(o.banned, banned, words * sizeof *banned);
    else
        memset(o.banned, 0, words * sizeof *banned);
    int32_t slot = 0;
    for (int64_t i = 0; i < n; i++) {
        if (how[i].seen) memcpy(o.seen + (size_t)slot * words, how[i].seen, words * sizeof *o.seen);
        o.how[i] = (mull_cuda_sampling){.temperature = how[i].temperature,
                                        .top_p = how[i].top_p,
                                        .penalty = how[i].penalty,
                                        .top_k = how[i].top_k,
                                        .row = (int32_t)i,
                                        .slot = how[i].seen ? slot++ : -1,
                                        .seed = how[i].seed,
                                        .index = how[i].index};
    }
    size_t inputs = (size_t)((char *)o.ids - lm->host);
    mull_cuda_put(gpu, lm->meta, lm->host, inputs);
    a = (mull_cuda_arena){.base = lm->meta};
    lay_out_choice(&a, n, slots, words, &o);
    mull_cuda_sample(gpu, lm->logits, vocab, o.how, n, (const uint32_t *)o.banned, slots ? (uint32_t *)o.seen : NULL,
                     (int64_t)words * 2, o.ids, logprobs ? o.logprobs : NULL);
    mull_cuda_get(gpu, ids, o.ids, (size_t)n * sizeof *ids, NULL);
    if (logprobs) mull_cuda_get(gpu, logprobs, o.logprobs, (size_t)n * sizeof *logprobs, NULL);
}
