/* What the files of mull-engine bench cuda share. */
#ifndef MULL_ENGINE_CMD_BENCH_CUDA_H
#define MULL_ENGINE_CMD_BENCH_CUDA_H

#include "engine/core/cuda.h"

#include <jansson.h>

typedef struct mull_cuda_bench {
    mull_cuda *c;
    double copy, product; /* bytes/s and FLOP/s measured */
    char *memory;         /* filled with numbers */
    size_t bytes;
    mull_error *err;
} mull_cuda_bench;

/* One JSON line; takes more's reference. */
void mull__bench_cuda_emit(const mull_cuda_bench *b, const char *name, double achieved, double roof, const char *unit,
                           json_t *more);
/* Milliseconds of one call of queue(ctx, i), from enough calls to fill a tenth of a second. */
int mull__bench_cuda_per_call(mull_cuda_bench *b, void (*queue)(void *ctx, int i), void *ctx, double *ms);
/* Training's own: attention there and back, what is bound by memory. */
int mull__bench_cuda_train(mull_cuda_bench *b);

#endif
