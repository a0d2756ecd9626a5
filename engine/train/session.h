/* A training run from a recipe: data, model, loop. What `mull-engine train` and a job of kind train share. */
#ifndef MULL_ENGINE_TRAIN_SESSION_H
#define MULL_ENGINE_TRAIN_SESSION_H

#include "engine/train/trainer.h"

#include <jansson.h>

typedef struct mull_train_session_opts {
    const char *config; /* path of the YAML */
    const char *const *sets;
    size_t nsets;
    const char *out;
    int64_t max_steps; /* 0: the recipe's */
    int threads;
    int ranks;    /* for the plan; a rank that was started learns from its environment which one it is (comm/comm.h) */
    bool dry_run; /* only the plan */
    const mull_train_backend *backend; /* NULL: the CPU */
    bool resume; /* go on from the newest checkpoint of out when there is one, whatever the recipe says */
} mull_train_session_opts;

typedef struct mull_train_session_hooks {
    mull_train_hooks run;
    void (*note)(void *ctx, const char *level, const char *text); /* one line for a person */
    void (*start)(void *ctx, const json_t *plan);                 /* the resolved plan, before the first step */
    void (*lineage)(void *ctx, const json_t *run);                /* what mull_lineage says, before the first step */
} mull_train_session_hooks;

/* A step's figures by name, those that are finite; the caller's. */
json_t *mull_step_values(const mull_step *s);

/* MULL_ECANCELLED when it was stopped and saved. With several ranks this is one of them: only rank 0 hears of the plan,
 * of steps and of checkpoints. */
int mull_train_session(const mull_train_session_opts *o, const mull_train_session_hooks *h, mull_error *err);

#endif
