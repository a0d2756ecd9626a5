/* Greedy decoding against the reference, with and without repetition penalty: all cases of a model go through one
 * engine at once, in a cache too small for all of them, so that queueing, chunked prefill, shared pages and preemption
 * are part of what must not change a token. Where the reference's own margin is under 1e-3 a tie may fall the other
 * way: compared up to there. */
#include "tests/engine/oracle_util.h"

#include "engine/infer/infer.h"
#include "engine/model/forward_case.h"
#include "engine/model/positions.h"

enum { STEPS = 24, MOST = 32 };

typedef struct want {
    const int64_t *ids;
    const float *margin;
    const char *name;
} want;

typedef struct collected {
    want want[MOST];
    int n, done;
    int64_t compared;
} collected;

static void on_done(void *ctx, const mull_result *r) {
    collected *c = ctx;
    const want *w = &c->want[r->id];
    c->done++;
    assert_int_equal(r->finish, MULL_FINISH_LENGTH);
    assert_int_equal(r->n, STEPS);
    for (int i = 0; i < STEPS; i++) {
        if (r->ids[i] != w->ids[i] && w->margin[i] < 1e-3f) return;
        if (r->ids[i] != w->ids[i]) {
            print_error("%s: token %d is %d, not %lld (margin %g)\n", w->name, i, r->ids[i], (long long)w->ids[i],
                        (double)w->margin[i]);
            fail();
        }
        c->compared++;
    }
}

static void submit(mull_infer *f, const mull_case *k, int s, mull_media *media, double penalty, collected *c) {
    const mull_media *list[8];
    size_t n = k->media_cu[s + 1] - k->media_cu[s];
    for (size_t i = 0; i < n; i++) list[i] = &media[k->media_cu[s] + i];
    mull_request r = {
        .id = (uint64_t)c->n++,
        .ids = k->ids + k->cu[s],
        .n = (size_t)(k->cu[s + 1] - k->cu[s]),
        .media = list,
        .nmedia = n,
        .sampling = {.max_new_tokens = STEPS, .top_p = 1, .repetition_penalty = penalty, .ignore_eos = true}};
    mull_error err = {0};
    if (mull_infer_submit(f, &r, &err)) {
        mull_error_print(stderr, &err);
        fail();
    }
}

static void run_model(const char *model) {
    char dir[] = "/tmp/mull_oracle_XXXXXX", path[64];
    util_checkpoint(ORACLE_MODEL "/configs.json", model, dir);
    snprintf(path, sizeof path, "%s/case.safetensors", dir);
    mull_model *m = util_load(dir, MULL_WEIGHT_F32, 2);
    const mull_config *config = mull_model_config(m);
    collected c = {0};
    mull_infer *f;
    mull_error err = {0};
    assert_int_equal(
        mull_infer_create(m, NULL,
                          &(mull_infer_opts){.cache_tokens = 640, .max_batch = 6, .prefill_chunk = 48, .raw = true},
                          &(mull_infer_callbacks){.ctx = &c, .on_done = on_done}, &f, &err),
        0);
    oracle_case o[ORACLE_NCASES];
    mull_case k[ORACLE_NCASES];
    mull_media media[ORACLE_NCASES][8] = {0};
    for (int i = 0; i < ORACLE_NCASES; i++) {
        oracle_case_open(model, ORACLE_CASES[i], path, &o[i]);
        assert_int_equal(mull_case_open(path, config, &k[i], &err), 0);
        for (size_t j = 0; j < k[i].nmedia; j++) {
            const mull_grid *g = &k[i].media[j];
            media[i][j] = (mull_media){.kind = g->video ? MULL_MEDIA_VIDEO : MULL_MEDIA_IMAGE,
                                       .grid = {g->t, g->h, g->w},
                                       .tokens = mull_grid_tokens(config, g),
                                       .second_per_grid = (double)g->second_per_grid,
                                       .patches = (float *)(uintptr_t)k[i].patches[j]};
        }
    }
    for (int penalized = 0; penalized < 2; penalized++)
        for (int i = 0; i < ORACLE_NCASES; i++)
            for (int s = 0; s < k[i].nseq; s++) {
                const char *ids = penalized ? "greedy_penalty_1.05" : "greedy";
                const char *margin = penalized ? "greedy_penalty_1.05_margin" : "greedy_margin";
                assert_true(c.n < MOST);
                c.want[c.n] =
                    (want){(const int64_t *)mull_safetensors_find(o[i].want, ids)->data + s * STEPS,
                           (const float *)mull_safetensors_find(o[i].want, margin)->data + s * STEPS, ORACLE_CASES[i]};
                submit(f, &k[i], s, media[i], penalized ? 1.05 : 1, &c);
            }
    int rc;
    while ((rc = mull_infer_step(f, &err)) > 0) {
    }
    assert_int_equal(rc, 0);
    assert_int_equal(c.done, c.n);
    mull_infer_stats stats;
    mull_infer_get_stats(f, &stats);
    print_message("%s: %d requests, %lld tokens equal, %lld preempted, %lld of %lld prompt tokens shared\n", model, c.n,
                  (long long)c.compared, (long long)stats.preempted, (long long)stats.cached_tokens,
                  (long long)stats.prompt_tokens);
    assert_true(c.compared > c.n * STEPS * 9 / 10);
    mull_infer_destroy(f);
    for (int i = 0; i < ORACLE_NCASES; i++) {
        mull_case_fini(&k[i]);
        oracle_case_close(&o[i]);
    }
    mull_model_destroy(m);
    util_remove(dir);
}

static void test_micro(void **state) {
    (void)state;
    run_model("micro");
}

static void test_tiny(void **state) {
    (void)state;
    run_model("tiny");
}

static void test_wide(void **state) {
    (void)state;
    run_model("wide");
}

int main(void) {
    if (!oracle_present()) {
        printf("skipped: the reference vectors are not there (%s)\n", ORACLE_MODEL);
        return 77;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_micro), cmocka_unit_test(test_tiny),
                                       cmocka_unit_test(test_wide)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
