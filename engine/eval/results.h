/* From answered rows to figures: the files of an evaluation's folder that people read. */
#ifndef MULL_ENGINE_EVAL_RESULTS_H
#define MULL_ENGINE_EVAL_RESULTS_H

#include "engine/eval/claims.h"
#include "engine/eval/evaluate.h"

/* A task whose rows are all answered. */
typedef struct mull__eval_task {
    const mull_eval_opts *o;
    const mull_task *task;
    int64_t rows, of; /* evaluated; in the dataset */
    const json_t *spec;
    mull__claims *claims;
} mull__eval_task;

/* Writes OUT/samples_TASK.jsonl and errors_TASK.jsonl, adds the task to results and calls task_done. out: an open
 * folder. MULL_EFORMAT: rows have to be answered again, see mull__claims_merge. */
int mull__eval_sum_up(const mull__eval_task *t, int out, json_t *results, mull_error *err);
/* OUT/results.json, whole or not at all. */
int mull__eval_write(int out, const json_t *results, mull_error *err);

#endif
