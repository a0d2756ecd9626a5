/* What init writes: the same bytes for the same seed, sensible numbers, a folder that our own loaders accept, whole or
 * not at all. That transformers accepts it too is checked where it is installed (ops/bench). */
#include "tests/engine/load_util.h"

#include "engine/model/init.h"
#include "engine/model/vision.h"
#include "engine/model/init_tokenizer.h"
#include "engine/model/model.h"
#include "engine/model/weights.h"
#include "engine/text/tokenizer.h"

#include <jansson.h>
#include <math.h>

static void make(const char *dir, uint64_t seed) {
    mull_error err = {0};
    if (mull_init_checkpoint("tiny", dir, seed, NULL, &err)) fail_msg("%s", err.why);
}

static const char *const FILES[] = {"config.json",
                                    "generation_config.json",
                                    "preprocessor_config.json",
                                    "tokenizer.json",
                                    "tokenizer_config.json",
                                    "vocab.json",
                                    "chat_template.json",
                                    "merges.txt",
                                    "model.safetensors"};

static void test_same_seed_same_bytes(void **state) {
    (void)state;
    char *a = load_mkdir(), *b = load_mkdir();
    make(a, 3);
    make(b, 3);
    for (size_t i = 0; i < sizeof FILES / sizeof *FILES; i++) {
        mull_buf x = load_get(a, FILES[i]), y = load_get(b, FILES[i]);
        assert_true(x.len > 0);
        assert_int_equal(x.len, y.len);
        assert_memory_equal(x.data, y.data, x.len);
        mull_buf_fini(&x);
        mull_buf_fini(&y);
    }
    make(b, 4); /* over the old one */
    mull_buf x = load_get(a, "model.safetensors"), y = load_get(b, "model.safetensors");
    assert_int_equal(x.len, y.len);
    size_t same = 0;
    for (size_t i = x.len / 2; i < x.len; i++) same += x.data[i] == y.data[i];
    assert_true(same < x.len / 2); /* signs and exponents often agree, fractions do not */
    mull_buf_fini(&x);
    mull_buf_fini(&y);
    load_rmdir(a);
    load_rmdir(b);
}

/* Means and spreads are those of the distributions, no tensor repeats another, none is constant. The bound on a mean is
 * five standard errors of a uniform distribution. */
static void test_values(void **state) {
    (void)state;
    char *dir = load_mkdir();
    make(dir, 0);
    mull_safetensors *st = NULL;
    mull_error err = {0};
    assert_int_equal(mull_safetensors_open(dir, &st, &err), 0);
    int64_t params = 0;
    for (size_t i = 0; i < mull_safetensors_count(st); i++) {
        const mull_tensor_info *t = mull_safetensors_at(st, i);
        const uint16_t *h = t->data;
        params += t->count;
        assert_int_equal(t->dtype, MULL_BF16);
        double sum = 0, square = 0, low = INFINITY, high = -INFINITY;
        for (int64_t e = 0; e < t->count; e++) {
            double x = (double)mull_bf16_to_f32(h[e]);
            assert_true(isfinite(x));
            sum += x;
            square += x * x;
            low = fmin(low, x);
            high = fmax(high, x);
        }
        double mean = sum / (double)t->count, var = square / (double)t->count - mean * mean;
        bool norm = t->ndim == 1 && !strstr(t->name, ".bias");
        assert_true(fabs(mean - (norm ? 1 : 0)) < 5 * sqrt(var / (double)t->count) + 1e-3);
        assert_true(high - low > 0 && high < 1.5 && low > -1.5);
        for (size_t k = 0; k < i; k++) {
            const mull_tensor_info *o = mull_safetensors_at(st, k);
            size_t bytes = (size_t)(t->count < o->count ? t->count : o->count) * 2;
            assert_memory_not_equal(t->data, o->data, bytes);
        }
    }
    assert_true(params > 200000 && params < 2000000); /* a forward pass of milliseconds */
    mull_safetensors_close(st);
    load_rmdir(dir);
}

static void test_loads(void **state) {
    (void)state;
    char *dir = load_mkdir();
    make(dir, 0);
    mull_model *m = NULL;
    mull_tokenizer *tok = NULL;
    mull_error err = {0};
    assert_int_equal(mull_model_load(dir, &(mull_model_opts){.weights_auto = true, .threads = 1}, &m, &err), 0);
    assert_int_equal(mull_tokenizer_load(dir, &tok, &err), 0);
    const mull_config *c = mull_model_config(m);
    assert_true(c->vocab >= mull_tokenizer_size(tok));
    assert_int_equal(c->image_token, mull_tokenizer_special(tok, "<|image_pad|>"));
    assert_int_equal(c->video_token, mull_tokenizer_special(tok, "<|video_pad|>"));
    assert_int_equal(c->vision_start, mull_tokenizer_special(tok, "<|vision_start|>"));
    assert_int_equal(c->vision_end, mull_tokenizer_special(tok, "<|vision_end|>"));
    assert_int_equal(c->latent_pad, mull_tokenizer_special(tok, "<|latent_pad|>"));
    assert_int_equal(c->latent_image, mull_tokenizer_special(tok, "<|latent_image|>"));
    assert_int_equal(c->eos[0], mull_tokenizer_special(tok, "<|im_end|>"));
    assert_int_equal(c->eos[1], mull_tokenizer_special(tok, "<|endoftext|>"));
    assert_true(c->gen_repetition_penalty == 1.05);
    /* Bytes are ids: every text has ids and they give it back. */
    static const char text[] = "A b\n\t\x7f h\xc3\xa9 \xe6\x97\xa5 \xf0\x9f\x98\x80 <|im_end|>";
    mull_ids ids = {0};
    mull_buf back = {0};
    assert_int_equal(mull_tokenizer_encode(tok, text, sizeof text - 1, false, &ids, &err), 0);
    assert_int_equal(ids.len, sizeof text - 1);
    for (size_t i = 0; i < ids.len; i++) assert_int_equal(ids.data[i], (unsigned char)text[i]);
    assert_int_equal(mull_tokenizer_decode(tok, ids.data, ids.len, false, &back, &err), 0);
    assert_string_equal(back.data, text);
    mull_ids_fini(&ids);
    mull_buf_fini(&back);
    mull_tokenizer_destroy(tok);
    mull_model_destroy(m);
    load_rmdir(dir);
}

/* Shards hold the same tensors with the same values as one file, no more elements than asked for, and a later write of
 * the other layout does not leave two checkpoints in a folder. */
static void test_shards(void **state) {
    (void)state;
    char *one = load_mkdir(), *many = load_mkdir();
    make(one, 9);
    make(many, 8);
    mull_config c;
    mull_error err = {0};
    assert_int_equal(mull_config_load(one, &c, &err), 0);
    assert_int_equal(mull_init_weights(many, &c, 9, 100000, &err), 0);
    assert_false(load_has(many, "model.safetensors"));
    assert_true(load_has(many, "model.safetensors.index.json"));
    mull_safetensors *a = NULL, *b = NULL;
    assert_int_equal(mull_safetensors_open(one, &a, &err), 0);
    assert_int_equal(mull_safetensors_open(many, &b, &err), 0);
    assert_int_equal(mull_safetensors_count(a), mull_safetensors_count(b));
    json_t *elements = json_object(), *v;
    json_int_t total = 0;
    for (size_t i = 0; i < mull_safetensors_count(a); i++) {
        const mull_tensor_info *x = mull_safetensors_at(a, i), *y = mull_safetensors_find(b, x->name);
        assert_non_null(y);
        assert_int_equal(x->count, y->count);
        assert_memory_equal(x->data, y->data, (size_t)x->count * 2);
        json_int_t held = json_integer_value(json_object_get(elements, y->file));
        json_object_set_new(elements, y->file, json_integer(held + y->count));
        total += y->count;
    }
    const char *file;
    assert_true(json_object_size(elements) >= 3);
    json_object_foreach(elements, file, v) assert_true(json_integer_value(v) <= 100000);
    json_decref(elements);
    mull_buf text = load_get(many, "model.safetensors.index.json");
    json_t *index = json_loadb(text.data, text.len, 0, NULL);
    assert_true(json_integer_value(json_object_get(json_object_get(index, "metadata"), "total_size")) == total * 2);
    json_decref(index);
    mull_buf_fini(&text);
    mull_safetensors_close(a);
    mull_safetensors_close(b);
    make(many, 9);
    assert_false(load_has(many, "model.safetensors.index.json"));
    assert_true(load_has(many, "model.safetensors"));
    mull_config_fini(&c);
    load_rmdir(one);
    load_rmdir(many);
}

static void test_given_tokenizer(void **state) {
    (void)state;
    char *from = load_mkdir(), *dir = load_mkdir();
    mull_error err = {0};
    load_expect(mull_init_checkpoint("tiny", dir, 0, from, &err), MULL_EMISSING, &err, "tokenizer.json");
    load_put(from, "tokenizer.json", "{}", 2);
    load_expect(mull_init_checkpoint("tiny", dir, 0, from, &err), MULL_EFORMAT, &err, "no model.vocab");
    static const char bare[] = "{\"model\":{\"vocab\":{\"a\":0}},\"added_tokens\":[]}";
    load_put(from, "tokenizer.json", bare, sizeof bare - 1);
    load_expect(mull_init_checkpoint("tiny", dir, 0, from, &err), MULL_EFORMAT, &err, "<|im_end|>");
    static const char huge[] = "{\"model\":{\"vocab\":{\"a\":4000000000}},\"added_tokens\":[]}";
    load_put(from, "tokenizer.json", huge, sizeof huge - 1);
    load_expect(mull_init_checkpoint("tiny", dir, 0, from, &err), MULL_ELIMIT, &err, "highest id");
    assert_false(load_has(dir, "config.json")); /* a failed init leaves no checkpoint */

    int ids[MULL_SPECIALS], size;
    assert_int_equal(mull_init_tokenizer_write(from, false, ids, &size, &err), 0);
    assert_int_equal(size, 256 + MULL_SPECIALS);
    /* A tokenizer folder without chat_template.json: the template of tokenizer_config.json is put there. */
    char *path = mull_path_join(from, "chat_template.json");
    mull_buf want = load_get(from, "chat_template.json");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mull_init_checkpoint("tiny", dir, 0, from, &err), 0);
    mull_buf got = load_get(dir, "chat_template.json");
    assert_string_equal(got.data, want.data);
    mull_buf a = load_get(from, "tokenizer.json"), b = load_get(dir, "tokenizer.json");
    assert_int_equal(a.len, b.len);
    assert_memory_equal(a.data, b.data, a.len);
    mull_buf_fini(&a);
    mull_buf_fini(&b);
    mull_buf_fini(&want);
    mull_buf_fini(&got);
    free(path);
    load_rmdir(from);
    load_rmdir(dir);
}

/* The demo's tokenizer has merges: fewer ids for its prompts, and still every text comes back. */
static void test_words(void **state) {
    (void)state;
    char *dir = load_mkdir();
    mull_tokenizer *tok = NULL;
    mull_error err = {0};
    assert_int_equal(mull_init_checkpoint("demo", dir, 0, NULL, &err), 0);
    assert_int_equal(mull_tokenizer_load(dir, &tok, &err), 0);
    static const char prompt[] = "Provide your final answer between the <answer> </answer> tags.",
                      any[] = "Zw\xc3\xb6lf \x7f\tquux <|im_end|> \xf0\x9f\x98\x80", *const texts[] = {prompt, any};
    for (int i = 0; i < 2; i++) {
        mull_ids ids = {0};
        mull_buf back = {0};
        assert_int_equal(mull_tokenizer_encode(tok, texts[i], strlen(texts[i]), false, &ids, &err), 0);
        assert_int_equal(mull_tokenizer_decode(tok, ids.data, ids.len, false, &back, &err), 0);
        assert_string_equal(back.data, texts[i]);
        if (!i) assert_in_range(ids.len, 8, 16); /* words and signs, not 62 bytes */
        mull_ids_fini(&ids);
        mull_buf_fini(&back);
    }
    mull_tokenizer_destroy(tok);
    load_rmdir(dir);
}

/* The demo's tower says little of blank paper: what it says of a picture is what is drawn there. */
static void test_paper_says_little(void **state) {
    (void)state;
    char *dir = load_mkdir();
    mull_error err = {0};
    mull_model *m = NULL;
    mull_model_opts o = {.weights = MULL_WEIGHT_F32, .threads = 1, .vision_only = true};
    assert_int_equal(mull_init_checkpoint("demo", dir, 3, NULL, &err), 0);
    assert_int_equal(mull_model_load(dir, &o, &m, &err), 0);
    const int64_t grid[3] = {1, 8, 8}, floats = mull_vision_patch_floats(&mull_model_config(m)->vision),
                  n = 64 * floats, hidden = mull_model_config(m)->hidden;
    float *patches = malloc((size_t)n * sizeof *patches), *out = malloc((size_t)(16 * hidden) * sizeof *out);
    double square[2] = {0};
    for (int drawn = 0; drawn < 2; drawn++) {
        /* Nearly white in all channels; or dark on one half. */
        for (int64_t i = 0; i < n; i++) patches[i] = drawn && i < n / 2 ? -1.7f : 1.95f;
        assert_int_equal(mull_vision_encode(m, patches, grid, out, NULL, &err), 0);
        for (int64_t i = 0; i < 8 * hidden; i++) square[drawn] += (double)out[i] * (double)out[i];
    }
    assert_true(square[0] > 0 && square[1] > 10 * square[0]);
    free(patches);
    free(out);
    mull_model_destroy(m);
    load_rmdir(dir);
}

static void test_wrong_arguments(void **state) {
    (void)state;
    char *dir = load_mkdir();
    mull_error err = {0};
    load_expect(mull_init_checkpoint("huge", dir, 0, NULL, &err), MULL_EARG, &err, "'huge' is no preset");
    load_expect(mull_init_checkpoint("tiny", "/nonexistent/a/b", 0, NULL, &err), MULL_EMISSING, &err, "/nonexistent");
    load_put(dir, "file", "x", 1);
    char *path = mull_path_join(dir, "file");
    assert_int_not_equal(mull_init_checkpoint("tiny", path, 0, NULL, &err), 0);
    assert_non_null(strstr(err.where, "file"));
    free(path);
    load_rmdir(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_seed_same_bytes),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_loads),
        cmocka_unit_test(test_shards),
        cmocka_unit_test(test_given_tokenizer),
        cmocka_unit_test(test_words),
        cmocka_unit_test(test_paper_says_little),
        cmocka_unit_test(test_wrong_arguments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
