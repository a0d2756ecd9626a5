/* The optimiser step: clip by global norm, AdamW, learning-rate schedule. */
#ifndef MULL_ENGINE_TRAIN_OPTIM_H
#define MULL_ENGINE_TRAIN_OPTIM_H

#include "engine/data/recipe.h"
#include "engine/train/params.h"

typedef struct mull_optim_opts {
    mull_schedule schedule;
    double lr, beta1, beta2, eps, weight_decay, max_grad_norm; /* max_grad_norm 0: no clipping */
    int64_t warmup, total;                                     /* steps */
} mull_optim_opts;

typedef struct mull_optim_result {
    double lr, grad_norm, clip; /* clip: what the gradient was multiplied with, 1: as it was */
    bool skipped;               /* the norm was not finite: nothing was changed */
} mull_optim_result;

/* Learning rate of step (from 0), as the schedulers of transformers: up over warmup, then down to 0 at total. */
double mull_optim_lr(const mull_optim_opts *o, int64_t step);
/* One step on gradients that are sums: scale (1 / weight) makes them the mean first. applied counts the steps that were
 * not skipped so far and grows by one. Gradients are left as they are. */
void mull_optim_step(mull_pool *pool, mull_params *p, const mull_optim_opts *o, int64_t step, double scale,
                     int64_t *applied, mull_optim_result *out);

#endif
