/* PNG through libpng's simplified interface; see encode_png.h. */
#include "engine/media/encode_png.h"

static const char *const WHAT = "cannot write a picture";

#if MULL_HAVE_MEDIA
#include <errno.h>
#include <png.h>
#include <stdio.h>

int mull_png_write(const char *path, const uint8_t *rgb, int width, int height, mull_error *err) {
    png_image image = {.version = PNG_IMAGE_VERSION,
                       .width = (png_uint_32)width,
                       .height = (png_uint_32)height,
                       .format = PNG_FORMAT_RGB};
    FILE *f = fopen(path, "we");
    if (!f) return mull_fail_errno(err, errno, WHAT, path, "check the folder");
    int ok = png_image_write_to_stdio(&image, f, 0, rgb, 0, NULL);
    int closed = fclose(f);
    if (!ok || closed != 0)
        return mull_fail(err, ok ? MULL_EIO : MULL_ENOSPACE, WHAT, path, "free some space", "%s",
                         image.message[0] ? image.message : "the disk refused it");
    return MULL_OK;
}

int mull_png_encode(const uint8_t *rgb, int width, int height, mull_buf *out, mull_error *err) {
    png_image image = {.version = PNG_IMAGE_VERSION,
                       .width = (png_uint_32)width,
                       .height = (png_uint_32)height,
                       .format = PNG_FORMAT_RGB};
    png_alloc_size_t bytes = PNG_IMAGE_PNG_SIZE_MAX(image);
    if (mull_buf_reserve(out, bytes)) return mull_fail(err, MULL_ENOMEM, WHAT, "memory", "", "out of memory");
    if (!png_image_write_to_memory(&image, out->data + out->len, &bytes, 0, rgb, 0, NULL))
        return mull_fail(err, MULL_EIO, WHAT, "memory", "", "%s", image.message);
    out->len += bytes;
    return MULL_OK;
}
#else
int mull_png_encode(const uint8_t *rgb, int width, int height, mull_buf *out, mull_error *err) {
    (void)out;
    return mull_png_write("memory", rgb, width, height, err);
}

int mull_png_write(const char *path, const uint8_t *rgb, int width, int height, mull_error *err) {
    (void)rgb;
    (void)width;
    (void)height;
    return mull_fail(err, MULL_EUNSUPPORTED, WHAT, path, "install the image libraries (ops/deps) and build again",
                     "this build has none");
}
#endif
