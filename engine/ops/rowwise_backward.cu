/* Backward of the row-wise operations on CUDA, twins of rowwise_backward.c; see cuda_train.h. Sums over rows (a norm's
 * weight, a bias) are taken by columns: a block has COLUMNS of them and one of at most MULL_CUDA_SUM_PARTS ranges of
 * rows, and a second launch adds the ranges in order, so no result depends on which block came first. */
#include "engine/ops/cuda_kernel.cuh"
#include "engine/ops/cuda_train.h"

namespace {

constexpr int THREADS = 256, COLUMNS = 256;
constexpr int64_t ROWS_MIN = 32; /* fewer rows are not worth a part of their own */

/* One block a row; inv[row] is kept for the weight's gradient. */
__global__ void rmsnorm_kernel(const float *x, int64_t d, const float *w, float eps, const float *dy, float *dx,
                               float *inv) {
    __shared__ float part[THREADS / 32], part2[THREADS / 32];
    int64_t at = (int64_t)blockIdx.x * d;
    float squares = 0, dot = 0;
    for (int64_t i = threadIdx.x; i < d; i += THREADS) {
        float v = x[at + i];
        squares += v * v;
        dot += dy[at + i] * w[i] * v;
    }
    float r = 1.0f / sqrtf(mull_block_sum<THREADS>(squares, part) / (float)d + eps);
    float back = mull_block_sum<THREADS>(dot, part2) * r * r * r / (float)d;
    for (int64_t i = threadIdx.x; i < d; i += THREADS) dx[at + i] += dy[at + i] * w[i] * r - x[at + i] * back;
    if (threadIdx.x == 0) inv[blockIdx.x] = r;
}

struct range {
    int64_t first, end;
};
__device__ __forceinline__ range rows_of(int64_t m, int part, int parts) {
    return {m * part / parts, m * (part + 1) / parts};
}

/* partial[part] = sum over its rows of x, or of x * inv[row] * y */
template <typename T>
__global__ void column_kernel(const T *x, int64_t m, int64_t ld, int64_t n, const float *y, const float *inv,
                              float *partial) {
    int64_t c = (int64_t)blockIdx.x * COLUMNS + threadIdx.x;
    if (c >= n) return;
    range r = rows_of(m, (int)blockIdx.y, (int)gridDim.y);
    float sum = 0;
    for (int64_t i = r.first; i < r.end; i++) {
        float v = mull_wide(x[i * ld + c]);
        sum += y ? v * (y[i * ld + c] * inv[i]) : v;
    }
    partial[(int64_t)blockIdx.y * n + c] = sum;
}

__global__ void join_kernel(const float *partial, int parts, int64_t n, float *out) {
    int64_t c = (int64_t)blockIdx.x * COLUMNS + threadIdx.x;
    if (c >= n) return;
    float sum = 0;
    for (int p = 0; p < parts; p++) sum += partial[p * n + c];
    out[c] += sum;
}

template <typename T>
void sum_columns(mull_cuda *c, const T *x, int64_t m, int64_t ld, int64_t n, const float *y, const float *inv,
                 float *out, float *partial) {
    int64_t parts = (m + ROWS_MIN - 1) / ROWS_MIN;
    if (parts > MULL_CUDA_SUM_PARTS) parts = MULL_CUDA_SUM_PARTS;
    unsigned blocks = mull_blocks(n, COLUMNS);
    auto kernel = column_kernel<T>;
    MULL_LAUNCH(kernel, dim3(blocks, (unsigned)parts), COLUMNS, 0, mull_cuda_stream(c), x, m, ld, n, y, inv, partial);
    MULL_LAUNCH(join_kernel, blocks, COLUMNS, 0, mull_cuda_stream(c), partial, (int)parts, n, out);
    MULL_LAUNCHED(c, "sum over rows", m, n);
}

template <typename T> __global__ void swiglu_kernel(const T *gate_up, int64_t m, int64_t f, const T *dy, T *out) {
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, r = i / f, at = r * 2 * f + i % f;
    if (r >= m) return;
    float g = mull_wide(gate_up[at]), u = mull_wide(gate_up[at + f]), d = mull_wide(dy[i]);
    float s = 1.0f / (1.0f + expf(-g));
    out[at] = mull_narrow<T>(d * u * (s * (1.0f + g * (1.0f - s))));
    out[at + f] = mull_narrow<T>(d * (g * s));
}

/* gelu(x) = x P(x), P the normal distribution; its slope is P + x P'. */
template <typename T> __global__ void gelu_kernel(const T *x, int64_t n, const T *dy, T *dx) {
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= n) return;
    float v = mull_wide(x[i]);
    float p = 0.5f * (1.0f + erff(v * 0.70710678f)), density = 0.39894228f * expf(-0.5f * v * v);
    dx[i] = mull_narrow<T>(mull_wide(dy[i]) * (p + v * density));
}

template <typename T> __global__ void scale_kernel(T *x, int64_t n, float factor) {
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < n) x[i] = mull_narrow<T>(mull_wide(x[i]) * factor);
}

__global__ void scatter_kernel(const float *src, const int32_t *order, const int32_t *starts, const int32_t *targets,
                               int64_t d, float *dst) {
    int first = starts[blockIdx.x], end = starts[blockIdx.x + 1];
    float *out = dst + (int64_t)targets[blockIdx.x] * d;
    for (int64_t i = threadIdx.x; i < d; i += THREADS) {
        float sum = out[i];
        for (int k = first; k < end; k++) sum += src[(int64_t)order[k] * d + i];
        out[i] = sum;
    }
}

} // namespace

extern "C" void mull_cuda_rmsnorm_backward(mull_cuda *c, const float *x, int64_t m, int64_t d, const float *w,
                                           float eps, const float *dy, float *dx, float *dw, float *scratch) {
    if (!mull_sizes_ok(c, "rmsnorm's backward", m, d)) return;
    MULL_LAUNCH(rmsnorm_kernel, (unsigned)m, THREADS, 0, mull_cuda_stream(c), x, d, w, eps, dy, dx, scratch);
    MULL_LAUNCHED(c, "rmsnorm's backward", m, d);
    if (dw) sum_columns<float>(c, dy, m, d, d, x, scratch, dw, scratch + m);
}

extern "C" void mull_cuda_column_sum(mull_cuda *c, const void *x, mull_dtype t, int64_t m, int64_t ld, int64_t n,
                                     float *sum, float *scratch) {
    if (!mull_sizes_ok(c, "sum over rows", m, n)) return;
    MULL_BY_TYPE(t, sum_columns<T>(c, (const T *)x, m, ld, n, nullptr, nullptr, sum, scratch));
}

extern "C" void mull_cuda_swiglu_backward(mull_cuda *c, const void *gate_up, int64_t m, int64_t f, const void *dy,
                                          void *d_gate_up, mull_dtype t) {
    if (!mull_sizes_ok(c, "swiglu's backward", m, f) || !mull_sizes_ok(c, "swiglu's backward", m * f / THREADS + 1, f))
        return;
    MULL_BY_TYPE(t, auto kernel = swiglu_kernel<T>;
                 MULL_LAUNCH(kernel, mull_blocks(m * f, THREADS), THREADS, 0, mull_cuda_stream(c), (const T *)gate_up,
                             m, f, (const T *)dy, (T *)d_gate_up));
    MULL_LAUNCHED(c, "swiglu's backward", m, f);
}

extern "C" void mull_cuda_gelu_backward(mull_cuda *c, const void *x, int64_t n, const void *dy, void *dx,
                                        mull_dtype t) {
    if (n == 0 || !mull_sizes_ok(c, "gelu's backward", n / THREADS + 1, 1)) return;
    MULL_BY_TYPE(t, auto kernel = gelu_kernel<T>;
                 MULL_LAUNCH(kernel, mull_blocks(n, THREADS), THREADS, 0, mull_cuda_stream(c), (const T *)x, n,
                             (const T *)dy, (T *)dx));
    MULL_LAUNCHED(c, "gelu's backward", n, 1);
}

extern "C" void mull_cuda_scale(mull_cuda *c, void *x, int64_t n, float factor, mull_dtype t) {
    if (n == 0 || !mull_sizes_ok(c, "scale", n / THREADS + 1, 1)) return;
    MULL_BY_TYPE(t, auto kernel = scale_kernel<T>;
                 MULL_LAUNCH(kernel, mull_blocks(n, THREADS), THREADS, 0, mull_cuda_stream(c), (T *)x, n, factor));
    MULL_LAUNCHED(c, "scale", n, 1);
}

extern "C" void mull_cuda_scatter_add(mull_cuda *c, const float *src, const mull_cuda_groups *g, int64_t d,
                                      float *dst) {
    if (!mull_sizes_ok(c, "scatter", g->n, d)) return;
    MULL_LAUNCH(scatter_kernel, (unsigned)g->n, THREADS, 0, mull_cuda_stream(c), src, g->order, g->starts, g->targets,
                d, dst);
    MULL_LAUNCHED(c, "scatter", g->n, d);
}
