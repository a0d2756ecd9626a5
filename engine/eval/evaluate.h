/* Evaluating a model on tasks: every row is answered once, whatever is killed meanwhile.
 *
 * OUT/results.json (lmms-eval's shape) and OUT/samples_TASK.jsonl appear at the end, with OUT/errors_TASK.jsonl for
 * rows that could not be asked (they count as wrong). These are the same bytes for the same model, data and settings,
 * however often the work was interrupted; how long each row took is therefore in a file of its own,
 * OUT/timings_TASK.jsonl, in the order in which the answers came. OUT/.mull-eval/TASK holds the answers as they come,
 * in the annotation's shard format (annotate/shard.h), and spec.json: another evaluation in the same folder is
 * refused, where model and data count by content and not by path (core/digest.h).
 *
 * Any number of processes may evaluate the same into one folder at once: they share the rows (claims.h), each ends when
 * all rows are answered, and each has the same results. */
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
    int batch;                             /* 0: 16 */
    int bootstrap;                         /* rounds */
    const char *model_name, *model_digest; /* as results name it; what makes it this very one */
    const char *dtype;                     /* of the weights, as asked for */
    const char *replies;                   /* a column of the rows: its texts are scored and no model is asked */
    double lock_wait_s;                    /* for another process that writes to out */
    bool (*stopped)(void *ctx);            /* all callbacks may be NULL */
    /* Rows over all tasks, others' too; fresh: those that this process answered, tokens theirs. */
    void (*progress)(void *ctx, int64_t done, int64_t total, int64_t fresh, int64_t tokens);
    /* A task is done. summary: {"metric", "value", "stderr", "low", "high", "level", "n", "errors", "groups"};
     * samples: [{"id", "score", "category", "clean", "output_tokens"}], or {"id", "score": 0, "error"}. */
    void (*task_done)(void *ctx, const char *task, const json_t *summary, const json_t *samples);
    void *ctx;
} mull_eval_opts;

/* s may be all zero with replies. *results: what results.json holds, the caller's. MULL_ECANCELLED: stopped on request,
 * what is done is kept. */
int mull_evaluate(const mull_eval_opts *o, mull_session *s, json_t **results, mull_error *err);

#endif
