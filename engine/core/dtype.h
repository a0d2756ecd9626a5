/* Element types of tensors and their conversions. bf16 and f16 exist as stored 16-bit patterns. */
#ifndef MULL_ENGINE_CORE_DTYPE_H
#define MULL_ENGINE_CORE_DTYPE_H

#include <stdint.h>
#include <stddef.h>
#include <string.h>

/* X(enum, safetensors name, bytes) */
#define MULL_DTYPE_LIST(X)                                                                                             \
    X(F32, "F32", 4) X(BF16, "BF16", 2) X(F16, "F16", 2) X(F64, "F64", 8) X(I64, "I64", 8) X(I32, "I32", 4)            \
    X(I16, "I16", 2) X(I8, "I8", 1) X(U8, "U8", 1) X(BOOL, "BOOL", 1)

typedef enum mull_dtype {
#define X(name, text, size) MULL_##name,
    MULL_DTYPE_LIST(X)
#undef X
    MULL_DTYPE_COUNT
} mull_dtype;

size_t mull_dtype_size(mull_dtype t);
const char *mull_dtype_name(mull_dtype t);
/* 0 and *out set when name is a known safetensors type, else negative. */
int mull_dtype_parse(const char *name, mull_dtype *out);

static inline float mull_bf16_to_f32(uint16_t h) {
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}
/* Round to nearest even; NaN stays NaN. */
static inline uint16_t mull_f32_to_bf16(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((u >> 16) | 0x40u);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}
float mull_f16_to_f32(uint16_t h);
uint16_t mull_f32_to_f16(float f);
/* n elements of src (any float type) to float32. */
void mull_to_f32(const void *src, mull_dtype t, size_t n, float *dst);

#endif
