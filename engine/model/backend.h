/* Where a model computes. The CPU's code (lm.c, vision.c) is the reference and runs where a model has no backend; a
 * backend is a table of the same few steps over its own weights and memory. The border lies at the level of the model
 * and not of single ops, because on a device more differs than the kernels: types of activations, one queue, uploads
 * of a whole batch at once, captured graphs. So neither path has branches for the other, and what schedules, caches,
 * samples and compares (infer/, forward.c) is shared: it holds buffers of the backend without looking into them. */
#ifndef MULL_ENGINE_MODEL_BACKEND_H
#define MULL_ENGINE_MODEL_BACKEND_H

#include "engine/model/lm.h"
#include "engine/model/model.h"
#include "engine/model/tap.h"

struct mull_backend {
    const char *name;
    /* Loads the checked tensors of file; type is one of F32, BF16, INT8. *bytes: of all weights. With vision_only there
     * is no language model, and the functions lm_.. may not be called. */
    int (*open)(const mull_config *c, const mull_safetensors *file, mull_weight_type type, bool vision_only,
                void **state, size_t *bytes, mull_error *err);
    void (*close)(void *state);
    /* The first failure of anything queued so far; waits for it. */
    int (*status)(void *state, mull_error *err);
    /* Memory for caches and features. */
    int (*alloc)(void *state, size_t bytes, const char *what_for, void **out, mull_error *err);
    void (*release)(void *state, void *p);
    int (*read)(void *state, void *dst, const void *src, size_t bytes, mull_error *err);
    size_t (*free_bytes)(void *state);
    size_t (*kv_element)(void *state); /* bytes of a key's number */
    /* As the functions of lm.h; features and pages are the backend's memory, everything else the host's. */
    int (*lm_create)(void *state, int64_t max_rows, void **lm, size_t *bytes, mull_error *err);
    void (*lm_destroy)(void *lm);
    void (*lm_run)(void *lm, const mull_lm_batch *b, const mull_tap *tap);
    void (*lm_hidden)(void *lm, const int32_t *rows, int64_t n, float *out);
    void (*lm_logits)(void *lm, const float *hidden, int64_t n, float *logits);
    void (*lm_row_logits)(void *lm, const int32_t *rows, int64_t n, float *logits);
    void (*lm_choose)(void *lm, const int32_t *rows, int64_t n, const mull_lm_choice *how, const uint64_t *banned,
                      int32_t *ids, float *logprobs);
    /* As mull_vision_encode; out is the backend's memory. */
    int (*vision)(void *state, const float *patches, const int64_t grid[3], float *out, const mull_tap *tap,
                  mull_error *err);
};

/* The CUDA backend on device 0 of the visible ones; only in builds with MULL_HAVE_CUDA. */
const mull_backend *mull_cuda_backend(void);

#endif
