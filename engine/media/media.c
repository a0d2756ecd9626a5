/* From a file or bytes to patches: tells images from videos, decodes, resizes, normalises; see media.h. */
#include "engine/media/media.h"
#include "engine/core/buf.h"
#include "engine/media/image.h"
#include "engine/media/plan.h"
#include "engine/media/video.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char what[] = "cannot load media";
enum { IMAGE_FILE_MAX = 1 << 30, PATCH_FLOATS = 1176 };

/* sha256 in steps; a NULL context (hashes not asked for) does nothing. */
static int hash_begin(EVP_MD_CTX **c, bool wanted, mull_error *err) {
    *c = NULL;
    if (!wanted) return MULL_OK;
    *c = EVP_MD_CTX_new();
    if (*c && EVP_DigestInit_ex(*c, EVP_sha256(), NULL) == 1) return MULL_OK;
    EVP_MD_CTX_free(*c);
    *c = NULL;
    return mull_fail(err, MULL_EINTERNAL, what, NULL, NULL, "sha256 is not available");
}
static void hash_add(EVP_MD_CTX *c, const void *p, size_t n) {
    if (c) EVP_DigestUpdate(c, p, n);
}
static void hash_end(EVP_MD_CTX *c, char hex[65]) {
    unsigned char md[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    if (!c) return;
    EVP_DigestFinal_ex(c, md, &n);
    for (unsigned i = 0; i < 32 && i < n; i++) snprintf(hex + 2 * i, 3, "%02x", md[i]);
    EVP_MD_CTX_free(c);
}
static int hash_once(bool wanted, const void *p, size_t n, char hex[65], mull_error *err) {
    EVP_MD_CTX *c;
    int rc = hash_begin(&c, wanted, err);
    hash_add(c, p, n);
    hash_end(c, hex);
    return rc;
}

/* frames [t, resized_h, resized_w, 3] to out->patches, grid and tokens. */
static int finish(const uint8_t *frames, int t, int flags, mull_media *out, mull_error *err) {
    out->grid[0] = (t + 1) / 2;
    out->grid[1] = out->resized_h / 14;
    out->grid[2] = out->resized_w / 14;
    size_t n = (size_t)out->grid[0] * (size_t)out->grid[1] * (size_t)out->grid[2];
    size_t bytes = n * PATCH_FLOATS * sizeof(float);
    out->tokens = (int64_t)(n / 4);
    out->patches = malloc(bytes);
    if (!out->patches) return mull_fail(err, MULL_ENOMEM, what, NULL, NULL, "no memory for %zu patches", n);
    float lut[3][256];
    mull_normalize_lut(lut);
    mull_make_patches(frames, t, out->resized_h, out->resized_w, lut, out->patches);
    bool hashes = flags & MULL_MEDIA_HASHES;
    size_t pixels = (size_t)t * (size_t)out->resized_h * (size_t)out->resized_w;
    int rc = hash_once(hashes, frames, pixels * 3, out->resized_sha256, err);
    if (!rc) rc = hash_once(hashes, out->patches, bytes, out->pixels_sha256, err);
    return rc;
}

/* im: decoded, freed here. */
static int image_media(mull_image *im, const char *where, const mull_media_limits *l, int flags, mull_media *out,
                       mull_error *err) {
    mull_image resized = {0};
    out->kind = MULL_MEDIA_IMAGE;
    out->width = im->w;
    out->height = im->h;
    int64_t lo = l->min_pixels ? l->min_pixels : l->image_min_pixels ? l->image_min_pixels : MULL_IMAGE_MIN_PIXELS;
    int64_t hi = l->max_pixels ? l->max_pixels : l->image_max_pixels ? l->image_max_pixels : MULL_IMAGE_MAX_PIXELS;
    /* One bound given by the user moves a default on its other side out of the way. */
    if (lo > hi && !l->min_pixels) lo = hi;
    if (lo > hi && !l->max_pixels) hi = lo;
    int64_t h, w;
    int rc = mull_smart_resize(im->h, im->w, lo, hi, &h, &w, err);
    if (rc) goto done;
    out->resized_h = (int)h;
    out->resized_w = (int)w;
    rc = hash_once(flags & MULL_MEDIA_HASHES, im->px, (size_t)im->w * (size_t)im->h * 3, out->rgb_sha256, err);
    if (!rc) rc = mull_resize_pillow(im, (int)w, (int)h, MULL_BICUBIC, MULL_SIMD_AUTO, &resized, err);
    mull_image_fini(im); /* the source is done with before the patches are made */
    if (!rc) rc = finish(resized.px, 1, flags, out, err);
done:
    mull_image_fini(im);
    mull_image_fini(&resized);
    if (rc && err && !err->where[0]) snprintf(err->where, sizeof err->where, "%s", where);
    return rc;
}

static int load_image(const void *data, size_t len, const char *where, const mull_media_limits *l, int flags,
                      mull_media *out, mull_error *err) {
    mull_image im;
    out->kind = MULL_MEDIA_IMAGE;
    snprintf(out->format, sizeof out->format, "%s", mull_image_format_name(mull_image_sniff(data, len)));
    int rc = mull_image_decode(data, len, l->max_source_pixels, where, &im, err);
    return rc ? rc : image_media(&im, where, l, flags, out, err);
}

#if MULL_HAVE_MEDIA
/* What a chosen frame meets on its way: hash, resize, into its place. */
typedef struct sink {
    uint8_t *frames;
    size_t frame; /* bytes of a resized one */
    size_t source;
    mull_resize_float *resize;
    EVP_MD_CTX *hash;
} sink;

static int take_frame(void *ctx, int i, const uint8_t *rgb, mull_error *err) {
    sink *s = ctx;
    (void)err;
    hash_add(s->hash, rgb, s->source);
    mull_resize_float_run(s->resize, rgb, s->frames + (size_t)i * s->frame);
    return MULL_OK;
}

static int video_try(mull_video_source *src, bool count, const char *where, const mull_media_limits *l, int flags,
                     mull_media *out, mull_error *err) {
    mull_video *v = NULL;
    mull_video_info info;
    mull_frame_plan plan = {0};
    sink s = {0};
    out->kind = MULL_MEDIA_VIDEO;
    int rc = mull__video_open(src, count, l->max_source_pixels, where, &v, &info, err);
    if (rc) return rc;
    memcpy(out->format, info.format, sizeof out->format);
    out->width = info.width;
    out->height = info.height;
    out->decoded_frames = info.frames;
    mull_frame_ask ask = {.fps = l->nframes || l->fps <= 0 ? (double)NAN : l->fps,
                          .nframes = l->nframes ? l->nframes : (double)NAN,
                          .min_frames = l->min_frames,
                          .max_frames = l->max_frames,
                          .video_start = (double)NAN,
                          .video_end = (double)NAN};
    /* An unknown rate still allows a count of frames; positions then take one second a grid. */
    bool known = info.fps > 0;
    if (!known && !l->nframes)
        rc = mull_fail(err, MULL_EFORMAT, what, where, "ask for a number of frames (nframes)",
                       "the video does not say its frame rate");
    if (!rc) rc = mull_plan_frames(info.frames, known ? info.fps : 1, &ask, &plan, err);
    int64_t h = 0, w = 0;
    if (!rc)
        rc = mull_plan_video_size(info.height, info.width, plan.nframes, l->min_pixels, l->max_pixels, l->total_pixels,
                                  &h, &w, err);
    if (rc) goto done;
    out->resized_h = (int)h;
    out->resized_w = (int)w;
    out->sample_fps = known ? plan.sample_fps : 0;
    out->second_per_grid = known ? plan.second_per_grid : 1.0;
    s.frame = (size_t)h * (size_t)w * 3;
    s.source = (size_t)info.height * (size_t)info.width * 3;
    s.frames = calloc((size_t)plan.nframes, s.frame);
    if (!s.frames)
        rc = mull_fail(err, MULL_ENOMEM, what, where, "ask for fewer frames", "no memory for %d frames", plan.nframes);
    if (!rc) rc = mull_resize_float_create(info.width, info.height, (int)w, (int)h, &s.resize, err);
    if (!rc) rc = hash_begin(&s.hash, flags & MULL_MEDIA_HASHES, err);
    if (!rc) rc = mull__video_frames(v, plan.indices, plan.nframes, take_frame, &s, err);
    hash_end(s.hash, out->rgb_sha256);
    mull__video_close(v);
    v = NULL;
    if (!rc) rc = finish(s.frames, plan.nframes, flags, out, err);
    if (!rc) {
        out->indices = plan.indices;
        out->nframes = plan.nframes;
        plan.indices = NULL;
    }
done:
    mull__video_close(v);
    mull_resize_float_destroy(s.resize);
    free(s.frames);
    free(plan.indices);
    if (rc < 0 && err && !err->where[0]) snprintf(err->where, sizeof err->where, "%s", where);
    return rc;
}

static int load_video(mull_video_source *src, const char *where, const mull_media_limits *l, int flags, mull_media *out,
                      mull_error *err) {
    int rc = video_try(src, false, where, l, flags, out, err);
    if (rc != MULL_VIDEO_RECOUNT) return rc;
    mull_media_fini(out);
    return video_try(src, true, where, l, flags, out, err);
}
#else
static int load_video(mull_video_source *src, const char *where, const mull_media_limits *l, int flags, mull_media *out,
                      mull_error *err) {
    (void)src, (void)l, (void)flags, (void)out;
    return mull_fail(err, MULL_EUNSUPPORTED, what, where, "rebuild with -DMULL_WITH_MEDIA=ON",
                     "this build has no video decoders");
}
#endif

static const mull_media_limits no_limits;

static int check_kind(mull_media_kind asked, bool image, const char *where, mull_error *err) {
    if (asked == MULL_MEDIA_AUTO || (asked == MULL_MEDIA_IMAGE) == image) return MULL_OK;
    return mull_fail(err, MULL_EFORMAT, what, where,
                     image ? "pass it as an image" : "pass it as a video, or fix the file",
                     image ? "a video was asked for and this is an image" : "an image was asked for and this is none");
}

int mull_media_load_pixels(mull_image *im, const char *format, const char *where, const mull_media_limits *limits,
                           int flags, mull_media *out, mull_error *err) {
    memset(out, 0, sizeof *out);
    snprintf(out->format, sizeof out->format, "%s", format);
    int rc = image_media(im, where, limits ? limits : &no_limits, flags, out, err);
    if (rc) mull_media_fini(out);
    return rc;
}

int mull_media_load_bytes(const void *data, size_t len, const char *where, mull_media_kind kind,
                          const mull_media_limits *limits, int flags, mull_media *out, mull_error *err) {
    memset(out, 0, sizeof *out);
    if (!limits) limits = &no_limits;
    bool image = mull_image_sniff(data, len) != MULL_FORMAT_UNKNOWN;
    if (!len) return mull_image_unknown(data, len, where, err);
    int rc = check_kind(kind, image, where, err);
    if (!rc && image) {
        rc = load_image(data, len, where, limits, flags, out, err);
    } else if (!rc) {
        mull_video_source src = {.fd = -1, .data = data, .len = (int64_t)len};
        rc = load_video(&src, where, limits, flags, out, err);
    }
    if (rc) mull_media_fini(out);
    return rc;
}

int mull_media_load_file(const char *path, mull_media_kind kind, const mull_media_limits *limits, int flags,
                         mull_media *out, mull_error *err) {
    memset(out, 0, sizeof *out);
    if (!limits) limits = &no_limits;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return mull_fail_errno(err, errno, what, path, "check the path and its permissions");
    uint8_t head[32];
    struct stat st;
    int rc = MULL_OK;
    ssize_t n = 0;
    if (fstat(fd, &st) || (S_ISREG(st.st_mode) && (n = pread(fd, head, sizeof head, 0)) < 0))
        rc = mull_fail_errno(err, errno, what, path, NULL);
    else if (!S_ISREG(st.st_mode))
        rc = mull_fail(err, MULL_EFORMAT, what, path, "give a regular file", "it is not a regular file");
    else if (!n)
        rc = mull_image_unknown(NULL, 0, path, err);
    bool image = !rc && mull_image_sniff(head, (size_t)n) != MULL_FORMAT_UNKNOWN;
    if (!rc) rc = check_kind(kind, image, path, err);
    if (!rc && image) {
        mull_buf bytes;
        rc = mull_read_file(path, IMAGE_FILE_MAX, "image", &bytes, err);
        if (!rc) rc = load_image(bytes.data, bytes.len, path, limits, flags, out, err);
        mull_buf_fini(&bytes);
    } else if (!rc) { /* a video may be larger than memory: it is read as it is decoded */
        mull_video_source src = {.fd = fd, .len = st.st_size};
        rc = load_video(&src, path, limits, flags, out, err);
    }
    close(fd);
    if (rc) mull_media_fini(out);
    return rc;
}

void mull_media_fini(mull_media *m) {
    free(m->indices);
    free(m->patches);
    memset(m, 0, sizeof *m);
}

/* A positive whole number under either key of the two spellings that releases use, else 0. */
static int64_t pixels_of(const json_t *root, const char *key, const char *size_key) {
    const json_t *v = json_object_get(root, key);
    if (!json_is_integer(v)) v = json_object_get(json_object_get(root, "size"), size_key);
    return json_is_integer(v) && json_integer_value(v) > 0 ? (int64_t)json_integer_value(v) : 0;
}

int mull_media_limits_from_model(const char *dir, mull_media_limits *limits, mull_error *err) {
    char *path = mull_path_join(dir, "preprocessor_config.json");
    if (!path) return mull_fail(err, MULL_ENOMEM, what, dir, NULL, "out of memory");
    int rc = MULL_OK;
    mull_buf text = {0};
    json_t *root = NULL;
    if (access(path, F_OK) != 0 && errno == ENOENT) { /* a folder without the file is fine, no folder is not */
        if (access(dir, F_OK) != 0)
            rc = mull_fail_errno(err, errno, "cannot read the checkpoint", dir, "name its folder");
        goto done;
    }
    rc = mull_read_file(path, 1 << 20, "preprocessor config", &text, err);
    if (rc) goto done;
    json_error_t je;
    root = json_loadb(text.data, text.len, JSON_REJECT_DUPLICATES, &je);
    if (!json_is_object(root)) {
        rc = mull_fail(err, MULL_EFORMAT, "cannot read preprocessor config", path, "restore the file", "line %d: %s",
                       root ? 1 : je.line, root ? "it is no JSON object" : je.text);
        goto done;
    }
    if (!limits->image_min_pixels) limits->image_min_pixels = pixels_of(root, "min_pixels", "shortest_edge");
    if (!limits->image_max_pixels) limits->image_max_pixels = pixels_of(root, "max_pixels", "longest_edge");
done:
    json_decref(root);
    mull_buf_fini(&text);
    free(path);
    return rc;
}
