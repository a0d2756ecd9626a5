/* What the files of checkpoints share. */
#ifndef MULL_ENGINE_TRAIN_CHECKPOINT_INTERNAL_H
#define MULL_ENGINE_TRAIN_CHECKPOINT_INTERNAL_H

#include "engine/train/checkpoint.h"

#include <jansson.h>

#define MULL__SUMS "SHA256SUMS"

/* Writes SHA256SUMS over the files that are there. */
int mull__checkpoint_sums(const char *dir, mull_error *err);
/* A synced file of the folder. */
int mull__checkpoint_put(const char *dir, const char *name, const void *data, size_t len, mull_error *err);
/* Takes the reference; NULL is out of memory. */
int mull__checkpoint_json(const char *dir, const char *name, json_t *v, mull_error *err);
/* The folder with its files; 0, or -1 with errno. */
int mull__checkpoint_remove(const char *dir);
/* Is a file of a model's folder copied to its checkpoints? Weights and what belongs to one checkpoint are not. */
bool mull__checkpoint_copied(const char *name);
int mull__optimizer_save(const char *dir, const mull_params *p, mull_error *err);
/* The adapters among p, if there are any, from a folder in PEFT's layout. */
int mull__adapter_load(const char *dir, mull_params *p, mull_error *err);
/* A model folder without a run's state. */
int mull__checkpoint_export(const char *base, const mull_config *c, const mull_params *p, const char *out,
                            mull_error *err);
int mull__optimizer_load(const char *dir, mull_params *p, mull_error *err);

#endif
