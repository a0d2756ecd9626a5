/* See evaluate.h. Rows are made ready one by one while others decode; answers go into the task's shard as they come. */
#include "engine/eval/evaluate.h"

#include "engine/annotate/shard.h"
#include "engine/eval/results.h"
#include "engine/eval/source.h"
#include "engine/eval/task_internal.h"
#include "engine/infer/clock.h"
#include "engine/infer/media_ref.h"
#include "engine/job/events.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { SLOTS = 64, SYNC_ROWS = 32 };
static const char *const WHAT = "cannot evaluate";

typedef struct slot {
    bool used;
    int64_t row;
    json_t *doc; /* without media */
    char *prompt;
    mull_ids ids;
    mull_media *media;
    const mull_media **list;
    size_t nmedia;
    double started;
} slot;

/* Counts over all tasks. */
typedef struct tasks_done {
    int64_t done, total, fresh, tokens;
} tasks_done;

typedef struct run {
    const mull_eval_opts *o;
    tasks_done *all;
    mull_session *s;
    const mull_task *task;
    mull_source *source;
    mull_prompt_opts prompt;
    int work, timings; /* OUT/.mull-eval/TASK, OUT/timings_TASK.jsonl */
    int64_t rows;
    json_t *spec;
    mull__shard *shard;
    mull_infer *f;
    slot slots[SLOTS];
    int unsynced, rc;
    mull_error *err;
} run;

static void slot_fini(slot *t) {
    for (size_t i = 0; i < t->nmedia; i++) mull_media_fini(&t->media[i]);
    free(t->media);
    free(t->list);
    free(t->prompt);
    mull_ids_fini(&t->ids);
    json_decref(t->doc);
    *t = (slot){0};
}

static void append(run *r, int64_t row, mull__kind kind, int64_t in, int64_t out, json_t *line) {
    mull_error err = {0};
    char *text = line ? json_dumps(line, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    int rc = text ? mull__shard_append(r->shard, row, kind, in, out, text, strlen(text), &err)
                  : mull_fail(&err, MULL_ENOMEM, WHAT, r->task->name, NULL, "out of memory");
    if (!rc && ++r->unsynced >= SYNC_ROWS) {
        rc = mull__shard_sync(r->shard, &err);
        r->unsynced = 0;
    }
    if (rc && !r->rc) {
        r->rc = rc;
        *r->err = err;
    }
    free(text);
    json_decref(line);
    r->all->done++;
    r->all->fresh++;
    r->all->tokens += in + out;
    if (r->o->progress) r->o->progress(r->o->ctx, r->all->done, r->all->total, r->all->fresh, r->all->tokens);
}

/* One write a line, so that a killed process leaves whole ones. A line that cannot be written costs no answer. */
static void note_time(const run *r, int64_t row, double ms) {
    char line[96];
    int n = snprintf(line, sizeof line, "{\"doc_id\":%lld,\"latency_ms\":%.3f}\n", (long long)row, ms);
    if (write(r->timings, line, (size_t)n) != n) return;
}

/* A row that could not be asked or scored: kept with its reason, wrong in the results. */
static void failed(run *r, int64_t row, const mull_error *why) {
    char text[sizeof *why + 64];
    mull_error_line(why, text, sizeof text);
    append(r, row, MULL_KIND_ERROR, 0, 0,
           json_pack("{s:I, s:o}", "doc_id", (json_int_t)row, "error", mull_json_text(text, strlen(text))));
}

static json_t *sample(const slot *t, const mull_result *res, const json_t *reply, const mull_scored *sc) {
    json_t *line =
        json_pack("{s:I, s:O, s:s, s:O, s:O, s:f, s:O, s:s, s:I, s:I, s:[[O]], s:[O]}", "doc_id", (json_int_t)t->row,
                  "doc", t->doc, "prompt", t->prompt, "reply", reply, "clean", sc->clean, "score", sc->score,
                  "category", sc->category, "finish_reason", res->finish == MULL_FINISH_STOP ? "stop" : "length",
                  "prompt_tokens", (json_int_t)res->prompt_tokens, "output_tokens", (json_int_t)res->n, "resps", reply,
                  "filtered_resps", sc->clean);
    if (line) json_object_update(line, sc->cleaned);
    return line;
}

static void on_done(void *ctx, const mull_result *res) {
    run *r = ctx;
    slot *t = &r->slots[res->id];
    mull_error err = {0};
    mull_scored sc = {0};
    if (res->finish == MULL_FINISH_ERROR)
        failed(r, t->row, &res->error);
    else if (res->finish != MULL_FINISH_CANCELLED) {
        json_t *reply = mull_json_text(res->text, res->text_len);
        if (mull_task_score(r->task, t->doc, json_string_value(reply), json_string_length(reply), r->o->compat, 0, &sc,
                            &err))
            failed(r, t->row, &err);
        else {
            if (!sc.category) sc.category = json_string("unknown");
            append(r, t->row, MULL_KIND_OK, res->prompt_tokens, (int64_t)res->n, sample(t, res, reply, &sc));
            note_time(r, t->row, mull_clock_ms() - t->started);
        }
        mull_scored_fini(&sc);
        json_decref(reply);
    }
    slot_fini(t);
}

static int load_media(run *r, slot *t, const json_t *messages, mull_error *err) {
    mull_media_ref *refs = NULL;
    size_t n = 0;
    int rc = mull_chat_media(messages, &refs, &n, err);
    int64_t *tokens = rc ? NULL : calloc(n + 1, sizeof *tokens);
    if (!rc) {
        t->media = calloc(n + 1, sizeof *t->media);
        t->list = calloc(n + 1, sizeof *t->list);
        if (!t->media || !t->list || !tokens) rc = mull_fail(err, MULL_ENOMEM, WHAT, "media", NULL, "out of memory");
    }
    for (size_t i = 0; i < n && !rc; i++) {
        rc = mull_media_ref_load(&refs[i], &r->s->limits, &t->media[i], err);
        if (rc) break;
        t->nmedia++;
        t->list[i] = &t->media[i];
        tokens[i] = t->media[i].tokens;
    }
    free(refs);
    mull_render_opts how = r->s->render;
    how.old_evaluation = true;
    if (!rc) rc = mull_chat_render(r->s->tok, messages, tokens, n, &how, NULL, &t->ids, err);
    free(tokens);
    return rc;
}

/* Media first, then the question: as the release's chat models send them. */
static int prepare(run *r, slot *t, mull_error *err) {
    json_t *doc = NULL, *parts = NULL, *messages = NULL;
    mull_buf text = {0};
    t->started = mull_clock_ms();
    int rc = mull_source_get(r->source, t->row, &doc, err);
    if (!rc) rc = mull_source_media(r->source, doc, &parts, err);
    if (!rc) rc = mull_task_prompt(r->task, doc, &r->prompt, &text, err);
    if (!rc) {
        t->doc = mull_source_bare(r->source, doc);
        t->prompt = strdup(text.data ? text.data : "");
        json_array_append_new(parts, json_pack("{s:s, s:s}", "type", "text", "text", t->prompt ? t->prompt : ""));
        messages = json_pack("[{s:s, s:O}]", "role", "user", "content", parts);
        rc = t->doc && t->prompt && messages ? load_media(r, t, messages, err)
                                             : mull_fail(err, MULL_ENOMEM, WHAT, r->task->name, NULL, "out of memory");
    }
    mull_buf_fini(&text);
    json_decref(messages);
    json_decref(parts);
    json_decref(doc);
    return rc;
}

static mull_sampling sampling(const run *r) {
    mull_sampling how = r->s->sampling;
    how.max_new_tokens = (int)(r->o->max_new_tokens > 0 ? r->o->max_new_tokens : r->task->max_new_tokens);
    how.temperature = r->o->temperature >= 0 ? r->o->temperature : r->task->temperature;
    how.top_p = how.temperature > 0 ? r->task->top_p : 1;
    how.top_k = 0;
    return how;
}

/* Puts the next unanswered row into a free slot; its error becomes a record. */
static void submit(run *r, int64_t row) {
    size_t i = 0;
    mull_error err = {0};
    while (r->slots[i].used) i++;
    slot *t = &r->slots[i];
    t->used = true;
    t->row = row;
    int rc = prepare(r, t, &err);
    if (!rc) {
        mull_request q = {.id = i,
                          .ids = t->ids.data,
                          .n = t->ids.len,
                          .media = t->list,
                          .nmedia = t->nmedia,
                          .sampling = sampling(r)};
        q.sampling.seed =
            r->o->seed * UINT64_C(0x9e3779b97f4a7c15) + (uint64_t)row; /* a row's own, whatever the batch */
        rc = mull_infer_submit(r->f, &q, &err);
    }
    if (rc) {
        failed(r, row, &err);
        slot_fini(t);
    }
}

static int answer_all(run *r, mull_error *err) {
    int batch = r->o->batch > 0 ? r->o->batch < SLOTS ? r->o->batch : SLOTS : 16, rc = MULL_OK;
    mull_infer_opts opts = {.max_batch = batch};
    mull_infer_callbacks cb = {.ctx = r, .on_done = on_done};
    rc = mull_infer_create(r->s->model, r->s->tok, &opts, &cb, &r->f, err);
    for (int64_t next = 0; !rc && !r->rc;) {
        if (r->o->stopped && r->o->stopped(r->o->ctx)) {
            rc = mull_fail(err, MULL_ECANCELLED, "stopped", "eval", "start it again to go on", "it was asked to stop");
            break;
        }
        while (next < r->rows && mull__shard_has(r->shard, next)) next++;
        if (next < r->rows && mull_infer_pending(r->f) < batch) {
            submit(r, next++);
            continue;
        }
        if (!mull_infer_pending(r->f)) break;
        int left = mull_infer_step(r->f, err);
        if (left < 0) rc = left;
    }
    mull_infer_destroy(r->f);
    for (int i = 0; i < SLOTS; i++) slot_fini(&r->slots[i]);
    if (!rc) rc = r->rc;
    mull_error more = {0};
    int synced = mull__shard_sync(r->shard, rc ? &more : err);
    return rc ? rc : synced;
}

/* What makes two evaluations the same work: content, settings, no path. A new reference, or NULL with err. */
static json_t *spec_of(const run *r, mull_error *err) {
    const mull_eval_opts *o = r->o;
    mull_sampling how = sampling(r);
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

static int run_task(const mull_eval_opts *o, mull_session *s, mull_source *source, const mull_task *t, int out,
                    int state, tasks_done *all, json_t *results, mull_error *err) {
    run *r = calloc(1, sizeof *r);
    if (!r) return mull_fail(err, MULL_ENOMEM, WHAT, t->name, NULL, "out of memory");
    *r = (run){.o = o, .all = all, .s = s, .task = t, .source = source, .prompt = o->prompt, .timings = -1, .err = err};
    r->rows = rows_of(o, source);
    if (!o->style_given) r->prompt.style = s->render.mode == MULL_MODE_NONE ? MULL_STYLE_SFT : MULL_STYLE_LATENTS;
    r->work = open_dir(state, t->name, err);
    int rc = r->work < 0 ? r->work : open_timings(r, out, err);
    if (!rc && !(r->spec = spec_of(r, err))) rc = err->code;
    if (!rc) rc = check_spec(r, err);
    if (!rc) rc = mull__shard_open(r->work, 0, 0, r->rows, &r->shard, err);
    if (!rc) all->done += r->shard->counts.rows;
    if (!rc && r->shard->counts.rows < r->rows) rc = answer_all(r, err);
    if (!rc) rc = mull__shard_finish(r->shard, r->work, err);
    if (!rc) {
        mull__eval_task done = {.o = o,
                                .task = t,
                                .rows = r->rows,
                                .of = mull_source_count(source),
                                .errors = r->shard->counts.errors,
                                .spec = r->spec};
        rc = mull__eval_sum_up(&done, r->work, out, results, err);
    }
    if (r->shard) mull__shard_close(r->shard);
    if (r->work >= 0) close(r->work);
    if (r->timings >= 0) close(r->timings);
    json_decref(r->spec);
    free(r);
    return rc;
}

/* Of two attempts the later waits for the earlier to die. */
static int take_lock(const mull_eval_opts *o, int dir, mull_error *err) {
    double start = mull_clock_ms();
    while (flock(dir, LOCK_EX | LOCK_NB)) {
        if (errno != EWOULDBLOCK && errno != EINTR) return mull_fail_errno(err, errno, WHAT, o->out, "check --out");
        if (o->stopped && o->stopped(o->ctx))
            return mull_fail(err, MULL_ECANCELLED, "stopped", "eval", "start it again to go on",
                             "it was asked to stop");
        if (mull_clock_ms() - start > o->lock_wait_s * 1e3)
            return mull_fail(err, MULL_EIO, WHAT, o->out, "wait for it, or choose another --out",
                             "another evaluation runs there");
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    }
    return MULL_OK;
}

int mull_evaluate(const mull_eval_opts *o, mull_session *s, json_t **results, mull_error *err) {
    mull_source **sources = calloc(o->ntasks + 1, sizeof *sources);
    int rc = sources ? MULL_OK : mull_fail(err, MULL_ENOMEM, WHAT, o->data, NULL, "out of memory"), out = -1,
        state = -1;
    tasks_done all = {0};
    *results = json_pack("{s:{}, s:{}, s:{}, s:{}, s:{}, s:{}, s:s}", "results", "group_scores", "confidence",
                         "n-samples", "configs", "versions", "model_name", o->model_name);
    if (!*results && !rc) rc = mull_fail(err, MULL_EARG, WHAT, "--model", NULL, "the name is no UTF-8");
    for (size_t i = 0; i < o->ntasks && !rc; i++) {
        rc = mull_source_open(o->tasks[i], o->data, o->ntasks == 1, &sources[i], err);
        if (!rc) rc = mull_source_arrange(sources[i], o->circular, o->shuffle, err);
        if (!rc) all.total += rows_of(o, sources[i]);
    }
    if (!rc) rc = mull__make_folders(o->out, WHAT, err);
    if (!rc) rc = (out = open_dir(AT_FDCWD, o->out, err)) < 0 ? out : MULL_OK;
    if (!rc) rc = (state = open_dir(out, ".mull-eval", err)) < 0 ? state : MULL_OK;
    if (!rc) rc = take_lock(o, state, err);
    for (size_t i = 0; i < o->ntasks && !rc; i++)
        rc = run_task(o, s, sources[i], o->tasks[i], out, state, &all, *results, err);
    if (!rc) rc = mull__eval_write(out, *results, err);
    for (size_t i = 0; sources && i < o->ntasks; i++) mull_source_close(sources[i]);
    free(sources);
    if (state >= 0) close(state);
    if (out >= 0) close(out);
    if (rc) {
        json_decref(*results);
        *results = NULL;
    }
    return rc;
}
