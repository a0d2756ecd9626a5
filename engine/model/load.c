/* Loading a checkpoint. First every tensor is looked up and checked, and all that is wrong is told at once; only then
 * is memory taken. Matrices are packed in pieces straight from the map, whose pages are given back piece by piece, so
 * the peak is the packed weights and one piece. */
#include "engine/core/buf.h"
#include "engine/model/model_internal.h"
#include "engine/model/safetensors.h"

#include <stdlib.h>
#include <string.h>

static const char *const WHAT = "cannot load checkpoint";
enum { PIECE_ROWS = 1024, COMPLAINT_BYTES = 5600 }; /* what one error line holds */

typedef struct loader {
    mull_model *m;
    const char *dir;
    mull_safetensors *file;
    mull_weight_spec *specs;
    const mull_tensor_info **found; /* [nspecs] */
    size_t nspecs, nomem;
    mull_weight_type vision_type, type;
} loader;

/* ---- checking */
typedef struct complaints {
    mull_buf text;
    size_t n, shown;
} complaints;

static void complain(complaints *c, const char *kind, const char *name, const char *detail) {
    c->n++;
    if (c->text.len + strlen(name) + strlen(detail) + 20 > COMPLAINT_BYTES) return;
    c->shown++;
    mull_buf_printf(&c->text, "%s%s %s%s%s", c->text.len ? ", " : "", kind, name, *detail ? " " : "", detail);
}

static void shape_text(char *buf, size_t cap, int n, const int64_t *shape) {
    size_t at = (size_t)snprintf(buf, cap, "[");
    for (int i = 0; i < n && at < cap; i++)
        at += (size_t)snprintf(buf + at, cap - at, "%s%lld", i ? "," : "", (long long)shape[i]);
    if (at < cap) snprintf(buf + at, cap - at, "]");
}

static int by_name(const void *a, const void *b) {
    return strcmp((*(const mull_weight_spec *const *)a)->name, (*(const mull_weight_spec *const *)b)->name);
}

static bool same_shape(const mull_weight_spec *s, const mull_tensor_info *t) {
    return s->ndim == t->ndim && !memcmp(s->shape, t->shape, (size_t)s->ndim * sizeof *s->shape);
}

/* A tied checkpoint may repeat the embedding as lm_head; buffers of old saves carry nothing. */
static bool harmless(const loader *l, const mull_tensor_info *t, const char *name) {
    size_t n = strlen(name);
    if (n > 8 && !strcmp(name + n - 8, "inv_freq")) return true;
    if (!l->m->config.tied || strcmp(name, "lm_head.weight")) return false;
    for (size_t i = 0; i < l->nspecs; i++) {
        const mull_tensor_info *e = l->found[i];
        if (strcmp(l->specs[i].name, "model.embed_tokens.weight")) continue;
        bool same = e && e->dtype == t->dtype && e->count == t->count &&
                    !memcmp(e->data, t->data, (size_t)t->count * mull_dtype_size(t->dtype));
        mull_safetensors_drop(l->file, t);
        if (e) mull_safetensors_drop(l->file, e);
        return same;
    }
    return false;
}

static int check(loader *l, mull_error *err) {
    complaints c = {0};
    char buf[160], detail[200];
    const mull_weight_spec **sorted = malloc((l->nspecs + 1) * sizeof *sorted);
    l->found = calloc(l->nspecs + 1, sizeof *l->found);
    if (!sorted || !l->found) {
        free(sorted);
        return mull_fail(err, MULL_ENOMEM, WHAT, l->dir, NULL, "out of memory");
    }
    for (size_t i = 0; i < l->nspecs; i++) sorted[i] = &l->specs[i];
    qsort(sorted, l->nspecs, sizeof *sorted, by_name);
    const mull_tensor_info **extra = NULL;
    size_t nextra = 0;
    extra = malloc((mull_safetensors_count(l->file) + 1) * sizeof *extra);
    for (size_t i = 0; extra && i < mull_safetensors_count(l->file); i++) {
        const mull_tensor_info *t = mull_safetensors_at(l->file, i);
        mull_weight_spec key;
        const mull_weight_spec *kp = &key, **hit;
        snprintf(key.name, sizeof key.name, "%s", mull_weights_published_name(t->name, buf, sizeof buf));
        hit = strlen(t->name) < sizeof key.name ? bsearch(&kp, sorted, l->nspecs, sizeof *sorted, by_name) : NULL;
        if (!hit) {
            extra[nextra++] = t;
            continue;
        }
        size_t at = (size_t)(*hit - l->specs);
        if (l->found[at]) complain(&c, "twice", t->name, "");
        l->found[at] = t;
        if (t->dtype != MULL_F32 && t->dtype != MULL_BF16 && t->dtype != MULL_F16)
            complain(&c, "wrong type", t->name, mull_dtype_name(t->dtype));
        else if (!same_shape(*hit, t)) {
            char got[80], want[80];
            shape_text(got, sizeof got, t->ndim, t->shape);
            shape_text(want, sizeof want, (*hit)->ndim, (*hit)->shape);
            snprintf(detail, sizeof detail, "%s, not %s", got, want);
            complain(&c, "mis-shaped", t->name, detail);
        }
    }
    for (size_t i = 0; i < l->nspecs; i++)
        if (!l->found[i]) complain(&c, "missing", l->specs[i].name, "");
    for (size_t i = 0; i < nextra; i++)
        if (!harmless(l, extra[i], mull_weights_published_name(extra[i]->name, buf, sizeof buf)))
            complain(&c, "unexpected", extra[i]->name, "");
    int rc = MULL_OK;
    if (!extra)
        rc = mull_fail(err, MULL_ENOMEM, WHAT, l->dir, NULL, "out of memory");
    else if (c.n > c.shown)
        rc = mull_fail(err, MULL_EFORMAT, WHAT, l->dir, "use a complete checkpoint whose config.json fits its tensors",
                       "%zu tensors are wrong: %s and %zu more", c.n, c.text.data, c.n - c.shown);
    else if (c.n)
        rc = mull_fail(err, MULL_EFORMAT, WHAT, l->dir, "use a complete checkpoint whose config.json fits its tensors",
                       "%zu tensor%s wrong: %s", c.n, c.n == 1 ? " is" : "s are", c.text.data);
    mull_buf_fini(&c.text);
    free(extra);
    free(sorted);
    return rc;
}

/* ---- packing. A failure to get memory is counted and told once at the end. */
static const mull_tensor_info *tensor(const loader *l, const char *prefix, const char *name) {
    char full[80];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    for (size_t i = 0; i < l->nspecs; i++)
        if (!strcmp(l->specs[i].name, full)) return l->found[i];
    return NULL; /* not reached: every name asked for is on the list */
}

typedef struct piece_job {
    mull_matrix *w;
    const mull_tensor_info *t;
    int64_t to, from, rows, cols;
} piece_job;

static void piece_task(void *ctx, int part, int parts) {
    piece_job *j = ctx;
    /* Whole panels of 32 rows a part where the matrix starts on one: no two threads write one cache line. */
    int64_t blocks = (j->rows + 31) / 32, a = blocks * part / parts * 32, b = blocks * (part + 1) / parts * 32;
    if (b > j->rows) b = j->rows;
    size_t size = mull_dtype_size(j->t->dtype);
    if (b > a)
        mull_matrix_set_rows(j->w, j->to + a, b - a,
                             (const char *)j->t->data + (size_t)((j->from + a) * j->cols) * size, j->t->dtype);
}

static void put(loader *l, mull_matrix *w, int64_t row0, const mull_tensor_info *t) {
    int64_t rows = t->shape[0], cols = t->count / (rows ? rows : 1);
    size_t size = mull_dtype_size(t->dtype);
    for (int64_t r = 0; w && r < rows; r += PIECE_ROWS) {
        piece_job j = {w, t, row0 + r, r, rows - r < PIECE_ROWS ? rows - r : PIECE_ROWS, cols};
        mull_pool_run(row0 % 32 ? NULL : l->m->pool, piece_task, &j, mull_pool_threads(l->m->pool));
        mull_safetensors_drop_bytes((const char *)t->data + (size_t)(r * cols) * size, (size_t)(j.rows * cols) * size);
    }
}

static mull_matrix *matrix(loader *l, mull_weight_type type, int64_t rows, int64_t cols) {
    mull_matrix *w = NULL;
    if (mull_matrix_create(rows, cols, type, &w, NULL)) l->nomem++;
    return w;
}

static mull_matrix *one(loader *l, mull_weight_type type, const char *prefix, const char *name) {
    const mull_tensor_info *t = tensor(l, prefix, name);
    mull_matrix *w = matrix(l, type, t->shape[0], t->count / t->shape[0]);
    put(l, w, 0, t);
    return w;
}

/* Several tensors one below the other. */
static mull_matrix *stacked(loader *l, mull_weight_type type, const char *prefix, const char *const *names, int n) {
    int64_t rows = 0, at = 0;
    for (int i = 0; i < n; i++) rows += tensor(l, prefix, names[i])->shape[0];
    mull_matrix *w = matrix(l, type, rows, tensor(l, prefix, names[0])->shape[1]);
    for (int i = 0; i < n; i++) {
        const mull_tensor_info *t = tensor(l, prefix, names[i]);
        put(l, w, at, t);
        at += t->shape[0];
    }
    return w;
}

static float *vectors(loader *l, const char *prefix, const char *const *names, int n) {
    int64_t len = 0, at = 0;
    for (int i = 0; i < n; i++) len += tensor(l, prefix, names[i])->count;
    float *x = aligned_alloc(64, ((size_t)len * sizeof *x + 63) & ~(size_t)63);
    if (!x) l->nomem++;
    for (int i = 0; x && i < n; i++) {
        const mull_tensor_info *t = tensor(l, prefix, names[i]);
        mull_to_f32(t->data, t->dtype, (size_t)t->count, x + at);
        at += t->count;
    }
    l->m->bytes += (size_t)len * sizeof *x;
    return x;
}
static float *vector(loader *l, const char *prefix, const char *name) {
    return vectors(l, prefix, &name, 1);
}

static void load_vision(loader *l) {
    const mull_config *c = &l->m->config;
    mull_vision_weights *v = &l->m->weights.vision;
    mull_weight_type t = l->vision_type;
    v->patch_embed = one(l, t, "", "visual.patch_embed.proj.weight");
    v->blocks = calloc((size_t)c->vision.depth, sizeof *v->blocks);
    if (!v->blocks) l->nomem++;
    for (int i = 0; !l->nomem && i < c->vision.depth; i++) {
        mull_vision_block *b = &v->blocks[i];
        char p[40];
        snprintf(p, sizeof p, "visual.blocks.%d.", i);
        b->norm1 = vector(l, p, "norm1.weight");
        b->norm2 = vector(l, p, "norm2.weight");
        b->qkv = one(l, t, p, "attn.qkv.weight");
        b->qkv_bias = vector(l, p, "attn.qkv.bias");
        b->proj = one(l, t, p, "attn.proj.weight");
        b->proj_bias = vector(l, p, "attn.proj.bias");
        b->gate_up = stacked(l, t, p, (const char *[]){"mlp.gate_proj.weight", "mlp.up_proj.weight"}, 2);
        b->gate_up_bias = vectors(l, p, (const char *[]){"mlp.gate_proj.bias", "mlp.up_proj.bias"}, 2);
        b->down = one(l, t, p, "mlp.down_proj.weight");
        b->down_bias = vector(l, p, "mlp.down_proj.bias");
    }
    v->ln_q = vector(l, "visual.merger.", "ln_q.weight");
    v->merge0 = one(l, t, "visual.merger.", "mlp.0.weight");
    v->merge0_bias = vector(l, "visual.merger.", "mlp.0.bias");
    v->merge2 = one(l, t, "visual.merger.", "mlp.2.weight");
    v->merge2_bias = vector(l, "visual.merger.", "mlp.2.bias");
}

static void load_lm(loader *l) {
    const mull_config *c = &l->m->config;
    mull_weights *w = &l->m->weights;
    static const char *const qkv[] = {"self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"};
    static const char *const qkv_bias[] = {"self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"};
    mull_weight_type embed = l->type == MULL_WEIGHT_INT8 ? MULL_WEIGHT_BF16 : l->type;
    w->embed = one(l, embed, "", "model.embed_tokens.weight");
    if (!c->tied)
        w->head = one(l, l->type, "", "lm_head.weight");
    else
        w->head = embed == l->type ? w->embed : one(l, l->type, "", "model.embed_tokens.weight");
    w->layers = calloc((size_t)c->layers, sizeof *w->layers);
    if (!w->layers) l->nomem++;
    for (int i = 0; !l->nomem && i < c->layers; i++) {
        mull_lm_layer *y = &w->layers[i];
        char p[40];
        snprintf(p, sizeof p, "model.layers.%d.", i);
        y->input_norm = vector(l, p, "input_layernorm.weight");
        y->post_norm = vector(l, p, "post_attention_layernorm.weight");
        y->qkv = stacked(l, l->type, p, qkv, 3);
        y->qkv_bias = vectors(l, p, qkv_bias, 3);
        y->o = one(l, l->type, p, "self_attn.o_proj.weight");
        y->gate_up = stacked(l, l->type, p, (const char *[]){"mlp.gate_proj.weight", "mlp.up_proj.weight"}, 2);
        y->down = one(l, l->type, p, "mlp.down_proj.weight");
    }
    w->norm = vector(l, "", "model.norm.weight");
}

static size_t bytes_of(const mull_matrix *w) {
    return w ? mull_matrix_bytes(w) : 0;
}

static size_t matrix_bytes(const mull_model *m) {
    const mull_weights *w = &m->weights;
    size_t n = bytes_of(w->embed) + (w->head != w->embed ? bytes_of(w->head) : 0) + bytes_of(w->vision.patch_embed) +
               bytes_of(w->vision.merge0) + bytes_of(w->vision.merge2);
    for (int i = 0; i < m->config.vision.depth; i++) {
        const mull_vision_block *b = &w->vision.blocks[i];
        n += bytes_of(b->qkv) + bytes_of(b->proj) + bytes_of(b->gate_up) + bytes_of(b->down);
    }
    for (int i = 0; w->layers && i < m->config.layers; i++) {
        const mull_lm_layer *y = &w->layers[i];
        n += bytes_of(y->qkv) + bytes_of(y->o) + bytes_of(y->gate_up) + bytes_of(y->down);
    }
    return n;
}

/* The checkpoint's own type: that of its embedding. float16 has more digits than bf16, so it is kept as float32. */
static mull_weight_type own_type(const loader *l) {
    const mull_tensor_info *t = tensor(l, "", "model.embed_tokens.weight");
    return t->dtype == MULL_BF16 ? MULL_WEIGHT_BF16 : MULL_WEIGHT_F32;
}

int mull_model_check(const char *dir, const mull_config *c, mull_safetensors **out, mull_error *err) {
    mull_model shell = {.config = *c};
    loader l = {.dir = dir, .m = &shell};
    int rc = mull_safetensors_open(dir, &l.file, err);
    if (!rc) rc = mull_weights_list(c, &l.specs, &l.nspecs, err);
    if (!rc) rc = check(&l, err);
    free(l.specs);
    free(l.found);
    if (rc)
        mull_safetensors_close(l.file);
    else
        *out = l.file;
    return rc;
}

int mull_model_load(const char *dir, const mull_model_opts *opts, mull_model **out, mull_error *err) {
    loader l = {.dir = dir, .m = calloc(1, sizeof(mull_model))};
    if (!l.m) return mull_fail(err, MULL_ENOMEM, WHAT, dir, NULL, "out of memory");
    int rc = mull_config_load(dir, &l.m->config, err);
    if (!rc) rc = mull_safetensors_open(dir, &l.file, err);
    if (!rc) rc = mull_weights_list(&l.m->config, &l.specs, &l.nspecs, err);
    if (!rc) rc = check(&l, err);
    if (!rc && !(l.m->pool = mull_pool_create(opts ? opts->threads : 0)))
        rc = mull_fail(err, MULL_ENOMEM, WHAT, dir, NULL, "no threads could be started");
    if (!rc) {
        l.type = opts && !opts->weights_auto ? opts->weights : own_type(&l);
        /* The tower's share of the bytes is small and its errors reach every token: it is never quantised. */
        l.vision_type = l.type == MULL_WEIGHT_INT8 ? MULL_WEIGHT_BF16 : l.type;
        l.m->type = l.type;
        l.m->backend = opts ? opts->backend : NULL;
    }
    if (!rc && l.m->backend) {
        rc = l.m->backend->open(&l.m->config, l.file, l.type, opts->vision_only, &l.m->state, &l.m->bytes, err);
    } else if (!rc) {
        load_vision(&l);
        if (!l.nomem && !(opts && opts->vision_only)) load_lm(&l);
        if (l.nomem)
            rc = mull_fail(err, MULL_ENOMEM, WHAT, dir, "use --dtype bf16 or int8, or a machine with more memory",
                           "the weights do not fit into memory");
        else
            l.m->bytes += matrix_bytes(l.m);
    }
    mull_safetensors_close(l.file);
    free(l.specs);
    free(l.found);
    if (rc)
        mull_model_destroy(l.m);
    else
        *out = l.m;
    return rc;
}

void mull_model_destroy(mull_model *m) {
    if (!m) return;
    if (m->backend && m->state) m->backend->close(m->state);
    mull_weights_fini(&m->weights, &m->config);
    mull_config_fini(&m->config);
    mull_pool_destroy(m->pool);
    free(m);
}

const mull_config *mull_model_config(const mull_model *m) {
    return &m->config;
}
mull_pool *mull_model_pool(const mull_model *m) {
    return m->pool;
}
size_t mull_model_bytes(const mull_model *m) {
    return m->bytes;
}
