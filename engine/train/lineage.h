/* What a run's result follows from: the resolved recipe, content digests of model, data and program, the seed, and the
 * folder that the weights came from. The run's record keeps it, so that two runs can be told apart or called the same
 * without trusting names. */
#ifndef MULL_ENGINE_TRAIN_LINEAGE_H
#define MULL_ENGINE_TRAIN_LINEAGE_H

#include "engine/data/recipe.h"

/* {"config":{…},"seed":N,"parent":PATH,"resumed":PATH or null,
 *  "hashes":{"config","model","data","data_sets":{NAME:…},"code","version"}}
 *
 * config: the resolved recipe. hashes.config leaves out where things lie and what is kept (paths, run_name, saving,
 * loader's threads): those cannot change a value. model and data as engine/core/digest.h says; data covers each dataset
 * with its weight and its split. code: SHA-256 of this executable. parent: the folder of the first weights, absolute
 * (model_path, or the checkpoint that the recipe itself resumes from). resume: the checkpoint this process goes on
 * from, may be NULL. Reads a few MiB a file. *out is the caller's. */
int mull_lineage(const mull_recipe *r, const char *resume, json_t **out, mull_error *err);

#endif
