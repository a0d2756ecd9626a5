/* Jobs of kind eval: a model on evaluation tasks, their figures as metrics and records. */
#ifndef MULL_ENGINE_JOB_EVAL_H
#define MULL_ENGINE_JOB_EVAL_H

#include "engine/job/events.h"
#include "engine/job/spec.h"

/* Goes on where an earlier attempt in job->out was. Events: progress in rows; for each task that is done an eval line
 * with its figures, eval lines with its samples, and a metric TASK/METRIC at job->step. When another process works in
 * job->out it waits lock_wait_s seconds. *result: {"tasks": {TASK: figures}, "results": path of results.json}, the
 * caller's. results (may be NULL): also what results.json holds. MULL_ECANCELLED: stopped on request, what is done is
 * kept. */
int mull_eval_job_results(const mull_job *job, mull_events *ev, double lock_wait_s, json_t **result, json_t **results,
                          mull_error *err);
int mull_eval_job(const mull_job *job, mull_events *ev, double lock_wait_s, json_t **result, mull_error *err);

#endif
