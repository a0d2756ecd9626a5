/* Device buffers for tests of the CUDA ops, on a GPU or on the emulation: every buffer stands between guard zones that
 * are looked at when it is released, and outputs start as NaN. */
#ifndef MULL_TESTS_ENGINE_CUDA_UTIL_H
#define MULL_TESTS_ENGINE_CUDA_UTIL_H

#include "tests/engine/cuda_group.h"

#include "engine/core/dtype.h"
#include "engine/core/rng.h"
#include "engine/ops/cuda_ops.h"
#include "engine/ops/ops.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { GPU_GUARD = 1024, GPU_BUFFERS = 64 };

static mull_cuda *gpu;
static struct {
    char *base;
    size_t bytes;
} gpu_buffers[GPU_BUFFERS];
static int gpu_nbuffers;

static inline void gpu_check(int rc, const mull_error *err) {
    if (!rc) return;
    mull_error_print(stderr, err);
    fail();
}

/* Bytes of src, or NaN where src is NULL. */
static inline void *gpu_bytes(const void *src, size_t bytes) {
    mull_error err = {0};
    void *p;
    gpu_check(mull_cuda_alloc(gpu, bytes + 2 * GPU_GUARD, "a test", &p, &err), &err);
    char *host = malloc(bytes + 2 * GPU_GUARD);
    assert_non_null(host);
    memset(host, 0xa5, bytes + 2 * GPU_GUARD);
    if (src)
        memcpy(host + GPU_GUARD, src, bytes);
    else
        memset(host + GPU_GUARD, 0xff, bytes);
    mull_cuda_put(gpu, p, host, bytes + 2 * GPU_GUARD);
    free(host);
    assert_true(gpu_nbuffers < GPU_BUFFERS);
    gpu_buffers[gpu_nbuffers].base = p;
    gpu_buffers[gpu_nbuffers++].bytes = bytes;
    return (char *)p + GPU_GUARD;
}

/* n floats as T. */
static inline void *gpu_floats(const float *x, size_t n, mull_dtype t) {
    if (t == MULL_F32 || !x) return gpu_bytes(x, n * mull_dtype_size(t));
    uint16_t *h = malloc(n * 2 + 1);
    for (size_t i = 0; i < n; i++) h[i] = mull_f32_to_bf16(x[i]);
    void *p = gpu_bytes(h, n * 2);
    free(h);
    return p;
}

static inline void gpu_read(const void *p, size_t n, mull_dtype t, float *out) {
    mull_error err = {0};
    void *raw = malloc(n * 4 + 1);
    gpu_check(mull_cuda_get(gpu, raw, p, n * mull_dtype_size(t), &err), &err);
    mull_to_f32(raw, t, n, out);
    free(raw);
}

/* Looks at all guard zones and releases everything. */
static inline void gpu_done(void) {
    mull_error err = {0};
    unsigned char zone[GPU_GUARD];
    for (int i = 0; i < gpu_nbuffers; i++) {
        for (int side = 0; side < 2; side++) {
            const char *at = gpu_buffers[i].base + (side ? GPU_GUARD + gpu_buffers[i].bytes : 0);
            gpu_check(mull_cuda_get(gpu, zone, at, sizeof zone, &err), &err);
            for (int k = 0; k < GPU_GUARD; k++)
                if (zone[k] != 0xa5)
                    fail_msg("written %s a buffer of %zu bytes", side ? "behind" : "before", gpu_buffers[i].bytes);
        }
        mull_cuda_release(gpu, gpu_buffers[i].base);
    }
    gpu_nbuffers = 0;
}

/* n numbers in (-scale, scale), exact in bf16 with T bf16. */
static inline float *gpu_random(size_t n, uint64_t seed, float scale, mull_dtype t) {
    float *x = malloc((n + 1) * sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++) {
        x[i] = (float)(mull_uniform(seed, 0, i) * 2 - 1) * scale;
        if (t == MULL_BF16) x[i] = mull_bf16_to_f32(mull_f32_to_bf16(x[i]));
    }
    return x;
}

/* |got - want| <= absolute + relative |want| everywhere; NaN and infinity fail. */
static inline void gpu_close(const float *got, const float *want, size_t n, double absolute, double relative,
                             const char *what) {
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - (double)want[i]), limit = absolute + relative * fabs((double)want[i]);
        if (!(d <= limit))
            fail_msg("%s: element %zu is %.9g, not %.9g (allowed %.3g)", what, i, (double)got[i], (double)want[i],
                     limit);
    }
}

/* A batch's plan of attention in device memory. */
typedef struct gpu_plan {
    mull_cuda_plan plan;
    void *seqs, *work, *joins;
} gpu_plan;

static inline gpu_plan gpu_make_plan(const mull_cuda_seq *seqs, int nseq, int group, bool causal, int kv_heads,
                                     int hd) {
    gpu_plan p = {0};
    mull_error err = {0};
    mull_cuda_plan_attention(seqs, nseq, group, causal, &p.plan, NULL, NULL);
    size_t n = (size_t)(p.plan.wide + p.plan.few), joins = (size_t)p.plan.joins;
    mull_cuda_work *w = calloc(n + 1, sizeof *w);
    mull_cuda_join *j = calloc(joins + 1, sizeof *j);
    mull_cuda_plan_attention(seqs, nseq, group, causal, &p.plan, w, j);
    p.seqs = gpu_bytes(seqs, (size_t)nseq * sizeof *seqs);
    p.work = gpu_bytes(w, n * sizeof *w);
    p.joins = gpu_bytes(j, joins * sizeof *j);
    gpu_check(
        mull_cuda_reserve(gpu, MULL_CUDA_ATTENTION, mull_cuda_attention_scratch(p.plan.parts, kv_heads, hd), &err),
        &err);
    free(w);
    free(j);
    return p;
}

/* Runs the tests on device 0; on the emulation once for each order of threads. what was not run, without a device. */
static inline int gpu_main(const struct CMUnitTest *tests, size_t n, const char *what) {
    int rc = 0, orders = 1;
    if (cuda_missing(what)) return 77;
#ifdef MULL_CUDA_EMULATED
    orders = 3;
#endif
    for (int i = 0; i < orders && !rc; i++) {
        mull_error err = {0};
#ifdef MULL_CUDA_EMULATED
        mull_emu_set_order(i);
#endif
        if (mull_cuda_open(0, &gpu, &err)) {
            mull_error_print(stderr, &err);
            return 1;
        }
        printf("%s\n", mull_cuda_get_info(gpu)->name);
        rc = _cmocka_run_group_tests(what, tests, n, NULL, NULL);
        mull_cuda_close(gpu);
    }
    return rc;
}

#endif
