/* Sorting more records than memory holds: 32-byte records, compared as bytes, in runs of a fixed number that go to one
 * unlinked file and are merged at the end. Memory: 8 MiB, and 4 KiB for each 262,144 records. */
#ifndef MULL_ENGINE_ANNOTATE_EXTSORT_H
#define MULL_ENGINE_ANNOTATE_EXTSORT_H

#include "engine/annotate/fileio.h"

enum { MULL_SORT_RECORD = 32 };

typedef struct mull__sort mull__sort;

/* run: records held in memory at once, 0: 262,144. The file is made in dir when one run is not enough. */
int mull__sort_create(int dir, size_t run, mull__sort **out, mull_error *err);
int mull__sort_add(mull__sort *s, const uint8_t rec[MULL_SORT_RECORD], mull_error *err);
/* Calls take with each record in order; a nonzero return ends it and is returned. Once. */
int mull__sort_finish(mull__sort *s, int (*take)(void *ctx, const uint8_t *rec, mull_error *err), void *ctx,
                      mull_error *err);
void mull__sort_destroy(mull__sort *s);

static inline void mull__put64(uint8_t *p, uint64_t v) {
    for (int i = 0; i < 8; i++) p[i] = (uint8_t)(v >> (56 - 8 * i));
}
static inline uint64_t mull__get64(const uint8_t *p) {
    uint64_t v = 0;
    for (int i = 0; i < 8; i++) v = v << 8 | p[i];
    return v;
}

#endif
