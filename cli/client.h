/* The front door as seen by the commands: JSON over HTTP, on the unix socket of the state folder, or at MULL_SERVER
 * (http://HOST:PORT, https://…, tcp:HOST:PORT or unix:PATH) with the token in MULL_TOKEN. */
#ifndef MULL_CLI_CLIENT_H
#define MULL_CLI_CLIENT_H

#include "schema/error.h"

#include <jansson.h>
#include <stdbool.h>

typedef struct mull_client mull_client;

/* No connection is made yet. NULL with err. */
mull_client *mull_client_open(mull_err *err);
void mull_client_close(mull_client *c);
const char *mull_client_server(const mull_client *c);

typedef struct mull_reply {
    int status;   /* HTTP */
    json_t *json; /* may be NULL */
} mull_reply;

/* One request; body (may be NULL) is borrowed. 0 with a reply of any status, or MULL_ERR_UNAVAILABLE with err when the
 * server cannot be reached. json_decref(out->json) is the caller's. */
int mull_client_call(mull_client *c, const char *method, const char *path, const json_t *body, mull_reply *out,
                     mull_err *err);
/* The same for commands: prints every error, whichever its kind, and gives the exit status; on success *out is a new
 * reference. 404 and the like are MULL_EXIT_FAILED, a refused spec or query is MULL_EXIT_USAGE. */
int mull_client_get(mull_client *c, const char *method, const char *path, const json_t *body, json_t **out);
/* Prints the {"error"} of a reply; its exit status. lines (may be NULL) maps "path" to a line of file. */
int mull_client_refused(const mull_reply *r, const json_t *lines, const char *file);

/* Server-sent events until the stream ends, the connection breaks or on_event says stop (returns nonzero). 0: ended by
 * one side; MULL_ERR_UNAVAILABLE: could not connect, or broke. *status is the HTTP status, and when that is not 200
 * *error (a new reference or NULL) is the body. */
typedef int (*mull_sse_cb)(const char *event, const json_t *data, void *arg);
int mull_client_follow(mull_client *c, const char *path, mull_sse_cb on_event, void *arg, int *status, json_t **error,
                       mull_err *err);

/* Decodes chunks of a text/event-stream; pure, so that tests and a fuzzer can feed it anything. */
typedef struct mull_sse {
    char *line;
    size_t len, cap;
    char event[32];
    char *data;
    size_t data_len, data_cap;
    mull_sse_cb cb;
    void *arg;
    int stopped; /* what the callback returned */
    bool failed; /* out of memory, or a line over MULL_SSE_LINE_MAX */
} mull_sse;
enum { MULL_SSE_LINE_MAX = 4 << 20 };
void mull_sse_feed(mull_sse *s, const char *bytes, size_t n);
void mull_sse_fini(mull_sse *s);

#endif
