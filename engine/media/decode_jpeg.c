/* JPEG through libjpeg-turbo with its defaults (accurate DCT, fancy upsampling), which are Pillow's. Warnings about
 * damaged data inside the file are tolerated as Pillow does; a file that ends early is an error, because a half-grey
 * picture must not reach a model. The error manager longjmps: everything that must survive the jump lives in a struct
 * that is not modified between setjmp and the jump except through memory. */
#include "engine/media/image.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <jerror.h>

/* Progressive files may repeat scans at will; real encoders write about ten. */
enum { MAX_SCANS = 500 };

typedef struct jpeg_state {
    struct jpeg_decompress_struct cinfo;
    struct jpeg_error_mgr errors;
    struct jpeg_source_mgr source;
    struct jpeg_progress_mgr progress;
    jmp_buf jump;
    char why[JMSG_LENGTH_MAX + 64];
    uint8_t *row; /* one row of CMYK */
    int64_t max_pixels;
    const char *where;
    mull_image *out;
    mull_error *err;
    int rc; /* set where err is filled already */
} jpeg_state;

static _Noreturn void give_up(jpeg_state *s, const char *why) {
    snprintf(s->why, sizeof s->why, "%s", why);
    longjmp(s->jump, 1);
}

static _Noreturn void on_error(j_common_ptr c) {
    jpeg_state *s = c->client_data;
    char text[JMSG_LENGTH_MAX];
    c->err->format_message(c, text);
    give_up(s, text);
}
static void on_message(j_common_ptr c) {
    (void)c;
}

static void source_nothing(j_decompress_ptr c) {
    (void)c;
}
static boolean source_end(j_decompress_ptr c) {
    give_up(c->client_data, "the file ends early");
}
static void source_skip(j_decompress_ptr c, long n) {
    if (n <= 0) return;
    if ((size_t)n > c->src->bytes_in_buffer) give_up(c->client_data, "the file ends early");
    c->src->next_input_byte += n;
    c->src->bytes_in_buffer -= (size_t)n;
}
static void on_progress(j_common_ptr c) {
    if (((j_decompress_ptr)c)->input_scan_number > MAX_SCANS) give_up(c->client_data, "it has over 500 scans");
}

/* Pillow's CMYK to RGB on the inverted ("Adobe") values it takes from every four-component JPEG. */
static void cmyk_row(const uint8_t *in, uint8_t *rgb, int w) {
    for (int x = 0; x < w; x++, in += 4, rgb += 3) {
        int nk = in[3]; /* 255 - (255 - raw K) */
        for (int c = 0; c < 3; c++) {
            int t = (255 - in[c]) * nk + 128;
            int v = nk - (((t >> 8) + t) >> 8);
            rgb[c] = (uint8_t)(v < 0 ? 0 : v);
        }
    }
}

static void decode(jpeg_state *s, const uint8_t *data, size_t len) {
    struct jpeg_decompress_struct *c = &s->cinfo;
    jpeg_create_decompress(c);
    c->client_data = s;
    s->source = (struct jpeg_source_mgr){.next_input_byte = data,
                                         .bytes_in_buffer = len,
                                         .init_source = source_nothing,
                                         .fill_input_buffer = source_end,
                                         .skip_input_data = source_skip,
                                         .resync_to_restart = jpeg_resync_to_restart,
                                         .term_source = source_nothing};
    c->src = &s->source;
    s->progress.progress_monitor = on_progress;
    c->progress = &s->progress;
    jpeg_read_header(c, TRUE);
    s->rc = mull_image_init(s->out, c->image_width, c->image_height, s->max_pixels, s->where, s->err);
    if (s->rc) longjmp(s->jump, 1);
    bool cmyk = c->num_components == 4;
    c->out_color_space = cmyk ? JCS_CMYK : JCS_RGB;
    if (cmyk) {
        s->row = malloc((size_t)c->image_width * 4);
        if (!s->row) give_up(s, "out of memory");
    }
    jpeg_start_decompress(c);
    while (c->output_scanline < c->output_height) {
        uint8_t *dst = s->out->px + (size_t)c->output_scanline * (size_t)s->out->w * 3;
        JSAMPROW row = cmyk ? s->row : dst;
        if (jpeg_read_scanlines(c, &row, 1) != 1) give_up(s, "the file ends early");
        if (cmyk) cmyk_row(s->row, dst, s->out->w);
    }
    /* jpeg_finish_decompress would only look for the end marker: every pixel is here. */
}

int mull__decode_jpeg(const uint8_t *data, size_t len, int64_t max_pixels, const char *where, mull_image *out,
                      mull_error *err) {
    jpeg_state *s = calloc(1, sizeof *s);
    if (!s) return mull_fail(err, MULL_ENOMEM, "cannot decode JPEG", where, NULL, "out of memory");
    s->max_pixels = max_pixels;
    s->where = where;
    s->out = out;
    s->err = err;
    s->cinfo.err = jpeg_std_error(&s->errors);
    s->cinfo.client_data = s;
    s->errors.error_exit = on_error;
    s->errors.output_message = on_message;
    int rc = MULL_OK;
    if (setjmp(s->jump) == 0) {
        decode(s, data, len);
    } else {
        rc =
            s->rc ? s->rc : mull_fail(err, MULL_EFORMAT, "cannot decode JPEG", where, "replace the file", "%s", s->why);
    }
    jpeg_destroy_decompress(&s->cinfo);
    free(s->row);
    free(s);
    return rc;
}
