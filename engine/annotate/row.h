/* One row of the input: a request of OpenAI's Batch format or a plain {"messages"} object, checked as far as its bytes
 * tell. What a row asks for beyond what the engine does (tools, streaming, log-probs ...) is an error of that row,
 * never silently left out. */
#ifndef MULL_ENGINE_ANNOTATE_ROW_H
#define MULL_ENGINE_ANNOTATE_ROW_H

#include "engine/infer/infer.h"
#include "engine/text/chat.h"

/* X(symbol, name in the error record) */
#define MULL_ROW_CODES(X)                                                                                              \
    X(JSON, "invalid_json")                                                                                            \
    X(REQUEST, "invalid_request")                                                                                      \
    X(UNSUPPORTED, "unsupported")                                                                                      \
    X(TOO_LONG, "row_too_long")                                                                                        \
    X(DUPLICATE, "duplicate_custom_id")                                                                                \
    X(MEDIA, "invalid_media")                                                                                          \
    X(CONTEXT, "context_length_exceeded")                                                                              \
    X(INTERNAL, "internal_error")

typedef enum mull_row_code {
    MULL_ROW_OK,
#define X(symbol, name) MULL_ROW_##symbol,
    MULL_ROW_CODES(X)
#undef X
} mull_row_code;
const char *mull_row_code_name(mull_row_code code);

/* What an error about a row begins with. */
#define MULL_ROW_WHAT "cannot use the row"

enum { MULL_ROW_CHOICES_MAX = 128, MULL_ROW_STOPS_MAX = 64 };

/* Strings and parts belong to json. */
typedef struct mull_row {
    json_t *json;
    bool batch;            /* Batch format; else the row itself is the body */
    bool openai;           /* OpenAI's bounds hold: Batch format, or a request of a client */
    const char *custom_id; /* NULL: none; set even when the rest is wrong */
    const json_t *body, *messages;
    const char *model; /* as asked, NULL: none */
    mull_media_ref *refs;
    size_t nrefs;
    int choices;            /* n */
    bool seeded;            /* the row has its own seed */
    mull_sampling sampling; /* the job's, overridden; stop points into stops */
    const char *stops[MULL_ROW_STOPS_MAX];
    char *regex; /* of the row itself; sampling.regex is it, or the job's */
} mull_row;

/* base: the job's sampling. On a failure *code says of what kind, err why, and row still has custom_id when there was
 * one. Free row with mull_row_fini either way. A pure function of the bytes and base. */
int mull_row_parse(const char *data, size_t len, const mull_sampling *base, mull_row *row, mull_row_code *code,
                   mull_error *err);
/* The same of a client's request that is JSON already; takes the reference. */
int mull_row_parse_body(json_t *body, const mull_sampling *base, mull_row *row, mull_row_code *code, mull_error *err);
void mull_row_fini(mull_row *row);

#endif
