/* See store_redis.h. hiredis 0.14 does the protocol; the reading and writing of its socket is done here by uv_poll
 * rather than by its own libuv adapter, which frees its handle's owner while the handle is still closing. */
#include "schema/store_redis.h"

#include "schema/log.h"

#include <fcntl.h>
#include <hiredis/async.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>

/* SILENT_MS: with commands unanswered for so long the connection is given up (a stopped server, a black hole); longer
 * than any XREAD BLOCK of ours. */
enum { RETRY_MIN_MS = 50, RETRY_MAX_MS = 1000, CONNECT_MS = 2000, WATCH_MS = 1000, SILENT_MS = 8000 };

typedef struct poller {
    uv_poll_t poll; /* outlives the context: freed by its own close callback */
    redisAsyncContext *ac;
    int events;
} poller;

typedef struct command {
    struct command *next;
    mull_redis *owner;
    mull_redis_cb cb;
    void *arg;
} command;

struct mull_redis {
    uv_loop_t *loop;
    char *addr;
    redisAsyncContext *ac;
    bool up, closing, complained;
    uv_timer_t retry;  /* next attempt, the limit of the one under way, or (up) the look at silence */
    size_t pending;    /* commands sent and not answered */
    uint64_t heard_ms; /* of the last answer, or of the first unanswered command */
    struct lookup *lookup;
    uv_timer_t failer; /* calls back the commands that could not be sent */
    command *failed, **failed_tail;
    int wait_ms;
    void (*on_connect)(void *);
    void *arg;
};

static void try_connect(mull_redis *r);

/* ---- hiredis on uv_poll */
static void on_poll(uv_poll_t *h, int status, int events) {
    poller *p = h->data;
    if (!p->ac) return;
    if (status < 0) events = UV_READABLE | UV_WRITABLE; /* let hiredis see the error itself */
    redisAsyncContext *ac = p->ac;
    if (events & UV_READABLE) redisAsyncHandleRead(ac);
    if (p->ac && (events & UV_WRITABLE)) redisAsyncHandleWrite(ac);
}
static void watch(poller *p, int events) {
    if (events == p->events) return; /* starting anew costs two system calls */
    p->events = events;
    if (events)
        uv_poll_start(&p->poll, events, on_poll);
    else
        uv_poll_stop(&p->poll);
}
static void add_read(void *data) {
    poller *p = data;
    watch(p, p->events | UV_READABLE);
}
static void del_read(void *data) {
    poller *p = data;
    watch(p, p->events & ~UV_READABLE);
}
static void add_write(void *data) {
    poller *p = data;
    watch(p, p->events | UV_WRITABLE);
}
static void del_write(void *data) {
    poller *p = data;
    watch(p, p->events & ~UV_WRITABLE);
}
static void poller_closed(uv_handle_t *h) {
    free(h->data);
}
static void cleanup(void *data) {
    poller *p = data;
    p->ac = NULL;
    uv_poll_stop(&p->poll);
    uv_close((uv_handle_t *)&p->poll, poller_closed);
}

static bool attach(mull_redis *r, redisAsyncContext *ac) {
    poller *p = calloc(1, sizeof *p);
    if (!p || uv_poll_init(r->loop, &p->poll, ac->c.fd)) {
        free(p);
        return false;
    }
    p->poll.data = p;
    p->ac = ac;
    ac->ev.data = p;
    ac->ev.addRead = add_read;
    ac->ev.delRead = del_read;
    ac->ev.addWrite = add_write;
    ac->ev.delWrite = del_write;
    ac->ev.cleanup = cleanup;
    return true;
}

/* ---- connecting */
static void retry_later(mull_redis *r);
static void lost(mull_redis *r);

/* hiredis calls back for a connection that was up, but not for one that is still being made. */
static void give_up(mull_redis *r) {
    redisAsyncFree(r->ac);
    if (r->ac) lost(r);
}

static void on_retry(uv_timer_t *t) {
    mull_redis *r = t->data;
    if (r->closing || r->lookup) return;
    if (!r->ac)
        try_connect(r);
    else if (!r->up || (r->pending && uv_now(r->loop) - r->heard_ms > SILENT_MS))
        give_up(r);
}

static void retry_later(mull_redis *r) {
    if (r->closing) return;
    if (!r->complained && r->wait_ms >= RETRY_MAX_MS) {
        mull_log(MULL_LOG_WARN, "Redis at %s does not answer; trying again for ever", r->addr);
        r->complained = true;
    }
    uv_timer_start(&r->retry, on_retry, (uint64_t)r->wait_ms, 0);
    r->wait_ms = r->wait_ms * 2 < RETRY_MAX_MS ? r->wait_ms * 2 : RETRY_MAX_MS;
}

static void lost(mull_redis *r) {
    r->ac = NULL;
    r->up = false;
    retry_later(r);
}

static void connected(const redisAsyncContext *ac, int status) {
    mull_redis *r = ac->data;
    if (status != REDIS_OK) {
        lost(r);
        return;
    }
    uv_timer_start(&r->retry, on_retry, WATCH_MS, WATCH_MS);
    if (r->complained) mull_log(MULL_LOG_INFO, "Redis at %s is back", r->addr);
    r->complained = false;
    r->wait_ms = RETRY_MIN_MS;
    r->up = true;
    if (r->on_connect) r->on_connect(r->arg);
}

static void disconnected(const redisAsyncContext *ac, int status) {
    (void)status;
    lost(ac->data);
}

static void use(mull_redis *r, redisAsyncContext *ac) {
    if (!ac || ac->err || !attach(r, ac)) {
        if (ac) redisAsyncFree(ac);
        retry_later(r);
        return;
    }
    fcntl(ac->c.fd, F_SETFD, FD_CLOEXEC); /* hiredis leaves it to be inherited by whatever this process starts */
    ac->data = r;
    r->ac = ac;
    r->pending = 0;
    uv_timer_start(&r->retry, on_retry, CONNECT_MS, 0);
    redisAsyncSetDisconnectCallback(ac, disconnected);
    redisAsyncSetConnectCallback(ac, connected);
}

/* Names are looked up by libuv's threads, never on the loop. */
typedef struct lookup {
    uv_getaddrinfo_t req;
    mull_redis *r; /* NULL once nobody waits for it */
    int port;
} lookup;

static void on_lookup(uv_getaddrinfo_t *req, int status, struct addrinfo *list) {
    lookup *k = req->data;
    mull_redis *r = k->r;
    char host[64] = "";
    if (status == 0 && getnameinfo(list->ai_addr, list->ai_addrlen, host, sizeof host, NULL, 0, NI_NUMERICHOST) != 0)
        host[0] = 0;
    uv_freeaddrinfo(list);
    if (r) {
        r->lookup = NULL;
        if (host[0])
            use(r, redisAsyncConnect(host, k->port));
        else
            retry_later(r);
    }
    free(k);
}

static void try_connect(mull_redis *r) {
    if (!strncmp(r->addr, "unix:", 5)) {
        use(r, redisAsyncConnectUnix(r->addr + 5));
        return;
    }
    const char *colon = strrchr(r->addr, ':'), *from = r->addr + 4, *to = colon;
    char host[256] = "";
    if (to > from + 1 && *from == '[' && to[-1] == ']') { /* [V6]:PORT */
        from++;
        to--;
    }
    if (to > from && (size_t)(to - from) < sizeof host) memcpy(host, from, (size_t)(to - from));
    lookup *k = host[0] ? calloc(1, sizeof *k) : NULL;
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    if (!k) {
        retry_later(r);
        return;
    }
    k->req.data = k;
    k->r = r;
    k->port = atoi(colon + 1);
    if (uv_getaddrinfo(r->loop, &k->req, on_lookup, host, NULL, &hints) != 0) {
        free(k);
        retry_later(r);
        return;
    }
    r->lookup = k;
}

mull_redis *mull_redis_create(uv_loop_t *loop, const char *addr, void (*on_connect)(void *), void *arg) {
    if (strncmp(addr, "unix:", 5) && strncmp(addr, "tcp:", 4)) return NULL;
    mull_redis *r = calloc(1, sizeof *r);
    if (!r || !(r->addr = strdup(addr))) {
        free(r);
        return NULL;
    }
    r->loop = loop;
    r->on_connect = on_connect;
    r->arg = arg;
    r->wait_ms = RETRY_MIN_MS;
    r->failed_tail = &r->failed;
    uv_timer_init(loop, &r->retry);
    uv_timer_init(loop, &r->failer);
    r->retry.data = r->failer.data = r;
    uv_timer_start(&r->retry, on_retry, 0, 0);
    return r;
}

/* ---- commands */
static void on_reply(redisAsyncContext *ac, void *reply, void *data) {
    command *c = data;
    if (ac) {
        c->owner->pending--;
        c->owner->heard_ms = uv_now(c->owner->loop);
    }
    if (c->cb) c->cb(reply, c->arg);
    free(c);
}

static void fail_pending(mull_redis *r) {
    while (r->failed) {
        command *c = r->failed;
        r->failed = c->next;
        if (!r->failed) r->failed_tail = &r->failed;
        on_reply(NULL, NULL, c);
    }
}

static void on_failer(uv_timer_t *t) {
    fail_pending(t->data);
}

void mull_redis_command(mull_redis *r, int argc, const char *const *argv, const size_t *lens, mull_redis_cb cb,
                        void *arg) {
    command *c = calloc(1, sizeof *c);
    if (!c) abort(); /* a callback that never comes would be worse */
    c->owner = r;
    c->cb = cb;
    c->arg = arg;
    if (r->up && r->ac &&
        redisAsyncCommandArgv(r->ac, on_reply, c, argc, (const char **)(uintptr_t)argv, lens) == REDIS_OK) {
        if (r->pending++ == 0) r->heard_ms = uv_now(r->loop);
        return;
    }
    *r->failed_tail = c;
    r->failed_tail = &c->next;
    if (!r->closing) uv_timer_start(&r->failer, on_failer, 0, 0);
}

bool mull_redis_connected(const mull_redis *r) {
    return r->up;
}

void mull_redis_reset(mull_redis *r) {
    if (r->up && r->ac && !r->closing) redisAsyncFree(r->ac);
}

void mull_redis_close(mull_redis *r) {
    if (r->closing) return;
    r->closing = true;
    r->up = false;
    if (r->ac) redisAsyncFree(r->ac); /* pending callbacks get NULL */
    r->ac = NULL;
    fail_pending(r);
    if (r->lookup) r->lookup->r = NULL;
    r->lookup = NULL;
    uv_close((uv_handle_t *)&r->retry, NULL);
    uv_close((uv_handle_t *)&r->failer, NULL);
}

void mull_redis_destroy(mull_redis *r) {
    if (!r) return;
    fail_pending(r);
    free(r->addr);
    free(r);
}
