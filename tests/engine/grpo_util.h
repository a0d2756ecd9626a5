/* A small GRPO run: a tiny model, questions of two kinds (some with a picture), a reward with spread. */
#ifndef MULL_TESTS_ENGINE_GRPO_UTIL_H
#define MULL_TESTS_ENGINE_GRPO_UTIL_H

#include "tests/engine/trainer_util.h"

#include "engine/model/init.h"
#include "engine/train/grpo.h"
#include "engine/train/session.h"

enum { ROWS = 24, STEPS_MAX = 32 };

typedef struct fixture {
    char dir[32], model[64], rows[64], config[64];
} fixture;

typedef struct run {
    mull_step step[STEPS_MAX];
    mull_grpo_figures f[STEPS_MAX];
    int n;
    int64_t stop_after, asked, stop_at_ask; /* 0: never */
    char checkpoint[160];
} run;

/* A score that spreads: the letters a completion holds, modulo something. */
#define SPREAD "awk '{n=split($0,x,\"a\");print (n*7+length($0))%%5}'"

static inline void fixture_init(fixture *f) {
    char line[512];
    mull_error err = {0};
    snprintf(f->dir, sizeof f->dir, "/tmp/mull_grpo_XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    snprintf(f->model, sizeof f->model, "%s/model", f->dir);
    snprintf(f->rows, sizeof f->rows, "%s/rows.jsonl", f->dir);
    snprintf(f->config, sizeof f->config, "%s/c.yaml", f->dir);
    assert_int_equal(mull_init_checkpoint("tiny", f->model, 0, NULL, &err), 0);
    FILE *rows = fopen(f->rows, "w"), *config = fopen(f->config, "w");
    assert_non_null(rows);
    assert_non_null(config);
    for (int i = 0; i < ROWS; i++) {
        bool picture = MULL_HAVE_MEDIA && i % 3 == 0;
        snprintf(line, sizeof line,
                 "{\"messages\":[{\"role\":\"user\",\"content\":[%s{\"type\":\"text\",\"text\":\"Say %d.%s\"}]}],"
                 "\"solution\":\"<answer>%d</answer>\",\"problem_type\":\"%s\"}\n",
                 picture ? "{\"type\":\"image\",\"image\":\"" MULL_TEST_DATA "/media/shapes.png\"}," : "", i,
                 i % 2 ? " It is a long question, so that the prompts fill more than one page of the cache." : "", i,
                 i % 4 ? "numerical" : "free-form");
        fputs(line, rows);
    }
    fprintf(config,
            "model_path: %s\nfreeze_vision: True\nlearning_rate: 0.003\nper_device_train_batch_size: 2\n"
            "gradient_accumulation_steps: 2\nnum_generations: 4\nmax_completion_length: 12\nsave_steps: 2\n"
            "beta: 0.1\nbf16: False\nmax_steps: 4\ntop_p: 1\nseed: 5\nreward_command: >-\n  " SPREAD "\n"
            "train_dataset_args:\n  mix_datas:\n    Messages: 1.0\n  messages_location: %s\n"
            "  mmlatent_mode_stage2: True\n  mmlatent_rl_mode: True\n",
            f->model, f->rows);
    assert_int_equal(fclose(rows), 0);
    assert_int_equal(fclose(config), 0);
}

static inline void on_step(void *ctx, const mull_step *s) {
    run *r = ctx;
    assert_true(r->n < STEPS_MAX);
    assert_non_null(s->grpo);
    r->f[r->n] = *s->grpo;
    r->step[r->n++] = *s;
}
static inline void on_checkpoint(void *ctx, int64_t step, const char *path) {
    (void)step;
    snprintf(((run *)ctx)->checkpoint, sizeof((run *)ctx)->checkpoint, "%s", path);
}
static inline bool on_stop(void *ctx) {
    run *r = ctx;
    return (r->stop_after && r->n >= r->stop_after) || (r->stop_at_ask && ++r->asked >= r->stop_at_ask);
}
static inline void on_note(void *ctx, const char *level, const char *text) {
    (void)ctx;
    fprintf(stderr, "%s: %s\n", level, text);
}

/* A session with a NULL-ended list of settings over the config. */
static inline int train(const fixture *f, const char *out, int threads, bool resume, run *r, mull_error *err,
                        const char *const *sets) {
    size_t n = 0;
    while (sets && sets[n]) n++;
    mull_train_session_opts o = {
        .config = f->config, .sets = sets, .nsets = n, .out = out, .threads = threads, .resume = resume};
    mull_train_session_hooks h = {.run = {on_step, on_checkpoint, on_stop, r}, .note = on_note};
    memset(err, 0, sizeof *err);
    return mull_train_session(&o, &h, err);
}

static inline void good(const fixture *f, const char *out, int threads, run *r, const char *const *sets) {
    mull_error err;
    *r = (run){0};
    if (train(f, out, threads, false, r, &err, sets)) {
        mull_error_print(stderr, &err);
        fail();
    }
}

#define SETS(...)                                                                                                      \
    (const char *const[]) {                                                                                            \
        __VA_ARGS__, NULL                                                                                              \
    }

static inline void out_of(const fixture *f, const char *name, char out[96]) {
    snprintf(out, 96, "%s/%s", f->dir, name);
}

static inline void same_run(const char *a, const char *b, int64_t step, int rounds) {
    char x[160], y[160], name[64];
    snprintf(x, sizeof x, "%s/checkpoint-%lld", a, (long long)step);
    snprintf(y, sizeof y, "%s/checkpoint-%lld", b, (long long)step);
    same_file(x, y, "model.safetensors");
    same_file(x, y, "optimizer-00000-of-00001.zst");
    same_file(x, y, "trainer_state.json");
    for (int i = 0; i < rounds; i++) {
        snprintf(name, sizeof name, "rollouts/step-%09d.jsonl.zst", i);
        same_file(a, b, name);
    }
}

#endif
