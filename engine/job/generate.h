/* Jobs of kind generate: one prompt, one answer. */
#ifndef MULL_ENGINE_JOB_GENERATE_H
#define MULL_ENGINE_JOB_GENERATE_H

#include "engine/job/events.h"
#include "engine/job/spec.h"

/* *result: {"text","ids","finish_reason","usage","timings"}, the caller's; with job->out also OUT/result.json, whole or
 * not at all. MULL_ECANCELLED: stopped on request. */
int mull_generate(const mull_job *job, mull_events *ev, json_t **result, mull_error *err);

#endif
