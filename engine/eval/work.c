/* See work.h. Rows are made ready one by one while others decode; answers go into their shard as they come. */
#include "engine/eval/work.h"

#include "engine/eval/task_internal.h"
#include "engine/infer/clock.h"
#include "engine/infer/media_ref.h"
#include "engine/job/events.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SYNC_ROWS = 32 };
static const char *const WHAT = "cannot evaluate";
typedef mull__eval_run run;
typedef mull__eval_slot slot;

static void slot_fini(slot *t) {
    for (size_t i = 0; i < t->nmedia; i++) mull_media_fini(&t->media[i]);
    free(t->media);
    free(t->list);
    free(t->prompt);
    mull_ids_fini(&t->ids);
    json_decref(t->doc);
    *t = (slot){0};
}

static void append(run *r, const slot *t, mull__kind kind, int64_t in, int64_t out, json_t *line) {
    mull_error err = {0};
    char *text = line ? json_dumps(line, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    int rc = text ? mull__shard_append(t->claim->shard, t->row, kind, in, out, text, strlen(text), &err)
                  : mull_fail(&err, MULL_ENOMEM, WHAT, r->task->name, NULL, "out of memory");
    if (!rc) rc = mull__claims_answered(&r->claims, t->claim, &err);
    if (!rc && ++r->unsynced >= SYNC_ROWS) {
        rc = mull__claims_sync(&r->claims, &err);
        r->unsynced = 0;
    }
    if (rc && !r->rc) {
        r->rc = rc;
        *r->err = err;
    }
    free(text);
    json_decref(line);
    r->fresh->rows++;
    r->fresh->tokens += in + out;
    r->tell(r->ctx);
}

/* One write a line, so that a killed process leaves whole ones. A line that cannot be written costs no answer. */
static void note_time(const run *r, int64_t row, double ms) {
    char line[96];
    int n = snprintf(line, sizeof line, "{\"doc_id\":%lld,\"latency_ms\":%.3f}\n", (long long)row, ms);
    if (write(r->timings, line, (size_t)n) != n) return;
}

/* A row that could not be asked or scored: kept with its reason, wrong in the results. */
static void failed(run *r, const slot *t, const mull_error *why) {
    char text[sizeof *why + 64];
    mull_error_line(why, text, sizeof text);
    append(r, t, MULL_KIND_ERROR, 0, 0,
           json_pack("{s:I, s:o}", "doc_id", (json_int_t)t->row, "error", mull_json_text(text, strlen(text))));
}

static json_t *sample(const slot *t, const json_t *reply, const mull_scored *sc, const char *finish, int64_t in,
                      int64_t out) {
    json_t *line =
        json_pack("{s:I, s:O, s:s, s:O, s:O, s:f, s:O, s:s, s:I, s:I, s:[[O]], s:[O]}", "doc_id", (json_int_t)t->row,
                  "doc", t->doc, "prompt", t->prompt, "reply", reply, "clean", sc->clean, "score", sc->score,
                  "category", sc->category, "finish_reason", finish, "prompt_tokens", (json_int_t)in, "output_tokens",
                  (json_int_t)out, "resps", reply, "filtered_resps", sc->clean);
    if (line) json_object_update(line, sc->cleaned);
    return line;
}

/* in, out: tokens of prompt and reply */
static void score(run *r, const slot *t, const json_t *reply, const char *finish, int64_t in, int64_t out) {
    mull_error err = {0};
    mull_scored sc = {0};
    if (mull_task_score(r->task, t->doc, json_string_value(reply), json_string_length(reply), r->o->compat, 0, &sc,
                        &err))
        failed(r, t, &err);
    else {
        if (!sc.category) sc.category = json_string("unknown");
        append(r, t, MULL_KIND_OK, in, out, sample(t, reply, &sc, finish, in, out));
    }
    mull_scored_fini(&sc);
}

static void on_done(void *ctx, const mull_result *res) {
    run *r = ctx;
    slot *t = &r->slots[res->id];
    if (res->finish == MULL_FINISH_ERROR)
        failed(r, t, &res->error);
    else if (res->finish != MULL_FINISH_CANCELLED) {
        json_t *reply = mull_json_text(res->text, res->text_len);
        score(r, t, reply, res->finish == MULL_FINISH_STOP ? "stop" : "length", res->prompt_tokens, (int64_t)res->n);
        note_time(r, t->row, mull_clock_ms() - t->started);
        json_decref(reply);
    }
    slot_fini(t);
}

/* A reply that the row itself has: no model is asked. */
static void take_given(run *r, int64_t row, mull__claim *claim) {
    slot t = {.row = row, .claim = claim};
    mull_buf text = {0};
    mull_error err = {0};
    json_t *doc = NULL;
    int rc = mull_source_get(r->source, row, &doc, &err);
    const json_t *reply = json_object_get(doc, r->o->replies);
    if (!rc && !json_is_string(reply))
        rc = mull_fail(&err, MULL_EFORMAT, WHAT, r->o->replies, "give the column with the replies (--replies)",
                       "the column is missing or no text");
    if (!rc) {
        mull_error none = {0}; /* what was asked is not known; this is what would be */
        if (mull_task_prompt(r->task, doc, &r->prompt, &text, &none)) text.len = 0;
        t.doc = mull_source_bare(r->source, doc);
        t.prompt = strdup(text.len ? text.data : "");
        if (t.doc) json_object_del(t.doc, r->o->replies);
        rc = t.doc && t.prompt ? MULL_OK : mull_fail(&err, MULL_ENOMEM, WHAT, r->task->name, NULL, "out of memory");
    }
    if (rc)
        failed(r, &t, &err);
    else
        score(r, &t, reply, "given", 0, 0);
    slot_fini(&t);
    mull_buf_fini(&text);
    json_decref(doc);
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
        if (r->task->system)
            json_array_insert_new(messages, 0, json_pack("{s:s, s:s}", "role", "system", "content", r->task->system));
        rc = t->doc && t->prompt && messages ? load_media(r, t, messages, err)
                                             : mull_fail(err, MULL_ENOMEM, WHAT, r->task->name, NULL, "out of memory");
    }
    mull_buf_fini(&text);
    json_decref(messages);
    json_decref(parts);
    json_decref(doc);
    return rc;
}

mull_sampling mull__eval_sampling(const run *r) {
    mull_sampling how = r->s->sampling;
    how.max_new_tokens = (int)(r->o->max_new_tokens > 0 ? r->o->max_new_tokens : r->task->max_new_tokens);
    how.temperature = r->o->temperature >= 0 ? r->o->temperature : r->task->temperature;
    how.top_p = how.temperature > 0 ? r->task->top_p : 1;
    how.top_k = 0;
    return how;
}

/* Puts the next unanswered row into a free slot; its error becomes a record. */
static void submit(run *r, int64_t row, mull__claim *claim) {
    size_t i = 0;
    mull_error err = {0};
    while (r->slots[i].used) i++;
    slot *t = &r->slots[i];
    t->used = true;
    t->row = row;
    t->claim = claim;
    int rc = prepare(r, t, &err);
    if (!rc) {
        mull_request q = {.id = i,
                          .ids = t->ids.data,
                          .n = t->ids.len,
                          .media = t->list,
                          .nmedia = t->nmedia,
                          .sampling = mull__eval_sampling(r)};
        q.sampling.seed =
            r->o->seed * UINT64_C(0x9e3779b97f4a7c15) + (uint64_t)row; /* a row's own, whatever the batch */
        rc = mull_infer_submit(r->f, &q, &err);
    }
    if (rc) {
        failed(r, t, &err);
        slot_fini(t);
    }
}

static int stopped(const run *r, mull_error *err) {
    if (!r->o->stopped || !r->o->stopped(r->o->ctx)) return MULL_OK;
    return mull_fail(err, MULL_ECANCELLED, "stopped", "eval", "start it again to go on", "it was asked to stop");
}

static int work_given(run *r, int64_t row, mull__claim *claim, mull_error *err) {
    int rc = MULL_OK;
    while (claim && !rc && !r->rc && !(rc = stopped(r, err))) {
        take_given(r, row, claim);
        rc = mull__claims_next(&r->claims, &row, &claim, err);
    }
    if (!rc) rc = r->rc;
    return rc ? rc : mull__claims_sync(&r->claims, err);
}

int mull__eval_work(run *r, mull_error *err) {
    int batch = r->o->batch > 0 ? r->o->batch < MULL__EVAL_SLOTS ? r->o->batch : MULL__EVAL_SLOTS : 16;
    mull_infer_opts opts = {.max_batch = batch};
    mull_infer_callbacks cb = {.ctx = r, .on_done = on_done};
    mull__claim *claim = NULL;
    int64_t row = 0;
    r->err = err;
    int rc = mull__claims_next(&r->claims, &row, &claim, err);
    if (rc || !claim) return rc;
    if (r->o->replies) return work_given(r, row, claim, err);
    rc = mull_infer_create(r->s->model, r->s->tok, &opts, &cb, &r->f, err);
    while (!rc && !r->rc && !(rc = stopped(r, err))) {
        if (claim && mull_infer_pending(r->f) < batch) {
            submit(r, row, claim);
            claim = NULL;
            rc = mull__claims_next(&r->claims, &row, &claim, err);
            continue;
        }
        if (!mull_infer_pending(r->f)) break;
        int left = mull_infer_step(r->f, err);
        if (left < 0) rc = left;
    }
    mull_infer_destroy(r->f);
    r->f = NULL;
    for (int i = 0; i < MULL__EVAL_SLOTS; i++) slot_fini(&r->slots[i]);
    if (!rc) rc = r->rc;
    mull_error more = {0};
    int synced = mull__claims_sync(&r->claims, rc ? &more : err);
    return rc ? rc : synced;
}
