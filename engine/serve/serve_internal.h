/* What the two threads of `serve` share; serve.h says who does what. */
#ifndef MULL_ENGINE_SERVE_SERVE_INTERNAL_H
#define MULL_ENGINE_SERVE_SERVE_INTERNAL_H

#include "engine/serve/ask.h"
#include "engine/serve/listen.h"
#include "engine/serve/serve.h"

#include "schema/http/http.h"

#include <pthread.h>

enum { MULL_SERVE_KEYS = 64 };

/* A request under way. The HTTP thread's, but for slot (the engine thread's) and what is read-only once sent. */
typedef struct mull__call {
    mull__ask ask;
    struct mull__server *server;
    mull_req *req;    /* a reply is owed, NULL: not any more */
    mull_stream *out; /* of a streamed answer; NULL: closed */
    bool sent;        /* the engine has it */
    bool gone;        /* nobody waits for the answer */
    uv_work_t work;
    struct mull__call *prev, *next; /* all calls */
    int slot;
} mull__call;

typedef enum mull__note_kind { MULL_NOTE_SUBMIT, MULL_NOTE_CANCEL, MULL_NOTE_TEXT, MULL_NOTE_END } mull__note_kind;

/* From thread to thread. */
typedef struct mull__note {
    struct mull__note *next;
    mull__note_kind kind;
    mull__call *call;
    int choice;
    /* TEXT: bytes; END: how and how much, or what went wrong */
    char *text;
    size_t len;
    mull_finish finish;
    int64_t tokens, prompt_tokens;
    mull_error *err;
} mull__note;

typedef struct mull__notes {
    mull__note *first, *last;
} mull__notes;

typedef struct mull__serve_stats {
    int64_t requests, refused, prompt_tokens, output_tokens;
} mull__serve_stats;

typedef struct mull__server {
    const mull_session *session;
    const mull_job *job;
    mull__ask_rules rules;
    mull__roots roots;
    char *model; /* the name */
    int64_t created;
    int most; /* calls under way */
    char *keys[MULL_SERVE_KEYS];
    size_t nkeys;
    mull__listen listen;
    /* both threads, under lock */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    mull__notes inbox, outbox; /* to the engine, from the engine */
    bool draining, closing;
    mull__serve_stats stats;
    int calls_now; /* calls under way */
    /* the HTTP thread's */
    pthread_t thread;
    bool started;
    uv_loop_t loop;
    uv_async_t wake;
    mull_http *http;
    mull__call *calls;
    int ncalls;
    bool closed;
} mull__server;

void mull__notes_add(mull__notes *q, mull__note *n);
void mull__note_free(mull__note *n);

/* server.c. Starts the HTTP thread on s->listen; s is filled but for the thread's own. */
int mull__server_start(mull__server *s, mull_error *err);
/* Closes everything and joins the thread. Nothing of the engine may hold a call any more. */
void mull__server_stop(mull__server *s);

#endif
