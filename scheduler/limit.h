/* How often one key (a token, an address) may do something: the generic cell rate algorithm (GCRA, ITU-T I.371), which
 * is a token bucket kept as one time. A key's state is the time at which its bucket will be full again; taking one
 * moves that time on by 1/rate, and is refused where it would lie more than burst/rate ahead.
 *
 * The table is bounded: sets of a few slots found by a keyed hash, and a new key replaces the fullest bucket of its
 * set, which has least to forget. So a peer with many addresses costs no memory, and frees nobody who has just been
 * stopped. No clock, no socket: the caller says what time it is. */
#ifndef MULL_SCHEDULER_LIMIT_H
#define MULL_SCHEDULER_LIMIT_H

#include <stdint.h>

typedef struct mull_limit mull_limit;

/* rate a second (0: no limit), burst at least 1: how many at once after a rest. NULL without memory. */
mull_limit *mull_limit_create(uint32_t rate, uint32_t burst);
void mull_limit_destroy(mull_limit *l);
/* Takes one of key's at now_us (monotonic). 0, or the microseconds after which it is worth trying again; then nothing
 * was taken. */
uint64_t mull_limit_take(mull_limit *l, const char *key, uint64_t now_us);
/* Gives back one that was taken, where it turned out not to count. */
void mull_limit_give(mull_limit *l, const char *key);

#endif
