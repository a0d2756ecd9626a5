/* The window permutation of the vision tower: which merged unit (2x2 patches) comes where so that the units of one
 * attention window are neighbours. All grid steps (frame pairs) of a medium share it. */
#ifndef MULL_ENGINE_MODEL_VISION_WINDOWS_H
#define MULL_ENGINE_MODEL_VISION_WINDOWS_H

#include "engine/model/config.h"

#include <stdint.h>

typedef struct mull_windows {
    int32_t *order; /* [units]: order[i] is the unit, in row-major order of units, that stands at i */
    int32_t *cu;    /* [n + 1]: borders of the windows in patches */
    int64_t units;  /* (h / merge) * (w / merge) */
    int n;          /* windows; empty ones do not exist */
} mull_windows;

/* For one grid step of h x w patches (multiples of the merge). */
int mull_windows_init(mull_windows *o, const mull_vision_config *v, int64_t h, int64_t w, mull_error *err);
void mull_windows_fini(mull_windows *o);

#endif
