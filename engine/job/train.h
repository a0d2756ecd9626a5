/* Jobs of kind train: a recipe, its steps as metrics, its checkpoints as events. */
#ifndef MULL_ENGINE_JOB_TRAIN_H
#define MULL_ENGINE_JOB_TRAIN_H

#include "engine/job/events.h"
#include "engine/job/spec.h"

/* Goes on from the newest checkpoint of job->out, so that an attempt that was stopped or died costs the steps since
 * then. *result: {"steps","loss","checkpoint"}, the caller's. MULL_ECANCELLED: stopped on request, a checkpoint was
 * saved. Ranks but the first have no result (NULL). */
int mull_train_job(const mull_job *job, mull_events *ev, json_t **result, mull_error *err);

#endif
