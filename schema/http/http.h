/* The HTTP server: libmicrohttpd driven by a libuv loop, one thread, nothing that blocks. The front door and the
 * engine's `serve` both use it; it knows neither routes nor jobs and links nothing else of ours.
 *
 * Each listener is an MHD daemon in epoll mode without threads of its own; its epoll descriptor is polled by libuv and
 * MHD_run is called when it stirs or when its own timeout has come. A request is collected whole (bounded), or its form
 * is handed on piece by piece, then it goes to the one handler, and its connection is suspended until the handler has
 * replied, which may be much later, when PostgreSQL or a model has answered. A suspended connection cannot go away, so
 * a mull_req is valid until its reply; after the reply it must not be touched. */
#ifndef MULL_SCHEMA_HTTP_H
#define MULL_SCHEMA_HTTP_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <uv.h>

typedef struct mull_http mull_http;
typedef struct mull_req mull_req;
typedef struct mull_stream mull_stream;

enum { MULL_HTTP_MAX_HEADER = 16 << 10, MULL_HTTP_MAX_CONNECTIONS = 1000 };

/* Called once per complete request; must lead to exactly one reply or stream. */
typedef void (*mull_http_handler)(mull_req *req, void *arg);

typedef struct mull_http_config {
    uv_loop_t *loop;
    mull_http_handler handler;
    void *arg;        /* of every function here */
    size_t max_body;  /* bytes that are collected */
    size_t user_size; /* bytes of the caller's own that each request carries, zeroed: mull_req_user */
    /* The head of a request is read; path is percent-decoded and without query. May call mull_req_form and
     * mull_req_wait, nothing else. May be NULL. */
    void (*begin)(mull_req *req, const char *method, const char *path, void *arg);
    /* A request for which begin was called is no more, whatever became of it. May be NULL. */
    void (*gone)(mull_req *req, void *arg);
    /* A reply has been given, of this status; nothing of the request has gone yet. May be NULL. */
    void (*answered)(mull_req *req, int status, void *arg);
    /* The peer of a request that waits for its reply has closed; noticed within seconds. The reply is still owed. May
     * be NULL. */
    void (*hangup)(mull_req *req, void *arg);
    /* The body of an error. */
    json_t *(*error_json)(int status, const char *code, const char *message);
    void (*log)(const char *line); /* what clients do wrong; may be NULL */
} mull_http_config;

/* NULL without memory. */
mull_http *mull_http_create(const mull_http_config *config);
/* A certificate chain and its key as PEM texts, which must stay as long as the server. */
typedef struct mull_http_tls {
    const char *cert, *key;
} mull_http_tls;

/* Serves a listening socket, which it takes over in every case; over TLS 1.2 or later where tls is given. 0, or -1 and
 * why. */
int mull_http_listen(mull_http *http, int fd, bool is_unix, const mull_http_tls *tls, const char **why);
/* Stops accepting and ends every stream; requests under way may still be answered. */
void mull_http_quiesce(mull_http *http);
/* Requests and streams not finished yet. */
size_t mull_http_pending(const mull_http *http);
/* Answers what is left with 503, closes everything. The loop must still be run once for handles to close; then
 * mull_http_destroy frees the rest. A handler that has not replied yet must still do so (the reply goes nowhere and
 * frees the request), and may ask nothing else of it. */
void mull_http_close(mull_http *http);
void mull_http_destroy(mull_http *http);

/* In begin: the body is a form (multipart/form-data or urlencoded) of at most max bytes, whose fields go to part as
 * they arrive: name, filename (NULL: none), and the bytes at offset of its value. read is called after each of the
 * server's reads, when all parts of it (64 KiB at most) have been handed out; it may call mull_req_wait, and the next
 * read comes after mull_req_go. What part cannot use it drops, and the handler says so at the end. A body that is no
 * form is refused with 400. */
typedef void (*mull_form_cb)(mull_req *req, const char *name, const char *filename, const char *data, uint64_t offset,
                             size_t n, void *arg);
typedef void (*mull_read_cb)(mull_req *req);
void mull_req_form(mull_req *req, uint64_t max, mull_form_cb part, mull_read_cb read);
/* Nothing more is read of this request before mull_req_go. In begin a reply may end the wait instead. */
void mull_req_wait(mull_req *req);
void mull_req_go(mull_req *req);

/* Request. Strings are valid until the reply. */
void *mull_req_user(mull_req *req);
const char *mull_req_query(const mull_req *req, const char *name); /* NULL when not given */
const char *mull_req_header(const mull_req *req, const char *name);
const char *mull_req_body(const mull_req *req, size_t *len);
bool mull_req_is_unix(const mull_req *req);
/* The peer's address, of IPv6 the network (its first 64 bits, which one subscriber has); "unix" on a unix socket. */
enum { MULL_HTTP_PEER = 48 };
const char *mull_req_peer(const mull_req *req, char out[MULL_HTTP_PEER]);
int mull_req_peer_uid(const mull_req *req, uid_t *uid); /* SO_PEERCRED of a unix socket; 0 or -1 */

/* Replies: once a request, from the handler on (or in place of mull_req_go while begin waits). Each ends the request;
 * body and json are taken over. */
void mull_reply(mull_req *req, int status, const char *content_type, char *body, size_t len);
void mull_reply_json(mull_req *req, int status, json_t *json);
void mull_reply_error(mull_req *req, int status, const char *code, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* Streams (server-sent events). on_idle is called when everything written has been sent and more is wanted; on_close
 * exactly once, when the peer is gone or the stream has ended: afterwards the stream must not be touched. NULL (and a
 * 503 reply) without memory. */
typedef void (*mull_stream_cb)(mull_stream *stream, void *arg);
mull_stream *mull_reply_stream(mull_req *req, const char *content_type, mull_stream_cb on_idle, mull_stream_cb on_close,
                               void *arg);
/* Queues a copy of the bytes. 0 or -1 without memory. */
int mull_stream_write(mull_stream *stream, const char *data, size_t len);
void mull_stream_end(mull_stream *stream);

typedef struct mull_http_stats {
    uint64_t requests, replies_2xx, replies_4xx, replies_5xx;
    size_t connections;
} mull_http_stats;
mull_http_stats mull_http_get_stats(const mull_http *http);

#endif
