/* The paged cache of keys and values. A page holds page_tokens consecutive tokens of one sequence for all layers;
 * sequences that start with the same tokens and media share their full pages. Pages are counted by reference; a page
 * that nobody holds but whose content is known stays until its room is needed (least recently used goes first).
 * The pool is reserved address space: memory is taken when a page is first written. */
#ifndef MULL_ENGINE_INFER_KV_CACHE_H
#define MULL_ENGINE_INFER_KV_CACHE_H

#include "engine/model/lm.h"

/* Names the content of a page: a digest over everything that its keys and values depend on, from the first token of
 * the sequence on. SHA-256, so that no two contents share one by accident or by intent. */
typedef struct mull_page_key {
    uint8_t bytes[32];
} mull_page_key;

typedef struct mull_kv_cache mull_kv_cache;

/* Room for tokens tokens (rounded up to pages). share: keep the content of released pages for later sequences. */
int mull_kv_cache_create(const mull_config *c, int64_t tokens, bool share, mull_kv_cache **out, mull_error *err);
/* The same where m computes and in the type it keeps; m outlives the cache. */
int mull_kv_cache_create_for(const mull_model *m, int64_t tokens, bool share, mull_kv_cache **out, mull_error *err);
void mull_kv_cache_destroy(mull_kv_cache *kv);
/* What the attention of one layer reads and writes. */
mull_kv_view mull_kv_cache_layer(const mull_kv_cache *kv, int layer);

int32_t mull_kv_cache_pages(const mull_kv_cache *kv);     /* all */
int32_t mull_kv_cache_available(const mull_kv_cache *kv); /* free, or held by nobody */
size_t mull_kv_cache_page_bytes(const mull_kv_cache *kv);
int32_t mull_kv_cache_peak_pages(const mull_kv_cache *kv); /* most pages ever touched */

/* A page of unknown content with one reference, or -1 when all are held. */
int32_t mull_kv_cache_take(mull_kv_cache *kv);
/* The page of this content with one more reference, or -1. */
int32_t mull_kv_cache_find(mull_kv_cache *kv, const mull_page_key *key);
/* States what a full page holds. If another page already has this content, nothing changes: both stay valid. */
void mull_kv_cache_publish(mull_kv_cache *kv, int32_t page, const mull_page_key *key);
void mull_kv_cache_release(mull_kv_cache *kv, int32_t page);
/* What the pages that nobody holds contain is not known any more. */
void mull_kv_cache_forget(mull_kv_cache *kv);
bool mull_kv_cache_shares(const mull_kv_cache *kv);

/* The key of what follows parent (NULL: of a beginning). False when the digest cannot be computed (no memory): the
 * content is then not shared, which costs time only. */
bool mull_page_key_next(mull_page_key *out, const mull_page_key *parent, const void *content, size_t len);

#endif
