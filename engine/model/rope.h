/* Cosines and sines of rotary embeddings: three-axis (M-RoPE) for the language model, two-axis for the vision tower. */
#ifndef MULL_ENGINE_MODEL_ROPE_H
#define MULL_ENGINE_MODEL_ROPE_H

#include "engine/model/config.h"

#include <stdint.h>

/* Language model. inv_freq [head_dim / 2] and the axis (0 t, 1 h, 2 w) each frequency follows. */
typedef struct mull_mrope {
    int half;
    float *inv_freq;
    uint8_t *axis;
} mull_mrope;

int mull_mrope_init(mull_mrope *r, const mull_config *c, mull_error *err);
void mull_mrope_fini(mull_mrope *r);
/* cos, sin [n, half] for n tokens; pos holds three planes, plane a at pos + a * stride. */
void mull_mrope_table(const mull_mrope *r, const int32_t *pos, int64_t n, int64_t stride, float *cos, float *sin);

/* Vision tower. cos, sin [h * w, head_dim / 2] for one grid step of h x w patches, rows in the order of the patches
 * (2x2 merged blocks row by row): head_dim/4 frequencies of the row, then as many of the column. */
void mull_vision_rope(const mull_vision_config *v, int64_t h, int64_t w, float *cos, float *sin);

#endif
