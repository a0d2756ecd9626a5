/* The hardware that the kernels use, one thin function an instruction, so that everything above is plain code:
 * launches, dynamic shared memory, rounding to bf16, asynchronous copies, ldmatrix and mma.sync (sm_80 and later). The
 * test suite has a twin of this header that computes the same on the CPU. */
#ifndef MULL_ENGINE_OPS_CUDA_DEVICE_CUH
#define MULL_ENGINE_OPS_CUDA_DEVICE_CUH

#include <cuda_runtime.h>

#include "engine/ops/cuda_types.cuh"

#define MULL_LAUNCH(kernel, grid, block, shared, stream, ...)                                                          \
    kernel<<<(grid), (block), (shared), (cudaStream_t)(stream)>>>(__VA_ARGS__)
#define MULL_SHARED_DYNAMIC(name) extern __shared__ __align__(16) unsigned char name[]

__device__ __forceinline__ mull_bf16 mull_round(float f) {
    mull_bf16 r;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r.bits) : "f"(f));
    return r;
}
/* Two values in one register, low in the lower half. */
__device__ __forceinline__ unsigned mull_round2(float low, float high) {
    unsigned r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}

/* Weights of a matrix-vector product are read once: past the first-level cache, so that the vector stays in it. */
__device__ __forceinline__ uint4 mull_load_once(const uint4 *p) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p));
    return v;
}
template <typename V> __device__ __forceinline__ V mull_load_once(const V *p) {
    return __ldg(p);
}

__device__ __forceinline__ unsigned mull_shared_address(const void *p) {
    return (unsigned)__cvta_generic_to_shared(p);
}
/* 16 bytes to shared memory, zeros unless valid; both ends aligned to 16. */
__device__ __forceinline__ void mull_copy16(void *shared, const void *global, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(mull_shared_address(shared)), "l"(global),
                 "r"(valid ? 16 : 0)
                 : "memory");
}
__device__ __forceinline__ void mull_copy_commit(void) {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
/* Waits until at most N of this thread's groups are under way. */
template <int N> __device__ __forceinline__ void mull_copy_wait(void) {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/* Four 8 x 8 matrices of 16-bit values: lane l names row l % 8 of matrix l / 8. */
__device__ __forceinline__ void mull_ldmatrix4(unsigned r[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(mull_shared_address(row))
                 : "memory");
}
__device__ __forceinline__ void mull_ldmatrix4_trans(unsigned r[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(mull_shared_address(row))
                 : "memory");
}
/* c [16, 8] += a [16, 16] b [16, 8], bf16 products summed in float. */
__device__ __forceinline__ void mull_mma(float c[4], const unsigned a[4], unsigned b0, unsigned b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#endif
