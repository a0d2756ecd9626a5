/* Checkpoints: a Hugging Face folder that loads in our engine and in transformers, and beside the weights what training
 * needs to go on: optimizer-RRRRR-of-WWWWW.zst and trainer_state.json.
 *
 * A checkpoint appears whole or not at all: it is written under a temporary name, synced and renamed. SHA256SUMS has
 * the digest of every other file, in the order of names, as sha256sum writes it (so `sha256sum -c` checks it); the
 * digest of SHA256SUMS itself stands for the checkpoint.
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

#include <jansson.h>

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
/* {"bytes","sha256","files":[{"name","bytes","sha256"}]} of a folder by its SHA256SUMS: what was written, not read
 * again. NULL with err when that file is not there or broken. */
json_t *mull_checkpoint_summary(const char *dir, mull_error *err);
/* OUT/checkpoint-N of the largest N, malloc'ed; NULL when there is none. */
char *mull_checkpoint_newest(const char *out);
/* What stays: the newest keep_last checkpoints of OUT and, anywhere, the keep_best with the least running mean of the
 * loss (their trainer_state.json says it). keep_last 0: all. removed (may be NULL) is told of each one that went. */
typedef struct mull_retention {
    int64_t keep_last, keep_best;
    void (*removed)(void *ctx, int64_t step, const char *path);
    void *ctx;
} mull_retention;
int mull_checkpoint_retain(const char *out, const mull_retention *keep, mull_error *err);

#endif
