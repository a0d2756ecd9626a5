/* One forward pass over a case, with everything that a comparison against the reference needs. */
#ifndef MULL_ENGINE_MODEL_FORWARD_H
#define MULL_ENGINE_MODEL_FORWARD_H

#include "engine/model/forward_case.h"
#include "engine/model/model.h"

/* Named tensors, owned. */
typedef struct mull_outputs {
    mull_tensor_info *tensors;
    size_t n, cap;
} mull_outputs;

typedef struct mull_forward_opts {
    bool all;      /* also every layer of the language model and of the vision tower */
    int64_t chunk; /* rows at a time, 0: 512; the numbers do not depend on it */
} mull_forward_opts;

/* T rows, B sequences, H hidden, V vocabulary:
 *   position_ids [3,T], rope_delta [B], vision_out [units,H] (with media), inputs_embeds [T,H], hidden_final [T,H],
 *   logits_last [V] or [B,V], logsumexp [T], argmax [T], top8_ids [T,8], top8_logits [T,8],
 *   next_logprob [T-B]: log p(next id) for all but each sequence's last row.
 *   all: hidden.I [T,H]; media.K.vision.{patch_embed, block.I} [patches, E], .window_index, .cu_window_seqlens. */
int mull_forward(const mull_model *m, const mull_case *k, const mull_forward_opts *opts, mull_outputs *out,
                 mull_error *err);
/* NULL when there is no such output. */
const mull_tensor_info *mull_outputs_find(const mull_outputs *o, const char *name);
void mull_outputs_fini(mull_outputs *o);

#endif
