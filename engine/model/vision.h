/* The vision tower: patches of one medium to features of the language model's width. */
#ifndef MULL_ENGINE_MODEL_VISION_H
#define MULL_ENGINE_MODEL_VISION_H

#include "engine/model/model.h"
#include "engine/model/tap.h"

/* patches [t*h*w, in_chans * temporal_patch * patch^2] in the processor's order (2x2 merged blocks row by row); grid is
 * {t, h, w} in patches. out [t*h*w / merge^2, hidden] in the original order, owned by the caller
 * (mull_model_buffer). Attention never
 * crosses a grid step, so memory grows with the largest step and not with the length of a video, and a feature does
 * not depend on the other steps. tap may be NULL. */
int mull_vision_encode(const mull_model *m, const float *patches, const int64_t grid[3], float *out,
                       const mull_tap *tap, mull_error *err);
/* Floats per patch row. */
int64_t mull_vision_patch_floats(const mull_vision_config *v);

#endif
