/* GIF through giflib: the first frame on its canvas, as Pillow shows it. Uncovered canvas is the transparent colour,
 * else colour 0; a frame that reaches past the screen enlarges it; transparency itself is dropped. Only what comes
 * before the first frame's end is read, so a file cut later is fine. */
#include "engine/media/image.h"

#include <stdlib.h>
#include <string.h>

#include <gif_lib.h>

static const char what[] = "cannot decode GIF";

typedef struct reader {
    const uint8_t *data;
    size_t len, at;
    bool padded;
} reader;

static int read_bytes(GifFileType *g, GifByteType *to, int n) {
    reader *r = g->UserData;
    size_t left = r->len - r->at, k = (size_t)(n < 0 ? 0 : n);
    if (left == 0 && k == 1 && !r->padded) {
        /* The block that ends the pixels, when a cut has taken only that: Pillow does not miss it either. */
        r->padded = true;
        *to = 0;
        return 1;
    }
    if (k > left) k = left;
    memcpy(to, r->data + r->at, k);
    r->at += k;
    return (int)k;
}

static int fail(GifFileType *g, const char *where, mull_error *err) {
    const char *why = GifErrorString(g->Error);
    return mull_fail(err, MULL_EFORMAT, what, where, "replace the file", "%s", why ? why : "the data is corrupt");
}

/* Walks the records up to the first image; transparent gets the graphics control's colour or -1. */
static int find_frame(GifFileType *g, int *transparent, const char *where, mull_error *err) {
    *transparent = -1;
    for (;;) {
        GifRecordType type;
        if (DGifGetRecordType(g, &type) == GIF_ERROR) return fail(g, where, err);
        if (type == IMAGE_DESC_RECORD_TYPE) return DGifGetImageDesc(g) == GIF_ERROR ? fail(g, where, err) : MULL_OK;
        if (type == TERMINATE_RECORD_TYPE)
            return mull_fail(err, MULL_EFORMAT, what, where, "replace the file", "it has no image");
        int code;
        GifByteType *block;
        if (DGifGetExtension(g, &code, &block) == GIF_ERROR) return fail(g, where, err);
        GraphicsControlBlock gcb;
        if (code == GRAPHICS_EXT_FUNC_CODE && block && DGifExtensionToGCB(block[0], block + 1, &gcb) == GIF_OK)
            *transparent = gcb.TransparentColor;
        while (block)
            if (DGifGetExtensionNext(g, &block) == GIF_ERROR) return fail(g, where, err);
    }
}

/* The frame's indices, then colours. */
static int paint(GifFileType *g, int transparent, const char *where, mull_image *out, mull_error *err) {
    const GifImageDesc *d = &g->Image;
    const ColorMapObject *map = d->ColorMap ? d->ColorMap : g->SColorMap;
    uint8_t pal[256][3];
    /* Pillow: black past the palette, a grey ramp without any. */
    for (int i = 0; i < 256; i++) memset(pal[i], map ? 0 : i, 3);
    for (int i = 0; map && i < map->ColorCount && i < 256; i++) {
        pal[i][0] = map->Colors[i].Red;
        pal[i][1] = map->Colors[i].Green;
        pal[i][2] = map->Colors[i].Blue;
    }
    size_t w = (size_t)out->w, pixels = w * (size_t)out->h;
    const uint8_t *back = pal[transparent >= 0 ? transparent : 0];
    for (size_t i = 0; i < pixels; i++) memcpy(out->px + 3 * i, back, 3);
    uint8_t *line = malloc((size_t)d->Width);
    if (!line) return mull_fail(err, MULL_ENOMEM, what, where, NULL, "out of memory");
    static const int start[] = {0, 4, 2, 1}, step[] = {8, 8, 4, 2};
    int rc = MULL_OK;
    for (int pass = 0; !rc && pass < (d->Interlace ? 4 : 1); pass++)
        for (int y = d->Interlace ? start[pass] : 0; !rc && y < d->Height; y += d->Interlace ? step[pass] : 1) {
            if (DGifGetLine(g, line, d->Width) == GIF_ERROR) {
                rc = fail(g, where, err);
                break;
            }
            uint8_t *rgb = out->px + ((size_t)(d->Top + y) * w + (size_t)d->Left) * 3;
            for (int x = 0; x < d->Width; x++) memcpy(rgb + 3 * x, pal[line[x]], 3);
        }
    free(line);
    return rc;
}

int mull__decode_gif(const uint8_t *data, size_t len, int64_t max_pixels, const char *where, mull_image *out,
                     mull_error *err) {
    reader r = {.data = data, .len = len};
    int code = 0, transparent, ignored;
    GifFileType *g = DGifOpen(&r, read_bytes, &code);
    if (!g) {
        const char *why = GifErrorString(code);
        return mull_fail(err, MULL_EFORMAT, what, where, "replace the file", "%s", why ? why : "the header is corrupt");
    }
    int rc = find_frame(g, &transparent, where, err);
    if (!rc && (g->Image.Left < 0 || g->Image.Top < 0 || g->Image.Width < 1 || g->Image.Height < 1))
        rc = mull_fail(err, MULL_EFORMAT, what, where, "replace the file", "the first frame is empty");
    if (!rc) {
        int64_t w = g->Image.Left + g->Image.Width, h = g->Image.Top + g->Image.Height;
        rc = mull_image_init(out, w > g->SWidth ? w : g->SWidth, h > g->SHeight ? h : g->SHeight, max_pixels, where,
                             err);
    }
    if (!rc) rc = paint(g, transparent, where, out, err);
    DGifCloseFile(g, &ignored);
    return rc;
}
