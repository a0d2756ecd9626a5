/* A trainer fed with cases instead of datasets. */
#ifndef MULL_TESTS_ENGINE_TRAINER_UTIL_H
#define MULL_TESTS_ENGINE_TRAINER_UTIL_H

#include "tests/engine/train_util.h"

#include "engine/train/trainer.h"

#include <dirent.h>

typedef struct case_source {
    mull_grad_case cases[8];
    int n, accumulate;
    int64_t at; /* micro-batches so far */
} case_source;

static inline int source_next(void *ctx, mull_batch *out, mull_error *err) {
    case_source *s = ctx;
    (void)err;
    *out = s->cases[s->at % s->n].batch;
    out->last = ++s->at % s->accumulate == 0;
    return MULL_OK;
}
static inline void source_release(void *ctx, mull_batch *b) {
    (void)ctx, (void)b;
}
static inline mull_position source_position(void *ctx) {
    const case_source *s = ctx;
    return (mull_position){.step = s->at / s->accumulate};
}
static inline mull_train_source source_of(case_source *s) {
    return (mull_train_source){source_next, source_release, source_position, s};
}
static inline void source_fini(case_source *s) {
    for (int i = 0; i < s->n; i++) mull_grad_case_fini(&s->cases[i]);
}

typedef struct step_log {
    mull_step at[64];
    int n, checkpoints;
    int64_t stop_after; /* steps, 0: never */
} step_log;

static inline void log_step(void *ctx, const mull_step *s) {
    step_log *l = ctx;
    assert_true(l->n < 64);
    l->at[l->n++] = *s;
}
static inline void log_checkpoint(void *ctx, int64_t step, const char *path) {
    (void)step;
    assert_true(access(path, R_OK) == 0);
    ((step_log *)ctx)->checkpoints++;
}
static inline bool log_stop(void *ctx) {
    const step_log *l = ctx;
    return l->stop_after && l->n >= l->stop_after;
}
static inline mull_train_hooks hooks_of(step_log *l) {
    return (mull_train_hooks){log_step, log_checkpoint, log_stop, l};
}

/* The recipe of the reference's runs; strings are borrowed. */
static inline mull_recipe run_recipe(char *model, mull_recipe_kind kind) {
    return (mull_recipe){.model_path = model,
                         .kind = kind,
                         .freeze_vision = true,
                         .learning_rate = 1e-3,
                         .adam_beta1 = 0.9,
                         .adam_beta2 = 0.999,
                         .adam_epsilon = 1e-8,
                         .max_grad_norm = 5,
                         .lr_scheduler_type = MULL_LR_LINEAR};
}

static inline mull_trainer *trainer_open(const mull_trainer_opts *o) {
    mull_trainer *t = NULL;
    mull_error err = {0};
    if (mull_trainer_create(o, &t, &err)) {
        mull_error_print(stderr, &err);
        fail();
    }
    return t;
}

/* Removes a folder and what is in it, folders too. */
static inline void remove_tree(const char *path) {
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        char *p = mull_path_join(path, e->d_name);
        if (unlink(p)) remove_tree(p);
        free(p);
    }
    if (d) closedir(d);
    rmdir(path);
}

static inline mull_buf file_bytes(const char *dir, const char *name) {
    char *path = mull_path_join(dir, name);
    mull_buf b = {0};
    mull_error err = {0};
    if (mull_read_file(path, 1 << 30, name, &b, &err)) fail_msg("%s: %s", path, err.why);
    free(path);
    return b;
}

static inline void same_file(const char *a, const char *b, const char *name) {
    mull_buf x = file_bytes(a, name), y = file_bytes(b, name);
    if (x.len != y.len || memcmp(x.data, y.data, x.len)) fail_msg("%s differs between %s and %s", name, a, b);
    mull_buf_fini(&x);
    mull_buf_fini(&y);
}

#endif
