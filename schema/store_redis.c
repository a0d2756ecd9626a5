/* See store_redis.h. hiredis 0.14 does the protocol; the reading and writing of its socket is done here by uv_poll
 * rather than by its own libuv adapter, which frees its handle's owner while the handle is still closing. */
#include "schema/store_redis.h"

#include "schema/log.h"

#include <hiredis/async.h>
#include <stdlib.h>
#include <string.h>

enum { RETRY_MIN_MS = 50, RETRY_MAX_MS = 1000, CONNECT_MS = 2000 };

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
    uv_timer_t retry;  /* next attempt, or the limit of the one under way */
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

static void on_retry(uv_timer_t *t) {
    mull_redis *r = t->data;
    if (r->closing) return;
    if (r->ac)
        redisAsyncFree(r->ac); /* a connect that took too long; its callback comes with an error */
    else
        try_connect(r);
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
    uv_timer_stop(&r->retry);
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

static redisAsyncContext *dial(const char *addr) {
    if (!strncmp(addr, "unix:", 5)) return redisAsyncConnectUnix(addr + 5);
    const char *colon = strrchr(addr, ':');
    char host[256];
    if (strncmp(addr, "tcp:", 4) || !colon || colon < addr + 4 || (size_t)(colon - addr - 4) >= sizeof host)
        return NULL;
    memcpy(host, addr + 4, (size_t)(colon - addr - 4));
    host[colon - addr - 4] = 0;
    return redisAsyncConnect(host, atoi(colon + 1));
}

static void try_connect(mull_redis *r) {
    redisAsyncContext *ac = dial(r->addr);
    if (!ac || ac->err || !attach(r, ac)) {
        if (ac) redisAsyncFree(ac);
        retry_later(r);
        return;
    }
    ac->data = r;
    r->ac = ac;
    uv_timer_start(&r->retry, on_retry, CONNECT_MS, 0);
    redisAsyncSetDisconnectCallback(ac, disconnected);
    redisAsyncSetConnectCallback(ac, connected);
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
    (void)ac;
    command *c = data;
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
    c->cb = cb;
    c->arg = arg;
    if (r->up && r->ac &&
        redisAsyncCommandArgv(r->ac, on_reply, c, argc, (const char **)(uintptr_t)argv, lens) == REDIS_OK)
        return;
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
    uv_close((uv_handle_t *)&r->retry, NULL);
    uv_close((uv_handle_t *)&r->failer, NULL);
}

void mull_redis_destroy(mull_redis *r) {
    if (!r) return;
    fail_pending(r);
    free(r->addr);
    free(r);
}
