/* See gemm_cache.h. */
#include "engine/ops/gemm_cache.h"

#include <stddef.h>

static uint64_t mix(uint64_t h, uint64_t v) {
    return (h ^ v) * UINT64_C(1099511628211); /* FNV-1a, a word at a time */
}

static mull_gemm_entry *set_of(mull_gemm_cache *c, const mull_gemm_key *k) {
    uint64_t h = UINT64_C(14695981039346656037);
    h = mix(mix(mix(h, (uint64_t)k->m), (uint64_t)k->n), (uint64_t)k->k);
    h = mix(mix(mix(h, (uint64_t)k->lda), (uint64_t)k->ldb), (uint64_t)k->ldy);
    h = mix(h, (uint64_t)k->align_a << 32 | (uint64_t)k->align_b << 16 | k->align_y);
    h = mix(h, (uint64_t)k->type << 8 | k->y_type);
    h = mix(h, (uint64_t)(k->a_t * 8 + k->b_t * 4 + k->bias * 2 + k->accumulate));
    /* The low bits of a product see only the low bits of what went in: the high ones choose. */
    return c->entries[(h ^ h >> 29) >> 20 & (MULL_GEMM_SETS - 1)];
}

static bool same(const mull_gemm_key *a, const mull_gemm_key *b) {
    return a->m == b->m && a->n == b->n && a->k == b->k && a->lda == b->lda && a->ldb == b->ldb && a->ldy == b->ldy &&
           a->align_a == b->align_a && a->align_b == b->align_b && a->align_y == b->align_y && a->type == b->type &&
           a->y_type == b->y_type && a->a_t == b->a_t && a->b_t == b->b_t && a->bias == b->bias &&
           a->accumulate == b->accumulate;
}

static mull_gemm_entry *look(mull_gemm_cache *c, const mull_gemm_key *key) {
    mull_gemm_entry *set = set_of(c, key);
    for (int i = 0; i < MULL_GEMM_WAYS; i++)
        if (set[i].used && same(&set[i].key, key)) return &set[i];
    return NULL;
}

void *mull_gemm_cache_find(mull_gemm_cache *c, const mull_gemm_key *key) {
    mull_gemm_entry *e = look(c, key);
    if (!e) {
        c->misses++;
        return NULL;
    }
    c->hits++;
    e->used = ++c->clock;
    return e->answer;
}

void *mull_gemm_cache_add(mull_gemm_cache *c, const mull_gemm_key *key) {
    mull_gemm_entry *set = set_of(c, key), *old = set;
    for (int i = 1; i < MULL_GEMM_WAYS; i++)
        if (set[i].used < old->used) old = &set[i];
    old->key = *key;
    old->used = ++c->clock;
    return old->answer;
}

void mull_gemm_cache_remove(mull_gemm_cache *c, const mull_gemm_key *key) {
    mull_gemm_entry *e = look(c, key);
    if (e) e->used = 0;
}

uint16_t mull_gemm_alignment(const void *p) {
    uintptr_t a = (uintptr_t)p | 256;
    return (uint16_t)(a & -a);
}
