/* A training recipe: the release's YAML (its keys and what torchrun took as flags) and the keys that are ours, checked
 * as a whole: every error is found in one pass, with its line and the nearest known key. The files of the release load
 * unchanged; keys that have no effect here are noted. The list of keys is recipe_keys.c. */
#ifndef MULL_ENGINE_DATA_RECIPE_H
#define MULL_ENGINE_DATA_RECIPE_H

#include "engine/core/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* X(symbol, name in mix_datas, key of its location) */
#define MULL_SET_LIST(X)                                                                                               \
    X(SAT, "SAT", sat_location)                                                                                        \
    X(VIDEOR1, "VideoR1", video_r1_location)                                                                           \
    X(ZEBRA, "ZebraCOT", zebracot_location)                                                                            \
    X(SIMS, "SIMS", sims_location)                                                                                     \
    X(MESSAGES, "Messages", messages_location)
typedef enum mull_set {
#define X(symbol, name, location) MULL_SET_##symbol,
    MULL_SET_LIST(X)
#undef X
        MULL_SET_COUNT
} mull_set;

/* What the keys together ask for. */
typedef enum mull_recipe_kind { MULL_SFT, MULL_STAGE1, MULL_STAGE2, MULL_GRPO } mull_recipe_kind;

typedef enum mull_loss_on { MULL_LOSS_ALL, MULL_LOSS_ASSISTANT } mull_loss_on;
typedef enum mull_loss_norm { MULL_NORM_SAMPLE, MULL_NORM_TOKEN } mull_loss_norm;
typedef enum mull_schedule { MULL_LR_LINEAR, MULL_LR_COSINE, MULL_LR_CONSTANT } mull_schedule;
typedef enum mull_grpo_loss { MULL_LOSS_GRPO, MULL_LOSS_DR_GRPO, MULL_LOSS_BNPO, MULL_LOSS_DAPO } mull_grpo_loss;
typedef enum mull_recompute { MULL_RECOMPUTE_NONE, MULL_RECOMPUTE_ATTENTION, MULL_RECOMPUTE_LAYER } mull_recompute;

/* Strings are owned and never NULL; an empty one was not given. */
typedef struct mull_recipe {
    /* train_dataset_args */
    char *split, *mode;
    char *sat_location, *video_r1_location, *zebracot_location, *sims_location, *messages_location;
    double weight[MULL_SET_COUNT]; /* mix_datas, normalised to sum 1; 0: not in the mix */
    bool mmlatent_mode_stage1, mmlatent_mode_stage2, mmlatent_rl_mode, no_reason_mode, no_zebracot_reason_mode;
    bool use_text_reasoning, use_multimodal_textonly, r1_mode, r1_rl_mode, wtxt_rl_mode, use_200k, use_3q_40k;
    int64_t num_latent_tokens;
    /* the release's own */
    char *run_name, *model_name, *model_path;
    char *resume_from_checkpoint; /* "": no; "true": the newest one in the output folder; else a folder */
    int64_t stage;                /* 0: none, 1, 2; follows the modes when it was not given */
    bool freeze_vision, no_ref_model, text_only_logprobs, basic_reinforce_mode;
    /* what torchrun took as flags; the defaults follow the kind of recipe (engine/data/recipe.c) */
    double learning_rate, num_train_epochs, max_grad_norm, weight_decay, warmup_ratio, beta;
    double adam_beta1, adam_beta2, adam_epsilon;
    int64_t gradient_accumulation_steps, per_device_train_batch_size, save_steps, max_steps, warmup_steps,
        logging_steps;
    int64_t max_prompt_length, max_completion_length, num_generations, save_total_limit, seed;
    int64_t max_pixels;        /* accepted; the release ignores it too, see image_max_pixels */
    int64_t lr_scheduler_type; /* mull_schedule */
    bool gradient_checkpointing, bf16, len_control;
    double temperature, top_p, epsilon; /* GRPO rollouts and clip */
    int64_t metric_for_best_model;      /* 0: none; 1: loss: the best checkpoints stay beyond save_total_limit */
    /* GRPO, names as in TRL where it has them; what they do: engine/train/grpo.h */
    double epsilon_high;    /* the clip's upper side; 0: epsilon */
    int64_t num_iterations; /* passes over the completions of a round */
    int64_t steps_per_generation;
    int64_t scale_rewards;    /* 0: by the group's deviation; 1: by the step's; 2: not at all */
    int64_t dynamic_sampling; /* groups without spread make way for new prompts, up to so many draws */
    bool mask_truncated_completions;
    int64_t overlong_buffer; /* tokens before the limit in which the penalty grows to its full size */
    double overlong_penalty; /* 0: none */
    int64_t reward_compat;   /* 0: ours; 1: the release's scoring */
    char *reward_command;    /* a user's own reward, "": none */
    double reward_weight, reward_timeout;
    bool reward_builtin;    /* accuracy and format count beside the command */
    int64_t rollout_batch;  /* completions decoded together */
    int64_t rollout_mode;   /* 0: the trainer answers; 1: rollout jobs do (engine/train/rollout_exchange.h) */
    int64_t max_staleness;  /* optimiser steps that the weights which answered may be behind, with rollout jobs */
    double importance_cap;  /* of the weights that correct for it; 0: none */
    int64_t rollout_groups; /* prompts of a shard */
    double rollout_wait;    /* s without a shard that end the run; 0: never */
    bool save_rollouts;
    /* ours */
    int64_t save_best_limit;    /* how many of the best stay */
    bool tensorboard;           /* event files in OUT/tensorboard */
    bool async_save;            /* checkpoints are written beside the next steps, from a copy */
    int64_t loss_on, loss_norm; /* mull_loss_on, mull_loss_norm */
    int64_t label_mask;         /* 0: vision frame and video pads are ignored too; 1: as the release counts them */
    int64_t stage1_spaces;      /* 0: drop (release); 1: keep */
    int64_t video_fps_compat;   /* 0: true rate; 1: 2 fps whatever was sampled (release) */
    int64_t prompt_format;      /* 0: each stage's own; 1: chatml */
    int64_t grpo_tokens;        /* 0: completion; 1: all (release) */
    int64_t loss_type;          /* mull_grpo_loss */
    int64_t recompute;          /* mull_recompute */
    int64_t zero_stage;         /* 0..3 */
    int64_t max_length;         /* longest sample in tokens, longer ones are skipped; 0: no limit */
    int64_t pack_tokens;        /* most tokens of one packed batch; 0: no packing beyond the batch size */
    int64_t prefetch_tokens;    /* decoded ahead at most; at least one batch */
    int64_t loader_threads;     /* 0: as many as fit */
    double max_bad_share;       /* of the samples drawn; more fail the job */
    int64_t video_max_frames;   /* 16 */
    int64_t image_max_pixels;   /* of training images: 256*28*28 */
    char *feature_cache;        /* folder of vision features; "": none */
    int64_t feature_cache_bytes;
    char *freeze;      /* comma-separated patterns of parameter names */
    int64_t lora_rank; /* 0: no LoRA */
    double lora_alpha, lora_dropout;
    char *lora_targets; /* comma-separated module names */

    mull_recipe_kind kind;
} mull_recipe;

/* One line of what was found. A note does not make the recipe wrong. */
typedef struct mull_recipe_note {
    bool error;
    int line;     /* of the YAML, from 1; 0: given by --set */
    char key[96]; /* train_dataset_args.split; "" when no key is meant */
    char message[256];
    char did_you_mean[64]; /* the nearest known key, or "" */
} mull_recipe_note;

typedef struct mull_recipe_report {
    mull_recipe_note *notes;
    size_t n, cap, errors;
} mull_recipe_report;

/* sets: nsets texts "key=value", later ones win; a key inside train_dataset_args may be given with or without that
 * prefix. On error the report (which may be NULL) holds every problem and err the first ones in one line. The caller
 * owns out after success (mull_recipe_fini) and the report always (mull_recipe_report_fini). */
int mull_recipe_load(const char *path, const char *const *sets, size_t nsets, mull_recipe *out,
                     mull_recipe_report *report, mull_error *err);
/* The same from memory; name stands in errors. */
int mull_recipe_parse(const char *yaml, size_t len, const char *name, const char *const *sets, size_t nsets,
                      mull_recipe *out, mull_recipe_report *report, mull_error *err);
void mull_recipe_fini(mull_recipe *r);
void mull_recipe_report_fini(mull_recipe_report *r);

/* Every resolved key by its name, as the run's record keeps it. NULL on no memory. */
json_t *mull_recipe_json(const mull_recipe *r);
const char *mull_recipe_kind_name(mull_recipe_kind k); /* "sft", "stage1", "stage2", "grpo" */
const char *mull_set_name(mull_set s);
const char *mull_recipe_location(const mull_recipe *r, mull_set s);

#endif
