/* libmicrohttpd on the libuv loop; the contract is in http.h.
 *
 * Order of events for one request: on_request is called by MHD once with the headers, again for each piece of body,
 * once more at the end; there the handler runs and, if it has not replied yet, the connection is suspended. The reply
 * keeps its MHD response in the request and resumes the connection, after which MHD calls on_request a last time to
 * have the response queued. MHD takes a response only before the first byte of the body or after its last one, so an
 * error in the middle of a form waits for its end (or, past a limit, for the connection's). */
#include "schema/http/http.h"

#include "schema/http/framing.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* What one client can make MHD hold for a connection: its headers and our reply's headers. */
enum {
    CONNECTION_MEMORY = 40 << 10,
    CONNECTION_TIMEOUT_S = 60, /* without a byte */
    HEADER_MS = 15000,         /* from the connect to the end of the first headers: a peer that sends them slowly */
    REQUEST_MS = 60000, /* from those, or from the last answer, to the next complete request, however it trickles */
    SWEEP_MS = 2000,
    PER_IP = 250,
    MAX_LISTENERS = 8,
    OVERRUN = 8 << 20,
    SLOWEST_BYTES_S = 32 << 10, /* what a form must bring on average beyond its first minute */
    FORM_BUFFER = 16 << 10
};

/* A connection that owes a request by a deadline. MHD counts only silence, so a client that sends a byte now and then
 * would hold its connection for ever. */
typedef struct peer {
    struct peer *prev, *next;
    mull_http *http;
    int fd;
    uint64_t deadline; /* 0: a request is being answered */
    mull_req *req;     /* the one under way */
} peer;

typedef struct listener {
    mull_http *http;
    struct MHD_Daemon *daemon;
    uv_poll_t poll;
    uv_timer_t timer;
    bool is_unix, running, again;
} listener;

struct mull_http {
    mull_http_config cfg;
    uv_loop_t *loop;
    listener *listeners[MAX_LISTENERS];
    size_t listener_count;
    mull_req *reqs;       /* every request handed to the handler and not replied to */
    mull_stream *streams; /* every open stream */
    peer *peers;
    uv_timer_t sweep;
    size_t pending;
    bool closing;
    mull_http_stats stats;
};

/* BEGINNING: begin waits, and a reply is possible. */
typedef enum phase { BEGINNING, COLLECTING, HANDLING, REPLIED, QUEUED } phase;

struct mull_req {
    listener *l;
    struct MHD_Connection *conn;
    mull_req *prev, *next; /* in http->reqs while listed */
    phase phase;
    bool listed; /* the caller owes a reply */
    bool waits;  /* between mull_req_wait and mull_req_go */
    bool suspended, too_large, broken, formed, hung;
    bool unframed; /* where it ends is not certain: nothing more may be read of its connection */
    /* Only when the server closes: orphan, the peer was answered although the handler still has the request; abandoned,
     * the connection is gone too, and the handler's late reply frees it. */
    bool orphan, abandoned;
    char *body;
    size_t len, cap;
    struct MHD_PostProcessor *form;
    mull_form_cb part;
    mull_read_cb read;
    uint64_t form_max, form_len;
    struct MHD_Response *response;
    int status;
    max_align_t user[]; /* cfg.user_size bytes */
};

struct mull_stream {
    mull_http *http;
    listener *l;
    struct MHD_Connection *conn;
    mull_stream *prev, *next;
    mull_stream_cb on_idle, on_close;
    void *arg;
    char *buf;
    size_t len, cap, sent;
    bool ended, suspended, idle_running;
};

static void run(listener *l);

static void on_poll(uv_poll_t *p, int status, int events) {
    (void)status;
    (void)events;
    run(p->data);
}

static void on_timer(uv_timer_t *t) {
    run(t->data);
}

static void run(listener *l) {
    if (l->running || !l->daemon) return;
    l->running = true;
    do {
        l->again = false;
        MHD_run(l->daemon);
    } while (l->again);
    l->running = false;
    MHD_UNSIGNED_LONG_LONG ms = 0;
    if (MHD_get_timeout(l->daemon, &ms) == MHD_YES)
        uv_timer_start(&l->timer, on_timer, ms, 0);
    else
        uv_timer_stop(&l->timer);
}

/* Without threads of its own MHD has nothing to wake it when a connection is resumed: it must be run. In the next turn
 * of the loop, so that many replies share one run. */
static void resume(listener *l, struct MHD_Connection *conn) {
    MHD_resume_connection(conn);
    if (l->running)
        l->again = true;
    else if (l->daemon)
        uv_timer_start(&l->timer, on_timer, 0, 0);
}

/* ---- replies ---- */

static void count_reply(mull_http *h, int status) {
    if (status < 400)
        h->stats.replies_2xx++;
    else if (status < 500)
        h->stats.replies_4xx++;
    else
        h->stats.replies_5xx++;
}

static void enter(mull_req *r) {
    mull_http *h = r->l->http;
    r->prev = NULL;
    r->next = h->reqs;
    if (h->reqs) h->reqs->prev = r;
    h->reqs = r;
    h->pending++;
    r->listed = true;
}

static void leave(mull_req *r) {
    mull_http *h = r->l->http;
    if (!r->listed) return;
    if (r->prev)
        r->prev->next = r->next;
    else
        h->reqs = r->next;
    if (r->next) r->next->prev = r->prev;
    h->pending--;
    r->listed = false;
}

static void set_response(mull_req *r, int status, struct MHD_Response *response) {
    if (r->abandoned) {
        if (response) MHD_destroy_response(response);
        free(r->body);
        free(r);
        return;
    }
    r->orphan = false;
    mull_http *h = r->l->http;
    if (!r->listed) { /* a second reply to one request: drop it, the first stands */
        if (response) MHD_destroy_response(response);
        return;
    }
    leave(r);
    r->waits = false;
    r->phase = REPLIED;
    r->status = status;
    r->response = response;
    count_reply(h, status);
    if (h->cfg.answered) h->cfg.answered(r, status, h->cfg.arg);
    if (r->suspended) {
        r->suspended = false;
        resume(r->l, r->conn);
    }
}

void mull_reply(mull_req *req, int status, const char *content_type, char *body, size_t len) {
    struct MHD_Response *resp = MHD_create_response_from_buffer(len, body, MHD_RESPMEM_MUST_FREE);
    if (!resp) {
        free(body);
    } else {
        MHD_add_response_header(resp, "Content-Type", content_type);
        MHD_add_response_header(resp, "Cache-Control", "no-store");
        MHD_add_response_header(resp, "X-Content-Type-Options", "nosniff");
        MHD_add_response_header(resp, "X-Frame-Options", "DENY");
        if (status == 401) MHD_add_response_header(resp, "WWW-Authenticate", "Bearer realm=\"mull\"");
        if (status == 503 || status == 429) MHD_add_response_header(resp, "Retry-After", "1");
        if (req->unframed) MHD_add_response_header(resp, "Connection", "close");
        if (status == 405) MHD_add_response_header(resp, "Allow", "GET, POST, PUT, DELETE");
    }
    set_response(req, status, resp);
}

void mull_reply_json(mull_req *req, int status, json_t *json) {
    char *text = json ? json_dumps(json, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    json_decref(json);
    if (!text) {
        set_response(req, 500, NULL);
        return;
    }
    mull_reply(req, status, "application/json", text, strlen(text));
}

void mull_reply_error(mull_req *req, int status, const char *code, const char *fmt, ...) {
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    mull_reply_json(req, status, req->l->http->cfg.error_json(status, code, text));
}

/* ---- streams ---- */

static ssize_t stream_read(void *cls, uint64_t pos, char *out, size_t max) {
    (void)pos;
    mull_stream *s = cls;
    if (s->sent == s->len && !s->ended && !s->idle_running) {
        s->sent = s->len = 0;
        s->idle_running = true; /* on_idle may write, which must not resume a connection that is not suspended */
        s->on_idle(s, s->arg);
        s->idle_running = false;
    }
    size_t n = s->len - s->sent;
    if (n > max) n = max;
    if (n > 0) {
        memcpy(out, s->buf + s->sent, n);
        s->sent += n;
        return (ssize_t)n;
    }
    if (s->ended) return MHD_CONTENT_READER_END_OF_STREAM;
    s->suspended = true;
    MHD_suspend_connection(s->conn);
    return 0;
}

static void stream_free(void *cls) {
    mull_stream *s = cls;
    if (s->prev)
        s->prev->next = s->next;
    else
        s->http->streams = s->next;
    if (s->next) s->next->prev = s->prev;
    s->http->pending--;
    s->on_close(s, s->arg);
    free(s->buf);
    free(s);
}

static void stream_wake(mull_stream *s) {
    if (!s->suspended) return;
    s->suspended = false;
    resume(s->l, s->conn);
}

mull_stream *mull_reply_stream(mull_req *req, const char *content_type, mull_stream_cb on_idle, mull_stream_cb on_close,
                               void *arg) {
    if (req->abandoned) {
        set_response(req, 503, NULL);
        return NULL;
    }
    mull_stream *s = calloc(1, sizeof *s);
    struct MHD_Response *resp = NULL;
    if (s) resp = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 32 << 10, stream_read, s, stream_free);
    if (!resp) {
        free(s);
        mull_reply_error(req, 503, "unavailable", "the server is out of memory; try again");
        return NULL;
    }
    mull_http *h = req->l->http;
    *s = (mull_stream){.http = h,
                       .l = req->l,
                       .conn = req->conn,
                       .next = h->streams,
                       .on_idle = on_idle,
                       .on_close = on_close,
                       .arg = arg};
    if (h->streams) h->streams->prev = s;
    h->streams = s;
    h->pending++;
    MHD_add_response_header(resp, "Content-Type", content_type);
    MHD_add_response_header(resp, "Cache-Control", "no-store");
    set_response(req, 200, resp);
    return s;
}

int mull_stream_write(mull_stream *s, const char *data, size_t len) {
    if (s->ended) return 0;
    if (s->sent == s->len) s->sent = s->len = 0;
    if (len > SIZE_MAX / 4 - s->len) return -1;
    if (s->len + len > s->cap) {
        size_t cap = (s->len + len) * 2;
        char *buf = realloc(s->buf, cap);
        if (!buf) return -1;
        s->buf = buf;
        s->cap = cap;
    }
    memcpy(s->buf + s->len, data, len);
    s->len += len;
    stream_wake(s);
    return 0;
}

void mull_stream_end(mull_stream *s) {
    s->ended = true;
    stream_wake(s);
}

/* ---- requests ---- */

static peer *peer_of(struct MHD_Connection *conn) {
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(conn, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info ? info->socket_context : NULL;
}

static void on_connection(void *cls, struct MHD_Connection *conn, void **ctx,
                          enum MHD_ConnectionNotificationCode code) {
    mull_http *h = cls;
    peer *p = *ctx;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *info = MHD_get_connection_info(conn, MHD_CONNECTION_INFO_CONNECTION_FD);
        if (!info || !(p = malloc(sizeof *p))) return;
        *p = (peer){.next = h->peers, .http = h, .fd = info->connect_fd, .deadline = uv_now(h->loop) + HEADER_MS};
        if (h->peers) h->peers->prev = p;
        h->peers = p;
        *ctx = p;
    } else if (p) {
        if (p->prev)
            p->prev->next = p->next;
        else
            h->peers = p->next;
        if (p->next) p->next->prev = p->prev;
        free(p);
        *ctx = NULL;
    }
}

/* Whether the peer has closed its side. A client that only shuts down its writing half looks the same; none of those
 * that matter do that while they wait. */
static bool has_closed(struct MHD_Connection *conn) {
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(conn, MHD_CONNECTION_INFO_CONNECTION_FD);
    char byte;
    if (!info) return false;
    ssize_t n = recv(info->connect_fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
}

static void on_sweep(uv_timer_t *t) {
    mull_http *h = t->data;
    for (peer *p = h->peers; p; p = p->next)
        if (p->deadline && uv_now(h->loop) > p->deadline) shutdown(p->fd, SHUT_RDWR); /* MHD sees it and closes */
    /* MHD does not look at suspended connections, so who waits for a reply is looked at here. */
    for (mull_req *r = h->reqs, *next; r; r = next) {
        next = r->next;
        if (h->cfg.hangup && r->suspended && r->phase == HANDLING && !r->hung && has_closed(r->conn)) {
            r->hung = true;
            h->cfg.hangup(r, h->cfg.arg);
        }
    }
    for (mull_stream *s = h->streams, *next; s; s = next) {
        next = s->next;
        if (s->suspended && has_closed(s->conn)) mull_stream_end(s);
    }
}

static enum MHD_Result add_header_size(void *cls, enum MHD_ValueKind kind, const char *key, const char *value) {
    (void)kind;
    *(size_t *)cls += strlen(key) + (value ? strlen(value) : 0) + 4;
    return MHD_YES;
}

static int append(mull_req *r, const char *data, size_t n) {
    size_t most = r->l->http->cfg.max_body;
    if (r->len + n > most) {
        r->too_large = true;
        free(r->body);
        r->body = NULL;
        r->len += n; /* counted on, so that an endless body can be cut off */
        return r->len > most + OVERRUN ? -1 : 0;
    }
    if (r->len + n + 1 > r->cap) {
        size_t cap = (r->len + n + 1) * 2;
        char *body = realloc(r->body, cap);
        if (!body) return -1;
        r->body = body;
        r->cap = cap;
    }
    memcpy(r->body + r->len, data, n);
    r->len += n;
    r->body[r->len] = '\0';
    return 0;
}

static enum MHD_Result on_part(void *cls, enum MHD_ValueKind kind, const char *key, const char *filename,
                               const char *type, const char *encoding, const char *data, uint64_t offset, size_t size) {
    (void)kind, (void)type, (void)encoding;
    mull_req *r = cls;
    if (key) r->part(r, key, filename, data ? data : "", offset, data ? size : 0, r->l->http->cfg.arg);
    return MHD_YES;
}

static int feed_form(mull_req *r, const char *data, size_t n) {
    r->form_len += n;
    if (r->form_len > r->form_max) {
        r->too_large = true;
        return r->form_len > r->form_max + OVERRUN ? -1 : 0;
    }
    peer *p = peer_of(r->conn);
    if (p) p->deadline += n * 1000 / SLOWEST_BYTES_S;
    if (r->form && MHD_post_process(r->form, data, n) != MHD_YES) r->broken = true;
    if (r->read) r->read(r);
    return 0;
}

/* Enters HANDLING, with the checks that need no handler. */
static void dispatch(mull_req *r) {
    mull_http *h = r->l->http;
    r->phase = HANDLING;
    enter(r);
    h->stats.requests++;
    peer *p = peer_of(r->conn);
    if (p) p->deadline = 0;
    size_t header_bytes = 0;
    MHD_get_connection_values(r->conn, MHD_HEADER_KIND, add_header_size, &header_bytes);
    if (header_bytes > MULL_HTTP_MAX_HEADER)
        mull_reply_error(r, 431, "header_too_large", "the request headers are larger than %d bytes",
                         MULL_HTTP_MAX_HEADER);
    else if (r->too_large)
        mull_reply_error(r, 413, "too_large", "the request body is larger than %llu bytes",
                         (unsigned long long)(r->part ? r->form_max : h->cfg.max_body));
    else if (h->closing)
        mull_reply_error(r, 503, "unavailable", "the server is stopping; try again");
    else if (r->part && !r->formed)
        mull_reply_error(r, 400, "bad_form", "the body is no form; send multipart/form-data");
    else
        h->cfg.handler(r, h->cfg.arg);
}

/* MHD calls this while it answers; a request that lost its response for want of memory closes the connection. */
static enum MHD_Result queue(mull_req *r) {
    r->phase = QUEUED;
    if (!r->response) return MHD_NO;
    enum MHD_Result ok = MHD_queue_response(r->conn, (unsigned)r->status, r->response);
    MHD_destroy_response(r->response);
    r->response = NULL;
    return ok;
}

/* MHD hands out what it still holds of the last value here. */
static void end_form(mull_req *r) {
    if (r->form && MHD_destroy_post_processor(r->form) != MHD_YES) r->formed = false;
    r->form = NULL;
}

static enum MHD_Result begin(listener *l, struct MHD_Connection *conn, const char *url, const char *method,
                             void **ctx) {
    mull_http *h = l->http;
    peer *p = peer_of(conn);
    mull_req *r = p ? calloc(1, sizeof *r + h->cfg.user_size) : NULL;
    if (!r) return MHD_NO;
    p->req = r;
    p->deadline = uv_now(h->loop) + REQUEST_MS;
    r->l = l;
    r->conn = conn;
    r->phase = BEGINNING;
    *ctx = r;
    enter(r); /* so that begin may reply */
    const char *why = mull__http_framing(conn);
    if (why) {
        r->unframed = true;
        mull_reply_error(r, 400, "bad_framing", "%s; the connection is closed", why);
        return queue(r);
    }
    if (h->cfg.begin) h->cfg.begin(r, strcmp(method, "HEAD") == 0 ? "GET" : method, url, h->cfg.arg);
    /* A declared length over the limit is refused before a byte of it is read. */
    const char *declared = MHD_lookup_connection_value(conn, MHD_HEADER_KIND, "Content-Length");
    if (!r->waits && r->phase == BEGINNING &&
        strtoull(declared ? declared : "0", NULL, 10) > (r->part ? r->form_max : h->cfg.max_body)) {
        r->too_large = true;
        leave(r);
        dispatch(r);
    }
    if (r->phase == REPLIED) return queue(r);
    if (r->waits) {
        r->suspended = true;
        MHD_suspend_connection(conn);
    } else {
        leave(r);
        r->phase = COLLECTING;
    }
    return MHD_YES;
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *conn, const char *url, const char *method,
                                  const char *version, const char *data, size_t *size, void **ctx) {
    (void)version;
    mull_req *r = *ctx;
    if (!r) return begin(cls, conn, url, method, ctx);
    if (r->phase == BEGINNING) { /* what begin waited for has come: MHD asks once more before the body */
        r->phase = COLLECTING;
        return MHD_YES;
    }
    if (r->phase == COLLECTING && r->l->http->closing && r->part) return MHD_NO;
    if (r->phase == COLLECTING) {
        if (*size > 0) {
            int rc = r->part ? feed_form(r, data, *size) : append(r, data, *size);
            *size = 0;
            if (rc == 0 && r->waits) {
                r->suspended = true;
                MHD_suspend_connection(conn);
            }
            return rc == 0 ? MHD_YES : MHD_NO;
        }
        r->formed = r->form && !r->broken;
        end_form(r);
        dispatch(r);
        if (r->phase == HANDLING) {
            r->suspended = true;
            MHD_suspend_connection(conn);
            return MHD_YES;
        }
    }
    if (r->phase == REPLIED) return queue(r);
    return r->phase == HANDLING ? MHD_YES : MHD_NO;
}

void mull_req_form(mull_req *r, uint64_t max, mull_form_cb part, mull_read_cb read) {
    r->part = part;
    r->read = read;
    r->form_max = max;
    r->form = MHD_create_post_processor(r->conn, FORM_BUFFER, on_part, r);
}

void mull_req_wait(mull_req *r) {
    r->waits = true;
}

void mull_req_go(mull_req *r) {
    if (r->abandoned) {
        free(r->body);
        free(r);
        return;
    }
    if (!r->waits) return;
    r->waits = false;
    if (r->phase == BEGINNING) leave(r);
    if (!r->suspended) return;
    r->suspended = false;
    resume(r->l, r->conn);
}

static void on_completed(void *cls, struct MHD_Connection *conn, void **ctx, enum MHD_RequestTerminationCode how) {
    (void)cls;
    (void)how;
    mull_req *r = *ctx;
    peer *p = peer_of(conn);
    if (p) {
        p->deadline = uv_now(p->http->loop) + REQUEST_MS;
        p->req = NULL;
    }
    if (!r) return;
    *ctx = NULL;
    if (r->response) MHD_destroy_response(r->response);
    r->response = NULL;
    if (r->form) MHD_destroy_post_processor(r->form);
    r->form = NULL;
    if (r->l->http->cfg.gone) r->l->http->cfg.gone(r, r->l->http->cfg.arg);
    if (r->orphan || r->listed) {
        r->abandoned = true;
        return;
    }
    free(r->body);
    free(r);
}

void *mull_req_user(mull_req *req) {
    return req->user;
}
bool mull_req_is_unix(const mull_req *req) {
    return req->l->is_unix;
}

const char *mull_req_query(const mull_req *req, const char *name) {
    return MHD_lookup_connection_value(req->conn, MHD_GET_ARGUMENT_KIND, name);
}

const char *mull_req_header(const mull_req *req, const char *name) {
    return MHD_lookup_connection_value(req->conn, MHD_HEADER_KIND, name);
}

const char *mull_req_body(const mull_req *req, size_t *len) {
    *len = req->len;
    return req->body ? req->body : "";
}

int mull_req_peer_uid(const mull_req *req, uid_t *uid) {
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(req->conn, MHD_CONNECTION_INFO_CONNECTION_FD);
    struct ucred cred;
    socklen_t len = sizeof cred;
    if (!req->l->is_unix || !info || getsockopt(info->connect_fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) != 0) return -1;
    *uid = cred.uid;
    return 0;
}

const char *mull_req_peer(const mull_req *req, char out[MULL_HTTP_PEER]) {
    const union MHD_ConnectionInfo *info =
        req->l->is_unix ? NULL : MHD_get_connection_info(req->conn, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    const struct sockaddr *a = info ? info->client_addr : NULL;
    strcpy(out, "unix");
    if (a && a->sa_family == AF_INET) {
        inet_ntop(AF_INET, &((const struct sockaddr_in *)(const void *)a)->sin_addr, out, MULL_HTTP_PEER);
    } else if (a && a->sa_family == AF_INET6) {
        struct in6_addr n = ((const struct sockaddr_in6 *)(const void *)a)->sin6_addr;
        if (IN6_IS_ADDR_V4MAPPED(&n)) {
            inet_ntop(AF_INET, n.s6_addr + 12, out, MULL_HTTP_PEER);
        } else {
            memset(n.s6_addr + 8, 0, 8);
            inet_ntop(AF_INET6, &n, out, MULL_HTTP_PEER);
        }
    }
    return out;
}

/* MHD hands out texts that end at the first NUL: %00 becomes a byte that no path, number or name has. */
static size_t unescape(void *cls, struct MHD_Connection *conn, char *s) {
    (void)cls;
    (void)conn;
    size_t n = MHD_http_unescape(s);
    for (size_t i = 0; i < n; i++)
        if (!s[i]) s[i] = 1;
    return n;
}

__attribute__((format(printf, 2, 0))) static void log_line(void *cls, const char *fmt, va_list ap) {
    const mull_http *h = cls;
    char line[300];
    vsnprintf(line, sizeof line, fmt, ap);
    if (h->cfg.log) h->cfg.log(line);
}

/* ---- server ---- */

mull_http *mull_http_create(const mull_http_config *config) {
    mull_http *h = calloc(1, sizeof *h);
    if (!h) return NULL;
    *h = (mull_http){.cfg = *config, .loop = config->loop};
    uv_timer_init(h->loop, &h->sweep);
    h->sweep.data = h;
    uv_timer_start(&h->sweep, on_sweep, SWEEP_MS, SWEEP_MS);
    return h;
}

int mull_http_listen(mull_http *h, int fd, bool is_unix, const mull_http_tls *tls, const char **why) {
    listener *l = h->listener_count < MAX_LISTENERS ? calloc(1, sizeof *l) : NULL;
    if (!l) {
        close(fd);
        *why = "out of memory, or too many listeners";
        return -1;
    }
    l->http = h;
    l->is_unix = is_unix;
    struct MHD_OptionItem secure[] = {
        {MHD_OPTION_HTTPS_MEM_CERT, 0, tls ? (void *)(uintptr_t)tls->cert : NULL},
        {MHD_OPTION_HTTPS_MEM_KEY, 0, tls ? (void *)(uintptr_t)tls->key : NULL},
        {MHD_OPTION_HTTPS_PRIORITIES, 0, (void *)(uintptr_t) "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2"},
        {MHD_OPTION_END, 0, NULL}};
    l->daemon = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG | (tls ? MHD_USE_TLS : 0), 0, NULL, NULL,
        on_request, l, MHD_OPTION_EXTERNAL_LOGGER, log_line, h, MHD_OPTION_UNESCAPE_CALLBACK, unescape, NULL,
        MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_NOTIFY_COMPLETED, on_completed, NULL, MHD_OPTION_NOTIFY_CONNECTION,
        on_connection, h, MHD_OPTION_PER_IP_CONNECTION_LIMIT, is_unix ? 0U : (unsigned)PER_IP,
        MHD_OPTION_CONNECTION_LIMIT, (unsigned)MULL_HTTP_MAX_CONNECTIONS, MHD_OPTION_CONNECTION_TIMEOUT,
        (unsigned)CONNECTION_TIMEOUT_S, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY,
        MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_ARRAY, tls ? secure : &secure[3], MHD_OPTION_END);
    const union MHD_DaemonInfo *info = l->daemon ? MHD_get_daemon_info(l->daemon, MHD_DAEMON_INFO_EPOLL_FD) : NULL;
    if (!info || uv_poll_init(h->loop, &l->poll, info->epoll_fd) != 0) {
        if (l->daemon)
            MHD_stop_daemon(l->daemon);
        else
            close(fd);
        free(l);
        *why = tls ? "libmicrohttpd refused to start with this certificate" : "libmicrohttpd refused to start";
        return -1;
    }
    uv_timer_init(h->loop, &l->timer);
    l->poll.data = l->timer.data = l;
    uv_poll_start(&l->poll, UV_READABLE, on_poll);
    h->listeners[h->listener_count++] = l;
    return 0;
}

void mull_http_quiesce(mull_http *h) {
    if (h->closing) return;
    h->closing = true;
    for (size_t i = 0; i < h->listener_count; i++) {
        MHD_socket fd = MHD_quiesce_daemon(h->listeners[i]->daemon);
        if (fd != MHD_INVALID_SOCKET) close(fd);
    }
    for (mull_stream *s = h->streams; s; s = s->next) mull_stream_end(s);
}

size_t mull_http_pending(const mull_http *h) {
    return h->pending;
}

void mull_http_close(mull_http *h) {
    mull_http_quiesce(h);
    uv_close((uv_handle_t *)&h->sweep, NULL);
    /* Forms in the middle: on_request ends their connections. */
    for (peer *p = h->peers; p; p = p->next)
        if (p->req && p->req->phase == COLLECTING) mull_req_go(p->req);
    while (h->reqs) {
        mull_req *r = h->reqs;
        mull_reply_error(r, 503, "unavailable", "the server is stopping; try again");
        r->orphan = true;
    }
    for (size_t i = 0; i < h->listener_count; i++) {
        listener *l = h->listeners[i];
        /* MHD wants no suspended connection when it stops: one round lets the resumed ones send their last words. */
        run(l);
        uv_poll_stop(&l->poll);
        MHD_stop_daemon(l->daemon);
        l->daemon = NULL;
        uv_close((uv_handle_t *)&l->poll, NULL);
        uv_close((uv_handle_t *)&l->timer, NULL);
    }
}

void mull_http_destroy(mull_http *h) {
    if (!h) return;
    for (size_t i = 0; i < h->listener_count; i++) free(h->listeners[i]);
    free(h);
}

mull_http_stats mull_http_get_stats(const mull_http *h) {
    mull_http_stats s = h->stats;
    for (size_t i = 0; i < h->listener_count; i++) {
        const union MHD_DaemonInfo *info =
            h->listeners[i]->daemon ? MHD_get_daemon_info(h->listeners[i]->daemon, MHD_DAEMON_INFO_CURRENT_CONNECTIONS)
                                    : NULL;
        if (info) s.connections += info->num_connections;
    }
    return s;
}
