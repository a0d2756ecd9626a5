/* The trainer's side of an exchange (rollout_exchange.h): it publishes policies, wants steps, takes shards. */
#ifndef MULL_ENGINE_TRAIN_ROLLOUT_INTAKE_H
#define MULL_ENGINE_TRAIN_ROLLOUT_INTAKE_H

#include "engine/train/grpo_internal.h"
#include "engine/train/rollout_exchange.h"
#include "engine/train/rollout_shard.h"

struct mull__intake {
    mull_exchange x;
    mull_want *wants; /* rising: steps that are not done with */
    size_t n, cap;
    int64_t published;      /* newest version; -1: none by this process */
    char policy[65];        /* its digest */
    int64_t kept, saved;    /* loader steps behind the last checkpoint but one, and behind the last */
    double waited, arrived; /* s in this round; when the last round's completions were there */
    void (*note)(void *ctx, const char *level, const char *text);
    void *ctx;
};

/* What is asked of n groups, as a digest: both sides must mean the same. */
int mull__rollout_prompts(const mull__group *groups, size_t n, char hex[65], mull_error *err);
/* The key of a shard of a wanted step, without the prompts' digest. */
mull_rollout_key mull__rollout_key(const mull_recipe *r, const mull_want *w, int64_t shard);

int mull__intake_create(struct mull__grpo *g, const mull_trainer_opts *o, mull_error *err);
void mull__intake_destroy(struct mull__intake *i);
/* Before a round, whose first loader step is next: the weights as they are become a version, unless they are one, and
 * the steps of this round and of those that max_staleness reaches are wanted. */
int mull__intake_publish(struct mull__grpo *g, int64_t next, mull_error *err);
/* Waits for the shards of the loader step that the groups from first on are of, and gives them what they hold. Every
 * rank calls it, with how it fared so far (rc).
 * MULL_ECANCELLED: stopped; MULL_EIO: none came for rollout_wait seconds. */
int mull__intake_take(struct mull__grpo *g, size_t first, int rc, mull_error *err);
/* The round's completions are there: its seconds are those since the last round's were. */
void mull__intake_arrived(struct mull__grpo *g);
/* A checkpoint is under way: what lies before the one before it is not needed any more. */
void mull__intake_saved(struct mull__grpo *g);
/* The run's last checkpoint is there: jobs may go, files too. */
int mull__intake_finish(struct mull__grpo *g, mull_error *err);

#endif
