/* BMP and TIFF, rare in this field, through the decoders that FFmpeg brings for video anyway. Damaged files are errors.
 * Only pixel layouts whose conversion to RGB is a copy are taken; the rest (CMYK, float, tiled exotica) is refused. */
#include "engine/media/image.h"
#include "engine/media/plan.h"

#include <stdlib.h>
#include <string.h>

#include <libavcodec/avcodec.h>
#include <libavutil/pixdesc.h>

static const char what[] = "cannot decode image";

/* alpha: whether the fourth byte of BGRA means anything. */
static int to_rgb(const AVFrame *f, bool alpha, const char *where, mull_image *out, mull_error *err) {
    size_t w = (size_t)out->w;
    for (int y = 0; y < out->h; y++) {
        const uint8_t *in = f->data[0] + (ptrdiff_t)y * f->linesize[0];
        uint8_t *rgb = out->px + (size_t)y * w * 3;
        switch (f->format) {
        case AV_PIX_FMT_RGB24:
            memcpy(rgb, in, w * 3);
            break;
        case AV_PIX_FMT_BGR24:
            for (size_t x = 0; x < w; x++)
                for (size_t c = 0; c < 3; c++) rgb[3 * x + c] = in[3 * x + 2 - c];
            break;
        case AV_PIX_FMT_BGR0:
            for (size_t x = 0; x < w; x++)
                for (size_t c = 0; c < 3; c++) rgb[3 * x + c] = in[4 * x + 2 - c];
            break;
        case AV_PIX_FMT_BGRA:
            for (size_t x = 0; x < w; x++) {
                const uint8_t px[4] = {in[4 * x + 2], in[4 * x + 1], in[4 * x], alpha ? in[4 * x + 3] : 255};
                mull_image_over_white(rgb + 3 * x, px, 1);
            }
            break;
        case AV_PIX_FMT_RGBA:
            mull_image_over_white(rgb, in, w);
            break;
        case AV_PIX_FMT_GRAY8:
            for (size_t x = 0; x < w; x++) memset(rgb + 3 * x, in[x], 3);
            break;
        case AV_PIX_FMT_PAL8:
            for (size_t x = 0; x < w; x++) {
                uint32_t argb;
                memcpy(&argb, f->data[1] + 4 * (size_t)in[x], 4);
                for (size_t c = 0; c < 3; c++) rgb[3 * x + c] = (uint8_t)(argb >> (16 - 8 * c));
            }
            break;
        case AV_PIX_FMT_MONOBLACK:
        case AV_PIX_FMT_MONOWHITE:
            for (size_t x = 0; x < w; x++) {
                bool one = in[x / 8] >> (7 - x % 8) & 1;
                memset(rgb + 3 * x, one == (f->format == AV_PIX_FMT_MONOBLACK) ? 255 : 0, 3);
            }
            break;
        default: {
            const char *name = av_get_pix_fmt_name(f->format);
            return mull_fail(err, MULL_EUNSUPPORTED, what, where, "convert it to PNG",
                             "the pixel layout %s is not supported", name ? name : "?");
        }
        }
    }
    return MULL_OK;
}

static int decode(enum AVCodecID id, const uint8_t *data, size_t len, int64_t max_pixels, const char *where,
                  mull_image *out, mull_error *err) {
    if (max_pixels <= 0) max_pixels = MULL_SOURCE_MAX_PIXELS;
    av_log_set_level(AV_LOG_QUIET); /* our one error line says it */
    const AVCodec *codec = avcodec_find_decoder(id);
    if (!codec)
        return mull_fail(err, MULL_EUNSUPPORTED, what, where, "convert it to PNG", "this FFmpeg has no decoder for it");
    int rc = MULL_OK;
    AVCodecContext *c = avcodec_alloc_context3(codec);
    AVPacket *packet = av_packet_alloc();
    AVFrame *frame = av_frame_alloc();
    if (!c || !packet || !frame || len > INT32_MAX / 2 || av_new_packet(packet, (int)len) < 0) {
        rc = mull_fail(err, MULL_ENOMEM, what, where, NULL, "no memory for %zu bytes", len);
        goto done;
    }
    memcpy(packet->data, data, len);
    c->thread_count = 1;
    c->max_pixels = max_pixels;
    c->err_recognition = AV_EF_EXPLODE | AV_EF_CAREFUL;
    int ret = avcodec_open2(c, codec, NULL);
    if (ret >= 0) ret = avcodec_send_packet(c, packet);
    if (ret >= 0) ret = avcodec_receive_frame(c, frame);
    if (ret < 0 || frame->decode_error_flags || (frame->flags & AV_FRAME_FLAG_CORRUPT)) {
        char why[AV_ERROR_MAX_STRING_SIZE] = "the data is corrupt";
        if (ret < 0) av_strerror(ret, why, sizeof why);
        rc = mull_fail(err, MULL_EFORMAT, what, where, "replace the file", "%s", why);
        goto done;
    }
    rc = mull_image_init(out, frame->width, frame->height, max_pixels, where, err);
    /* Plain 32-bit BMP (compression 0) has no alpha for Pillow, whatever its fourth byte says. */
    bool alpha = id != AV_CODEC_ID_BMP || len < 31 || data[30] != 0;
    if (!rc) rc = to_rgb(frame, alpha, where, out, err);
done:
    av_frame_free(&frame);
    av_packet_free(&packet);
    avcodec_free_context(&c);
    return rc;
}

int mull__decode_bmp(const uint8_t *data, size_t len, int64_t max_pixels, const char *where, mull_image *out,
                     mull_error *err) {
    return decode(AV_CODEC_ID_BMP, data, len, max_pixels, where, out, err);
}

int mull__decode_tiff(const uint8_t *data, size_t len, int64_t max_pixels, const char *where, mull_image *out,
                      mull_error *err) {
    return decode(AV_CODEC_ID_TIFF, data, len, max_pixels, where, out, err);
}
