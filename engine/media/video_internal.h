/* Shared by video_open.c (input, counting) and video_decode.c (choosing frames). */
#ifndef MULL_ENGINE_MEDIA_VIDEO_INTERNAL_H
#define MULL_ENGINE_MEDIA_VIDEO_INTERNAL_H

#include "engine/media/video.h"

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libswscale/swscale.h>

/* A packet that decoding can start at. */
typedef struct video_key {
    int64_t pts, dts;
} video_key;

struct mull_video {
    mull_video_source *src;
    const char *where;
    int64_t max_pixels;
    AVIOContext *io;
    AVFormatContext *fmt;
    AVCodecContext *dec;
    AVPacket *packet;
    AVFrame *frame;
    int stream, width, height;
    int64_t decoded, total;

    bool indexed; /* pts and keys below hold the truth of the file, as far as packets can tell */
    int64_t *pts; /* [total] in display order */
    video_key *keys;
    size_t nkeys;

    struct SwsContext *sws;
    uint8_t *wide; /* swscale's output, rows padded to 64 bytes */
    uint8_t *rgb;  /* the same, packed */
    void (*tap)(void *, int, const struct AVFrame *);
    void *tap_ctx;
};

int mull__video_bad(mull_video *v, mull_error *err, int averror, const char *why);
/* (Re)opens demuxer and decoder at the start. */
int mull__video_start(mull_video *v, mull_error *err);
void mull__video_stop(mull_video *v);
/* The next frame in display order in v->frame: 1, or 0 at the end, or a negative code. Damage is an error. */
int mull__video_next(mull_video *v, mull_error *err);

#endif
