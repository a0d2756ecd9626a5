/* Writing checkpoint folders with random weights, for demos, tests and benchmarks. */
#ifndef MULL_ENGINE_MODEL_INIT_H
#define MULL_ENGINE_MODEL_INIT_H

#include "engine/model/config.h"

#include <stdint.h>

/* Names of the presets, NULL at the end, and a word on each. */
typedef struct mull_preset_name {
    const char *name, *text;
} mull_preset_name;
extern const mull_preset_name mull_preset_names[];

/* Writes a Hugging Face folder: config.json, generation_config.json, preprocessor_config.json, tokenizer files and
 * bf16 safetensors (shards of about 4 GB). tokenizer: folder whose tokenizer files are copied, or NULL for a
 * byte-level one of our own. The same seed gives the same bytes. out is created; what it holds of these names is
 * replaced file by file, config.json last. */
int mull_init_checkpoint(const char *preset, const char *out, uint64_t seed, const char *tokenizer, mull_error *err);

/* The weights alone, with an index when they need more than one shard. limit: elements a shard holds at most (a larger
 * tensor has a shard of its own), 0 for about 4 GB. */
int mull_init_weights(const char *dir, const mull_config *c, uint64_t seed, int64_t limit, mull_error *err);

#endif
