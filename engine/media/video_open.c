/* Video input: demuxer and decoder over our own reader, and the count of frames.
 *
 * The bytes are foreign, so FFmpeg gets no protocol, no file of its own and only the container formats and codecs that
 * carry video in this field. The count must be that of decoded frames: headers lie (edit lists, cut files) and WebM has
 * none. Reading all packets is cheap and exact where a packet makes one frame; otherwise everything is decoded once and
 * dropped. Damage anywhere is an error for that sample: FFmpeg would conceal it with grey blocks. */
#include "engine/media/video_internal.h"
#include "engine/media/image.h"
#include "engine/media/plan.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <libavutil/avstring.h>

static const char what[] = "cannot decode video";
static const char formats[] = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpegts,mpeg,mpegvideo,ogg,asf";
static const char codecs[] = "h264,hevc,vp8,vp9,av1,libdav1d,libaom-av1,mpeg4,mpeg1video,mpeg2video,mjpeg,theora,h263,"
                             "flv,msmpeg4,msmpeg4v2,msmpeg4v1,wmv1,wmv2,wmv3,vc1,prores,ffv1,dvvideo";
enum { IO_BUFFER = 1 << 16, MAX_PACKETS = 1 << 22 };

int mull__video_bad(mull_video *v, mull_error *err, int averror, const char *why) {
    char text[AV_ERROR_MAX_STRING_SIZE] = "";
    if (averror < 0) av_strerror(averror, text, sizeof text);
    int code = averror == AVERROR(ENOMEM) ? MULL_ENOMEM : MULL_EFORMAT;
    return mull_fail(err, code, what, v->where, "replace the file", "%s%s%s", why, *text ? ": " : "", text);
}

static int read_bytes(void *opaque, uint8_t *to, int n) {
    mull_video_source *s = opaque;
    int64_t left = s->len - s->at;
    if (n > left) n = (int)(left < 0 ? 0 : left);
    if (n <= 0) return AVERROR_EOF;
    if (s->fd < 0) {
        memcpy(to, s->data + s->at, (size_t)n);
    } else {
        ssize_t got;
        do got = pread(s->fd, to, (size_t)n, s->at);
        while (got < 0 && errno == EINTR);
        if (got <= 0) return got ? AVERROR(errno) : AVERROR_EOF;
        n = (int)got;
    }
    s->at += n;
    return n;
}

static int64_t seek_bytes(void *opaque, int64_t at, int whence) {
    mull_video_source *s = opaque;
    if (whence & AVSEEK_SIZE) return s->len;
    whence &= ~AVSEEK_FORCE;
    if (whence == SEEK_CUR) at += s->at;
    if (whence == SEEK_END) at += s->len;
    if (at < 0) return AVERROR(EINVAL);
    return s->at = at;
}

static int no_other_file(struct AVFormatContext *f, AVIOContext **io, const char *url, int flags, AVDictionary **o) {
    (void)f, (void)io, (void)url, (void)flags, (void)o;
    return AVERROR(EACCES);
}

void mull__video_stop(mull_video *v) {
    avcodec_free_context(&v->dec);
    avformat_close_input(&v->fmt);
    if (v->io) av_freep(&v->io->buffer);
    avio_context_free(&v->io);
}

static int open_format(mull_video *v, mull_error *err) {
    uint8_t *buffer = av_malloc(IO_BUFFER);
    v->src->at = 0;
    v->io = buffer ? avio_alloc_context(buffer, IO_BUFFER, 0, v->src, read_bytes, NULL, seek_bytes) : NULL;
    if (!v->io) av_free(buffer);
    v->fmt = avformat_alloc_context();
    if (!v->io || !v->fmt) return mull__video_bad(v, err, AVERROR(ENOMEM), what);
    v->fmt->pb = v->io;
    v->fmt->io_open = no_other_file;
    v->fmt->format_whitelist = av_strdup(formats);
    v->fmt->codec_whitelist = av_strdup(codecs);
    if (!v->fmt->format_whitelist || !v->fmt->codec_whitelist) return mull__video_bad(v, err, AVERROR(ENOMEM), what);
    v->fmt->error_recognition = AV_EF_EXPLODE;
    int ret = avformat_open_input(&v->fmt, NULL, NULL, NULL);
    if (ret < 0) /* fmt is freed and NULL now */
        return mull__video_bad(v, err, ret, "it is no image or video that mull reads, or its header is cut off");
    ret = avformat_find_stream_info(v->fmt, NULL);
    return ret < 0 ? mull__video_bad(v, err, ret, "its streams cannot be read") : MULL_OK;
}

int mull__video_start(mull_video *v, mull_error *err) {
    mull__video_stop(v);
    int rc = open_format(v, err);
    if (rc) return rc;
    const AVCodec *codec = NULL;
    v->stream = av_find_best_stream(v->fmt, AVMEDIA_TYPE_VIDEO, -1, -1, &codec, 0);
    if (v->stream == AVERROR_DECODER_NOT_FOUND || (v->stream >= 0 && (!codec || !av_match_name(codec->name, codecs))))
        return mull_fail(err, MULL_EUNSUPPORTED, what, v->where, "convert it to H.264", "no decoder for its codec");
    if (v->stream < 0) return mull__video_bad(v, err, 0, "it has no video stream");
    for (unsigned i = 0; i < v->fmt->nb_streams; i++)
        v->fmt->streams[i]->discard = (int)i == v->stream ? AVDISCARD_DEFAULT : AVDISCARD_ALL;
    const AVStream *st = v->fmt->streams[v->stream];
    v->dec = avcodec_alloc_context3(codec);
    int ret = v->dec ? avcodec_parameters_to_context(v->dec, st->codecpar) : AVERROR(ENOMEM);
    if (ret >= 0) {
        v->dec->pkt_timebase = st->time_base;
        v->dec->max_pixels = v->max_pixels;
        v->dec->err_recognition = AV_EF_EXPLODE | AV_EF_CRCCHECK | AV_EF_BITSTREAM | AV_EF_BUFFER;
        v->dec->thread_type = FF_THREAD_SLICE; /* frame threads would hold a picture each */
        v->dec->thread_count = 4;
        ret = avcodec_open2(v->dec, codec, NULL);
    }
    return ret < 0 ? mull__video_bad(v, err, ret, "its decoder does not start") : MULL_OK;
}

int mull__video_next(mull_video *v, mull_error *err) {
    for (;;) {
        int ret = avcodec_receive_frame(v->dec, v->frame);
        if (ret == AVERROR_EOF) return 0;
        if (ret >= 0) {
            const AVFrame *f = v->frame;
            if (f->decode_error_flags || (f->flags & AV_FRAME_FLAG_CORRUPT))
                return mull__video_bad(v, err, 0, "a frame is damaged");
            if (f->width != v->width || f->height != v->height)
                return mull__video_bad(v, err, 0, "the picture changes its size");
            v->decoded++;
            return 1;
        }
        if (ret != AVERROR(EAGAIN)) return mull__video_bad(v, err, ret, "a frame cannot be decoded");
        do {
            av_packet_unref(v->packet);
            ret = av_read_frame(v->fmt, v->packet);
        } while (ret >= 0 && v->packet->stream_index != v->stream);
        if (ret == AVERROR_EOF && !v->io->error) {
            ret = avcodec_send_packet(v->dec, NULL); /* drain what it still holds */
        } else if (ret >= 0 && (v->packet->flags & AV_PKT_FLAG_CORRUPT)) {
            ret = AVERROR_INVALIDDATA;
        } else if (ret >= 0) {
            ret = avcodec_send_packet(v->dec, v->packet);
        }
        av_packet_unref(v->packet);
        if (ret < 0) return mull__video_bad(v, err, ret, "its data is damaged or cut off");
    }
}

static int by_pts(const void *a, const void *b) {
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

/* Whether every packet of this codec in this container is one shown frame with its display time. */
static bool packets_are_frames(const mull_video *v) {
    switch (v->fmt->streams[v->stream]->codecpar->codec_id) {
    case AV_CODEC_ID_H264:
    case AV_CODEC_ID_HEVC:
    case AV_CODEC_ID_VP9:
    case AV_CODEC_ID_AV1:
    case AV_CODEC_ID_MPEG4:
    case AV_CODEC_ID_MJPEG:
    case AV_CODEC_ID_PRORES:
        break;
    default:
        return false;
    }
    return av_match_name("mp4", v->fmt->iformat->name) || av_match_name("matroska", v->fmt->iformat->name);
}

/* Doubles an array; false and unchanged on no memory. */
static bool grow(void **p, size_t *cap, size_t size) {
    size_t more = *cap ? *cap * 2 : 256;
    void *q = realloc(*p, more * size);
    if (!q) return false;
    *p = q;
    *cap = more;
    return true;
}

/* Reads every packet: v->pts, v->keys, v->total and v->indexed. Leaves the demuxer at the end. */
static int index_packets(mull_video *v, mull_error *err) {
    size_t n = 0, cap = 0, key_cap = 0, seen = 0;
    v->indexed = true;
    int ret;
    while ((ret = av_read_frame(v->fmt, v->packet)) >= 0) {
        AVPacket *p = v->packet;
        bool mine = p->stream_index == v->stream, corrupt = p->flags & AV_PKT_FLAG_CORRUPT;
        bool key = p->flags & AV_PKT_FLAG_KEY, hidden = p->flags & AV_PKT_FLAG_DISCARD;
        int64_t pts = p->pts, dts = p->dts;
        av_packet_unref(p);
        if (!mine) continue;
        if (corrupt) return mull__video_bad(v, err, 0, "its data is damaged or cut off");
        if (++seen > MAX_PACKETS)
            return mull_fail(err, MULL_ELIMIT, what, v->where, "cut the video", "it has over %d packets", MAX_PACKETS);
        if (pts == AV_NOPTS_VALUE || dts == AV_NOPTS_VALUE) v->indexed = false;
        if ((n == cap && !grow((void **)&v->pts, &cap, sizeof *v->pts)) ||
            (v->nkeys == key_cap && !grow((void **)&v->keys, &key_cap, sizeof *v->keys)))
            return mull__video_bad(v, err, AVERROR(ENOMEM), what);
        if (key) v->keys[v->nkeys++] = (video_key){.pts = pts, .dts = dts};
        if (!hidden) v->pts[n++] = pts;
    }
    if (ret != AVERROR_EOF || v->io->error) return mull__video_bad(v, err, ret, "its data is damaged or cut off");
    if (n) qsort(v->pts, n, sizeof *v->pts, by_pts);
    for (size_t i = 1; i < n; i++)
        if (v->pts[i] == v->pts[i - 1]) v->indexed = false;
    v->total = (int64_t)n;
    if (!n || !v->nkeys) v->indexed = false;
    return MULL_OK;
}

static int count_frames(mull_video *v, mull_error *err) {
    int rc;
    for (v->total = 0; (rc = mull__video_next(v, err)) > 0; av_frame_unref(v->frame)) v->total++;
    return rc;
}

static void name_format(const mull_video *v, char out[16]) {
    const char *name = v->fmt->iformat->name;
    const AVDictionaryEntry *brand = av_dict_get(v->fmt->metadata, "major_brand", NULL, 0);
    enum AVCodecID id = v->fmt->streams[v->stream]->codecpar->codec_id;
    if (av_match_name("mp4", name))
        name = brand && !strncmp(brand->value, "qt", 2) ? "mov" : "mp4";
    else if (av_match_name("webm", name))
        name = id == AV_CODEC_ID_VP8 || id == AV_CODEC_ID_VP9 || id == AV_CODEC_ID_AV1 ? "webm" : "matroska";
    snprintf(out, 16, "%.15s", name);
}

/* Average rate as the container gives it, else from the times of the frames. */
static double rate_of(const mull_video *v) {
    const AVStream *st = v->fmt->streams[v->stream];
    const AVRational rates[] = {st->avg_frame_rate, st->r_frame_rate};
    for (int i = 0; i < 2; i++)
        if (rates[i].num > 0 && rates[i].den > 0) return av_q2d(rates[i]);
    if (v->indexed && v->total > 1 && v->pts[v->total - 1] > v->pts[0])
        return (double)(v->total - 1) / ((double)(v->pts[v->total - 1] - v->pts[0]) * av_q2d(st->time_base));
    return 0;
}

int mull__video_open(mull_video_source *src, bool count, int64_t max_pixels, const char *where, mull_video **out,
                     mull_video_info *info, mull_error *err) {
    *out = NULL;
    memset(info, 0, sizeof *info);
    av_log_set_level(AV_LOG_QUIET); /* our one error line says it */
    mull_video *v = calloc(1, sizeof *v);
    if (!v) return mull_fail(err, MULL_ENOMEM, what, where, NULL, "out of memory");
    v->src = src;
    v->where = where;
    v->max_pixels = max_pixels > 0 ? max_pixels : MULL_SOURCE_MAX_PIXELS;
    v->packet = av_packet_alloc();
    v->frame = av_frame_alloc();
    int rc = v->packet && v->frame ? mull__video_start(v, err) : mull__video_bad(v, err, AVERROR(ENOMEM), what);
    if (rc) goto fail;
    v->width = v->dec->width;
    v->height = v->dec->height;
    /* Same bound and message as for an image; it also makes the packed picture. */
    mull_image im;
    rc = mull_image_init(&im, v->width, v->height, v->max_pixels, where, err);
    if (rc) goto fail;
    v->rgb = im.px;
    bool trust = !count && packets_are_frames(v);
    if (trust) rc = index_packets(v, err);
    if (!rc && !v->indexed) {
        if (trust) rc = mull__video_start(v, err);
        if (!rc) rc = count_frames(v, err);
    }
    if (!rc && v->total < 1) rc = mull__video_bad(v, err, 0, "it has no frames");
    if (rc) goto fail;
    *info = (mull_video_info){.width = v->width, .height = v->height, .frames = v->total, .fps = rate_of(v)};
    name_format(v, info->format);
    *out = v;
    return MULL_OK;
fail:
    mull__video_close(v);
    return rc;
}

int64_t mull__video_decoded(const mull_video *v) {
    return v->decoded;
}

void mull__video_close(mull_video *v) {
    if (!v) return;
    mull__video_stop(v);
    av_packet_free(&v->packet);
    av_frame_free(&v->frame);
    sws_freeContext(v->sws);
    av_free(v->wide);
    free(v->rgb);
    free(v->pts);
    free(v->keys);
    free(v);
}
