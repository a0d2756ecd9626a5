/* Element type table and float conversions; see dtype.h. */
#include "engine/core/dtype.h"

static const struct {
    const char *name;
    size_t size;
} types[] = {
#define X(n, text, size) {text, size},
    MULL_DTYPE_LIST(X)
#undef X
};

size_t mull_dtype_size(mull_dtype t) { return types[t].size; }
const char *mull_dtype_name(mull_dtype t) { return types[t].name; }

int mull_dtype_parse(const char *name, mull_dtype *out) {
    for (int i = 0; i < MULL_DTYPE_COUNT; i++) {
        if (strcmp(types[i].name, name) == 0) {
            *out = (mull_dtype)i;
            return 0;
        }
    }
    return -1;
}

float mull_f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exp = (h >> 10) & 31u, man = h & 1023u, u;
    if (exp == 31) {
        u = sign | 0x7f800000u | (man << 13);
    } else if (exp) {
        u = sign | ((exp + 112u) << 23) | (man << 13);
    } else { /* subnormal: man * 2^-24 is exact in float32 */
        float f = (float)man * 0x1p-24f;
        memcpy(&u, &f, 4);
        u |= sign;
    }
    float f;
    memcpy(&f, &u, 4);
    return f;
}

uint16_t mull_f32_to_f16(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    uint16_t sign = (uint16_t)((u >> 16) & 0x8000u);
    uint32_t a = u & 0x7fffffffu;
    if (a > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
    if (a >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* 65520 and above round to infinity */
    if (a < 0x38800000u) {                                   /* below 2^-14: round on the subnormal grid */
        float m;
        memcpy(&m, &a, 4);
        m += 0.5f; /* 0.5 has an ulp of 2^-24, the subnormal step: the addition does the rounding */
        memcpy(&a, &m, 4);
        return (uint16_t)(sign | (a - 0x3f000000u));
    }
    a += 0xfffu + ((a >> 13) & 1u) - 0x38000000u;
    return (uint16_t)(sign | (a >> 13));
}

void mull_to_f32(const void *src, mull_dtype t, size_t n, float *dst) {
    switch (t) {
    case MULL_F32: memcpy(dst, src, n * 4); break;
    case MULL_BF16:
        for (size_t i = 0; i < n; i++) dst[i] = mull_bf16_to_f32(((const uint16_t *)src)[i]);
        break;
    case MULL_F16:
        for (size_t i = 0; i < n; i++) dst[i] = mull_f16_to_f32(((const uint16_t *)src)[i]);
        break;
    case MULL_F64:
        for (size_t i = 0; i < n; i++) dst[i] = (float)((const double *)src)[i];
        break;
    default: memset(dst, 0, n * 4);
    }
}
