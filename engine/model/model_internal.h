/* What a loaded model is made of; for the files of engine/model and engine/infer only. */
#ifndef MULL_ENGINE_MODEL_MODEL_INTERNAL_H
#define MULL_ENGINE_MODEL_MODEL_INTERNAL_H

#include "engine/model/backend.h"
#include "engine/model/model.h"
#include "engine/model/weights.h"

struct mull_model {
    mull_config config;
    mull_weights weights;
    mull_pool *pool;
    size_t bytes;          /* of all weights as kept */
    mull_weight_type type; /* of the language model's matrices */
    const mull_backend *backend; /* NULL: the CPU; else weights is empty and state holds them */
    void *state;
};

#endif
