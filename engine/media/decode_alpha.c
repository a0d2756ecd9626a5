/* PNG and WebP with their alpha channel, for resizing before the alpha is used up (resize_mode.c). The plain decoders
 * put it over white at once. */
#include "engine/media/image.h"

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include <png.h>
#include <webp/decode.h>

static const char what[] = "cannot decode image";

typedef struct png_source {
    const uint8_t *data;
    size_t len, at;
    char why[160];
} png_source;

static void read_bytes(png_structp png, png_bytep to, size_t n) {
    png_source *s = png_get_io_ptr(png);
    if (n > s->len - s->at) png_error(png, "the file ends early");
    memcpy(to, s->data + s->at, n);
    s->at += n;
}
static _Noreturn void on_error(png_structp png, png_const_charp text) {
    png_source *s = png_get_error_ptr(png);
    snprintf(s->why, sizeof s->why, "%s", text);
    png_longjmp(png, 1);
}
static void on_warning(png_structp png, png_const_charp text) {
    (void)png, (void)text;
}

static void read_rows(png_structp png, png_infop info, uint8_t *rgba, size_t w, size_t h) {
    int passes = png_set_interlace_handling(png);
    png_read_update_info(png, info);
    if (png_get_rowbytes(png, info) != 4 * w) png_error(png, "its rows have another length");
    for (int pass = 0; pass < passes; pass++)
        for (size_t y = 0; y < h; y++) png_read_row(png, rgba + y * w * 4, NULL);
    png_read_end(png, NULL);
}

/* rgba is owned by the caller even after an error. */
static int decode_png(const uint8_t *data, size_t len, int64_t max_pixels, const char *where, uint8_t **rgba,
                      mull_image *size, mull_error *err) {
    png_source s = {.data = data, .len = len};
    png_infop info = NULL;
    int rc = MULL_OK;
    png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &s, on_error, on_warning);
    if (png) info = png_create_info_struct(png);
    if (!info) {
        png_destroy_read_struct(&png, NULL, NULL);
        return mull_fail(err, MULL_ENOMEM, what, where, NULL, "out of memory");
    }
    if (setjmp(png_jmpbuf(png))) {
        png_destroy_read_struct(&png, &info, NULL);
        return mull_fail(err, MULL_EFORMAT, what, where, "replace the file", "%s", s.why);
    }
    png_set_read_fn(png, &s, read_bytes);
    png_set_user_limits(png, 0x7fffffff, 0x7fffffff); /* ours is on the product */
    png_set_chunk_malloc_max(png, 1 << 23);
    png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, NULL, 0);
    png_read_info(png, info);
    rc = mull_image_init(size, png_get_image_width(png, info), png_get_image_height(png, info), max_pixels, where, err);
    if (!rc) *rgba = malloc((size_t)size->w * (size_t)size->h * 4);
    if (!rc && !*rgba) rc = mull_fail(err, MULL_ENOMEM, what, where, NULL, "out of memory");
    if (!rc) {
        png_set_strip_16(png);
        png_set_gray_to_rgb(png);
        read_rows(png, info, *rgba, (size_t)size->w, (size_t)size->h);
    }
    png_destroy_read_struct(&png, &info, NULL);
    return rc;
}

static int decode_webp(const uint8_t *data, size_t len, int64_t max_pixels, const char *where, uint8_t **rgba,
                       mull_image *size, mull_error *err) {
    int w = 0, h = 0;
    if (!WebPGetInfo(data, len, &w, &h))
        return mull_fail(err, MULL_EFORMAT, what, where, "replace the file", "it is no WebP picture");
    int rc = mull_image_init(size, w, h, max_pixels, where, err);
    if (rc) return rc;
    size_t bytes = (size_t)size->w * (size_t)size->h * 4;
    *rgba = malloc(bytes);
    if (!*rgba) return mull_fail(err, MULL_ENOMEM, what, where, NULL, "out of memory");
    if (!WebPDecodeRGBAInto(data, len, *rgba, bytes, 4 * size->w))
        return mull_fail(err, MULL_EFORMAT, what, where, "replace the file", "its picture is broken");
    return MULL_OK;
}

int mull__decode_alpha(const void *data, size_t len, int64_t max_pixels, const char *where, uint8_t **rgba,
                       mull_image *size, mull_error *err) {
    *rgba = NULL;
    memset(size, 0, sizeof *size);
    int rc = mull_image_sniff(data, len) == MULL_FORMAT_PNG
                 ? decode_png(data, len, max_pixels, where, rgba, size, err)
                 : decode_webp(data, len, max_pixels, where, rgba, size, err);
    if (rc) {
        free(*rgba);
        *rgba = NULL;
        mull_image_fini(size);
    }
    return rc;
}
