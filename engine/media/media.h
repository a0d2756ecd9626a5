/* Images and video to patches, as the reference processor makes them: decode -> RGB -> resize -> normalise ->
 * 14x14x2 patches. Formats are told by content, never by file name. */
#ifndef MULL_ENGINE_MEDIA_MEDIA_H
#define MULL_ENGINE_MEDIA_MEDIA_H

#include "engine/core/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct mull_media_limits {
    int64_t min_pixels, max_pixels; /* what the user asked for; 0: the defaults of the medium (below) */
    /* Images: used where min/max_pixels are 0; filled by mull_media_limits_from_model; 0: Qwen's 3136, 12845056.
     * Video does not follow them: its defaults are 128*784 .. 768*784 a frame under total_pixels. */
    int64_t image_min_pixels, image_max_pixels;
    int64_t max_source_pixels;  /* refuse bigger sources before anything is allocated; 0: 178956970 (Pillow's) */
    double fps;                 /* 0: 2 */
    int nframes;                /* 0: from fps */
    int min_frames, max_frames; /* 0: 4, 768 */
    int64_t total_pixels;       /* 0: 128000*784*0.9 */
} mull_media_limits;

typedef enum mull_media_kind { MULL_MEDIA_AUTO, MULL_MEDIA_IMAGE, MULL_MEDIA_VIDEO } mull_media_kind;

typedef struct mull_media {
    mull_media_kind kind;
    char format[16];          /* "jpeg", "png", "webp", "gif", "mp4", ... */
    int width, height;        /* of the file */
    int resized_w, resized_h; /* multiples of 28 */
    int64_t grid[3];          /* t, h, w in patches */
    int64_t tokens;           /* t*h*w/4 */
    double second_per_grid;   /* video: 2 / sampled_fps */
    double sample_fps;
    int64_t *indices;                                           /* video: the frames chosen */
    int nframes;                                                /* length of indices; 0 for an image */
    int64_t decoded_frames;                                     /* video: frames in the stream as decoded */
    char rgb_sha256[65], resized_sha256[65], pixels_sha256[65]; /* hex; filled when asked for */
    float *patches;                                             /* [grid t*h*w, 1176], owned */
} mull_media;

enum { MULL_MEDIA_HASHES = 1 }; /* flag: fill the sha256 fields (video: rgb_sha256 over the chosen frames) */

/* Reads min/max pixels from dir/preprocessor_config.json into limits->image_{min,max}_pixels where they are 0; a
 * missing file leaves Qwen's defaults (3136, 12845056). */
int mull_media_limits_from_model(const char *dir, mull_media_limits *limits, mull_error *err);

/* The caller owns *out (mull_media_fini) on success; on failure it is zeroed. kind AUTO sniffs: a video where an image
 * was asked for (or the reverse) is an error. Animated GIF and WebP are images (frame 0). where names the medium in
 * errors. */
int mull_media_load_file(const char *path, mull_media_kind kind, const mull_media_limits *limits, int flags,
                         mull_media *out, mull_error *err);
int mull_media_load_bytes(const void *data, size_t len, const char *where, mull_media_kind kind,
                          const mull_media_limits *limits, int flags, mull_media *out, mull_error *err);
/* From pixels that are there already; im is used up, whatever comes out. format as in mull_media. */
struct mull_image;
int mull_media_load_pixels(struct mull_image *im, const char *format, const char *where,
                           const mull_media_limits *limits, int flags, mull_media *out, mull_error *err);
void mull_media_fini(mull_media *m);

/* The formulas alone. smart_resize: factor 28, see MODEL.md "Images". */
int mull_smart_resize(int64_t h, int64_t w, int64_t min_pixels, int64_t max_pixels, int64_t *out_h, int64_t *out_w,
                      mull_error *err);

#endif
