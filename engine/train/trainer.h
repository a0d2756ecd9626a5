/* The training loop: batches in, steps, checkpoints out. It knows neither files of data nor the queue: batches come
 * from a source, and what happens is told to hooks.
 *
 * With several ranks every rank runs this loop over its own batches; gradients add up over all of them. What a step
 * reports is of all ranks, and only rank 0 is told of steps and checkpoints. A stop or a failure on one rank ends all
 * of them at the same batch. */
#ifndef MULL_ENGINE_TRAIN_TRAINER_H
#define MULL_ENGINE_TRAIN_TRAINER_H

#include "engine/train/checkpoint.h"
#include "engine/train/feature_cache.h"
#include "engine/train/loss.h"
#include "engine/train/backend.h"

typedef struct mull_train_source {
    int (*next)(void *ctx, mull_batch *out, mull_error *err);
    void (*release)(void *ctx, mull_batch *b);
    /* After a step's last batch: what continues behind it. */
    mull_position (*position)(void *ctx);
    void *ctx;
} mull_train_source;

typedef struct mull_step {
    int64_t step;                                            /* from 1 */
    double loss, ce, cos, grad_norm, lr, clip, seconds, mfu; /* cos: NAN without cosines; mfu: share of the roof */
    double flops;                     /* of the products and attention, the frozen tower's left out */
    int64_t tokens, samples, counted; /* rows, samples and counted tokens of the step */
    bool skipped;                     /* the gradient was not finite: nothing was changed */
    bool spike;                       /* the loss is far above its recent mean */
    int64_t skipped_so_far;
    double loss_mean;                     /* running, over some thirty steps */
    const struct mull_grpo_figures *grpo; /* what the rollouts were like (grpo.h); NULL without */
} mull_step;

typedef struct mull_train_hooks {
    void (*step)(void *ctx, const mull_step *s);
    void (*checkpoint)(void *ctx, int64_t step, const char *path);
    bool (*stop)(void *ctx); /* asked for between batches */
    void *ctx;
    void (*removed)(void *ctx, int64_t step, const char *path); /* a checkpoint that retention took away */
} mull_train_hooks;

typedef struct mull_trainer mull_trainer;

/* Model and state. resume: a checkpoint folder, or NULL; everything else follows the recipe, which is borrowed, as out.
 */
typedef struct mull_trainer_opts {
    const mull_recipe *recipe;
    const char *out, *resume; /* out NULL: no checkpoints */
    int threads;
    int64_t steps;   /* of the whole run: what the schedule ends at */
    mull_comm *comm; /* the run's ranks, borrowed; NULL: one. Each gets its own batches from its source */
    const mull_tokenizer *tokenizer;                              /* GRPO: what completions are read with; borrowed */
    void (*note)(void *ctx, const char *level, const char *text); /* one line for a person; may be NULL */
    void *ctx;
    const mull_train_backend *backend; /* NULL: the CPU */
} mull_trainer_opts;

int mull_trainer_create(const mull_trainer_opts *o, mull_trainer **out, mull_error *err);
void mull_trainer_destroy(mull_trainer *t);
const mull_config *mull_trainer_config(const mull_trainer *t);
const mull_train_state *mull_trainer_state(const mull_trainer *t);
/* The schedule's end, when it is known only after the data was opened. */
void mull_trainer_set_steps(mull_trainer *t, int64_t steps);
const mull_params *mull_trainer_params(const mull_trainer *t);
/* Of the recipe's feature_cache; false without one. */
bool mull_trainer_features(const mull_trainer *t, mull_feature_figures *out);
/* Steps until so many are done in all (at most the run's), with a checkpoint every save_steps and after the last step.
 * MULL_ECANCELLED when a hook said stop: a checkpoint was saved. */
int mull_trainer_run(mull_trainer *t, int64_t until, const mull_train_source *source, const mull_train_hooks *hooks,
                     mull_error *err);

/* What each of world ranks would need, in bytes, for batches of rows tokens. */
typedef struct mull_train_plan {
    int64_t parameters, trained;
    size_t weights, gradients, moments, activations, tower, rollouts, total; /* rollouts: packed weights, reference */
} mull_train_plan;
int mull_trainer_plan(const mull_recipe *r, const mull_config *c, int64_t rows, int world, mull_train_plan *out,
                      mull_error *err);

#endif
