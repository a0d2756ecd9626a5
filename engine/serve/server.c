/* The HTTP side of `serve`: routes, keys, parsing on libuv's pool, answers whole or as server-sent events. */
#include "engine/serve/serve_internal.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

enum { MAX_BODY = 64 << 20 };

void mull__notes_add(mull__notes *q, mull__note *n) {
    n->next = NULL;
    *(q->first ? &q->last->next : &q->first) = n;
    q->last = n;
}

void mull__note_free(mull__note *n) {
    if (!n) return;
    free(n->text);
    free(n->err);
    free(n);
}

/* ---- calls */

static void call_free(mull__call *c) {
    mull__server *s = c->server;
    if (c->prev)
        c->prev->next = c->next;
    else
        s->calls = c->next;
    if (c->next) c->next->prev = c->prev;
    s->ncalls--;
    pthread_mutex_lock(&s->lock);
    s->calls_now = s->ncalls;
    /* A late cancel must not meet another call in its place. */
    mull__notes kept = {0};
    for (mull__note *n = s->inbox.first, *next; n; n = next) {
        next = n->next;
        if (n->call == c)
            mull__note_free(n);
        else
            mull__notes_add(&kept, n);
    }
    s->inbox = kept;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    mull__ask_fini(&c->ask);
    free(c);
}

static void reply_error(mull__call *c) {
    if (c->req) mull_reply_json(c->req, c->ask.status, mull__ask_error(&c->ask));
    c->req = NULL;
}

static bool tell_engine(mull__call *c, mull__note_kind kind) {
    mull__server *s = c->server;
    mull__note *n = calloc(1, sizeof *n);
    if (!n) return false;
    n->kind = kind;
    n->call = c;
    pthread_mutex_lock(&s->lock);
    mull__notes_add(&s->inbox, n);
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    return true;
}

/* Nobody waits any more: the engine may stop. The call lives until it says so. */
static void forsake(mull__call *c) {
    if (c->gone) return;
    c->gone = true;
    if (c->sent) tell_engine(c, MULL_NOTE_CANCEL); /* without memory it runs to its end, which does no harm */
}

static void on_close(mull_stream *stream, void *arg) {
    (void)stream;
    mull__call *c = arg;
    c->out = NULL;
    if (c->ask.left > 0)
        forsake(c);
    else
        call_free(c);
}

static void on_idle(mull_stream *stream, void *arg) {
    (void)stream, (void)arg; /* text comes when the engine has some */
}

static void put(mull__call *c, mull_buf *b) {
    if (c->out && b->len) mull_stream_write(c->out, b->data, b->len);
    mull_buf_fini(b);
}

/* ---- preparing */

static void work(uv_work_t *w) {
    mull__call *c = w->data;
    size_t len;
    const char *body = mull_req_body(c->req, &len);
    if (!mull__ask_parse(&c->server->rules, body, len, &c->ask)) mull__ask_prepare(&c->server->rules, &c->ask);
}

static void begin_stream(mull__call *c) {
    mull_req *req = c->req;
    mull_buf b = {0};
    c->req = NULL;
    c->out = mull_reply_stream(req, "text/event-stream", on_idle, on_close, c);
    for (int i = 0; i < c->ask.row.choices; i++) mull__ask_chunk_begin(&c->ask, c->server->model, i, &b);
    put(c, &b);
}

static void on_prepared(uv_work_t *w, int status) {
    (void)status;
    mull__call *c = w->data;
    if (c->ask.status || c->gone) {
        if (!c->ask.status) c->ask.status = 499; /* goes nowhere */
        reply_error(c);
        call_free(c);
        return;
    }
    c->sent = tell_engine(c, MULL_NOTE_SUBMIT);
    if (c->sent) return;
    mull_fail(&c->ask.err, MULL_ENOMEM, "cannot take the request", "", "try again", "out of memory");
    c->ask.status = 503;
    c->ask.code = "out_of_memory";
    reply_error(c);
    call_free(c);
}

static void complete(mull__server *s, mull_req *req) {
    mull__call *c = s->ncalls < s->most ? calloc(1, sizeof *c) : NULL;
    pthread_mutex_lock(&s->lock);
    bool draining = s->draining;
    s->stats.requests++;
    s->stats.refused += !c;
    pthread_mutex_unlock(&s->lock);
    if (!c || draining) {
        free(c);
        if (draining)
            mull_reply_json(req, 503, mull__serve_error(503, "unavailable", "the server is stopping", NULL));
        else
            mull_reply_json(req, 429,
                            mull__serve_error(429, "queue_full", "too many requests wait already; try again", NULL));
        return;
    }
    *c = (mull__call){.server = s, .req = req, .next = s->calls, .slot = -1};
    if (s->calls) s->calls->prev = c;
    s->calls = c;
    s->ncalls++;
    pthread_mutex_lock(&s->lock);
    s->calls_now = s->ncalls;
    pthread_mutex_unlock(&s->lock);
    c->ask.created = (int64_t)time(NULL);
    snprintf(c->ask.id, sizeof c->ask.id, "chatcmpl-%08llx%012llx", (unsigned long long)s->created & 0xffffffff,
             (unsigned long long)s->stats.requests);
    *(mull__call **)mull_req_user(req) = c;
    c->work.data = c;
    uv_queue_work(&s->loop, &c->work, work, on_prepared);
}

/* ---- answers */

static void fail_call(mull__call *c, const mull_error *why) {
    if (c->ask.status) return;
    c->ask.err = *why;
    c->ask.status = why->code == MULL_ELIMIT || why->code == MULL_EARG ? 400 : 500;
    c->ask.code = why->code == MULL_ELIMIT ? "context_length_exceeded"
                  : why->code == MULL_EARG ? "invalid_request"
                                           : "internal_error";
}

static void finish(mull__call *c) {
    const char *model = c->server->model;
    mull_buf b = {0};
    if (c->ask.row.choices && c->ask.streamed && c->req && !c->ask.status) begin_stream(c);
    if (c->out) {
        if (c->ask.status)
            mull__ask_chunk_error(&c->ask, &b);
        else
            mull__ask_chunk_done(&c->ask, model, &b);
        put(c, &b);
        mull_stream_end(c->out); /* on_close lets go of the call */
    } else if (!c->req) {
        call_free(c);
    } else {
        if (c->ask.status)
            reply_error(c);
        else
            mull_reply_json(c->req, 200, mull__ask_answer(&c->ask, model));
        c->req = NULL;
        call_free(c);
    }
}

static void on_note(mull__note *n) {
    mull__call *c = n->call;
    mull_buf b = {0};
    /* Only now, with a first word, is a stream begun: what was refused before it has a status of its own. */
    if (c->ask.streamed && c->req && !n->err) begin_stream(c);
    if (n->kind == MULL_NOTE_TEXT) {
        if (c->out) mull__ask_chunk_text(&c->ask, c->server->model, n->choice, n->text, n->len, &b);
        put(c, &b);
        return;
    }
    mull__choice *choice = &c->ask.choices[n->choice];
    *choice = (mull__choice){n->text, n->len, n->finish, n->tokens};
    n->text = NULL;
    c->ask.prompt_tokens = n->prompt_tokens;
    if (n->err) fail_call(c, n->err);
    if (c->out && !n->err) mull__ask_chunk_end(&c->ask, c->server->model, n->choice, &b);
    put(c, &b);
    if (--c->ask.left == 0) finish(c);
}

static void on_wake(uv_async_t *a) {
    mull__server *s = a->data;
    pthread_mutex_lock(&s->lock);
    mull__note *n = s->outbox.first;
    s->outbox = (mull__notes){0};
    bool closing = s->closing;
    pthread_mutex_unlock(&s->lock);
    for (mull__note *next; n; n = next) {
        next = n->next;
        on_note(n);
        mull__note_free(n);
    }
    if (!closing || s->closed) return;
    s->closed = true;
    mull_http_close(s->http);
    uv_close((uv_handle_t *)a, NULL);
}

/* ---- routes */

/* Compares all of both, whatever differs, so that time tells nothing. */
static bool same_secret(const char *a, const char *b) {
    size_t n = strlen(a), m = strlen(b);
    unsigned diff = n != m;
    for (size_t i = 0; i < n; i++) diff |= (unsigned char)(a[i] ^ b[m ? i % m : 0]);
    return diff == 0;
}

static bool allowed(const mull__server *s, mull_req *req) {
    if (!s->nkeys) return true;
    const char *h = mull_req_header(req, "Authorization");
    bool yes = false;
    if (h && !strncasecmp(h, "Bearer ", 7))
        for (size_t i = 0; i < s->nkeys; i++) yes |= same_secret(s->keys[i], h + 7);
    return yes;
}

static json_t *model_json(const mull__server *s) {
    return json_pack("{s:s, s:s, s:I, s:s}", "id", s->model, "object", "model", "created", (json_int_t)s->created,
                     "owned_by", "mull");
}

typedef struct ask_of_request {
    mull__call *call;
    char path[300];
    bool post;
} ask_of_request;

static void handle(mull_req *req, void *arg) {
    mull__server *s = arg;
    const ask_of_request *r = mull_req_user(req);
    bool chat = !strcmp(r->path, "/v1/chat/completions"), models = !strcmp(r->path, "/v1/models"),
         one = !strncmp(r->path, "/v1/models/", 11);
    if (!strcmp(r->path, "/healthz") && !r->post)
        mull_reply_json(req, 200, json_pack("{s:s}", "status", "ok"));
    else if (!allowed(s, req))
        mull_reply_json(req, 401, mull__serve_error(401, "invalid_api_key", "send Authorization: Bearer KEY", NULL));
    else if (!chat && !models && !one)
        mull_reply_json(req, 404, mull__serve_error(404, "not_found", "there is no such path here", NULL));
    else if (chat != r->post)
        mull_reply_json(req, 405, mull__serve_error(405, "method_not_allowed", "this path has no such method", NULL));
    else if (chat)
        complete(s, req);
    else if (models)
        mull_reply_json(req, 200, json_pack("{s:s, s:[o]}", "object", "list", "data", model_json(s)));
    else if (!strcmp(r->path + 11, s->model))
        mull_reply_json(req, 200, model_json(s));
    else
        mull_reply_json(req, 404, mull__serve_error(404, "model_not_found", "this model is not served here", "model"));
}

static void begin(mull_req *req, const char *method, const char *path, void *arg) {
    (void)arg;
    ask_of_request *r = mull_req_user(req);
    snprintf(r->path, sizeof r->path, "%s", strlen(path) < sizeof r->path ? path : "/too-long");
    r->post = !strcmp(method, "POST");
    if (!r->post && strcmp(method, "GET") != 0) strcpy(r->path, "/no-such-method");
}

/* The request is over, or its peer is gone before its answer. */
static void hangup(mull_req *req, void *arg) {
    (void)arg;
    mull__call *c = ((ask_of_request *)mull_req_user(req))->call;
    if (c) forsake(c);
}

static json_t *error_json(int status, const char *code, const char *message) {
    return mull__serve_error(status, code, message, NULL);
}

static void *run(void *arg) {
    mull__server *s = arg;
    uv_run(&s->loop, UV_RUN_DEFAULT);
    return NULL;
}

int mull__server_start(mull__server *s, mull_error *err) {
    const char *why;
    if (uv_loop_init(&s->loop) || uv_async_init(&s->loop, &s->wake, on_wake))
        return mull_fail(err, MULL_EIO, "cannot serve", s->listen.url, "", "the system refused an event loop");
    s->wake.data = s;
    s->http = mull_http_create(&(mull_http_config){.loop = &s->loop,
                                                   .handler = handle,
                                                   .arg = s,
                                                   .max_body = MAX_BODY,
                                                   .user_size = sizeof(ask_of_request),
                                                   .begin = begin,
                                                   .hangup = hangup,
                                                   .error_json = error_json});
    if (!s->http) return mull_fail(err, MULL_ENOMEM, "cannot serve", s->listen.url, "", "out of memory");
    int fd = s->listen.fd;
    s->listen.fd = -1;
    if (mull_http_listen(s->http, fd, s->listen.is_unix, NULL, &why))
        return mull_fail(err, MULL_EIO, "cannot serve", s->listen.url, "", "%s", why);
    sigset_t all, old; /* the signals are the main thread's; libuv's pool inherits the mask */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    s->started = pthread_create(&s->thread, NULL, run, s) == 0;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return s->started ? MULL_OK
                      : mull_fail(err, MULL_EIO, "cannot serve", s->listen.url, "", "the system refused a thread");
}

void mull__server_stop(mull__server *s) {
    if (!s->started) return;
    pthread_mutex_lock(&s->lock);
    s->closing = true;
    pthread_mutex_unlock(&s->lock);
    uv_async_send(&s->wake);
    pthread_join(s->thread, NULL);
    while (s->calls) {
        /* Its reply goes nowhere: the connection is closed. It is owed all the same, and frees the request. */
        if (s->calls->req)
            mull_reply_json(s->calls->req, 503, mull__serve_error(503, "unavailable", "the server stops", NULL));
        call_free(s->calls);
    }
    mull_http_destroy(s->http);
    uv_loop_close(&s->loop);
    s->started = false;
}
