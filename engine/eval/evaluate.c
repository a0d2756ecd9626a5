/* See evaluate.h: the folder, what may go on in it, and the order of the steps. */
#include "engine/eval/evaluate.h"

#include "engine/eval/results.h"
#include "engine/eval/task_internal.h"
#include "engine/eval/work.h"
#include "engine/infer/clock.h"
#include "engine/job/events.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const char *const WHAT = "cannot evaluate";
typedef mull__eval_run run;

/* What makes two evaluations the same work: content, settings, no path. A new reference, or NULL with err. */
static json_t *spec_of(const run *r, mull_error *err) {
    const mull_eval_opts *o = r->o;
    mull_sampling how = mull__eval_sampling(r);
    char data[65];
    if (mull_source_digest(r->source, data, err)) return NULL;
    json_t *spec = json_pack(
        "{s:s, s:s, s:s, s:s, s:I, s:s, s:b, s:b, s:b, s:s, s:i, s:f, s:f, s:f, s:I, s:i, s:i, s:i, s:I, s:I, s:i, "
        "s:f}",
        "task", r->task->name, "model_sha256", o->model_digest, "dtype", o->dtype, "data_sha256", data, "rows",
        (json_int_t)r->rows, "prompt_mode", mull_prompt_style_name(r->prompt.style), "vsibench_options",
        r->prompt.vsibench_options, "circular", o->circular, "shuffle", o->shuffle, "compat",
        o->compat == MULL_COMPAT_RELEASE ? "release" : "ours", "max_new_tokens", how.max_new_tokens, "temperature",
        how.temperature, "top_p", how.top_p, "repetition_penalty", how.repetition_penalty, "seed", (json_int_t)o->seed,
        "prompt_format", (int)r->s->render.format, "assistant_mode", (int)r->s->render.mode, "latents",
        r->s->render.latents, "min_pixels", (json_int_t)r->s->limits.min_pixels, "max_pixels",
        (json_int_t)r->s->limits.max_pixels, "nframes", r->s->limits.nframes, "fps", r->s->limits.fps);
    if (!spec) mull_fail(err, MULL_ENOMEM, WHAT, r->task->name, NULL, "out of memory");
    if (spec && o->replies) json_object_set_new(spec, "replies", mull_json_text(o->replies, strlen(o->replies)));
    return spec;
}

static int check_spec(run *r, mull_error *err) {
    mull_buf old = {0};
    const json_t *spec = r->spec;
    json_t *before = NULL;
    char *text = json_dumps(spec, JSON_COMPACT | JSON_SORT_KEYS | JSON_REAL_PRECISION(17));
    if (!text) return mull_fail(err, MULL_ENOMEM, WHAT, r->task->name, NULL, "out of memory");
    int rc = mull__get_file(r->work, "spec.json", 1 << 20, &old, err);
    if (rc == MULL_EMISSING)
        rc = mull__put_file(r->work, "spec.json", text, strlen(text), err);
    else if (!rc) {
        before = json_loadb(old.data ? old.data : "", old.len, 0, NULL);
        if (!json_equal(before, spec))
            rc = mull_fail(err, MULL_EARG, "cannot go on with an evaluation", r->task->name,
                           "choose another --out, or remove the folder", "another one lies there: %.800s",
                           old.data ? old.data : "");
    }
    json_decref(before);
    mull_buf_fini(&old);
    free(text);
    return rc;
}

static int open_dir(int at, const char *name, mull_error *err) {
    if (mkdirat(at, name, 0777) && errno != EEXIST) return mull_fail_errno(err, errno, WHAT, name, "check --out");
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd >= 0 ? fd : mull_fail_errno(err, errno, WHAT, name, "check --out");
}

static int64_t rows_of(const mull_eval_opts *o, const mull_source *source) {
    int64_t n = mull_source_count(source);
    return o->limit > 0 && o->limit < n ? o->limit : n;
}

static int open_timings(run *r, int out, mull_error *err) {
    char name[96];
    snprintf(name, sizeof name, "timings_%s.jsonl", r->task->name);
    r->timings = openat(out, name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    return r->timings < 0 ? mull_fail_errno(err, errno, WHAT, name, "check --out") : MULL_OK;
}

/* With the folder's lock held: two processes write no spec at once. */
static int open_task(run *r, int out, int state, mull_error *err) {
    if (!r->o->style_given) r->prompt.style = r->s->render.mode == MULL_MODE_NONE ? MULL_STYLE_SFT : MULL_STYLE_LATENTS;
    r->work = open_dir(state, r->task->name, err);
    int rc = r->work < 0 ? r->work : open_timings(r, out, err);
    if (!rc && !(r->spec = spec_of(r, err))) rc = err->code;
    if (!rc) rc = check_spec(r, err);
    if (!rc) rc = mull__claims_init(&r->claims, r->work, r->rows, err);
    return rc;
}

static void close_task(run *r) {
    mull__claims_fini(&r->claims);
    if (r->work >= 0) close(r->work);
    if (r->timings >= 0) close(r->timings);
    mull_source_close(r->source);
    json_decref(r->spec);
}

typedef struct evaluation {
    const mull_eval_opts *o;
    run *tasks;
    int out, state;
    mull__eval_fresh fresh;
} evaluation;

static void tell(void *ctx) {
    const evaluation *e = ctx;
    int64_t done = 0, total = 0;
    for (size_t i = 0; i < e->o->ntasks; i++) {
        done += e->tasks[i].claims.done;
        total += e->tasks[i].rows;
    }
    if (e->o->progress) e->o->progress(e->o->ctx, done, total, e->fresh.rows, e->fresh.tokens);
}

static int pause_or_stop(const evaluation *e, mull_error *err) {
    if (e->o->stopped && e->o->stopped(e->o->ctx))
        return mull_fail(err, MULL_ECANCELLED, "stopped", "eval", "start it again to go on", "it was asked to stop");
    nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    return MULL_OK;
}

/* Held for moments only: while specs are compared, and while results are written. */
static int take_lock(const evaluation *e, double wait_s, mull_error *err) {
    double start = mull_clock_ms();
    int rc = MULL_OK;
    while (!rc && flock(e->state, LOCK_EX | LOCK_NB)) {
        if (errno != EWOULDBLOCK && errno != EINTR) return mull_fail_errno(err, errno, WHAT, e->o->out, "check --out");
        if (mull_clock_ms() - start > wait_s * 1e3)
            return mull_fail(err, MULL_EIO, WHAT, e->o->out, "wait for it, or choose another --out",
                             "another process does not let go of it");
        rc = pause_or_stop(e, err);
    }
    return rc;
}

static int open_all(evaluation *e, mull_session *s, mull_error *err) {
    const mull_eval_opts *o = e->o;
    int rc = MULL_OK;
    for (size_t i = 0; i < o->ntasks; i++)
        e->tasks[i] = (run){.o = o,
                            .s = s,
                            .task = o->tasks[i],
                            .prompt = o->prompt,
                            .work = -1,
                            .timings = -1,
                            .fresh = &e->fresh,
                            .tell = tell,
                            .ctx = e};
    for (size_t i = 0; i < o->ntasks && !rc; i++) {
        run *r = &e->tasks[i];
        rc = mull_source_open(r->task, o->data, o->ntasks == 1, &r->source, err);
        if (!rc) rc = mull_source_arrange(r->source, o->circular, o->shuffle, err);
        if (!rc) r->rows = rows_of(o, r->source);
    }
    if (!rc) rc = mull__make_folders(o->out, WHAT, err);
    if (!rc) rc = (e->out = open_dir(AT_FDCWD, o->out, err)) < 0 ? e->out : MULL_OK;
    if (!rc) rc = (e->state = open_dir(e->out, ".mull-eval", err)) < 0 ? e->state : MULL_OK;
    if (!rc) rc = take_lock(e, o->lock_wait_s, err);
    for (size_t i = 0; i < o->ntasks && !rc; i++) rc = open_task(&e->tasks[i], e->out, e->state, err);
    if (!rc) flock(e->state, LOCK_UN);
    return rc;
}

/* Until every row of every task is answered, by this process or by others. */
static int work_all(evaluation *e, mull_error *err) {
    const size_t n = e->o->ntasks;
    int rc = MULL_OK;
    for (bool complete = false; !rc && !complete;) {
        for (size_t i = 0; i < n && !rc; i++) rc = mull__eval_work(&e->tasks[i], err);
        complete = true;
        for (size_t i = 0; i < n && !rc; i++) {
            rc = mull__claims_look(&e->tasks[i].claims, err);
            complete = complete && mull__claims_complete(&e->tasks[i].claims);
        }
        tell(e);
        if (!rc && !complete) rc = pause_or_stop(e, err); /* others are at the last rows, or die and leave them */
    }
    return rc;
}

/* Every process does it: the bytes are the same, and whoever is last has said nothing new. */
static int write_all(evaluation *e, json_t **results, mull_error *err) {
    int rc = take_lock(e, e->o->lock_wait_s, err);
    *results = json_pack("{s:{}, s:{}, s:{}, s:{}, s:{}, s:{}, s:s}", "results", "group_scores", "confidence",
                         "n-samples", "configs", "versions", "model_name", e->o->model_name);
    if (!rc && !*results) rc = mull_fail(err, MULL_EARG, WHAT, "--model", NULL, "the name is no UTF-8");
    for (size_t i = 0; i < e->o->ntasks && !rc; i++) {
        run *r = &e->tasks[i];
        mull__eval_task done = {.o = e->o,
                                .task = r->task,
                                .rows = r->rows,
                                .of = mull_source_count(r->source),
                                .spec = r->spec,
                                .claims = &r->claims};
        rc = mull__eval_sum_up(&done, e->out, *results, err);
    }
    if (!rc) rc = mull__eval_write(e->out, *results, err);
    flock(e->state, LOCK_UN);
    if (rc) {
        json_decref(*results);
        *results = NULL;
    }
    return rc;
}

int mull_evaluate(const mull_eval_opts *o, mull_session *s, json_t **results, mull_error *err) {
    enum { REDO = 3 }; /* a shard that cannot be read is answered again, but not for ever */
    evaluation e = {.o = o, .tasks = calloc(o->ntasks + 1, sizeof *e.tasks), .out = -1, .state = -1};
    *results = NULL;
    int rc = e.tasks ? open_all(&e, s, err) : mull_fail(err, MULL_ENOMEM, WHAT, o->data, NULL, "out of memory");
    for (int i = 0; !rc && !*results; i++) {
        rc = work_all(&e, err);
        if (!rc) rc = write_all(&e, results, err);
        if (rc == MULL_EFORMAT && i < REDO) rc = MULL_OK;
    }
    for (size_t i = 0; e.tasks && i < o->ntasks; i++) close_task(&e.tasks[i]);
    free(e.tasks);
    if (e.state >= 0) close(e.state);
    if (e.out >= 0) close(e.out);
    return rc;
}
