/* Jobs of kind rollout: answering for a training run (train/rollout_work.h). Metrics, a point a shard under its number
 * in the run: rollout_tok_s, reward, length, policy_version, tokens, wait_share (of the process so far). */
#ifndef MULL_ENGINE_JOB_ROLLOUT_H
#define MULL_ENGINE_JOB_ROLLOUT_H

#include "engine/job/events.h"
#include "engine/job/spec.h"

/* *result: {"shards","completions","tokens","policies","busy_s","wait_s","load_s"}. MULL_ECANCELLED: stopped. */
int mull_rollout_job(const mull_job *job, mull_events *ev, json_t **result, mull_error *err);

#endif
