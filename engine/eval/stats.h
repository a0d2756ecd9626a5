/* How sure a figure is: bootstrap intervals of one run, and whether two runs on the same rows differ. All draws come
 * from a fixed seed, so the same scores give the same figures. */
#ifndef MULL_ENGINE_EVAL_STATS_H
#define MULL_ENGINE_EVAL_STATS_H

#include "engine/eval/task.h"

typedef struct mull_interval {
    double estimate, stderr_, low, high; /* 95 %, percentiles; NAN where there are no rows */
} mull_interval;

/* Rows are drawn with replacement, rounds times; the task's headline is computed of each draw. */
int mull_bootstrap(const mull_task *t, const mull_tally *tally, int rounds, mull_interval *out, mull_error *err);

typedef struct mull_paired {
    size_t n;              /* rows in both */
    double a, b, diff;     /* means, b - a */
    double low, high;      /* 95 % of diff, paired bootstrap */
    size_t only_a, only_b; /* right in one run alone; 0 when a score is not 0 or 1 */
    bool exact;            /* p is McNemar's exact one; else of a sign-flip permutation test */
    double p;              /* two-sided */
} mull_paired;

/* a[n], b[n]: scores of the same rows. */
int mull_compare_paired(const double *a, const double *b, size_t n, int rounds, mull_paired *out, mull_error *err);

#endif
