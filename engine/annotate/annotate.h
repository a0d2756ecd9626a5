/* Annotating a file of prompts: every row is answered once, whatever is killed meanwhile, and the merged output is the
 * same bytes as an undisturbed run's.
 *
 * Any number of processes may work in one OUT: each claims shards that are not done, and the last one writes the
 * outputs. Which of them answers a row changes no byte.
 *
 * OUT/output.jsonl and OUT/errors.jsonl appear at the end, in input order, both always there. OUT/.mull holds the
 * state: `lock`; `manifest.json` (digests of input, spec and model: another of them is refused); `plan` (where each
 * shard begins in the input) and `twice` (rows whose custom_id came before), made by the validation that reads the
 * whole input first; a file of answers and a marker for each shard (shard.h); `complete.json` at the end, when the
 * shards are removed. Order of writing: plan, manifest, shards, outputs, complete.json; each step can be repeated. */
#ifndef MULL_ENGINE_ANNOTATE_ANNOTATE_H
#define MULL_ENGINE_ANNOTATE_ANNOTATE_H

#include "engine/job/events.h"
#include "engine/job/spec.h"

/* Runs job to its end. *result: {"rows","ok","errors","prompt_tokens","output_tokens",...}, the caller's. When
 * another process prepares the work in OUT it waits lock_wait_s seconds. MULL_ECANCELLED: stopped on request, what is
 * done is kept. */
int mull_annotate(const mull_job *job, mull_events *ev, double lock_wait_s, json_t **result, mull_error *err);

#endif
