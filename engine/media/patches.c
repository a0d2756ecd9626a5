/* Normalised bytes in the order in which the vision tower reads them; see image.h. */
#include "engine/media/image.h"

#include <string.h>

#ifdef __clang__
#pragma clang fp contract(off)
#else
#pragma GCC optimize("fp-contract=off")
#endif

enum { P = 14, MERGE = 2 };

void mull_normalize_lut(float lut[3][256]) {
    static const float mean[3] = {0.48145466f, 0.4578275f, 0.40821073f};
    static const float std[3] = {0.26862954f, 0.26130258f, 0.27577711f};
    for (int c = 0; c < 3; c++)
        for (int x = 0; x < 256; x++) {
            float v = (float)(x * (1.0 / 255)); /* the product in double, as numpy does */
            v = v - mean[c];
            lut[c][x] = v / std[c];
        }
}

/* One 14x14 patch of one frame: three planes, a step of plane floats apart. */
static void one_patch(const uint8_t *px, size_t stride, float lut[3][256], float *out, size_t plane) {
    for (int y = 0; y < P; y++, px += stride) {
        for (int x = 0; x < P; x++) {
            out[x] = lut[0][px[3 * x]];
            out[plane + (size_t)x] = lut[1][px[3 * x + 1]];
            out[2 * plane + (size_t)x] = lut[2][px[3 * x + 2]];
        }
        out += P;
    }
}

void mull_make_patches(const uint8_t *frames, int t, int h, int w, float lut[3][256], float *out) {
    const size_t stride = (size_t)w * 3, frame = stride * (size_t)h, area = P * P;
    const int unit = P * MERGE;
    for (int g = 0; g < (t + 1) / 2; g++) {
        const uint8_t *first = frames + (size_t)(2 * g) * frame;
        const uint8_t *second = 2 * g + 1 < t ? first + frame : first;
        for (int by = 0; by < h; by += unit)
            for (int bx = 0; bx < w; bx += unit)
                for (int i = 0; i < MERGE * MERGE; i++, out += 6 * area) {
                    size_t at = (size_t)(by + i / MERGE * P) * stride + (size_t)(bx + i % MERGE * P) * 3;
                    one_patch(first + at, stride, lut, out, 2 * area);
                    if (second != first) {
                        one_patch(second + at, stride, lut, out + area, 2 * area);
                    } else {
                        for (size_t c = 0; c < 3; c++)
                            memcpy(out + (2 * c + 1) * area, out + 2 * c * area, area * sizeof *out);
                    }
                }
    }
}
