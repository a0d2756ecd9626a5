/* RMS norm on CUDA. One block a row: the op moves 8 bytes an element and computes almost nothing, so it is bound by
 * memory, and a row of a few thousand floats is enough work for one block. Sums run in a fixed order: each thread over
 * its strided elements, lanes by a butterfly, warps in sequence. */
#include "engine/core/cuda.h"
#include "engine/ops/rmsnorm_cuda.h"

#include <cuda_runtime.h>

namespace {

constexpr int THREADS = 256, WARPS = THREADS / 32;

__device__ float block_sum(float v) {
    __shared__ float part[WARPS];
    for (int lane = 16; lane > 0; lane /= 2) v += __shfl_xor_sync(0xffffffffu, v, lane);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
    __syncthreads();
    float sum = 0;
    for (int w = 0; w < WARPS; w++) sum += part[w];
    return sum;
}

__global__ void rmsnorm_kernel(const float *x, int64_t d, const float *weight, float eps, float *y) {
    const float *row = x + blockIdx.x * d;
    float *out = y + blockIdx.x * d, sum = 0;
    for (int64_t i = threadIdx.x; i < d; i += THREADS) sum += row[i] * row[i];
    /* sqrt and division rather than rsqrtf: correctly rounded, as on the CPU. */
    float inv = 1.0f / sqrtf(block_sum(sum) / (float)d + eps);
    for (int64_t i = threadIdx.x; i < d; i += THREADS) out[i] = row[i] * inv * weight[i];
}

} // namespace

extern "C" int mull_cuda_rmsnorm(const float *x, int64_t m, int64_t d, const float *weight, float eps, float *y,
                                 void *stream, mull_error *err) {
    if (m == 0) return MULL_OK;
    if (m < 0 || m > INT32_MAX || d <= 0) /* rows are the grid's first dimension */
        return mull_fail(err, MULL_ELIMIT, "cannot normalise on the GPU", "rmsnorm", NULL,
                         "%lld x %lld is out of range", (long long)m, (long long)d);
    rmsnorm_kernel<<<(unsigned)m, THREADS, 0, (cudaStream_t)stream>>>(x, d, weight, eps, y);
    return mull_cuda_fail(err, cudaGetLastError(), "cannot start the rmsnorm kernel");
}
