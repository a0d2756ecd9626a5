/* One loss and every gradient of it, for comparing with a reference. */
#ifndef MULL_ENGINE_TRAIN_GRAD_H
#define MULL_ENGINE_TRAIN_GRAD_H

#include "engine/model/forward.h"
#include "engine/train/grad_case.h"

typedef struct mull_grad_opts {
    mull_grad_loss loss;
    mull_ce_opts ce;
    mull_grpo_opts grpo;
    mull_net_opts net;
    mull_params_opts params;
    int threads;
    /* net.backend: where the language model computes; the tower then too */
} mull_grad_opts;

/* Runs the cases as the micro-batches of one accumulation window over the checkpoint dir. out: loss [1]; ce, stage1:
 * ce [1], token_nll [T - nseq]; stage1: cos [latent images], latent_image_embeds [.., H]; grpo: logps, kl [C]; and
 * grad.NAME of every trained tensor. Per-token outputs of several cases are concatenated. */
int mull_grad_run(const char *dir, const char *const *cases, int ncases, const mull_grad_opts *o, mull_outputs *out,
                  mull_error *err);

#endif
