/* The chosen frames of a video, in RGB. With an index of display times the decoder jumps to the key frame before the
 * next wanted frame whenever that saves decoding, and every frame is told by its time, so a jump cannot shift the
 * choice. If a promised frame does not come, the caller opens the video again with a full count. Colours go through
 * swscale by the stream's matrix and range, BT.601 limited where it names none, as the reference converts. */
#include "engine/media/image.h"
#include "engine/media/video_internal.h"

#include <stdlib.h>
#include <string.h>

#include <libavutil/imgutils.h>

static int to_rgb(mull_video *v, mull_error *err) {
    const AVFrame *f = v->frame;
    const int stride = (v->width * 3 + 63) / 64 * 64;
    v->sws = sws_getCachedContext(v->sws, f->width, f->height, f->format, v->width, v->height, AV_PIX_FMT_RGB24,
                                  SWS_BILINEAR, NULL, NULL, NULL);
    if (!v->wide) v->wide = av_malloc((size_t)stride * (size_t)v->height + 64);
    if (!v->sws || !v->wide) return mull__video_bad(v, err, AVERROR(ENOMEM), "its colours cannot be converted");
    int *inverse, *table, from, to, brightness, contrast, saturation;
    if (sws_getColorspaceDetails(v->sws, &inverse, &from, &table, &to, &brightness, &contrast, &saturation) >= 0) {
        const int *matrix = sws_getCoefficients(f->colorspace); /* same numbering; unset: BT.601 */
        if (f->color_range == AVCOL_RANGE_JPEG) from = 1;
        sws_setColorspaceDetails(v->sws, matrix, from, table, to, brightness, contrast, saturation);
    }
    uint8_t *planes[4] = {v->wide, NULL, NULL, NULL};
    const int strides[4] = {stride, 0, 0, 0};
    int ret = sws_scale(v->sws, (const uint8_t *const *)f->data, f->linesize, 0, f->height, planes, strides);
    if (ret != v->height) return mull__video_bad(v, err, ret, "its colours cannot be converted");
    for (int y = 0; y < v->height; y++)
        memcpy(v->rgb + (size_t)y * (size_t)v->width * 3, v->wide + (size_t)y * (size_t)stride, (size_t)v->width * 3);
    return MULL_OK;
}

static int deliver(mull_video *v, int i, mull_video_fn fn, void *ctx, mull_error *err) {
    if (v->tap) v->tap(v->tap_ctx, i, v->frame);
    int rc = to_rgb(v, err);
    return rc ? rc : fn(ctx, i, v->rgb, err);
}

/* From the start, counting: for codecs whose packets do not tell. */
static int in_sequence(mull_video *v, const int64_t *indices, int n, mull_video_fn fn, void *ctx, mull_error *err) {
    int rc = mull__video_start(v, err);
    int64_t at = 0;
    for (int i = 0; !rc && i < n; at++) {
        int got = mull__video_next(v, err);
        if (got < 0) return got;
        if (!got) return mull__video_bad(v, err, 0, "it has fewer frames the second time it is read");
        if (at == indices[i]) rc = deliver(v, i++, fn, ctx, err);
        av_frame_unref(v->frame);
    }
    return rc;
}

/* The last key frame shown at or before pts; the first one if there is none. */
static const video_key *key_before(const mull_video *v, int64_t pts) {
    const video_key *best = v->keys;
    for (size_t i = 0; i < v->nkeys; i++)
        if (v->keys[i].pts <= pts && (v->keys[i].pts > best->pts || best->pts > pts)) best = v->keys + i;
    return best;
}

static int by_index(mull_video *v, const int64_t *indices, int n, mull_video_fn fn, void *ctx) {
    mull_error ignored; /* damage here may come from the jump: the full count decides */
    bool started = false;
    int64_t at = 0; /* display time of the last frame out of the decoder */
    for (int i = 0; i < n; i++) {
        const int64_t want = v->pts[indices[i]];
        const video_key *key = key_before(v, want);
        if (!started || key->pts > at) {
            if (av_seek_frame(v->fmt, v->stream, key->pts, AVSEEK_FLAG_BACKWARD) < 0) return MULL_VIDEO_RECOUNT;
            avcodec_flush_buffers(v->dec);
            started = true;
        }
        int rc = 0;
        for (bool found = false; !found && !rc; av_frame_unref(v->frame)) {
            if (mull__video_next(v, &ignored) <= 0) return MULL_VIDEO_RECOUNT;
            at = v->frame->best_effort_timestamp;
            if (at == AV_NOPTS_VALUE || at > want) rc = MULL_VIDEO_RECOUNT;
            if (at == want) {
                found = true;
                rc = deliver(v, i, fn, ctx, &ignored);
            }
        }
        if (rc) {
            av_frame_unref(v->frame);
            return rc;
        }
    }
    return MULL_OK;
}

int mull__video_frames(mull_video *v, const int64_t *indices, int n, mull_video_fn fn, void *ctx, mull_error *err) {
    for (int i = 0; i < n; i++)
        if (indices[i] < 0 || indices[i] >= v->total || (i && indices[i] <= indices[i - 1]))
            return mull_fail(err, MULL_EARG, "cannot decode video", v->where, NULL, "frame %lld is not in order",
                             (long long)indices[i]);
    if (v->indexed) return by_index(v, indices, n, fn, ctx) ? MULL_VIDEO_RECOUNT : MULL_OK;
    return in_sequence(v, indices, n, fn, ctx, err);
}

void mull__video_tap(mull_video *v, void (*fn)(void *, int, const struct AVFrame *), void *ctx) {
    v->tap = fn;
    v->tap_ctx = ctx;
}
