/* Videos against the reference vectors: counts, choice of frames, decoded planes, colours, resize, patches. */
#include "media_util.h"

#include "engine/media/image.h"
#include "engine/media/media.h"
#include "engine/media/plan.h"
#include "engine/media/video.h"
#include "engine/model/safetensors.h"

#include <libavutil/frame.h>
#include <libavutil/imgutils.h>
#include <math.h>

#if !MULL_HAVE_MEDIA
int main(void) {
    fprintf(stderr, "skipped: this build has no decoders\n");
    return 77;
}
#else

static char dir[2048];

static const char *file_of(const char *name) {
    static char path[4096];
    if (!strncmp(name, "media/", 6))
        snprintf(path, sizeof path, "%s/%s", MULL_MEDIA_DIR, name + 6);
    else
        snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

enum { MOST = 1024 };

/* sha256 of the planes and of the RGB bytes of each frame that was asked for. */
typedef struct shots {
    char yuv[MOST][65], rgb[MOST][65];
    size_t bytes;
    int n;
} shots;

static void tap(void *ctx, int i, const struct AVFrame *f) {
    shots *s = ctx;
    int size = av_image_get_buffer_size(f->format, f->width, f->height, 1);
    assert_true(size > 0 && i < MOST);
    uint8_t *b = malloc((size_t)size);
    assert_true(av_image_copy_to_buffer(b, size, (const uint8_t *const *)f->data, f->linesize, f->format, f->width,
                                        f->height, 1) == size);
    sha_hex(b, (size_t)size, s->yuv[i]);
    free(b);
}

static int take(void *ctx, int i, const uint8_t *rgb, mull_error *err) {
    (void)err;
    shots *s = ctx;
    sha_hex(rgb, s->bytes, s->rgb[i]);
    s->n++;
    return MULL_OK;
}

/* Opens the file from memory or from its descriptor, decodes the frames, and says how many the decoder gave. */
static int shoot(const char *path, bool count, const int64_t *indices, int n, shots *s, mull_video_info *info,
                 int64_t *decoded, mull_error *err) {
    mull_buf b = slurp(path);
    mull_video_source src = {.fd = -1, .data = (const uint8_t *)b.data, .len = (int64_t)b.len};
    mull_video *v;
    memset(s, 0, sizeof *s);
    int rc = mull__video_open(&src, count, 0, path, &v, info, err);
    if (!rc) {
        s->bytes = (size_t)info->width * (size_t)info->height * 3;
        mull__video_tap(v, tap, s);
        if (n) rc = mull__video_frames(v, indices, n, take, s, err);
        *decoded = mull__video_decoded(v);
        mull__video_close(v);
    }
    mull_buf_fini(&b);
    return rc;
}

/* The frames listed in a row, by both ways of reaching them. */
static void check_frames(const char *name, const json_t *frames, bool rgb_holds) {
    static shots s;
    int64_t indices[MOST];
    int n = 0;
    size_t i;
    const json_t *f;
    json_array_foreach(frames, i, f) indices[n++] = int_at(f, "index");
    for (int count = 0; count < 2; count++) {
        mull_video_info info;
        mull_error e = {0};
        int64_t decoded = 0;
        int rc = shoot(file_of(name), count, indices, n, &s, &info, &decoded, &e);
        if (rc || s.n != n) {
            BAD("%s (count %d): %d frames, %d: %s", name, count, s.n, rc, e.why);
            continue;
        }
        json_array_foreach(frames, i, f) {
            const char *yuv = text_at(f, "yuv_sha256"), *rgb = text_at(f, "rgb_sha256");
            if (yuv && strcmp(yuv, s.yuv[i])) BAD("%s: planes of frame %lld", name, (long long)indices[i]);
            if (rgb_holds && rgb && strcmp(rgb, s.rgb[i])) BAD("%s: RGB of frame %lld", name, (long long)indices[i]);
        }
    }
}

static bool is(const char *name, const char *last) {
    return strstr(name, last) != NULL;
}

static void check_choice(const char *name, const char *kind, const json_t *want, const mull_media_limits *l) {
    if (!want) return;
    mull_media m;
    mull_error e = {0};
    int rc = mull_media_load_file(file_of(name), MULL_MEDIA_VIDEO, l, 0, &m, &e);
    if ((json_object_get(want, "error") != NULL) != (rc != 0)) BAD("%s %s: %s", name, kind, rc ? e.why : "no error");
    if (rc || json_object_get(want, "error")) return;
    const json_t *indices = json_object_get(want, "indices");
    bool same = m.nframes == int_at(want, "nframes");
    for (int i = 0; same && i < m.nframes; i++)
        same = m.indices[i] == json_integer_value(json_array_get(indices, (size_t)i));
    if (!same) BAD("%s %s: other frames", name, kind);
    double fps = num_at(want, "sample_fps", 0), grid = num_at(want, "second_per_grid", 0);
    if (!(fabs(m.sample_fps - fps) <= 1e-12 * fps) || !(fabs(m.second_per_grid - grid) <= 1e-12 * grid))
        BAD("%s %s: %.17g frames a second", name, kind, m.sample_fps);
    mull_media_fini(&m);
}

static void video_row(const json_t *row, void *ctx) {
    (void)ctx;
    const char *name = text_at(row, "file"), *error = text_at(row, "error");
    static shots s;
    mull_video_info info;
    mull_error e = {0};
    int64_t decoded = 0, nothing = 0;
    for (int count = 0; count < 2; count++) {
        int rc = shoot(file_of(name), count, &nothing, 0, &s, &info, &decoded, &e);
        if (rc) { /* a cut file may be refused where the reference stops quietly */
            if (!error && !is(name, "trunc_")) BAD("%s: %s", name, e.why);
            if (!e.what[0] || !e.why[0]) BAD("%s: an error without words", name);
            continue;
        }
        /* Counting by packets leaves damage inside a frame to the decoding below. */
        if (error && count) BAD("%s: no error, %lld frames", name, (long long)info.frames);
        if (!error && info.frames != int_at(row, "decoded_frames"))
            BAD("%s: %lld frames, not %lld", name, (long long)info.frames, (long long)int_at(row, "decoded_frames"));
    }
    mull_media_limits by_fps = {.fps = 2}, by_count = {.nframes = 8};
    if (error || (is(name, "trunc_") && e.code)) {
        mull_media m;
        if (!mull_media_load_file(file_of(name), MULL_MEDIA_VIDEO, &by_count, 0, &m, &e)) {
            BAD("%s: loaded, but it is broken", name);
            mull_media_fini(&m);
        }
        return;
    }
    check_choice(name, "fps 2", json_object_get(row, "fps2"), &by_fps);
    check_choice(name, "nframes 8", json_object_get(row, "nframes8"), &by_count);
    /* Colours of the generic swscale path differ between its versions (README): planes only. */
    check_frames(name, json_object_get(row, "frames"), !is(name, "10bit") && !is(name, "vp9_odd"));
}

static void small_files(void **state) {
    (void)state;
    bad_rows = 0;
    assert_int_equal(each_row(dir, "video.jsonl", video_row, NULL), 28);
    assert_int_equal(bad_rows, 0);
}

/* At most 1 level in at most 0.1 % of the values (README). */
static void compare_resized(const char *name, const uint8_t *got, const uint8_t *want, size_t n) {
    size_t differ = 0;
    int most = 0;
    for (size_t i = 0; i < n; i++) {
        int d = abs(got[i] - want[i]);
        differ += d != 0;
        if (d > most) most = d;
    }
    if (most > 1 || differ * 1000 > n) BAD("%s: %zu of %zu values differ, by up to %d", name, differ, n, most);
}

static void resize_row(const json_t *row, mull_safetensors *tensors) {
    int w = (int)int_at(row, "out_w"), h = (int)int_at(row, "out_h");
    mull_buf b = slurp(file_of(text_at(row, "input")));
    mull_image im;
    mull_error e = {0};
    mull_resize_float *r;
    if (mull_image_decode(b.data, b.len, 0, "frame", &im, &e) || mull_resize_float_create(im.w, im.h, w, h, &r, &e))
        fail_msg("%s", e.why);
    size_t n = (size_t)w * (size_t)h * 3;
    uint8_t *out = malloc(n);
    mull_resize_float_run(r, im.px, out);
    const char *name = text_at(row, "tensor");
    char hex[65];
    sha_hex(out, n, hex);
    if (name) {
        const mull_tensor_info *t = mull_safetensors_find(tensors, name);
        assert_non_null(t);
        assert_int_equal(t->count, n);
        compare_resized(name, out, t->data, n);
    } else if (strcmp(hex, text_at(row, "sha256"))) {
        const json_t *samples = json_object_get(row, "samples"), *x;
        size_t i, far = 0;
        json_array_foreach(samples, i, x) {
            int64_t v[5];
            for (size_t k = 0; k < 5; k++) v[k] = json_integer_value(json_array_get(x, k));
            for (int64_t c = 0; c < 3; c++) far += llabs(out[(v[0] * w + v[1]) * 3 + c] - v[2 + c]) > 1;
        }
        if (far) BAD("resize to %d x %d: %zu samples are off by more than 1", w, h, far);
    }
    printf("  resize to %3d x %3d: %s\n", w, h, strcmp(hex, text_at(row, "sha256")) ? "within 1 level" : "bit-equal");
    free(out);
    mull_resize_float_destroy(r);
    mull_image_fini(&im);
    mull_buf_fini(&b);
}

static void process_row(const json_t *row) {
    const char *name = text_at(row, "file");
    const json_t *ask = json_object_get(row, "ask"), *grid = json_object_get(row, "video_grid_thw");
    mull_media_limits l = {.fps = num_at(ask, "fps", 0),
                           .nframes = (int)int_at(ask, "nframes"),
                           .max_frames = (int)int_at(ask, "max_frames"),
                           .max_pixels = int_at(row, "max_pixels")};
    mull_media m;
    mull_error e = {0};
    if (mull_media_load_file(file_of(name), MULL_MEDIA_AUTO, &l, MULL_MEDIA_HASHES, &m, &e)) fail_msg("%s", e.why);
    const json_t *size = json_object_get(row, "resized");
    bool same = m.resized_h == json_integer_value(json_array_get(size, 0)) &&
                m.resized_w == json_integer_value(json_array_get(size, 1)) && m.nframes == int_at(row, "nframes");
    for (size_t i = 0; i < 3; i++) same = same && m.grid[i] == json_integer_value(json_array_get(grid, i));
    if (!same) BAD("%s: %d frames of %d x %d", name, m.nframes, m.resized_w, m.resized_h);
    bool equal = !strcmp(m.pixels_sha256, text_at(row, "pixel_values_sha256"));
    const json_t *at = json_object_get(row, "indices"), *values = json_object_get(row, "values");
    size_t off = 0;
    for (size_t i = 0; same && i < json_array_size(at); i++) {
        double want = json_number_value(json_array_get(values, i));
        double d = fabs(m.patches[json_integer_value(json_array_get(at, i))] - want);
        if (!(d <= 0.0152)) BAD("%s: a value is off by %g", name, d);
        off += !(d <= 1e-6);
    }
    if (off > 2) BAD("%s: %zu of %zu values are off", name, off, json_array_size(at));
    if (equal && off) BAD("%s: the hash agrees but values do not", name);
    printf("  process %2d frames %dx%d: %s, %zu of %zu values off by one level\n", m.nframes, m.resized_w, m.resized_h,
           equal ? "bit-equal" : "not bit-equal", off, json_array_size(at));
    mull_media_fini(&m);
}

static void indoor_row(const json_t *row, void *ctx) {
    const char *kind = text_at(row, "kind"), *name = text_at(row, "file");
    if (!strcmp(kind, "choice")) {
        const json_t *ask = json_object_get(row, "ask");
        mull_media_limits l = {.fps = num_at(ask, "fps", 0),
                               .nframes = (int)int_at(ask, "nframes"),
                               .max_frames = (int)int_at(ask, "max_frames")};
        check_choice(name, "choice", json_object_get(row, "want"), &l);
        check_frames(name, json_object_get(row, "frames"), true);
    } else if (!strcmp(kind, "process")) {
        process_row(row);
    } else if (!strcmp(kind, "resize")) {
        resize_row(row, ctx);
    }
}
static void indoor(void **state) {
    (void)state;
    bad_rows = 0;
    mull_safetensors *s = NULL;
    mull_error e = {0};
    if (mull_safetensors_open(file_of("video.safetensors"), &s, &e)) fail_msg("%s", e.why);
    assert_int_equal(each_row(dir, "video_process.jsonl", indoor_row, s), 28);
    mull_safetensors_close(s);
    assert_int_equal(bad_rows, 0);
}

/* Seeking pays: the last frames of a file with key frames must not cost the whole file. */
static void seeking(void **state) {
    (void)state;
    static shots s;
    mull_video_info info;
    mull_error e = {0};
    int64_t decoded = 0;
    const int64_t last[] = {488, 490};
    assert_int_equal(shoot(file_of("media/indoor.mp4"), false, last, 2, &s, &info, &decoded, &e), 0);
    assert_int_equal(info.frames, 491);
    assert_true(decoded <= 491 - 426 + 8); /* the last key frame is 426 */
    const int64_t wrong[] = {5, 5};
    assert_int_equal(shoot(file_of("media/indoor.mp4"), false, wrong, 2, &s, &info, &decoded, &e), MULL_EARG);
}

int main(void) {
    snprintf(dir, sizeof dir, "%s/media", MULL_ORACLE_DIR);
    if (access(dir, R_OK) != 0) {
        fprintf(stderr, "skipped: no reference vectors at %s\n", dir);
        return 77;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(small_files), cmocka_unit_test(indoor),
                                       cmocka_unit_test(seeking)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#endif
