/* What the losses share. */
#ifndef MULL_ENGINE_TRAIN_LOSS_INTERNAL_H
#define MULL_ENGINE_TRAIN_LOSS_INTERNAL_H

#include "engine/train/loss.h"

int mull__loss_reserve(mull_loss_work *w, int64_t n, mull_error *err);

#endif
