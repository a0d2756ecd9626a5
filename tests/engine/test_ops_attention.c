/* Attention against a double-precision loop on every instruction set, chunking and batching, and NaN isolation. */
#include "engine/core/rng.h"
#include "engine/ops/kernels.h"
#include "engine/ops/ops.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void fill(float *x, size_t n, uint64_t key) {
    for (size_t i = 0; i < n; i++) x[i] = (float)(mull_uniform(key, 0, i) * 4 - 2);
}

/* One query row over n keys; strides in elements. */
static void reference(const float *q, const float *k, int64_t ldk, const float *v, int64_t ldv, int n, int hd,
                      double scale, double *out) {
    double *s = malloc((size_t)n * sizeof *s), top = -1e300, sum = 0;
    for (int i = 0; i < n; i++) {
        s[i] = 0;
        for (int d = 0; d < hd; d++) s[i] += (double)q[d] * k[i * ldk + d];
        s[i] *= scale;
        if (s[i] > top) top = s[i];
    }
    for (int i = 0; i < n; i++) sum += s[i] = exp(s[i] - top);
    for (int d = 0; d < hd; d++) {
        out[d] = 0;
        for (int i = 0; i < n; i++) out[d] += s[i] * v[i * ldv + d];
        out[d] /= sum;
    }
    free(s);
}

/* exp turns the absolute error of a score (up to about 20, so 20 * 2^-24 a few times over) into a relative one. */
static void close_to(const float *got, const double *want, int n, const char *what) {
    for (int i = 0; i < n; i++)
        if (!(fabs(got[i] - want[i]) <= 1e-5)) fail_msg("%s [%d]: %g, not %g", what, i, got[i], want[i]);
}

static void varlen(void **state) {
    (void)state;
    enum { HEADS = 3, ROWS = 300 };
    const int32_t cu[] = {0, 1, 65, 65, 200, 300};
    const mull_kernels *kn[MULL_ISAS];
    int n = mull_kernels_list(kn);
    mull_pool *pool = mull_pool_create(2);
    for (int hd = 16; hd <= 128; hd += hd == 16 ? 64 : 48) {
        int ld = 3 * HEADS * hd, ldo = HEADS * hd;
        float *qkv = malloc((size_t)(ROWS * ld) * sizeof *qkv), *out = malloc((size_t)(ROWS * ldo) * sizeof *out);
        fill(qkv, (size_t)(ROWS * ld), 3);
        for (int i = 0; i < n; i++) {
            mull_kernels_force(kn[i]);
            mull_attention_varlen(pool, qkv, qkv + HEADS * hd, qkv + 2 * HEADS * hd, ld, cu, 5, HEADS, hd, 0.125f, out,
                                  ldo);
            for (int s = 0; s < 5; s++)
                for (int r = cu[s]; r < cu[s + 1]; r += 7)
                    for (int h = 0; h < HEADS; h++) {
                        double want[128];
                        const float *base = qkv + cu[s] * ld + h * hd;
                        reference(qkv + r * ld + h * hd, base + HEADS * hd, ld, base + 2 * HEADS * hd, ld,
                                  cu[s + 1] - cu[s], hd, 0.125, want);
                        close_to(out + r * ldo + h * hd, want, hd, kn[i]->name);
                    }
        }
        free(qkv), free(out);
    }
    mull_pool_destroy(pool);
}

enum { HEADS = 8, KVH = 2, PT = 32, TOKENS = 210, PAGES = 20 };

typedef struct world {
    int hd, ld;
    float *qkv, *cache;
    mull_kv_view kv;
    int32_t pages[PAGES];
} world;

static void world_init(world *w, int hd) {
    w->hd = hd;
    w->ld = (HEADS + 2 * KVH) * hd;
    w->qkv = malloc((size_t)(TOKENS * w->ld) * sizeof(float));
    w->cache = malloc((size_t)(2 * PAGES * KVH * PT * hd) * sizeof(float));
    fill(w->qkv, (size_t)(TOKENS * w->ld), 9);
    for (int i = 0; i < 2 * PAGES * KVH * PT * hd; i++)
        w->cache[i] = NAN; /* what was never stored must never be read */
    w->kv = (mull_kv_view){w->cache, w->cache + (size_t)KVH * PT * hd, 2 * KVH * PT * hd, PT, KVH, hd};
    for (int i = 0; i < PAGES; i++) w->pages[i] = (i * 7 + 3) % PAGES;
}
static void world_fini(world *w) {
    free(w->qkv), free(w->cache);
}

/* Prompt rows [a, b) of the world's sequence as one chunk. */
static void chunk(world *w, mull_pool *pool, int a, int b, float *out) {
    mull_attn_seq s = {.row0 = 0, .rows = b - a, .pos0 = a, .pages = w->pages};
    const float *x = w->qkv + a * w->ld;
    mull_kv_store(pool, &w->kv, &s, 1, x + HEADS * w->hd, x + (HEADS + KVH) * w->hd, w->ld);
    mull_attention_paged(pool, &w->kv, &s, 1, x, w->ld, HEADS, 0.125f, out + a * HEADS * w->hd, HEADS * w->hd);
}

static void paged(void **state) {
    (void)state;
    const mull_kernels *kn[MULL_ISAS];
    int n = mull_kernels_list(kn);
    mull_pool *pool = mull_pool_create(2);
    for (int hd = 16; hd <= 128; hd += 56) {
        size_t bytes = (size_t)(TOKENS * HEADS * hd) * sizeof(float);
        float *whole = malloc(bytes), *parts = malloc(bytes);
        for (int i = 0; i < n; i++) {
            mull_kernels_force(kn[i]);
            world w;
            world_init(&w, hd);
            chunk(&w, pool, 0, TOKENS, whole);
            for (int r = 0; r < TOKENS; r += 11)
                for (int h = 0; h < HEADS; h++) {
                    double want[128];
                    int kh = h / (HEADS / KVH);
                    reference(w.qkv + r * w.ld + h * hd, w.qkv + (HEADS + kh) * hd, w.ld,
                              w.qkv + (HEADS + KVH + kh) * hd, w.ld, r + 1, hd, 0.125, want);
                    close_to(whole + (r * HEADS + h) * hd, want, hd, kn[i]->name);
                }
            world_fini(&w);
            /* the same prompt in uneven chunks down to single tokens, with one thread: the same bits */
            world_init(&w, hd);
            const int cut[] = {0, 1, 2, 33, 34, 100, 163, 209, TOKENS};
            for (size_t c = 0; c + 1 < sizeof cut / sizeof *cut; c++) chunk(&w, NULL, cut[c], cut[c + 1], parts);
            assert_memory_equal(parts, whole, bytes);
            world_fini(&w);
        }
        free(whole), free(parts);
    }
    mull_pool_destroy(pool);
}

static void nan_stays_with_its_future(void **state) {
    (void)state;
    world w;
    world_init(&w, 32);
    float *out = calloc(TOKENS * HEADS * 32, sizeof *out);
    for (int i = 0; i < (HEADS + 2 * KVH) * 32; i++) w.qkv[150 * w.ld + i] = NAN;
    chunk(&w, NULL, 0, TOKENS, out);
    for (int r = 0; r < TOKENS; r++)
        for (int d = 0; d < HEADS * 32; d++) assert_int_equal(isnan(out[r * HEADS * 32 + d]) != 0, r >= 150);
    free(out);
    world_fini(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(varlen), cmocka_unit_test(paged),
                                       cmocka_unit_test(nan_stays_with_its_future)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
