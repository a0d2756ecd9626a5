/* Moves trained values between the ranks that own them (params.h): gradients to their owners, updated weights to
 * everybody, and with ZeRO 3 the weights of one part of the model to everybody while it is used. With one rank, or for
 * stages that do not need it, a call does nothing.
 *
 *   stage 0, 1  gradients add up over the micro-batches of a rank and are reduced once a step
 *   stage 2, 3  a part's gradient is reduced when its backward is done, and added to what its owner has of the step
 *
 * Sums over ranks are taken in the order of the ranks (comm.h). So with one micro-batch a step and rank all stages give
 * the same bits; with more, 0 equals 1 and 2 equals 3.
 *
 * A failure inside forward or backward is kept and told by the next call that can return it: nothing is updated after
 * one. */
#ifndef MULL_ENGINE_TRAIN_RANKS_H
#define MULL_ENGINE_TRAIN_RANKS_H

#include "engine/train/net.h"

typedef struct mull_ranks mull_ranks;

/* p was loaded with its communicator; both are borrowed. */
int mull_ranks_create(const mull_config *c, mull_params *p, mull_pool *pool, mull_ranks **out, mull_error *err);
void mull_ranks_destroy(mull_ranks *r);
/* For mull_net_opts. */
mull_net_parts mull_ranks_parts(mull_ranks *r);

/* After a step's last backward: what mull_optim_step reads is the sum over all ranks. */
int mull_ranks_reduce(mull_ranks *r, mull_error *err);
/* After an update, or after loading: everybody sees the owners' weights. */
int mull_ranks_publish(mull_ranks *r, mull_error *err);
/* The whole of q on every rank, until mull_ranks_release, where the stage leaves it in parts: what products read, or
 * the float32 masters. All ranks call it. r NULL: nothing. */
int mull_ranks_fetch(mull_ranks *r, const mull_param *q, bool master, mull_error *err);
void mull_ranks_release(mull_ranks *r, const mull_param *q);
/* Every rank says a word; all get the largest. What decides together what happens next: a batch, the end, a stop. */
int mull_ranks_agree(mull_ranks *r, int word, int *most, mull_error *err);
/* n sums over the ranks, in their order. */
int mull_ranks_add(mull_ranks *r, double *values, int n, mull_error *err);
/* The largest of each of n values. */
int mull_ranks_most(mull_ranks *r, double *values, int n, mull_error *err);
/* What every rank says, of any length: *all (the caller frees it) has rank k's bytes at [at[k], at[k + 1]). at has
 * MULL_WORLD_MAX + 1 entries. */
int mull_ranks_collect(mull_ranks *r, const void *mine, size_t bytes, void **all, size_t *at, mull_error *err);

#endif
