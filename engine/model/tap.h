/* A look inside a run, for comparing with a reference layer by layer. Nothing is computed for a tap that is NULL. */
#ifndef MULL_ENGINE_MODEL_TAP_H
#define MULL_ENGINE_MODEL_TAP_H

#include <stdint.h>

typedef enum mull_stage {
    MULL_STAGE_PATCH_EMBED,  /* vision, original patch order */
    MULL_STAGE_VISION_BLOCK, /* vision, after block index, original patch order */
    MULL_STAGE_EMBED,        /* inputs of the first decoder layer, media scattered in */
    MULL_STAGE_LAYER         /* after decoder layer index */
} mull_stage;

typedef struct mull_tap {
    void *ctx;
    /* x [rows, cols] dense, rows row0 and on of the medium or batch; valid during the call. */
    void (*see)(void *ctx, mull_stage stage, int index, const float *x, int64_t row0, int64_t rows, int64_t cols);
} mull_tap;

#endif
