/* M-RoPE positions on sequences small enough to be worked out by hand, and what must be refused. */
#include "engine/model/positions.h"
#include "engine/model/vision_windows.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { I = 900, V = 901 }; /* placeholders */

static mull_config config(void) {
    return (mull_config){
        .image_token = I, .video_token = V, .vision = {.merge = 2, .patch = 14, .window = 112, .tokens_per_second = 2}};
}

static void expect(const int32_t *ids, size_t n, const mull_grid *media, size_t nmedia, const int32_t *want,
                   int64_t delta) {
    mull_config c = config();
    mull_error err = {0};
    int32_t *pos = malloc(3 * n * sizeof *pos);
    size_t first[8];
    int64_t got = -999;
    assert_int_equal(mull_positions(&c, ids, n, media, nmedia, pos, n, &got, first, &err), 0);
    for (size_t i = 0; i < 3 * n; i++) assert_int_equal(pos[i], want[i]);
    assert_int_equal(got, delta);
    for (size_t m = 0; m < nmedia; m++) assert_true(ids[first[m]] == (media[m].video ? V : I));
    free(pos);
}

static void test_text(void **state) {
    (void)state;
    expect((int32_t[]){5, 6, 7}, 3, NULL, 0, (int32_t[]){0, 1, 2, 0, 1, 2, 0, 1, 2}, 0);
}

/* Two words, a 2 x 3 image, a word: the image spans 2..4, so the word stands at 5 although it is token 8. */
static void test_image(void **state) {
    (void)state;
    expect((int32_t[]){5, 6, I, I, I, I, I, I, 7}, 9, &(mull_grid){.t = 1, .h = 4, .w = 6}, 1,
           (int32_t[]){0, 1, 2, 2, 2, 2, 2, 2, 5, 0, 1, 2, 2, 2, 3, 3, 3, 5, 0, 1, 2, 3, 4, 2, 3, 4, 5}, -3);
}

/* Three steps of one unit, 1.3 s each: t = trunc(0), trunc(2.6), trunc(5.2); text resumes after the last t, not after
 * h, w. */
static void test_video_time(void **state) {
    (void)state;
    expect((int32_t[]){5, V, V, V, 7, 8}, 6,
           &(mull_grid){.video = true, .t = 3, .h = 2, .w = 2, .second_per_grid = 1.3f}, 1,
           (int32_t[]){0, 1, 3, 6, 7, 8, 0, 1, 1, 1, 7, 8, 0, 1, 1, 1, 7, 8}, 3);
}

/* Slow sampling makes t larger than anything else; a second medium starts after it. */
static void test_video_then_image(void **state) {
    (void)state;
    const mull_grid media[] = {{.video = true, .t = 2, .h = 2, .w = 2, .second_per_grid = 4}, {.t = 1, .h = 2, .w = 4}};
    expect((int32_t[]){V, V, 5, I, I, 6}, 6, media, 2,
           (int32_t[]){0, 8, 9, 10, 10, 12, 0, 0, 9, 10, 10, 12, 0, 0, 9, 10, 11, 12}, 7);
}

/* Images have no time: neighbours without text between them still get their own range. */
static void test_adjacent_images(void **state) {
    (void)state;
    const mull_grid media[] = {{.t = 1, .h = 2, .w = 2}, {.t = 1, .h = 2, .w = 2}};
    expect((int32_t[]){I, I}, 2, media, 2, (int32_t[]){0, 1, 0, 1, 0, 1}, 0);
}

/* A product that is nearly whole truncates differently in double: the function must do what float32 arithmetic, left to
 * right, does, for any rate. */
static void test_time_is_float32(void **state) {
    (void)state;
    int differ = 0;
    for (int hundredths = 1; hundredths <= 2400; hundredths++) {
        double exact = 2.0 / (hundredths / 100.0);
        volatile float step = (float)exact; /* volatile: no wider intermediate */
        for (int64_t i = 0; i < 48; i++) {
            volatile float seconds = (float)i * step, ticks = seconds * 2.0f;
            assert_int_equal(mull_grid_time(i, step, 2.0f), (int32_t)ticks);
            differ += (int32_t)ticks != (int32_t)((double)i * exact * 2.0);
        }
    }
    assert_true(differ > 0); /* the distinction is real */
}

static void refuse(const int32_t *ids, size_t n, const mull_grid *media, size_t nmedia) {
    mull_config c = config();
    mull_error err = {0};
    int32_t pos[64];
    int64_t delta;
    assert_int_equal(mull_positions(&c, ids, n, media, nmedia, pos, n, &delta, NULL, &err), MULL_EARG);
    assert_true(err.why[0] != 0);
}

static void test_mismatch(void **state) {
    (void)state;
    const mull_grid one = {.t = 1, .h = 2, .w = 4},
                    clip = {.video = true, .t = 1, .h = 2, .w = 4, .second_per_grid = 1};
    refuse((int32_t[]){5, I, I}, 3, NULL, 0); /* no medium */
    refuse((int32_t[]){5, 6}, 2, &one, 1);    /* no placeholder */
    refuse((int32_t[]){5, I}, 2, &one, 1);    /* cut inside */
    refuse((int32_t[]){I, 5, I}, 3, &one, 1); /* torn apart */
    refuse((int32_t[]){I, I, I}, 3, &one, 1); /* one too many */
    refuse((int32_t[]){V, V}, 2, &one, 1);    /* other kind */
    refuse((int32_t[]){I, I}, 2, &clip, 1);
    refuse((int32_t[]){V, V}, 2, &(mull_grid){.video = true, .t = 2, .h = 2, .w = 2, .second_per_grid = 1e8f}, 1);
}

static void test_bad_grid(void **state) {
    (void)state;
    const int32_t ids[] = {V, V};
    const mull_grid bad[] = {
        {.video = true, .t = 0, .h = 2, .w = 2, .second_per_grid = 1},
        {.video = true, .t = 1, .h = 3, .w = 2, .second_per_grid = 1},
        {.video = true, .t = INT64_MAX, .h = 2, .w = 2, .second_per_grid = 1},
        {.video = true, .t = 1, .h = -2, .w = -2, .second_per_grid = 1},
        {.video = true, .t = 2, .h = 2, .w = 2, .second_per_grid = 0},
        {.video = true, .t = 2, .h = 2, .w = 2, .second_per_grid = NAN},
        {.video = true, .t = 2, .h = 2, .w = 2, .second_per_grid = 1e30f},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) refuse(ids, 2, &bad[i], 1);
}

/* 5 x 6 units in windows of 4 x 4: 4x4, 4x2, 1x4, 1x2. */
static void test_windows(void **state) {
    (void)state;
    mull_config c = config();
    mull_windows w;
    mull_error err = {0};
    assert_int_equal(mull_windows_init(&w, &c.vision, 10, 12, &err), 0);
    const int32_t cu[] = {0, 64, 96, 112, 120};
    const int32_t order[] = {0,  1, 2, 3,  6,  7,  8,  9,  12, 13, 14, 15, 18, 19, 20,
                             21, 4, 5, 10, 11, 16, 17, 22, 23, 24, 25, 26, 27, 28, 29};
    assert_int_equal(w.n, 4);
    assert_int_equal(w.units, 30);
    assert_memory_equal(w.cu, cu, sizeof cu);
    assert_memory_equal(w.order, order, sizeof order);
    mull_windows_fini(&w);
    /* A side that is divisible: the padding window of the reference vanishes. */
    assert_int_equal(mull_windows_init(&w, &c.vision, 8, 16, &err), 0);
    assert_int_equal(w.n, 2);
    assert_int_equal(w.cu[2], 128);
    mull_windows_fini(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_text),
                                       cmocka_unit_test(test_image),
                                       cmocka_unit_test(test_video_time),
                                       cmocka_unit_test(test_video_then_image),
                                       cmocka_unit_test(test_adjacent_images),
                                       cmocka_unit_test(test_time_is_float32),
                                       cmocka_unit_test(test_mismatch),
                                       cmocka_unit_test(test_bad_grid),
                                       cmocka_unit_test(test_windows)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
