/* What the kernels' host code shares: type dispatch, launch limits, reductions of a block. */
#ifndef MULL_ENGINE_OPS_CUDA_KERNEL_CUH
#define MULL_ENGINE_OPS_CUDA_KERNEL_CUH

#include "engine/ops/cuda_device.cuh"
#include "engine/ops/cuda_ops.h"

namespace {

template <typename T> __device__ __forceinline__ T mull_narrow(float f);
template <> __device__ __forceinline__ float mull_narrow<float>(float f) {
    return f;
}
template <> __device__ __forceinline__ mull_bf16 mull_narrow<mull_bf16>(float f) {
    return mull_round(f);
}

/* Sum over the threads of a block, the same to all; part has a float per warp. Lanes by a butterfly, warps in
 * sequence: one fixed order. The caller keeps a barrier between two uses of part. */
template <int THREADS> __device__ __forceinline__ float mull_block_sum(float v, float *part) {
    for (int by = 16; by > 0; by /= 2) v += __shfl_xor_sync(0xffffffffu, v, by);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
    __syncthreads();
    float sum = 0;
    for (int w = 0; w < THREADS / 32; w++) sum += part[w];
    return sum;
}
template <int THREADS> __device__ __forceinline__ float mull_block_max(float v, float *part) {
    for (int by = 16; by > 0; by /= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, by));
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
    __syncthreads();
    float top = part[0];
    for (int w = 1; w < THREADS / 32; w++) top = fmaxf(top, part[w]);
    return top;
}

inline unsigned mull_blocks(int64_t n, int64_t each) {
    return (unsigned)((n + each - 1) / each);
}

/* Whether sizes can be launched; keeps the error otherwise. Nothing to do counts as no. */
inline bool mull_sizes_ok(mull_cuda *c, const char *op, int64_t m, int64_t d) {
    if (mull_cuda_failed(c) || m == 0) return false;
    if (m > 0 && m < INT64_C(1) << 31 && d > 0 && d < INT64_C(1) << 31) return true;
    mull_cuda_refuse(c, MULL_ELIMIT, op, "", "%lld x %lld is out of range", (long long)m, (long long)d);
    return false;
}

} // namespace

#define MULL_LAUNCHED(c, op, a, b)                                                                                     \
    mull_cuda_note(c, cudaGetLastError(), op, "%lld x %lld", (long long)(a), (long long)(b))

/* Runs the statement with T as the type of a float mull_dtype. */
#define MULL_BY_TYPE(type, ...)                                                                                        \
    do {                                                                                                               \
        if ((type) == MULL_F32) {                                                                                      \
            typedef float T;                                                                                           \
            __VA_ARGS__;                                                                                               \
        } else {                                                                                                       \
            typedef mull_bf16 T;                                                                                       \
            __VA_ARGS__;                                                                                               \
        }                                                                                                              \
    } while (0)

#endif
