/* Writing pictures, for what the engine draws itself. */
#ifndef MULL_ENGINE_MEDIA_ENCODE_PNG_H
#define MULL_ENGINE_MEDIA_ENCODE_PNG_H

#include "engine/core/buf.h"

#include <stdint.h>

/* rgb: [height, width, 3]. Replaces the file. MULL_EUNSUPPORTED in builds without the image libraries. */
int mull_png_write(const char *path, const uint8_t *rgb, int width, int height, mull_error *err);
/* The same bytes into memory: appended to out. */
int mull_png_encode(const uint8_t *rgb, int width, int height, mull_buf *out, mull_error *err);

#endif
