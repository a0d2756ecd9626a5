/* Images against the reference vectors: formulas, decoding, resizing, normalising, patches. All exact. */
#include "media_util.h"

#include "engine/media/image.h"
#include "engine/media/media.h"
#include "engine/media/plan.h"
#include "engine/model/safetensors.h"

#include <math.h>

#if !MULL_HAVE_MEDIA
int main(void) {
    fprintf(stderr, "skipped: this build has no decoders\n");
    return 77;
}
#else

static char dir[2048];

/* "media/X" lies beside the oracle folder; the rest inside oracle/media. */
static const char *file_of(const char *name) {
    static char path[4096];
    if (!strncmp(name, "media/", 6))
        snprintf(path, sizeof path, "%s/%s", MULL_MEDIA_DIR, name + 6);
    else
        snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static void smart_resize_row(const json_t *row, void *ctx) {
    (void)ctx;
    int64_t h = 0, w = 0;
    mull_error e = {0};
    int rc = mull_smart_resize(int_at(row, "h"), int_at(row, "w"), int_at(row, "min"), int_at(row, "max"), &h, &w, &e);
    const json_t *want = json_object_get(row, "want");
    bool refused = json_is_string(want);
    if (refused != (rc != 0) || (!refused && (h != json_integer_value(json_array_get(want, 0)) ||
                                              w != json_integer_value(json_array_get(want, 1)))))
        BAD("%lld x %lld gives %d [%lld, %lld]", (long long)int_at(row, "h"), (long long)int_at(row, "w"), rc,
            (long long)h, (long long)w);
}
static void smart_resize(void **state) {
    (void)state;
    bad_rows = 0;
    assert_int_equal(each_row(dir, "smart_resize.jsonl", smart_resize_row, NULL), 3000);
    assert_int_equal(bad_rows, 0);
}

static void frames_row(const json_t *row, void *ctx) {
    (void)ctx;
    const json_t *a = json_object_get(row, "ask"), *want = json_object_get(row, "want");
    const double none = (double)NAN;
    mull_frame_ask ask = {.fps = num_at(a, "fps", none),
                          .nframes = num_at(a, "nframes", none),
                          .min_frames = int_at(a, "min_frames"),
                          .max_frames = int_at(a, "max_frames"),
                          .video_start = num_at(a, "video_start", none),
                          .video_end = num_at(a, "video_end", none)};
    mull_frame_plan plan;
    mull_error e = {0};
    int rc = mull_plan_frames(int_at(row, "total"), num_at(row, "video_fps", 0), &ask, &plan, &e);
    if ((json_object_get(want, "error") != NULL) != (rc != 0)) {
        BAD("total %lld: %s, wanted %s", (long long)int_at(row, "total"), e.why, text_at(want, "error"));
    } else if (!rc) {
        const json_t *indices = json_object_get(want, "indices");
        bool same = plan.nframes == int_at(want, "nframes") && json_array_size(indices) == (size_t)plan.nframes;
        for (int i = 0; same && i < plan.nframes; i++)
            same = plan.indices[i] == json_integer_value(json_array_get(indices, (size_t)i));
        const double fps = num_at(want, "sample_fps", 0), grid = num_at(want, "second_per_grid", 0);
        if (!same || !(fabs(plan.sample_fps - fps) <= 1e-12 * fps) ||
            !(fabs(plan.second_per_grid - grid) <= 1e-12 * grid))
            BAD("total %lld: %d frames at %.17g", (long long)int_at(row, "total"), plan.nframes, plan.sample_fps);
    }
    free(plan.indices);
}
static void frames(void **state) {
    (void)state;
    bad_rows = 0;
    assert_int_equal(each_row(dir, "frames.jsonl", frames_row, NULL), 448);
    assert_int_equal(bad_rows, 0);
}

/* Rows where either one clear error or exactly these pixels are right (oracle/media/README.md). */
static bool either(const char *name) {
    static const char *const list[] = {"no_eoi.jpg", "short_idat.png", "trunc_animated.gif", "garbage_middle.jpg"};
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        if (strstr(name, list[i])) return true;
    return false;
}

static void decode_row(const json_t *row, void *ctx) {
    (void)ctx;
    const char *name = text_at(row, "file"), *want = text_at(row, "sha256");
    mull_buf b = slurp(file_of(name));
    mull_image im;
    mull_error e = {0};
    int rc = mull_image_decode(b.data, b.len, 0, name, &im, &e);
    mull_buf_fini(&b);
    if (rc) {
        if (want && !either(name)) BAD("%s: %s", name, e.why);
        if (!e.what[0] || !e.why[0]) BAD("%s: an error without words", name);
        return;
    }
    char hex[65];
    sha_hex(im.px, (size_t)im.w * (size_t)im.h * 3, hex);
    if (!want && !either(name)) BAD("%s: decoded, but the reference says %s", name, text_at(row, "message"));
    if (want && (strcmp(hex, want) || im.w != int_at(row, "width") || im.h != int_at(row, "height")))
        BAD("%s: %d x %d, other pixels", name, im.w, im.h);
    mull_image_fini(&im);
}
static void decode(void **state) {
    (void)state;
    bad_rows = 0;
    assert_int_equal(each_row(dir, "decode.jsonl", decode_row, NULL), 63);
    assert_int_equal(bad_rows, 0);
}

/* The last input is kept: rows come grouped by it. */
typedef struct kept {
    char name[256];
    mull_image im;
} kept;

static void resize_row(const json_t *row, void *ctx) {
    kept *k = ctx;
    const char *name = text_at(row, "input"), *want = text_at(row, "sha256");
    mull_error e = {0};
    if (strcmp(k->name, name)) {
        mull_image_fini(&k->im);
        mull_buf b = slurp(file_of(name));
        if (mull_image_decode(b.data, b.len, 0, name, &k->im, &e)) fail_msg("%s: %s", name, e.why);
        mull_buf_fini(&b);
        snprintf(k->name, sizeof k->name, "%s", name);
    }
    mull_filter filter = strcmp(text_at(row, "filter"), "lanczos") ? MULL_BICUBIC : MULL_LANCZOS;
    int w = (int)int_at(row, "out_w"), h = (int)int_at(row, "out_h");
    for (mull_simd s = MULL_SIMD_NONE; s <= MULL_SIMD_AVX512; s++) {
        if (!mull_simd_has(s)) continue;
        mull_image out;
        char hex[65];
        if (mull_resize_pillow(&k->im, w, h, filter, s, &out, &e)) fail_msg("%s: %s", name, e.why);
        sha_hex(out.px, (size_t)w * (size_t)h * 3, hex);
        if (strcmp(hex, want)) BAD("%s to %d x %d with kernel %d", name, w, h, (int)s);
        mull_image_fini(&out);
    }
}
static void resize(void **state) {
    (void)state;
    bad_rows = 0;
    kept k = {0};
    assert_int_equal(each_row(dir, "resize.jsonl", resize_row, &k), 248);
    mull_image_fini(&k.im);
    assert_int_equal(bad_rows, 0);
}

static void processor_row(const json_t *row, void *ctx) {
    (void)ctx;
    const char *name = text_at(row, "file");
    mull_media_limits limits = {.min_pixels = int_at(row, "min_pixels"), .max_pixels = int_at(row, "max_pixels")};
    mull_media m;
    mull_error e = {0};
    int rc = mull_media_load_file(file_of(name), MULL_MEDIA_IMAGE, &limits, MULL_MEDIA_HASHES, &m, &e);
    if (rc) {
        if (!json_object_get(row, "error") && !either(name)) BAD("%s: %s", name, e.why);
        return;
    }
    const json_t *grid = json_object_get(row, "image_grid_thw");
    bool same = m.tokens == int_at(row, "tokens");
    for (size_t i = 0; i < 3; i++) same = same && m.grid[i] == json_integer_value(json_array_get(grid, i));
    if (!same) BAD("%s: grid %lld x %lld", name, (long long)m.grid[1], (long long)m.grid[2]);
    if (strcmp(m.resized_sha256, text_at(row, "resized_sha256"))) BAD("%s: resized pixels differ", name);
    if (strcmp(m.pixels_sha256, text_at(row, "pixel_values_sha256"))) BAD("%s: pixel values differ", name);
    mull_media_fini(&m);
}
static void processor(void **state) {
    (void)state;
    bad_rows = 0;
    assert_true(each_row(dir, "processor.jsonl", processor_row, NULL) == 25);
    assert_int_equal(bad_rows, 0);
}

static mull_safetensors *tensors(const char *name) {
    mull_safetensors *s = NULL;
    mull_error e = {0};
    if (mull_safetensors_open(file_of(name), &s, &e)) fail_msg("%s: %s", name, e.why);
    return s;
}

static void normalize(void **state) {
    (void)state;
    mull_safetensors *s = tensors("normalize.safetensors");
    const mull_tensor_info *t = mull_safetensors_find(s, "lut");
    assert_non_null(t);
    float lut[3][256];
    mull_normalize_lut(lut);
    assert_memory_equal(t->data, lut, sizeof lut);
    mull_safetensors_close(s);
}

/* The vectors hold bytes before normalising; an identity table shows the order alone. */
static void patch_order(void **state) {
    (void)state;
    float lut[3][256];
    for (int c = 0; c < 3; c++)
        for (int x = 0; x < 256; x++) lut[c][x] = (float)x;
    mull_safetensors *s = tensors("patch_order.safetensors");
    static const struct {
        const char *in, *out;
        int t;
    } cases[] = {{"image", "image_patches", 1},
                 {"video1", "video1_patches", 1},
                 {"video3", "video3_patches", 3},
                 {"video4", "video4_patches", 4}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        const mull_tensor_info *in = mull_safetensors_find(s, cases[k].in);
        const mull_tensor_info *want = mull_safetensors_find(s, cases[k].out);
        assert_non_null(in);
        assert_non_null(want);
        enum { H = 56, W = 84 };
        uint8_t *hwc = malloc((size_t)in->count);
        float *out = malloc((size_t)want->count * sizeof *out);
        const uint8_t *px = in->data;
        for (int t = 0; t < cases[k].t; t++) /* videos are stored [T, 3, H, W] */
            for (int i = 0; i < H * W; i++)
                for (int c = 0; c < 3; c++)
                    hwc[(t * H * W + i) * 3 + c] = in->ndim == 3 ? px[i * 3 + c] : px[(t * 3 + c) * H * W + i];
        mull_make_patches(hwc, cases[k].t, H, W, lut, out);
        for (int64_t i = 0; i < want->count; i++)
            if (out[i] != ((const uint8_t *)want->data)[i]) fail_msg("%s differs at %lld", cases[k].in, (long long)i);
        free(hwc);
        free(out);
    }
    mull_safetensors_close(s);
}

int main(void) {
    snprintf(dir, sizeof dir, "%s/media", MULL_ORACLE_DIR);
    if (access(dir, R_OK) != 0) {
        fprintf(stderr, "skipped: no reference vectors at %s\n", dir);
        return 77;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(smart_resize), cmocka_unit_test(frames),
                                       cmocka_unit_test(decode),       cmocka_unit_test(resize),
                                       cmocka_unit_test(processor),    cmocka_unit_test(normalize),
                                       cmocka_unit_test(patch_order)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#endif
