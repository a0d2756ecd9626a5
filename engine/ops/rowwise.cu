/* Row-wise operations on CUDA, twins of rowwise.c. All move far more bytes than they compute, so each is one pass over
 * memory; a row that needs a sum is one block. */
#include "engine/ops/cuda_kernel.cuh"

namespace {

constexpr int THREADS = 256;

template <typename T>
__global__ void rmsnorm_kernel(const float *x, const int32_t *rows, int64_t d, const float *weight, float eps, T *y) {
    __shared__ float part[THREADS / 32];
    const float *row = x + (rows ? (int64_t)rows[blockIdx.x] : (int64_t)blockIdx.x) * d;
    T *out = y + blockIdx.x * d;
    float sum = 0;
    for (int64_t i = threadIdx.x; i < d; i += THREADS) sum += row[i] * row[i];
    /* sqrt and division rather than rsqrtf: correctly rounded, as on the CPU. */
    float inv = 1.0f / sqrtf(mull_block_sum<THREADS>(sum, part) / (float)d + eps);
    for (int64_t i = threadIdx.x; i < d; i += THREADS) out[i] = mull_narrow<T>(row[i] * inv * weight[i]);
}

template <typename T> __global__ void swiglu_kernel(const T *gate_up, int64_t m, int64_t f, T *y) {
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, r = i / f, k = i % f;
    if (r >= m) return;
    float g = mull_wide(gate_up[r * 2 * f + k]), u = mull_wide(gate_up[r * 2 * f + f + k]);
    y[i] = mull_narrow<T>(g / (1.0f + expf(-g)) * u);
}

template <typename T> __global__ void gelu_kernel(T *x, int64_t n) {
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= n) return;
    float v = mull_wide(x[i]);
    x[i] = mull_narrow<T>(0.5f * v * (1.0f + erff(v * 0.70710678118654752f)));
}

template <typename T>
__global__ void embed_kernel(const T *table, const int32_t *ids, const float *const *features, int64_t d, float *x) {
    const float *feature = features ? features[blockIdx.x] : nullptr;
    const T *row = table + (int64_t)ids[blockIdx.x] * d;
    float *out = x + blockIdx.x * d;
    for (int64_t i = threadIdx.x; i < d; i += THREADS) out[i] = feature ? feature[i] : mull_wide(row[i]);
}

template <typename T> __global__ void convert_kernel(const float *x, int64_t n, T *y) {
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < n) y[i] = mull_narrow<T>(x[i]);
}

__global__ void permute_kernel(const float *src, const int32_t *order, int64_t units, int64_t floats, bool back,
                               float *dst) {
    int64_t step = blockIdx.x / units * units, here = blockIdx.x, there = step + order[blockIdx.x % units];
    const float *from = src + (back ? here : there) * floats;
    float *to = dst + (back ? there : here) * floats;
    for (int64_t i = threadIdx.x; i < floats; i += THREADS) to[i] = from[i];
}

/* One block a row: its largest magnitude, then rounding to multiples of it over 127. A row with NaN or infinity gets
 * zeros and a NaN scale, so that the damage shows. */
__global__ void quantise_kernel(const mull_bf16 *x, int64_t ldx, int64_t k, int8_t *q, float *scale) {
    __shared__ float part[THREADS / 32], bad[THREADS / 32];
    const mull_bf16 *row = x + blockIdx.x * ldx;
    float top = 0, poison = 0;
    for (int64_t i = threadIdx.x; i < k; i += THREADS) {
        float v = mull_wide(row[i]);
        top = fmaxf(top, fabsf(v));
        poison += v * 0.0f;
    }
    top = mull_block_max<THREADS>(top, part);
    poison = mull_block_sum<THREADS>(poison, bad);
    float inv = top > 0 && poison == 0 ? 127.0f / top : 0;
    for (int64_t i = threadIdx.x; i < k; i += THREADS)
        q[blockIdx.x * k + i] = inv > 0 ? (int8_t)rintf(mull_wide(row[i]) * inv) : 0;
    if (threadIdx.x == 0) scale[blockIdx.x] = poison == 0 ? top / 127.0f : poison;
}

} // namespace

extern "C" void mull_cuda_rmsnorm(mull_cuda *c, const float *x, const int32_t *rows, int64_t m, int64_t d,
                                  const float *weight, float eps, void *y, mull_dtype t) {
    if (!mull_sizes_ok(c, "rmsnorm", m, d)) return;
    MULL_BY_TYPE(t, auto kernel = rmsnorm_kernel<T>;
                 MULL_LAUNCH(kernel, (unsigned)m, THREADS, 0, mull_cuda_stream(c), x, rows, d, weight, eps, (T *)y));
    MULL_LAUNCHED(c, "rmsnorm", m, d);
}

extern "C" void mull_cuda_swiglu(mull_cuda *c, const void *gate_up, int64_t m, int64_t f, void *y, mull_dtype t) {
    if (!mull_sizes_ok(c, "swiglu", m, f) || !mull_sizes_ok(c, "swiglu", m * f / THREADS + 1, f)) return;
    MULL_BY_TYPE(t, auto kernel = swiglu_kernel<T>; MULL_LAUNCH(kernel, mull_blocks(m * f, THREADS), THREADS, 0,
                                                                mull_cuda_stream(c), (const T *)gate_up, m, f, (T *)y));
    MULL_LAUNCHED(c, "swiglu", m, f);
}

extern "C" void mull_cuda_gelu(mull_cuda *c, void *x, int64_t n, mull_dtype t) {
    if (n == 0 || !mull_sizes_ok(c, "gelu", n / THREADS + 1, 1)) return;
    MULL_BY_TYPE(t, auto kernel = gelu_kernel<T>;
                 MULL_LAUNCH(kernel, mull_blocks(n, THREADS), THREADS, 0, mull_cuda_stream(c), (T *)x, n));
    MULL_LAUNCHED(c, "gelu", n, 1);
}

extern "C" void mull_cuda_embed(mull_cuda *c, const void *table, mull_dtype t, const int32_t *ids,
                                const float *const *features, int64_t m, int64_t d, float *x) {
    if (!mull_sizes_ok(c, "embed", m, d)) return;
    MULL_BY_TYPE(t, auto kernel = embed_kernel<T>; MULL_LAUNCH(kernel, (unsigned)m, THREADS, 0, mull_cuda_stream(c),
                                                               (const T *)table, ids, features, d, x));
    MULL_LAUNCHED(c, "embed", m, d);
}

extern "C" void mull_cuda_convert(mull_cuda *c, const float *x, int64_t n, void *y, mull_dtype t) {
    if (n == 0 || !mull_sizes_ok(c, "convert", n / THREADS + 1, 1)) return;
    MULL_BY_TYPE(t, auto kernel = convert_kernel<T>;
                 MULL_LAUNCH(kernel, mull_blocks(n, THREADS), THREADS, 0, mull_cuda_stream(c), x, n, (T *)y));
    MULL_LAUNCHED(c, "convert", n, 1);
}

extern "C" void mull_cuda_permute(mull_cuda *c, const float *src, const int32_t *order, int64_t units, int64_t steps,
                                  int64_t floats, bool back, float *dst) {
    if (!mull_sizes_ok(c, "permute", units * steps, floats)) return;
    MULL_LAUNCH(permute_kernel, (unsigned)(units * steps), THREADS, 0, mull_cuda_stream(c), src, order, units, floats,
                back, dst);
    MULL_LAUNCHED(c, "permute", units * steps, floats);
}

extern "C" void mull_cuda_quantise(mull_cuda *c, const void *x, int64_t m, int64_t ldx, int64_t k, int8_t *q,
                                   float *scale) {
    if (!mull_sizes_ok(c, "quantise", m, k)) return;
    MULL_LAUNCH(quantise_kernel, (unsigned)m, THREADS, 0, mull_cuda_stream(c), (const mull_bf16 *)x, ldx, k, q, scale);
    MULL_LAUNCHED(c, "quantise", m, k);
}
