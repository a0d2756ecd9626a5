/* A rollout job: answers what the trainer of a run wants (rollout_exchange.h), shard by shard, until the run is done.
 * Any number of them work on one run; a shard is claimed by a lock that the kernel gives back when its process dies. */
#ifndef MULL_ENGINE_TRAIN_ROLLOUT_WORK_H
#define MULL_ENGINE_TRAIN_ROLLOUT_WORK_H

#include "engine/core/error.h"

#include <stdbool.h>
#include <stdint.h>

/* Of one process. */
typedef struct mull_rollout_figures {
    int64_t shards, completions, tokens, policies; /* so far; policies: versions that were loaded */
    double busy, waited, loading;                  /* s: answering and scoring; nothing wanted; loading policies */
    /* of the last shard */
    int64_t number, step, version; /* number: rises with step, its own among the run's shards */
    int64_t shard_tokens;
    double seconds, reward, length;
} mull_rollout_figures;

typedef struct mull_rollout_hooks {
    bool (*stop)(void *ctx);                                      /* asked for between steps of the engine */
    void (*note)(void *ctx, const char *level, const char *text); /* one line for a person */
    void (*ready)(void *ctx);                                     /* the model is loaded */
    void (*shard)(void *ctx, const mull_rollout_figures *f);      /* one is on disk */
    void *ctx;
} mull_rollout_hooks;

typedef struct mull_rollout_opts {
    const char *out; /* the training run's folder */
    int threads;
    double idle_s; /* gives up when nothing was wanted for so long; 0: never */
} mull_rollout_opts;

/* Returns when the run is done. MULL_ECANCELLED: stopped, or the run began anew with another recipe; what was being
 * answered is another's to answer. MULL_ELIMIT: idle for too long. f is filled in any case. */
int mull_rollout_work(const mull_rollout_opts *o, const mull_rollout_hooks *h, mull_rollout_figures *f,
                      mull_error *err);

#endif
