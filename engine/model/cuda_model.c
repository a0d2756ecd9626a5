/* The CUDA backend: loading and the table of its functions; see backend.h and cuda_model.h. Matrices lie row-major as
 * checkpoints store them, q, k, v and gate, up one below the other; int8 is quantised by row while it is uploaded, with
 * the same rounding as on the CPU. */
#include "engine/model/cuda_model.h"

#include "engine/model/rope.h"
#include "engine/model/weights.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct loader {
    mull_cuda_model *m;
    const mull_safetensors *file;
    mull_cuda_arena arena;
} loader;

/* The tensor prefix + name, under its published or its newer name. It is there: the file was checked. */
static const mull_tensor_info *find(const loader *l, const char *prefix, const char *name) {
    char published[96], buf[96];
    snprintf(published, sizeof published, "%s%s", prefix, name);
    const mull_tensor_info *t = mull_safetensors_find(l->file, published);
    for (size_t i = 0; !t && i < mull_safetensors_count(l->file); i++) {
        const mull_tensor_info *x = mull_safetensors_at(l->file, i);
        if (!strcmp(mull_weights_published_name(x->name, buf, sizeof buf), published)) t = x;
    }
    return t;
}

/* Converts n values at src into staged memory. */
static void convert(const void *src, mull_dtype from, size_t n, void *dst, mull_dtype to) {
    if (from == to) {
        memcpy(dst, src, n * mull_dtype_size(to));
        return;
    }
    if (to == MULL_F32) {
        mull_to_f32(src, from, n, dst);
        return;
    }
    float buf[512];
    for (size_t i = 0; i < n; i += 512) {
        size_t k = n - i < 512 ? n - i : 512;
        mull_to_f32((const char *)src + i * mull_dtype_size(from), from, k, buf);
        for (size_t j = 0; j < k; j++) ((uint16_t *)dst)[i + j] = mull_f32_to_bf16(buf[j]);
    }
}

static void put(mull_cuda_model *m, void *dst, mull_dtype to, const mull_tensor_info *t) {
    size_t each = MULL_CUDA_STAGE / sizeof(float), from = mull_dtype_size(t->dtype), size = mull_dtype_size(to);
    for (size_t i = 0; i < (size_t)t->count; i += each) {
        size_t n = (size_t)t->count - i < each ? (size_t)t->count - i : each;
        convert((const char *)t->data + i * from, t->dtype, n, mull_cuda_stage(m->c), to);
        mull_cuda_send(m->c, (char *)dst + i * size, n * size);
        mull_safetensors_drop_bytes((const char *)t->data + i * from, n * from);
    }
}

/* Rows of t as int8, q to dst and scales to scale; a row with NaN or infinity has a NaN scale. */
static void put_i8(mull_cuda_model *m, int8_t *dst, float *scale, const mull_tensor_info *t, float *row,
                   float *scales) {
    size_t k = (size_t)(t->count / t->shape[0]), from = mull_dtype_size(t->dtype), each = MULL_CUDA_STAGE / k;
    for (size_t r0 = 0; r0 < (size_t)t->shape[0]; r0 += each) {
        size_t n = (size_t)t->shape[0] - r0 < each ? (size_t)t->shape[0] - r0 : each;
        int8_t *q = mull_cuda_stage(m->c);
        for (size_t r = 0; r < n; r++, q += k) {
            float top = 0, poison = 0;
            mull_to_f32((const char *)t->data + (r0 + r) * k * from, t->dtype, k, row);
            for (size_t i = 0; i < k; i++) {
                top = fabsf(row[i]) > top ? fabsf(row[i]) : top;
                poison += row[i] * 0.0f;
            }
            float inv = top > 0 && poison == 0 ? 127.0f / top : 0;
            for (size_t i = 0; i < k; i++) q[i] = inv > 0 ? (int8_t)rintf(row[i] * inv) : 0;
            scales[r0 + r] = poison == 0 ? top / 127.0f : poison;
        }
        mull_cuda_send(m->c, dst + r0 * k, n * k);
        mull_safetensors_drop_bytes((const char *)t->data + r0 * k * from, n * k * from);
    }
    mull_cuda_put(m->c, scale, scales, (size_t)t->shape[0] * sizeof *scales);
}

/* Several tensors one below the other. Inputs that are no multiple of 16 stay in T. */
static mull_cuda_matrix stacked(loader *l, mull_dtype type, const char *prefix, const char *const *names, int n) {
    mull_cuda_matrix w = {.type = type};
    for (int i = 0; i < n; i++) {
        const mull_tensor_info *t = find(l, prefix, names[i]);
        w.n += t->shape[0];
        w.k = t->count / t->shape[0];
    }
    if (type == MULL_I8 && w.k % 16) w.type = l->m->t;
    size_t size = mull_dtype_size(w.type);
    w.data = mull_cuda_part(&l->arena, (size_t)(w.n * w.k) * size);
    if (w.type == MULL_I8) w.scale = mull_cuda_part(&l->arena, (size_t)w.n * sizeof(float));
    if (!l->arena.base) return w;
    float *room = w.type == MULL_I8 ? malloc((size_t)(w.k + w.n) * sizeof *room) : NULL;
    if (w.type == MULL_I8 && !room) {
        mull_cuda_refuse(l->m->c, MULL_ENOMEM, "load", "", "out of memory");
        return w;
    }
    int64_t at = 0;
    for (int i = 0; i < n; i++) {
        const mull_tensor_info *t = find(l, prefix, names[i]);
        if (w.type == MULL_I8)
            put_i8(l->m, (int8_t *)w.data + at * w.k, w.scale + at, t, room, room + w.k);
        else
            put(l->m, (char *)w.data + (size_t)(at * w.k) * size, w.type, t);
        at += t->shape[0];
    }
    free(room);
    return w;
}
static mull_cuda_matrix one(loader *l, mull_dtype type, const char *prefix, const char *name) {
    return stacked(l, type, prefix, &name, 1);
}

static void *vectors(loader *l, mull_dtype type, const char *prefix, const char *const *names, int n) {
    size_t count = 0, at = 0;
    for (int i = 0; i < n; i++) count += (size_t)find(l, prefix, names[i])->count;
    char *p = mull_cuda_part(&l->arena, count * mull_dtype_size(type));
    for (int i = 0; l->arena.base && i < n; i++) {
        const mull_tensor_info *t = find(l, prefix, names[i]);
        put(l->m, p + at * mull_dtype_size(type), type, t);
        at += (size_t)t->count;
    }
    return p;
}
static void *vector(loader *l, mull_dtype type, const char *prefix, const char *name) {
    return vectors(l, type, prefix, &name, 1);
}

static void load_vision(loader *l) {
    mull_cuda_model *m = l->m;
    mull_dtype t = m->t;
    m->patch_embed = one(l, t, "", "visual.patch_embed.proj.weight");
    for (int i = 0; i < m->config->vision.depth; i++) {
        mull_cuda_block *b = &m->blocks[i];
        char p[40];
        snprintf(p, sizeof p, "visual.blocks.%d.", i);
        b->norm1 = vector(l, MULL_F32, p, "norm1.weight");
        b->norm2 = vector(l, MULL_F32, p, "norm2.weight");
        b->qkv = one(l, t, p, "attn.qkv.weight");
        b->qkv_bias = vector(l, t, p, "attn.qkv.bias");
        b->proj = one(l, t, p, "attn.proj.weight");
        b->proj_bias = vector(l, MULL_F32, p, "attn.proj.bias");
        b->gate_up = stacked(l, t, p, (const char *[]){"mlp.gate_proj.weight", "mlp.up_proj.weight"}, 2);
        b->gate_up_bias = vectors(l, t, p, (const char *[]){"mlp.gate_proj.bias", "mlp.up_proj.bias"}, 2);
        b->down = one(l, t, p, "mlp.down_proj.weight");
        b->down_bias = vector(l, MULL_F32, p, "mlp.down_proj.bias");
    }
    m->ln_q = vector(l, MULL_F32, "visual.merger.", "ln_q.weight");
    m->merge0 = one(l, t, "visual.merger.", "mlp.0.weight");
    m->merge0_bias = vector(l, t, "visual.merger.", "mlp.0.bias");
    m->merge2 = one(l, t, "visual.merger.", "mlp.2.weight");
    m->merge2_bias = vector(l, MULL_F32, "visual.merger.", "mlp.2.bias");
}

static void load_lm(loader *l) {
    static const char *const qkv[] = {"self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"};
    static const char *const qkv_bias[] = {"self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"};
    mull_cuda_model *m = l->m;
    mull_dtype type = m->type == MULL_WEIGHT_INT8 ? MULL_I8 : m->t;
    m->embed = one(l, m->t, "", "model.embed_tokens.weight");
    if (!m->config->tied)
        m->head = one(l, type, "", "lm_head.weight");
    else
        m->head = type == m->t ? m->embed : one(l, type, "", "model.embed_tokens.weight");
    for (int i = 0; i < m->config->layers; i++) {
        mull_cuda_layer *y = &m->layers[i];
        char p[40];
        snprintf(p, sizeof p, "model.layers.%d.", i);
        y->input_norm = vector(l, MULL_F32, p, "input_layernorm.weight");
        y->post_norm = vector(l, MULL_F32, p, "post_attention_layernorm.weight");
        y->qkv = stacked(l, type, p, qkv, 3);
        y->qkv_bias = vectors(l, m->t, p, qkv_bias, 3);
        y->o = one(l, type, p, "self_attn.o_proj.weight");
        y->gate_up = stacked(l, type, p, (const char *[]){"mlp.gate_proj.weight", "mlp.up_proj.weight"}, 2);
        y->down = one(l, type, p, "mlp.down_proj.weight");
    }
    m->norm = vector(l, MULL_F32, "", "model.norm.weight");
}

static int load_rope(loader *l, mull_error *err) {
    mull_cuda_model *m = l->m;
    mull_mrope r;
    int rc = mull_mrope_init(&r, m->config, err);
    if (rc) return rc;
    size_t half = (size_t)r.half;
    m->inv_freq = mull_cuda_part(&l->arena, half * sizeof *r.inv_freq);
    m->axis = mull_cuda_part(&l->arena, half);
    if (l->arena.base) {
        mull_cuda_put(m->c, m->inv_freq, r.inv_freq, half * sizeof *r.inv_freq);
        mull_cuda_put(m->c, m->axis, r.axis, half);
    }
    mull_mrope_fini(&r);
    return MULL_OK;
}

static int walk(loader *l, mull_error *err) {
    load_vision(l);
    if (!l->m->vision_only) load_lm(l);
    return load_rope(l, err);
}

static void close_model(void *state) {
    mull_cuda_model *m = state;
    if (!m) return;
    if (m->c) {
        mull__cuda_tower_destroy(m);
        mull_cuda_release(m->c, m->all);
        mull_cuda_close(m->c);
    }
    free(m->layers);
    free(m->blocks);
    free(m);
}

static int open_model(const mull_config *c, const mull_safetensors *file, mull_weight_type type, bool vision_only,
                      void **state, size_t *bytes, mull_error *err) {
    *state = NULL;
    if (type != MULL_WEIGHT_F32 && type != MULL_WEIGHT_BF16 && type != MULL_WEIGHT_INT8)
        return mull_fail(err, MULL_EUNSUPPORTED, "cannot load the model", "cuda", "use --dtype f32, bf16 or int8",
                         "this type of weights exists on the CPU only");
    mull_cuda_model *m = calloc(1, sizeof *m);
    if (m) {
        *m = (mull_cuda_model){
            .config = c, .vision_only = vision_only, .type = type, .t = type == MULL_WEIGHT_F32 ? MULL_F32 : MULL_BF16};
        m->layers = calloc((size_t)c->layers, sizeof *m->layers);
        m->blocks = calloc((size_t)c->vision.depth, sizeof *m->blocks);
    }
    if (!m || !m->layers || !m->blocks) {
        close_model(m);
        return mull_fail(err, MULL_ENOMEM, "cannot load the model", "cuda", "", "out of memory");
    }
    loader l = {.m = m, .file = file};
    void *all = NULL;
    int rc = mull_cuda_open(0, &m->c, err);
    if (!rc) rc = walk(&l, err);
    if (!rc) rc = mull_cuda_alloc(m->c, l.arena.used, "the model's weights", &all, err);
    if (!rc) {
        m->bytes = l.arena.used;
        m->all = all;
        l.arena = (mull_cuda_arena){.base = all};
        rc = walk(&l, err);
    }
    if (!rc) rc = mull_cuda_sync(m->c, err);
    if (rc) {
        close_model(m);
        return rc;
    }
    *bytes = m->bytes;
    *state = m;
    return MULL_OK;
}

void mull__cuda_show(mull_cuda_model *m, const mull_tap *tap, mull_stage stage, int index, const float *x, int64_t row0,
                     int64_t rows, int64_t cols) {
    if (!tap) return;
    size_t bytes = (size_t)(rows * cols) * sizeof(float);
    float *host = malloc(bytes);
    if (!host)
        mull_cuda_refuse(m->c, MULL_ENOMEM, "tap", "", "out of memory");
    else if (!mull_cuda_get(m->c, host, x, bytes, NULL))
        tap->see(tap->ctx, stage, index, host, row0, rows, cols);
    free(host);
}

static int status(void *state, mull_error *err) {
    return mull_cuda_sync(((mull_cuda_model *)state)->c, err);
}
static int alloc(void *state, size_t bytes, const char *what_for, void **out, mull_error *err) {
    return mull_cuda_alloc(((mull_cuda_model *)state)->c, bytes, what_for, out, err);
}
static void release(void *state, void *p) {
    mull_cuda_release(((mull_cuda_model *)state)->c, p);
}
static int read_back(void *state, void *dst, const void *src, size_t bytes, mull_error *err) {
    return mull_cuda_get(((mull_cuda_model *)state)->c, dst, src, bytes, err);
}
static size_t free_bytes(void *state) {
    return mull_cuda_free_bytes(((mull_cuda_model *)state)->c);
}
static size_t kv_element(void *state) {
    return mull_dtype_size(((mull_cuda_model *)state)->t);
}

const mull_backend *mull_cuda_backend(void) {
    static const mull_backend table = {.name = "cuda",
                                       .open = open_model,
                                       .close = close_model,
                                       .status = status,
                                       .alloc = alloc,
                                       .release = release,
                                       .read = read_back,
                                       .free_bytes = free_bytes,
                                       .kv_element = kv_element,
                                       .lm_create = mull__cuda_lm_create,
                                       .lm_destroy = mull__cuda_lm_destroy,
                                       .lm_run = mull__cuda_lm_run,
                                       .lm_hidden = mull__cuda_lm_hidden,
                                       .lm_logits = mull__cuda_lm_logits,
                                       .lm_row_logits = mull__cuda_lm_row_logits,
                                       .lm_choose = mull__cuda_lm_choose,
                                       .vision = mull__cuda_vision};
    return &table;
}
