/* Inside the CUDA backend: a model's weights on the device. Everything lies in one allocation, planned before anything
 * is read: the loader walks the tensors twice, first to count. */
#ifndef MULL_ENGINE_MODEL_CUDA_MODEL_H
#define MULL_ENGINE_MODEL_CUDA_MODEL_H

#include "engine/core/cuda_arena.h"
#include "engine/model/backend.h"
#include "engine/model/vision_windows.h"
#include "engine/ops/cuda_ops.h"

typedef struct mull_cuda_block {
    float *norm1, *norm2; /* float32, as all norms */
    mull_cuda_matrix qkv, proj, gate_up, down;
    void *qkv_bias, *gate_up_bias; /* T: of products that write T */
    float *proj_bias, *down_bias;  /* float32: of products that add to the residual */
} mull_cuda_block;

typedef struct mull_cuda_layer {
    float *input_norm, *post_norm;
    mull_cuda_matrix qkv, o, gate_up, down;
    void *qkv_bias; /* T */
} mull_cuda_layer;

typedef struct mull_cuda_model {
    mull_cuda *c;
    const mull_config *config;
    bool vision_only;
    mull_weight_type type;
    mull_dtype t; /* T: type of activations, cache and unquantised weights */
    char *all;    /* the allocation */
    size_t bytes;
    mull_cuda_matrix embed, head; /* head: the same memory when tied and of its type */
    float *norm, *inv_freq;       /* [hidden], [head_dim / 2] */
    uint8_t *axis;                /* [head_dim / 2] */
    mull_cuda_layer *layers;
    mull_cuda_matrix patch_embed, merge0, merge2;
    mull_cuda_block *blocks;
    float *ln_q, *merge2_bias;
    void *merge0_bias;             /* T */
    struct mull_cuda_tower *tower; /* cuda_vision.c: working memory, kept between media */
} mull_cuda_model;

/* The backend's functions that have files of their own. */
int mull__cuda_lm_create(void *state, int64_t max_rows, void **lm, size_t *bytes, mull_error *err);
void mull__cuda_lm_destroy(void *lm);
void mull__cuda_lm_run(void *lm, const mull_lm_batch *b, const mull_tap *tap);
void mull__cuda_lm_hidden(void *lm, const int32_t *rows, int64_t n, float *out);
void mull__cuda_lm_logits(void *lm, const float *hidden, int64_t n, float *logits);
void mull__cuda_lm_row_logits(void *lm, const int32_t *rows, int64_t n, float *logits);
void mull__cuda_lm_choose(void *lm, const int32_t *rows, int64_t n, const mull_lm_choice *how, const uint64_t *banned,
                          int32_t *ids, float *logprobs);
int mull__cuda_vision(void *state, const float *patches, const int64_t grid[3], float *out, const mull_tap *tap,
                      mull_error *err);
void mull__cuda_tower_destroy(mull_cuda_model *m);
/* For a tower that is trained too (train/cuda_tower.c). The segments of attention in this many grid steps of step_rows
 * patches, one a window, or with full one a step: how many, and to seqs (NULL: counted only). */
int mull__cuda_vision_segments(const mull_windows *o, int64_t step_rows, int64_t steps, bool full, mull_cuda_seq *seqs);
/* Rotary tables of a step of h x w patches in window order, to each of so many steps behind cos and sin (device, [steps
 * * h * w, head_dim / 2]), and the order of units to order (device, [units]). False without memory. */
bool mull__cuda_vision_tables(mull_cuda *c, const mull_vision_config *v, const mull_windows *o, int64_t h, int64_t w,
                              int64_t steps, float *cos, float *sin, int32_t *order);
/* For taps: x [rows, cols] from the device through host memory. */
void mull__cuda_show(mull_cuda_model *m, const mull_tap *tap, mull_stage stage, int index, const float *x, int64_t row0,
                     int64_t rows, int64_t cols);

#endif
