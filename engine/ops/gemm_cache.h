/* Which algorithm a product of some shape takes: a small cache from shapes to what the library answered.
 * Set-associative with the least recently used way replaced, so that it needs no memory beyond itself and a long run
 * over packed batches of ever new lengths cannot make it grow; asking again costs microseconds. Plain C, without the
 * library: it stores the answer as bytes. Not thread-safe: it belongs to one device context. */
#ifndef MULL_ENGINE_OPS_GEMM_CACHE_H
#define MULL_ENGINE_OPS_GEMM_CACHE_H

#ifdef __cplusplus
extern "C" {
#endif

#include <stdbool.h>
#include <stdint.h>

/* All that an answer depends on. align_*: the largest power of two up to 256 that divides the operand's address. */
typedef struct mull_gemm_key {
    int64_t m, n, k, lda, ldb, ldy;
    uint16_t align_a, align_b, align_y;
    uint8_t type, y_type; /* mull_dtype */
    bool a_t, b_t, bias, accumulate;
} mull_gemm_key;

enum { MULL_GEMM_SETS = 128, MULL_GEMM_WAYS = 4, MULL_GEMM_ANSWER = 128 };

typedef struct mull_gemm_entry {
    mull_gemm_key key;
    uint64_t used; /* when it was last found, 0: empty */
    uint64_t answer[MULL_GEMM_ANSWER / 8];
} mull_gemm_entry;

/* Zero-initialise. */
typedef struct mull_gemm_cache {
    mull_gemm_entry entries[MULL_GEMM_SETS][MULL_GEMM_WAYS];
    uint64_t clock, hits, misses;
} mull_gemm_cache;

/* The answer kept for key, or NULL. */
void *mull_gemm_cache_find(mull_gemm_cache *c, const mull_gemm_key *key);
/* Room for the answer to key, which find did not know; takes the place of the set's least recently used one. */
void *mull_gemm_cache_add(mull_gemm_cache *c, const mull_gemm_key *key);
void mull_gemm_cache_remove(mull_gemm_cache *c, const mull_gemm_key *key);
uint16_t mull_gemm_alignment(const void *p);

#ifdef __cplusplus
}
#endif
#endif
