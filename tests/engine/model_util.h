/* Checkpoints for tests, by the weight formula of the reference vectors (tests/data/model/README.md), so that any test
 * can make a real model folder in a second without a download. */
#ifndef MULL_TESTS_ENGINE_MODEL_UTIL_H
#define MULL_TESTS_ENGINE_MODEL_UTIL_H

#include "engine/core/buf.h"
#include "engine/model/model.h"
#include "engine/model/safetensors.h"

#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static inline uint64_t util_splitmix(uint64_t x) {
    uint64_t z = x + 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static inline uint64_t util_fnv(const char *s) {
    uint64_t h = 0xcbf29ce484222325u;
    for (; *s; s++) h = (h ^ (uint8_t)*s) * 0x100000001b3u;
    return h;
}

/* -1 <= u < 1, exact in float. */
static inline double util_uniform(uint64_t seed, const char *name, uint64_t i) {
    return ((double)(util_splitmix(seed ^ util_fnv(name) ^ i) >> 40) - 8388608.0) / 8388608.0;
}

static inline bool util_ends(const char *s, const char *end) {
    size_t n = strlen(s), m = strlen(end);
    return n >= m && !strcmp(s + n - m, end);
}

static inline void util_scale(const char *name, int64_t fan_in, double *offset, double *scale) {
    static const char *const NORMS[] = {"norm1.weight", "norm2.weight", "ln_q.weight", "layernorm.weight",
                                        "model.norm.weight"};
    double gain = 1.7;
    *offset = 0;
    *scale = (double)0.1f;
    for (size_t i = 0; i < 5; i++)
        if (util_ends(name, NORMS[i])) {
            *offset = 1;
            return;
        }
    if (util_ends(name, ".bias")) return;
    if (util_ends(name, "embed_tokens.weight")) {
        *scale = 0.5;
        return;
    }
    if (util_ends(name, "attn.qkv.weight") || util_ends(name, "q_proj.weight") || util_ends(name, "k_proj.weight"))
        gain = 2.5;
    else if (util_ends(name, "lm_head.weight"))
        gain = 4;
    else if (util_ends(name, "o_proj.weight") || util_ends(name, "down_proj.weight"))
        gain = 3.4;
    *scale = (double)(float)(gain / sqrt((double)fan_in));
}

typedef struct util_list {
    mull_tensor_info t[512];
    size_t n;
    uint64_t seed;
} util_list;

static inline void util_tensor(util_list *l, int64_t rows, int64_t cols, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
static inline void util_tensor(util_list *l, int64_t rows, int64_t cols, const char *fmt, ...) {
    char name[128];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(name, sizeof name, fmt, ap);
    va_end(ap);
    mull_tensor_info *t = &l->t[l->n++];
    assert_true(l->n < 512);
    *t = (mull_tensor_info){.name = strdup(name), .dtype = MULL_BF16, .ndim = cols ? 2 : 1, .shape = {rows, cols}};
    t->count = cols ? rows * cols : rows;
    if (util_ends(name, "patch_embed.proj.weight")) {
        int64_t shape[] = {rows, 3, 2, 14, 14};
        t->ndim = 5;
        memcpy(t->shape, shape, sizeof shape);
    }
    double offset, scale;
    util_scale(name, cols, &offset, &scale);
    uint16_t *data = malloc((size_t)t->count * 2);
    assert_non_null(data);
    uint64_t base = l->seed ^ util_fnv(name);
    for (int64_t i = 0; i < t->count; i++) {
        double u = ((double)(util_splitmix(base ^ (uint64_t)i) >> 40) - 8388608.0) / 8388608.0;
        data[i] = mull_f32_to_bf16((float)(offset + scale * u));
    }
    t->data = data;
}

static inline int64_t util_int(const json_t *o, const char *key) {
    const json_t *v = json_object_get(o, key);
    assert_true(json_is_integer(v));
    return json_integer_value(v);
}

static inline void util_write_json(const char *dir, const char *name, const json_t *v) {
    char *path = mull_path_join(dir, name);
    assert_int_equal(json_dump_file(v, path, JSON_INDENT(1)), 0);
    free(path);
}

/* Writes the model NAME of a configs.json into a new folder; dir is a template for mkdtemp. */
static inline void util_checkpoint(const char *configs, const char *name, char *dir) {
    json_t *all = json_load_file(configs, 0, NULL), *entry = json_object_get(all, name);
    assert_non_null(entry);
    const json_t *c = json_object_get(entry, "config"), *v = json_object_get(c, "vision_config");
    assert_non_null(mkdtemp(dir));
    util_write_json(dir, "config.json", c);
    util_write_json(dir, "generation_config.json", json_object_get(entry, "generation_config"));
    util_list *l = calloc(1, sizeof *l);
    assert_non_null(l);
    l->seed = (uint64_t)util_int(entry, "seed");
    int64_t e = util_int(v, "hidden_size"), vf = util_int(v, "intermediate_size"), m = 4 * e,
            h = util_int(c, "hidden_size");
    int64_t f = util_int(c, "intermediate_size"), vocab = util_int(c, "vocab_size");
    int64_t kv = util_int(c, "num_key_value_heads") * (h / util_int(c, "num_attention_heads"));
    util_tensor(l, e, 1176, "visual.patch_embed.proj.weight");
    for (int i = 0; i < util_int(v, "depth"); i++) {
        util_tensor(l, e, 0, "visual.blocks.%d.norm1.weight", i);
        util_tensor(l, e, 0, "visual.blocks.%d.norm2.weight", i);
        util_tensor(l, 3 * e, e, "visual.blocks.%d.attn.qkv.weight", i);
        util_tensor(l, 3 * e, 0, "visual.blocks.%d.attn.qkv.bias", i);
        util_tensor(l, e, e, "visual.blocks.%d.attn.proj.weight", i);
        util_tensor(l, e, 0, "visual.blocks.%d.attn.proj.bias", i);
        util_tensor(l, vf, e, "visual.blocks.%d.mlp.gate_proj.weight", i);
        util_tensor(l, vf, 0, "visual.blocks.%d.mlp.gate_proj.bias", i);
        util_tensor(l, vf, e, "visual.blocks.%d.mlp.up_proj.weight", i);
        util_tensor(l, vf, 0, "visual.blocks.%d.mlp.up_proj.bias", i);
        util_tensor(l, e, vf, "visual.blocks.%d.mlp.down_proj.weight", i);
        util_tensor(l, e, 0, "visual.blocks.%d.mlp.down_proj.bias", i);
    }
    util_tensor(l, e, 0, "visual.merger.ln_q.weight");
    util_tensor(l, m, m, "visual.merger.mlp.0.weight");
    util_tensor(l, m, 0, "visual.merger.mlp.0.bias");
    util_tensor(l, h, m, "visual.merger.mlp.2.weight");
    util_tensor(l, h, 0, "visual.merger.mlp.2.bias");
    util_tensor(l, vocab, h, "model.embed_tokens.weight");
    for (int i = 0; i < util_int(c, "num_hidden_layers"); i++) {
        util_tensor(l, h, 0, "model.layers.%d.input_layernorm.weight", i);
        util_tensor(l, h, h, "model.layers.%d.self_attn.q_proj.weight", i);
        util_tensor(l, h, 0, "model.layers.%d.self_attn.q_proj.bias", i);
        util_tensor(l, kv, h, "model.layers.%d.self_attn.k_proj.weight", i);
        util_tensor(l, kv, 0, "model.layers.%d.self_attn.k_proj.bias", i);
        util_tensor(l, kv, h, "model.layers.%d.self_attn.v_proj.weight", i);
        util_tensor(l, kv, 0, "model.layers.%d.self_attn.v_proj.bias", i);
        util_tensor(l, h, h, "model.layers.%d.self_attn.o_proj.weight", i);
        util_tensor(l, h, 0, "model.layers.%d.post_attention_layernorm.weight", i);
        util_tensor(l, f, h, "model.layers.%d.mlp.gate_proj.weight", i);
        util_tensor(l, f, h, "model.layers.%d.mlp.up_proj.weight", i);
        util_tensor(l, h, f, "model.layers.%d.mlp.down_proj.weight", i);
    }
    util_tensor(l, h, 0, "model.norm.weight");
    if (!json_is_true(json_object_get(c, "tie_word_embeddings"))) util_tensor(l, vocab, h, "lm_head.weight");
    char *path = mull_path_join(dir, "model.safetensors");
    mull_error err = {0};
    if (mull_safetensors_write(path, l->t, l->n, &err)) {
        mull_error_print(stderr, &err);
        fail();
    }
    free(path);
    for (size_t i = 0; i < l->n; i++) {
        free((void *)(uintptr_t)l->t[i].name);
        free((void *)(uintptr_t)l->t[i].data);
    }
    free(l);
    json_decref(all);
}

static inline mull_model *util_load(const char *dir, mull_weight_type type, int threads) {
    mull_model *m = NULL;
    mull_error err = {0};
    if (mull_model_load(dir, &(mull_model_opts){.weights = type, .threads = threads}, &m, &err)) {
        mull_error_print(stderr, &err);
        fail();
    }
    return m;
}

static inline void util_remove(const char *dir) {
    static const char *const NAMES[] = {"config.json", "generation_config.json", "model.safetensors",
                                        "case.safetensors"};
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
        char *path = mull_path_join(dir, NAMES[i]);
        unlink(path);
        free(path);
    }
    assert_int_equal(rmdir(dir), 0);
}

/* Largest |a - b|; NaN and infinities anywhere make it infinite. */
static inline double util_difference(const float *a, const float *b, int64_t n) {
    double worst = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        if (!isfinite(d)) return INFINITY;
        if (d > worst) worst = d;
    }
    return worst;
}

#endif
