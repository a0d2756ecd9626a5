/* The inference engine on a small model: the reference's greedy tokens, the same bits alone and in any batch, sharing,
 * preemption, limits, stopping and cancelling. */
#include "tests/engine/own_case.h"

enum { REQUESTS = 12, MAX_NEW = 20 };

/* What a request gave, kept for comparison. */
typedef struct answer {
    int32_t ids[64];
    float logprobs[64];
    size_t n;
    mull_finish finish;
    int64_t cached;
    int done;
} answer;

typedef struct sink {
    answer a[REQUESTS];
    mull_infer *engine;
    uint64_t cancel_after; /* id + 1 whose end cancels the next one; 0: none */
} sink;

static void on_done(void *ctx, const mull_result *r) {
    sink *s = ctx;
    answer *a = &s->a[r->id];
    assert_true(r->n <= 64);
    a->done++;
    a->n = r->n;
    a->finish = r->finish;
    a->cached = r->cached_tokens;
    memcpy(a->ids, r->ids, r->n * sizeof *r->ids);
    if (r->logprobs) memcpy(a->logprobs, r->logprobs, r->n * sizeof *r->logprobs);
    if (s->cancel_after == r->id + 1) assert_int_equal(mull_infer_cancel(s->engine, r->id + 1), 0);
}

static mull_infer *engine(const own_case *o, const mull_infer_opts *opts, sink *s) {
    mull_error err = {0};
    memset(s, 0, sizeof *s);
    int rc =
        mull_infer_create(o->m, NULL, opts, &(mull_infer_callbacks){.ctx = s, .on_done = on_done}, &s->engine, &err);
    if (rc) mull_error_print(stderr, &err);
    assert_int_equal(rc, 0);
    return s->engine;
}

static void finish(mull_infer *f) {
    mull_error err = {0};
    int rc, steps = 0;
    while ((rc = mull_infer_step(f, &err)) > 0) assert_true(++steps < 10000);
    assert_int_equal(rc, 0);
}

/* Request i of a fixed mixture: texts of many lengths, with both media, with one, greedy and sampled. */
static mull_request request(const own_case *o, int i, int32_t *ids, const mull_media **media) {
    const int64_t *all = own_data(o, "input_ids", NULL), *cu = own_data(o, "cu_seqlens", NULL);
    mull_request r = {.id = (uint64_t)i, .ids = ids, .media = media};
    size_t n = 0;
    if (i % 3 == 0) { /* the whole first sequence: image, video */
        for (; n < (size_t)cu[1]; n++) ids[n] = (int32_t)all[n];
        media[0] = &o->media[0];
        media[1] = &o->media[1];
        r.nmedia = 2;
    } else if (i % 3 == 1) { /* up to the image's end */
        for (; n < 23; n++) ids[n] = (int32_t)all[n];
        media[0] = &o->media[0];
        r.nmedia = 1;
    }
    for (int k = 0; k < 5 + 11 * i; k++) ids[n++] = 40 + (k * 7 + i * 13) % 150;
    r.n = n;
    r.sampling = (mull_sampling){.max_new_tokens = MAX_NEW - i % 4,
                                 .top_p = 1,
                                 .repetition_penalty = i % 2 ? 1.1 : 1,
                                 .seed = (uint64_t)i * 77,
                                 .ignore_eos = true,
                                 .logprobs = 1};
    if (i % 4 > 1) {
        r.sampling.temperature = 1.2;
        r.sampling.top_p = .95;
        r.sampling.top_k = i % 4 == 3 ? 50 : 0;
    }
    return r;
}

static void submit(mull_infer *f, const own_case *o, int i) {
    int32_t ids[512];
    const mull_media *media[2];
    mull_request r = request(o, i, ids, media);
    mull_error err = {0};
    int rc = mull_infer_submit(f, &r, &err);
    if (rc) mull_error_print(stderr, &err);
    assert_int_equal(rc, 0);
}

static void test_greedy_equals_reference(void **state) {
    (void)state;
    own_case o;
    own_init(&o, MULL_WEIGHT_F32, 2);
    const int64_t *all = own_data(&o, "input_ids", NULL), *cu = own_data(&o, "cu_seqlens", NULL);
    const int64_t *greedy = own_data(&o, "greedy", NULL);
    sink s;
    mull_infer *f =
        engine(&o, &(mull_infer_opts){.cache_tokens = 256, .max_batch = 2, .prefill_chunk = 10, .raw = true}, &s);
    for (int q = 0; q < 2; q++) {
        int32_t ids[64];
        const mull_media *media[] = {&o.media[0], &o.media[1]};
        for (int64_t t = cu[q]; t < cu[q + 1]; t++) ids[t - cu[q]] = (int32_t)all[t];
        mull_request r = {.id = (uint64_t)q,
                          .ids = ids,
                          .n = (size_t)(cu[q + 1] - cu[q]),
                          .media = media,
                          .nmedia = q ? 0 : 2,
                          .sampling = {.max_new_tokens = 12, .top_p = 1, .repetition_penalty = 1, .ignore_eos = true}};
        mull_error err = {0};
        assert_int_equal(mull_infer_submit(f, &r, &err), 0);
    }
    finish(f);
    for (int q = 0; q < 2; q++) {
        assert_int_equal(s.a[q].n, 12);
        assert_int_equal(s.a[q].finish, MULL_FINISH_LENGTH);
        for (int i = 0; i < 12; i++) assert_int_equal(s.a[q].ids[i], greedy[q * 12 + i]);
    }
    mull_infer_destroy(f);
    own_fini(&o);
}

static void run_alone(const own_case *o, answer *a) {
    for (int i = 0; i < REQUESTS; i++) {
        sink s;
        mull_infer *f = engine(o, &(mull_infer_opts){.cache_tokens = 1024, .no_prefix_cache = true}, &s);
        submit(f, o, i);
        finish(f);
        a[i] = s.a[i];
        assert_int_equal(a[i].done, 1);
        mull_infer_destroy(f);
    }
}

static void check_same(const answer *want, const answer *got) {
    for (int i = 0; i < REQUESTS; i++) {
        assert_int_equal(got[i].done, 1);
        assert_int_equal(got[i].n, want[i].n);
        assert_memory_equal(got[i].ids, want[i].ids, want[i].n * sizeof *want[i].ids);
        assert_memory_equal(got[i].logprobs, want[i].logprobs, want[i].n * sizeof *want[i].logprobs);
    }
}

static void check_batches(mull_weight_type type) {
    static const mull_infer_opts HOW[] = {
        {.cache_tokens = 4096, .max_batch = 32, .prefill_chunk = 512},
        {.cache_tokens = 4096, .max_batch = 3, .prefill_chunk = 7},
        {.cache_tokens = 4096, .max_batch = 5, .prefill_chunk = 64, .no_prefix_cache = true},
        {.cache_tokens = 224, .max_batch = 8, .prefill_chunk = 33}, /* must preempt */
        {.cache_tokens = 224, .max_batch = 8, .prefill_chunk = 500, .no_prefix_cache = true},
    };
    own_case one, three;
    own_init(&one, type, 1);
    own_init(&three, type, 3);
    answer alone[REQUESTS];
    run_alone(&one, alone);
    int64_t preempted = 0, shared = 0;
    for (size_t h = 0; h < sizeof HOW / sizeof *HOW; h++) {
        const own_case *o = h % 2 ? &three : &one;
        sink s;
        mull_infer *f = engine(o, &HOW[h], &s);
        for (int i = 0; i < REQUESTS; i++) submit(f, o, i);
        finish(f);
        check_same(alone, s.a);
        mull_infer_stats stats;
        mull_infer_get_stats(f, &stats);
        preempted += stats.preempted;
        shared += stats.cached_tokens;
        assert_true(stats.cache_peak_tokens <= HOW[h].cache_tokens);
        mull_infer_destroy(f);
    }
    assert_true(preempted > 0); /* else the small caches did not test what they are for */
    assert_true(shared > 0);
    own_fini(&one);
    own_fini(&three);
}

static void test_alone_is_in_batch_f32(void **state) {
    (void)state;
    check_batches(MULL_WEIGHT_F32);
}

static void test_alone_is_in_batch_bf16(void **state) {
    (void)state;
    check_batches(MULL_WEIGHT_BF16);
}

/* The second time a prompt comes its full pages are there, and the vision tower does not run again. Another picture
 * under the same ids must not be mistaken for it. */
static void test_prefix_is_shared_by_content(void **state) {
    (void)state;
    own_case o;
    own_init(&o, MULL_WEIGHT_F32, 1);
    sink s, t;
    mull_infer_stats stats;
    mull_infer *f = engine(&o, &(mull_infer_opts){.cache_tokens = 1024}, &s);
    submit(f, &o, 9);
    finish(f);
    assert_int_equal(s.a[9].cached, 0);
    answer first = s.a[9];
    submit(f, &o, 9);
    finish(f);
    mull_infer_get_stats(f, &stats);
    assert_int_equal(s.a[9].cached, 128); /* 151 tokens: the full pages before the last token */
    assert_int_equal(stats.media_encoded, 2);
    assert_memory_equal(first.logprobs, s.a[9].logprobs, first.n * sizeof(float));

    mull_media other = o.media[0], same_media = o.media[0];
    float *patches = malloc(OWN_IMAGE_ROWS * 1176 * sizeof *patches),
          *copied = malloc(OWN_IMAGE_ROWS * 1176 * sizeof *patches);
    assert_non_null(patches);
    assert_non_null(copied);
    memcpy(patches, o.image, OWN_IMAGE_ROWS * 1176 * sizeof *patches);
    memcpy(copied, o.image, OWN_IMAGE_ROWS * 1176 * sizeof *patches);
    patches[12345] += 1;
    other.patches = patches;
    same_media.patches = copied; /* equal content at another address */
    int32_t ids[512];
    const mull_media *media[2];
    mull_request r = request(&o, 9, ids, media);
    mull_error err = {0};
    media[0] = &same_media;
    assert_int_equal(mull_infer_submit(f, &r, &err), 0);
    finish(f);
    assert_int_equal(s.a[9].cached, 128);
    media[0] = &other;
    assert_int_equal(mull_infer_submit(f, &r, &err), 0);
    finish(f);
    assert_int_equal(s.a[9].cached, 0);
    mull_infer *g = engine(&o, &(mull_infer_opts){.cache_tokens = 1024, .no_prefix_cache = true}, &t);
    assert_int_equal(mull_infer_submit(g, &r, &err), 0);
    finish(g);
    assert_memory_equal(t.a[9].logprobs, s.a[9].logprobs, first.n * sizeof(float));
    assert_memory_not_equal(t.a[9].logprobs, first.logprobs, first.n * sizeof(float));
    mull_infer_destroy(f);
    mull_infer_destroy(g);
    free(patches);
    free(copied);
    own_fini(&o);
}

static void test_eos_and_limits(void **state) {
    (void)state;
    own_case o;
    own_init(&o, MULL_WEIGHT_F32, 1);
    sink s;
    mull_infer *f = engine(&o, &(mull_infer_opts){.cache_tokens = 1024}, &s);
    submit(f, &o, 2);
    finish(f);
    answer free_run = s.a[2];
    /* The fifth token becomes an EOS of the model. */
    mull_config *c = (mull_config *)(uintptr_t)mull_model_config(o.m);
    int saved = c->eos[0];
    c->eos[0] = free_run.ids[4];
    size_t first = 0;
    while (free_run.ids[first] != c->eos[0]) first++;
    int32_t ids[512];
    const mull_media *media[2];
    mull_request r = request(&o, 2, ids, media);
    r.sampling.ignore_eos = false;
    mull_error err = {0};
    assert_int_equal(mull_infer_submit(f, &r, &err), 0);
    finish(f);
    c->eos[0] = saved;
    assert_int_equal(s.a[2].finish, MULL_FINISH_STOP);
    assert_int_equal(s.a[2].n, first + 1); /* the EOS is part of the ids */
    assert_memory_equal(s.a[2].ids, free_run.ids, s.a[2].n * sizeof(int32_t));
    mull_infer_destroy(f);
    /* A cache of one page: 27 prompt tokens leave room for five. */
    f = engine(&o, &(mull_infer_opts){.cache_tokens = 32}, &s);
    assert_int_equal(r.n, 27);
    r.sampling.ignore_eos = true;
    assert_int_equal(mull_infer_submit(f, &r, &err), 0);
    finish(f);
    assert_int_equal(s.a[2].finish, MULL_FINISH_LENGTH);
    assert_int_equal(s.a[2].n, 5);
    assert_memory_equal(s.a[2].ids, free_run.ids, 5 * sizeof(int32_t));
    mull_infer_destroy(f);
    own_fini(&o);
}

static void test_media_frame_is_never_produced(void **state) {
    (void)state;
    own_case o;
    own_init(&o, MULL_WEIGHT_F32, 1);
    for (int raw = 0; raw < 2; raw++) {
        sink s;
        mull_infer *f = engine(&o, &(mull_infer_opts){.cache_tokens = 4096, .raw = raw}, &s);
        int32_t ids[512];
        const mull_media *media[2];
        for (int i = 0; i < REQUESTS; i++) {
            mull_request r = request(&o, i, ids, media);
            r.sampling.temperature = 50; /* nearly uniform over 256 ids */
            r.sampling.top_p = 1;
            r.sampling.top_k = 0;
            r.sampling.max_new_tokens = 60;
            mull_error err = {0};
            assert_int_equal(mull_infer_submit(f, &r, &err), 0);
        }
        finish(f);
        int frame = 0;
        for (int i = 0; i < REQUESTS; i++)
            for (size_t k = 0; k < s.a[i].n; k++) frame += s.a[i].ids[k] >= 240 && s.a[i].ids[k] <= 244;
        assert_true(raw ? frame > 0 : frame == 0);
        mull_infer_destroy(f);
    }
    own_fini(&o);
}

static void refuse(mull_infer *f, const mull_request *r, int code) {
    mull_error err = {0};
    assert_int_equal(mull_infer_submit(f, r, &err), code);
    assert_true(err.code == code && err.what[0] && err.why[0]);
    assert_int_equal(mull_infer_pending(f), 0);
}

static void test_bad_requests(void **state) {
    (void)state;
    own_case o;
    own_init(&o, MULL_WEIGHT_F32, 1);
    sink s;
    mull_infer *f = engine(&o, &(mull_infer_opts){.cache_tokens = 128}, &s);
    int32_t ids[512];
    const mull_media *media[2];
    mull_request good = request(&o, 3, ids, media), r = good;
    refuse(f, (r.n = 0, &r), MULL_EARG);
    r = request(&o, 8, ids, media);
    r.n = 128; /* longer than its text, but what counts is that no token fits behind it */
    refuse(f, &r, MULL_ELIMIT);
    good = r = request(&o, 3, ids, media);
    r.nmedia = 1;
    refuse(f, &r, MULL_EARG);
    r = good;
    media[0] = &o.media[1];
    refuse(f, &r, MULL_EARG);
    good = r = request(&o, 3, ids, media);
    ids[2] = 256;
    refuse(f, &r, MULL_EARG);
    ids[2] = -1;
    refuse(f, &r, MULL_EARG);
    ids[2] = 50;
    r.sampling.max_new_tokens = 0;
    refuse(f, &r, MULL_EARG);
    r = good;
    r.sampling.temperature = NAN;
    refuse(f, &r, MULL_EARG);
    r = good;
    r.sampling.top_p = 0;
    refuse(f, &r, MULL_EARG);
    r = good;
    r.sampling.repetition_penalty = 0;
    refuse(f, &r, MULL_EARG);
    r = good;
    r.sampling.stop = (const char *const[]){""};
    r.sampling.nstop = 1;
    refuse(f, &r, MULL_EARG);
    /* And the engine still works. */
    good.id = 3;
    mull_error err = {0};
    assert_int_equal(mull_infer_submit(f, &good, &err), 0);
    finish(f);
    assert_int_equal(s.a[3].done, 1);
    mull_infer_destroy(f);
    own_fini(&o);
}

/* Cancelled before it ran, while it runs, and from a callback; the others do not notice. */
static void test_cancel(void **state) {
    (void)state;
    own_case o;
    own_init(&o, MULL_WEIGHT_F32, 1);
    answer alone[REQUESTS];
    run_alone(&o, alone);
    sink s;
    mull_infer *f = engine(&o, &(mull_infer_opts){.cache_tokens = 512, .max_batch = 3, .prefill_chunk = 40}, &s);
    for (int i = 0; i < REQUESTS; i++) submit(f, &o, i);
    s.cancel_after = 5;
    mull_error err = {0};
    assert_int_equal(mull_infer_cancel(f, 10), 0);
    assert_int_equal(mull_infer_cancel(f, 99), MULL_EMISSING);
    for (int i = 0; i < 4; i++) assert_true(mull_infer_step(f, &err) > 0);
    assert_int_equal(s.a[10].done, 1);
    assert_int_equal(s.a[10].n, 0);
    assert_int_equal(mull_infer_cancel(f, 1), 0);
    finish(f);
    for (int i = 0; i < REQUESTS; i++) {
        bool cancelled = i == 1 || i == 5 || i == 10;
        assert_int_equal(s.a[i].done, 1);
        assert_int_equal(s.a[i].finish, cancelled ? MULL_FINISH_CANCELLED : MULL_FINISH_LENGTH);
        assert_true(s.a[i].n < alone[i].n || !cancelled);
        assert_memory_equal(s.a[i].logprobs, alone[i].logprobs, s.a[i].n * sizeof(float));
    }
    mull_infer_destroy(f);
    /* Destroying an engine with work in it gives everything back. */
    f = engine(&o, &(mull_infer_opts){.cache_tokens = 512, .max_batch = 3}, &s);
    for (int i = 0; i < REQUESTS; i++) submit(f, &o, i);
    assert_true(mull_infer_step(f, &err) > 0);
    mull_infer_destroy(f);
    own_fini(&o);
}

/* Samples of one prompt that are queued together: the prompt goes through the model once, whatever the chunk; each
 * sample is the one it is alone. Once forgotten, nothing is found. */
static void test_group_computes_its_prompt_once(void **state) {
    (void)state;
    own_case o;
    own_init(&o, MULL_WEIGHT_F32, 1);
    static const int CHUNKS[] = {33, 64, 500};
    int32_t ids[512];
    const mull_media *media[2];
    mull_error err = {0};
    answer alone[REQUESTS];
    sink s;
    mull_request r = request(&o, 9, ids, media);
    r.sampling.temperature = 1.5;
    r.sampling.max_new_tokens = 8;
    for (int chunk = -1; chunk < 3; chunk++) {
        mull_infer *f =
            engine(&o, &(mull_infer_opts){.cache_tokens = 4096, .prefill_chunk = CHUNKS[chunk < 0 ? 0 : chunk]}, &s);
        for (int k = 0; k < REQUESTS; k++) {
            r.id = (uint64_t)k;
            r.sampling.seed = (uint64_t)k;
            assert_int_equal(mull_infer_submit(f, &r, &err), 0);
            if (chunk >= 0) continue;
            finish(f);
            alone[k] = s.a[k];
            assert_int_equal(mull_infer_forget(f, &err), 0);
            assert_int_equal(s.a[k].cached, 0);
        }
        if (chunk >= 0) {
            assert_int_equal(mull_infer_forget(f, &err), MULL_EARG);
            finish(f);
            mull_infer_stats stats;
            mull_infer_get_stats(f, &stats);
            /* 151 tokens, 128 of them in full pages; every sample computes the 23 that are left, and its own. */
            assert_true(stats.rows <= 128 + REQUESTS * (23 + 8));
            assert_int_equal(stats.preempted, 0);
            for (int k = 0; k < REQUESTS; k++) {
                assert_int_equal(s.a[k].cached, k ? 128 : 0);
                assert_int_equal(s.a[k].n, alone[k].n);
                assert_memory_equal(s.a[k].ids, alone[k].ids, alone[k].n * sizeof *alone[k].ids);
                assert_memory_equal(s.a[k].logprobs, alone[k].logprobs, alone[k].n * sizeof *alone[k].logprobs);
            }
        }
        mull_infer_destroy(f);
    }
    own_fini(&o);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_greedy_equals_reference),
                                       cmocka_unit_test(test_alone_is_in_batch_f32),
                                       cmocka_unit_test(test_alone_is_in_batch_bf16),
                                       cmocka_unit_test(test_prefix_is_shared_by_content),
                                       cmocka_unit_test(test_group_computes_its_prompt_once),
                                       cmocka_unit_test(test_eos_and_limits),
                                       cmocka_unit_test(test_media_frame_is_never_produced),
                                       cmocka_unit_test(test_bad_requests),
                                       cmocka_unit_test(test_cancel)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
