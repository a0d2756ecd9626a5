/* See store_pg.h. libpq's socket may change while it connects, so the poll handle is made anew whenever its number
 * does; a handle that is given up closes in its own time and owns its memory. One statement is under way on a
 * connection at a time: batching is done in SQL, where it also makes one transaction. Connections of a pool for teams
 * are always in pipeline mode: who asks and the statement are sent together, and are one transaction up to the sync. */
#include "schema/store_pg.h"

#include "schema/log.h"
#include "schema/store_pg_hosts.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* STATEMENT_MS: a statement without an answer for so long is given up with its connection (a stopped server, a black
 * hole); every statement of ours is far shorter. */
enum { RETRY_MIN_MS = 50, RETRY_MAX_MS = 1000, CONNECT_MS = 5000, STATEMENT_MS = 20000 };
/* Bytes that nobody acknowledges for so long (a host that has gone) end the connection. */
#define DEAD_MS "10000"

typedef struct query {
    struct query *next;
    char *sql, **params;
    char *team, *user;  /* NULL: not in a pool for teams */
    char *begin, *data; /* of a COPY: "BEGIN; …; COPY …" and what follows it */
    size_t len;
    int n;
    mull_pg_cb cb;
    void *arg;
} query;

typedef struct poller {
    uv_poll_t poll;
    struct conn *conn; /* NULL once given up */
    int fd, events;
} poller;

/* A look-up of the host names of the conninfo, by libuv's threads. */
typedef struct lookup {
    uv_work_t work;
    struct conn *conn; /* NULL once nobody waits for it */
    char *hosts, *addresses;
} lookup;

typedef enum conn_state { DOWN, CONNECTING, READY } conn_state;
/* Where the statement under way stands; ENDING: COMMIT or ROLLBACK is on its way and kept is the answer. */
typedef enum conn_stage { PLAIN, COPYING, INSIDE, ENDING } conn_stage;

typedef struct conn {
    mull_pg *pool;
    PGconn *pg;
    poller *poller;
    lookup *lookup;   /* CONNECTING, before there is a pg */
    uv_timer_t timer; /* next attempt, or the limit of the connect or statement under way */
    conn_state state;
    query *now;
    conn_stage stage;
    PGresult *last, *kept;
    int wait_ms;
    int turn; /* the host that is tried first */
} conn;

struct mull_pg {
    uv_loop_t *loop;
    char *conninfo;
    mull_pg_hosts hosts;
    int size, queued;
    conn conns[MULL_PG_CONNECTIONS_MAX];
    query *head, **tail;
    uv_timer_t failer;
    query *failed, **failed_tail;
    bool closing, complained, for_teams;
};

static void pump(conn *c);
static void dispatch(mull_pg *p);

/* ---- answers */
static void query_free(query *q) {
    for (int i = 0; i < q->n; i++) free(q->params[i]);
    free(q->params);
    free(q->sql);
    free(q->team);
    free(q->user);
    free(q->begin);
    free(q->data);
    free(q);
}

static void answer_lost(query *q, const char *why) {
    mull_pg_reply r = {.status = MULL_PG_LOST, .message = why};
    if (q->cb) q->cb(&r, q->arg);
    query_free(q);
}

static void fail_listed(mull_pg *p) {
    while (p->failed) {
        query *q = p->failed;
        p->failed = q->next;
        if (!p->failed) p->failed_tail = &p->failed;
        answer_lost(q, "PostgreSQL is not reachable");
    }
}
static void on_failer(uv_timer_t *t) {
    fail_listed(t->data);
}
/* Answers q from the loop, not from here. */
static void fail_soon(mull_pg *p, query *q) {
    q->next = NULL;
    *p->failed_tail = q;
    p->failed_tail = &q->next;
    if (!p->closing) uv_timer_start(&p->failer, on_failer, 0, 0);
}

static query *take(mull_pg *p) {
    query *q = p->head;
    p->head = q->next;
    if (!p->head) p->tail = &p->head;
    p->queued--;
    return q;
}

/* ---- sockets */
static void on_poll(uv_poll_t *h, int status, int events) {
    (void)status;
    (void)events;
    poller *p = h->data;
    if (p->conn) pump(p->conn);
}
static void poller_closed(uv_handle_t *h) {
    free(h->data);
}
static void unwatch(conn *c) {
    if (!c->poller) return;
    c->poller->conn = NULL;
    uv_poll_stop(&c->poller->poll);
    uv_close((uv_handle_t *)&c->poller->poll, poller_closed);
    c->poller = NULL;
}
static bool watch(conn *c, int events) {
    int fd = PQsocket(c->pg);
    if (c->poller && c->poller->fd != fd) unwatch(c);
    if (fd < 0) return false;
    if (!c->poller) {
        poller *p = calloc(1, sizeof *p);
        if (!p || uv_poll_init(c->pool->loop, &p->poll, fd)) {
            free(p);
            return false;
        }
        p->poll.data = p;
        p->conn = c;
        p->fd = fd;
        c->poller = p;
    }
    if (c->poller->events == events) return true; /* starting anew costs two system calls */
    c->poller->events = events;
    return uv_poll_start(&c->poller->poll, events, on_poll) == 0;
}

/* ---- connecting */
static void on_timer(uv_timer_t *t);

static bool any_alive(const mull_pg *p) {
    for (int i = 0; i < p->size; i++)
        if (p->conns[i].state == READY) return true;
    return false;
}

static void drop(conn *c) {
    mull_pg *p = c->pool;
    unwatch(c);
    if (c->lookup) c->lookup->conn = NULL;
    c->lookup = NULL;
    if (c->pg) PQfinish(c->pg);
    c->pg = NULL;
    PQclear(c->last);
    PQclear(c->kept);
    c->last = c->kept = NULL;
    c->stage = PLAIN;
    c->state = DOWN;
    if (c->now) fail_soon(p, c->now);
    c->now = NULL;
    if (!any_alive(p))
        while (p->head) fail_soon(p, take(p));
    if (p->closing) return;
    if (!p->complained && c->wait_ms >= RETRY_MAX_MS) {
        mull_log(MULL_LOG_WARN, "PostgreSQL does not answer; trying again for ever");
        p->complained = true;
    }
    uv_timer_start(&c->timer, on_timer, (uint64_t)c->wait_ms, 0);
    c->wait_ms = c->wait_ms * 2 < RETRY_MAX_MS ? c->wait_ms * 2 : RETRY_MAX_MS;
}

/* The hosts in this connection's order; an address for each where they had to be looked up. */
static void start(conn *c, const char *found) {
    const mull_pg_hosts *h = &c->pool->hosts;
    char *hosts = mull__list_turned(h->hosts, c->turn), *ports = mull__list_turned(h->ports, c->turn),
         *addresses = mull__list_turned(found ? found : h->addresses, c->turn);
    /* jit: compiling a statement costs more than running any of ours. Later keywords win over earlier ones: what the
     * conninfo says of these three counts, but our order of its hosts. */
    const char *keys[10] = {"options", "tcp_user_timeout", "target_session_attrs", "dbname"};
    const char *values[10] = {"-c jit=off", DEAD_MS, h->count > 1 ? "read-write" : "any", c->pool->conninfo};
    int n = 4;
    if (hosts) {
        keys[n] = "host";
        values[n++] = hosts;
    }
    if (addresses) {
        keys[n] = "hostaddr";
        values[n++] = addresses;
    }
    if (ports) {
        keys[n] = "port";
        values[n++] = ports;
    }
    c->pg = PQconnectStartParams(keys, values, 1);
    free(hosts);
    free(addresses);
    free(ports);
    if (!c->pg || PQstatus(c->pg) == CONNECTION_BAD || !watch(c, UV_WRITABLE)) drop(c);
}

static void look_up(uv_work_t *work) {
    lookup *k = work->data;
    if (k->hosts) k->addresses = mull__pg_look_up(k->hosts);
}

static void looked_up(uv_work_t *work, int status) {
    lookup *k = work->data;
    conn *c = k->conn;
    if (c) {
        c->lookup = NULL;
        if (status == 0 && k->addresses)
            start(c, k->addresses);
        else
            drop(c);
    }
    free(k->hosts);
    free(k->addresses);
    free(k);
}

static void begin(conn *c) {
    c->state = CONNECTING;
    uv_timer_start(&c->timer, on_timer, CONNECT_MS, 0);
    if (!c->pool->hosts.names) {
        start(c, NULL);
        return;
    }
    lookup *k = calloc(1, sizeof *k);
    if (k) {
        k->work.data = k;
        k->conn = c;
        k->hosts = strdup(c->pool->hosts.hosts);
    }
    if (!k || uv_queue_work(c->pool->loop, &k->work, look_up, looked_up) != 0) {
        if (k) free(k->hosts);
        free(k);
        drop(c);
        return;
    }
    c->lookup = k;
}

static void on_timer(uv_timer_t *t) {
    conn *c = t->data;
    if (c->pool->closing) return;
    if (c->state == DOWN)
        begin(c);
    else if (c->state == CONNECTING || c->now) { /* took too long */
        c->turn = (c->turn + 1) % c->pool->hosts.count;
        drop(c);
    }
}

static void ignore_notice(void *arg, const char *message) {
    (void)arg, (void)message;
}

static void connecting(conn *c) {
    unwatch(c); /* libpq may close this socket and open another under the same number */
    switch (PQconnectPoll(c->pg)) {
    case PGRES_POLLING_OK:
        uv_timer_stop(&c->timer);
        PQsetnonblocking(c->pg, 1);
        if (c->pool->for_teams && !PQenterPipelineMode(c->pg)) {
            drop(c);
            break;
        }
        PQsetNoticeProcessor(c->pg, ignore_notice, NULL);
        c->state = READY;
        c->wait_ms = RETRY_MIN_MS;
        if (c->pool->complained) mull_log(MULL_LOG_INFO, "PostgreSQL is back");
        c->pool->complained = false;
        if (watch(c, UV_READABLE))
            dispatch(c->pool);
        else
            drop(c);
        break;
    case PGRES_POLLING_READING:
        if (!watch(c, UV_READABLE)) drop(c);
        break;
    case PGRES_POLLING_WRITING:
        if (!watch(c, UV_WRITABLE)) drop(c);
        break;
    default:
        drop(c);
    }
}

/* ---- statements */
/* Until the end of the transaction. The role last: what a statement of this transaction may do begins there. */
static const char BECOME[] = "SELECT set_config('mull.team', $1, true), set_config('mull.user', $2, true), "
                             "set_config('role', 'mull_front', true)";

static bool good(const PGresult *res) {
    ExecStatusType s = PQresultStatus(res);
    return s == PGRES_TUPLES_OK || s == PGRES_COMMAND_OK;
}

static bool send_now(conn *c) {
    const query *q = c->now;
    const char *who[] = {q->team, q->user};
    if (c->pool->for_teams && PQsendQueryParams(c->pg, BECOME, 2, NULL, who, NULL, NULL, 0) != 1) return false;
    return PQsendQueryParams(c->pg, q->sql, q->n, NULL, (const char *const *)q->params, NULL, NULL, 0) == 1 &&
           (!c->pool->for_teams || PQpipelineSync(c->pg) == 1);
}

/* After a statement of a transaction with a COPY has ended: sends the next one. 1: it is under way, 0: all have ended
 * and last is the answer, -1: the connection is of no use. */
static int next_stage(conn *c) {
    bool ok = good(c->last);
    const char *text = NULL;
    switch (c->stage) {
    case PLAIN:
        return 0;
    case COPYING:
        if (ok) {
            c->stage = INSIDE;
            PQclear(c->last);
            c->last = NULL;
            return send_now(c) ? 1 : -1;
        }
        text = "ROLLBACK";
        break;
    case INSIDE:
        text = ok ? "COMMIT" : "ROLLBACK";
        break;
    case ENDING:
        /* A COMMIT that fails is the answer; one that rolled back says so in words only, which no path here leads to.
         */
        if (ok && c->kept) {
            PQclear(c->last);
            c->last = c->kept;
        } else {
            PQclear(c->kept);
        }
        c->kept = NULL;
        c->stage = PLAIN;
        return 0;
    }
    c->kept = c->last;
    c->last = NULL;
    c->stage = ENDING;
    return PQsendQuery(c->pg, text) ? 1 : -1;
}

/* False: the server takes no writes (any more), and another may. */
static bool finish(conn *c) {
    bool demoted = false;
    query *q = c->now;
    PGresult *res = c->last;
    c->now = NULL;
    c->last = NULL;
    uv_timer_stop(&c->timer);
    mull_pg_reply r = {.status = MULL_PG_OK, .res = res, .message = ""};
    if (!good(res)) {
        const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE),
                   *text = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);
        snprintf(r.sqlstate, sizeof r.sqlstate, "%s", state ? state : "");
        r.message = text ? text : PQresultErrorMessage(res);
        /* 57P..: the server is shutting down or starting; 08...: connection; 53300: no slot. */
        bool lost = !state || !strncmp(state, "57P", 3) || !strncmp(state, "08", 2) || !strcmp(state, "53300");
        demoted = state && !strcmp(state, "25006");
        r.status = lost || demoted ? MULL_PG_LOST : MULL_PG_ERROR;
    }
    if (q->cb) q->cb(&r, q->arg);
    PQclear(res);
    query_free(q);
    return !demoted;
}

/* Sends what it can and watches for what is left. */
static bool flushed(conn *c) {
    int left = PQflush(c->pg);
    return left >= 0 && watch(c, left ? UV_READABLE | UV_WRITABLE : UV_READABLE);
}

static void pump(conn *c) {
    if (c->state == CONNECTING) {
        connecting(c);
        return;
    }
    if (!PQconsumeInput(c->pg)) {
        drop(c);
        return;
    }
    if (!flushed(c)) {
        drop(c);
        return;
    }
    while (c->now && !PQisBusy(c->pg)) {
        PGresult *r = PQgetResult(c->pg);
        if (PQresultStatus(r) == PGRES_COPY_IN && c->stage == COPYING) {
            PQclear(r);
            /* libpq keeps what the socket does not take yet */
            bool put = PQputCopyData(c->pg, c->now->data, (int)c->now->len) == 1 && PQputCopyEnd(c->pg, NULL) == 1;
            if (!put || !flushed(c)) {
                drop(c);
                return;
            }
            continue;
        }
        bool synced = PQresultStatus(r) == PGRES_PIPELINE_SYNC;
        if (synced) PQclear(r);
        if (c->pool->for_teams && !r && PQstatus(c->pg) != CONNECTION_BAD) continue; /* the sync is still to come */
        if (r && !synced) { /* of several the last counts, but no error is passed over; after it comes NULL */
            if (c->last && !good(c->last)) {
                PQclear(r);
            } else {
                PQclear(c->last);
                c->last = r;
            }
            continue;
        }
        if (PQstatus(c->pg) == CONNECTION_BAD || !c->last) {
            drop(c);
            return;
        }
        int more = next_stage(c);
        if (more < 0 || (more > 0 && !flushed(c))) {
            drop(c);
            return;
        }
        if (more > 0) {
            uv_timer_start(&c->timer, on_timer, STATEMENT_MS, 0);
            continue;
        }
        bool writable = finish(c);
        if (c->pool->closing || c->state != READY) return;
        if (!writable) {
            drop(c);
            return;
        }
    }
    PGnotify *n;
    while ((n = PQnotifies(c->pg))) PQfreemem(n);
    if (PQstatus(c->pg) == CONNECTION_BAD)
        drop(c);
    else
        dispatch(c->pool);
}

static void dispatch(mull_pg *p) {
    for (int i = 0; i < p->size && p->head; i++) {
        conn *c = &p->conns[i];
        if (c->state != READY || c->now) continue;
        c->now = take(p);
        uv_timer_start(&c->timer, on_timer, STATEMENT_MS, 0);
        c->stage = c->now->begin ? COPYING : PLAIN;
        bool sent = c->now->begin ? PQsendQuery(c->pg, c->now->begin) == 1 : send_now(c);
        if (!sent || !flushed(c)) drop(c);
    }
}

static query *query_new(const char *sql, int n, const char *const *params, mull_pg_cb cb, void *arg) {
    query *q = calloc(1, sizeof *q);
    if (!q) abort(); /* a callback that never comes would be worse */
    q->cb = cb;
    q->arg = arg;
    q->sql = strdup(sql);
    q->params = calloc((size_t)n + 1, sizeof *q->params);
    if (!q->sql || !q->params) abort();
    for (q->n = 0; q->n < n; q->n++)
        if (params[q->n] && !(q->params[q->n] = strdup(params[q->n]))) abort();
    return q;
}

static void submit(mull_pg *p, query *q) {
    if (p->for_teams != (q->team != NULL)) abort(); /* with which rights it would run is nothing to guess */
    bool hope = false;
    for (int i = 0; i < p->size; i++)
        hope |= p->conns[i].state == READY || (p->conns[i].state == CONNECTING && !p->complained);
    if (!hope || p->closing || p->queued >= MULL_PG_QUEUE_MAX) {
        fail_soon(p, q);
        return;
    }
    *p->tail = q;
    p->tail = &q->next;
    p->queued++;
    dispatch(p);
}

void mull_pg_query(mull_pg *p, const char *sql, int n, const char *const *params, mull_pg_cb cb, void *arg) {
    submit(p, query_new(sql, n, params, cb, arg));
}

void mull_pg_query_as(mull_pg *p, const char *team, const char *user, const char *sql, int n, const char *const *params,
                      mull_pg_cb cb, void *arg) {
    query *q = query_new(sql, n, params, cb, arg);
    if (!(q->team = strdup(team)) || !(q->user = strdup(user))) abort();
    submit(p, q);
}

void mull_pg_copy(mull_pg *p, const char *before, const char *copy, char *data, size_t len, const char *sql, int n,
                  const char *const *params, mull_pg_cb cb, void *arg) {
    query *q = query_new(sql, n, params, cb, arg);
    q->data = data;
    q->len = len;
    if (asprintf(&q->begin, "BEGIN; %s%s%s", before ? before : "", before ? "; " : "", copy) < 0) abort();
    submit(p, q);
}

static mull_pg *create(uv_loop_t *loop, const char *conninfo, int size, bool for_teams) {
    mull_pg *p = calloc(1, sizeof *p);
    if (!p || !(p->conninfo = strdup(conninfo))) {
        free(p);
        return NULL;
    }
    p->loop = loop;
    p->for_teams = for_teams;
    mull__pg_hosts_init(&p->hosts, conninfo);
    p->size = size < 1 ? 1 : size > MULL_PG_CONNECTIONS_MAX ? MULL_PG_CONNECTIONS_MAX : size;
    p->tail = &p->head;
    p->failed_tail = &p->failed;
    uv_timer_init(loop, &p->failer);
    p->failer.data = p;
    for (int i = 0; i < p->size; i++) {
        conn *c = &p->conns[i];
        c->pool = p;
        c->wait_ms = RETRY_MIN_MS;
        uv_timer_init(loop, &c->timer);
        c->timer.data = c;
        begin(c);
    }
    return p;
}

mull_pg *mull_pg_create(uv_loop_t *loop, const char *conninfo, int size) {
    return create(loop, conninfo, size, false);
}
mull_pg *mull_pg_create_for_teams(uv_loop_t *loop, const char *conninfo, int size) {
    return create(loop, conninfo, size, true);
}

void mull_pg_close(mull_pg *p) {
    if (p->closing) return;
    p->closing = true;
    while (p->head) fail_soon(p, take(p));
    for (int i = 0; i < p->size; i++) {
        drop(&p->conns[i]);
        uv_close((uv_handle_t *)&p->conns[i].timer, NULL);
    }
    fail_listed(p);
    uv_close((uv_handle_t *)&p->failer, NULL);
}

void mull_pg_destroy(mull_pg *p) {
    if (!p) return;
    fail_listed(p);
    free(p->conninfo);
    mull__pg_hosts_fini(&p->hosts);
    free(p);
}
