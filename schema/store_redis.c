/* See store_redis.h. hiredis 0.14 writes and parses the protocol; the bytes travel over a wire of ours (store_wire.h),
 * since its own async context knows no TLS and frees its libuv handle's owner while the handle is still closing.
 *
 * A connection begins with AUTH, where there is a password, and with ROLE, where there are several hosts: a replica is
 * passed over, and a primary that has become one (its writes are refused with READONLY) is left. Commands are taken
 * only after that. */
#include "schema/store_redis.h"

#include "schema/log.h"
#include "schema/store_wire.h"

#include <stdlib.h>
#include <string.h>

/* SILENT_MS: with commands unanswered for so long the connection is given up (a stopped server, a black hole); longer
 * than any XREAD BLOCK of ours. */
enum { RETRY_MIN_MS = 50, RETRY_MAX_MS = 1000, CONNECT_MS = 2000, WATCH_MS = 1000, SILENT_MS = 8000 };

typedef struct command {
    struct command *next;
    mull_redis_cb cb;
    void *arg;
} command;

typedef struct command_list {
    command *head, **tail;
} command_list;

struct mull_redis {
    uv_loop_t *loop;
    const mull_redis_server *server;
    int host;  /* of the server's, the one in use or to be tried next */
    int tried; /* hosts that have failed since the last pause */
    mull_wire *wire;
    redisReader *reader;
    int greeting; /* answers of AUTH and ROLE that are still to come */
    bool up, closing, complained, feeding;
    const char *why;   /* NULL, or what the server said against us */
    char said[200];    /* its text */
    uv_timer_t retry;  /* next attempt, the limit of the one under way, or (up) the look at silence */
    command_list sent; /* not answered */
    uint64_t heard_ms; /* of the last answer, or of the first unanswered command */
    uv_timer_t failer; /* calls back the commands that could not be sent */
    command_list failed;
    int wait_ms;
    void (*on_connect)(void *);
    void *arg;
};

static void try_connect(mull_redis *r);

/* ---- lists of commands ---- */

static void list_init(command_list *l) {
    l->head = NULL;
    l->tail = &l->head;
}

static void list_add(command_list *l, command *c) {
    c->next = NULL;
    *l->tail = c;
    l->tail = &c->next;
}

static command *list_take(command_list *l) {
    command *c = l->head;
    l->head = c->next;
    if (!l->head) l->tail = &l->head;
    return c;
}

static void answer(command *c, const redisReply *reply) {
    if (c->cb) c->cb(reply, c->arg);
    free(c);
}

/* What is added meanwhile is called later. */
static void fail_list(command_list *l) {
    command_list now = *l;
    if (!now.head) return;
    list_init(l);
    while (now.head) answer(list_take(&now), NULL);
}

/* ---- the end of a connection ---- */

static void on_retry(uv_timer_t *t) {
    mull_redis *r = t->data;
    if (r->closing) return;
    if (!r->wire)
        try_connect(r);
    else if (!r->up || (r->sent.head && uv_now(r->loop) - r->heard_ms > SILENT_MS))
        mull_redis_reset(r);
}

/* The next host at once, until all have been tried; then a pause. */
static void retry_later(mull_redis *r) {
    if (r->closing) return;
    r->host = (r->host + 1) % r->server->count;
    if (++r->tried < r->server->count) {
        uv_timer_start(&r->retry, on_retry, 0, 0);
        return;
    }
    r->tried = 0;
    if (!r->complained && r->wait_ms >= RETRY_MAX_MS) {
        mull_log(MULL_LOG_WARN, "Redis at %s %s%s; trying again for ever", r->server->text,
                 r->why ? "says: " : "does not answer", r->why ? r->why : "");
        r->complained = true;
    }
    uv_timer_start(&r->retry, on_retry, (uint64_t)r->wait_ms, 0);
    r->wait_ms = r->wait_ms * 2 < RETRY_MAX_MS ? r->wait_ms * 2 : RETRY_MAX_MS;
}

/* The wire is closed. Nothing of the connection is left when the callbacks run. */
static void dropped(mull_redis *r) {
    r->wire = NULL;
    if (!r->feeding) redisReaderFree(r->reader); /* else feed does it */
    r->reader = NULL;
    r->up = false;
    r->greeting = 0;
    retry_later(r);
    fail_list(&r->sent);
}

static void on_lost(const char *why, void *arg) {
    mull_redis *r = arg;
    if (!r->why && !r->up) {
        snprintf(r->said, sizeof r->said, "%s", why);
        r->why = r->said;
    }
    dropped(r);
}

void mull_redis_reset(mull_redis *r) {
    if (!r->wire) return;
    mull__wire_close(r->wire);
    dropped(r);
}

/* ---- commands ---- */

static void send_command(mull_redis *r, int argc, const char *const *argv, const size_t *lens, mull_redis_cb cb,
                         void *arg) {
    command *c = calloc(1, sizeof *c);
    char *text = NULL;
    if (!c) abort(); /* a callback that never comes would be worse */
    c->cb = cb;
    c->arg = arg;
    int n = r->wire ? redisFormatCommandArgv(&text, argc, (const char **)(uintptr_t)argv, lens) : -1;
    if (n < 0) {
        list_add(&r->failed, c);
        return;
    }
    if (!r->sent.head) r->heard_ms = uv_now(r->loop);
    list_add(&r->sent, c);
    mull__wire_send(r->wire, text, (size_t)n);
    free(text);
}

static void on_failer(uv_timer_t *t) {
    mull_redis *r = t->data;
    fail_list(&r->failed);
}

void mull_redis_command(mull_redis *r, int argc, const char *const *argv, const size_t *lens, mull_redis_cb cb,
                        void *arg) {
    if (r->up) {
        send_command(r, argc, argv, lens, cb, arg);
    } else {
        command *c = calloc(1, sizeof *c);
        if (!c) abort();
        c->cb = cb;
        c->arg = arg;
        list_add(&r->failed, c);
    }
    if (r->failed.head && !r->closing) uv_timer_start(&r->failer, on_failer, 0, 0);
}

static void on_bytes(const char *data, size_t n, void *arg) {
    mull_redis *r = arg;
    redisReader *reader = r->reader;
    void *reply;
    r->feeding = true;
    bool ok = redisReaderFeed(reader, data, n) == REDIS_OK;
    while (ok && r->reader == reader && (ok = redisReaderGetReply(reader, &reply) == REDIS_OK) && reply) {
        bool demoted = r->server->count > 1 && ((redisReply *)reply)->type == REDIS_REPLY_ERROR &&
                       !strncmp(((redisReply *)reply)->str, "READONLY", 8);
        r->heard_ms = uv_now(r->loop);
        ok = r->sent.head != NULL; /* nobody asked for this */
        if (ok) answer(list_take(&r->sent), reply);
        freeReplyObject(reply);
        ok = ok && !demoted;
    }
    r->feeding = false;
    if (r->reader != reader)
        redisReaderFree(reader);
    else if (!ok)
        mull_redis_reset(r);
}

/* ---- connecting ---- */

static void ready(mull_redis *r) {
    if (r->greeting > 0) return;
    uv_timer_start(&r->retry, on_retry, WATCH_MS, WATCH_MS);
    if (r->complained) mull_log(MULL_LOG_INFO, "Redis at %s is back", r->server->text);
    r->complained = false;
    r->why = NULL;
    r->wait_ms = RETRY_MIN_MS;
    r->tried = 0;
    r->up = true;
    if (r->on_connect) r->on_connect(r->arg);
}

/* False: this host will not do. */
static bool greeted(mull_redis *r, const redisReply *reply, bool good, const char *otherwise) {
    if (!reply) return false; /* the connection broke, which has been dealt with */
    if (good) {
        r->greeting--;
        return true;
    }
    snprintf(r->said, sizeof r->said, "%s", reply->type == REDIS_REPLY_ERROR ? reply->str : otherwise);
    r->why = r->said;
    mull_redis_reset(r);
    return false;
}

static void on_auth(const redisReply *reply, void *arg) {
    mull_redis *r = arg;
    if (greeted(r, reply, reply && reply->type == REDIS_REPLY_STATUS, "no answer to AUTH that makes sense")) ready(r);
}

static void on_role(const redisReply *reply, void *arg) {
    mull_redis *r = arg;
    bool primary = reply && reply->type == REDIS_REPLY_ARRAY && reply->elements > 0 && reply->element[0]->str &&
                   !strcmp(reply->element[0]->str, "master");
    if (greeted(r, reply, primary, "none of the hosts is the primary")) ready(r);
}

static void on_open(void *arg) {
    mull_redis *r = arg;
    const mull_redis_server *s = r->server;
    const char *auth[] = {"AUTH", s->user[0] ? s->user : "default", s->password}, *role[] = {"ROLE"};
    r->greeting = (s->password != NULL) + (s->count > 1);
    if (s->password) send_command(r, 3, auth, NULL, on_auth, r);
    if (s->count > 1) send_command(r, 1, role, NULL, on_role, r);
    ready(r);
}

static void try_connect(mull_redis *r) {
    static const mull_wire_events events = {on_open, on_bytes, on_lost};
    r->reader = redisReaderCreate();
    r->wire = r->reader ? mull__wire_open(r->loop, r->server->at[r->host].host, r->server->at[r->host].port,
                                          r->server->tls, &events, r)
                        : NULL;
    if (!r->wire) {
        if (r->reader) redisReaderFree(r->reader);
        r->reader = NULL;
        retry_later(r);
        return;
    }
    uv_timer_start(&r->retry, on_retry, CONNECT_MS, 0);
}

mull_redis *mull_redis_create(uv_loop_t *loop, const mull_redis_server *server, void (*on_connect)(void *), void *arg) {
    mull_redis *r = calloc(1, sizeof *r);
    if (!r) return NULL;
    r->loop = loop;
    r->server = server;
    r->on_connect = on_connect;
    r->arg = arg;
    r->wait_ms = RETRY_MIN_MS;
    list_init(&r->sent);
    list_init(&r->failed);
    uv_timer_init(loop, &r->retry);
    uv_timer_init(loop, &r->failer);
    r->retry.data = r->failer.data = r;
    uv_timer_start(&r->retry, on_retry, 0, 0);
    return r;
}

bool mull_redis_connected(const mull_redis *r) {
    return r->up;
}

void mull_redis_close(mull_redis *r) {
    if (r->closing) return;
    r->closing = true;
    mull_redis_reset(r); /* pending callbacks get NULL */
    fail_list(&r->failed);
    uv_close((uv_handle_t *)&r->retry, NULL);
    uv_close((uv_handle_t *)&r->failer, NULL);
}

void mull_redis_destroy(mull_redis *r) {
    if (!r) return;
    fail_list(&r->failed);
    free(r);
}
