/* Between loader.c (threads, order, counts) and batch.c (packing). */
#ifndef MULL_ENGINE_DATA_LOADER_INTERNAL_H
#define MULL_ENGINE_DATA_LOADER_INTERNAL_H

#include "engine/data/loader.h"

/* Which samples of a step go together: group[i] of n lengths, groups numbered from 0 in order. pack 0: batch samples
 * each, in order; else first fit of the longest first into pack tokens. Returns how many groups, or MULL_ENOMEM. */
int mull__pack_plan(const size_t *lengths, size_t n, int64_t pack, int64_t batch, int *group);
/* Moves the samples[i] with group[i] == which into *out, in order. */
int mull__pack_batch(mull_sample *samples, const int *group, size_t n, int which, mull_batch *out, mull_error *err);

#endif
