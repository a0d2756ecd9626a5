/* One request for a completion: read from its bytes, made ready for the engine, answered. */
#ifndef MULL_ENGINE_SERVE_ASK_H
#define MULL_ENGINE_SERVE_ASK_H

#include "engine/annotate/record.h"
#include "engine/annotate/roots.h"
#include "engine/annotate/row.h"
#include "engine/job/events.h"
#include "engine/job/spec.h"

typedef struct mull__ask {
    mull_row row; /* its strings live in row.json */
    bool streamed, with_usage;
    mull_ids ids;
    mull_media *media;
    const mull_media **list;
    size_t nmedia;
    /* what is wrong with it: an HTTP status, 0: nothing */
    int status;
    const char *code;
    mull_error err;
    /* the answer */
    char id[48];
    int64_t created, prompt_tokens;
    mull__choice *choices; /* [row.choices] */
    int left;              /* choices that have not ended */
} mull__ask;

/* What requests are measured by. */
typedef struct mull__ask_rules {
    const mull_session *session; /* may be NULL for mull__ask_parse */
    const mull__roots *roots;    /* NULL: data: URLs only */
    const char *model;           /* the name that is served */
    mull_sampling sampling;
} mull__ask_rules;

/* The bytes alone: a pure function. 0, or a->status, code and err say what is wrong. */
int mull__ask_parse(const mull__ask_rules *rules, const char *body, size_t len, mull__ask *a);
/* Media and tokens, after a good parse. */
int mull__ask_prepare(const mull__ask_rules *rules, mull__ask *a);
void mull__ask_fini(mull__ask *a);

/* {"error":{"message","type","param","code"}} */
json_t *mull__serve_error(int status, const char *code, const char *message, const char *param);
json_t *mull__ask_error(const mull__ask *a);
/* The chat.completion object. */
json_t *mull__ask_answer(const mull__ask *a, const char *model);
/* Server-sent events appended to out: the first chunk of a choice, a piece of text, its end, the end of all. */
int mull__ask_chunk_begin(const mull__ask *a, const char *model, int choice, mull_buf *out);
int mull__ask_chunk_text(const mull__ask *a, const char *model, int choice, const char *text, size_t n, mull_buf *out);
int mull__ask_chunk_end(const mull__ask *a, const char *model, int choice, mull_buf *out);
int mull__ask_chunk_done(const mull__ask *a, const char *model, mull_buf *out);
/* An error in the middle of a stream. */
int mull__ask_chunk_error(const mull__ask *a, mull_buf *out);

#endif
