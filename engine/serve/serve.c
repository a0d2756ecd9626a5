/* The engine's side of `serve`: requests from the inbox join the batch, text and ends go into the outbox. */
#include "engine/serve/serve_internal.h"

#include "engine/core/rng.h"
#include "engine/infer/clock.h"

#include <errno.h>
#include <libgen.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 32, QUEUE = 256, CHOICE_BITS = 8, IDLE_MS = 500 };
static const double GRACE_MS = 5000, METRICS_MS = 30000;

typedef struct engine {
    mull__server *s;
    mull_events *ev;
    mull_infer *f;
    mull__call **slots; /* [s->most] */
    int nslots;
    mull__notes out; /* collected during a step */
    uint64_t count;  /* requests without a seed */
    double told_ms;
    bool lost; /* no memory for a note: its call would wait for ever */
} engine;

static mull__note *note(engine *e, mull__note_kind kind, mull__call *c, int choice) {
    mull__note *n = calloc(1, sizeof *n);
    if (!n) {
        e->lost = true;
        return NULL;
    }
    *n = (mull__note){.kind = kind, .call = c, .choice = choice};
    mull__notes_add(&e->out, n);
    return n;
}

static bool keep_text(engine *e, mull__note *n, const char *text, size_t len) {
    n->text = malloc(len + 1);
    if (!n->text) return e->lost = true, false;
    memcpy(n->text, text, len);
    n->text[len] = 0;
    n->len = len;
    return true;
}

static void on_text(void *ctx, uint64_t id, const char *piece, size_t len) {
    engine *e = ctx;
    mull__call *c = e->slots[id >> CHOICE_BITS];
    if (!c->ask.streamed) return;
    mull__note *n = note(e, MULL_NOTE_TEXT, c, (int)(id & ((1 << CHOICE_BITS) - 1)));
    if (n) keep_text(e, n, piece, len);
}

static void end_choice(engine *e, mull__call *c, int choice, const mull_error *why) {
    mull__note *n = note(e, MULL_NOTE_END, c, choice);
    if (n && why && (n->err = malloc(sizeof *n->err))) *n->err = *why;
}

static void on_done(void *ctx, const mull_result *r) {
    engine *e = ctx;
    size_t slot = (size_t)(r->id >> CHOICE_BITS);
    mull__call *c = e->slots[slot];
    int choice = (int)(r->id & ((1 << CHOICE_BITS) - 1));
    mull__note *n = note(e, MULL_NOTE_END, c, choice);
    if (!n) return;
    keep_text(e, n, r->text, r->text_len);
    n->finish = r->finish;
    n->tokens = (int64_t)r->n;
    n->prompt_tokens = r->prompt_tokens;
    pthread_mutex_lock(&e->s->lock);
    e->s->stats.output_tokens += (int64_t)r->n;
    if (choice == 0) e->s->stats.prompt_tokens += r->prompt_tokens;
    pthread_mutex_unlock(&e->s->lock);
    if (r->finish == MULL_FINISH_ERROR || r->finish == MULL_FINISH_CANCELLED) {
        mull_error stopped = {0};
        if (r->finish == MULL_FINISH_CANCELLED)
            mull_fail(&stopped, MULL_ECANCELLED, "stopped", "request", "", "it was cancelled");
        if ((n->err = malloc(sizeof *n->err)))
            *n->err = r->finish == MULL_FINISH_ERROR ? r->error : stopped;
        else
            e->lost = true;
    }
    /* The last of its choices frees the slot. */
    if (--c->slot == 0) {
        e->slots[slot] = NULL;
        e->nslots--;
    }
}

/* While the engine has it, call->slot counts the choices under way. */
static void submit(engine *e, mull__call *c) {
    size_t slot = 0;
    mull_error err = {0};
    while (e->slots[slot]) slot++;
    const mull_row *row = &c->ask.row;
    uint64_t seed = row->sampling.seed;
    if (!row->seeded) {
        uint32_t r[4];
        mull_philox(e->s->rules.sampling.seed, e->count++, 0x7365727665, r);
        seed = (uint64_t)r[0] << 32 | r[1];
    }
    int i = 0;
    c->slot = 0;
    for (; i < row->choices; i++) {
        mull_request r = {.id = (uint64_t)slot << CHOICE_BITS | (uint64_t)i,
                          .ids = c->ask.ids.data,
                          .n = c->ask.ids.len,
                          .media = c->ask.list,
                          .nmedia = c->ask.nmedia,
                          .sampling = row->sampling};
        r.sampling.seed = seed + (uint64_t)i * 0x9e3779b97f4a7c15u; /* as in an annotation */
        if (mull_infer_submit(e->f, &r, &err)) break;
        if (c->slot++ == 0) {
            e->slots[slot] = c;
            e->nslots++;
        }
    }
    for (; i < row->choices; i++) end_choice(e, c, i, &err); /* what was not taken has ended already */
}

static void cancel(engine *e, const mull__call *c) {
    for (int slot = 0; slot < e->s->most; slot++)
        for (int i = 0; e->slots[slot] == c && i < c->ask.row.choices; i++)
            mull_infer_cancel(e->f, (uint64_t)slot << CHOICE_BITS | (uint64_t)i);
}

/* What came in; waits a little when there is nothing to do. */
static void take_in(engine *e) {
    mull__server *s = e->s;
    struct timespec t;
    pthread_mutex_lock(&s->lock);
    if (!s->inbox.first && e->nslots == 0) {
        clock_gettime(CLOCK_REALTIME, &t);
        t.tv_nsec += IDLE_MS * 1000000l;
        t.tv_sec += t.tv_nsec / 1000000000;
        t.tv_nsec %= 1000000000;
        pthread_cond_timedwait(&s->changed, &s->lock, &t);
    }
    mull__note *n = s->inbox.first;
    s->inbox = (mull__notes){0};
    pthread_mutex_unlock(&s->lock);
    for (mull__note *next; n; n = next) {
        next = n->next;
        if (n->kind == MULL_NOTE_SUBMIT)
            submit(e, n->call);
        else
            cancel(e, n->call);
        mull__note_free(n);
    }
}

static void send_out(engine *e) {
    mull__server *s = e->s;
    if (!e->out.first) return;
    pthread_mutex_lock(&s->lock);
    if (s->outbox.first)
        s->outbox.last->next = e->out.first;
    else
        s->outbox.first = e->out.first;
    s->outbox.last = e->out.last;
    pthread_mutex_unlock(&s->lock);
    e->out = (mull__notes){0};
    uv_async_send(&s->wake);
}

static void tell_metrics(engine *e, bool last) {
    double now = mull_clock_ms();
    if (!last && now - e->told_ms < METRICS_MS) return;
    e->told_ms = now;
    pthread_mutex_lock(&e->s->lock);
    mull__serve_stats st = e->s->stats;
    int under_way = e->s->calls_now;
    pthread_mutex_unlock(&e->s->lock);
    mull_events_emit(e->ev, "metric",
                     json_pack("{s:I, s:{s:I, s:I, s:I, s:I, s:i}}", "step", (json_int_t)time(NULL), "values",
                               "requests", (json_int_t)st.requests, "refused", (json_int_t)st.refused, "prompt_tokens",
                               (json_int_t)st.prompt_tokens, "output_tokens", (json_int_t)st.output_tokens, "under_way",
                               under_way));
}

static int loop(engine *e, mull_error *err) {
    double stop_ms = 0;
    for (;;) {
        take_in(e);
        int rc = e->nslots > 0 ? mull_infer_step(e->f, err) : 0;
        send_out(e);
        if (rc < 0) return rc;
        if (e->lost) return mull_fail(err, MULL_ENOMEM, "cannot serve", "answers", "", "out of memory");
        mull_events_beat(e->ev);
        tell_metrics(e, false);
        if (!mull_events_stopped(e->ev)) continue;
        double now = mull_clock_ms();
        if (!stop_ms) {
            stop_ms = now;
            pthread_mutex_lock(&e->s->lock);
            e->s->draining = true;
            pthread_mutex_unlock(&e->s->lock);
        }
        pthread_mutex_lock(&e->s->lock);
        bool idle = e->s->calls_now == 0;
        pthread_mutex_unlock(&e->s->lock);
        if (idle || now - stop_ms > GRACE_MS)
            return mull_fail(err, MULL_ECANCELLED, "stopped", "serve", "start it again to go on",
                             "it was asked to stop");
    }
}

/* One key a line; blank lines and # are skipped. */
static int read_keys(mull__server *s, const char *path, mull_error *err) {
    mull_buf text = {0};
    int rc = mull_read_file(path, 1 << 16, "key file", &text, err);
    for (char *save = NULL, *line = rc ? NULL : strtok_r(text.data, "\n", &save); line;
         line = strtok_r(NULL, "\n", &save)) {
        line[strcspn(line, " \t\r")] = 0;
        if (!*line || *line == '#') continue;
        if (s->nkeys == MULL_SERVE_KEYS || !(s->keys[s->nkeys] = strdup(line))) {
            rc = mull_fail(err, MULL_ELIMIT, "cannot serve", path, "", "it has more than %d keys", MULL_SERVE_KEYS);
            break;
        }
        s->nkeys++;
    }
    if (!rc && !s->nkeys) rc = mull_fail(err, MULL_EARG, "cannot serve", path, "write one key a line", "it has no key");
    mull_buf_fini(&text);
    return rc;
}

static int open_server(mull__server *s, const mull_job *j, mull_error *err) {
    char *copy = realpath(j->model, NULL);
    s->job = j;
    s->created = (int64_t)time(NULL);
    s->most = (j->max_batch > 0 ? j->max_batch : BATCH) + (int)(j->max_queue >= 0 ? j->max_queue : QUEUE);
    s->model = strdup(j->served_name ? j->served_name : copy ? basename(copy) : "model");
    free(copy);
    int rc = s->model ? MULL_OK : mull_fail(err, MULL_ENOMEM, "cannot serve", "", "", "out of memory");
    if (!rc && json_array_size(j->media_roots)) rc = mull__roots_init(&s->roots, j->media_roots, "/", err);
    if (!rc && j->key_file) rc = read_keys(s, j->key_file, err);
    if (!rc) rc = mull__listen_open(j->listen ? j->listen : "127.0.0.1:8000", &s->listen, err);
    if (!rc && !s->listen.local && !s->nkeys)
        rc = mull_fail(err, MULL_EARG, "cannot serve", s->listen.url, "give a key file, or an address of this machine",
                       "other machines could use it without a key");
    return rc;
}

static void close_server(mull__server *s) {
    mull__server_stop(s);
    if (s->listen.fd >= 0) close(s->listen.fd);
    if (s->listen.path[0]) unlink(s->listen.path);
    for (mull__note *n = s->inbox.first, *next; n; n = next) {
        next = n->next;
        mull__note_free(n);
    }
    for (mull__note *n = s->outbox.first, *next; n; n = next) {
        next = n->next;
        mull__note_free(n);
    }
    for (size_t i = 0; i < s->nkeys; i++) free(s->keys[i]);
    free(s->model);
    mull__roots_fini(&s->roots);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
}

static int run(engine *e, const mull_job *j, mull_session *session, mull_error *err) {
    mull__server *s = e->s;
    mull_infer_opts opts = {.max_batch = j->max_batch > 0 ? j->max_batch : BATCH};
    mull_infer_callbacks cb = {.ctx = e, .on_text = on_text, .on_done = on_done};
    s->session = session;
    s->rules = (mull__ask_rules){
        .session = session, .roots = s->roots.n ? &s->roots : NULL, .model = s->model, .sampling = session->sampling};
    e->slots = calloc((size_t)s->most, sizeof *e->slots);
    int rc = e->slots ? MULL_OK : mull_fail(err, MULL_ENOMEM, "cannot serve", "", "", "out of memory");
    if (!rc) rc = mull_infer_create(session->model, session->tok, &opts, &cb, &e->f, err);
    if (!rc) rc = mull__server_start(s, err);
    if (!rc) {
        mull_events_loading(e->ev, false);
        mull_events_log(e->ev, "info", "serves %s at %s", s->model, s->listen.url);
        rc = loop(e, err);
        tell_metrics(e, true);
    }
    return rc;
}

int mull_serve_job(const mull_job *j, mull_events *ev, json_t **result, mull_error *err) {
    mull__server s = {.listen = {.fd = -1}};
    engine e = {.s = &s, .ev = ev};
    mull_session session = {0};
    *result = NULL;
    pthread_mutex_init(&s.lock, NULL);
    pthread_cond_init(&s.changed, NULL);
    /* The address first: that it is taken shows at once, not after a long load. */
    int rc = open_server(&s, j, err);
    if (!rc) rc = mull_session_open(j, &session, err);
    if (!rc) rc = run(&e, j, &session, err);
    mull__server_stop(&s); /* before the engine: it holds what requests own */
    mull_infer_destroy(e.f);
    for (mull__note *n = e.out.first, *next; n; n = next) {
        next = n->next;
        mull__note_free(n);
    }
    free(e.slots);
    close_server(&s);
    mull_session_fini(&session);
    return rc;
}
