/* Training cases: a case file (model/forward_case.h) with what a loss needs beside the ids, as one batch.
 *   ce, stage1: labels [T] i64, -100 ignored, not shifted;
 *   stage1:     reasoning_pixel_values [n, patch] f32, reasoning_grid_thw [k, 3] i64 (absent: no reasoning images);
 *   grpo:       input_ids is the prompt; completion_ids [C] i64 flat, cu_completions [G+1] i64, advantages [G] f32,
 *               ref_logps [C] f32 (absent: no KL), old_logps [C] f32 (absent: the current ones). */
#ifndef MULL_ENGINE_TRAIN_GRAD_CASE_H
#define MULL_ENGINE_TRAIN_GRAD_CASE_H

#include "engine/model/forward_case.h"
#include "engine/train/loss.h"

typedef enum mull_grad_loss { MULL_GRAD_CE, MULL_GRAD_STAGE1, MULL_GRAD_GRPO } mull_grad_loss;

typedef struct mull_grad_case {
    mull_case k;
    mull_batch batch;     /* its arrays are the case's or those below */
    mull_grpo_batch grpo; /* grpo only */
    int64_t completion_tokens, counted_tokens;
    int32_t *ids, *labels, *cu, *prompt, *counted; /* owned */
    mull_grid *media, *latent;
    const float **patches, **latent_patches;
    size_t *media_cu, *latent_cu;
} mull_grad_case;

int mull_grad_case_open(const char *path, const mull_config *c, mull_grad_loss loss, mull_grad_case *out,
                        mull_error *err);
void mull_grad_case_fini(mull_grad_case *g);

#endif
