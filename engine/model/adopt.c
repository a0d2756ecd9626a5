/* See adopt.h. The packed matrices are a second copy of the weights: products with a few rows need the packed order,
 * and packing is one pass over memory, far cheaper than a step. */
#include "engine/model/adopt.h"

#include "engine/model/model_internal.h"
#include "engine/model/vision.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct adoption {
    mull_model *m;
    mull_weight_source source;
    void *ctx;
    bool failed;
} adoption;

typedef struct rows_job {
    mull_matrix *w;
    const char *data;
    mull_dtype type;
    int64_t to, rows, cols;
} rows_job;

static void rows_task(void *ctx, int part, int parts) {
    rows_job *j = ctx;
    /* Whole panels of 32 rows a part: no two threads write one cache line. */
    int64_t blocks = (j->rows + 31) / 32, a = blocks * part / parts * 32, b = blocks * (part + 1) / parts * 32;
    if (b > j->rows) b = j->rows;
    if (b > a)
        mull_matrix_set_rows(j->w, j->to + a, b - a, j->data + (size_t)(a * j->cols) * mull_dtype_size(j->type),
                             j->type);
}

/* The named tensors, one below the other, into *w, which is made when it is not there. */
static void matrix(adoption *a, mull_matrix **w, mull_weight_type type, const char *prefix, const char *const *names,
                   const int64_t *rows, int n, int64_t cols) {
    int64_t total = 0, at = 0;
    for (int i = 0; i < n; i++) total += rows[i];
    if (a->failed || (!*w && mull_matrix_create(total, cols, type, w, NULL))) {
        a->failed = true;
        return;
    }
    for (int i = 0; i < n && !a->failed; at += rows[i++]) {
        char full[80];
        snprintf(full, sizeof full, "%s%s", prefix, names[i]);
        rows_job j = {.w = *w, .to = at, .rows = rows[i], .cols = cols};
        j.data = a->source(a->ctx, full, &j.type);
        if (!j.data)
            a->failed = true;
        else
            mull_pool_run(at % 32 ? NULL : a->m->pool, rows_task, &j, 4 * mull_pool_threads(a->m->pool));
    }
}

static void vectors(adoption *a, float **x, const char *prefix, const char *const *names, const int64_t *count, int n) {
    int64_t total = 0, at = 0;
    for (int i = 0; i < n; i++) total += count[i];
    if (!*x) *x = aligned_alloc(64, ((size_t)total * sizeof **x + 63) & ~(size_t)63);
    if (!*x) a->failed = true;
    for (int i = 0; i < n && !a->failed; at += count[i++]) {
        char full[80];
        mull_dtype type;
        snprintf(full, sizeof full, "%s%s", prefix, names[i]);
        const void *data = a->source(a->ctx, full, &type);
        if (!data)
            a->failed = true;
        else
            mull_to_f32(data, type, (size_t)count[i], *x + at);
    }
}

static void layer(adoption *a, int i) {
    static const char *const qkv[] = {"self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"};
    static const char *const bias[] = {"self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"};
    static const char *const gate_up[] = {"mlp.gate_proj.weight", "mlp.up_proj.weight"};
    const mull_config *c = &a->m->config;
    mull_lm_layer *y = &a->m->weights.layers[i];
    mull_weight_type t = a->m->type;
    int64_t h = c->hidden, f = c->intermediate, q = (int64_t)c->heads * c->head_dim,
            kv = (int64_t)c->kv_heads * c->head_dim;
    char p[40];
    snprintf(p, sizeof p, "model.layers.%d.", i);
    vectors(a, &y->input_norm, p, (const char *[]){"input_layernorm.weight"}, &h, 1);
    vectors(a, &y->post_norm, p, (const char *[]){"post_attention_layernorm.weight"}, &h, 1);
    matrix(a, &y->qkv, t, p, qkv, (int64_t[]){q, kv, kv}, 3, h);
    vectors(a, &y->qkv_bias, p, bias, (int64_t[]){q, kv, kv}, 3);
    matrix(a, &y->o, t, p, (const char *[]){"self_attn.o_proj.weight"}, &h, 1, q);
    matrix(a, &y->gate_up, t, p, gate_up, (int64_t[]){f, f}, 2, h);
    matrix(a, &y->down, t, p, (const char *[]){"mlp.down_proj.weight"}, &h, 1, f);
}

static int done(const adoption *a, mull_error *err) {
    if (!a->failed) return MULL_OK;
    return mull_fail(err, MULL_ENOMEM, "cannot use the weights for rollouts", "", "train with bf16: true, or use LoRA",
                     "the packed weights do not fit into memory");
}

int mull_model_adopt(mull_model *m, mull_weight_source source, void *ctx, mull_error *err) {
    adoption a = {.m = m, .source = source, .ctx = ctx};
    const mull_config *c = &m->config;
    mull_weights *w = &m->weights;
    int64_t v = c->vocab, h = c->hidden;
    mull_weight_type embed = m->type == MULL_WEIGHT_INT8 ? MULL_WEIGHT_BF16 : m->type;
    if (!w->layers) w->layers = calloc((size_t)c->layers, sizeof *w->layers);
    a.failed = !w->layers;
    matrix(&a, &w->embed, embed, "", (const char *[]){"model.embed_tokens.weight"}, &v, 1, h);
    if (c->tied && embed == m->type)
        w->head = w->embed;
    else
        matrix(&a, &w->head, m->type, "", (const char *[]){c->tied ? "model.embed_tokens.weight" : "lm_head.weight"},
               &v, 1, h);
    vectors(&a, &w->norm, "", (const char *[]){"model.norm.weight"}, &h, 1);
    for (int i = 0; !a.failed && i < c->layers; i++) layer(&a, i);
    return done(&a, err);
}

/* ---- the tower: its packed weights are there since the model was loaded */
static void tower_matrix(adoption *a, mull_matrix *w, const char *prefix, const char *name, int64_t rows,
                         int64_t cols) {
    matrix(a, &w, a->m->type, prefix, &name, &rows, 1, cols);
}

static void tower_vector(adoption *a, float *x, const char *prefix, const char *name, int64_t count) {
    vectors(a, &x, prefix, &name, &count, 1);
}

static void block(adoption *a, int i) {
    const mull_vision_config *v = &a->m->config.vision;
    mull_vision_block *y = &a->m->weights.vision.blocks[i];
    int64_t e = v->hidden, f = v->intermediate;
    char p[40];
    snprintf(p, sizeof p, "visual.blocks.%d.", i);
    tower_vector(a, y->norm1, p, "norm1.weight", e);
    tower_vector(a, y->norm2, p, "norm2.weight", e);
    tower_matrix(a, y->qkv, p, "attn.qkv.weight", 3 * e, e);
    tower_vector(a, y->qkv_bias, p, "attn.qkv.bias", 3 * e);
    tower_matrix(a, y->proj, p, "attn.proj.weight", e, e);
    tower_vector(a, y->proj_bias, p, "attn.proj.bias", e);
    matrix(a, &y->gate_up, a->m->type, p, (const char *[]){"mlp.gate_proj.weight", "mlp.up_proj.weight"},
           (int64_t[]){f, f}, 2, e);
    vectors(a, &y->gate_up_bias, p, (const char *[]){"mlp.gate_proj.bias", "mlp.up_proj.bias"}, (int64_t[]){f, f}, 2);
    tower_matrix(a, y->down, p, "mlp.down_proj.weight", e, f);
    tower_vector(a, y->down_bias, p, "mlp.down_proj.bias", e);
}

int mull_model_adopt_tower(mull_model *m, mull_weight_source source, void *ctx, mull_error *err) {
    static const char MERGER[] = "visual.merger.";
    adoption a = {.m = m, .source = source, .ctx = ctx};
    const mull_vision_config *v = &m->config.vision;
    mull_vision_weights *w = &m->weights.vision;
    int64_t e = v->hidden, wide = e * v->merge * v->merge, h = v->out_hidden;
    tower_matrix(&a, w->patch_embed, "", "visual.patch_embed.proj.weight", e, mull_vision_patch_floats(v));
    for (int i = 0; !a.failed && i < v->depth; i++) block(&a, i);
    tower_vector(&a, w->ln_q, MERGER, "ln_q.weight", e);
    tower_matrix(&a, w->merge0, MERGER, "mlp.0.weight", wide, wide);
    tower_vector(&a, w->merge0_bias, MERGER, "mlp.0.bias", wide);
    tower_matrix(&a, w->merge2, MERGER, "mlp.2.weight", h, wide);
    tower_vector(&a, w->merge2_bias, MERGER, "mlp.2.bias", h);
    return done(&a, err);
}
