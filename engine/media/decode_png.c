/* PNG through libpng, converted as Pillow's convert("RGB"): alpha of RGBA over white, alpha of 8-bit grey+alpha and
 * every tRNS dropped (16-bit grey+alpha is opened as RGBA, so it goes over white), 16-bit colour cut to the high byte
 * but 16-bit grey clipped at 255 (Pillow does not scale it), gamma ignored. What it forgives is forgiven: wrong
 * checksums of pixel data, and a file that ends behind the bytes that the last row needs. The longjmp handler frees
 * through one state struct. */
#include "engine/media/image.h"

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include <png.h>
#include <zlib.h>

typedef struct png_state {
    const uint8_t *data;
    size_t len, at;
    uint8_t *raw;           /* rows in the file's own channels: one, or all of them when interlaced */
    size_t keep, stride, y; /* rows of raw (0: decoded in place), its stride, the next row to convert */
    int color, depth;
    uint8_t pal[256][3];
    bool cut; /* the file ended before libpng did */
    bool pad; /* zeros come then */
    png_structp png;
    png_infop info;
    int64_t max_pixels;
    const char *where;
    mull_image *out;
    mull_error *err;
    int rc;
    char why[160];
} png_state;

static void read_bytes(png_structp png, png_bytep to, size_t n) {
    png_state *s = png_get_io_ptr(png);
    size_t left = s->len - s->at;
    if (n > left) {
        s->cut = true;
        if (!s->pad) png_error(png, "the file ends early");
        memset(to + left, 0, n - left);
        n = left;
    }
    memcpy(to, s->data + s->at, n);
    s->at += n;
}
static _Noreturn void on_error(png_structp png, png_const_charp text) {
    png_state *s = png_get_error_ptr(png);
    snprintf(s->why, sizeof s->why, "%s", text);
    png_longjmp(png, 1);
}
static void on_warning(png_structp png, png_const_charp text) {
    (void)png, (void)text;
}

/* Entries past the palette are black, as in Pillow. */
static void palette_of(png_state *s, uint8_t pal[256][3]) {
    memset(pal, 0, 256 * 3);
    png_colorp colors = NULL;
    int n = 0;
    if (!png_get_PLTE(s->png, s->info, &colors, &n)) png_error(s->png, "the palette is missing");
    for (int i = 0; i < n && i < 256; i++) {
        pal[i][0] = colors[i].red;
        pal[i][1] = colors[i].green;
        pal[i][2] = colors[i].blue;
    }
}

static void convert_row(uint8_t *rgb, const uint8_t *in, size_t w, int color, int depth, uint8_t pal[256][3]) {
    switch (color) {
    case PNG_COLOR_TYPE_RGB_ALPHA:
        mull_image_over_white(rgb, in, w);
        break;
    case PNG_COLOR_TYPE_PALETTE:
        for (size_t x = 0; x < w; x++) memcpy(rgb + 3 * x, pal[in[x]], 3);
        break;
    case PNG_COLOR_TYPE_GRAY_ALPHA:
        for (size_t x = 0; x < w; x++) {
            const uint8_t v = in[2 * x], px[4] = {v, v, v, in[2 * x + 1]};
            if (depth == 16)
                mull_image_over_white(rgb + 3 * x, px, 1);
            else
                memset(rgb + 3 * x, v, 3);
        }
        break;
    default: /* grey; 16 bit: big-endian, clipped */
        for (size_t x = 0; x < w; x++) memset(rgb + 3 * x, depth == 16 ? (in[2 * x] ? 255 : in[2 * x + 1]) : in[x], 3);
    }
}

/* Converts the row that png_read_row gave last; after the last pass all that are left. */
static void convert_next(png_state *s) {
    size_t w = (size_t)s->out->w;
    if (s->keep)
        convert_row(s->out->px + s->y * w * 3, s->raw + (s->keep > 1 ? s->y * s->stride : 0), w, s->color, s->depth,
                    s->pal);
    s->y++;
}

/* Whether every pixel was decoded before the error: then what is missing (a checksum, IEND) does not matter, and Pillow
 * takes such files too. libpng counts a row when it is whole, and looks for the end of the data behind the last one. */
static bool has_all_pixels(const png_state *s) {
    return s->cut && s->stride &&
           (png_get_interlace_type(s->png, s->info) == PNG_INTERLACE_NONE
                ? png_get_current_row_number(s->png) >= png_get_image_height(s->png, s->info)
                : png_get_current_pass_number(s->png) >= 7);
}

static void decode(png_state *s) {
    png_structp png = s->png;
    png_set_read_fn(png, s, read_bytes);
    if (s->pad) png_set_option(png, PNG_IGNORE_ADLER32, PNG_OPTION_ON);
    png_set_user_limits(png, 0x7fffffff, 0x7fffffff); /* ours is on the product */
    png_set_chunk_malloc_max(png, 1 << 23);
    png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, NULL, 0);
    png_read_info(png, s->info);
    /* Pillow does not look at the checksums of pixel data, only at those before it. */
    png_set_crc_action(png, PNG_CRC_QUIET_USE, PNG_CRC_NO_CHANGE);
    uint32_t w = png_get_image_width(png, s->info), h = png_get_image_height(png, s->info);
    int color = s->color = png_get_color_type(png, s->info), depth = s->depth = png_get_bit_depth(png, s->info);
    s->rc = mull_image_init(s->out, w, h, s->max_pixels, s->where, s->err);
    if (s->rc) png_longjmp(png, 1);

    if (depth == 16 && color != PNG_COLOR_TYPE_GRAY) png_set_strip_16(png);
    if (depth < 8 && color == PNG_COLOR_TYPE_GRAY) png_set_expand_gray_1_2_4_to_8(png);
    if (depth < 8 && color == PNG_COLOR_TYPE_PALETTE) png_set_packing(png);
    int passes = png_set_interlace_handling(png);
    png_read_update_info(png, s->info);
    if (color == PNG_COLOR_TYPE_PALETTE) palette_of(s, s->pal);

    /* RGB lands in place; the rest goes through raw. */
    size_t stride = png_get_rowbytes(png, s->info), keep = color == PNG_COLOR_TYPE_RGB ? 0 : passes > 1 ? h : 1;
    if (keep) s->raw = calloc(keep, stride);
    if (keep && !s->raw) png_error(png, "out of memory");
    s->keep = keep;
    s->stride = stride;
    for (int pass = 0; pass < passes; pass++)
        for (size_t y = 0; y < h; y++) {
            uint8_t *row = keep ? s->raw + (keep > 1 ? y * stride : 0) : s->out->px + y * w * 3;
            png_read_row(png, row, NULL);
            if (pass == passes - 1) convert_next(s);
        }
    /* What follows the pixels does not matter: Pillow too takes a file without IEND. */
}

/* ---- files that end early */
/* Rows of a pass as they come out of the compressed data, with their filter byte: how many, and the bytes of each.
 * Without interlace there is pass 0 alone. false: no such pass. */
static bool pass_rows(const png_state *s, int pass, size_t *rows, size_t *bytes) {
    static const size_t CHANNELS[] = {1, 0, 3, 1, 2, 0, 4}; /* by colour type */
    bool whole = png_get_interlace_type(s->png, s->info) == PNG_INTERLACE_NONE;
    size_t w = png_get_image_width(s->png, s->info), h = png_get_image_height(s->png, s->info),
           cols = whole ? w : PNG_PASS_COLS(w, pass);
    *rows = whole ? h : cols ? PNG_PASS_ROWS(h, pass) : 0;
    *bytes = 1 + (cols * CHANNELS[s->color] * (size_t)s->depth + 7) / 8;
    return pass < (whole ? 1 : 7);
}

/* Do the bytes that are there decompress to all rows, a row a call and none without input, as Pillow's decoder goes? It
 * is done with the last row: the rest of the compressed data and its sums may be missing. */
static bool rows_are_there(const png_state *s) {
    size_t rows = 0, bytes = 0, widest = 2 + 8 * (size_t)png_get_image_width(s->png, s->info), at = 8;
    uint8_t *row = malloc(widest);
    z_stream z = {0};
    if (!row || inflateInit(&z) != Z_OK) {
        free(row);
        return false;
    }
    int pass = 0;
    bool more = pass_rows(s, 0, &rows, &bytes), good = true;
    while (more && !rows) more = pass_rows(s, ++pass, &rows, &bytes);
    z.avail_out = (uInt)bytes;
    while (good && more && s->len - at > 8) {
        size_t n = png_get_uint_32(s->data + at), left = s->len - at - 8;
        z.next_in = (Bytef *)(uintptr_t)(s->data + at + 8);
        z.avail_in = memcmp(s->data + at + 4, "IDAT", 4) ? 0 : (uInt)(n < left ? n : left);
        while (good && more && z.avail_in) {
            z.next_out = row + bytes - z.avail_out;
            int rc = inflate(&z, Z_NO_FLUSH);
            good = rc == Z_OK || (rc == Z_STREAM_END && !z.avail_out);
            if (!good || z.avail_out) continue;
            rows--;
            while (more && !rows) more = pass_rows(s, ++pass, &rows, &bytes);
            z.avail_out = (uInt)bytes;
        }
        if (n >= left || n + 4 >= left) break;
        at += 8 + n + 4;
    }
    inflateEnd(&z);
    free(row);
    return good && !more;
}

static int attempt(png_state *s) {
    static const char what[] = "cannot decode PNG";
    s->at = s->y = 0;
    s->cut = false;
    s->png = png_create_read_struct(PNG_LIBPNG_VER_STRING, s, on_error, on_warning);
    if (s->png) s->info = png_create_info_struct(s->png);
    if (!s->info) return mull_fail(s->err, MULL_ENOMEM, what, s->where, NULL, "out of memory");
    if (setjmp(png_jmpbuf(s->png)) == 0)
        decode(s);
    else if (has_all_pixels(s))
        while (s->y < (size_t)s->out->h) convert_next(s);
    else
        return s->rc ? s->rc : mull_fail(s->err, MULL_EFORMAT, what, s->where, "replace the file", "%s", s->why);
    return MULL_OK;
}

static void end_attempt(png_state *s) {
    if (s->png) png_destroy_read_struct(&s->png, &s->info, NULL);
    s->png = NULL;
    s->info = NULL;
    free(s->raw);
    s->raw = NULL;
}

int mull__decode_png(const uint8_t *data, size_t len, int64_t max_pixels, const char *where, mull_image *out,
                     mull_error *err) {
    png_state *s = calloc(1, sizeof *s);
    if (!s) return mull_fail(err, MULL_ENOMEM, "cannot decode PNG", where, NULL, "out of memory");
    *s = (png_state){.data = data, .len = len, .max_pixels = max_pixels, .where = where, .out = out, .err = err};
    int rc = attempt(s);
    /* libpng takes the data in pieces and leaves the last one, which is cut, alone. */
    if (rc && s->cut && s->stride && rows_are_there(s)) {
        end_attempt(s);
        mull_image_fini(out);
        s->pad = true;
        rc = attempt(s);
    }
    end_attempt(s);
    free(s);
    return rc;
}
