/* The measured roofs: memory reads, multiply-adds on registers, one large product. Each is the best of some short
 * rounds, because other work on the machine only ever lowers a round. */
#include "engine/ops/roof.h"

#include "engine/ops/kernels.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum { READ_BYTES = 256 << 20, ROUNDS = 5 };

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef struct roof_job {
    const mull_kernels *kn;
    const char *data;
    mull_weight_type type;
    double flop[64]; /* of each part */
    uint64_t sink[64];
} roof_job;

static void read_task(void *ctx, int part, int parts) {
    roof_job *j = ctx;
    size_t each = READ_BYTES / (size_t)parts / 4096 * 4096;
    j->sink[part] = j->kn->read_sum(j->data + each * (size_t)part, each);
}

/* Threads beyond 64 share parts: memory and the units of a socket are long saturated then. */
static int parts_of(mull_pool *pool) {
    int t = mull_pool_threads(pool);
    return t < 64 ? t : 64;
}

double mull_roof_read(mull_pool *pool) {
    char *data = mmap(NULL, READ_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) return 0;
    madvise(data, READ_BYTES, MADV_HUGEPAGE); /* as the weights lie */
    memset(data, 1, READ_BYTES);
    roof_job j = {.kn = mull_kernels_get(), .data = data};
    int parts = parts_of(pool);
    double best = 0, bytes = (double)(READ_BYTES / (size_t)parts / 4096 * 4096) * parts;
    for (int i = 0; i < ROUNDS; i++) {
        double t = seconds();
        mull_pool_run(pool, read_task, &j, parts);
        t = bytes / (seconds() - t);
        best = t > best ? t : best;
    }
    munmap(data, READ_BYTES);
    return best;
}

static void flops_task(void *ctx, int part, int parts) {
    (void)parts;
    roof_job *j = ctx;
    double (*peak)(int64_t, uint64_t *) = j->type == MULL_WEIGHT_INT8       ? j->kn->peak_i8
                                          : j->type == MULL_WEIGHT_BF16_DOT ? j->kn->peak_dot
                                                                            : j->kn->peak_f32;
    j->flop[part] = peak(2000000, &j->sink[part]);
}

double mull_roof_flops(mull_pool *pool, mull_weight_type type) {
    roof_job j = {.kn = mull_kernels_get(), .type = type};
    double best = 0;
    int parts = parts_of(pool);
    for (int i = 0; i < ROUNDS; i++) {
        double t = seconds(), flop = 0;
        mull_pool_run(pool, flops_task, &j, parts);
        t = seconds() - t;
        for (int p = 0; p < parts; p++) flop += j.flop[p];
        best = flop / t > best ? flop / t : best;
    }
    return best;
}

double mull_roof_gemm(mull_pool *pool, mull_weight_type type) {
    enum { M = 600, N = 4096, K = 2048 };
    mull_matrix *w = NULL;
    float *x = malloc((size_t)M * K * sizeof *x), *y = malloc((size_t)M * N * sizeof *y);
    double best = 0;
    if (!x || !y || mull_matrix_create(N, K, type, &w, NULL)) goto out;
    for (int64_t i = 0; i < (int64_t)M * K; i++) x[i] = (float)(i % 17) * 0.01f;
    for (int64_t i = 0; i < N; i++) mull_matrix_set_rows(w, i, 1, x + i % M * K, MULL_F32);
    for (int i = 0; i < ROUNDS; i++) {
        double t = seconds();
        mull_matmul(pool, x, M, K, w, NULL, y, N, false);
        t = 2.0 * M * N * K / (seconds() - t);
        best = t > best ? t : best;
    }
out:
    mull_matrix_destroy(w);
    free(x);
    free(y);
    return best;
}
