/* Between the files of the Pillow resize: the weights of one axis and the kernels that apply them. */
#ifndef MULL_ENGINE_MEDIA_RESIZE_H
#define MULL_ENGINE_MEDIA_RESIZE_H

#include "engine/media/image.h"

/* Weights are Pillow's 22-bit fixed point. A 32-bit product is slow in vectors, so a weight k is also kept as
 * hi*2^15 + lo with 0 <= lo < 2^15: two 16-bit multiply-adds then give the same sum modulo 2^32, and the true sum fits
 * (|sum of k| stays under 1.5*2^22, times 255). */
enum { MULL_RESIZE_BITS = 22, MULL_RESIZE_SPLIT = 15, MULL_RESIZE_ROUND = 1 << (MULL_RESIZE_BITS - 1) };

typedef struct mull_axis {
    int n;         /* outputs */
    int taps;      /* weights kept an output, a multiple of 4; those past its own count are 0 */
    int *first;    /* [n] first source position */
    int *count;    /* [n] source positions used */
    int32_t *k;    /* [n, taps] */
    int16_t *pair; /* [n, taps/4, 2, 16]: for 4 taps, lo then hi, laid as the RGB kernels read them */
} mull_axis;

/* in: source length; pairs: fill pair (the horizontal pass needs it). */
int mull__axis_init(mull_axis *a, int in, int n, mull_filter filter, bool pairs, mull_error *err);
void mull__axis_fini(mull_axis *a);

/* One row of out->n RGB pixels from one source row. May read MULL_IMAGE_SLACK bytes past the row's end. */
typedef void (*mull_hpass)(const mull_axis *a, const uint8_t *in, uint8_t *out);
/* One row of bytes: out[i] = sum_j k[j] * in[j*stride + i]. */
typedef void (*mull_vpass)(const int32_t *k, int taps, const uint8_t *in, size_t stride, size_t bytes, uint8_t *out);

void mull__hpass_plain(const mull_axis *a, const uint8_t *in, uint8_t *out);
void mull__vpass_plain(const int32_t *k, int taps, const uint8_t *in, size_t stride, size_t bytes, uint8_t *out);
#if defined(__x86_64__)
void mull__hpass_avx2(const mull_axis *a, const uint8_t *in, uint8_t *out);
void mull__vpass_avx2(const int32_t *k, int taps, const uint8_t *in, size_t stride, size_t bytes, uint8_t *out);
void mull__hpass_avx512(const mull_axis *a, const uint8_t *in, uint8_t *out);
void mull__vpass_avx512(const int32_t *k, int taps, const uint8_t *in, size_t stride, size_t bytes, uint8_t *out);
#endif

#endif
