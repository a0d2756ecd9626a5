/* Element types of the CUDA kernels. A kernel is written once for float and mull_bf16; sums are always float. */
#ifndef MULL_ENGINE_OPS_CUDA_TYPES_CUH
#define MULL_ENGINE_OPS_CUDA_TYPES_CUH

#include <cuda_runtime.h>

#include <stdint.h>

struct mull_bf16 {
    uint16_t bits;
};

__host__ __device__ __forceinline__ float mull_wide(float v) {
    return v;
}
__host__ __device__ __forceinline__ float mull_wide(mull_bf16 v) {
#ifdef __CUDA_ARCH__
    return __uint_as_float((unsigned)v.bits << 16);
#else
    unsigned u = (unsigned)v.bits << 16;
    float f;
    __builtin_memcpy(&f, &u, 4);
    return f;
#endif
}

/* To nearest even, NaN stays NaN: the portable rounding that the device's instruction equals. */
static inline uint16_t mull_bf16_bits(float f) {
    uint32_t u;
    __builtin_memcpy(&u, &f, 4);
    if ((u & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

#endif
