/* Broken checkpoint folders by command: whatever is wrong with a file, inspect and generate end with status 1 and one
 * line that says what, where and why; never a crash (the sanitizer builds run this too), never an answer. */
#include "tests/engine/annotate_util.h"

/* Copies of the tiny checkpoint with one thing changed. */
static int setup(void **state) {
    place *p = calloc(1, sizeof *p);
    assert_non_null(p);
    place_init(p);
    *state = p;
    return 0;
}

static int teardown(void **state) {
    place_fini(*state);
    free(*state);
    return 0;
}

/* The path of a fresh copy, in a buffer that the next call reuses. */
static const char *fresh(const place *p) {
    static char dir[96];
    snprintf(dir, sizeof dir, "%s/broken", p->dir);
    shell("rm -rf %s && cp -r %s %s", dir, p->model, dir);
    return dir;
}

static mull_buf stderr_of(const place *p) {
    return get_file(p->dir, "stderr");
}

/* Status 1 and one line "error: WHAT (WHERE): WHY..." with word in it. */
static void refused_by(const place *p, const char *const *args, const char *word) {
    int rc = wait_engine(start_engine(p->dir, args, NULL, -1, 0));
    mull_buf b = stderr_of(p);
    const char *text = b.data ? b.data : "";
    if (rc != MULL_EXIT_FAILED || count_lines(&b) != 1 || strncmp(text, "error: ", 7) || !strstr(text, " (") ||
        !strstr(text, "): ") || !strstr(text, word))
        fail_msg("%s: status %d, expected '%s': %s", args[0], rc, word, text);
    mull_buf out = get_file(p->dir, "stdout");
    assert_int_equal(out.len, 0);
    mull_buf_fini(&out);
    mull_buf_fini(&b);
}

#define GENERATE(dir)                                                                                                  \
    (const char *const[]) {                                                                                            \
        "generate", "--model", dir, "--prompt", "x", "--max-new-tokens", "1", "--threads", "1", NULL                   \
    }

static void refused(const place *p, const char *dir, const char *word) {
    refused_by(p, (const char *const[]){"inspect", dir, NULL}, word);
    refused_by(p, GENERATE(dir), word);
}

static char *path_in(const char *dir, const char *name) {
    char *path = mull_path_join(dir, name);
    assert_non_null(path);
    return path;
}

static void put_in(const char *dir, const char *name, const void *data, size_t n) {
    char *path = path_in(dir, name);
    put_file(path, data, n);
    free(path);
}

/* ---- weights */

typedef struct weights {
    mull_buf file;
    uint64_t header; /* bytes of JSON */
} weights;

static weights weights_of(const place *p) {
    weights w = {.file = get_file(p->model, "model.safetensors")};
    for (int i = 7; i >= 0; i--) w.header = w.header << 8 | (uint8_t)w.file.data[i];
    return w;
}

static void test_truncated_weights(void **state) {
    const place *p = *state;
    weights w = weights_of(p);
    const size_t lengths[] = {0, 1, 7, 8, 9, 8 + w.header / 2, 8 + w.header, w.file.len / 2, w.file.len - 1};
    const char *dir = fresh(p);
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        put_in(dir, "model.safetensors", w.file.data, lengths[i]);
        refused(p, dir, "model.safetensors");
    }
    mull_buf_fini(&w.file);
}

/* The header with its JSON changed by edit, over the same data. */
static void rewrite(const place *p, const char *dir, void (*edit)(json_t *header)) {
    weights w = weights_of(p);
    json_t *h = json_loadb(w.file.data + 8, w.header, 0, NULL);
    assert_non_null(h);
    edit(h);
    char *text = json_dumps(h, JSON_COMPACT);
    assert_non_null(text);
    size_t n = (strlen(text) + 7) / 8 * 8;
    mull_buf b = {0};
    for (int i = 0; i < 8; i++) mull_buf_add(&b, &(char){(char)(n >> 8 * i)}, 1);
    mull_buf_puts(&b, text);
    while (b.len < n + 8) mull_buf_puts(&b, " ");
    mull_buf_add(&b, w.file.data + 8 + w.header, w.file.len - 8 - w.header);
    put_in(dir, "model.safetensors", b.data, b.len);
    mull_buf_fini(&b);
    mull_buf_fini(&w.file);
    free(text);
    json_decref(h);
}

/* Some tensor of two dimensions. */
static json_t *a_matrix(json_t *h) {
    const char *name;
    json_t *v;
    json_object_foreach(h, name, v) {
        if (json_array_size(json_object_get(v, "shape")) == 2) return v;
    }
    fail();
    return NULL;
}
static void overlap(json_t *h) {
    json_t *off = json_object_get(a_matrix(h), "data_offsets");
    json_int_t a = json_integer_value(json_array_get(off, 0)), b = json_integer_value(json_array_get(off, 1));
    json_int_t by = a >= 64 ? -64 : 64;
    json_array_set_new(off, 0, json_integer(a + by));
    json_array_set_new(off, 1, json_integer(b + by));
}
static void past_the_end(json_t *h) {
    json_t *off = json_object_get(a_matrix(h), "data_offsets");
    json_int_t a = json_integer_value(json_array_get(off, 0)), b = json_integer_value(json_array_get(off, 1));
    json_array_set_new(off, 0, json_integer(((json_int_t)1 << 40) + a));
    json_array_set_new(off, 1, json_integer(((json_int_t)1 << 40) + b));
}
static void wrong_shape(json_t *h) {
    json_t *shape = json_object_get(a_matrix(h), "shape");
    json_int_t a = json_integer_value(json_array_get(shape, 0)), b = json_integer_value(json_array_get(shape, 1));
    json_array_set_new(shape, 0, json_integer(a * 2));
    json_array_set_new(shape, 1, json_integer(b / 2));
}
static void huge_shape(json_t *h) {
    json_t *shape = json_object_get(a_matrix(h), "shape");
    for (size_t i = 0; i < 2; i++) json_array_set_new(shape, i, json_integer((json_int_t)1 << 62));
}
static void real_shape(json_t *h) {
    json_array_set_new(json_object_get(a_matrix(h), "shape"), 0, json_real(1e300));
}
static void unknown_type(json_t *h) {
    json_object_set_new(a_matrix(h), "dtype", json_string("F8_E4M3_X"));
}
/* Bytes of the same size that are no weights: two of int32 for four of bf16 or so. */
static void integer_type(json_t *h) {
    json_t *m = a_matrix(h);
    const char *is = json_string_value(json_object_get(m, "dtype"));
    json_object_set_new(m, "dtype", json_string(!strcmp(is, "F32") ? "I32" : "I16"));
}
static void missing_tensor(json_t *h) {
    json_t *m = json_incref(a_matrix(h));
    const char *name;
    json_t *v;
    void *next;
    json_object_foreach_safe(h, next, name, v) {
        if (v == m) json_object_del(h, name);
    }
    json_object_set_new(h, "stranger", m); /* the data stays whole */
}

static void test_changed_headers(void **state) {
    const place *p = *state;
    static const struct {
        void (*edit)(json_t *);
        const char *word;
    } CASES[] = {{overlap, "overlap or hole"}, {past_the_end, "cut short"},     {wrong_shape, "shape"},
                 {huge_shape, "too large"},    {real_shape, "no whole number"}, {unknown_type, "F8_E4M3_X"},
                 {integer_type, "I"},          {missing_tensor, "stranger"}};
    const char *dir = fresh(p);
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        rewrite(p, dir, CASES[i].edit);
        refused(p, dir, CASES[i].word);
    }
}

static void test_headers_that_are_none(void **state) {
    const place *p = *state;
    const char *dir = fresh(p);
    static const uint64_t LENGTHS[] = {UINT64_MAX, UINT64_C(1) << 63, UINT64_C(1) << 40, 200 << 20};
    weights w = weights_of(p);
    for (size_t i = 0; i < sizeof LENGTHS / sizeof *LENGTHS; i++) {
        for (int k = 0; k < 8; k++) w.file.data[k] = (char)(LENGTHS[i] >> 8 * k);
        put_in(dir, "model.safetensors", w.file.data, w.file.len);
        refused(p, dir, "its header says");
    }
    static const char *const TEXTS[] = {
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[NaN],\"data_offsets\":[0,4]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,Infinity]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1e999],\"data_offsets\":[0,4]}}",
        "[[[[[[[[[[[[[[[[",
        "{\"a\":",
    };
    for (size_t i = 0; i < sizeof TEXTS / sizeof *TEXTS; i++) {
        mull_buf b = {0};
        mull_buf_add(&b, (const char[8]){(char)strlen(TEXTS[i])}, 8);
        mull_buf_puts(&b, TEXTS[i]);
        mull_buf_add(&b, "\0\0\0\0", 4);
        put_in(dir, "model.safetensors", b.data, b.len);
        refused(p, dir, "header");
        mull_buf_fini(&b);
    }
    mull_buf_fini(&w.file);
}

static void test_indexes(void **state) {
    const place *p = *state;
    const char *dir = fresh(p);
    static const char *const CASES[][2] = {
        {"{\"weight_map\":{\"a\":\"model-00001-of-00002.safetensors\",\"b\":\"model-00002-of-00002.safetensors\"}}",
         "1 of 2 shards are not there: model-00002-of-00002.safetensors"},
        {"{\"weight_map\":{\"nowhere\":\"model-00001-of-00002.safetensors\"}}", "is not there"},
        {"{\"weight_map\":{\"a\":\"../../etc/passwd\"}}", "names no file of this folder"},
        {"{\"weight_map\":{\"a\":NaN}}", "index.json"},
        {"{\"weight_map\":{}}", ""},
        {"", "index.json"},
    };
    shell("mv %s/model.safetensors %s/model-00001-of-00002.safetensors", dir, dir);
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        put_in(dir, "model.safetensors.index.json", CASES[i][0], strlen(CASES[i][0]));
        refused(p, dir, CASES[i][1]);
    }
}

/* ---- the files beside the weights */

static void test_configs(void **state) {
    const place *p = *state;
    const char *dir = fresh(p);
    static const struct {
        const char *key, *value;
    } CASES[] = {
        {"hidden_size", "NaN"},       {"hidden_size", "-64"},  {"hidden_size", "1e30"},
        {"num_attention_heads", "0"}, {"vocab_size", "\"x\""}, {"num_hidden_layers", "1000000000"},
        {"rms_norm_eps", "NaN"},      {"vision_config", "[]"},
    };
    mull_buf good = get_file(p->model, "config.json");
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        json_t *o = json_loadb(good.data, good.len, 0, NULL);
        assert_non_null(o);
        json_object_set_new(o, CASES[i].key, json_string("@@"));
        char *text = json_dumps(o, 0), *at = strstr(text, "\"@@\"");
        mull_buf b = {0};
        assert_non_null(at);
        mull_buf_add(&b, text, (size_t)(at - text));
        mull_buf_puts(&b, CASES[i].value);
        mull_buf_puts(&b, at + 4);
        put_in(dir, "config.json", b.data, b.len);
        refused(p, dir, "config.json");
        mull_buf_fini(&b);
        free(text);
        json_decref(o);
    }
    for (size_t n = 0; n < good.len - 1; n += good.len / 5) {
        put_in(dir, "config.json", good.data, n);
        refused(p, dir, "config.json");
    }
    mull_buf_fini(&good);
}

static void test_tokenizers(void **state) {
    const place *p = *state;
    const char *dir = fresh(p);
    mull_buf good = get_file(p->model, "tokenizer.json");
    for (size_t n = 0; n < good.len - 1; n += good.len / 5) {
        put_in(dir, "tokenizer.json", good.data, n);
        refused(p, dir, "tokenizer.json");
    }
    shell("rm %s/tokenizer.json", dir);
    refused_by(p, GENERATE(dir), "tokenizer.json");
    mull_buf_fini(&good);
}

/* Infinite and NaN weights are no broken file, but they end in an error, not in an answer. */
static void test_weights_without_numbers(void **state) {
    const place *p = *state;
    const char *dir = fresh(p);
    weights w = weights_of(p);
    memset(w.file.data + 8 + w.header, 0xff, w.file.len - 8 - w.header);
    put_in(dir, "model.safetensors", w.file.data, w.file.len);
    refused_by(p, GENERATE(dir), "no finite value");
    mull_buf_fini(&w.file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_truncated_weights),
        cmocka_unit_test(test_changed_headers),
        cmocka_unit_test(test_headers_that_are_none),
        cmocka_unit_test(test_indexes),
        cmocka_unit_test(test_configs),
        cmocka_unit_test(test_tokenizers),
        cmocka_unit_test(test_weights_without_numbers),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
