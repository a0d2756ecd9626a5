/* HTTP requests going out, on the libuv loop: libcurl's multi interface, whose sockets and timer are the loop's, so
 * that nothing waits. Names are looked up by libcurl's own thread. For URLs that others have chosen: http and https
 * only, no redirects, no proxy, only addresses that the guard permits, bounded in time and in what is read. */
#ifndef MULL_SCHEDULER_HTTP_OUT_H
#define MULL_SCHEDULER_HTTP_OUT_H

#include "scheduler/net_guard.h"

#include <stddef.h>
#include <uv.h>

typedef struct mull_http_out mull_http_out;

/* guard is borrowed. NULL without memory. */
mull_http_out *mull_http_out_create(uv_loop_t *loop, const mull_net_guard *guard);

/* status: of HTTP, 0: there was no answer, and error says why ("" otherwise). From the loop, never from inside post. */
typedef void (*mull_http_out_cb)(int status, const char *error, void *arg);
/* POSTs body (copied) with headers ("Name: value", NULL at the end, copied). 0; -1 without memory: no callback. */
int mull_http_out_post(mull_http_out *h, const char *url, const char *const *headers, const char *body, size_t len,
                       mull_http_out_cb cb, void *arg);
/* What is under way ends without its callback being called; run the loop until its handles are closed, then destroy. */
void mull_http_out_close(mull_http_out *h);
void mull_http_out_destroy(mull_http_out *h);

/* Whether url may be posted to as far as its text tells: http or https with a host, without user and password, at most
 * 2000 bytes. NULL, or why not. */
const char *mull_http_out_url_problem(const char *url);

#endif
