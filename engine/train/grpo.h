/* GRPO (Shao et al. 2024): groups of completions from our own engine, rewards, advantages, clipped policy steps with a
 * KL term to the model that training began with. The weights that answer are the trainer's own memory. What is
 * configured is in the recipe; mull_trainer_run runs this loop when the recipe's kind is MULL_GRPO.
 *
 * A round: the prompts of steps_per_generation loader steps, num_generations completions of each; then num_iterations
 * passes over them, one optimiser step for the prompts of each loader step. Every draw is a pure function of (seed,
 * loader step, prompt, sample), and checkpoints are written between rounds only, so a resumed run is the same run.
 *
 * With rollout_mode: disaggregated other processes answer (rollout_exchange.h). Completions of an older policy, at most
 * max_staleness steps old, are weighted token by token by how much likelier this round's weights would have made them
 * than the weights that did, at most importance_cap times (loss_grpo.c).
 *
 * On several ranks each draws, answers, scores and trains on its own prompts; gradients are reduced as in supervised
 * training (ranks.h), and what advantages, losses, dynamic sampling and figures count is counted over all of them
 * (grpo_ranks.c). Each has the packed weights that answer and, without LoRA, a whole reference. */
#ifndef MULL_ENGINE_TRAIN_GRPO_H
#define MULL_ENGINE_TRAIN_GRPO_H

#include <jansson.h>
#include <stdint.h>

enum { MULL_REWARD_TYPES = 5 };

/* What an optimiser step's completions were like. Means are over completions or counted tokens. */
typedef struct mull_grpo_figures {
    double reward, reward_std; /* over all completions */
    double group_std;          /* mean over the groups of their own */
    double accuracy, format, external;
    struct {
        const char *name; /* of the problem type */
        int64_t n;
        double mean, std; /* of the reward */
    } type[MULL_REWARD_TYPES];
    int ntypes;
    double kl, entropy;                 /* a token; kl NAN without a reference; entropy in nats, at the temperature */
    double clip_low, clip_high;         /* shares of the counted tokens whose ratio was clipped */
    double length, length_max;          /* tokens */
    double truncated, zero_spread;      /* shares: completions cut at the limit, groups without spread */
    double mismatch, mismatch_max;      /* |log-prob of the rollout - of the trainer's forward|, NAN after the weights
                                           have moved away from the ones that answered */
    double staleness, staleness_max;    /* optimiser steps between the weights that answered and these */
    double importance;                  /* mean weight of counted tokens that older weights sampled; NAN: none */
    double importance_capped;           /* share of them at the cap */
    double wait_seconds, wait_share;    /* for rollout jobs, and of the step's time; NAN without them */
    int64_t resampled;                  /* groups drawn anew for lack of spread in the round */
    int64_t rollout_tokens, train_rows; /* generated tokens of the round; rows of the step's forward passes */
    double rollout_seconds, train_seconds, refresh_seconds; /* of the round; of the step; packing or publishing weights.
                                                               rollout_seconds NAN with rollout jobs */
    double rollout_tok_s, train_tok_s;
    double prefix_share; /* share of the prompts' tokens that came from the cache */
} mull_grpo_figures;

/* Adds them to an object under flat names; what is NAN is left out. */
void mull_grpo_figures_json(const mull_grpo_figures *f, json_t *to);

#endif
