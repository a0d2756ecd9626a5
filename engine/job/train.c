/* Jobs of kind train; see train.h. */
#include "engine/job/train.h"

#include "engine/train/session.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct train_job {
    mull_events *ev;
    int64_t total, first, tokens; /* steps of the run; step this attempt began with, -1: none yet */
    double seconds, loss;
    bool quiet; /* not rank 0 */
    int64_t step;
    char path[4096]; /* of the newest checkpoint */
    json_t *metrics; /* of the last step */
} train_job;

static void on_step(void *ctx, const mull_step *s) {
    train_job *t = ctx;
    json_t *v = mull_step_values(s);
    mull_events_loading(t->ev, false);
    mull_events_beat(t->ev);
    json_decref(t->metrics);
    t->metrics = json_copy(v);
    if (!s->grpo && isfinite(s->loss_mean)) json_object_set_new(t->metrics, "loss_mean", json_real(s->loss_mean));
    mull_events_metrics(t->ev, s->step, v);
    json_decref(v);
    if (s->skipped)
        mull_events_log(t->ev, "warning", "step %lld was skipped: its gradient is not finite", (long long)s->step);
    if (s->spike) mull_events_log(t->ev, "warning", "loss spike at step %lld: %g", (long long)s->step, s->loss);
    if (t->first < 0) t->first = s->step;
    t->step = s->step;
    t->loss = s->loss;
    t->tokens += s->tokens;
    t->seconds += s->seconds;
    double each = t->seconds / (double)(s->step - t->first + 1);
    mull_events_progress(t->ev, s->step, t->total, "steps", t->tokens, each * (double)(t->total - s->step),
                         s->step == t->total);
}

/* The path without links, so that a run that begins with this checkpoint under another name is seen to; the folder
 * itself may be gone by now. */
static json_t *real_path(const char *path) {
    const char *slash = strrchr(path, '/');
    char *above = slash ? strndup(path, (size_t)(slash - path) + 1) : NULL,
         *real = above ? realpath(above, NULL) : NULL, *whole = NULL;
    if (!real || asprintf(&whole, "%s/%s", strcmp(real, "/") ? real : "", slash + 1) < 0) whole = NULL;
    const char *text = whole ? whole : path;
    json_t *v = mull_json_text(text, strlen(text));
    free(above);
    free(real);
    free(whole);
    return v;
}

static void on_checkpoint(void *ctx, int64_t step, const char *path) {
    train_job *t = ctx;
    snprintf(t->path, sizeof t->path, "%s", path);
    mull_events_beat(t->ev);
    mull_error err = {0};
    json_t *o = mull_checkpoint_summary(path, &err);
    if (!o) { /* it is whole all the same; the queue does not know its sums */
        char line[1024];
        mull_events_log(t->ev, "warning", "%s", mull_error_line(&err, line, sizeof line));
        o = json_object();
    }
    json_object_set_new(o, "path", real_path(path));
    json_object_set_new(o, "step", json_integer((json_int_t)step));
    if (t->metrics) json_object_set(o, "metrics", t->metrics);
    mull_events_emit(t->ev, "checkpoint", o);
}

static void on_removed(void *ctx, int64_t step, const char *path) {
    train_job *t = ctx;
    mull_events_emit(t->ev, "checkpoint_removed",
                     json_pack("{s:o,s:I}", "path", real_path(path), "step", (json_int_t)step));
}

static void on_lineage(void *ctx, const json_t *run) {
    mull_events_emit(((train_job *)ctx)->ev, "run", json_deep_copy(run));
}

static bool stop(void *ctx) {
    const train_job *t = ctx;
    /* A rank that is told of no steps has loaded when it asks for the first time. */
    if (t->quiet) mull_events_loading(t->ev, false);
    mull_events_beat(t->ev);
    return mull_events_stopped(t->ev);
}

static void note(void *ctx, const char *level, const char *text) {
    mull_events_log(((train_job *)ctx)->ev, level, "%s", text);
}

static void start(void *ctx, const json_t *plan) {
    train_job *t = ctx;
    t->total = json_integer_value(json_object_get(plan, "steps"));
    mull_events_log(t->ev, "info", "training %lld of %lld parameters for %lld steps",
                    (long long)json_integer_value(json_object_get(plan, "trainable")),
                    (long long)json_integer_value(json_object_get(plan, "parameters")), (long long)t->total);
}

int mull_train_job(const mull_job *job, mull_events *ev, json_t **result, mull_error *err) {
    train_job t = {.ev = ev, .first = -1};
    size_t n = json_array_size(job->set);
    const char **sets = calloc(n + 1, sizeof *sets);
    char *model = NULL;
    if (!sets || (job->model && asprintf(&model, "model_path=%s", job->model) < 0)) {
        free(sets);
        return mull_fail(err, MULL_ENOMEM, "cannot train", "", NULL, "out of memory");
    }
    if (model) sets[0] = model;
    for (size_t i = 0; i < n; i++) sets[i + (model != NULL)] = json_string_value(json_array_get(job->set, i));
    mull_train_session_opts o = {.config = job->config,
                                 .sets = sets,
                                 .nsets = n + (model != NULL),
                                 .out = job->out,
                                 .max_steps = job->max_steps,
                                 .threads = job->threads,
                                 .resume = true};
    mull_comm_opts who;
    const mull_backend *model_backend;
    int rc = mull_comm_from_env(&who, err);
    if (!rc) rc = mull_job_backend(job, &o.backend, &model_backend, err);
    t.quiet = !rc && who.rank > 0;
    mull_train_session_hooks h = {.run = {on_step, on_checkpoint, stop, &t, on_removed},
                                  .note = note,
                                  .start = start,
                                  .lineage = t.quiet ? NULL : on_lineage};
    mull_events_loading(ev, true);
    if (!rc) rc = mull_train_session(&o, &h, err);
    mull_events_loading(ev, false);
    if (!rc && !t.quiet)
        *result = json_pack("{s:I,s:o,s:o}", "steps", (json_int_t)t.step, "loss",
                            t.first >= 0 && isfinite(t.loss) ? json_real(t.loss) : json_null(), "checkpoint",
                            mull_json_text(t.path, strlen(t.path)));
    json_decref(t.metrics);
    free(sets);
    free(model);
    return rc;
}
