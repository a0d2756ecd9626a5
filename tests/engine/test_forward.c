/* The forward pass on a small case of our own against what the reference computed for it, how packing and chunking do
 * not change a bit, and how broken cases are refused. */
#include "tests/engine/own_case.h"

#include "engine/model/forward.h"

enum { MOST = 16 };

typedef struct parts {
    mull_tensor_info t[MOST];
    size_t n;
} parts;

static void put(parts *p, const char *name, mull_dtype type, int ndim, int64_t d0, int64_t d1, const void *data) {
    p->t[p->n++] = (mull_tensor_info){
        .name = name, .dtype = type, .ndim = ndim, .shape = {d0, d1}, .count = ndim == 2 ? d0 * d1 : d0, .data = data};
}

/* The whole case, or only sequence s of it when s >= 0. */
static parts own_parts(const own_case *o, int s) {
    parts p = {0};
    const int64_t *cu = own_data(o, "cu_seqlens", NULL), *ids = own_data(o, "input_ids", NULL);
    int64_t from = s < 0 ? 0 : cu[s], to = s < 0 ? cu[2] : cu[s + 1];
    put(&p, "input_ids", MULL_I64, 1, to - from, 0, ids + from);
    if (s < 0) put(&p, "cu_seqlens", MULL_I64, 1, 3, 0, cu);
    if (s == 1) return p;
    put(&p, "image_grid_thw", MULL_I64, 2, 1, 3, own_data(o, "image_grid_thw", NULL));
    put(&p, "video_grid_thw", MULL_I64, 2, 1, 3, own_data(o, "video_grid_thw", NULL));
    put(&p, "second_per_grid_ts", MULL_F32, 1, 1, 0, own_data(o, "second_per_grid_ts", NULL));
    put(&p, "pixel_values", MULL_F32, 2, OWN_IMAGE_ROWS, 1176, o->image);
    put(&p, "pixel_values_videos", MULL_F32, 2, OWN_VIDEO_ROWS, 1176, o->video);
    return p;
}

static int try_run(const own_case *o, const parts *p, const mull_forward_opts *opts, mull_outputs *out) {
    char path[64];
    snprintf(path, sizeof path, "%s/case.safetensors", o->dir);
    mull_error err = {0};
    mull_case k;
    assert_int_equal(mull_safetensors_write(path, p->t, p->n, &err), 0);
    int rc = mull_case_open(path, mull_model_config(o->m), &k, &err);
    if (rc) {
        assert_true(err.code == rc && err.what[0] && err.why[0]);
        return rc;
    }
    rc = mull_forward(o->m, &k, opts, out, &err);
    if (rc) assert_true(err.code == rc && err.what[0] && err.why[0]);
    mull_case_fini(&k);
    return rc;
}

static mull_outputs run(const own_case *o, int s, int64_t chunk) {
    mull_outputs out;
    parts p = own_parts(o, s);
    assert_int_equal(try_run(o, &p, &(mull_forward_opts){.all = true, .chunk = chunk}, &out), 0);
    return out;
}

static void check(const own_case *o, const mull_outputs *out, const char *name, double limit) {
    int64_t n;
    const float *want = own_data(o, name, &n);
    const mull_tensor_info *got = mull_outputs_find(out, name);
    assert_non_null(got);
    assert_int_equal(got->count, n);
    double d = util_difference(got->data, want, n);
    if (!(d <= limit)) {
        print_error("%s differs by %.3g, allowed %.3g\n", name, d, limit);
        fail();
    }
}

static void check_reference(mull_weight_type type, double hidden, double logits) {
    own_case o;
    own_init(&o, type, 2);
    mull_outputs out = run(&o, -1, 0);
    int64_t n;
    const int64_t *pos = own_data(&o, "position_ids", &n);
    assert_memory_equal(mull_outputs_find(&out, "position_ids")->data, pos, (size_t)n * sizeof *pos);
    check(&o, &out, "hidden_final", hidden);
    check(&o, &out, "logits_last", logits);
    check(&o, &out, "next_logprob", logits);
    mull_outputs_fini(&out);
    own_fini(&o);
}

/* Bounds as for the oracle: ten times what the reference shows against itself. bf16 weights are exact here, the
 * checkpoint being bf16; sums are float32 in both. */
static void test_reference_f32(void **state) {
    (void)state;
    check_reference(MULL_WEIGHT_F32, 2e-4, 2.2e-4);
}

static void test_reference_bf16(void **state) {
    (void)state;
    check_reference(MULL_WEIGHT_BF16, 2e-4, 2.2e-4);
}

static void same(const mull_outputs *a, const mull_outputs *b, const char *name) {
    const mull_tensor_info *x = mull_outputs_find(a, name), *y = mull_outputs_find(b, name);
    assert_int_equal(x->count, y->count);
    assert_memory_equal(x->data, y->data, (size_t)x->count * mull_dtype_size(x->dtype));
}

static void check_chunks(mull_weight_type type) {
    static const char *const NAMES[] = {"hidden_final", "hidden.0",  "hidden.2",
                                        "logits_last",  "logsumexp", "next_logprob"};
    own_case o;
    own_init(&o, type, 1);
    mull_outputs whole = run(&o, -1, 0);
    for (int64_t chunk = 1; chunk <= 33; chunk += 8) {
        mull_outputs part = run(&o, -1, chunk);
        for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) same(&whole, &part, NAMES[i]);
        mull_outputs_fini(&part);
    }
    mull_outputs_fini(&whole);
    own_fini(&o);
}

static void test_chunks_change_nothing(void **state) {
    (void)state;
    check_chunks(MULL_WEIGHT_F32);
    check_chunks(MULL_WEIGHT_BF16);
    check_chunks(MULL_WEIGHT_INT8);
}

/* Each sequence alone has the bits it has in the pack, with another number of threads too. */
static void test_packed_is_each_alone(void **state) {
    (void)state;
    own_case o, p;
    own_init(&o, MULL_WEIGHT_F32, 1);
    own_init(&p, MULL_WEIGHT_F32, 3);
    mull_outputs packed = run(&o, -1, 0);
    const int64_t *cu = own_data(&o, "cu_seqlens", NULL);
    for (int s = 0; s < 2; s++) {
        mull_outputs alone = run(&p, s, 0);
        const float *a = mull_outputs_find(&alone, "hidden_final")->data,
                    *b = mull_outputs_find(&packed, "hidden_final")->data;
        assert_memory_equal(a, b + cu[s] * 64, (size_t)(cu[s + 1] - cu[s]) * 64 * sizeof(float));
        a = mull_outputs_find(&alone, "logits_last")->data;
        b = mull_outputs_find(&packed, "logits_last")->data;
        assert_memory_equal(a, b + s * 256, 256 * sizeof(float));
        mull_outputs_fini(&alone);
    }
    mull_outputs_fini(&packed);
    own_fini(&o);
    own_fini(&p);
}

static void refuse(const own_case *o, const parts *p, int code) {
    mull_outputs out;
    assert_int_equal(try_run(o, p, &(mull_forward_opts){0}, &out), code);
}

static mull_tensor_info *find(parts *p, const char *name) {
    for (size_t i = 0; i < p->n; i++)
        if (!strcmp(p->t[i].name, name)) return &p->t[i];
    return NULL;
}

static void test_broken_cases(void **state) {
    (void)state;
    own_case o;
    own_init(&o, MULL_WEIGHT_F32, 1);
    parts p = own_parts(&o, -1);
    find(&p, "input_ids")->name = "ids";
    refuse(&o, &p, MULL_EFORMAT);
    p = own_parts(&o, -1);
    find(&p, "pixel_values")->name = "pixels";
    refuse(&o, &p, MULL_EFORMAT);
    p = own_parts(&o, -1);
    find(&p, "pixel_values")->shape[0]--;
    find(&p, "pixel_values")->count -= 1176;
    refuse(&o, &p, MULL_EFORMAT);
    static const int64_t bad_cu[][3] = {{0, 60, 60}, {1, 30, 60}, {0, -5, 60}, {0, 40, 59}, {0, 70, 60}};
    for (size_t i = 0; i < sizeof bad_cu / sizeof *bad_cu; i++) {
        p = own_parts(&o, -1);
        find(&p, "cu_seqlens")->data = bad_cu[i];
        refuse(&o, &p, MULL_EFORMAT);
    }
    static const int64_t cut_media[] = {0, 12, 60}; /* a border inside the image */
    p = own_parts(&o, -1);
    find(&p, "cu_seqlens")->data = cut_media;
    mull_outputs out;
    int rc = try_run(&o, &p, &(mull_forward_opts){0}, &out);
    assert_true(rc == MULL_EARG || rc == MULL_EFORMAT);
    static const int64_t grids[][3] = {{1, 6, 8}, {1, 5, 10}, {0, 6, 10}, {1, 1ll << 40, 1ll << 40}, {-1, 6, 10}};
    for (size_t i = 0; i < sizeof grids / sizeof *grids; i++) {
        p = own_parts(&o, -1);
        find(&p, "image_grid_thw")->data = grids[i];
        rc = try_run(&o, &p, &(mull_forward_opts){0}, &out);
        assert_true(rc == MULL_EARG || rc == MULL_EFORMAT);
    }
    int64_t ids[60];
    memcpy(ids, own_data(&o, "input_ids", NULL), sizeof ids);
    ids[3] = 256; /* one past the vocabulary */
    p = own_parts(&o, -1);
    find(&p, "input_ids")->data = ids;
    refuse(&o, &p, MULL_EFORMAT);
    own_fini(&o);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_reference_f32), cmocka_unit_test(test_reference_bf16),
                                       cmocka_unit_test(test_chunks_change_nothing),
                                       cmocka_unit_test(test_packed_is_each_alone),
                                       cmocka_unit_test(test_broken_cases)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
