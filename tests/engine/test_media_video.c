/* Videos on the repository's own small files: ball.mp4 (H.264, key frame every 12, B-frames) and ball_vp8.webm (hidden
 * frames, no frame count in the header). The expected RGB hash is of what the ffmpeg command writes. */
#include "media_util.h"

#include "engine/media/media.h"
#include "engine/media/plan.h"
#include "engine/media/video.h"

#include <math.h>

#if !MULL_HAVE_MEDIA
int main(void) {
    fprintf(stderr, "skipped: this build has no decoders\n");
    return 77;
}
#else

static const char *data_file(const char *name) {
    static char path[4096];
    snprintf(path, sizeof path, "%s/media/%s", MULL_TEST_DATA, name);
    return path;
}

static void ball(void **state) {
    (void)state;
    static const int64_t want[] = {0, 7, 13, 20, 27, 34, 40, 47};
    mull_media m;
    mull_error e = {0};
    mull_media_limits l = {.fps = 2};
    assert_int_equal(mull_media_load_file(data_file("ball.mp4"), MULL_MEDIA_AUTO, &l, MULL_MEDIA_HASHES, &m, &e), 0);
    assert_int_equal(m.kind, MULL_MEDIA_VIDEO);
    assert_string_equal(m.format, "mp4");
    assert_int_equal(m.decoded_frames, 48);
    assert_int_equal(m.nframes, 8);
    assert_memory_equal(m.indices, want, sizeof want);
    assert_string_equal(m.rgb_sha256, "9c31fbfad164d1a21c41855d193ad6dfa54907ba1cd17ce507f8e09677a120f8");
    assert_float_equal(m.sample_fps, 2.0, 1e-12); /* 8 of 48 frames at 12 a second */
    assert_float_equal(m.second_per_grid, 1.0, 1e-12);
    assert_int_equal(m.grid[0], 4);
    assert_int_equal(m.tokens * 4, m.grid[0] * m.grid[1] * m.grid[2]);
    assert_true(m.resized_w * m.resized_h >= MULL_VIDEO_MIN_PIXELS);
    for (int64_t i = 0; i < m.tokens * 4 * 1176; i++) assert_true(isfinite(m.patches[i]));
    /* The same from memory. */
    mull_media again;
    mull_buf b = slurp(data_file("ball.mp4"));
    int rc = mull_media_load_bytes(b.data, b.len, "ball", MULL_MEDIA_VIDEO, &l, MULL_MEDIA_HASHES, &again, &e);
    assert_int_equal(rc, 0);
    assert_string_equal(m.pixels_sha256, again.pixels_sha256);
    mull_buf_fini(&b);
    mull_media_fini(&m);
    mull_media_fini(&again);
}

/* A user's cap wins over the default floor, and a count over the rate. */
static void asked_sizes(void **state) {
    (void)state;
    mull_media m;
    mull_error e = {0};
    mull_media_limits l = {.nframes = 4, .max_pixels = 6272};
    assert_int_equal(mull_media_load_file(data_file("ball.mp4"), MULL_MEDIA_VIDEO, &l, MULL_MEDIA_HASHES, &m, &e), 0);
    assert_int_equal(m.nframes, 4);
    assert_string_equal(m.rgb_sha256, "79ec9f7c378cc36dd09ae39ad81b3c55a98465f4455257c0ed36a59bc4354183");
    assert_true(m.resized_w * m.resized_h <= 6272);
    mull_media_fini(&m);
    l = (mull_media_limits){.nframes = 50};
    assert_int_equal(mull_media_load_file(data_file("ball.mp4"), MULL_MEDIA_VIDEO, &l, 0, &m, &e), MULL_EARG);
    assert_int_equal(mull_media_load_file(data_file("ball.mp4"), MULL_MEDIA_IMAGE, &l, 0, &m, &e), MULL_EFORMAT);
}

typedef struct seen {
    char sha[48][65];
    int n;
    int stop;
} seen;
static int see(void *ctx, int i, const uint8_t *rgb, mull_error *err) {
    (void)err;
    seen *s = ctx;
    sha_hex(rgb, 160 * 120 * 3, s->sha[i]);
    s->n++;
    return s->n == s->stop ? MULL_ECANCELLED : 0;
}

static int frames_of(const char *name, bool count, const int64_t *indices, int n, seen *s, int64_t *decoded,
                     int64_t *total) {
    mull_buf b = slurp(data_file(name));
    mull_video_source src = {.fd = -1, .data = (const uint8_t *)b.data, .len = (int64_t)b.len};
    mull_video *v;
    mull_video_info info;
    mull_error e = {0};
    assert_int_equal(mull__video_open(&src, count, 0, name, &v, &info, &e), 0);
    int rc = mull__video_frames(v, indices, n, see, s, &e);
    *decoded = mull__video_decoded(v);
    *total = info.frames;
    mull__video_close(v);
    mull_buf_fini(&b);
    return rc;
}

/* Every single frame reached by a jump equals the one reached in sequence, and jumping decodes less. */
static void seeking_is_exact(void **state) {
    (void)state;
    static seen all;
    int64_t every[48], decoded, total;
    for (int i = 0; i < 48; i++) every[i] = i;
    memset(&all, 0, sizeof all);
    assert_int_equal(frames_of("ball.mp4", true, every, 48, &all, &decoded, &total), 0);
    assert_int_equal(all.n, 48);
    assert_int_equal(total, 48);
    assert_int_equal(decoded, 96); /* once to count, once to show */
    for (int i = 0; i < 48; i++) {
        seen one = {.n = 0};
        assert_int_equal(frames_of("ball.mp4", false, every + i, 1, &one, &decoded, &total), 0);
        assert_string_equal(one.sha[0], all.sha[i]);
        assert_in_range(decoded, 1, 16);
    }
}

static void vp8_without_a_count(void **state) {
    (void)state;
    seen s = {.n = 0};
    const int64_t two[] = {0, 11};
    int64_t decoded, total;
    assert_int_equal(frames_of("ball_vp8.webm", false, two, 2, &s, &decoded, &total), 0);
    assert_int_equal(total, 12);
    assert_int_equal(s.n, 2);
}

static void frame_formula(void **state) {
    (void)state;
    const double none = (double)NAN;
    mull_frame_plan p;
    mull_error e;
    mull_frame_ask ask = {.fps = none, .nframes = 5, .video_start = none, .video_end = none};
    assert_int_equal(mull_plan_frames(5, 25, &ask, &p, &e), 0); /* 2.5 rounds to 2: 4 frames */
    static const int64_t want[] = {0, 1, 3, 4};
    assert_int_equal(p.nframes, 4);
    assert_memory_equal(p.indices, want, sizeof want);
    free(p.indices);
    ask.nframes = 768; /* torch.linspace(0, 12834, 768): with two roundings frame 492 would be 8232 */
    assert_int_equal(mull_plan_frames(12835, 25, &ask, &p, &e), 0);
    assert_int_equal(p.indices[492], 8233);
    free(p.indices);
    ask.fps = 2;
    assert_int_equal(mull_plan_frames(100, 25, &ask, &p, &e), MULL_EARG); /* both */
    ask.nframes = none;
    assert_int_equal(mull_plan_frames(0, 25, &ask, &p, &e), MULL_EARG);
    assert_int_equal(mull_plan_frames(100, 0, &ask, &p, &e), MULL_EARG);
    assert_int_equal(mull_plan_frames(1, 25, &ask, &p, &e), MULL_EARG);
    assert_null(p.indices);
}

/* Cut or flipped at many places: an error with words or frames, never a crash or a hang. */
static void damage(void **state) {
    (void)state;
    mull_media_limits l = {.nframes = 4, .max_pixels = 3136, .max_source_pixels = 1 << 20};
    static const char *const names[] = {"ball.mp4", "ball_vp8.webm"};
    for (int k = 0; k < 2; k++) {
        mull_buf b = slurp(data_file(names[k]));
        for (size_t n = 1; n < b.len; n += b.len / 24 + 1) {
            mull_media m;
            mull_error e = {0};
            char *copy = malloc(n);
            memcpy(copy, b.data, n);
            int rc = mull_media_load_bytes(copy, n, "cut", MULL_MEDIA_AUTO, &l, 0, &m, &e);
            if (rc) assert_true(e.what[0] && e.why[0]);
            if (k == 0) assert_int_not_equal(rc, 0); /* the index promises frames that are not there */
            mull_media_fini(&m);
            free(copy);
            b.data[n] = (char)(b.data[n] ^ 0x20);
            memset(&e, 0, sizeof e);
            rc = mull_media_load_bytes(b.data, b.len, "flipped", MULL_MEDIA_AUTO, &l, 0, &m, &e);
            if (rc) assert_true(e.what[0] && e.why[0]);
            b.data[n] = (char)(b.data[n] ^ 0x20);
            mull_media_fini(&m);
        }
        mull_buf_fini(&b);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(ball),
                                       cmocka_unit_test(asked_sizes),
                                       cmocka_unit_test(seeking_is_exact),
                                       cmocka_unit_test(vp8_without_a_count),
                                       cmocka_unit_test(frame_formula),
                                       cmocka_unit_test(damage)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#endif
