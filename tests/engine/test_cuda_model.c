/* The whole model on the CUDA backend against the CPU and against the reference; see test_cuda_ops.c for how and where
 * it runs. float32: the bounds of the reference test, and greedy tokens equal. bf16: activations are rounded at some
 * twenty places a layer, 2^-9 each; rounding errors add like noise, so a relative L2 difference of 2e-2 is what a few
 * layers may show, while a wrong index gives about 1. */
#include <stdio.h>

#if MULL_HAVE_CUDA
#include "tests/engine/cuda_group.h"
#include "tests/engine/own_case.h"

#include "engine/model/backend.h"
#include "engine/model/cuda_graphs.h"
#include "engine/model/forward.h"

static mull_model *load(const char *dir, mull_weight_type type, const mull_backend *backend) {
    mull_model *m = NULL;
    mull_error err = {0};
    if (mull_model_load(dir, &(mull_model_opts){.weights = type, .threads = 1, .backend = backend}, &m, &err)) {
        mull_error_print(stderr, &err);
        fail();
    }
    return m;
}

static void put(mull_tensor_info *t, const char *name, mull_dtype type, int64_t d0, int64_t d1, const void *data) {
    *t = (mull_tensor_info){
        .name = name, .dtype = type, .ndim = d1 ? 2 : 1, .shape = {d0, d1}, .count = d1 ? d0 * d1 : d0, .data = data};
}

static void write_case(const own_case *o, const char *path) {
    mull_tensor_info t[7];
    mull_error err = {0};
    int64_t n;
    const void *ids = own_data(o, "input_ids", &n);
    put(&t[0], "input_ids", MULL_I64, n, 0, ids);
    put(&t[1], "cu_seqlens", MULL_I64, 3, 0, own_data(o, "cu_seqlens", NULL));
    put(&t[2], "image_grid_thw", MULL_I64, 1, 3, own_data(o, "image_grid_thw", NULL));
    put(&t[3], "video_grid_thw", MULL_I64, 1, 3, own_data(o, "video_grid_thw", NULL));
    put(&t[4], "second_per_grid_ts", MULL_F32, 1, 0, own_data(o, "second_per_grid_ts", NULL));
    put(&t[5], "pixel_values", MULL_F32, OWN_IMAGE_ROWS, 1176, o->image);
    put(&t[6], "pixel_values_videos", MULL_F32, OWN_VIDEO_ROWS, 1176, o->video);
    assert_int_equal(mull_safetensors_write(path, t, 7, &err), 0);
}

static int try_forward(const mull_model *m, const char *path, int64_t chunk, mull_outputs *out, mull_error *err) {
    mull_case k;
    int rc = mull_case_open(path, mull_model_config(m), &k, err);
    if (rc) return rc;
    rc = mull_forward(m, &k, &(mull_forward_opts){.all = true, .chunk = chunk}, out, err);
    mull_case_fini(&k);
    return rc;
}

static mull_outputs forward(const mull_model *m, const char *path, int64_t chunk) {
    mull_outputs out;
    mull_error err = {0};
    if (try_forward(m, path, chunk, &out, &err)) {
        mull_error_print(stderr, &err);
        fail();
    }
    return out;
}

/* Every tensor of both; relative L2 of the float ones. */
static void compare(const mull_outputs *a, const mull_outputs *b, double limit, bool ids) {
    assert_int_equal(a->n, b->n);
    for (size_t i = 0; i < a->n; i++) {
        const mull_tensor_info *x = &a->tensors[i], *y = mull_outputs_find(b, x->name);
        assert_non_null(y);
        assert_int_equal(x->count, y->count);
        if (x->dtype != MULL_F32) {
            bool choice = !strncmp(x->name, "top8", 4) || !strcmp(x->name, "argmax");
            if (ids || !choice) assert_memory_equal(x->data, y->data, (size_t)x->count * mull_dtype_size(x->dtype));
            continue;
        }
        const float *p = x->data, *q = y->data;
        double diff = 0, size = 0;
        for (int64_t k = 0; k < x->count; k++) {
            diff += ((double)p[k] - (double)q[k]) * ((double)p[k] - (double)q[k]);
            size += (double)p[k] * (double)p[k];
        }
        if (!(sqrt(diff / size) <= limit))
            fail_msg("%s differs by %.3g, allowed %.3g", x->name, sqrt(diff / size), limit);
    }
}

static void path_of(const own_case *o, char path[64]) {
    snprintf(path, 64, "%s/case.safetensors", o->dir);
    write_case(o, path);
}

static void reference(void **state) {
    (void)state;
    own_case o;
    char path[64];
    own_init(&o, MULL_WEIGHT_F32, 1);
    path_of(&o, path);
    mull_model *m = load(o.dir, MULL_WEIGHT_F32, mull_cuda_backend());
    mull_outputs cpu = forward(o.m, path, 0), gpu = forward(m, path, 0);
    compare(&cpu, &gpu, 1e-5, true);
    static const struct {
        const char *name;
        double limit;
    } BOUNDS[] = {{"hidden_final", 2e-4}, {"logits_last", 2.2e-4}, {"next_logprob", 2.2e-4}};
    for (int i = 0; i < 3; i++) {
        int64_t n;
        const float *want = own_data(&o, BOUNDS[i].name, &n);
        double d = util_difference(mull_outputs_find(&gpu, BOUNDS[i].name)->data, want, n);
        if (!(d <= BOUNDS[i].limit)) fail_msg("%s differs by %.3g", BOUNDS[i].name, d);
    }
    for (int64_t chunk = 3; chunk <= 30; chunk += 9) { /* pieces through the cache */
        mull_outputs part = forward(m, path, chunk);
        compare(&gpu, &part, 1e-5, true);
        mull_outputs_fini(&part);
    }
    mull_outputs_fini(&cpu);
    mull_outputs_fini(&gpu);
    mull_model_destroy(m);
    own_fini(&o);
}

static void lower_precision(const char *name, mull_weight_type type, mull_weight_type cpu_type, double limit) {
    own_case o = {0};
    char path[64];
    own_init(&o, cpu_type, 1);
    mull_model_destroy(o.m);
    util_remove(o.dir);
    snprintf(o.dir, sizeof o.dir, "/tmp/mull_own_XXXXXX");
    util_checkpoint(OWN "/configs.json", name, o.dir);
    o.m = util_load(o.dir, cpu_type, 1);
    path_of(&o, path);
    mull_model *m = load(o.dir, type, mull_cuda_backend());
    mull_outputs cpu = forward(o.m, path, 0), gpu = forward(m, path, 0), again = forward(m, path, 0);
    compare(&cpu, &gpu, limit, false);
    compare(&gpu, &again, 0, true); /* the same bits each time */
    mull_outputs_fini(&cpu);
    mull_outputs_fini(&gpu);
    mull_outputs_fini(&again);
    mull_model_destroy(m);
    own_fini(&o);
}

static void bf16(void **state) {
    (void)state;
    lower_precision("own", MULL_WEIGHT_BF16, MULL_WEIGHT_BF16, 2e-2);
}
/* Heads of 128 and 80: tensor cores. */
static void bf16_heads(void **state) {
    (void)state;
    lower_precision("heads", MULL_WEIGHT_F32, MULL_WEIGHT_F32, 1e-5);
    lower_precision("heads", MULL_WEIGHT_BF16, MULL_WEIGHT_BF16, 2e-2);
}
/* Quantising is the same on both sides, but inputs that differ by a rounding may step to the next of 127 levels. */
static void int8(void **state) {
    (void)state;
    lower_precision("heads", MULL_WEIGHT_INT8, MULL_WEIGHT_INT8, 6e-2);
    lower_precision("own", MULL_WEIGHT_INT8, MULL_WEIGHT_INT8, 6e-2);
}

enum { NEW = 12, SEQS = 6 };
typedef struct answers {
    int32_t ids[SEQS][NEW];
    size_t n[SEQS];
} answers;

static void on_done(void *ctx, const mull_result *r) {
    answers *a = ctx;
    if (r->finish == MULL_FINISH_ERROR) mull_error_print(stderr, &r->error);
    assert_int_not_equal(r->finish, MULL_FINISH_ERROR);
    a->n[r->id] = r->n;
    memcpy(a->ids[r->id], r->ids, r->n * sizeof *r->ids);
}

/* The two sequences of the case: greedy, and twice sampled; all in one batch over a small cache. */
static void generate(const own_case *o, mull_model *m, answers *a) {
    mull_infer_callbacks cb = {.ctx = a, .on_done = on_done};
    mull_infer_opts opts = {.cache_tokens = 320, .max_batch = 4, .prefill_chunk = 13, .raw = true};
    mull_infer *f;
    mull_error err = {0};
    *a = (answers){0};
    assert_int_equal(mull_infer_create(m, NULL, &opts, &cb, &f, &err), 0);
    const int64_t *cu = own_data(o, "cu_seqlens", NULL), *ids = own_data(o, "input_ids", NULL);
    int32_t prompt[256];
    for (int64_t i = 0; i < cu[2]; i++) prompt[i] = (int32_t)ids[i];
    for (int i = 0; i < SEQS; i++) {
        int s = i % 2;
        const mull_media *media[] = {&o->media[0], &o->media[1]};
        mull_request r = {.id = (uint64_t)i,
                          .ids = prompt + cu[s],
                          .n = (size_t)(cu[s + 1] - cu[s]),
                          .media = media,
                          .nmedia = s ? 0 : 2,
                          .sampling = {.max_new_tokens = NEW,
                                       .top_p = i < 2 ? 1 : 0.9,
                                       .top_k = i < 4 ? 0 : 20,
                                       .temperature = i < 2 ? 0 : 1,
                                       .repetition_penalty = i < 2 ? 1 : 1.05,
                                       .seed = (uint64_t)i,
                                       .ignore_eos = true}};
        assert_int_equal(mull_infer_submit(f, &r, &err), 0);
    }
    int left;
    while ((left = mull_infer_step(f, &err)) > 0) {
    }
    if (left) mull_error_print(stderr, &err);
    assert_int_equal(left, 0);
    mull_infer_destroy(f);
}

static void tokens(void **state) {
    (void)state;
    own_case o;
    own_init(&o, MULL_WEIGHT_F32, 1);
    mull_model *m = load(o.dir, MULL_WEIGHT_F32, mull_cuda_backend());
    answers cpu, gpu;
    generate(&o, o.m, &cpu);
    generate(&o, m, &gpu);
    const int64_t *greedy = own_data(&o, "greedy", NULL);
    for (int s = 0; s < 2; s++)
        for (int i = 0; i < NEW; i++) assert_int_equal(gpu.ids[s][i], greedy[s * NEW + i]);
    assert_memory_equal(&cpu, &gpu, sizeof cpu);
    /* Decoding steps were replayed from graphs; without them the tokens are the same. */
    setenv("MULL_CUDA_GRAPHS", "0", 1);
    generate(&o, m, &gpu);
    unsetenv("MULL_CUDA_GRAPHS");
    assert_memory_equal(&cpu, &gpu, sizeof cpu);
    mull_model_destroy(m);
    own_fini(&o);
}

/* Which batches share a graph, and how long one is kept. */
static void buckets(void **state) {
    (void)state;
    for (int n = 1; n <= 8; n++) assert_int_equal(mull_cuda_bucket_rows(n), n);
    assert_int_equal(mull_cuda_bucket_rows(0), 0);
    assert_int_equal(mull_cuda_bucket_rows(MULL_CUDA_GRAPH_ROWS + 1), 0);
    int kinds = 0;
    for (int n = 1; n <= MULL_CUDA_GRAPH_ROWS; n++) {
        int b = mull_cuda_bucket_rows(n);
        assert_in_range(b, n, n <= 8 ? n : n + n / 3); /* little is filled up */
        assert_int_equal(mull_cuda_bucket_rows(b), b);
        kinds += b == n;
    }
    assert_in_range(kinds, 8, 32);
    assert_int_equal(mull_cuda_bucket_work(1), 1);
    assert_int_equal(mull_cuda_bucket_work(33), 64);
    mull_cuda_graphs *g = calloc(1, sizeof *g);
    mull_cuda_bucket key = {.rows = 4, .work = 8, .joins = 4, .cache = g, .batch = g, .epoch = 1}, other = key;
    bool capture;
    assert_null(mull_cuda_graphs_find(g, &key, &capture));
    assert_false(capture); /* the first time it runs as it is */
    assert_null(mull_cuda_graphs_find(g, &key, &capture));
    assert_true(capture);
    for (int i = 0; i < 6; i++) { /* every part counts */
        other = key;
        other.rows += i == 0, other.work += i == 1, other.joins += i == 2, other.epoch += i == 3;
        if (i == 4) other.cache = NULL;
        if (i == 5) other.batch = NULL;
        mull_cuda_graphs_find(g, &other, &capture);
        assert_false(capture);
    }
    for (int i = 0; i < 3 * MULL_CUDA_GRAPHS; i++) { /* one that is used stays among ever new ones */
        other.epoch = (uint64_t)(100 + i);
        mull_cuda_graphs_find(g, &other, &capture);
        assert_false(capture);
        mull_cuda_graphs_find(g, &key, &capture);
        assert_true(capture);
    }
    mull_cuda_graphs_keep(g, &key, NULL); /* a capture failed: none is tried again */
    assert_null(mull_cuda_graphs_find(g, &key, &capture));
    assert_false(capture);
    mull_cuda_graphs_fini(g);
    free(g);
}

#ifdef MULL_CUDA_EMULATED
/* Bit for bit the same from graphs as without, in every type; and without them where a capture fails. */
static void graphs(void **state) {
    (void)state;
    const mull_weight_type types[] = {MULL_WEIGHT_F32, MULL_WEIGHT_BF16, MULL_WEIGHT_INT8};
    own_case o;
    own_init(&o, MULL_WEIGHT_F32, 1);
    for (int i = 0; i < 3; i++) {
        mull_model *m = load(o.dir, types[i], mull_cuda_backend());
        answers with, without, failed;
        long before = mull_emu_replays();
        generate(&o, m, &with);
        long replays = mull_emu_replays() - before;
        assert_in_range(replays, NEW / 2, SEQS * NEW);
        setenv("MULL_CUDA_GRAPHS", "0", 1);
        generate(&o, m, &without);
        unsetenv("MULL_CUDA_GRAPHS");
        assert_int_equal(mull_emu_replays(), before + replays);
        assert_memory_equal(&with, &without, sizeof with);
        mull_emu_fail_capture(1);
        generate(&o, m, &failed);
        mull_emu_fail_capture(0);
        assert_int_equal(mull_emu_replays(), before + replays);
        assert_memory_equal(&with, &failed, sizeof with);
        mull_model_destroy(m);
    }
    assert_int_equal(mull_emu_live_bytes(), 0);
    own_fini(&o);
}

/* Each allocation fails once, then each of some launches: one clear error, nothing left behind. */
static void failures(void **state) {
    (void)state;
    own_case o;
    char path[64];
    own_init(&o, MULL_WEIGHT_F32, 1);
    path_of(&o, path);
    assert_int_equal(mull_emu_live_bytes(), 0);
    int failed = 0;
    for (long n = 1; n < 60; n++) {
        mull_error err = {0};
        mull_model *m = NULL;
        mull_outputs out;
        mull_emu_fail_alloc(n);
        int rc = mull_model_load(
            o.dir, &(mull_model_opts){.weights_auto = true, .threads = 1, .backend = mull_cuda_backend()}, &m, &err);
        if (!rc && !(rc = try_forward(m, path, 40, &out, &err))) mull_outputs_fini(&out);
        mull_model_destroy(m);
        mull_emu_fail_alloc(0);
        assert_int_equal(mull_emu_live_bytes(), 0);
        if (!rc) break;
        assert_int_equal(rc, MULL_ENOMEM);
        assert_true(err.what[0] && err.why[0]);
        failed++;
    }
    assert_in_range(failed, 8, 58);
    mull_model *m = load(o.dir, MULL_WEIGHT_BF16, mull_cuda_backend());
    mull_error err = {0};
    mull_outputs out;
    mull_emu_fail_launch(57);
    assert_int_equal(try_forward(m, path, 0, &out, &err), MULL_EINTERNAL);
    assert_string_equal(err.what, "the GPU failed");
    assert_true(err.where[0] && strstr(err.todo, "Xid"));
    assert_int_equal(try_forward(m, path, 0, &out, &err), MULL_EINTERNAL); /* and it stays failed */
    mull_model_destroy(m);
    assert_int_equal(mull_emu_live_bytes(), 0);
    own_fini(&o);
}
#endif

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reference), cmocka_unit_test(bf16),     cmocka_unit_test(bf16_heads),
        cmocka_unit_test(int8),      cmocka_unit_test(tokens),   cmocka_unit_test(buckets),
#ifdef MULL_CUDA_EMULATED
        cmocka_unit_test(graphs),    cmocka_unit_test(failures),
#endif
    };
    return cuda_group_main(tests, sizeof tests / sizeof *tests, "The model was");
}
#else
int main(void) {
    puts("SKIPPED: built without CUDA");
    return 77;
}
#endif
