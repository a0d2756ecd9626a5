/* The formulas of media: which size an image or frame gets and which frames of a video are taken. No pixels here. */
#ifndef MULL_ENGINE_MEDIA_PLAN_H
#define MULL_ENGINE_MEDIA_PLAN_H

#include "engine/core/error.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    MULL_FACTOR = 28,                    /* a merged unit: 2x2 patches of 14 */
    MULL_IMAGE_MIN_PIXELS = 4 * 784,     /* 3136 */
    MULL_IMAGE_MAX_PIXELS = 16384 * 784, /* 12845056 */
    MULL_VIDEO_MIN_PIXELS = 128 * 784,   /* a frame */
    MULL_VIDEO_MAX_PIXELS = 768 * 784,   /* a frame */
    MULL_VIDEO_TOTAL_PIXELS = 90316800,  /* 128000*784*0.9 over all frames */
    MULL_SOURCE_MAX_PIXELS = 178956970,  /* Pillow's decompression bomb error */
    MULL_MAX_ASPECT = 200
};

/* What was asked of a video. Absent values: NAN for the doubles, 0 for the counts. */
typedef struct mull_frame_ask {
    double fps;                    /* NAN: 2 */
    double nframes;                /* NAN: from fps; asking for both is an error */
    int64_t min_frames;            /* 0: 4 */
    int64_t max_frames;            /* 0: min(768, frames) */
    double video_start, video_end; /* seconds; NAN: the whole video */
} mull_frame_ask;

typedef struct mull_frame_plan {
    int64_t *indices; /* nframes of them, strictly rising, owned: free() */
    int nframes;
    double sample_fps;      /* frames a second after sampling */
    double second_per_grid; /* 2 / sample_fps */
} mull_frame_plan;

/* total: frames of the video as decoded; video_fps: their average rate. Errors: MULL_EARG. */
int mull_plan_frames(int64_t total, double video_fps, const mull_frame_ask *ask, mull_frame_plan *out, mull_error *err);
/* Size of each frame of a video of h x w pixels of which nframes were taken. min_pixels, max_pixels, total_pixels: 0
 * for the defaults. */
int mull_plan_video_size(int64_t h, int64_t w, int nframes, int64_t min_pixels, int64_t max_pixels,
                         int64_t total_pixels, int64_t *out_h, int64_t *out_w, mull_error *err);

#endif
