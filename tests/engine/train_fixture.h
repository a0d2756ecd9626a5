/* Training cases without media over the model `own`, and runs of a trainer over them. */
#ifndef MULL_TESTS_ENGINE_TRAIN_FIXTURE_H
#define MULL_TESTS_ENGINE_TRAIN_FIXTURE_H

#include "tests/engine/trainer_util.h"

#include "tests/engine/own_case.h"

enum { CASES = 4, ROWS = 40 };

/* Ids below the special ones of model `own`, labels on two thirds of them. */
static inline void write_case(const char *path, int from, int n) {
    int64_t ids[CASES * ROWS], labels[CASES * ROWS], cu[CASES + 1] = {0};
    int64_t rows = 0;
    for (int k = 0; k < n; k++) {
        int len = ROWS - 7 * (from + k);
        for (int i = 0; i < len; i++) {
            ids[rows + i] = (int64_t)(util_splitmix((uint64_t)(100 * (from + k) + i)) % 200);
            labels[rows + i] = i % 3 ? ids[rows + i] : -100;
        }
        cu[k + 1] = rows += len;
    }
    mull_tensor_info t[] = {
        {.name = "input_ids", .dtype = MULL_I64, .ndim = 1, .shape = {rows}, .count = rows, .data = ids},
        {.name = "labels", .dtype = MULL_I64, .ndim = 1, .shape = {rows}, .count = rows, .data = labels},
        {.name = "cu_seqlens", .dtype = MULL_I64, .ndim = 1, .shape = {n + 1}, .count = n + 1, .data = cu}};
    mull_error err = {0};
    assert_int_equal(mull_safetensors_write(path, t, 3, &err), 0);
}

typedef struct fixture {
    char dir[32], out[CASES + 2][64];
    mull_config c;
} fixture;

static inline void fixture_init(fixture *f) {
    snprintf(f->dir, sizeof f->dir, "/tmp/mull_train_XXXXXX");
    util_checkpoint(OWN "/configs.json", "own", f->dir);
    mull_error err = {0};
    assert_int_equal(mull_config_load(f->dir, &f->c, &err), 0);
    for (int i = 0; i < CASES + 2; i++) snprintf(f->out[i], sizeof f->out[i], "%s/out%d", f->dir, i);
}

static inline void fixture_fini(fixture *f) {
    mull_config_fini(&f->c);
    remove_tree(f->dir);
}

/* Four single cases, or one packed batch of all. */
static inline void open_source(fixture *f, case_source *s, bool packed, int accumulate) {
    char path[64];
    mull_error err = {0};
    *s = (case_source){.n = packed ? 1 : CASES, .accumulate = accumulate};
    for (int i = 0; i < s->n; i++) {
        snprintf(path, sizeof path, "%s/case.safetensors", f->dir);
        write_case(path, i, packed ? CASES : 1);
        if (mull_grad_case_open(path, &f->c, MULL_GRAD_CE, &s->cases[i], &err)) fail_msg("%s", err.why);
        unlink(path);
    }
}

static inline int steps(mull_trainer *t, case_source *s, int64_t until, step_log *log) {
    mull_train_source src = source_of(s);
    mull_train_hooks hooks = hooks_of(log);
    mull_error err = {0};
    int rc = mull_trainer_run(t, until, &src, &hooks, &err);
    if (rc && rc != MULL_ECANCELLED) mull_error_print(stderr, &err);
    return rc;
}

#endif
