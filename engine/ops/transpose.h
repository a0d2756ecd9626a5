/* Transposes small blocks of float32, 4 x 4 at a time in registers: packing would otherwise be one scattered store an
 * element. Any CPU with 128-bit vectors, so it needs no copy per instruction set. */
#ifndef MULL_ENGINE_OPS_TRANSPOSE_H
#define MULL_ENGINE_OPS_TRANSPOSE_H

#include <stdint.h>
#include <string.h>

typedef float mull_f4 __attribute__((vector_size(16)));

/* dst[c * ldd + r] = src[r * lds + c] for r < rows, c < cols. */
static inline void mull_transpose(const float *src, int64_t lds, int rows, int64_t cols, float *dst, int64_t ldd) {
    int r = 0;
    for (; r + 4 <= rows; r += 4) {
        const float *s = src + r * lds;
        float *d = dst + r;
        int64_t c = 0;
        for (; c + 4 <= cols; c += 4) {
            mull_f4 v[4], lo0, lo1, hi0, hi1;
            for (int i = 0; i < 4; i++) memcpy(&v[i], s + i * lds + c, sizeof v[i]);
            lo0 = __builtin_shufflevector(v[0], v[1], 0, 4, 1, 5);
            lo1 = __builtin_shufflevector(v[2], v[3], 0, 4, 1, 5);
            hi0 = __builtin_shufflevector(v[0], v[1], 2, 6, 3, 7);
            hi1 = __builtin_shufflevector(v[2], v[3], 2, 6, 3, 7);
            v[0] = __builtin_shufflevector(lo0, lo1, 0, 1, 4, 5);
            v[1] = __builtin_shufflevector(lo0, lo1, 2, 3, 6, 7);
            v[2] = __builtin_shufflevector(hi0, hi1, 0, 1, 4, 5);
            v[3] = __builtin_shufflevector(hi0, hi1, 2, 3, 6, 7);
            for (int i = 0; i < 4; i++) memcpy(d + (c + i) * ldd, &v[i], sizeof v[i]);
        }
        for (; c < cols; c++)
            for (int i = 0; i < 4; i++) d[c * ldd + i] = s[i * lds + c];
    }
    for (; r < rows; r++)
        for (int64_t c = 0; c < cols; c++) dst[c * ldd + r] = src[r * lds + c];
}

#endif
