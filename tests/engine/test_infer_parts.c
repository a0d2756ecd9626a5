/* The parts of the inference engine that need no model: sampler, stop strings, paged cache. */
#include "engine/infer/kv_cache.h"
#include "engine/infer/sampler.h"
#include "engine/infer/stop.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { VOCAB = 100 };

typedef struct fixture {
    mull_sampler s;
    mull_idset banned, seen;
    float logits[VOCAB];
} fixture;

static void fixture_init(fixture *f) {
    mull_error err = {0};
    assert_int_equal(mull_sampler_init(&f->s, VOCAB, &err), 0);
    assert_int_equal(mull_idset_init(&f->banned, VOCAB), 0);
    assert_int_equal(mull_idset_init(&f->seen, VOCAB), 0);
    for (int i = 0; i < VOCAB; i++) f->logits[i] = -20;
}

static void fixture_fini(fixture *f) {
    mull_sampler_fini(&f->s);
    mull_idset_fini(&f->banned);
    mull_idset_fini(&f->seen);
}

static int32_t draw(fixture *f, const mull_sampling *how, uint64_t index) {
    float copy[VOCAB];
    memcpy(copy, f->logits, sizeof copy);
    mull_error err = {0};
    int32_t id = -1;
    assert_int_equal(mull_sample(&f->s, copy, how, &f->banned, &f->seen, index, &id, &err), 0);
    return id;
}

static void test_greedy(void **state) {
    (void)state;
    fixture f;
    fixture_init(&f);
    mull_sampling how = {.top_p = 1, .repetition_penalty = 1};
    f.logits[70] = f.logits[30] = 2;
    assert_int_equal(draw(&f, &how, 0), 30); /* equal logits: the lowest id */
    mull_idset_add(&f.banned, 30);
    assert_int_equal(draw(&f, &how, 0), 70);
    fixture_fini(&f);
}

/* Positive logits are divided, negative ones multiplied; only ids that were seen. */
/* Any length and place, equal values, NaN and -inf in between: the first id of the largest. */
static void test_greedy_long(void **state) {
    enum { LONGEST = 3100 };
    (void)state;
    static float x[LONGEST], copy[LONGEST];
    unsigned seed = 1;
    const mull_sampling how = {.top_p = 1, .repetition_penalty = 1};
    for (int round = 0; round < 400; round++) {
        int n = 1 + (int)(seed % LONGEST), want = -1;
        for (int i = 0; i < n; i++) {
            seed = seed * 1664525u + 1013904223u;
            unsigned kind = seed >> 24;
            x[i] = kind < 8 ? NAN : kind < 16 ? -INFINITY : (float)(seed >> 12 & 0x3ff) * (round % 3 ? -1.0f : 0.5f);
            if (x[i] > -INFINITY && (want < 0 || x[i] > x[want])) want = i;
        }
        memcpy(copy, x, sizeof x);
        mull_sampler s;
        mull_error err;
        int32_t id = -1;
        assert_int_equal(mull_sampler_init(&s, n, &err), 0);
        int rc = mull_sample(&s, copy, &how, NULL, NULL, 0, &id, &err);
        assert_int_equal(rc, want < 0 ? MULL_EINTERNAL : 0);
        if (want >= 0) assert_int_equal(id, want);
        mull_sampler_fini(&s);
    }
}

static void test_repetition_penalty(void **state) {
    (void)state;
    fixture f;
    fixture_init(&f);
    mull_sampling how = {.top_p = 1, .repetition_penalty = 1.25};
    f.logits[64] = 2.4f;
    f.logits[65] = 2;
    assert_int_equal(draw(&f, &how, 0), 64);
    mull_idset_add(&f.seen, 64); /* 2.4 / 1.25 = 1.92 < 2 */
    assert_int_equal(draw(&f, &how, 0), 65);
    f.logits[64] = -1;
    f.logits[65] = -1.2f; /* -1 * 1.25 = -1.25 */
    assert_int_equal(draw(&f, &how, 0), 65);
    fixture_fini(&f);
}

static void test_no_finite_logit(void **state) {
    (void)state;
    fixture f;
    fixture_init(&f);
    mull_sampling how = {.top_p = 1, .repetition_penalty = 1};
    for (int i = 0; i < VOCAB; i++) f.logits[i] = NAN;
    mull_error err = {0};
    int32_t id;
    assert_int_equal(mull_sample(&f.s, f.logits, &how, &f.banned, &f.seen, 0, &id, &err), MULL_EINTERNAL);
    for (int i = 0; i < VOCAB; i++) f.logits[i] = INFINITY;
    assert_int_equal(mull_sample(&f.s, f.logits, &how, &f.banned, &f.seen, 0, &id, &err), MULL_EINTERNAL);
    fixture_fini(&f);
}

/* Frequencies of 20,000 draws against the probabilities the settings leave: within five standard deviations. */
static void check_frequencies(const mull_sampling *how, const double want[VOCAB]) {
    enum { DRAWS = 20000 };
    fixture f;
    fixture_init(&f);
    f.logits[3] = logf(0.5f);
    f.logits[50] = logf(0.25f);
    f.logits[7] = logf(0.15f);
    f.logits[99] = logf(0.1f);
    int count[VOCAB] = {0};
    for (uint64_t i = 0; i < DRAWS; i++) count[draw(&f, how, i)]++;
    for (int i = 0; i < VOCAB; i++) {
        double p = want[i], sigma = sqrt(p * (1 - p) * DRAWS);
        assert_true(fabs(count[i] - p * DRAWS) <= 5 * sigma + 1);
    }
    fixture_fini(&f);
}

static void test_temperature(void **state) {
    (void)state;
    check_frequencies(&(mull_sampling){.temperature = 1, .top_p = 1, .repetition_penalty = 1, .seed = 9},
                      (double[VOCAB]){[3] = .5, [50] = .25, [7] = .15, [99] = .1});
    /* p^2, normalised: .25 .0625 .0225 .01 over .345 */
    check_frequencies(&(mull_sampling){.temperature = .5, .top_p = 1, .repetition_penalty = 1, .seed = 9},
                      (double[VOCAB]){[3] = .25 / .345, [50] = .0625 / .345, [7] = .0225 / .345, [99] = .01 / .345});
}

static void test_top_k(void **state) {
    (void)state;
    check_frequencies(&(mull_sampling){.temperature = 1, .top_p = 1, .top_k = 2, .repetition_penalty = 1, .seed = 1},
                      (double[VOCAB]){[3] = 2. / 3, [50] = 1. / 3});
    check_frequencies(&(mull_sampling){.temperature = 1, .top_p = 1, .top_k = 1, .repetition_penalty = 1, .seed = 1},
                      (double[VOCAB]){[3] = 1});
}

/* The smallest set that reaches top_p: .5 + .25 < .8 <= .5 + .25 + .15. */
static void test_top_p(void **state) {
    (void)state;
    check_frequencies(&(mull_sampling){.temperature = 1, .top_p = .8, .repetition_penalty = 1, .seed = 2},
                      (double[VOCAB]){[3] = .5 / .9, [50] = .25 / .9, [7] = .15 / .9});
    check_frequencies(&(mull_sampling){.temperature = 1, .top_p = 1e-6, .repetition_penalty = 1, .seed = 2},
                      (double[VOCAB]){[3] = 1});
}

/* top-p applies to what top-k left, renormalised: of (2/3, 1/3) the first reaches .6 alone. */
static void test_top_k_then_top_p(void **state) {
    (void)state;
    check_frequencies(&(mull_sampling){.temperature = 1, .top_p = .6, .top_k = 2, .repetition_penalty = 1, .seed = 3},
                      (double[VOCAB]){[3] = 1});
    check_frequencies(&(mull_sampling){.temperature = 1, .top_p = .7, .top_k = 3, .repetition_penalty = 1, .seed = 3},
                      (double[VOCAB]){[3] = 2. / 3, [50] = 1. / 3});
}

static void test_draw_depends_on_seed_and_index_only(void **state) {
    (void)state;
    fixture f;
    fixture_init(&f);
    for (int i = 0; i < VOCAB; i++) f.logits[i] = 0;
    mull_sampling a = {.temperature = 1, .top_p = 1, .repetition_penalty = 1, .seed = 5}, b = a;
    b.seed = 6;
    int same = 0, next = 0;
    for (uint64_t i = 0; i < 200; i++) {
        int32_t x = draw(&f, &a, i);
        assert_int_equal(x, draw(&f, &a, i));
        same += x == draw(&f, &b, i);
        next += x == draw(&f, &a, i + 1);
    }
    assert_true(same < 20 && next < 20); /* 2 expected of independent draws */
    fixture_fini(&f);
}

/* ---- stop strings */

static void feed(mull_stream *s, const char *text, bool last, const char *want) {
    assert_int_equal(mull_buf_puts(&s->text, text), 0);
    const char *piece;
    size_t len;
    mull_stream_update(s, last, &piece, &len);
    assert_int_equal(len, strlen(want));
    assert_memory_equal(piece, want, len);
}

static void test_stop_held_back(void **state) {
    (void)state;
    mull_stream s;
    mull_error err = {0};
    assert_int_equal(mull_stream_init(&s, (const char *const[]){"</answer>", "\n\n"}, 2, &err), 0);
    feed(&s, "yes <", false, "yes ");
    feed(&s, "b> and", false, "<b> and");
    feed(&s, "\n", false, "");
    feed(&s, "x</ans", false, "\nx");
    feed(&s, "wer", false, "");
    assert_false(s.stopped);
    feed(&s, "> more", false, "");
    assert_true(s.stopped);
    assert_string_equal(s.text.data, "yes <b> and\nx");
    mull_stream_fini(&s);
}

static void test_stop_at_end(void **state) {
    (void)state;
    mull_stream s;
    mull_error err = {0};
    assert_int_equal(mull_stream_init(&s, (const char *const[]){"stop"}, 1, &err), 0);
    feed(&s, "a sto", false, "a ");
    feed(&s, "", true, "sto"); /* nothing follows: it was no stop string */
    mull_stream_fini(&s);
    assert_int_equal(mull_stream_init(&s, NULL, 0, &err), 0);
    feed(&s, "", true, "");
    mull_stream_fini(&s);
}

/* "aab" inside "aaab": the first candidate fails, the one that starts later must not be missed. */
static void test_stop_overlap(void **state) {
    (void)state;
    mull_stream s;
    mull_error err = {0};
    assert_int_equal(mull_stream_init(&s, (const char *const[]){"aab"}, 1, &err), 0);
    feed(&s, "a", false, "");
    feed(&s, "a", false, "");
    feed(&s, "a", false, "a");
    feed(&s, "b", false, "");
    assert_true(s.stopped);
    assert_string_equal(s.text.data, "a");
    mull_stream_fini(&s);
    assert_int_equal(mull_stream_init(&s, (const char *const[]){"x", ""}, 2, &err), MULL_EARG);
}

/* ---- paged cache */

static mull_kv_cache *cache(int64_t tokens, bool share) {
    static const mull_config c = {.layers = 2, .kv_heads = 2, .head_dim = 8};
    mull_kv_cache *kv;
    mull_error err = {0};
    assert_int_equal(mull_kv_cache_create(&c, tokens, share, &kv, &err), 0);
    return kv;
}

static mull_page_key key(const char *text) {
    mull_page_key k;
    assert_true(mull_page_key_next(&k, NULL, text, strlen(text)));
    return k;
}

static void test_cache_pages_are_apart(void **state) {
    (void)state;
    mull_kv_cache *kv = cache(3 * MULL_PAGE_TOKENS, true);
    assert_int_equal(mull_kv_cache_pages(kv), 3);
    int32_t p[3];
    for (int i = 0; i < 3; i++) p[i] = mull_kv_cache_take(kv);
    assert_int_equal(mull_kv_cache_take(kv), -1);
    /* Every element of every page and layer is its own. */
    for (int i = 0; i < 3; i++)
        for (int l = 0; l < 2; l++) {
            mull_kv_view v = mull_kv_cache_layer(kv, l);
            for (int e = 0; e < 2 * MULL_PAGE_TOKENS * 8; e++) {
                v.k[p[i] * v.page_stride + e] = (float)(1000000 * i + 10000 * l + e);
                v.v[p[i] * v.page_stride + e] = -(float)(1000000 * i + 10000 * l + e);
            }
        }
    for (int i = 0; i < 3; i++)
        for (int l = 0; l < 2; l++) {
            mull_kv_view v = mull_kv_cache_layer(kv, l);
            for (int e = 0; e < 2 * MULL_PAGE_TOKENS * 8; e++) {
                assert_true(v.k[p[i] * v.page_stride + e] == (float)(1000000 * i + 10000 * l + e));
                assert_true(v.v[p[i] * v.page_stride + e] == -(float)(1000000 * i + 10000 * l + e));
            }
        }
    for (int i = 0; i < 3; i++) mull_kv_cache_release(kv, p[i]);
    assert_int_equal(mull_kv_cache_available(kv), 3);
    mull_kv_cache_destroy(kv);
}

static void test_cache_shares_and_evicts(void **state) {
    (void)state;
    mull_kv_cache *kv = cache(2 * MULL_PAGE_TOKENS, true);
    mull_page_key a = key("a"), b = key("b");
    int32_t p = mull_kv_cache_take(kv), q = mull_kv_cache_take(kv);
    assert_int_equal(mull_kv_cache_find(kv, &a), -1);
    mull_kv_cache_publish(kv, p, &a);
    mull_kv_cache_publish(kv, q, &b);
    assert_int_equal(mull_kv_cache_find(kv, &a), p); /* second holder */
    mull_kv_cache_release(kv, p);
    assert_int_equal(mull_kv_cache_available(kv), 0);
    mull_kv_cache_release(kv, p);
    mull_kv_cache_release(kv, q);
    assert_int_equal(mull_kv_cache_available(kv), 2); /* held by nobody, still known */
    assert_int_equal(mull_kv_cache_find(kv, &a), p);  /* used again: b is now the older one */
    mull_kv_cache_release(kv, p);
    assert_int_equal(mull_kv_cache_take(kv), q);
    assert_int_equal(mull_kv_cache_find(kv, &b), -1);
    assert_int_equal(mull_kv_cache_find(kv, &a), p);
    assert_int_equal(mull_kv_cache_take(kv), -1); /* both held */
    mull_kv_cache_destroy(kv);
}

static void test_cache_same_content_twice(void **state) {
    (void)state;
    mull_kv_cache *kv = cache(2 * MULL_PAGE_TOKENS, true);
    mull_page_key a = key("a");
    int32_t p = mull_kv_cache_take(kv), q = mull_kv_cache_take(kv);
    mull_kv_cache_publish(kv, p, &a);
    mull_kv_cache_publish(kv, q, &a); /* computed side by side: the first stays the known one */
    mull_kv_cache_release(kv, q);
    mull_kv_cache_release(kv, p);
    assert_int_equal(mull_kv_cache_take(kv), q); /* unknown content is free at once */
    assert_int_equal(mull_kv_cache_find(kv, &a), p);
    mull_kv_cache_destroy(kv);
}

static void test_cache_without_sharing(void **state) {
    (void)state;
    mull_kv_cache *kv = cache(1, false);
    mull_page_key a = key("a");
    int32_t p = mull_kv_cache_take(kv);
    mull_kv_cache_publish(kv, p, &a);
    assert_int_equal(mull_kv_cache_find(kv, &a), -1);
    mull_kv_cache_release(kv, p);
    assert_int_equal(mull_kv_cache_available(kv), 1);
    mull_kv_cache_destroy(kv);
}

/* Thousands of random takes, finds and releases against a plain model of what must be there. */
static void test_cache_random(void **state) {
    (void)state;
    enum { PAGES = 16, KEYS = 40, STEPS = 20000 };
    mull_kv_cache *kv = cache(PAGES * MULL_PAGE_TOKENS, true);
    mull_page_key keys[KEYS];
    for (int i = 0; i < KEYS; i++) assert_true(mull_page_key_next(&keys[i], NULL, &i, sizeof i));
    int refs[PAGES] = {0}, named[PAGES];
    memset(named, -1, sizeof named);
    uint32_t seed = 1;
    for (int step = 0; step < STEPS; step++) {
        seed = seed * 1664525u + 1013904223u;
        int what = seed >> 30, k = (int)(seed >> 8 & 0xffff) % KEYS, held = 0;
        for (int p = 0; p < PAGES; p++) held += refs[p] > 0;
        assert_int_equal(mull_kv_cache_available(kv), PAGES - held);
        if (what == 0) {
            int32_t p = mull_kv_cache_take(kv);
            assert_int_equal(p < 0, held == PAGES);
            if (p < 0) continue;
            assert_int_equal(refs[p], 0);
            refs[p] = 1;
            named[p] = -1;
            bool known = false;
            for (int q = 0; q < PAGES; q++) known |= named[q] == k;
            mull_kv_cache_publish(kv, p, &keys[k]);
            if (!known) named[p] = k;
        } else if (what == 1) {
            int32_t p = mull_kv_cache_find(kv, &keys[k]);
            for (int q = 0; q < PAGES; q++) assert_int_equal(named[q] == k, q == p);
            if (p >= 0) refs[p]++;
        } else {
            int p = k % PAGES;
            if (!refs[p]) continue;
            refs[p]--;
            mull_kv_cache_release(kv, p);
        }
    }
    mull_kv_cache_destroy(kv);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_greedy),
                                       cmocka_unit_test(test_greedy_long),
                                       cmocka_unit_test(test_repetition_penalty),
                                       cmocka_unit_test(test_no_finite_logit),
                                       cmocka_unit_test(test_temperature),
                                       cmocka_unit_test(test_top_k),
                                       cmocka_unit_test(test_top_p),
                                       cmocka_unit_test(test_top_k_then_top_p),
                                       cmocka_unit_test(test_draw_depends_on_seed_and_index_only),
                                       cmocka_unit_test(test_stop_held_back),
                                       cmocka_unit_test(test_stop_at_end),
                                       cmocka_unit_test(test_stop_overlap),
                                       cmocka_unit_test(test_cache_pages_are_apart),
                                       cmocka_unit_test(test_cache_shares_and_evicts),
                                       cmocka_unit_test(test_cache_same_content_twice),
                                       cmocka_unit_test(test_cache_without_sharing),
                                       cmocka_unit_test(test_cache_random)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
