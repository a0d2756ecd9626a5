/* Vectors of float32 of this file's instruction set (GCC and clang vector extensions), and on them exp and
 * the normal distribution's tail.
 * The including file sets MULL_VL: 16 (AVX-512), 8 (AVX2) or 4. */
#ifndef MULL_ENGINE_OPS_SIMD_H
#define MULL_ENGINE_OPS_SIMD_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define MULL_INLINE static inline __attribute__((always_inline, unused))

typedef float vf __attribute__((vector_size(4 * MULL_VL)));
typedef int32_t vi __attribute__((vector_size(4 * MULL_VL)));
typedef uint32_t vu __attribute__((vector_size(4 * MULL_VL)));
typedef uint8_t vu8 __attribute__((vector_size(MULL_VL)));

MULL_INLINE vf v_load(const float *p) {
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}
MULL_INLINE void v_store(float *p, vf v) {
    memcpy(p, &v, sizeof v);
}
MULL_INLINE vf v_set(float x) {
    return x - (vf){0};
}
/* Of pairs of bf16 next to each other, the first ones and the second ones. */
MULL_INLINE vf v_bf16_first(vu pairs) {
    return (vf)(pairs << 16);
}
MULL_INLINE vf v_bf16_second(vu pairs) {
    return (vf)(pairs & 0xffff0000u);
}
MULL_INLINE vf v_select(vi mask, vf a, vf b) {
    return (vf)(((vi)a & mask) | ((vi)b & ~mask));
}
/* First n lanes (n < MULL_VL) from p, the rest fill. */
MULL_INLINE vf v_load_n(const float *p, int64_t n, float fill) {
    float t[MULL_VL];
    for (int i = 0; i < MULL_VL; i++) t[i] = i < n ? p[i] : fill;
    return v_load(t);
}
MULL_INLINE void v_store_n(float *p, int64_t n, vf v) {
    float t[MULL_VL];
    v_store(t, v);
    for (int64_t i = 0; i < n; i++) p[i] = t[i];
}
/* Lanes moved down by half, a quarter, ...: what a reduction to lane 0 needs. */
#if MULL_VL == 16
#define MULL_FOLDS(X)                                                                                                  \
    X(8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7)                                                            \
    X(4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11)                                                            \
    X(2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13)                                                            \
    X(1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14)
#elif MULL_VL == 8
#define MULL_FOLDS(X) X(4, 5, 6, 7, 0, 1, 2, 3) X(2, 3, 0, 1, 6, 7, 4, 5) X(1, 0, 3, 2, 5, 4, 7, 6)
#else
#define MULL_FOLDS(X) X(2, 3, 0, 1) X(1, 0, 3, 2)
#endif
/* Largest lane; a NaN lane may or may not be passed over. */
MULL_INLINE float v_max(vf v) {
#define FOLD(...)                                                                                                      \
    {                                                                                                                  \
        vf o = __builtin_shufflevector(v, v, __VA_ARGS__);                                                             \
        v = v_select(o > v, o, v);                                                                                     \
    }
    MULL_FOLDS(FOLD)
#undef FOLD
    return v[0];
}
MULL_INLINE float v_sum(vf v) {
#define FOLD(...) v += __builtin_shufflevector(v, v, __VA_ARGS__);
    MULL_FOLDS(FOLD)
#undef FOLD
    return v[0];
}

/* e^x: x = n ln 2 + r with |r| <= ln 2 / 2 (ln 2 in two parts), a degree-6 polynomial for e^r, then 2^n in two exact
 * steps so that subnormal results come out right. At most 2 ulp from the exact value where the result is normal;
 * NaN stays NaN, -inf gives 0, overflow inf. */
MULL_INLINE vf v_exp(vf x) {
    const vf hi = v_set(89.0f), lo = v_set(-104.0f), magic = v_set(12582912.0f);
    vf c = v_select(x < hi, x, hi);
    c = v_select(c > lo, c, lo);
    vf t = c * 1.44269504088896341f + magic;
    vf n = t - magic;
    vf r = c - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    vf p = v_set(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    vf y = p * (r * r) + r + 1.0f;
    vi ni = (vi)t - (vi)magic;
    vi h = ni >> 1;
    vf s1 = (vf)((h + 127) << 23), s2 = (vf)((ni - h + 127) << 23);
    y = y * s1 * s2;
    return v_select(x == x, y, x);
}

/* The same for x <= 0, 0 instead of a subnormal result: the softmax's, a third fewer instructions. */
MULL_INLINE vf v_exp_neg(vf x) {
    const vf magic = v_set(12582912.0f);
    vf t = x * 1.44269504088896341f + magic;
    vf n = t - magic;
    vf r = x - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    vf p = v_set(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    vf y = p * (r * r) + r + 1.0f;
    y *= (vf)(((vi)t - (vi)magic + 127) << 23);
    return v_select(x < -87.0f, (vf){0}, y); /* NaN is not less and went through y */
}

/* The normal distribution's lower tail P(-u) for u >= 0: e^(-u^2/2) times a polynomial in t = 1 / (1 + u/4) that was
 * fitted to P(-u) e^(u^2/2) on [0, 14.5] with relative error 2e-8. The square is taken in two parts, so that the
 * exponent is exact: at most 1e-6 relative error while the result is normal (u < 13), 0 beyond 20. NaN stays NaN. */
MULL_INLINE vf v_normal_tail(vf u) {
    u = v_select(u > 20.0f, v_set(20.0f), u);
    vf hi = (vf)((vi)u & ~0xfff); /* 12 bits: hi * hi is exact */
    vf e = v_exp(hi * hi * -0.5f) * v_exp((u - hi) * (u + hi) * -0.5f);
    vf t = 1.0f / (u * 0.25f + 1.0f);
    vf p = v_set(0.0334265679f);
    p = p * t + -0.193383366f;
    p = p * t + 0.388500571f;
    p = p * t + -0.324884027f;
    p = p * t + 0.297406793f;
    p = p * t + -0.0166087784f;
    p = p * t + 0.120268114f;
    p = p * t + 0.0950985923f;
    p = p * t + 0.100195386f;
    p = p * t + -1.98564758e-5f;
    return p * e;
}

#endif
