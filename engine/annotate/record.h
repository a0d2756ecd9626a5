/* The lines of output.jsonl and errors.jsonl: pure functions of row, spec and model, so that a row that is done again
 * gives the same bytes. Ids are digests; "created" is 0, for a clock would differ from run to run. */
#ifndef MULL_ENGINE_ANNOTATE_RECORD_H
#define MULL_ENGINE_ANNOTATE_RECORD_H

#include "engine/annotate/row.h"

#include "engine/core/buf.h"

typedef struct mull__choice {
    char *text; /* owned */
    size_t len;
    mull_finish finish;
    int64_t tokens;
} mull__choice;

/* What makes an id: the digest of spec and model, the row's number and its bytes. */
typedef struct mull__row_id {
    char hex[65];
} mull__row_id;
void mull__row_id_make(const char *work_hex, int64_t row, const char *data, size_t len, mull__row_id *out);

/* The request of an answer: what is kept of a row while it is computed. */
typedef struct mull__asked {
    bool batch;
    const char *custom_id, *model; /* may be NULL: a plain row without; the checkpoint's name */
    int64_t line;
} mull__asked;

/* The chat.completion object; id is stolen, model may be NULL. */
json_t *mull__completion(json_t *id, int64_t created, const char *model, const mull__choice *choices, int n,
                         int64_t prompt_tokens);

/* {"id","custom_id","response":{...chat.completion...},"error":null}; plain rows have "line" too. */
int mull__record_answer(const mull__asked *a, const mull__row_id *id, const mull__choice *choices, int n,
                        int64_t prompt_tokens, mull_buf *out, mull_error *err);
/* {"id","custom_id","line","response":null,"error":{"code","message","line"}} */
int mull__record_error(const mull__asked *a, const mull__row_id *id, const char *code, const mull_error *why,
                       mull_buf *out, mull_error *err);

#endif
