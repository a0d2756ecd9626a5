/* A model whose values live elsewhere, in arrays that change: how rollouts use the weights that are being
 * trained, with no file between. */
#ifndef MULL_ENGINE_MODEL_ADOPT_H
#define MULL_ENGINE_MODEL_ADOPT_H

#include "engine/model/model.h"

/* The values of a tensor by its published name, row-major, valid until the next call; *type is theirs. NULL:
 * no memory. */
typedef const void *(*mull_weight_source)(void *ctx, const char *name, mull_dtype *type);

/* m was loaded with vision_only. The first call makes its language model (matrices of the type that m was loaded for)
 * and packs the values, later ones pack them again in place, so that what was created over m stays valid. Nothing may
 * run over m meanwhile, and what was computed with the old values must be forgotten (mull_infer_forget). */
int mull_model_adopt(mull_model *m, mull_weight_source source, void *ctx, mull_error *err);
/* The same for the vision tower, which m has packed since it was loaded (not int8). Features that were encoded with the
 * old values must be forgotten too (mull_features_forget). */
int mull_model_adopt_tower(mull_model *m, mull_weight_source source, void *ctx, mull_error *err);

#endif
