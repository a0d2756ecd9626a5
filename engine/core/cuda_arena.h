/* One device allocation cut into parts of 256 bytes: laid out once with base NULL, which only adds up, and once with
 * memory. */
#ifndef MULL_ENGINE_CORE_CUDA_ARENA_H
#define MULL_ENGINE_CORE_CUDA_ARENA_H

#include <stddef.h>

typedef struct mull_cuda_arena {
    char *base; /* NULL: counting */
    size_t used;
} mull_cuda_arena;

static inline void *mull_cuda_part(mull_cuda_arena *a, size_t bytes) {
    void *p = a->base ? a->base + a->used : NULL;
    a->used += (bytes + 255) & ~(size_t)255;
    return p;
}

#endif
