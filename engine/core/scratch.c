/* Per-thread working memory; see scratch.h. A key's destructor frees it when a pool's thread ends. */
#include "engine/core/scratch.h"

#include <pthread.h>
#include <stdlib.h>

typedef struct slots {
    float *p[MULL_SCRATCH_SLOTS];
    size_t floats[MULL_SCRATCH_SLOTS];
} slots;

static _Thread_local slots mine;
static pthread_key_t key;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void release(void *arg) {
    slots *s = arg;
    for (int i = 0; i < MULL_SCRATCH_SLOTS; i++) {
        free(s->p[i]);
        s->p[i] = NULL;
        s->floats[i] = 0;
    }
}

static void start(void) {
    if (pthread_key_create(&key, release)) abort();
}

float *mull_scratch(mull_scratch_slot slot, size_t floats) {
    slots *s = &mine;
    if (s->floats[slot] >= floats) return s->p[slot];
    pthread_once(&once, start);
    if (pthread_setspecific(key, s)) abort();
    free(s->p[slot]);
    size_t want = (floats + 0xffff) & ~(size_t)0xffff;
    s->p[slot] = aligned_alloc(64, want * sizeof(float));
    if (!s->p[slot]) abort();
    s->floats[slot] = want;
    return s->p[slot];
}
