/* See evaluate.h. Rows are made ready one by one while others decode; answers go into the task's shard as they come. */
#include "engine/eval/evaluate.h"

#include "engine/annotate/shard.h"
#include "engine/eval/source.h"
#include "engine/eval/stats.h"
#include "engine/eval/task_internal.h"
#include "engine/infer/clock.h"
#include "engine/infer/media_ref.h"
#include "engine/job/events.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SLOTS = 64, SYNC_ROWS = 32, LINE_MAX_BYTES = 1 << 28 };
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

typedef struct run {
    const mull_eval_opts *o;
    mull_session *s;
    const mull_task *task;
    mull_source *source;
    mull_prompt_opts prompt;
    int work; /* OUT/.mull-eval/TASK */
    int64_t rows, tokens;
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
    r->tokens += in + out;
    if (r->o->progress) r->o->progress(r->o->ctx, r->task->name, r->shard->counts.rows, r->rows, r->tokens);
}

/* A row that could not be asked or scored: kept with its reason, wrong in the results. */
static void failed(run *r, int64_t row, const mull_error *why) {
    char text[sizeof *why + 64];
    mull_error_line(why, text, sizeof text);
    append(r, row, MULL_KIND_ERROR, 0, 0,
           json_pack("{s:I, s:o}", "doc_id", (json_int_t)row, "error", mull_json_text(text, strlen(text))));
}

static json_t *sample(const slot *t, const mull_result *res, const json_t *reply, const mull_scored *sc) {
    json_t *line = json_pack("{s:I, s:O, s:s, s:O, s:O, s:f, s:O, s:s, s:I, s:I, s:f, s:[[O]], s:[O]}", "doc_id",
                             (json_int_t)t->row, "doc", t->doc, "prompt", t->prompt, "reply", reply, "clean", sc->clean,
                             "score", sc->score, "category", sc->category, "finish_reason",
                             res->finish == MULL_FINISH_STOP ? "stop" : "length", "prompt_tokens",
                             (json_int_t)res->prompt_tokens, "output_tokens", (json_int_t)res->n, "latency_ms",
                             mull_clock_ms() - t->started, "resps", reply, "filtered_resps", sc->clean);
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
    if (!rc) rc = mull_chat_render(r->s->tok, messages, tokens, n, &r->s->render, NULL, &t->ids, err);
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

/* What makes two evaluations the same work. */
static json_t *spec_of(const run *r) {
    const mull_eval_opts *o = r->o;
    mull_sampling how = sampling(r);
    return json_pack("{s:s, s:s, s:s, s:I, s:s, s:b, s:s, s:i, s:f, s:f, s:f, s:I, s:i, s:i, s:i, s:I, s:I, s:i, s:f}",
                     "task", r->task->name, "model", o->model_path ? o->model_path : o->model_name, "data",
                     mull_source_folder(r->source), "rows", (json_int_t)r->rows, "prompt_mode",
                     mull_prompt_style_name(r->prompt.style), "vsibench_options", r->prompt.vsibench_options, "compat",
                     o->compat == MULL_COMPAT_RELEASE ? "release" : "ours", "max_new_tokens", how.max_new_tokens,
                     "temperature", how.temperature, "top_p", how.top_p, "repetition_penalty", how.repetition_penalty,
                     "seed", (json_int_t)o->seed, "prompt_format", (int)r->s->render.format, "assistant_mode",
                     (int)r->s->render.mode, "latents", r->s->render.latents, "min_pixels",
                     (json_int_t)r->s->limits.min_pixels, "max_pixels", (json_int_t)r->s->limits.max_pixels, "nframes",
                     r->s->limits.nframes, "fps", r->s->limits.fps);
}

static int check_spec(run *r, mull_error *err) {
    mull_buf old = {0};
    json_t *spec = spec_of(r), *before = NULL;
    char *text = spec ? json_dumps(spec, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
    if (!text) {
        json_decref(spec);
        return mull_fail(err, MULL_ENOMEM, WHAT, r->task->name, NULL, "out of memory");
    }
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
    json_decref(spec);
    mull_buf_fini(&old);
    free(text);
    return rc;
}

/* OUT/samples_TASK.jsonl and errors_TASK.jsonl in row order. */
static int write_samples(run *r, int out, mull_error *err) {
    char good[96], bad[96], hex[65];
    mull__sink ok = {0}, no = {0};
    snprintf(good, sizeof good, "samples_%s.jsonl", r->task->name);
    snprintf(bad, sizeof bad, "errors_%s.jsonl", r->task->name);
    int rc = mull__sink_open(&ok, out, good, err);
    if (rc) return rc;
    rc = mull__sink_open(&no, out, bad, err);
    if (rc) {
        mull__sink_fini(&ok);
        return rc;
    }
    if (r->rows) rc = mull__shard_merge(r->work, 0, 0, r->rows, &ok, &no, err);
    if (!rc) rc = mull__sink_commit(&ok, hex, err);
    if (!rc) rc = mull__sink_commit(&no, hex, err);
    mull__sink_fini(&ok);
    mull__sink_fini(&no);
    return rc;
}

static int read_samples(run *r, int out, mull_tally *tally, mull_error *err) {
    char name[96], *line = NULL;
    size_t cap = 0;
    snprintf(name, sizeof name, "samples_%s.jsonl", r->task->name);
    int fd = openat(out, name, O_RDONLY | O_CLOEXEC), rc = MULL_OK;
    FILE *f = fd >= 0 ? fdopen(fd, "r") : NULL;
    if (!f) return mull_fail_errno(err, errno, WHAT, name, "check the folder");
    for (ssize_t n; !rc && (n = getline(&line, &cap, f)) > 0;) {
        json_t *o = json_loadb(line, (size_t)n, JSON_ALLOW_NUL, NULL);
        const char *category = json_string_value(json_object_get(o, "category"));
        if (!category || mull_tally_add_score(tally, category, json_number_value(json_object_get(o, "score"))))
            rc = mull_fail(err, MULL_EFORMAT, WHAT, name, "remove the folder and evaluate again",
                           "a sample cannot be read");
        json_decref(o);
    }
    free(line);
    fclose(f);
    for (int64_t i = 0; i < r->shard->counts.errors && !rc; i++)
        if (mull_tally_add_score(tally, "error", 0))
            rc = mull_fail(err, MULL_ENOMEM, WHAT, name, NULL, "out of memory");
    return rc;
}

static json_t *number(double x) {
    return isnan(x) ? json_null() : json_real(x);
}

static int sum_up(run *r, int out, json_t *results, mull_error *err) {
    mull_tally tally = {0};
    mull_interval ci;
    const char *name = r->task->name;
    char key[128];
    int rc = read_samples(r, out, &tally, err);
    if (!rc) rc = mull_bootstrap(r->task, &tally, r->o->bootstrap, &ci, err);
    if (!rc) {
        json_t *figures = mull_tally_results(r->task, &tally);
        snprintf(key, sizeof key, "%s_stderr,none", r->task->metric);
        json_object_set_new(figures, key, number(ci.stderr_));
        json_object_set_new(json_object_get(results, "results"), name, figures);
        json_object_set_new(json_object_get(results, "group_scores"), name, mull_tally_groups(&tally));
        json_object_set_new(json_object_get(results, "confidence"), name,
                            json_pack("{s:s, s:o, s:f, s:o, s:o, s:i}", "metric", r->task->metric, "estimate",
                                      number(ci.estimate), "level", 0.95, "low", number(ci.low), "high",
                                      number(ci.high), "rounds", r->o->bootstrap));
        json_object_set_new(json_object_get(results, "n-samples"), name,
                            json_pack("{s:I, s:I, s:I}", "original", (json_int_t)mull_source_count(r->source),
                                      "effective", (json_int_t)r->rows, "errors", (json_int_t)r->shard->counts.errors));
        json_object_set_new(json_object_get(results, "configs"), name, spec_of(r));
        json_object_set_new(json_object_get(results, "versions"), name, json_integer(0));
    }
    mull_tally_fini(&tally);
    return rc;
}

static int open_dir(int at, const char *name, mull_error *err) {
    if (mkdirat(at, name, 0777) && errno != EEXIST) return mull_fail_errno(err, errno, WHAT, name, "check --out");
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd >= 0 ? fd : mull_fail_errno(err, errno, WHAT, name, "check --out");
}

static int run_task(const mull_eval_opts *o, mull_session *s, mull_source *source, const mull_task *t, int out,
                    int state, json_t *results, mull_error *err) {
    run *r = calloc(1, sizeof *r);
    if (!r) return mull_fail(err, MULL_ENOMEM, WHAT, t->name, NULL, "out of memory");
    *r = (run){.o = o, .s = s, .task = t, .source = source, .prompt = o->prompt, .err = err};
    r->rows = mull_source_count(source);
    if (o->limit > 0 && o->limit < r->rows) r->rows = o->limit;
    if (!o->style_given) r->prompt.style = s->render.mode == MULL_MODE_NONE ? MULL_STYLE_SFT : MULL_STYLE_LATENTS;
    r->work = open_dir(state, t->name, err);
    int rc = r->work < 0 ? r->work : check_spec(r, err);
    if (!rc) rc = mull__shard_open(r->work, 0, 0, r->rows, &r->shard, err);
    if (!rc && r->shard->counts.rows < r->rows) rc = answer_all(r, err);
    if (!rc) rc = mull__shard_finish(r->shard, r->work, err);
    if (!rc) rc = write_samples(r, out, err);
    if (!rc) rc = sum_up(r, out, results, err);
    if (r->shard) mull__shard_close(r->shard);
    if (r->work >= 0) close(r->work);
    free(r);
    return rc;
}

static int write_results(int out, json_t *results, mull_error *err) {
    char *text = json_dumps(results, JSON_INDENT(1) | JSON_REAL_PRECISION(17));
    int rc = text ? mull__put_file(out, "results.json", text, strlen(text), err)
                  : mull_fail(err, MULL_ENOMEM, WHAT, "results.json", NULL, "out of memory");
    free(text);
    return rc;
}

int mull_evaluate(const mull_eval_opts *o, mull_session *s, json_t **results, mull_error *err) {
    mull_source **sources = calloc(o->ntasks + 1, sizeof *sources);
    int rc = sources ? MULL_OK : mull_fail(err, MULL_ENOMEM, WHAT, o->data, NULL, "out of memory"), out = -1,
        state = -1;
    *results = json_pack("{s:{}, s:{}, s:{}, s:{}, s:{}, s:{}, s:s}", "results", "group_scores", "confidence",
                         "n-samples", "configs", "versions", "model_name", o->model_name);
    if (!*results && !rc) rc = mull_fail(err, MULL_EARG, WHAT, "--model", NULL, "the name is no UTF-8");
    for (size_t i = 0; i < o->ntasks && !rc; i++) {
        rc = mull_source_open(o->tasks[i], o->data, o->ntasks == 1, &sources[i], err);
        if (!rc) rc = mull_source_arrange(sources[i], o->circular, o->shuffle, err);
    }
    if (!rc) rc = (out = open_dir(AT_FDCWD, o->out, err)) < 0 ? out : MULL_OK;
    if (!rc) rc = (state = open_dir(out, ".mull-eval", err)) < 0 ? state : MULL_OK;
    if (!rc && flock(state, LOCK_EX | LOCK_NB))
        rc = mull_fail(err, MULL_EIO, WHAT, o->out, "wait for it, or choose another --out",
                       "another evaluation runs there");
    for (size_t i = 0; i < o->ntasks && !rc; i++)
        rc = run_task(o, s, sources[i], o->tasks[i], out, state, *results, err);
    if (!rc) rc = write_results(out, *results, err);
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
