/* A loaded Qwen2.5-VL checkpoint with or without Mull tokens. Opaque; config is public and read-only. */
#ifndef MULL_ENGINE_MODEL_MODEL_H
#define MULL_ENGINE_MODEL_MODEL_H

#include "engine/core/pool.h"
#include "engine/model/config.h"
#include "engine/model/safetensors.h"
#include "engine/ops/ops.h"
#include "engine/text/tokenizer.h"

typedef struct mull_model mull_model;
typedef struct mull_backend mull_backend; /* backend.h */

typedef struct mull_model_opts {
    mull_weight_type weights;    /* how matrices are kept: F32, BF16 (default of bf16 checkpoints), INT8 */
    bool weights_auto;           /* take the checkpoint's own type */
    int threads;                 /* 0: all CPUs of this process */
    bool vision_only;            /* leave the language model out: training keeps its own copy */
    const mull_backend *backend; /* NULL: the CPU */
} mull_model_opts;

/* Loads dir: config, every tensor validated (all missing, extra and mis-shaped ones named in one error). */
int mull_model_load(const char *dir, const mull_model_opts *opts, mull_model **out, mull_error *err);
/* Opens the tensors of dir and checks them against c as loading does; *out is the caller's to close. */
int mull_model_check(const char *dir, const mull_config *c, mull_safetensors **out, mull_error *err);
void mull_model_destroy(mull_model *m);
const mull_config *mull_model_config(const mull_model *m);
mull_pool *mull_model_pool(const mull_model *m);
size_t mull_model_bytes(const mull_model *m);

/* Memory where the model computes: of the host, or of its backend, which the host must not look into. */
int mull_model_buffer(const mull_model *m, size_t bytes, const char *what_for, void **out, mull_error *err);
void mull_model_buffer_free(const mull_model *m, void *p);
int mull_model_buffer_read(const mull_model *m, void *dst, const void *buffer, size_t bytes, mull_error *err);
bool mull_model_on_host(const mull_model *m);
size_t mull_model_kv_element(const mull_model *m); /* bytes of one number of the key/value cache */
size_t mull_model_free_bytes(const mull_model *m); /* of the backend's memory */
/* The first failure of the backend's work; the host's cannot fail. A failed backend computes nothing any more. */
int mull_model_status(const mull_model *m, mull_error *err);

#endif
