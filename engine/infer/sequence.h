/* One request on its way through the engine: its tokens (prompt, then output), where its pages are, what it has said.
 * Invariant: the cache holds keys and values of tokens[0, computed); everything from there on is still to be run,
 * whether it is prompt, or output whose pages were taken away. */
#ifndef MULL_ENGINE_INFER_SEQUENCE_H
#define MULL_ENGINE_INFER_SEQUENCE_H

#include "engine/infer/constraint.h"
#include "engine/infer/features.h"
#include "engine/infer/infer.h"
#include "engine/infer/kv_cache.h"
#include "engine/infer/sampler.h"
#include "engine/infer/stop.h"

/* A medium of a sequence: tokens[first, first + media->tokens) are its placeholders. */
typedef struct mull_seq_medium {
    const mull_media *media; /* the caller's */
    mull_page_key key;
    size_t first;
    mull_feature *feature; /* held while rows need it, else NULL */
} mull_seq_medium;

typedef struct mull_seq {
    uint64_t id;
    mull_sampling how; /* its stop strings are not used: stream has copies */
    int32_t *tokens;   /* [max_len], len of them valid, the first prompt of them given */
    int64_t len, prompt, max_len, computed;
    int32_t *pos;  /* [3, prompt] positions of the prompt */
    int64_t delta; /* token k of the output stands at k + delta */
    mull_seq_medium *media;
    size_t nmedia;
    int32_t *pages; /* [npages] held, room for max_len */
    int64_t npages;
    mull_page_key *keys; /* [nkeys] of full pages, as far as they were computed */
    int64_t nkeys, published;
    mull_idset seen;
    mull_constraint *rule; /* the engine's, a reference; NULL: none */
    int32_t rule_state;
    mull_stream stream;
    mull_detok detok;
    float *logprobs; /* [max_len - prompt] or NULL */
    bool cancelled, matched, done;
    int64_t cached;                       /* prompt tokens found in the cache the first time it ran, -1 before */
    double start_ms, first_ms, vision_ms; /* first_ms: when the first output token came, 0 before */
    int64_t rows;                         /* in the batch being built */
    struct mull_seq *next;
} mull_seq;

/* Checks r against the model (ids, media, sampling) and copies it. max_len: the longest prompt + output the cache can
 * hold; a prompt that leaves no room for a token is MULL_ELIMIT. tok may be NULL. */
int mull_seq_create(const mull_config *c, const mull_tokenizer *tok, const mull_request *r, int64_t max_len,
                    mull_seq **out, mull_error *err);
/* Its pages and features must have been released. */
void mull_seq_destroy(mull_seq *s);

/* Takes known pages for the beginning of s, all but at least one token; returns how many tokens they hold. */
int64_t mull_seq_match(mull_seq *s, mull_kv_cache *kv);
/* Full pages of tokens [0, len - 1) of s whose content is also that of the beginning of other's tokens. */
int64_t mull_seq_common(mull_seq *s, mull_seq *other);
/* Takes pages for tokens [0, end); false when there are not enough (those taken stay with s). */
bool mull_seq_grow(mull_seq *s, mull_kv_cache *kv, int64_t end);
/* Publishes the pages that tokens [0, computed) fill. */
void mull_seq_publish(mull_seq *s, mull_kv_cache *kv);
/* Gives back all pages and features: s has to be computed again from the first token, or from what is still cached. */
void mull_seq_release(mull_seq *s, mull_kv_cache *kv, mull_features *f);

static inline int64_t mull_pages_of(int64_t tokens) {
    return (tokens + MULL_PAGE_TOKENS - 1) / MULL_PAGE_TOKENS;
}

#endif
