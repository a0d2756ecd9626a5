/* Media of rows, each loaded once as long as it is wanted soon again: several prompts about one image, or rows that
 * share one, decode and resize it a single time (and the engine sees the same features again). What is kept unused is
 * bounded in bytes; the least recently used goes first. Thread-safe. */
#ifndef MULL_ENGINE_ANNOTATE_MEDIA_CACHE_H
#define MULL_ENGINE_ANNOTATE_MEDIA_CACHE_H

#include "engine/annotate/roots.h"

typedef struct mull__media_cache mull__media_cache;
typedef struct mull__medium mull__medium;

/* unused: bytes of patches that are kept for later. NULL without memory. */
mull__media_cache *mull__media_cache_create(int64_t unused);
/* Nothing of it may be in use. */
void mull__media_cache_destroy(mull__media_cache *c);
/* Loads ref as mull__roots_load does, or takes it from the cache: the same words in the request, the same limits, and
 * for a file the same content as far as size and times of change tell. */
int mull__media_cache_get(mull__media_cache *c, const mull__roots *roots, const mull_media_ref *ref,
                          const mull_media_limits *limits, mull__medium **out, mull_error *err);
void mull__media_cache_put(mull__media_cache *c, mull__medium *m);
const mull_media *mull__medium_media(const mull__medium *m);
/* Loads so far, and requests that found theirs. */
void mull__media_cache_stats(mull__media_cache *c, int64_t *loaded, int64_t *found);

#endif
