/* The parts of a tokenizer: vocabulary and merges (bpe.c), the splitting expression (pretokenize.c), added tokens. */
#ifndef MULL_ENGINE_TEXT_TOKENIZER_INTERNAL_H
#define MULL_ENGINE_TEXT_TOKENIZER_INTERNAL_H

#include "engine/text/tokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

typedef struct mull_token {
    const char *text; /* raw bytes, in the arena; NULL: no token has this id */
    uint32_t len;
    bool added, special;
} mull_token;

typedef struct mull_added {
    const char *text;
    uint32_t len;
    int32_t id;
    bool lstrip, rstrip, normalized, single_word;
} mull_added;

/* (left, right) -> (rank, merged): open addressing, key 0 empty (keys are (left + 1) << 32 | right). */
typedef struct mull_merge {
    uint64_t key;
    int32_t rank, merged;
} mull_merge;

struct mull_tokenizer {
    mull_token *tokens; /* [size] */
    int size;
    char *arena;
    mull_merge *merges;
    uint64_t merge_mask;
    int32_t byte_id[256];
    mull_added *added; /* longest first */
    int nadded;
    bool first[256]; /* bytes that begin an added token */
    bool nfc, ignore_merges;
    int32_t *words; /* text -> id over the vocabulary: hash slots holding id + 1 */
    uint64_t word_mask;
    pcre2_code *split; /* NULL: the whole text is one piece */
};

uint64_t mull__hash_bytes(const char *s, size_t n);
/* Id of a vocabulary entry by its bytes, -1 when there is none. */
int32_t mull__vocab_find(const mull_tokenizer *t, const char *s, size_t n);
/* Appends the ids of one piece of the splitter. */
int mull__bpe(const mull_tokenizer *t, const char *s, size_t n, mull_ids *out, mull_error *err);
/* Compiles the splitting expression of tokenizer.json. */
int mull__split_compile(const char *regex, const char *name, pcre2_code **out, mull_error *err);
/* Splits valid UTF-8 and appends the ids of all pieces. */
int mull__split_encode(const mull_tokenizer *t, const char *s, size_t n, mull_ids *out, mull_error *err);

#endif
