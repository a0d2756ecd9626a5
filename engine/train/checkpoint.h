/* Checkpoints: a Hugging Face folder that loads in our engine and in transformers, and beside the weights what training
 * needs to go on: optimizer-RRRRR-of-WWWWW.zst and trainer_state.json.
 *
 * A checkpoint appears whole or not at all: it is written under a temporary name, synced and renamed.
 *
 * optimizer file, version 1: one zstd frame (with checksum) of: "MULLOPT1", the length of the header (8 bytes, little
 * endian), the header as JSON, then the arrays as float32, each over the flat range [lo, hi) of the trained values:
 * {"version":1,"rank","world","trained","lo","hi","arrays":["exp_avg","exp_avg_sq"(,"master")],
 *  "params":[{"name","at","count"}]}. master is there when the folder's weights are rounded to bf16. With ZeRO each
 * rank writes the range that it owns, else there is one file; a reader of any world size takes from all files what
 * overlaps its own range. */
#ifndef MULL_ENGINE_TRAIN_CHECKPOINT_H
#define MULL_ENGINE_TRAIN_CHECKPOINT_H

#include "engine/data/loader.h"
#include "engine/train/params.h"
#include "engine/train/ranks.h"

/* What else a run needs to go on; trainer_state.json. */
typedef struct mull_train_state {
    int64_t step, applied; /* optimiser steps done, and those that were not skipped */
    mull_position position;
    double loss_mean, loss_var; /* of the last steps: what a spike is measured against */
    int64_t skipped;
} mull_train_state;

typedef struct mull_checkpoint_opts {
    const char *base;  /* folder whose configuration and tokenizer files are copied */
    double lora_alpha; /* adapters: adapter_model.safetensors and adapter_config.json instead of the weights */
    int64_t lora_rank;
    const char *lora_targets;
    mull_ranks *ranks; /* NULL: one rank */
} mull_checkpoint_opts;

/* Writes OUT/checkpoint-STEP and its path to path (of cap bytes). An older folder of that name is replaced. All ranks
 * call it, for one folder that all of them see; when one fails, all do, and there is no folder. */
int mull_checkpoint_save(const char *out, const mull_config *c, const mull_params *p, const mull_train_state *s,
                         const mull_checkpoint_opts *o, char *path, size_t cap, mull_error *err);
/* Moments, masters, adapters and state of a folder that mull_checkpoint_save wrote at any world size, into params that
 * were loaded from it (from the base with LoRA) with moments. With several ranks mull_ranks_publish comes next. */
int mull_checkpoint_load(const char *dir, mull_params *p, mull_train_state *s, mull_error *err);
/* OUT/checkpoint-N of the largest N, malloc'ed; NULL when there is none. */
char *mull_checkpoint_newest(const char *out);
/* Removes all but the newest keep checkpoints of OUT; keep 0: none is removed. */
int mull_checkpoint_retain(const char *out, int64_t keep, mull_error *err);

#endif
