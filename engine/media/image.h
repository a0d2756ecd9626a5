/* Inside engine/media: RGB images, format sniffing, decoders, resizing, patches. */
#ifndef MULL_ENGINE_MEDIA_IMAGE_H
#define MULL_ENGINE_MEDIA_IMAGE_H

#include "engine/core/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Packed RGB, rows of 3*w bytes without padding. px has MULL_IMAGE_SLACK zero bytes after the last row, so that vector
 * loads of the last pixels stay inside. */
typedef struct mull_image {
    uint8_t *px; /* [h, w, 3], owned */
    int w, h;
} mull_image;

enum { MULL_IMAGE_SLACK = 64 };

/* A black image. max_pixels bounds w*h before allocation (decompression bombs); where names it in errors. */
int mull_image_init(mull_image *im, int64_t w, int64_t h, int64_t max_pixels, const char *where, mull_error *err);
void mull_image_fini(mull_image *im);
/* RGBA pixels over white, as Pillow's paste with the alpha as mask rounds. */
void mull_image_over_white(uint8_t *rgb, const uint8_t *rgba, size_t pixels);

/* X(symbol, name in JSON) */
#define MULL_IMAGE_FORMATS(X)                                                                                          \
    X(JPEG, jpeg, "jpeg")                                                                                              \
    X(PNG, png, "png") X(WEBP, webp, "webp") X(GIF, gif, "gif") X(BMP, bmp, "bmp") X(TIFF, tiff, "tiff")
typedef enum mull_image_format {
    MULL_FORMAT_UNKNOWN,
#define X(symbol, lower, text) MULL_FORMAT_##symbol,
    MULL_IMAGE_FORMATS(X)
#undef X
} mull_image_format;

/* By the first bytes alone. */
mull_image_format mull_image_sniff(const void *data, size_t len);
const char *mull_image_format_name(mull_image_format f);
/* One line of advice and cause for bytes that are neither an image nor a video we know. */
int mull_image_unknown(const void *data, size_t len, const char *where, mull_error *err);

/* Decodes the first picture in data to RGB as Pillow converts it (see MODEL.md "Images"). out is zeroed on failure. */
int mull_image_decode(const void *data, size_t len, int64_t max_pixels, const char *where, mull_image *out,
                      mull_error *err);
#define X(symbol, lower, text)                                                                                         \
    int mull__decode_##lower(const uint8_t *data, size_t len, int64_t max_pixels, const char *where, mull_image *out,  \
                             mull_error *err);
MULL_IMAGE_FORMATS(X)
#undef X

typedef enum mull_filter { MULL_BICUBIC, MULL_LANCZOS } mull_filter;
/* Instruction sets of the resize kernels; all give the same bytes. AUTO is the best of this machine. */
typedef enum mull_simd { MULL_SIMD_AUTO, MULL_SIMD_NONE, MULL_SIMD_AVX2, MULL_SIMD_AVX512 } mull_simd;
bool mull_simd_has(mull_simd s);

/* Pillow's Image.resize: 8-bit fixed point, bytes between the passes. */
int mull_resize_pillow(const mull_image *in, int out_w, int out_h, mull_filter filter, mull_simd simd, mull_image *out,
                       mull_error *err);

/* Decodes and resizes to w x h as Pillow does in the picture's own mode: palettes and bits by nearest neighbour, alpha
 * premultiplied. white: RGBA ends over white, else its alpha is dropped. */
int mull_image_decode_resized(const void *data, size_t len, int64_t max_pixels, const char *where, int w, int h,
                              mull_filter filter, bool white, mull_image *out, mull_error *err);
/* PNG or WebP to [h, w, 4], malloc'ed; size gets w and h (its pixels are scratch). */
int mull__decode_alpha(const void *data, size_t len, int64_t max_pixels, const char *where, uint8_t **rgba,
                       mull_image *size, mull_error *err);

/* torchvision's antialiased bicubic on float32 of uint8 frames: no rounding between the passes, then round to even and
 * clamp. The plan holds the weights and the scratch of one geometry, so that a video pays for them once. */
typedef struct mull_resize_float mull_resize_float;
int mull_resize_float_create(int in_w, int in_h, int out_w, int out_h, mull_resize_float **out, mull_error *err);
/* in: [in_h, in_w, 3] with MULL_IMAGE_SLACK bytes after it; out: [out_h, out_w, 3]. */
void mull_resize_float_run(mull_resize_float *r, const uint8_t *in, uint8_t *out);
void mull_resize_float_destroy(mull_resize_float *r);

/* Byte to normalised value, by channel: float32 of x/255, minus mean, over std, each rounded to float32. */
void mull_normalize_lut(float lut[3][256]);
/* Patches of frames [t, h, w, 3] (h, w multiples of 28; an odd t repeats its last frame, so an image is doubled) to out
 * [ceil(t/2) * h/14 * w/14, 1176]; the order is the reference's: grid t, merged 2x2 blocks by row, in a block its four
 * patches; each patch is C, T, 14, 14. grid gets t, h, w in patches. */
void mull_make_patches(const uint8_t *frames, int t, int h, int w, float lut[3][256], float *out);

#endif
