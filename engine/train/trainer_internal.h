/* What the trainer's files share: the plain loop (trainer.c) and the one with rollouts (grpo.c). */
#ifndef MULL_ENGINE_TRAIN_TRAINER_INTERNAL_H
#define MULL_ENGINE_TRAIN_TRAINER_INTERNAL_H

#include "engine/train/tower.h"
#include "engine/train/trainer.h"

struct mull_trainer {
    const mull_recipe *r;
    const char *out, *model; /* model: what base files are copied from */
    int64_t steps;
    mull_model *tower; /* GRPO: with the policy's language model beside the tower */
    mull_params params;
    mull_ranks *ranks;
    mull_feature_cache *cache; /* NULL: none */
    mull_pack_source source;   /* of features: the cache or a tower */
    mull_tower *trained_tower; /* NULL: it is frozen */
    mull_net *net;
    mull_pack pack;
    mull_loss_work work;
    mull_optim_opts optim;
    mull_train_state state;
    double roof; /* FLOP/s, 0: not measured yet */
    int64_t skipped_row;
    struct mull__grpo *grpo;   /* GRPO only */
    struct mull__saver *saver; /* NULL until it is needed */
};

/* Without freeze_vision; with adapters the tower is frozen as the rest is. */
bool mull__trains_tower(const mull_recipe *r);
/* Floating-point operations of forward and backward: the products of rows tokens, the head for loss_rows of them, and
 * attention over so many pairs of a query and a key. */
double mull__train_flops(const mull_trainer *t, int64_t rows, int64_t loss_rows, double pairs);
/* One optimiser step on the gradients that were added up, times scale; at is where the run stands then. Fills in st
 * what it knows: step, lr, norm, clip, skipped; seconds and mfu from start and st->flops. */
int mull__train_apply(mull_trainer *t, double scale, const mull_position *at, double start, mull_step *st,
                      mull_error *err);
/* The counts of all ranks: at has this one's. */
int mull__train_position(mull_trainer *t, mull_position *at, mull_error *err);
/* The error of a rank that is well, when another one is not. */
int mull__train_other_failed(mull_error *err);
/* MULL_EFORMAT when too many steps in a row had no finite gradient. */
int mull__train_check_skipped(const mull_trainer *t, mull_error *err);
/* saver.c. A checkpoint of where the run stands: written by a thread from a copy, or (last) when this returns. */
int mull__train_save(mull_trainer *t, const mull_train_hooks *hooks, bool last, mull_error *err);
/* Tells of a save that has ended since the last call; its error is the run's. wait: until it has ended. */
int mull__train_saved(mull_trainer *t, const mull_train_hooks *hooks, bool wait, mull_error *err);
void mull__saver_destroy(struct mull__saver *s);
double mull__train_now(void); /* s, monotonic */

/* The loop with rollouts (grpo.c). */
int mull__grpo_create(mull_trainer *t, const mull_trainer_opts *o, mull_error *err);
void mull__grpo_destroy(struct mull__grpo *g);
/* Steps until so many are done; saves as mull_trainer_run does. MULL_ECANCELLED: stopped; what is to be saved is. */
/* Behind the run's last checkpoint. */
int mull__grpo_finish(mull_trainer *t, mull_error *err);
int mull__grpo_run(mull_trainer *t, int64_t until, const mull_train_source *src, const mull_train_hooks *hooks,
                   int64_t *saved, mull_error *err);

#endif
