/* WebP through libwebp. A still image with alpha goes over white; an animation gives its first frame on the canvas. */
#include "engine/media/image.h"

#include <stdlib.h>
#include <string.h>

#include <webp/decode.h>
#include <webp/demux.h>

static const char what[] = "cannot decode WebP";

static void drop_alpha(uint8_t *rgb, const uint8_t *rgba, size_t pixels) {
    for (size_t i = 0; i < pixels; i++) memcpy(rgb + 3 * i, rgba + 4 * i, 3);
}

static int animated(const uint8_t *data, size_t len, bool alpha, const char *where, mull_image *out, mull_error *err) {
    WebPAnimDecoderOptions options;
    if (!WebPAnimDecoderOptionsInit(&options))
        return mull_fail(err, MULL_EINTERNAL, what, where, NULL, "wrong libwebp");
    options.color_mode = MODE_RGBA;
    options.use_threads = 0;
    WebPData bytes = {.bytes = data, .size = len};
    WebPAnimDecoder *d = WebPAnimDecoderNew(&bytes, &options);
    uint8_t *canvas = NULL;
    int stamp, rc = MULL_OK;
    WebPAnimInfo info;
    if (!d || !WebPAnimDecoderGetInfo(d, &info) || info.canvas_width != (uint32_t)out->w ||
        info.canvas_height != (uint32_t)out->h || !WebPAnimDecoderGetNext(d, &canvas, &stamp))
        rc = mull_fail(err, MULL_EFORMAT, what, where, "replace the file", "the animation is truncated or corrupt");
    else if (alpha)
        mull_image_over_white(out->px, canvas, (size_t)out->w * (size_t)out->h);
    else
        drop_alpha(out->px, canvas, (size_t)out->w * (size_t)out->h);
    WebPAnimDecoderDelete(d);
    return rc;
}

int mull__decode_webp(const uint8_t *data, size_t len, int64_t max_pixels, const char *where, mull_image *out,
                      mull_error *err) {
    WebPBitstreamFeatures f;
    VP8StatusCode status = WebPGetFeatures(data, len, &f);
    if (status != VP8_STATUS_OK)
        return mull_fail(err, MULL_EFORMAT, what, where, "replace the file", "the header is truncated or corrupt");
    int rc = mull_image_init(out, f.width, f.height, max_pixels, where, err);
    if (rc) return rc;
    if (f.has_animation) return animated(data, len, f.has_alpha, where, out, err);
    size_t pixels = (size_t)f.width * (size_t)f.height;
    bool good;
    if (!f.has_alpha) {
        good = WebPDecodeRGBInto(data, len, out->px, pixels * 3, 3 * f.width) != NULL;
    } else {
        uint8_t *rgba = malloc(pixels * 4);
        if (!rgba) return mull_fail(err, MULL_ENOMEM, what, where, NULL, "no memory for %zu pixels", pixels);
        good = WebPDecodeRGBAInto(data, len, rgba, pixels * 4, 4 * f.width) != NULL;
        if (good) mull_image_over_white(out->px, rgba, pixels);
        free(rgba);
    }
    return good ? MULL_OK
                : mull_fail(err, MULL_EFORMAT, what, where, "replace the file", "the data is truncated or corrupt");
}
