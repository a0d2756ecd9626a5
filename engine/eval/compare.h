/* Two evaluations of the same rows, side by side: the library behind `mull compare --eval A B`. */
#ifndef MULL_ENGINE_EVAL_COMPARE_H
#define MULL_ENGINE_EVAL_COMPARE_H

#include "engine/core/error.h"

#include <jansson.h>

/* a, b: folders that an evaluation wrote. *out: {"tasks": {TASK: {"n", "a", "b", "diff", "low", "high", "only_a",
 * "only_b", "test", "p", "only_in_a", "only_in_b"}}}, rows paired by doc_id; rows that failed count as 0. Tasks that
 * only one folder has are left out and named in "missing". MULL_EMISSING when no task is in both. */
int mull_compare_evals(const char *a, const char *b, int rounds, json_t **out, mull_error *err);

#endif
