/* The forward pass over a case; see forward.h. Rows go through in chunks that may cross sequences, over a private cache
 * with one run of pages per sequence, exactly as the inference engine would do it. */
#include "engine/model/forward.h"

#include "engine/model/lm.h"
#include "engine/model/vision.h"
#include "engine/model/vision_windows.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK_ROWS = 512, LOGIT_ROWS = 32, TOP = 8 };

typedef struct run {
    const mull_model *m;
    const mull_config *c;
    const mull_case *k;
    const mull_forward_opts *opts;
    mull_outputs *out;
    mull_error *err;
    mull_tap tap;
    /* outputs, owned by out */
    int32_t *pos; /* [3, T], int32 copy for the model */
    float *vision, *embeds, *final, *last, *lse, *top_logits, *next;
    float **hidden; /* [layers] with all */
    int64_t *argmax, *top_ids;
    float **seen; /* tensors of the medium that runs now, with all: [1 + depth] */
    int64_t row0; /* of the chunk that runs now */
    /* working memory */
    const float **features;
    float *logits;
    void *kv, *vision_buffer; /* buffers of the model; the second only where that is not the host */
    mull_kv_view *views;
    int32_t *pages, *page0; /* page table of all sequences, [nseq] where each starts */
    mull_attn_seq *seqs;
    mull_lm *lm;
} run;

static int nomem(run *r) {
    return mull_fail(r->err, MULL_ENOMEM, "cannot run the case", "", "", "out of memory for %lld tokens",
                     (long long)r->k->rows);
}

/* A zeroed output tensor, NULL on no memory. */
static void *add(run *r, mull_dtype type, const char *name, int ndim, int64_t d0, int64_t d1) {
    mull_outputs *o = r->out;
    if (o->n == o->cap) {
        size_t cap = o->cap ? 2 * o->cap : 32;
        mull_tensor_info *t = realloc(o->tensors, cap * sizeof *t);
        if (!t) return NULL;
        o->tensors = t;
        o->cap = cap;
    }
    int64_t count = ndim == 2 ? d0 * d1 : d0;
    char *copy = strdup(name);
    void *data = calloc((size_t)count + 1, mull_dtype_size(type));
    if (!copy || !data) {
        free(copy);
        free(data);
        return NULL;
    }
    o->tensors[o->n++] =
        (mull_tensor_info){.name = copy, .dtype = type, .ndim = ndim, .shape = {d0, d1}, .count = count, .data = data};
    return data;
}

static void *add_named(run *r, mull_dtype type, int64_t d0, int64_t d1, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
static void *add_named(run *r, mull_dtype type, int64_t d0, int64_t d1, const char *fmt, ...) {
    char name[64];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(name, sizeof name, fmt, ap);
    va_end(ap);
    return add(r, type, name, d1 ? 2 : 1, d0, d1);
}

const mull_tensor_info *mull_outputs_find(const mull_outputs *o, const char *name) {
    for (size_t i = 0; i < o->n; i++)
        if (!strcmp(o->tensors[i].name, name)) return &o->tensors[i];
    return NULL;
}

void mull_outputs_fini(mull_outputs *o) {
    for (size_t i = 0; i < o->n; i++) {
        free((void *)(uintptr_t)o->tensors[i].name);
        free((void *)(uintptr_t)o->tensors[i].data);
    }
    free(o->tensors);
    *o = (mull_outputs){0};
}

static int positions(run *r) {
    const mull_case *k = r->k;
    int64_t *ids = add(r, MULL_I64, "position_ids", 2, 3, k->rows),
            *delta = add(r, MULL_I64, "rope_delta", 1, k->nseq, 0);
    r->pos = malloc(3 * (size_t)k->rows * sizeof *r->pos);
    size_t *first = malloc((k->nmedia + 1) * sizeof *first);
    r->features = calloc((size_t)k->rows, sizeof *r->features);
    if (!ids || !delta || !r->pos || !first || !r->features) {
        free(first);
        return nomem(r);
    }
    int rc = MULL_OK;
    const float *feature = r->vision_buffer ? r->vision_buffer : r->vision;
    for (int s = 0; s < k->nseq && !rc; s++) {
        size_t m0 = k->media_cu[s], nm = k->media_cu[s + 1] - m0, at = (size_t)k->cu[s];
        rc = mull_positions(r->c, k->ids + at, (size_t)k->cu[s + 1] - at, k->media + m0, nm, r->pos + at,
                            (size_t)k->rows, &delta[s], first, r->err);
        for (size_t i = 0; i < nm && !rc; i++) {
            int64_t n = mull_grid_tokens(r->c, &k->media[m0 + i]);
            for (int64_t j = 0; j < n; j++, feature += r->c->hidden) r->features[at + first[i] + (size_t)j] = feature;
        }
    }
    for (int64_t i = 0; i < 3 * k->rows && !rc; i++) ids[i] = r->pos[i];
    free(first);
    return rc;
}

static void see(void *ctx, mull_stage stage, int index, const float *x, int64_t row0, int64_t rows, int64_t cols) {
    run *r = ctx;
    float *to = stage == MULL_STAGE_PATCH_EMBED    ? r->seen[0]
                : stage == MULL_STAGE_VISION_BLOCK ? r->seen[1 + index]
                : stage == MULL_STAGE_EMBED        ? r->embeds
                : r->hidden                        ? r->hidden[index]
                                                   : NULL;
    if (stage == MULL_STAGE_EMBED || stage == MULL_STAGE_LAYER) row0 += r->row0;
    if (to) memcpy(to + row0 * cols, x, (size_t)(rows * cols) * sizeof(float));
}

/* The outputs that describe medium i's way through the tower. */
static int add_vision_layers(run *r, size_t i) {
    const mull_vision_config *v = &r->c->vision;
    const mull_grid *g = &r->k->media[i];
    int64_t n = g->t * g->h * g->w;
    r->seen[0] = add_named(r, MULL_F32, n, v->hidden, "media.%zu.vision.patch_embed", i);
    bool ok = r->seen[0] != NULL;
    for (int b = 0; b < v->depth; b++)
        ok &= (r->seen[1 + b] = add_named(r, MULL_F32, n, v->hidden, "media.%zu.vision.block.%d", i, b)) != NULL;
    mull_windows w;
    int rc = mull_windows_init(&w, v, g->h, g->w, r->err);
    if (rc) return rc;
    int64_t *order = add_named(r, MULL_I64, g->t * w.units, 0, "media.%zu.vision.window_index", i);
    int64_t *cu = add_named(r, MULL_I64, g->t * w.n + 1, 0, "media.%zu.vision.cu_window_seqlens", i);
    ok &= order && cu;
    for (int64_t t = 0; ok && t < g->t; t++) {
        for (int64_t u = 0; u < w.units; u++) order[t * w.units + u] = t * w.units + w.order[u];
        for (int s = 1; s <= w.n; s++) cu[t * w.n + s] = t * g->h * g->w + w.cu[s];
    }
    mull_windows_fini(&w);
    return ok ? MULL_OK : nomem(r);
}

static int encode_media(run *r) {
    const mull_case *k = r->k;
    int64_t units = 0;
    for (size_t i = 0; i < k->nmedia; i++) units += mull_grid_tokens(r->c, &k->media[i]);
    if (!units) return MULL_OK;
    r->vision = add(r, MULL_F32, "vision_out", 2, units, r->c->hidden);
    r->seen = calloc((size_t)r->c->vision.depth + 1, sizeof *r->seen);
    if (!r->vision || !r->seen) return nomem(r);
    size_t bytes = (size_t)(units * r->c->hidden) * sizeof(float);
    if (!mull_model_on_host(r->m)) {
        int rc = mull_model_buffer(r->m, bytes, "features of media", &r->vision_buffer, r->err);
        if (rc) return rc;
    }
    float *out = r->vision_buffer ? r->vision_buffer : r->vision;
    for (size_t i = 0; i < k->nmedia; i++) {
        const mull_grid *g = &k->media[i];
        int rc = r->opts->all ? add_vision_layers(r, i) : MULL_OK;
        if (!rc)
            rc = mull_vision_encode(r->m, k->patches[i], (int64_t[]){g->t, g->h, g->w}, out,
                                    r->opts->all ? &r->tap : NULL, r->err);
        if (rc) return rc;
        out += mull_grid_tokens(r->c, g) * r->c->hidden;
    }
    return r->vision_buffer ? mull_model_buffer_read(r->m, r->vision, r->vision_buffer, bytes, r->err) : MULL_OK;
}

static int add_outputs(run *r) {
    const mull_case *k = r->k;
    int64_t t = k->rows, h = r->c->hidden, v = r->c->vocab;
    r->embeds = add(r, MULL_F32, "inputs_embeds", 2, t, h);
    r->final = add(r, MULL_F32, "hidden_final", 2, t, h);
    r->last = k->nseq > 1 ? add(r, MULL_F32, "logits_last", 2, k->nseq, v) : add(r, MULL_F32, "logits_last", 1, v, 0);
    r->lse = add(r, MULL_F32, "logsumexp", 1, t, 0);
    r->argmax = add(r, MULL_I64, "argmax", 1, t, 0);
    r->top_ids = add(r, MULL_I64, "top8_ids", 2, t, TOP);
    r->top_logits = add(r, MULL_F32, "top8_logits", 2, t, TOP);
    r->next = add(r, MULL_F32, "next_logprob", 1, t - k->nseq, 0);
    bool ok = r->embeds && r->final && r->last && r->lse && r->argmax && r->top_ids && r->top_logits && r->next;
    if (r->opts->all) {
        r->hidden = calloc((size_t)r->c->layers, sizeof *r->hidden);
        for (int i = 0; r->hidden && i < r->c->layers; i++)
            ok &= (r->hidden[i] = add_named(r, MULL_F32, t, h, "hidden.%d", i)) != NULL;
        ok &= r->hidden != NULL;
    }
    return ok ? MULL_OK : nomem(r);
}

/* The cache: every sequence has its own run of pages, one after the other. */
static int make_cache(run *r) {
    const mull_case *k = r->k;
    int64_t layer = (int64_t)r->c->kv_heads * MULL_PAGE_TOKENS * r->c->head_dim, page = 2 * layer * r->c->layers;
    r->page0 = malloc((size_t)k->nseq * sizeof *r->page0);
    r->seqs = malloc((size_t)k->nseq * sizeof *r->seqs);
    r->views = malloc((size_t)r->c->layers * sizeof *r->views);
    if (!r->page0 || !r->seqs || !r->views) return nomem(r);
    int32_t n = 0;
    for (int s = 0; s < k->nseq; s++) {
        r->page0[s] = n;
        n += (k->cu[s + 1] - k->cu[s] + MULL_PAGE_TOKENS - 1) / MULL_PAGE_TOKENS;
    }
    r->pages = malloc((size_t)n * sizeof *r->pages);
    if (!r->pages) return nomem(r);
    size_t e = mull_model_kv_element(r->m), slack = 32 * e; /* mull_kv_view asks for it */
    int rc = mull_model_buffer(r->m, (size_t)n * (size_t)page * e + slack, "keys and values", &r->kv, r->err);
    if (rc) return rc;
    if (mull_model_on_host(r->m)) memset(r->kv, 0, (size_t)n * (size_t)page * e + slack);
    for (int32_t p = 0; p < n; p++) r->pages[p] = p;
    for (int i = 0; i < r->c->layers; i++)
        r->views[i] = (mull_kv_view){.k = (float *)(void *)((char *)r->kv + (size_t)(2 * i * layer) * e),
                                     .v = (float *)(void *)((char *)r->kv + (size_t)((2 * i + 1) * layer) * e),
                                     .page_stride = page,
                                     .page_tokens = MULL_PAGE_TOKENS,
                                     .kv_heads = r->c->kv_heads,
                                     .hd = r->c->head_dim};
    return MULL_OK;
}

/* logsumexp, best 8 and next log-prob of row t with these logits. */
static void describe(run *r, int64_t t, int s, const float *logits) {
    const mull_case *k = r->k;
    float *top = r->top_logits + t * TOP;
    int64_t *ids = r->top_ids + t * TOP;
    int n = 0;
    for (int64_t i = 0; i < r->c->vocab; i++) {
        if (n == TOP && !(logits[i] > top[TOP - 1])) continue;
        int at = n < TOP ? n++ : TOP - 1;
        for (; at > 0 && logits[i] > top[at - 1]; at--) {
            top[at] = top[at - 1];
            ids[at] = ids[at - 1];
        }
        top[at] = logits[i];
        ids[at] = i;
    }
    double sum = 0;
    for (int64_t i = 0; i < r->c->vocab; i++) sum += exp((double)(logits[i] - top[0]));
    double lse = (double)top[0] + log(sum);
    r->lse[t] = (float)lse;
    r->argmax[t] = ids[0];
    if (t + 1 < k->cu[s + 1])
        r->next[t - s] = (float)((double)logits[k->ids[t + 1]] - lse);
    else
        memcpy(r->last + s * (int64_t)r->c->vocab, logits, (size_t)r->c->vocab * sizeof(float));
}

/* Rows [a, b) of the packed case. */
static void run_chunk(run *r, int64_t a, int64_t b) {
    const mull_case *k = r->k;
    int n = 0;
    for (int s = 0; s < k->nseq; s++) {
        int64_t from = a > k->cu[s] ? a : k->cu[s], to = b < k->cu[s + 1] ? b : k->cu[s + 1];
        if (from < to)
            r->seqs[n++] = (mull_attn_seq){
                .row0 = from - a, .rows = to - from, .pos0 = from - k->cu[s], .pages = r->pages + r->page0[s]};
    }
    r->row0 = a;
    mull_lm_run(r->lm,
                &(mull_lm_batch){.rows = b - a,
                                 .ids = k->ids + a,
                                 .features = r->features + a,
                                 .pos = r->pos + a,
                                 .pos_stride = k->rows,
                                 .seqs = r->seqs,
                                 .nseq = n,
                                 .kv = r->views},
                &r->tap);
    int s = 0;
    for (int64_t t = a; t < b; t += LOGIT_ROWS) {
        int32_t rows[LOGIT_ROWS];
        int64_t want = b - t < LOGIT_ROWS ? b - t : LOGIT_ROWS;
        for (int64_t i = 0; i < want; i++) rows[i] = (int32_t)(t - a + i);
        mull_lm_hidden(r->lm, rows, want, r->final + t * r->c->hidden);
        mull_lm_logits(r->lm, r->final + t * r->c->hidden, want, r->logits);
        for (int64_t i = 0; i < want; i++) {
            while (t + i >= k->cu[s + 1]) s++;
            describe(r, t + i, s, r->logits + i * r->c->vocab);
        }
    }
}

int mull_forward(const mull_model *m, const mull_case *k, const mull_forward_opts *opts, mull_outputs *out,
                 mull_error *err) {
    run r = {.m = m, .c = mull_model_config(m), .k = k, .opts = opts, .out = out, .err = err};
    r.tap = (mull_tap){.ctx = &r, .see = see};
    *out = (mull_outputs){0};
    int64_t chunk = opts->chunk > 0 ? opts->chunk : CHUNK_ROWS;
    if (chunk > k->rows) chunk = k->rows;
    int rc = encode_media(&r);
    if (!rc) rc = positions(&r);
    if (!rc) rc = add_outputs(&r);
    if (!rc) rc = make_cache(&r);
    if (!rc) rc = mull_lm_create(m, chunk, &r.lm, err);
    if (!rc && !(r.logits = malloc((size_t)LOGIT_ROWS * (size_t)r.c->vocab * sizeof(float)))) rc = nomem(&r);
    for (int64_t a = 0; !rc && a < k->rows; a += chunk) {
        run_chunk(&r, a, a + chunk < k->rows ? a + chunk : k->rows);
        rc = mull_model_status(m, err);
    }
    mull_lm_destroy(r.lm);
    free(r.pos);
    free(r.features);
    free(r.seen);
    free(r.hidden);
    free(r.logits);
    mull_model_buffer_free(m, r.kv);
    mull_model_buffer_free(m, r.vision_buffer);
    free(r.views);
    free(r.pages);
    free(r.page0);
    free(r.seqs);
    if (rc) mull_outputs_fini(out);
    return rc;
}
