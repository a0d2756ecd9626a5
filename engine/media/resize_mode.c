/* Resizing a picture as Pillow does when it is still in its file's mode: palettes by nearest neighbour, alpha
 * premultiplied, anything else by the filter; only then does it become RGB. Matters to datasets that resize before the
 * usual conversion. */
#include "engine/media/image.h"

#include <stdlib.h>
#include <string.h>

/* What the mode asks for, from the header alone. */
typedef enum mode { MODE_PLAIN, MODE_NEAREST, MODE_RGBA, MODE_LA } mode;

static mode mode_of(const uint8_t *p, size_t len) {
    switch (mull_image_sniff(p, len)) {
    case MULL_FORMAT_PNG:
        if (len < 26) return MODE_PLAIN;
        if (p[25] == 3 || (p[25] == 0 && p[24] == 1)) return MODE_NEAREST; /* P, or 1 bit */
        return p[25] == 6 ? MODE_RGBA : p[25] == 4 ? p[24] == 16 ? MODE_RGBA : MODE_LA : MODE_PLAIN;
    case MULL_FORMAT_GIF:
        return MODE_NEAREST;
    case MULL_FORMAT_BMP:
        return len > 28 && p[28] && p[28] <= 8 ? MODE_NEAREST : MODE_PLAIN;
    case MULL_FORMAT_WEBP: /* an extended header with the alpha flag and no animation */
        return len >= 30 && !memcmp(p + 12, "VP8X", 4) && (p[20] & 0x12) == 0x10 ? MODE_RGBA : MODE_PLAIN;
    default:
        return MODE_PLAIN;
    }
}

/* Pillow walks the source by adding the step, in double. */
static void nearest(const mull_image *in, mull_image *out) {
    double sx = (double)in->w / out->w, sy = (double)in->h / out->h, y = sy * 0.5;
    for (int j = 0; j < out->h; j++, y += sy) {
        int iy = (int)y < in->h ? (int)y : in->h - 1;
        double x = sx * 0.5;
        for (int i = 0; i < out->w; i++, x += sx) {
            int ix = (int)x < in->w ? (int)x : in->w - 1;
            memcpy(out->px + ((size_t)j * (size_t)out->w + (size_t)i) * 3,
                   in->px + ((size_t)iy * (size_t)in->w + (size_t)ix) * 3, 3);
        }
    }
}

#if MULL_HAVE_MEDIA
static uint8_t muldiv255(uint32_t a, uint32_t b) {
    uint32_t t = a * b + 128;
    return (uint8_t)(((t >> 8) + t) >> 8);
}

/* rgba [w*h, 4] of the size of px to premultiplied colour in px and three copies of the alpha in alpha. */
static void premultiply(const uint8_t *rgba, mull_image *px, mull_image *alpha) {
    size_t n = (size_t)px->w * (size_t)px->h;
    for (size_t i = 0; i < n; i++) {
        uint8_t a = rgba[4 * i + 3];
        for (int c = 0; c < 3; c++) px->px[3 * i + (size_t)c] = muldiv255(rgba[4 * i + c], a);
        memset(alpha->px + 3 * i, a, 3);
    }
}

/* Back to straight colour; white: over white, else the alpha is dropped. */
static void finish(mull_image *px, const mull_image *alpha, bool white) {
    size_t n = (size_t)px->w * (size_t)px->h;
    for (size_t i = 0; i < n; i++) {
        uint8_t a = alpha->px[3 * i], straight[4] = {0, 0, 0, a};
        for (int c = 0; c < 3; c++) {
            uint32_t v = px->px[3 * i + (size_t)c];
            if (a != 0 && a != 255) v = 255 * v / a;
            straight[c] = (uint8_t)(v > 255 ? 255 : v);
        }
        if (white)
            mull_image_over_white(px->px + 3 * i, straight, 1);
        else
            memcpy(px->px + 3 * i, straight, 3);
    }
}

static int with_alpha(const void *data, size_t len, int64_t max_pixels, const char *where, int w, int h,
                      mull_filter filter, bool white, mull_image *out, mull_error *err) {
    mull_image px = {0}, alpha = {0}, small = {0};
    uint8_t *rgba = NULL;
    int rc = mull__decode_alpha(data, len, max_pixels, where, &rgba, &px, err);
    if (!rc) rc = mull_image_init(&alpha, px.w, px.h, max_pixels, where, err);
    if (!rc) {
        premultiply(rgba, &px, &alpha);
        rc = mull_resize_pillow(&px, w, h, filter, MULL_SIMD_AUTO, out, err);
    }
    if (!rc) rc = mull_resize_pillow(&alpha, w, h, filter, MULL_SIMD_AUTO, &small, err);
    if (!rc) finish(out, &small, white);
    free(rgba);
    mull_image_fini(&px);
    mull_image_fini(&alpha);
    mull_image_fini(&small);
    return rc;
}
#endif

int mull_image_decode_resized(const void *data, size_t len, int64_t max_pixels, const char *where, int w, int h,
                              mull_filter filter, bool white, mull_image *out, mull_error *err) {
    memset(out, 0, sizeof *out);
    mode m = mode_of(data, len);
    int rc;
#if MULL_HAVE_MEDIA
    if (m == MODE_RGBA || m == MODE_LA) {
        /* Grey with alpha always loses it on the way to RGB. */
        rc = with_alpha(data, len, max_pixels, where, w, h, filter, white && m == MODE_RGBA, out, err);
        if (rc) mull_image_fini(out);
        return rc;
    }
#else
    (void)white;
#endif
    mull_image in;
    rc = mull_image_decode(data, len, max_pixels, where, &in, err);
    if (!rc && m == MODE_NEAREST) {
        rc = mull_image_init(out, w, h, INT64_MAX / 4, where, err);
        if (!rc) nearest(&in, out);
    } else if (!rc) {
        rc = mull_resize_pillow(&in, w, h, filter, MULL_SIMD_AUTO, out, err);
    }
    mull_image_fini(&in);
    if (rc) mull_image_fini(out);
    return rc;
}
