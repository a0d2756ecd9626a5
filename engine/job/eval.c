/* See eval.h. */
#include "engine/job/eval.h"

#include "engine/core/digest.h"
#include "engine/eval/evaluate.h"
#include "engine/infer/clock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Samples a line; with their texts cut they stay far below the limit of a line. */
enum { CHUNK = 250, TASKS_MAX = 64 };
static const char *const WHAT = "cannot evaluate";

typedef struct eval_job {
    const mull_job *job;
    mull_events *ev;
    bool first; /* of the ranks: it speaks for all, since each has the same figures */
    double begun_ms;
    json_t *tasks; /* of the result */
} eval_job;

static bool stopped(void *ctx) {
    const eval_job *e = ctx;
    mull_events_beat(e->ev);
    return mull_events_stopped(e->ev);
}

static void progress(void *ctx, int64_t done, int64_t total, int64_t fresh, int64_t tokens) {
    eval_job *e = ctx;
    double each = fresh ? (mull_clock_ms() - e->begun_ms) / 1e3 / (double)fresh : -1;
    mull_events_progress(e->ev, done, total, "rows", tokens, each < 0 ? -1 : each * (double)(total - done),
                         done == total);
}

static void task_done(void *ctx, const char *task, const json_t *summary, const json_t *samples) {
    eval_job *e = ctx;
    const json_t *value = json_object_get(summary, "value");
    json_object_set_new(e->tasks, task, json_deep_copy(summary));
    if (!e->first) return;
    for (size_t i = 0; i < json_array_size(samples); i += CHUNK) {
        json_t *some = json_array();
        for (size_t k = i; k < i + CHUNK && k < json_array_size(samples); k++)
            json_array_append(some, json_array_get(samples, k));
        mull_events_emit(e->ev, "eval", json_pack("{s:s, s:o}", "task", task, "samples", some));
    }
    mull_events_emit(e->ev, "eval",
                     json_pack("{s:s, s:I, s:O}", "task", task, "step", (json_int_t)e->job->step, "result", summary));
    if (json_is_number(value)) {
        char key[160];
        snprintf(key, sizeof key, "%.60s/%.60s", task, json_string_value(json_object_get(summary, "metric")));
        mull_events_emit(e->ev, "metric",
                         json_pack("{s:I, s:{s:O}}", "step", (json_int_t)e->job->step, "values", key, value));
    }
    mull_events_log(e->ev, "info", "%s: %s %.4g (95 %%: %.4g to %.4g), %lld rows, %lld errors", task,
                    json_string_value(json_object_get(summary, "metric")), json_number_value(value),
                    json_number_value(json_object_get(summary, "low")),
                    json_number_value(json_object_get(summary, "high")),
                    (long long)json_integer_value(json_object_get(summary, "n")),
                    (long long)json_integer_value(json_object_get(summary, "errors")));
}

static int find_tasks(const mull_job *j, const mull_task **tasks, size_t *n, mull_error *err) {
    *n = 0;
    for (size_t i = 0; i < json_array_size(j->tasks); i++) {
        const char *name = json_string_value(json_array_get(j->tasks, i));
        const mull_task *t = mull_task_find(name);
        if (!t)
            return mull_fail(err, MULL_EARG, WHAT, "tasks", "mull-engine eval --help lists them",
                             "there is no task '%.60s'", name);
        for (size_t k = 0; k < *n; k++)
            if (tasks[k] == t) t = NULL;
        if (t && *n == TASKS_MAX) return mull_fail(err, MULL_ELIMIT, WHAT, "tasks", NULL, "too many tasks");
        if (t) tasks[(*n)++] = t;
    }
    return MULL_OK;
}

/* The last part of the checkpoint's path, as results call it; with step-100/checkpoint-100 that is what tells them
 * apart. */
static const char *name_of(char *path) {
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') path[--n] = 0;
    char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

int mull_eval_job_results(const mull_job *job, mull_events *ev, double lock_wait_s, json_t **result, json_t **results,
                          mull_error *err) {
    const mull_task *tasks[TASKS_MAX];
    const char *replies = job->replies && *job->replies ? job->replies : NULL;
    char digest[65] = "", *path = replies ? strdup("replies") : realpath(job->model, NULL);
    const char *rank = getenv("MULL_RANK");
    eval_job e = {.job = job, .ev = ev, .first = !rank || !strcmp(rank, "0"), .tasks = json_object()};
    mull_eval_opts o = {.data = job->data,
                        .out = job->out,
                        .tasks = tasks,
                        .limit = job->limit,
                        .style_given = job->prompt_style != NULL,
                        .prompt = {.vsibench_options = job->vsibench_options},
                        .circular = job->circular,
                        .shuffle = job->shuffle,
                        .compat =
                            job->compat && !strcmp(job->compat, "release") ? MULL_COMPAT_RELEASE : MULL_COMPAT_OURS,
                        .max_new_tokens = job->max_new_tokens,
                        .temperature = job->temperature,
                        .seed = (uint64_t)job->seed,
                        .batch = job->max_batch,
                        .bootstrap = (int)job->bootstrap,
                        .model_digest = digest,
                        .dtype = job->dtype ? job->dtype : "auto",
                        .replies = replies,
                        .lock_wait_s = lock_wait_s,
                        .stopped = stopped,
                        .progress = progress,
                        .task_done = task_done,
                        .ctx = &e};
    mull_session s = {0};
    json_t *all = NULL;
    int rc = path ? MULL_OK : mull_fail_errno(err, errno, "cannot read the checkpoint", job->model, "check the path");
    o.model_name = path ? name_of(path) : "";
    if (!rc) rc = find_tasks(job, tasks, &o.ntasks, err);
    if (!rc && o.style_given) rc = mull_prompt_style_parse(job->prompt_style, &o.prompt.style, err);
    mull_events_loading(ev, true);
    if (!rc && !replies) rc = mull_digest_model(job->model, digest, err);
    if (!rc && !replies) rc = mull_session_open(job, &s, err);
    mull_events_loading(ev, false);
    e.begun_ms = mull_clock_ms();
    if (!rc) rc = mull_evaluate(&o, &s, &all, err);
    mull_session_fini(&s);
    if (!rc) {
        char *file = mull_path_join(job->out, "results.json");
        *result = json_pack("{s:O, s:o}", "tasks", e.tasks, "results",
                            file ? mull_json_text(file, strlen(file)) : json_null());
        free(file);
        if (results)
            *results = all;
        else
            json_decref(all);
    }
    json_decref(e.tasks);
    free(path);
    return rc;
}

int mull_eval_job(const mull_job *job, mull_events *ev, double lock_wait_s, json_t **result, mull_error *err) {
    return mull_eval_job_results(job, ev, lock_wait_s, result, NULL, err);
}
