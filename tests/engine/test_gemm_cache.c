/* The cache of a product's algorithms: every part of the key counts, the least recently used goes, it never grows. */
#include "engine/ops/gemm_cache.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const mull_gemm_key BASE = {.m = 128,
                                   .n = 4096,
                                   .k = 1024,
                                   .lda = 1024,
                                   .ldb = 1024,
                                   .ldy = 4096,
                                   .align_a = 16,
                                   .align_b = 256,
                                   .align_y = 32,
                                   .type = 1,
                                   .y_type = 0,
                                   .b_t = true};

static void remember(mull_gemm_cache *c, const mull_gemm_key *k, int value) {
    *(int *)mull_gemm_cache_add(c, k) = value;
}
static int recall(mull_gemm_cache *c, const mull_gemm_key *k) {
    const int *p = mull_gemm_cache_find(c, k);
    return p ? *p : -1;
}

static void every_part_counts(void **state) {
    (void)state;
    mull_gemm_cache *c = calloc(1, sizeof *c);
    mull_gemm_key k[15];
    for (int i = 0; i < 15; i++) k[i] = BASE;
    k[1].m++, k[2].n++, k[3].k++, k[4].lda++, k[5].ldb++, k[6].ldy++;
    k[7].align_a = 8, k[8].align_b = 8, k[9].align_y = 8;
    k[10].type = 0, k[11].y_type = 1, k[12].a_t = true, k[13].bias = true, k[14].accumulate = true;
    for (int i = 0; i < 15; i++) {
        assert_int_equal(recall(c, &k[i]), -1); /* not even when it differs in one part from one that is known */
        remember(c, &k[i], i);
    }
    int known = 0;
    for (int i = 0; i < 15; i++) {
        int got = recall(c, &k[i]);
        assert_true(got == i || got == -1);
        known += got == i;
    }
    assert_int_equal(known, 15); /* 15 keys over 128 sets of 4: more than 4 in one would say that the hash is bad */
    mull_gemm_cache_remove(c, &k[3]);
    mull_gemm_cache_remove(c, &k[3]);
    assert_int_equal(recall(c, &k[3]), -1);
    assert_int_equal(recall(c, &k[2]), 2);
    assert_int_equal(c->hits, 16);
    assert_int_equal(c->misses, 16);
    free(c);
}

/* A model's shapes are asked for every step, those of odd batches once: the former stay. */
static void used_ones_stay(void **state) {
    (void)state;
    mull_gemm_cache *c = calloc(1, sizeof *c);
    mull_gemm_key hot[6], cold = BASE;
    for (int i = 0; i < 6; i++) {
        hot[i] = BASE;
        hot[i].n = 1024 * (i + 1);
        remember(c, &hot[i], i);
    }
    int lost = 0;
    for (int64_t m = 1; m <= 20000; m++) {
        cold.m = m;
        if (recall(c, &cold) < 0) remember(c, &cold, 100);
        for (int i = 0; i < 6; i++)
            if (recall(c, &hot[i]) != i) {
                lost++;
                remember(c, &hot[i], i);
            }
    }
    assert_int_equal(lost, 0);
    cold.m = 20000;
    assert_int_equal(recall(c, &cold), 100);
    cold.m = 1;
    assert_int_equal(recall(c, &cold), -1); /* gone long ago */
    free(c);
}

/* Lengths of packed batches, a step apart, spread over the sets. */
static void spreads(void **state) {
    (void)state;
    mull_gemm_cache *c = calloc(1, sizeof *c);
    mull_gemm_key k = BASE;
    enum { N = MULL_GEMM_SETS * MULL_GEMM_WAYS / 4 };
    for (int i = 0; i < N; i++) {
        k.m = 64 * (i + 1);
        remember(c, &k, i);
    }
    int known = 0;
    for (int i = 0; i < N; i++) {
        k.m = 64 * (i + 1);
        known += recall(c, &k) == i;
    }
    assert_in_range(known, N * 9 / 10, N);
    free(c);
}

static void alignment(void **state) {
    (void)state;
    const char *p = NULL;
    assert_int_equal(mull_gemm_alignment(p), 256);
    for (int a = 1; a <= 512; a *= 2)
        assert_int_equal(mull_gemm_alignment((void *)(uintptr_t)(4096 + a)), a > 256 ? 256 : a);
    assert_int_equal(mull_gemm_alignment((void *)(uintptr_t)(4096 + 48)), 16);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_part_counts), cmocka_unit_test(used_ones_stay),
                                       cmocka_unit_test(spreads), cmocka_unit_test(alignment)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
