/* Byte-level BPE from a Hugging Face tokenizer.json; the file comment of tokenizer.c has the algorithm. */
#ifndef MULL_ENGINE_TEXT_TOKENIZER_H
#define MULL_ENGINE_TEXT_TOKENIZER_H

#include "engine/core/buf.h"

#include <stdbool.h>

typedef struct mull_tokenizer mull_tokenizer;

/* Loads dir/tokenizer.json (and the flags of dir/tokenizer_config.json when present). */
int mull_tokenizer_load(const char *dir, mull_tokenizer **out, mull_error *err);
/* The same from memory (for the fuzzer); name is used in errors. */
int mull_tokenizer_parse(const char *json, size_t len, const char *name, mull_tokenizer **out, mull_error *err);
void mull_tokenizer_destroy(mull_tokenizer *t);
/* Entries: highest id + 1, added tokens included. */
int mull_tokenizer_size(const mull_tokenizer *t);
/* Id of an added (special) token by its exact text, -1 when there is none. */
int32_t mull_tokenizer_special(const mull_tokenizer *t, const char *text);
/* Appends the ids of text[len]. special: added tokens spelled in the text become their ids; false for
 * anything a user wrote (added tokens that are not special, such as <tool_call>, are words either way). Invalid UTF-8
 * becomes U+FFFD per maximal subpart first. Thread-safe. */
int mull_tokenizer_encode(const mull_tokenizer *t, const char *text, size_t len, bool special, mull_ids *out,
                          mull_error *err);
/* The bytes that an id stands for, in the tokenizer's memory. False for what is not text: unknown ids and special
 * tokens. */
bool mull_tokenizer_text(const mull_tokenizer *t, int32_t id, const char **text, uint32_t *len);
/* Whole decode; unknown ids are an error. */
int mull_tokenizer_decode(const mull_tokenizer *t, const int32_t *ids, size_t n, bool skip_special, mull_buf *out,
                          mull_error *err);

/* Streaming decode: an unfinished UTF-8 character is held back until it is whole. */
typedef struct mull_detok {
    const mull_tokenizer *tok;
    bool skip_special;
    char held[8];
    int nheld;
} mull_detok;

void mull_detok_init(mull_detok *d, const mull_tokenizer *t, bool skip_special);
/* Appends to out what can be printed once id is known. */
int mull_detok_push(mull_detok *d, int32_t id, mull_buf *out, mull_error *err);
/* Appends what was held back, as U+FFFD. */
int mull_detok_flush(mull_detok *d, mull_buf *out);

#endif
