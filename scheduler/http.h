/* The HTTP server: libmicrohttpd driven by the libuv loop, one thread, nothing that blocks.
 *
 * Each listener is an MHD daemon in epoll mode without threads of its own; its epoll descriptor is polled by libuv and
 * MHD_run is called when it stirs or when its own timeout has come. A request is collected whole (bounded), handed to
 * the one handler, and its connection suspended until the handler has replied, which may be much later, when
 * PostgreSQL has answered. A suspended connection cannot go away, so a mull_req is valid until its reply; after the
 * reply it must not be touched. */
#ifndef MULL_SCHEDULER_HTTP_H
#define MULL_SCHEDULER_HTTP_H

#include "scheduler/route.h"
#include "schema/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <uv.h>

typedef struct mull_http mull_http;
typedef struct mull_req mull_req;
typedef struct mull_stream mull_stream;

typedef enum mull_role { MULL_ROLE_NONE, MULL_ROLE_VIEWER, MULL_ROLE_MEMBER, MULL_ROLE_ADMIN } mull_role;

/* Who asks; filled by the authentication before a handler of a closed route runs. */
typedef struct mull_identity {
    char user[64];
    char team[64]; /* "" = any team */
    mull_role role;
} mull_identity;

/* Called once per complete request; must lead to exactly one reply or stream. */
typedef void (*mull_http_handler)(mull_req *req, void *arg);

/* NULL without memory. */
mull_http *mull_http_create(uv_loop_t *loop, mull_http_handler handler, void *arg);
/* Serves a listening socket, which it takes over in every case. 0 or negative with err. */
int mull_http_listen(mull_http *http, int fd, bool is_unix, mull_err *err);
/* Stops accepting and ends every stream; requests under way may still be answered. */
void mull_http_quiesce(mull_http *http);
/* Requests and streams not finished yet. */
size_t mull_http_pending(const mull_http *http);
/* Answers what is left with 503, closes everything. The loop must still be run once for handles to close; then
 * mull_http_destroy frees the rest. A handler that has not replied yet must still do so (the reply goes nowhere and
 * frees the request), and may ask nothing else of it. */
void mull_http_close(mull_http *http);
void mull_http_destroy(mull_http *http);

/* Request. Strings are valid until the reply. */
const mull_route *mull_req_route(const mull_req *req);
/* The job that ARRAY_INDEX in the path means. */
void mull_req_set_job(mull_req *req, int64_t job);
const char *mull_req_query(const mull_req *req, const char *name); /* NULL when not given */
const char *mull_req_header(const mull_req *req, const char *name);
const char *mull_req_body(const mull_req *req, size_t *len);
bool mull_req_is_unix(const mull_req *req);
int mull_req_peer_uid(const mull_req *req, uid_t *uid); /* SO_PEERCRED of a unix socket; 0 or -1 */
mull_identity *mull_req_who(mull_req *req);

/* Replies. Each ends the request; body and json are taken over. */
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
