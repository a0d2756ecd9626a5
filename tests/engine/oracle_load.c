/* Loading against the reference models: tensors, shapes, every stored value and the digest of all bytes as the oracle
 * gives them, what loading costs in memory, and the formula's checkpoints damaged in every way a download can be. */
#include "tests/engine/load_util.h"
#include "tests/engine/oracle_util.h"

#include "engine/model/model_internal.h"

#include <openssl/evp.h>

static const char *const MODELS[] = {"micro", "tiny", "wide"};

/* weights.json: the examples by value, and the digest over all tensors in the order of the list. */
static void check_values(const char *model, const char *dir, const mull_config *c) {
    json_t *all = json_load_file(ORACLE_MODEL "/weights.json", 0, NULL), *w = json_object_get(all, model), *e;
    assert_non_null(w);
    mull_weight_spec *specs = NULL;
    size_t n = 0, i;
    mull_error err = {0};
    mull_safetensors *st = NULL;
    assert_int_equal(mull_weights_list(c, &specs, &n, &err), 0);
    assert_int_equal(mull_safetensors_open(dir, &st, &err), 0);
    assert_int_equal(n, util_int(w, "tensors"));
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    assert_int_equal(EVP_DigestInit_ex(md, EVP_sha256(), NULL), 1);
    int64_t params = 0;
    for (i = 0; i < n; i++) {
        const mull_tensor_info *t = mull_safetensors_find(st, specs[i].name);
        assert_non_null(t);
        params += t->count;
        EVP_DigestUpdate(md, t->data, (size_t)t->count * 2);
    }
    assert_true(params == util_int(w, "parameters"));
    unsigned char digest[32];
    char hex[65];
    EVP_DigestFinal_ex(md, digest, NULL);
    EVP_MD_CTX_free(md);
    for (int k = 0; k < 32; k++) snprintf(hex + 2 * k, 3, "%02x", digest[k]);
    assert_string_equal(hex, json_string_value(json_object_get(w, "sha256_of_bf16_tensor_data_in_list_order")));
    json_array_foreach(json_object_get(w, "examples"), i, e) {
        const mull_tensor_info *t = mull_safetensors_find(st, json_string_value(json_object_get(e, "tensor")));
        const json_t *shape = json_object_get(e, "shape"), *index = json_object_get(e, "index");
        assert_non_null(t);
        assert_int_equal(t->ndim, json_array_size(shape));
        for (int d = 0; d < t->ndim; d++)
            assert_true(t->shape[d] == json_integer_value(json_array_get(shape, (size_t)d)));
        for (size_t k = 0; k < json_array_size(index); k++) {
            uint16_t bits = ((const uint16_t *)t->data)[json_integer_value(json_array_get(index, k))];
            double want = json_number_value(json_array_get(json_object_get(e, "value"), k));
            assert_true((double)mull_bf16_to_f32(bits) == want);
        }
    }
    mull_safetensors_close(st);
    free(specs);
    json_decref(all);
}

/* The same examples out of the packed embedding and head. */
static void check_packed(const char *model, const mull_model *m) {
    json_t *all = json_load_file(ORACLE_MODEL "/weights.json", 0, NULL), *e;
    size_t i;
    int checked = 0;
    float *row = malloc((size_t)m->config.hidden * sizeof *row);
    assert_non_null(row);
    json_array_foreach(json_object_get(json_object_get(all, model), "examples"), i, e) {
        const char *name = json_string_value(json_object_get(e, "tensor"));
        bool embed = !strcmp(name, "model.embed_tokens.weight"), head = !strcmp(name, "lm_head.weight");
        const json_t *index = json_object_get(e, "index");
        for (size_t k = 0; (embed || head) && k < json_array_size(index); k++) {
            int64_t at = json_integer_value(json_array_get(index, k));
            mull_matrix_get_row(embed ? m->weights.embed : m->weights.head, at / m->config.hidden, row);
            assert_true((double)row[at % m->config.hidden] ==
                        json_number_value(json_array_get(json_object_get(e, "value"), k)));
            checked++;
        }
    }
    assert_int_equal(checked, m->config.tied ? 5 : 10);
    free(row);
    json_decref(all);
}

/* Largest resident size since mark_peak, minus that at mark_peak. */
static int64_t status_kb(const char *key) {
    FILE *f = fopen("/proc/self/status", "r");
    char line[256];
    long long kb = -1;
    assert_non_null(f);
    while (fgets(line, sizeof line, f))
        if (!strncmp(line, key, strlen(key))) sscanf(line + strlen(key), "%lld", &kb);
    fclose(f);
    assert_true(kb > 0);
    return kb;
}

static bool mark_peak(void) {
    FILE *f = fopen("/proc/self/clear_refs", "w");
    bool ok = f && fputs("5", f) >= 0;
    return f && !fclose(f) && ok;
}

static void test_models(void **state) {
    (void)state;
    for (size_t k = 0; k < 3; k++) {
        char dir[] = "/tmp/mull_oracle_XXXXXX";
        util_checkpoint(ORACLE_MODEL "/configs.json", MODELS[k], dir);
        mull_config c;
        mull_error err = {0};
        assert_int_equal(mull_config_load(dir, &c, &err), 0);
        check_values(MODELS[k], dir, &c);
        mull_config_fini(&c);
        for (mull_weight_type t = MULL_WEIGHT_F32; t <= MULL_WEIGHT_BF16; t++) {
            mull_model *m = util_load(dir, t, 2);
            check_packed(MODELS[k], m);
            mull_model_destroy(m);
        }
        util_remove(dir);
    }
}

/* The checkpoint in the page cache is not the process's: what counts is resident memory while packing. The allowance is
 * the largest tensor; threads, tables and headers get 16 MB. */
static void test_peak_memory(void **state) {
    (void)state;
#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
    skip(); /* shadow memory is resident too */
#endif
    char dir[] = "/tmp/mull_oracle_XXXXXX";
    util_checkpoint(ORACLE_MODEL "/configs.json", "wide", dir);
    static const mull_weight_type types[] = {MULL_WEIGHT_BF16, MULL_WEIGHT_INT8};
    for (size_t k = 0; k < 2; k++) {
        if (!mark_peak()) {
            util_remove(dir);
            skip(); /* the system keeps /proc closed */
        }
        int64_t before = status_kb("VmRSS:");
        mull_model *m = util_load(dir, types[k], 2);
        int64_t grown = (status_kb("VmHWM:") - before) * 1024;
        int64_t largest = (int64_t)m->config.vocab * m->config.hidden * 2;
        print_message("peak %lld bytes for %zu of weights\n", (long long)grown, mull_model_bytes(m));
        assert_true(grown >= (int64_t)mull_model_bytes(m) / 2);
        assert_true(grown <= (int64_t)mull_model_bytes(m) + largest + (16 << 20));
        mull_model_destroy(m);
    }
    util_remove(dir);
}

static void refuse(const char *dir, int code, const char *word) {
    mull_model *m = NULL;
    mull_error err = {0};
    load_expect(mull_model_load(dir, &(mull_model_opts){.weights_auto = true, .threads = 1}, &m, &err), code, &err,
                word);
    assert_true(err.todo[0]); /* says what to do */
    assert_null(m);
}

static void test_damaged(void **state) {
    (void)state;
    char dir[] = "/tmp/mull_oracle_XXXXXX";
    util_checkpoint(ORACLE_MODEL "/configs.json", "micro", dir);
    mull_buf good = load_get(dir, "model.safetensors"), config = load_get(dir, "config.json");
    static const double cuts[] = {0, 1e-5, 1e-3, 0.5, 0.999};
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        load_put(dir, "model.safetensors", good.data, (size_t)((double)good.len * cuts[i]));
        refuse(dir, MULL_EFORMAT, i ? "cut short" : "empty");
    }
    load_put(dir, "model.safetensors", good.data, good.len);
    static const char *const cut_configs[] = {"", "{", "{\"model_type\":\"qwen2_5_vl\"}"};
    for (size_t i = 0; i < 3; i++) {
        load_put(dir, "config.json", cut_configs[i], strlen(cut_configs[i]));
        refuse(dir, MULL_EFORMAT, "config.json");
    }
    /* A config of another size: the faults are named, with both shapes. */
    json_t *root = json_loadb(config.data, config.len, 0, NULL);
    json_object_set_new(root, "vocab_size", json_integer(151936));
    util_write_json(dir, "config.json", root);
    refuse(dir, MULL_EFORMAT, "mis-shaped model.embed_tokens.weight [320,48], not [151936,48]");
    json_object_set_new(root, "num_hidden_layers", json_integer(3));
    json_object_set_new(root, "tie_word_embeddings", json_false());
    util_write_json(dir, "config.json", root);
    refuse(dir, MULL_EFORMAT, "14 tensors are wrong"); /* embedding, head, 12 of the third layer */
    json_decref(root);
    mull_buf_fini(&good);
    mull_buf_fini(&config);
    util_remove(dir);
}

int main(void) {
    if (!oracle_present()) {
        printf("skipped: the reference vectors are not there (%s)\n", ORACLE_MODEL);
        return 77;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_peak_memory), cmocka_unit_test(test_models),
                                       cmocka_unit_test(test_damaged)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
