/* See generate.h. */
#include "engine/job/generate.h"

#include "engine/infer/media_ref.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct ask {
    const mull_job *job;
    mull_events *ev;
    mull_session s;
    mull_infer *f;
    mull_media *media;
    const mull_media **list;
    int64_t *tokens;
    size_t nmedia;
    mull_ids ids;
    mull_error error; /* of the request */
    json_t *answer;
} ask;

static double rate(double tokens, double ms) {
    return ms > 0 ? tokens / ms * 1e3 : 0;
}

static void on_done(void *ctx, const mull_result *r) {
    ask *a = ctx;
    if (r->finish == MULL_FINISH_ERROR) {
        a->error = r->error;
        return;
    }
    if (r->finish == MULL_FINISH_CANCELLED) return;
    json_t *ids = json_array();
    for (size_t i = 0; i < r->n; i++) json_array_append_new(ids, json_integer(r->ids[i]));
    json_int_t n = (json_int_t)r->n, prompt = r->prompt_tokens;
    a->answer = json_pack(
        "{s:o, s:o, s:s, s:{s:I, s:I, s:I, s:I}, s:{s:f, s:f, s:f, s:f, s:f, s:f}}", "text",
        mull_json_text(r->text, r->text_len), "ids", ids, "finish_reason",
        r->finish == MULL_FINISH_STOP ? "stop" : "length", "usage", "prompt_tokens", prompt, "completion_tokens", n,
        "total_tokens", prompt + n, "cached_tokens", (json_int_t)r->cached_tokens, "timings", "load_ms", a->s.load_ms,
        "vision_ms", r->vision_ms, "prefill_ms", r->prefill_ms, "decode_ms", r->decode_ms, "prefill_tok_s",
        rate((double)(prompt - r->cached_tokens), r->prefill_ms), "decode_tok_s", rate((double)n - 1, r->decode_ms));
}

static void add_parts(json_t *content, const json_t *paths, const char *kind) {
    size_t i;
    json_t *p;
    json_array_foreach(paths, i, p) json_array_append_new(content, json_pack("{s:s, s:O}", "type", kind, kind, p));
}

static json_t *messages_of(const mull_job *j) {
    if (j->messages) return json_incref((json_t *)(uintptr_t)j->messages);
    json_t *content = json_array();
    add_parts(content, j->images, "image");
    add_parts(content, j->videos, "video");
    json_array_append_new(content, json_pack("{s:s, s:s}", "type", "text", "text", j->prompt));
    return json_pack("[{s:s, s:o}]", "role", "user", "content", content);
}

static int prepare(ask *a, const json_t *messages, mull_error *err) {
    mull_media_ref *refs = NULL;
    size_t n = 0;
    int rc = mull_chat_media(messages, &refs, &n, err);
    if (!rc) {
        a->media = calloc(n + 1, sizeof *a->media);
        a->list = calloc(n + 1, sizeof *a->list);
        a->tokens = calloc(n + 1, sizeof *a->tokens);
        if (!a->media || !a->list || !a->tokens)
            rc = mull_fail(err, MULL_ENOMEM, "cannot load the media", "", "", "out of memory");
    }
    for (size_t i = 0; !rc && i < n; i++) {
        rc = mull_media_ref_load(&refs[i], &a->s.limits, &a->media[i], err);
        if (rc) break;
        a->list[i] = &a->media[i];
        a->tokens[i] = a->media[i].tokens;
        a->nmedia = i + 1;
    }
    free(refs);
    if (!rc) rc = mull_chat_render(a->s.tok, messages, a->tokens, n, &a->s.render, NULL, &a->ids, err);
    return rc;
}

static int answer(ask *a, mull_error *err) {
    int64_t longest = mull_model_config(a->s.model)->max_positions,
            need = (int64_t)a->ids.len + a->s.sampling.max_new_tokens + 32;
    mull_infer_opts opts = {.max_batch = 1, .cache_tokens = need < longest ? need : longest};
    mull_infer_callbacks cb = {.ctx = a, .on_done = on_done};
    int rc = mull_infer_create(a->s.model, a->s.tok, &opts, &cb, &a->f, err);
    mull_request r = {
        .ids = a->ids.data, .n = a->ids.len, .media = a->list, .nmedia = a->nmedia, .sampling = a->s.sampling};
    if (!rc) rc = mull_infer_submit(a->f, &r, err);
    mull_events_loading(a->ev, false);
    while (!rc && mull_infer_pending(a->f) > 0) {
        if (mull_events_stopped(a->ev))
            return mull_fail(err, MULL_ECANCELLED, "stopped", "generate", "start it again", "it was asked to stop");
        mull_infer_stats st;
        int left = mull_infer_step(a->f, err);
        if (left < 0) return left;
        mull_infer_get_stats(a->f, &st);
        mull_events_progress(a->ev, 0, 1, "prompts", st.rows, -1, false);
    }
    if (!rc && a->error.code) {
        *err = a->error;
        rc = err->code;
    }
    return rc;
}

static int write_all(int fd, const char *s, size_t n) {
    while (n) {
        ssize_t w = write(fd, s, n);
        if (w < 0 && errno == EINTR) continue;
        if (w <= 0) return -1;
        s += w;
        n -= (size_t)w;
    }
    return 0;
}

/* Temporary name, fsync, rename: a reader sees the whole answer or none. */
static int write_result(const mull_job *j, const json_t *o, mull_events *ev, mull_error *err) {
    if (mkdir(j->out, 0777) && errno != EEXIST)
        return mull_fail_errno(err, errno, "cannot write the answer", j->out, "check the folder");
    char *path = mull_path_join(j->out, "result.json"), *temp = mull_path_join(j->out, ".result.json.tmp");
    char *text = json_dumps(o, JSON_COMPACT);
    int rc =
        path && temp && text ? MULL_OK : mull_fail(err, MULL_ENOMEM, "cannot write the answer", "", "", "no memory");
    int fd = rc ? -1 : open(temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (!rc &&
        (fd < 0 || write_all(fd, text, strlen(text)) || write_all(fd, "\n", 1) || fsync(fd) || rename(temp, path))) {
        rc = mull_fail_errno(err, errno, "cannot write the answer", path, "make room or check the folder");
        if (fd >= 0) unlink(temp);
    }
    if (fd >= 0) close(fd);
    if (!rc)
        mull_events_emit(
            ev, "artifact",
            json_pack("{s:o, s:I}", "path", mull_json_text(path, strlen(path)), "bytes", (json_int_t)strlen(text) + 1));
    free(path);
    free(temp);
    free(text);
    return rc;
}

int mull_generate(const mull_job *job, mull_events *ev, json_t **result, mull_error *err) {
    ask a = {.job = job, .ev = ev};
    *result = NULL;
    int rc = mull_session_open(job, &a.s, err);
    json_t *messages = rc ? NULL : messages_of(job);
    if (!rc && !messages) rc = mull_fail(err, MULL_EARG, "cannot use the job spec", "prompt", "", "it is no UTF-8");
    if (!rc) rc = prepare(&a, messages, err);
    if (!rc) rc = answer(&a, err);
    if (!rc && job->out && *job->out) rc = write_result(job, a.answer, ev, err);
    if (!rc) {
        json_int_t tokens = json_integer_value(json_object_get(json_object_get(a.answer, "usage"), "total_tokens"));
        mull_events_progress(ev, 1, 1, "prompts", tokens, 0, true);
        *result = a.answer;
        a.answer = NULL;
    }
    json_decref(a.answer);
    json_decref(messages);
    mull_infer_destroy(a.f);
    for (size_t i = 0; i < a.nmedia; i++) mull_media_fini(&a.media[i]);
    free(a.media);
    free(a.list);
    free(a.tokens);
    mull_ids_fini(&a.ids);
    mull_session_fini(&a.s);
    return rc;
}
