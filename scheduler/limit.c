/* See limit.h. */
#include "scheduler/limit.h"

#include <stdbool.h>
#include <stdlib.h>
#include <sys/random.h>

enum { SETS = 1024, WAYS = 4 };

typedef struct slot {
    uint64_t hash;    /* of the key, 0: empty; two keys with one hash share a bucket */
    uint64_t full_us; /* when the bucket is full again */
} slot;

struct mull_limit {
    uint64_t step_us, span_us; /* between two at the steady rate; from empty to full */
    uint64_t secret;
    slot slots[SETS][WAYS];
};

mull_limit *mull_limit_create(uint32_t rate, uint32_t burst) {
    mull_limit *l = calloc(1, sizeof *l);
    if (!l) return NULL;
    if (rate) l->step_us = rate < 1000000 ? 1000000 / rate : 1;
    l->span_us = l->step_us * burst;
    if (getrandom(&l->secret, sizeof l->secret, 0) != (ssize_t)sizeof l->secret) abort(); /* never for so few bytes */
    return l;
}

void mull_limit_destroy(mull_limit *l) {
    free(l);
}

/* Keyed, so that nobody can choose keys that fall into one set. */
static uint64_t hash_of(const mull_limit *l, const char *key) {
    uint64_t h = l->secret;
    for (; *key; key++) {
        h = (h ^ (unsigned char)*key) * UINT64_C(0x9E3779B97F4A7C15);
        h ^= h >> 32;
    }
    return h ? h : 1;
}

/* The key's slot, made where make is true; else NULL when it has none. */
static slot *slot_of(mull_limit *l, const char *key, bool make) {
    uint64_t h = hash_of(l, key);
    slot *set = l->slots[h % SETS], *oldest = set;
    for (int i = 0; i < WAYS; i++) {
        if (set[i].hash == h) return &set[i];
        if (set[i].full_us < oldest->full_us) oldest = &set[i];
    }
    if (!make) return NULL;
    *oldest = (slot){.hash = h};
    return oldest;
}

uint64_t mull_limit_take(mull_limit *l, const char *key, uint64_t now_us) {
    if (!l->step_us) return 0;
    slot *s = slot_of(l, key, true);
    uint64_t full = (s->full_us > now_us ? s->full_us : now_us) + l->step_us;
    if (full > now_us + l->span_us) return full - now_us - l->span_us;
    s->full_us = full;
    return 0;
}

void mull_limit_give(mull_limit *l, const char *key) {
    slot *s = l->step_us ? slot_of(l, key, false) : NULL;
    if (s && s->full_us > l->step_us) s->full_us -= l->step_us;
}
