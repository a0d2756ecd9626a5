/* Everything that a checkpoint folder's JSON files say about the model. Nothing is hard-coded to a size. */
#ifndef MULL_ENGINE_MODEL_CONFIG_H
#define MULL_ENGINE_MODEL_CONFIG_H

#include "engine/core/dtype.h"
#include "engine/core/error.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct mull_vision_config {
    int depth, hidden, heads, head_dim, intermediate, in_chans, out_hidden;
    int patch, temporal_patch, merge, window; /* 14, 2, 2, 112 pixels */
    bool *full_attention;                     /* [depth], owned by the config */
    double tokens_per_second;                 /* 2 in the checkpoints, class default 4 */
} mull_vision_config;

typedef struct mull_config {
    int hidden, layers, heads, kv_heads, head_dim, intermediate, vocab, max_positions;
    float rms_eps;          /* language model; the vision tower's is fixed at 1e-6 */
    double rope_theta;
    int mrope_section[3];   /* t, h, w in halves: sums to head_dim / 2 */
    bool tied;              /* lm_head shares the embedding */
    mull_dtype dtype;       /* torch_dtype */
    mull_vision_config vision;
    /* Token ids: from config.json, else Qwen's; mull ids from config keys, else by the tokenizer, -1 if absent. */
    int image_token, video_token, vision_start, vision_end, vision_pad;
    int latent_pad, latent_start, latent_end, latent_image;
    int bos, pad, eos[8], neos; /* generation_config.json over config.json */
    double gen_temperature, gen_top_p, gen_repetition_penalty; /* 0, 1, 1 when absent */
    int gen_top_k;
    bool gen_do_sample;
} mull_config;

int mull_config_load(const char *dir, mull_config *out, mull_error *err);
/* The same from memory, generation may be NULL. */
int mull_config_parse(const char *config_json, size_t len, const char *generation_json, size_t glen, const char *name,
                      mull_config *out, mull_error *err);
void mull_config_fini(mull_config *c);

#endif
