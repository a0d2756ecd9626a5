/* An evaluation task: a row of a table plus a scorer. What is public (the table, scoring a reply, adding up) is what
 * the score and eval commands use; how a task is made is in task_internal.h and README.md, "Adding a task".
 * Source: method.md, section 7; with MULL_COMPAT_RELEASE the release's lmms-eval task files to the letter. */
#ifndef MULL_ENGINE_EVAL_TASK_H
#define MULL_ENGINE_EVAL_TASK_H

#include "engine/core/buf.h"
#include "engine/eval/reward.h"

#include <jansson.h>

typedef struct mull_task mull_task;

/* By name or by one of its other names; NULL when there is none. */
const mull_task *mull_task_find(const char *name);
size_t mull_task_count(void);
const mull_task *mull_task_at(size_t i);
const char *mull_task_name(const mull_task *t);

/* What a reply is worth. The metrics are the records that lmms-eval's process_results gives. */
typedef struct mull_scored {
    json_t *clean;                   /* string: the reply as it is scored */
    json_t *raw, *cleaned;           /* {metric: record} for the reply as it is and for its clean form */
    bool raw_random, cleaned_random; /* the release would have drawn a letter at random */
    json_t *category;                /* string: what the clean form's score is counted under */
    double score;                    /* of the clean form, [0, 1] */
    bool correct_known;              /* false: the release raises for this row, it is in no aggregate */
} mull_scored;

enum { MULL_SCORE_RAW = 1 }; /* flag: score the raw reply too */

/* MULL_EARG when the doc lacks a column (named in err). The caller frees out with mull_scored_fini. */
int mull_task_score(const mull_task *t, const json_t *doc, const char *reply, size_t len, mull_compat compat, int flags,
                    mull_scored *out, mull_error *err);
void mull_scored_fini(mull_scored *s);

/* Scores of many rows, and what a task makes of them. */
typedef struct mull_tally {
    struct mull_mark {
        uint32_t category;
        float weight; /* 1; a bootstrap sample's count */
        double score;
    } * marks;
    size_t n, cap;
    json_t *categories; /* names in order of appearance */
    json_t *index;      /* name -> place */
} mull_tally;

int mull_tally_add(mull_tally *t, const mull_scored *s);
int mull_tally_add_score(mull_tally *t, const char *category, double score);
void mull_tally_fini(mull_tally *t);
/* {"alias", "METRIC,none": value, …} as lmms-eval's results; NULL on no memory. */
json_t *mull_tally_results(const mull_task *t, const mull_tally *tally);
/* {category: {"score", "n"}} */
json_t *mull_tally_groups(const mull_tally *tally);
/* The task's headline figure (0 to 1, or 0 to 100 where the release's is) of these marks; NAN of none. */
double mull_tally_headline(const mull_task *t, const mull_tally *tally);

#endif
