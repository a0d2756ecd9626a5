/* Versions of the policy: written by the trainer, taken by rollout jobs into the model that answers. A version is only
 * what is trained, in the types that products use, so it is as small as it can be without losing a bit; everything else
 * comes from the folder of the first weights. */
#ifndef MULL_ENGINE_TRAIN_ROLLOUT_POLICY_H
#define MULL_ENGINE_TRAIN_ROLLOUT_POLICY_H

#include "engine/model/model.h"
#include "engine/train/params.h"
#include "engine/train/rollout_exchange.h"

/* Writes policy-VERSION.safetensors and its SHA-256 to hex. */
int mull_policy_publish(const mull_exchange *x, const mull_params *p, int64_t version, char hex[65], mull_error *err);

typedef struct mull_policy mull_policy;

/* The model of r, without language weights until the first version is taken. r is borrowed. */
int mull_policy_open(const mull_recipe *r, int threads, mull_policy **out, mull_error *err);
void mull_policy_close(mull_policy *p);
mull_model *mull_policy_model(const mull_policy *p);
/* The model becomes this version, its tower too when that is trained. MULL_EMISSING, or MULL_EFORMAT when the file is
 * not the one that hex names: the version is gone or was written anew, and the model is as it was. Nothing may run over
 * the model meanwhile. */
int mull_policy_take(mull_policy *p, const mull_exchange *x, int64_t version, const char hex[65], mull_error *err);

#endif
