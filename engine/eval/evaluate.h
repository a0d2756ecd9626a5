/* Evaluating a model on tasks: every row is answered once, whatever is killed meanwhile.
 *
 * OUT/results.json (lmms-eval's shape) and OUT/samples_TASK.jsonl appear at the end, with OUT/errors_TASK.jsonl for
 * rows that could not be asked (they count as wrong). OUT/.mull-eval/TASK holds the answers as they come, in the
 * annotation's shard format (annotate/shard.h), and spec.json: another evaluation in the same folder is refused. */
#ifndef MULL_ENGINE_EVAL_EVALUATE_H
#define MULL_ENGINE_EVAL_EVALUATE_H

#include "engine/eval/task.h"
#include "engine/eval/prompt.h"
#include "engine/job/spec.h"

typedef struct mull_eval_opts {
    const char *data, *out;
    const mull_task **tasks;
    size_t ntasks;
    int64_t limit; /* rows a task, 0: all */
    bool style_given;
    mull_prompt_opts prompt; /* style: latents with Mull tokens, else sft, unless style_given */
    bool circular, shuffle;
    mull_compat compat;
    int64_t max_new_tokens; /* 0: the task's */
    double temperature;     /* negative: the task's */
    uint64_t seed;
    int batch;                           /* 0: 16 */
    int bootstrap;                       /* rounds */
    const char *model_name, *model_path; /* as results name it; what makes it this very one */
    bool (*stopped)(void *ctx);          /* may be NULL */
    void (*progress)(void *ctx, const char *task, int64_t done, int64_t total, int64_t tokens);
    void *ctx;
} mull_eval_opts;

/* *results: what results.json holds, the caller's. MULL_ECANCELLED: stopped on request, what is done is kept. */
int mull_evaluate(const mull_eval_opts *o, mull_session *s, json_t **results, mull_error *err);

#endif
