/* Positions of the language model (M-RoPE): every token has a time, a height and a width index.
 * Text counts all three up together; the tokens of a medium take offsets on its grid from where the text stood,
 * and text resumes after the largest index used on any axis. Nothing is remembered between calls: the positions and
 * the delta of a sequence depend on that sequence alone. Source: Qwen2-VL, section 2.1; Qwen2.5-VL, section 2.1.2. */
#ifndef MULL_ENGINE_MODEL_POSITIONS_H
#define MULL_ENGINE_MODEL_POSITIONS_H

#include "engine/model/config.h"

#include <stddef.h>
#include <stdint.h>

/* One medium of a sequence. The grid is in patches, before the 2x2 merge. */
typedef struct mull_grid {
    bool video;
    int64_t t, h, w;
    float second_per_grid; /* video: seconds from one grid step to the next */
} mull_grid;

/* Placeholder tokens of a medium: t * (h / merge) * (w / merge). */
int64_t mull_grid_tokens(const mull_config *c, const mull_grid *g);
/* The time index of grid step i of a video, in float32 and in this order as the reference computes it: a product that
 * is almost whole truncates otherwise in double. */
int32_t mull_grid_time(int64_t i, float second_per_grid, float tokens_per_second);

/* Checks one medium's grid against the model: positive, whole merged units, no overflow. MULL_EARG otherwise. */
int mull_grid_check(const mull_config *c, const mull_grid *g, size_t index, mull_error *err);

/* Positions of one sequence of n ids with its media in order of appearance. pos: three planes (t, h, w) of n values,
 * plane a at pos + a * stride (stride >= n). delta = largest position + 1 - n: token k of the cache stands at
 * k + delta once the prompt is over. first, when not NULL, receives nmedia indices of each medium's first placeholder.
 * MULL_EARG when placeholders and media do not match one to one. */
int mull_positions(const mull_config *c, const int32_t *ids, size_t n, const mull_grid *media, size_t nmedia,
                   int32_t *pos, size_t stride, int64_t *delta, size_t *first, mull_error *err);

#endif
