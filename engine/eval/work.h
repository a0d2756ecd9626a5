/* One task of an evaluation under way: its rows are asked and scored. What evaluate.c and work.c share. */
#ifndef MULL_ENGINE_EVAL_WORK_H
#define MULL_ENGINE_EVAL_WORK_H

#include "engine/eval/claims.h"
#include "engine/eval/evaluate.h"
#include "engine/eval/source.h"

enum { MULL__EVAL_SLOTS = 64 };

typedef struct mull__eval_slot {
    bool used;
    int64_t row;
    mull__claim *claim;
    json_t *doc; /* without media */
    char *prompt;
    mull_ids ids;
    mull_media *media;
    const mull_media **list;
    size_t nmedia;
    double started;
} mull__eval_slot;

/* Over all tasks: rows that this process answered and their tokens. */
typedef struct mull__eval_fresh {
    int64_t rows, tokens;
} mull__eval_fresh;

typedef struct mull__eval_run {
    const mull_eval_opts *o;
    mull_session *s;
    const mull_task *task;
    mull_source *source;
    mull_prompt_opts prompt;
    int work, timings; /* OUT/.mull-eval/TASK, OUT/timings_TASK.jsonl */
    int64_t rows;
    json_t *spec;
    mull__claims claims;
    mull__eval_fresh *fresh;
    void (*tell)(void *ctx); /* after each row */
    void *ctx;
    mull_infer *f;
    mull__eval_slot slots[MULL__EVAL_SLOTS];
    int unsynced, rc;
    mull_error *err;
} mull__eval_run;

/* How the rows are asked. */
mull_sampling mull__eval_sampling(const mull__eval_run *r);
/* Answers every row that can be had now. MULL_ECANCELLED: it was asked to stop. */
int mull__eval_work(mull__eval_run *r, mull_error *err);

#endif
