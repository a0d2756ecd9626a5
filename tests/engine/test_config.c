/* config.json in both layouts, the sizes that are published, and what is refused. The parameter counts are those that
 * transformers 5.23 reports for the same configurations. */
#include "tests/engine/load_util.h"

#include "engine/model/config.h"
#include "engine/model/weights.h"

#include <jansson.h>

typedef struct shape {
    const char *name;
    int hidden, layers, heads, kv, ffn, vocab;
    bool tied;
    int vision_ffn;
    int64_t parameters;
    size_t tensors;
} shape;

static const shape SHAPES[] = {
    {"3B", 2048, 36, 16, 2, 11008, 151936, true, 3420, INT64_C(3754622976), 824},
    {"7B", 3584, 28, 28, 4, 18944, 152064, false, 3420, INT64_C(8292166656), 729},
    {"72B", 8192, 80, 64, 8, 29568, 152064, false, 3456, INT64_C(73410777344), 1353},
};

/* nested: the language model's keys under text_config, rope in rope_parameters, as newer versions save. */
static json_t *make(const shape *s, bool nested) {
    json_t *text = json_pack("{s:i,s:i,s:i,s:i,s:i,s:i,s:f,s:s,s:i}", "hidden_size", s->hidden, "num_hidden_layers",
                             s->layers, "num_attention_heads", s->heads, "num_key_value_heads", s->kv,
                             "intermediate_size", s->ffn, "vocab_size", s->vocab, "rms_norm_eps", 1e-6, "hidden_act",
                             "silu", "max_position_embeddings", 128000);
    json_t *root =
        json_pack("{s:s,s:b,s:s,s:i,s:i,s:{s:i,s:i,s:i,s:i,s:i,s:[i,i,i,i],s:i}}", "model_type", "qwen2_5_vl",
                  "tie_word_embeddings", s->tied, nested ? "dtype" : "torch_dtype", "bfloat16", "image_token_id",
                  151655, "latent_token_id", 151665, "vision_config", "depth", 32, "hidden_size", 1280, "num_heads", 16,
                  "intermediate_size", s->vision_ffn, "out_hidden_size", s->hidden, "fullatt_block_indexes", 7, 15, 23,
                  31, "tokens_per_second", 2);
    json_t *rope = json_pack("{s:[i,i,i],s:s}", "mrope_section", 16, 24, 24, "type", "mrope");
    if (nested) {
        json_object_set_new(rope, "rope_theta", json_real(1e6));
        json_object_set_new(text, "rope_parameters", rope);
        json_object_set_new(root, "text_config", text);
    } else {
        json_object_set_new(text, "rope_theta", json_real(1e6));
        json_object_set_new(text, "rope_scaling", rope);
        json_object_update(root, text);
        json_decref(text);
    }
    return root;
}

static int parse(json_t *root, const char *generation, mull_config *c, mull_error *err) {
    char *text = json_dumps(root, 0);
    assert_non_null(text);
    int rc =
        mull_config_parse(text, strlen(text), generation, generation ? strlen(generation) : 0, "config.json", c, err);
    free(text);
    return rc;
}

static void check_shape(const shape *s, const mull_config *c) {
    assert_int_equal(c->hidden, s->hidden);
    assert_int_equal(c->layers, s->layers);
    assert_int_equal(c->heads, s->heads);
    assert_int_equal(c->kv_heads, s->kv);
    assert_int_equal(c->head_dim, 128);
    assert_int_equal(c->intermediate, s->ffn);
    assert_int_equal(c->vocab, s->vocab);
    assert_int_equal(c->tied, s->tied);
    assert_int_equal(c->dtype, MULL_BF16);
    assert_true(c->rms_eps == 1e-6f && c->rope_theta == 1e6);
    assert_memory_equal(c->mrope_section, ((const int[]){16, 24, 24}), sizeof c->mrope_section);
    assert_int_equal(c->image_token, 151655);
    assert_int_equal(c->latent_pad, 151665);
    assert_int_equal(c->latent_image, -1);
    assert_int_equal(c->vision.head_dim, 80);
    assert_int_equal(c->vision.window, 112);
    for (int i = 0; i < 32; i++) assert_int_equal(c->vision.full_attention[i], i % 8 == 7);
}

static void test_published_sizes(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof SHAPES / sizeof *SHAPES; i++)
        for (int nested = 0; nested < 2; nested++) {
            json_t *root = make(&SHAPES[i], nested);
            mull_config c;
            mull_error err = {0};
            assert_int_equal(parse(root, NULL, &c, &err), 0);
            check_shape(&SHAPES[i], &c);
            mull_weight_spec *w = NULL;
            size_t n = 0;
            int64_t sum = 0;
            assert_int_equal(mull_weights_list(&c, &w, &n, &err), 0);
            for (size_t k = 0; k < n; k++) {
                int64_t count = 1;
                for (int d = 0; d < w[k].ndim; d++) count *= w[k].shape[d];
                sum += count;
            }
            assert_int_equal(n, SHAPES[i].tensors);
            assert_true(sum == SHAPES[i].parameters);
            free(w);
            mull_config_fini(&c);
            json_decref(root);
        }
}

static void test_row_counts(void **state) {
    (void)state;
    static const int rows[] = {151669, 151936, 152064};
    for (size_t i = 0; i < 3; i++) {
        json_t *root = make(&SHAPES[0], i % 2);
        json_t *where = i % 2 ? json_object_get(root, "text_config") : root;
        json_object_set_new(where, "vocab_size", json_integer(rows[i]));
        mull_config c;
        mull_error err = {0};
        assert_int_equal(parse(root, NULL, &c, &err), 0);
        assert_int_equal(c.vocab, rows[i]);
        mull_config_fini(&c);
        json_decref(root);
    }
}

static void test_generation(void **state) {
    (void)state;
    json_t *root = make(&SHAPES[0], false);
    mull_config c;
    mull_error err = {0};
    json_object_set_new(root, "eos_token_id", json_integer(5));
    assert_int_equal(parse(root, NULL, &c, &err), 0);
    assert_int_equal(c.neos, 1);
    assert_int_equal(c.eos[0], 5);
    assert_true(c.gen_repetition_penalty == 1 && c.gen_temperature == 0 && c.gen_top_p == 1);
    mull_config_fini(&c);
    assert_int_equal(parse(root,
                           "{\"eos_token_id\":[151645,151643],\"repetition_penalty\":1.05,\"do_sample\":true,"
                           "\"temperature\":0.7,\"top_p\":0.8,\"top_k\":20,\"pad_token_id\":151643}",
                           &c, &err),
                     0);
    assert_int_equal(c.neos, 2);
    assert_int_equal(c.eos[0], 151645);
    assert_int_equal(c.eos[1], 151643);
    assert_int_equal(c.pad, 151643);
    assert_int_equal(c.gen_top_k, 20);
    assert_true(c.gen_repetition_penalty == 1.05 && c.gen_temperature == 0.7 && c.gen_top_p == 0.8);
    mull_config_fini(&c);
    /* Without do_sample a temperature means nothing. */
    assert_int_equal(parse(root, "{\"temperature\":0.7}", &c, &err), 0);
    assert_true(c.gen_temperature == 0);
    mull_config_fini(&c);
    load_expect(parse(root, "{\"eos_token_id\":[1,2,3,4,5,6,7,8,9]}", &c, &err), MULL_EFORMAT, &err, "eos_token_id");
    load_expect(parse(root, "{\"top_p\":\"x\"}", &c, &err), MULL_EFORMAT, &err, "top_p");
    load_expect(parse(root, "", &c, &err), MULL_EFORMAT, &err, "generation_config.json");
    json_decref(root);
}

/* A JSON text put at a dotted key, NULL to delete it; the key must be named. */
static void test_refused(void **state) {
    (void)state;
    static const struct {
        const char *group, *key, *value, *word;
    } cases[] = {
        {NULL, "model_type", "\"llama\"", "model_type"},
        {NULL, "model_type", NULL, "model_type"},
        {NULL, "hidden_size", NULL, "hidden_size"},
        {NULL, "hidden_size", "\"2048\"", "hidden_size"},
        {NULL, "hidden_size", "2048.0", "hidden_size"},
        {NULL, "hidden_size", "-1", "hidden_size"},
        {NULL, "hidden_size", "1000000000", "hidden_size"},
        {NULL, "num_hidden_layers", "0", "num_hidden_layers"},
        {NULL, "num_hidden_layers", "4294967297", "num_hidden_layers"},
        {NULL, "num_attention_heads", "0", "num_attention_heads"},
        {NULL, "num_key_value_heads", "3", "num_key_value_heads"},
        {NULL, "intermediate_size", NULL, "intermediate_size"},
        {NULL, "vocab_size", "0", "vocab_size"},
        {NULL, "vocab_size", "9000000000000000000", "vocab_size"},
        {NULL, "hidden_act", "\"gelu\"", "hidden_act"},
        {NULL, "use_sliding_window", "true", "use_sliding_window"},
        {NULL, "torch_dtype", "\"float64\"", "torch_dtype"},
        {NULL, "rope_scaling", NULL, "mrope_section"},
        {NULL, "image_token_id", "-5", "image_token_id"},
        {NULL, "vision_config", NULL, "vision_config"},
        {NULL, "vision_config", "[]", "vision_config"},
        {"rope_scaling", "mrope_section", "[16,24]", "mrope_section"},
        {"rope_scaling", "mrope_section", "[16,24,25]", "mrope_section"},
        {"rope_scaling", "mrope_section", "[16,24,-24]", "mrope_section"},
        {"vision_config", "depth", "0", "depth"},
        {"vision_config", "depth", "1000000", "depth"},
        {"vision_config", "num_heads", "7", "num_heads"},
        {"vision_config", "patch_size", "16", "patch_size"},
        {"vision_config", "window_size", "100", "window_size"},
        {"vision_config", "out_hidden_size", "1024", "out_hidden_size"},
        {"vision_config", "fullatt_block_indexes", "[32]", "fullatt_block_indexes"},
        {"vision_config", "fullatt_block_indexes", "[-1]", "fullatt_block_indexes"},
        {"vision_config", "fullatt_block_indexes", "7", "fullatt_block_indexes"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *root = make(&SHAPES[0], false);
        json_t *o = cases[i].group ? json_object_get(root, cases[i].group) : root;
        if (cases[i].value)
            json_object_set_new(o, cases[i].key, json_loads(cases[i].value, JSON_DECODE_ANY, NULL));
        else
            json_object_del(o, cases[i].key);
        mull_config c;
        mull_error err = {0};
        load_expect(parse(root, NULL, &c, &err), MULL_EFORMAT, &err, cases[i].word);
        json_decref(root);
    }
}

static void test_broken_text(void **state) {
    (void)state;
    static const char *const texts[] = {"", "{", "[]", "null", "{\"a\":1,\"a\":2}", "\xff\xfe", "{\"model_type\":}"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        mull_config c;
        mull_error err = {0};
        load_expect(mull_config_parse(texts[i], strlen(texts[i]), NULL, 0, "config.json", &c, &err), MULL_EFORMAT, &err,
                    "config.json");
    }
}

static void test_files(void **state) {
    (void)state;
    char *dir = load_mkdir();
    mull_config c;
    mull_error err = {0};
    load_expect(mull_config_load(dir, &c, &err), MULL_EMISSING, &err, "config.json");
    json_t *root = make(&SHAPES[1], false);
    char *text = json_dumps(root, 0);
    load_put(dir, "config.json", text, strlen(text));
    assert_int_equal(mull_config_load(dir, &c, &err), 0);
    check_shape(&SHAPES[1], &c);
    mull_config_fini(&c);
    load_put(dir, "generation_config.json", "", 0); /* there but empty is broken, not absent */
    load_expect(mull_config_load(dir, &c, &err), MULL_EFORMAT, &err, "generation_config.json");
    free(text);
    json_decref(root);
    load_rmdir(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published_sizes), cmocka_unit_test(test_row_counts),  cmocka_unit_test(test_generation),
        cmocka_unit_test(test_refused),         cmocka_unit_test(test_broken_text), cmocka_unit_test(test_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
