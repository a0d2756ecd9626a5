/* From tensors to packed weights: every value where the forward pass expects it, in every weight type and from every
 * way of saving; and everything that is wrong with a checkpoint told in one error. */
#include "tests/engine/load_util.h"

#include "engine/model/init.h"
#include "engine/model/model_internal.h"

#include <jansson.h>
#include <math.h>

/* Two layers, three blocks; sizes that are no multiples of a panel of 32 rows. untied: a head of its own. */
static const char CONFIG[] =
    "{\"model_type\":\"qwen2_5_vl\",\"hidden_size\":40,\"num_hidden_layers\":2,\"num_attention_heads\":5,"
    "\"num_key_value_heads\":1,\"intermediate_size\":52,\"vocab_size\":71,\"rms_norm_eps\":1e-6,"
    "\"tie_word_embeddings\":%s,\"rope_scaling\":{\"mrope_section\":[1,1,2]},\"vision_config\":{\"depth\":2,"
    "\"hidden_size\":24,\"num_heads\":3,\"intermediate_size\":37,\"out_hidden_size\":40,"
    "\"fullatt_block_indexes\":[1]}}";

typedef struct tensors {
    mull_tensor_info *t;
    size_t n;
    mull_safetensors *from; /* owns the data that was not replaced */
    void *own[160];         /* data and names that were */
    size_t nown;
} tensors;

static void *keep(tensors *s, void *p) {
    assert_non_null(p);
    assert_true(s->nown < sizeof s->own / sizeof *s->own);
    return s->own[s->nown++] = p;
}

/* A checkpoint in dir and its tensors to change and write again. */
static tensors begin(const char *dir, bool tied) {
    char text[1024];
    snprintf(text, sizeof text, CONFIG, tied ? "true" : "false");
    load_put(dir, "config.json", text, strlen(text));
    mull_config c;
    mull_error err = {0};
    assert_int_equal(mull_config_load(dir, &c, &err), 0);
    assert_int_equal(mull_init_weights(dir, &c, 7, 0, &err), 0);
    mull_config_fini(&c);
    tensors s = {0};
    assert_int_equal(mull_safetensors_open(dir, &s.from, &err), 0);
    s.n = mull_safetensors_count(s.from);
    s.t = calloc(s.n + 8, sizeof *s.t);
    assert_non_null(s.t);
    for (size_t i = 0; i < s.n; i++) s.t[i] = *mull_safetensors_at(s.from, i);
    return s;
}

static void end(tensors *s) {
    mull_safetensors_close(s->from);
    while (s->nown) free(s->own[--s->nown]);
    free(s->t);
}

static mull_tensor_info *named(tensors *s, const char *name) {
    for (size_t i = 0; i < s->n; i++)
        if (!strcmp(s->t[i].name, name)) return &s->t[i];
    fail_msg("no tensor %s", name);
    return NULL;
}

static void save(const char *dir, const tensors *s) {
    char *path = mull_path_join(dir, "model.safetensors");
    mull_error err = {0};
    assert_int_equal(mull_safetensors_write(path, s->t, s->n, &err), 0);
    free(path);
}

static mull_model *load(const char *dir, bool auto_type, mull_weight_type type) {
    mull_model *m = NULL;
    mull_error err = {0};
    mull_model_opts opts = {.weights = type, .weights_auto = auto_type, .threads = 2};
    if (mull_model_load(dir, &opts, &m, &err)) fail_msg("%s", err.why);
    return m;
}

static void refuse(const char *dir, const char *const *words) {
    mull_model *m = NULL;
    mull_error err = {0};
    int rc = mull_model_load(dir, &(mull_model_opts){.threads = 1}, &m, &err);
    assert_null(m);
    for (; *words; words++) load_expect(rc, MULL_EFORMAT, &err, *words);
}

static float *floats(const mull_tensor_info *t) {
    float *x = malloc((size_t)t->count * sizeof *x);
    assert_non_null(x);
    mull_to_f32(t->data, t->dtype, (size_t)t->count, x);
    return x;
}

/* Rows of w from row0 on are tensor name. An int8 row is off by at most half a step of largest / 127 (and rounding). */
static void same_rows(const mull_matrix *w, int64_t row0, tensors *s, const char *name) {
    const mull_tensor_info *t = named(s, name);
    int64_t rows = t->shape[0], cols = t->count / rows;
    float *want = floats(t), got[512];
    assert_non_null(w);
    assert_int_equal(mull_matrix_cols(w), cols);
    assert_true(cols <= 512 || !strcmp(name, "visual.patch_embed.proj.weight"));
    float *row = cols <= 512 ? got : keep(s, malloc((size_t)cols * sizeof *row));
    for (int64_t r = 0; r < rows; r++) {
        float top = 0, limit = 0;
        for (int64_t i = 0; i < cols; i++) top = fmaxf(top, fabsf(want[r * cols + i]));
        if (mull_matrix_type(w) == MULL_WEIGHT_INT8) limit = top / 127 * 0.501f;
        mull_matrix_get_row(w, row0 + r, row);
        for (int64_t i = 0; i < cols; i++)
            if (!(fabsf(row[i] - want[r * cols + i]) <= limit))
                fail_msg("%s[%lld,%lld] is %g, not %g", name, (long long)r, (long long)i, (double)row[i],
                         (double)want[r * cols + i]);
    }
    free(want);
}

static void same_vector(const float *x, int64_t at, tensors *s, const char *name) {
    const mull_tensor_info *t = named(s, name);
    float *want = floats(t);
    assert_non_null(x);
    assert_memory_equal(x + at, want, (size_t)t->count * sizeof *x);
    free(want);
}

/* Every tensor, where weights.h says it is. s has published names. */
static void check_all(const mull_model *m, tensors *s, bool tied) {
    const mull_weights *w = &m->weights;
    const mull_vision_weights *v = &w->vision;
    size_t seen = 0;
    char n[96];
#define ROWS(matrix, at, ...) (snprintf(n, sizeof n, __VA_ARGS__), same_rows(matrix, at, s, n), seen++)
#define VECTOR(x, at, ...) (snprintf(n, sizeof n, __VA_ARGS__), same_vector(x, at, s, n), seen++)
    ROWS(v->patch_embed, 0, "visual.patch_embed.proj.weight");
    for (int i = 0; i < 2; i++) {
        const mull_vision_block *b = &v->blocks[i];
        VECTOR(b->norm1, 0, "visual.blocks.%d.norm1.weight", i);
        VECTOR(b->norm2, 0, "visual.blocks.%d.norm2.weight", i);
        ROWS(b->qkv, 0, "visual.blocks.%d.attn.qkv.weight", i);
        VECTOR(b->qkv_bias, 0, "visual.blocks.%d.attn.qkv.bias", i);
        ROWS(b->proj, 0, "visual.blocks.%d.attn.proj.weight", i);
        VECTOR(b->proj_bias, 0, "visual.blocks.%d.attn.proj.bias", i);
        ROWS(b->gate_up, 0, "visual.blocks.%d.mlp.gate_proj.weight", i);
        ROWS(b->gate_up, 37, "visual.blocks.%d.mlp.up_proj.weight", i);
        VECTOR(b->gate_up_bias, 0, "visual.blocks.%d.mlp.gate_proj.bias", i);
        VECTOR(b->gate_up_bias, 37, "visual.blocks.%d.mlp.up_proj.bias", i);
        ROWS(b->down, 0, "visual.blocks.%d.mlp.down_proj.weight", i);
        VECTOR(b->down_bias, 0, "visual.blocks.%d.mlp.down_proj.bias", i);
    }
    VECTOR(v->ln_q, 0, "visual.merger.ln_q.weight");
    ROWS(v->merge0, 0, "visual.merger.mlp.0.weight");
    VECTOR(v->merge0_bias, 0, "visual.merger.mlp.0.bias");
    ROWS(v->merge2, 0, "visual.merger.mlp.2.weight");
    VECTOR(v->merge2_bias, 0, "visual.merger.mlp.2.bias");
    ROWS(w->embed, 0, "model.embed_tokens.weight");
    for (int i = 0; i < 2; i++) {
        const mull_lm_layer *y = &w->layers[i];
        VECTOR(y->input_norm, 0, "model.layers.%d.input_layernorm.weight", i);
        VECTOR(y->post_norm, 0, "model.layers.%d.post_attention_layernorm.weight", i);
        ROWS(y->qkv, 0, "model.layers.%d.self_attn.q_proj.weight", i);
        ROWS(y->qkv, 40, "model.layers.%d.self_attn.k_proj.weight", i);
        ROWS(y->qkv, 48, "model.layers.%d.self_attn.v_proj.weight", i);
        VECTOR(y->qkv_bias, 0, "model.layers.%d.self_attn.q_proj.bias", i);
        VECTOR(y->qkv_bias, 40, "model.layers.%d.self_attn.k_proj.bias", i);
        VECTOR(y->qkv_bias, 48, "model.layers.%d.self_attn.v_proj.bias", i);
        ROWS(y->o, 0, "model.layers.%d.self_attn.o_proj.weight", i);
        ROWS(y->gate_up, 0, "model.layers.%d.mlp.gate_proj.weight", i);
        ROWS(y->gate_up, 52, "model.layers.%d.mlp.up_proj.weight", i);
        ROWS(y->down, 0, "model.layers.%d.mlp.down_proj.weight", i);
    }
    VECTOR(w->norm, 0, "model.norm.weight");
    if (tied)
        same_rows(w->head, 0, s, "model.embed_tokens.weight");
    else
        ROWS(w->head, 0, "lm_head.weight");
    assert_int_equal(seen, s->n);
#undef ROWS
#undef VECTOR
}

static void test_every_type(void **state) {
    (void)state;
    static const mull_weight_type types[] = {MULL_WEIGHT_F32, MULL_WEIGHT_BF16, MULL_WEIGHT_INT8};
    for (int tied = 0; tied < 2; tied++) {
        char *dir = load_mkdir();
        tensors s = begin(dir, tied);
        for (size_t i = 0; i < 3; i++) {
            mull_model *m = load(dir, false, types[i]);
            check_all(m, &s, tied);
            const mull_weights *w = &m->weights;
            assert_int_equal(mull_matrix_type(w->layers[1].gate_up), types[i]);
            assert_int_equal(mull_matrix_type(w->head), types[i]);
            /* Inputs are never quantised, nor is the vision tower. */
            mull_weight_type inputs = types[i] == MULL_WEIGHT_F32 ? MULL_WEIGHT_F32 : MULL_WEIGHT_BF16;
            assert_int_equal(mull_matrix_type(w->embed), inputs);
            assert_int_equal(mull_matrix_type(w->vision.blocks[0].qkv), inputs);
            assert_int_equal(w->head == w->embed, tied && types[i] != MULL_WEIGHT_INT8);
            assert_true(mull_model_bytes(m) > mull_matrix_bytes(w->embed));
            mull_model_destroy(m);
        }
        end(&s);
        load_rmdir(dir);
    }
}

/* The checkpoint's own type is kept; float16 has more digits than bf16 and becomes float32. */
static void test_source_types(void **state) {
    (void)state;
    static const mull_dtype types[] = {MULL_F32, MULL_F16, MULL_BF16};
    char *dir = load_mkdir();
    for (size_t k = 0; k < 3; k++) {
        tensors s = begin(dir, true);
        for (size_t i = 0; i < s.n && types[k] != MULL_BF16; i++) {
            float *x = keep(&s, floats(&s.t[i]));
            if (types[k] == MULL_F16) {
                uint16_t *h = keep(&s, malloc((size_t)s.t[i].count * sizeof *h));
                for (int64_t e = 0; e < s.t[i].count; e++) h[e] = mull_f32_to_f16(x[e] + 0x1p-12f);
                s.t[i].data = h;
            } else {
                for (int64_t e = 0; e < s.t[i].count; e++) x[e] += 0x1p-20f; /* not to be had in bf16 */
                s.t[i].data = x;
            }
            s.t[i].dtype = types[k];
        }
        save(dir, &s);
        mull_model *m = load(dir, true, MULL_WEIGHT_INT8);
        assert_int_equal(mull_matrix_type(m->weights.head), types[k] == MULL_BF16 ? MULL_WEIGHT_BF16 : MULL_WEIGHT_F32);
        check_all(m, &s, true);
        mull_model_destroy(m);
        end(&s);
    }
    load_rmdir(dir);
}

static void test_newer_names_and_shards(void **state) {
    (void)state;
    char *dir = load_mkdir();
    tensors s = begin(dir, false);
    const size_t n = s.n;
    mull_tensor_info *published = keep(&s, malloc(n * sizeof *published));
    memcpy(published, s.t, n * sizeof *published);
    json_t *map = json_object();
    for (size_t i = 0; i < n; i++) {
        char *name = keep(&s, malloc(128));
        const char *old = s.t[i].name;
        if (!strncmp(old, "visual.", 7))
            snprintf(name, 128, "model.%s", old);
        else if (!strncmp(old, "model.", 6))
            snprintf(name, 128, "model.language_model.%s", old + 6);
        else
            snprintf(name, 128, "%s", old);
        s.t[i].name = name;
        json_object_set_new(map, name, json_string(i % 2 ? "odd.safetensors" : "even.safetensors"));
    }
    for (size_t odd = 0; odd < 2; odd++) {
        tensors part = {.t = calloc(n, sizeof *part.t)};
        for (size_t i = odd; i < n; i += 2) part.t[part.n++] = s.t[i];
        char *path = mull_path_join(dir, odd ? "odd.safetensors" : "even.safetensors");
        mull_error err = {0};
        assert_int_equal(mull_safetensors_write(path, part.t, part.n, &err), 0);
        free(path);
        free(part.t);
    }
    json_t *index = json_pack("{s:o}", "weight_map", map);
    char *text = json_dumps(index, 0), *path = mull_path_join(dir, "model.safetensors");
    load_put(dir, "model.safetensors.index.json", text, strlen(text));
    assert_int_equal(unlink(path), 0); /* s.from still maps it */
    mull_model *m = load(dir, true, MULL_WEIGHT_F32);
    memcpy(s.t, published, n * sizeof *published);
    check_all(m, &s, false);
    mull_model_destroy(m);
    free(text);
    free(path);
    json_decref(index);
    end(&s);
    load_rmdir(dir);
}

static void test_all_faults_at_once(void **state) {
    (void)state;
    static const uint16_t data[8];
    char *dir = load_mkdir();
    tensors s = begin(dir, true);
    *named(&s, "visual.merger.ln_q.weight") = s.t[s.n - 1]; /* gone; the last takes its place */
    s.n--;
    mull_tensor_info *q = named(&s, "model.layers.0.self_attn.q_proj.weight");
    q->ndim = 1;
    q->shape[0] = q->count;
    mull_tensor_info *k = named(&s, "model.layers.1.self_attn.k_proj.weight");
    int64_t swap = k->shape[0];
    k->shape[0] = k->shape[1];
    k->shape[1] = swap;
    mull_tensor_info *norm = named(&s, "visual.blocks.0.norm1.weight");
    norm->dtype = MULL_I16;
    s.t[s.n++] = (mull_tensor_info){.name = "model.layers.2.mlp.up_proj.weight",
                                    .dtype = MULL_BF16,
                                    .ndim = 1,
                                    .shape = {8},
                                    .count = 8,
                                    .data = data};
    s.t[s.n++] =
        (mull_tensor_info){.name = "lora.A", .dtype = MULL_BF16, .ndim = 2, .shape = {2, 4}, .count = 8, .data = data};
    save(dir, &s);
    refuse(dir, (const char *[]){"6 tensors are wrong", "missing visual.merger.ln_q.weight",
                                 "mis-shaped model.layers.0.self_attn.q_proj.weight [1600], not [40,40]",
                                 "mis-shaped model.layers.1.self_attn.k_proj.weight [40,8], not [8,40]",
                                 "wrong type visual.blocks.0.norm1.weight I16", "unexpected lora.A",
                                 "unexpected model.layers.2.mlp.up_proj.weight", NULL});
    end(&s);
    load_rmdir(dir);
}

/* A folder whose weights are of another model: more faults than a line holds, still counted. */
static void test_many_faults(void **state) {
    (void)state;
    static const uint16_t data[8];
    char *dir = load_mkdir();
    tensors s = begin(dir, true);
    mull_tensor_info all[300];
    char names[300][80];
    for (int i = 0; i < 300; i++) {
        snprintf(names[i], sizeof names[i], "some.other.model.with.long.names.layer.%d.weight", i);
        all[i] =
            (mull_tensor_info){.name = names[i], .dtype = MULL_BF16, .ndim = 1, .shape = {8}, .count = 8, .data = data};
    }
    char *path = mull_path_join(dir, "model.safetensors"), count[40];
    mull_error err = {0};
    assert_int_equal(mull_safetensors_write(path, all, 300, &err), 0);
    snprintf(count, sizeof count, "%zu tensors are wrong", s.n + 300);
    refuse(dir, (const char *[]){count, " more;", "missing visual.patch_embed.proj.weight", NULL});
    free(path);
    end(&s);
    load_rmdir(dir);
}

/* A tied checkpoint may repeat its embedding as lm_head, but not carry another one; old buffers do no harm. */
static void test_repeated_head(void **state) {
    (void)state;
    char *dir = load_mkdir();
    tensors s = begin(dir, true);
    static const float freq[4];
    mull_tensor_info head = *named(&s, "model.embed_tokens.weight");
    head.name = "lm_head.weight";
    size_t n = s.n;
    s.t[s.n++] = head;
    s.t[s.n++] = (mull_tensor_info){
        .name = "visual.rotary_pos_emb.inv_freq", .dtype = MULL_F32, .ndim = 1, .shape = {4}, .count = 4, .data = freq};
    save(dir, &s);
    mull_model *m = load(dir, true, MULL_WEIGHT_BF16);
    assert_ptr_equal(m->weights.head, m->weights.embed);
    mull_model_destroy(m);
    uint16_t *other = keep(&s, malloc((size_t)head.count * 2));
    memcpy(other, head.data, (size_t)head.count * 2);
    other[head.count - 1] ^= 1;
    s.t[n].data = other;
    save(dir, &s);
    refuse(dir, (const char *[]){"1 tensor is wrong: unexpected lm_head.weight", NULL});
    end(&s);
    load_rmdir(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_type),
        cmocka_unit_test(test_source_types),
        cmocka_unit_test(test_newer_names_and_shards),
        cmocka_unit_test(test_all_faults_at_once),
        cmocka_unit_test(test_many_faults),
        cmocka_unit_test(test_repeated_head),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
