/* Products of few rows: decode is one pass over the weights, bound by memory, so each warp streams whole rows of the
 * weight past the first-level cache, 16 bytes a lane at a time, several rows side by side to keep enough bytes under
 * way and to use each piece of x that it loads for all of them. A lane adds its own strided elements in ascending
 * order, lanes by a butterfly: the order does not depend on the number of rows, so a token's bits do not depend on the
 * batch.
 *
 * Here too is the dispatch of a product: few rows here, more to cuBLASLt (gemm_lt.cu); int8 rows are quantised first.
 */
#include "engine/ops/cuda_kernel.cuh"
#include "engine/ops/cuda_train.h"

namespace {

constexpr int WARPS = 4;

/* One load of a lane: 16 bytes, or one element where rows are not multiples of 16 bytes. */
template <typename W, bool WIDE> struct piece;
template <> struct piece<mull_bf16, true> {
    typedef uint4 load;
    static constexpr int N = 8;
    static __device__ __forceinline__ void open(const uint4 &v, float *f) {
        const unsigned u[4] = {v.x, v.y, v.z, v.w};
        for (int i = 0; i < 4; i++) {
            f[2 * i] = __uint_as_float(u[i] << 16);
            f[2 * i + 1] = __uint_as_float(u[i] & 0xffff0000u);
        }
    }
};
template <> struct piece<float, true> {
    typedef uint4 load;
    static constexpr int N = 4;
    static __device__ __forceinline__ void open(const uint4 &v, float *f) {
        f[0] = __uint_as_float(v.x);
        f[1] = __uint_as_float(v.y);
        f[2] = __uint_as_float(v.z);
        f[3] = __uint_as_float(v.w);
    }
};
template <> struct piece<mull_bf16, false> {
    typedef uint16_t load;
    static constexpr int N = 1;
    static __device__ __forceinline__ void open(const uint16_t &v, float *f) {
        f[0] = __uint_as_float((unsigned)v << 16);
    }
};
template <> struct piece<float, false> {
    typedef float load;
    static constexpr int N = 1;
    static __device__ __forceinline__ void open(const float &v, float *f) { f[0] = v; }
};

template <typename Y> __device__ __forceinline__ void put(Y *y, float sum, const Y *bias, bool accumulate) {
    if (bias) sum += mull_wide(*bias);
    if (accumulate) sum += mull_wide(*y);
    *y = mull_narrow<Y>(sum);
}

/* Every warp: R rows of w against M rows of x. */
template <typename W, typename Y, bool WIDE, int M, int R>
__global__ void __launch_bounds__(WARPS * 32) gemv_kernel(const W *x, int64_t ldx, const W *w, int64_t n, int64_t k,
                                                          const Y *bias, Y *y, int64_t ldy, bool accumulate) {
    typedef piece<W, WIDE> P;
    typedef typename P::load load;
    int lane = (int)threadIdx.x % 32;
    int64_t n0 = ((int64_t)blockIdx.x * WARPS + threadIdx.x / 32) * R;
    if (n0 >= n) return;
    [[maybe_unused]] constexpr int AHEAD =
        M <= 2 ? 4 : 2; /* loads of several turns are under way at once; the order of sums stays */
    float sum[R][M] = {};
#pragma unroll AHEAD
    for (int64_t at = lane * P::N; at < k; at += 32 * P::N) {
        load lw[R];
#pragma unroll
        for (int r = 0; r < R; r++) {
            int64_t row = n0 + r < n ? n0 + r : n - 1; /* rows past the end repeat the last and are not stored */
            lw[r] = mull_load_once((const load *)(w + row * k + at));
        }
        float fx[M][P::N];
#pragma unroll
        for (int m = 0; m < M; m++) P::open(*(const load *)(x + m * ldx + at), fx[m]);
#pragma unroll
        for (int r = 0; r < R; r++) {
            float fw[P::N];
            P::open(lw[r], fw);
#pragma unroll
            for (int i = 0; i < P::N; i++)
#pragma unroll
                for (int m = 0; m < M; m++) sum[r][m] = fmaf(fw[i], fx[m][i], sum[r][m]);
        }
    }
#pragma unroll
    for (int r = 0; r < R; r++)
#pragma unroll
        for (int m = 0; m < M; m++) {
            float v = sum[r][m];
            for (int by = 16; by > 0; by /= 2) v += __shfl_xor_sync(0xffffffffu, v, by);
            if (lane == (r * M + m) % 32 && n0 + r < n)
                put(y + m * ldy + n0 + r, v, bias ? bias + n0 + r : nullptr, accumulate);
        }
}

/* The same with int8 on both sides and exact sums. */
template <typename Y, int M, int R>
__global__ void __launch_bounds__(WARPS * 32)
    gemv_i8_kernel(const int8_t *x, const float *xscale, const int8_t *w, const float *wscale, int64_t n, int64_t k,
                   const Y *bias, Y *y, int64_t ldy, bool accumulate) {
    int lane = (int)threadIdx.x % 32;
    int64_t n0 = ((int64_t)blockIdx.x * WARPS + threadIdx.x / 32) * R;
    if (n0 >= n) return;
    [[maybe_unused]] constexpr int AHEAD = M <= 2 ? 4 : 2;
    int sum[R][M] = {};
#pragma unroll AHEAD
    for (int64_t at = lane * 16; at < k; at += 32 * 16) {
        uint4 lw[R];
#pragma unroll
        for (int r = 0; r < R; r++) {
            int64_t row = n0 + r < n ? n0 + r : n - 1;
            lw[r] = mull_load_once((const uint4 *)(w + row * k + at));
        }
#pragma unroll
        for (int m = 0; m < M; m++) {
            uint4 lx = *(const uint4 *)(x + m * k + at);
#pragma unroll
            for (int r = 0; r < R; r++) {
                int s = sum[r][m];
                s = __dp4a((int)lw[r].x, (int)lx.x, s);
                s = __dp4a((int)lw[r].y, (int)lx.y, s);
                s = __dp4a((int)lw[r].z, (int)lx.z, s);
                sum[r][m] = __dp4a((int)lw[r].w, (int)lx.w, s);
            }
        }
    }
#pragma unroll
    for (int r = 0; r < R; r++)
#pragma unroll
        for (int m = 0; m < M; m++) {
            int v = sum[r][m];
            for (int by = 16; by > 0; by /= 2) v += __shfl_xor_sync(0xffffffffu, v, by);
            if (lane == (r * M + m) % 32 && n0 + r < n)
                put(y + m * ldy + n0 + r, (float)v * (xscale[m] * wscale[n0 + r]), bias ? bias + n0 + r : nullptr,
                    accumulate);
        }
}

template <typename Y>
__global__ void scale_kernel(const int32_t *s, const float *xscale, const float *wscale, int64_t m, int64_t n,
                             const Y *bias, Y *y, int64_t ldy, bool accumulate) {
    int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x, r = i / n, k = i % n;
    if (r < m) put(y + r * ldy + k, (float)s[i] * (xscale[r] * wscale[k]), bias ? bias + k : nullptr, accumulate);
}

struct call {
    mull_cuda *c;
    const void *x;
    int64_t ldx;
    const mull_cuda_matrix *w;
    const void *bias;
    void *y;
    int64_t ldy;
    bool accumulate;
    const float *xscale;
};

template <typename W, typename Y, bool WIDE, int M> void launch(const call &j) {
    constexpr int R =
        M <= 2 ? 2 : 4; /* M = 1: two rows are enough under way; more rows of x: reuse of what is loaded */
    auto kernel = gemv_kernel<W, Y, WIDE, M, R>;
    MULL_LAUNCH(kernel, mull_blocks(j.w->n, WARPS * R), WARPS * 32, 0, mull_cuda_stream(j.c), (const W *)j.x, j.ldx,
                (const W *)j.w->data, j.w->n, j.w->k, (const Y *)j.bias, (Y *)j.y, j.ldy, j.accumulate);
}
template <typename Y, int M> void launch_i8(const call &j) {
    constexpr int R = M <= 2 ? 2 : 4;
    auto kernel = gemv_i8_kernel<Y, M, R>;
    MULL_LAUNCH(kernel, mull_blocks(j.w->n, WARPS * R), WARPS * 32, 0, mull_cuda_stream(j.c), (const int8_t *)j.x,
                j.xscale, (const int8_t *)j.w->data, j.w->scale, j.w->n, j.w->k, (const Y *)j.bias, (Y *)j.y, j.ldy,
                j.accumulate);
}

/* 3, 5, 6 and 7 rows are two calls: fewer kernels to compile, and the weights are in L2 for none but small layers. */
template <typename W, typename Y, bool WIDE> void by_rows(call j, int64_t m) {
    size_t x = sizeof(W) * (size_t)j.ldx, y = sizeof(Y) * (size_t)j.ldy;
    while (m > 0) {
        int64_t take = m >= 8 ? 8 : m >= 4 ? 4 : m >= 2 ? 2 : 1;
        if (take == 8) launch<W, Y, WIDE, 8>(j);
        if (take == 4) launch<W, Y, WIDE, 4>(j);
        if (take == 2) launch<W, Y, WIDE, 2>(j);
        if (take == 1) launch<W, Y, WIDE, 1>(j);
        j.x = (const char *)j.x + (size_t)take * x;
        j.y = (char *)j.y + (size_t)take * y;
        m -= take;
    }
}
template <typename Y> void by_rows_i8(call j, int64_t m) {
    while (m > 0) {
        int64_t take = m >= 8 ? 8 : m >= 4 ? 4 : m >= 2 ? 2 : 1;
        if (take == 8) launch_i8<Y, 8>(j);
        if (take == 4) launch_i8<Y, 4>(j);
        if (take == 2) launch_i8<Y, 2>(j);
        if (take == 1) launch_i8<Y, 1>(j);
        j.x = (const int8_t *)j.x + take * j.w->k;
        j.xscale += take;
        j.y = (char *)j.y + sizeof(Y) * (size_t)(take * j.ldy);
        m -= take;
    }
}

template <typename W, typename Y> void by_width(const call &j, int64_t m) {
    int64_t each = 16 / (int64_t)sizeof(W);
    bool wide = j.w->k % each == 0 && j.ldx % each == 0 && ((uintptr_t)j.x | (uintptr_t)j.w->data) % 16 == 0;
    if (wide)
        by_rows<W, Y, true>(j, m);
    else
        by_rows<W, Y, false>(j, m);
}

bool types_ok(mull_cuda *c, const mull_cuda_matrix *w, mull_dtype y, bool accumulate) {
    bool ok = (w->type == MULL_F32 || w->type == MULL_BF16 || w->type == MULL_I8) &&
              (y == MULL_F32 || y == MULL_BF16) && !(w->type == MULL_F32 && y == MULL_BF16) &&
              !(accumulate && y != MULL_F32) && !(w->type == MULL_I8 && w->k % 16);
    if (!ok)
        mull_cuda_refuse(c, MULL_EUNSUPPORTED, "product", w->type == MULL_I8 ? "use bf16 weights" : "",
                         "%lld x %lld of type %s to %s is not provided", (long long)w->n, (long long)w->k,
                         mull_dtype_name(w->type), mull_dtype_name(y));
    return ok;
}

/* Quantises x and multiplies; any number of rows. */
void linear_i8(mull_cuda *c, const void *x, int64_t m, int64_t ldx, const mull_cuda_matrix *w, const void *bias,
               void *y, mull_dtype y_type, int64_t ldy, bool accumulate) {
    size_t quant, product;
    mull_cuda_linear_scratch(m, w->n, w->k, &quant, &product);
    char *q = (char *)mull_cuda_scratch(c, MULL_CUDA_QUANT, quant);
    if (!q) return;
    float *scale = (float *)(q + ((size_t)(m * w->k) + 255) / 256 * 256);
    mull_cuda_quantise(c, x, m, ldx, w->k, (int8_t *)q, scale);
    if (m <= MULL_CUDA_FEW) {
        call j = {c, q, w->k, w, bias, y, ldy, accumulate, scale};
        if (y_type == MULL_F32)
            by_rows_i8<float>(j, m);
        else
            by_rows_i8<mull_bf16>(j, m);
        MULL_LAUNCHED(c, "int8 product of few rows", w->n, w->k);
        return;
    }
    int32_t *s = (int32_t *)mull_cuda_scratch(c, MULL_CUDA_PRODUCT, product);
    if (!s) return;
    mull_cuda_gemm_i8(c, (const int8_t *)q, m, (const int8_t *)w->data, w->n, w->k, s);
    if (mull_cuda_failed(c)) return;
    MULL_BY_TYPE(y_type, auto kernel = scale_kernel<T>;
                 MULL_LAUNCH(kernel, mull_blocks(m * w->n, 256), 256, 0, mull_cuda_stream(c), s, scale, w->scale, m,
                             w->n, (const T *)bias, (T *)y, ldy, accumulate));
    MULL_LAUNCHED(c, "int8 scales", m, w->n);
}

} // namespace

extern "C" void mull_cuda_linear_scratch(int64_t m, int64_t n, int64_t k, size_t *quant, size_t *product) {
    *quant = ((size_t)(m * k) + 255) / 256 * 256 + (size_t)m * sizeof(float);
    *product = m > MULL_CUDA_FEW ? (size_t)(m * n) * sizeof(int32_t) : 0;
}

extern "C" void mull_cuda_gemv(mull_cuda *c, const void *x, int64_t m, int64_t ldx, const mull_cuda_matrix *w,
                               const void *bias, void *y, mull_dtype y_type, int64_t ldy, bool accumulate) {
    if (!mull_sizes_ok(c, "product", m, w->k) || !types_ok(c, w, y_type, accumulate)) return;
    if (w->type == MULL_I8) {
        linear_i8(c, x, m, ldx, w, bias, y, y_type, ldy, accumulate);
        return;
    }
    call j = {c, x, ldx, w, bias, y, ldy, accumulate, nullptr};
    if (w->type == MULL_F32)
        by_width<float, float>(j, m);
    else if (y_type == MULL_F32)
        by_width<mull_bf16, float>(j, m);
    else
        by_width<mull_bf16, mull_bf16>(j, m);
    MULL_LAUNCHED(c, "product of few rows", w->n, w->k);
}

extern "C" void mull_cuda_gemm(mull_cuda *c, const void *x, int64_t m, int64_t ldx, const mull_cuda_matrix *w,
                               const void *bias, void *y, mull_dtype y_type, int64_t ldy, bool accumulate) {
    mull_cuda_product p = {};
    p.m = m;
    p.n = w->n;
    p.k = p.ldb = w->k;
    p.type = w->type;
    p.a = x;
    p.lda = ldx;
    p.b = w->data;
    p.b_t = true;
    p.bias = bias;
    p.y = y;
    p.y_type = y_type;
    p.ldy = ldy;
    p.accumulate = accumulate;
    mull_cuda_multiply(c, &p);
}

extern "C" void mull_cuda_linear(mull_cuda *c, const void *x, int64_t m, int64_t ldx, const mull_cuda_matrix *w,
                                 const void *bias, void *y, mull_dtype y_type, int64_t ldy, bool accumulate) {
    if (!mull_sizes_ok(c, "product", m, w->k) || !types_ok(c, w, y_type, accumulate)) return;
    if (w->type == MULL_I8)
        linear_i8(c, x, m, ldx, w, bias, y, y_type, ldy, accumulate);
    else if (m <= MULL_CUDA_FEW)
        mull_cuda_gemv(c, x, m, ldx, w, bias, y, y_type, ldy, accumulate);
    else
        mull_cuda_gemm(c, x, m, ldx, w, bias, y, y_type, ldy, accumulate);
}
