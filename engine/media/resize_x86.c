/* The Pillow resize passes in AVX2 and AVX-512, chosen at run time; the same bytes as the plain ones, because all sums
 * are exact integers. Horizontal: four RGB pixels a step, shuffled to pairs (r0 r1 g0 g1 b0 b1 . .) that a 16-bit
 * multiply-add eats; AVX-512 takes eight. Vertical: 32 or 64 neighbouring bytes, two rows a step. */
#include "engine/media/resize.h"

#if defined(__x86_64__)
#include <immintrin.h>

/* lo + hi*2^15, rounded, shifted, saturated to bytes: R G B in the low three. */
__attribute__((target("avx2"))) static inline void store_rgb(__m128i lo, __m128i hi, uint8_t *out) {
    __m128i s =
        _mm_add_epi32(_mm_add_epi32(lo, _mm_slli_epi32(hi, MULL_RESIZE_SPLIT)), _mm_set1_epi32(MULL_RESIZE_ROUND));
    s = _mm_srai_epi32(s, MULL_RESIZE_BITS);
    s = _mm_packs_epi32(s, s);
    s = _mm_packus_epi16(s, s);
    uint32_t v = (uint32_t)_mm_cvtsi128_si32(s);
    out[0] = (uint8_t)v;
    out[1] = (uint8_t)(v >> 8);
    out[2] = (uint8_t)(v >> 16);
}

/* Bytes of four pixels to 16-bit pairs: lane 0 pixels 0 and 1, lane 1 pixels 2 and 3. */
#define PAIR01 0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1
#define PAIR23 6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1

__attribute__((target("avx2"))) void mull__hpass_avx2(const mull_axis *a, const uint8_t *in, uint8_t *out) {
    const __m256i shuffle = _mm256_setr_epi8(PAIR01, PAIR23);
    for (int i = 0; i < a->n; i++, out += 3) {
        const int16_t *k = a->pair + (size_t)i * (size_t)a->taps * 8;
        const uint8_t *p = in + (size_t)a->first[i] * 3;
        __m256i lo = _mm256_setzero_si256(), hi = lo;
        for (int j = 0; j < a->count[i]; j += 4, p += 12, k += 32) {
            __m256i px = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)p));
            px = _mm256_shuffle_epi8(px, shuffle);
            lo = _mm256_add_epi32(lo, _mm256_madd_epi16(px, _mm256_loadu_si256((const __m256i *)k)));
            hi = _mm256_add_epi32(hi, _mm256_madd_epi16(px, _mm256_loadu_si256((const __m256i *)(k + 16))));
        }
        store_rgb(_mm_add_epi32(_mm256_castsi256_si128(lo), _mm256_extracti128_si256(lo, 1)),
                  _mm_add_epi32(_mm256_castsi256_si128(hi), _mm256_extracti128_si256(hi, 1)), out);
    }
}

#define AVX512 __attribute__((target("avx2,avx512f,avx512bw,avx512vl")))

AVX512 void mull__hpass_avx512(const mull_axis *a, const uint8_t *in, uint8_t *out) {
    const __m256i half = _mm256_setr_epi8(PAIR01, PAIR23);
    const __m512i shuffle = _mm512_broadcast_i64x4(half);
    for (int i = 0; i < a->n; i++, out += 3) {
        const int16_t *k = a->pair + (size_t)i * (size_t)a->taps * 8;
        const uint8_t *p = in + (size_t)a->first[i] * 3;
        /* Of each register: the low half sums lo, the high half hi; two chains hide the latency. */
        __m512i s0 = _mm512_setzero_si512(), s1 = s0;
        int j = 0, n = a->count[i];
        for (; j + 4 < n; j += 8, p += 24, k += 64) {
            __m512i p0 = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)p));
            __m512i p1 = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(p + 12)));
            s0 = _mm512_add_epi32(s0, _mm512_madd_epi16(_mm512_shuffle_epi8(p0, shuffle), _mm512_loadu_si512(k)));
            s1 = _mm512_add_epi32(s1, _mm512_madd_epi16(_mm512_shuffle_epi8(p1, shuffle), _mm512_loadu_si512(k + 32)));
        }
        if (j < n) {
            __m512i p0 = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)p));
            s0 = _mm512_add_epi32(s0, _mm512_madd_epi16(_mm512_shuffle_epi8(p0, shuffle), _mm512_loadu_si512(k)));
        }
        s0 = _mm512_add_epi32(s0, s1);
        __m256i lo = _mm512_castsi512_si256(s0), hi = _mm512_extracti64x4_epi64(s0, 1);
        store_rgb(_mm_add_epi32(_mm256_castsi256_si128(lo), _mm256_extracti128_si256(lo, 1)),
                  _mm_add_epi32(_mm256_castsi256_si128(hi), _mm256_extracti128_si256(hi, 1)), out);
    }
}

/* k of two rows as the 16-bit pair that madd wants in every 32-bit lane. */
static inline int32_t pair_lo(int32_t a, int32_t b) {
    const int32_t mask = (1 << MULL_RESIZE_SPLIT) - 1;
    return (a & mask) | (int32_t)((uint32_t)(b & mask) << 16);
}
static inline int32_t pair_hi(int32_t a, int32_t b) {
    return (int32_t)(((uint32_t)(a >> MULL_RESIZE_SPLIT) & 0xffffu) | ((uint32_t)(b >> MULL_RESIZE_SPLIT) << 16));
}

#define FINISH(P, s, shift, round)                                                                                     \
    P##_srai_epi32(P##_add_epi32(P##_add_epi32(s[0], P##_slli_epi32(s[1], MULL_RESIZE_SPLIT)), round), shift)

__attribute__((target("avx2"))) void mull__vpass_avx2(const int32_t *k, int taps, const uint8_t *in, size_t stride,
                                                      size_t bytes, uint8_t *out) {
    const __m256i zero = _mm256_setzero_si256(), round = _mm256_set1_epi32(MULL_RESIZE_ROUND);
    size_t i = 0;
    for (; i + 32 <= bytes; i += 32) {
        __m256i s[4][2] = {{zero, zero}, {zero, zero}, {zero, zero}, {zero, zero}};
        for (int j = 0; j < taps; j += 2) {
            bool two = j + 1 < taps;
            __m256i a = _mm256_loadu_si256((const __m256i *)(in + (size_t)j * stride + i));
            __m256i b = two ? _mm256_loadu_si256((const __m256i *)(in + (size_t)(j + 1) * stride + i)) : zero;
            __m256i lo = _mm256_set1_epi32(pair_lo(k[j], two ? k[j + 1] : 0));
            __m256i hi = _mm256_set1_epi32(pair_hi(k[j], two ? k[j + 1] : 0));
            __m256i l = _mm256_unpacklo_epi8(a, b), h = _mm256_unpackhi_epi8(a, b);
            __m256i q[4] = {_mm256_unpacklo_epi8(l, zero), _mm256_unpackhi_epi8(l, zero), _mm256_unpacklo_epi8(h, zero),
                            _mm256_unpackhi_epi8(h, zero)};
            for (int c = 0; c < 4; c++) {
                s[c][0] = _mm256_add_epi32(s[c][0], _mm256_madd_epi16(q[c], lo));
                s[c][1] = _mm256_add_epi32(s[c][1], _mm256_madd_epi16(q[c], hi));
            }
        }
        __m256i l = _mm256_packs_epi32(FINISH(_mm256, s[0], MULL_RESIZE_BITS, round),
                                       FINISH(_mm256, s[1], MULL_RESIZE_BITS, round));
        __m256i h = _mm256_packs_epi32(FINISH(_mm256, s[2], MULL_RESIZE_BITS, round),
                                       FINISH(_mm256, s[3], MULL_RESIZE_BITS, round));
        _mm256_storeu_si256((__m256i *)(out + i), _mm256_packus_epi16(l, h));
    }
    if (i < bytes) mull__vpass_plain(k, taps, in + i, stride, bytes - i, out + i);
}

AVX512 void mull__vpass_avx512(const int32_t *k, int taps, const uint8_t *in, size_t stride, size_t bytes,
                               uint8_t *out) {
    const __m512i zero = _mm512_setzero_si512(), round = _mm512_set1_epi32(MULL_RESIZE_ROUND);
    /* The last step is masked instead of left to plain code: rows are often a few hundred bytes. */
    for (size_t i = 0; i < bytes; i += 64) {
        __mmask64 m = bytes - i >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << (bytes - i)) - 1;
        __m512i s[4][2] = {{zero, zero}, {zero, zero}, {zero, zero}, {zero, zero}};
        for (int j = 0; j < taps; j += 2) {
            bool two = j + 1 < taps;
            __m512i a = _mm512_maskz_loadu_epi8(m, in + (size_t)j * stride + i);
            __m512i b = two ? _mm512_maskz_loadu_epi8(m, in + (size_t)(j + 1) * stride + i) : zero;
            __m512i lo = _mm512_set1_epi32(pair_lo(k[j], two ? k[j + 1] : 0));
            __m512i hi = _mm512_set1_epi32(pair_hi(k[j], two ? k[j + 1] : 0));
            __m512i l = _mm512_unpacklo_epi8(a, b), h = _mm512_unpackhi_epi8(a, b);
            __m512i q[4] = {_mm512_unpacklo_epi8(l, zero), _mm512_unpackhi_epi8(l, zero), _mm512_unpacklo_epi8(h, zero),
                            _mm512_unpackhi_epi8(h, zero)};
            for (int c = 0; c < 4; c++) {
                s[c][0] = _mm512_add_epi32(s[c][0], _mm512_madd_epi16(q[c], lo));
                s[c][1] = _mm512_add_epi32(s[c][1], _mm512_madd_epi16(q[c], hi));
            }
        }
        __m512i l = _mm512_packs_epi32(FINISH(_mm512, s[0], MULL_RESIZE_BITS, round),
                                       FINISH(_mm512, s[1], MULL_RESIZE_BITS, round));
        __m512i h = _mm512_packs_epi32(FINISH(_mm512, s[2], MULL_RESIZE_BITS, round),
                                       FINISH(_mm512, s[3], MULL_RESIZE_BITS, round));
        _mm512_mask_storeu_epi8(out + i, m, _mm512_packus_epi16(l, h));
    }
}
#else
typedef int mull_resize_x86_not_here; /* a translation unit holds something */
#endif
