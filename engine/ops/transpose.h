/* Transposes small blocks of 32-bit elements, 4 x 4 at a time in registers: packing would otherwise be one scattered
 * store an element. Any CPU with 128-bit vectors, so it needs no copy per instruction set. */
#ifndef MULL_ENGINE_OPS_TRANSPOSE_H
#define MULL_ENGINE_OPS_TRANSPOSE_H

#include <stdint.h>
#include <string.h>

typedef uint32_t mull_u4 __attribute__((vector_size(16)));

/* dst[c * ldd + r] = src[r * lds + c] for r < rows, c < cols, in elements of 32 bits: floats or pairs of bf16. */
static inline void mull_transpose(const void *src_, int64_t lds, int rows, int64_t cols, void *dst_, int64_t ldd) {
    const char *src = src_;
    char *dst = dst_;
    int r = 0;
    for (; r + 4 <= rows; r += 4) {
        const char *s = src + r * lds * 4;
        char *d = dst + (int64_t)r * 4;
        int64_t c = 0;
        for (; c + 4 <= cols; c += 4) {
            mull_u4 v[4], lo0, lo1, hi0, hi1;
            for (int i = 0; i < 4; i++) memcpy(&v[i], s + (i * lds + c) * 4, sizeof v[i]);
            lo0 = __builtin_shufflevector(v[0], v[1], 0, 4, 1, 5);
            lo1 = __builtin_shufflevector(v[2], v[3], 0, 4, 1, 5);
            hi0 = __builtin_shufflevector(v[0], v[1], 2, 6, 3, 7);
            hi1 = __builtin_shufflevector(v[2], v[3], 2, 6, 3, 7);
            v[0] = __builtin_shufflevector(lo0, lo1, 0, 1, 4, 5);
            v[1] = __builtin_shufflevector(lo0, lo1, 2, 3, 6, 7);
            v[2] = __builtin_shufflevector(hi0, hi1, 0, 1, 4, 5);
            v[3] = __builtin_shufflevector(hi0, hi1, 2, 3, 6, 7);
            for (int i = 0; i < 4; i++) memcpy(d + (c + i) * ldd * 4, &v[i], sizeof v[i]);
        }
        for (; c < cols; c++)
            for (int i = 0; i < 4; i++) memcpy(d + (c * ldd + i) * 4, s + (i * lds + c) * 4, 4);
    }
    for (; r < rows; r++)
        for (int64_t c = 0; c < cols; c++) memcpy(dst + (c * ldd + r) * 4, src + (r * lds + c) * 4, 4);
}

#endif
