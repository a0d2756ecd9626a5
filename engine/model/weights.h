/* Weights in the shape the forward pass uses them: matrices packed, q/k/v and gate/up of a layer fused by rows. Norms
 * and biases are float32 arrays. Everything is owned by the model and read-only after loading. */
#ifndef MULL_ENGINE_MODEL_WEIGHTS_H
#define MULL_ENGINE_MODEL_WEIGHTS_H

#include "engine/model/config.h"
#include "engine/ops/ops.h"

typedef struct mull_vision_block {
    float *norm1, *norm2;                     /* [E] */
    mull_matrix *qkv, *proj, *gate_up, *down; /* [3E, E], [E, E], [2F, E], [E, F] */
    float *qkv_bias, *proj_bias, *gate_up_bias, *down_bias;
} mull_vision_block;

typedef struct mull_vision_weights {
    mull_matrix *patch_embed;     /* [E, 1176] */
    mull_vision_block *blocks;    /* [depth] */
    float *ln_q;                  /* [E] */
    mull_matrix *merge0, *merge2; /* [4E, 4E], [hidden, 4E] */
    float *merge0_bias, *merge2_bias;
} mull_vision_weights;

typedef struct mull_lm_layer {
    float *input_norm, *post_norm; /* [H] */
    mull_matrix *qkv;              /* [(heads + 2 kv_heads) head_dim, H]: q, k, v */
    float *qkv_bias;
    mull_matrix *o, *gate_up, *down; /* [H, heads head_dim], [2F, H], [H, F] */
} mull_lm_layer;

typedef struct mull_weights {
    mull_vision_weights vision;
    mull_matrix *embed;    /* [vocab, H]; never int8, so that inputs are what the checkpoint says */
    mull_matrix *head;     /* [vocab, H]; the same object as embed when tied and of its type */
    mull_lm_layer *layers; /* [layers] */
    float *norm;           /* [H] */
} mull_weights;

/* One tensor that a checkpoint of this config must have, under its published name. */
typedef struct mull_weight_spec {
    char name[80];
    int ndim;
    int64_t shape[5];
} mull_weight_spec;

/* All of them in checkpoint order, malloc'ed to *out; the caller frees. */
int mull_weights_list(const mull_config *c, mull_weight_spec **out, size_t *n, mull_error *err);
/* The published name of a tensor: newer saves say model.visual.X and model.language_model.X for visual.X and model.X.
 * Returns name itself or a pointer to buf. */
const char *mull_weights_published_name(const char *name, char *buf, size_t cap);
void mull_weights_fini(mull_weights *w, const mull_config *c);

#endif
