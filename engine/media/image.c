/* Sniffing and the life of an RGB image; the decoders are in decode_*.c. */
#include "engine/media/image.h"
#include "engine/media/plan.h"

#include <stdlib.h>
#include <string.h>

int mull_image_init(mull_image *im, int64_t w, int64_t h, int64_t max_pixels, const char *where, mull_error *err) {
    static const char what[] = "cannot decode image";
    memset(im, 0, sizeof *im);
    if (max_pixels <= 0) max_pixels = MULL_SOURCE_MAX_PIXELS;
    if (w < 1 || h < 1)
        return mull_fail(err, MULL_EFORMAT, what, where, "give an image with pixels", "it claims %lld x %lld pixels",
                         (long long)w, (long long)h);
    if (w > INT32_MAX / 8 || h > INT32_MAX / 8 || w > max_pixels / h)
        return mull_fail(err, MULL_ELIMIT, what, where, "scale it down first",
                         "%lld x %lld pixels are over the limit of %lld (a decompression bomb?)", (long long)w,
                         (long long)h, (long long)max_pixels);
    im->px = calloc(1, (size_t)w * (size_t)h * 3 + MULL_IMAGE_SLACK);
    if (!im->px)
        return mull_fail(err, MULL_ENOMEM, what, where, NULL, "no memory for %lld x %lld pixels", (long long)w,
                         (long long)h);
    im->w = (int)w;
    im->h = (int)h;
    return MULL_OK;
}

void mull_image_fini(mull_image *im) {
    free(im->px);
    memset(im, 0, sizeof *im);
}

/* a/255 rounded, as Pillow computes it without a division. */
static inline uint32_t div255(uint32_t a) {
    a += 128;
    return ((a >> 8) + a) >> 8;
}

void mull_image_over_white(uint8_t *rgb, const uint8_t *rgba, size_t pixels) {
    for (size_t i = 0; i < pixels; i++) {
        uint32_t a = rgba[4 * i + 3];
        for (int c = 0; c < 3; c++) rgb[3 * i + c] = (uint8_t)div255(255 * (255 - a) + rgba[4 * i + c] * a);
    }
}

mull_image_format mull_image_sniff(const void *data, size_t len) {
    const uint8_t *p = data;
    if (len >= 3 && !memcmp(p, "\xff\xd8\xff", 3)) return MULL_FORMAT_JPEG;
    if (len >= 8 && !memcmp(p, "\x89PNG\r\n\x1a\n", 8)) return MULL_FORMAT_PNG;
    if (len >= 12 && !memcmp(p, "RIFF", 4) && !memcmp(p + 8, "WEBP", 4)) return MULL_FORMAT_WEBP;
    if (len >= 6 && (!memcmp(p, "GIF87a", 6) || !memcmp(p, "GIF89a", 6))) return MULL_FORMAT_GIF;
    if (len >= 18 && !memcmp(p, "BM", 2) && !p[15] && !p[16] && !p[17]) return MULL_FORMAT_BMP;
    if (len >= 8 && (!memcmp(p, "II*\0", 4) || !memcmp(p, "MM\0*", 4))) return MULL_FORMAT_TIFF;
    return MULL_FORMAT_UNKNOWN;
}

const char *mull_image_format_name(mull_image_format f) {
    switch (f) {
#define X(symbol, lower, text)                                                                                         \
    case MULL_FORMAT_##symbol:                                                                                         \
        return text;
        MULL_IMAGE_FORMATS(X)
#undef X
    default:
        return "unknown";
    }
}

int mull_image_unknown(const void *data, size_t len, const char *where, mull_error *err) {
    static const char what[] = "cannot read media";
    const uint8_t *p = data;
    if (!len) return mull_fail(err, MULL_EFORMAT, what, where, "give the whole file", "it has 0 bytes");
    char head[3 * 8 + 1] = "";
    for (size_t i = 0; i < len && i < 8; i++) snprintf(head + 3 * i, 4, "%s%02x", i ? " " : "", p[i]);
    return mull_fail(err, MULL_EFORMAT, what, where, "give JPEG, PNG, WebP, GIF, BMP, TIFF or a video",
                     "its content is no format that mull knows (%zu bytes, first %s)", len, head);
}

int mull_image_decode(const void *data, size_t len, int64_t max_pixels, const char *where, mull_image *out,
                      mull_error *err) {
    memset(out, 0, sizeof *out);
    int rc = MULL_EINTERNAL;
    switch (mull_image_sniff(data, len)) {
#if MULL_HAVE_MEDIA
#define X(symbol, lower, text)                                                                                         \
    case MULL_FORMAT_##symbol:                                                                                         \
        rc = mull__decode_##lower(data, len, max_pixels, where, out, err);                                             \
        break;
        MULL_IMAGE_FORMATS(X)
#undef X
#else
    default:
        rc = mull_fail(err, MULL_EUNSUPPORTED, "cannot decode image", where, "rebuild with -DMULL_WITH_MEDIA=ON",
                       "this build has no image decoders");
        (void)max_pixels;
        break;
#endif
    case MULL_FORMAT_UNKNOWN:
        rc = mull_image_unknown(data, len, where, err);
        break;
    }
    if (rc) mull_image_fini(out);
    return rc;
}
