/* Inside engine/media: frames of a video through FFmpeg's libraries. */
#ifndef MULL_ENGINE_MEDIA_VIDEO_H
#define MULL_ENGINE_MEDIA_VIDEO_H

#include "engine/core/error.h"

#include <stdbool.h>
#include <stdint.h>

struct AVFrame;

/* Where the bytes come from: a file descriptor when fd >= 0, else memory. Borrowed until the video is closed. */
typedef struct mull_video_source {
    int fd;
    const uint8_t *data;
    int64_t len, at;
} mull_video_source;

typedef struct mull_video_info {
    int width, height;
    char format[16];
    int64_t frames; /* as decoded, in display order */
    double fps;     /* average; 0: unknown */
} mull_video_info;

typedef struct mull_video mull_video;

enum { MULL_VIDEO_RECOUNT = 1 }; /* not an error: the packets promised other frames than came, open again with count */

/* Opens the source and counts its frames: from the packets alone where the codec makes one frame of each (then frames
 * can be reached through key frames), else, or with count, by decoding once without keeping anything. Broken data is
 * MULL_EFORMAT. */
int mull__video_open(mull_video_source *src, bool count, int64_t max_pixels, const char *where, mull_video **out,
                     mull_video_info *info, mull_error *err);

/* i: position in indices. rgb: [height, width, 3] with MULL_IMAGE_SLACK bytes after it, valid during the call. */
typedef int (*mull_video_fn)(void *ctx, int i, const uint8_t *rgb, mull_error *err);
/* Decodes the frames with these rising indices, going to the previous key frame whenever that lies ahead of the
 * decoder, and calls fn for each; its nonzero return stops and is passed on. May return MULL_VIDEO_RECOUNT if the video
 * was opened without count. Call it once. */
int mull__video_frames(mull_video *v, const int64_t *indices, int n, mull_video_fn fn, void *ctx, mull_error *err);
/* Also shows each chosen frame before its conversion (tests hash the planes). */
void mull__video_tap(mull_video *v, void (*fn)(void *ctx, int i, const struct AVFrame *f), void *ctx);
/* Frames that came out of the decoder so far: shows what seeking saved. */
int64_t mull__video_decoded(const mull_video *v);
void mull__video_close(mull_video *v);

#endif
