/* A stand-in for the CUDA runtime, so that the engine's .cu files compile with a C++ compiler and their kernels run on
 * the CPU (tests/cuda/README.md). Found before the real header by the order of include folders; the product never sees
 * it. Device memory is host memory with guard zones, filled with a NaN pattern; a stream is the calling thread. */
#ifndef MULL_TESTS_CUDA_RUNTIME_H
#define MULL_TESTS_CUDA_RUNTIME_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static /* blocks run one after the other */
#define __align__(n) __attribute__((aligned(n)))

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
struct __align__(16) uint4 {
    unsigned x, y, z, w;
};
struct __align__(8) uint2 {
    unsigned x, y;
};
struct __align__(16) float4 {
    float x, y, z, w;
};
struct __align__(8) float2 {
    float x, y;
};
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
    return {x, y, z, w};
}
static inline float4 make_float4(float x, float y, float z, float w) {
    return {x, y, z, w};
}

/* ---- the thread that runs (emu.cc) */
struct mull_emu_thread {
    uint3 tid;
    int lane, warp, state, line;
    unsigned ops; /* warp operations so far */
    void *sp;     /* where its stack stands */
    char *stack;
};
extern mull_emu_thread *mull_emu_self;
extern uint3 mull_emu_block;
extern dim3 mull_emu_grid, mull_emu_dim;
#define threadIdx (mull_emu_self->tid)
#define blockIdx mull_emu_block
#define gridDim mull_emu_grid
#define blockDim mull_emu_dim

/* Order in which the threads of a block take their turns: what is correct gives the same bits in each. */
enum { MULL_EMU_FORWARD, MULL_EMU_REVERSE, MULL_EMU_SHUFFLED, MULL_EMU_ORDERS };
extern "C" void mull_emu_set_order(int order);
extern "C" long mull_emu_launches(void);
extern "C" size_t mull_emu_live_bytes(void); /* device memory not freed */
/* Makes the n-th launch or allocation from now on fail once; 0: none. */
extern "C" void mull_emu_fail_launch(long n);
extern "C" void mull_emu_fail_alloc(long n);
extern "C" void mull_emu_check_guards(void); /* aborts when something was written beyond an allocation */

/* Work of a library: at once, or when what is being captured is replayed. */
void mull_emu_queue(const std::function<void()> &work);
extern "C" long mull_emu_replays(void);
/* Makes the n-th capture from now on fail; 0: none. */
extern "C" void mull_emu_fail_capture(long n);
/* Arguments are copied when a kernel is launched, as on a device: a replay sees what they were. */
void mull_emu_launch(dim3 grid, dim3 block, size_t shared, const std::function<void()> &body);
unsigned char *mull_emu_shared(void);
void mull_emu_sync(int line); /* all threads of the block */
/* All lanes of the warp give size <= 64 bytes; returns 32 slots of 64 bytes, valid until the next but one. */
const unsigned char *mull_emu_exchange(const void *mine, size_t size, int line);

#define __syncthreads() mull_emu_sync(__LINE__)
#define __syncwarp() ((void)mull_emu_exchange("", 1, __LINE__))

template <typename T> static inline T mull_emu_from(T v, int lane, int line) {
    const unsigned char *all = mull_emu_exchange(&v, sizeof v, line);
    T r;
    memcpy(&r, all + 64 * (lane & 31), sizeof r);
    return r;
}
#define __shfl_xor_sync(mask, v, by) mull_emu_from((v), mull_emu_self->lane ^ (by), __LINE__)
#define __shfl_sync(mask, v, from) mull_emu_from((v), (from), __LINE__)
template <typename T> static inline T mull_emu_up(T v, int by, int line) {
    int from = mull_emu_self->lane - by;
    return mull_emu_from(v, from < 0 ? mull_emu_self->lane : from, line);
}
#define __shfl_up_sync(mask, v, by) mull_emu_up((v), (by), __LINE__)

template <typename T> static inline T atomicAdd(T *p, T v) {
    T old = *p;
    *p = old + v;
    return old;
}
template <typename T> static inline T atomicOr(T *p, T v) {
    T old = *p;
    *p = old | v;
    return old;
}
static inline unsigned __float_as_uint(float f) {
    unsigned u;
    memcpy(&u, &f, 4);
    return u;
}
static inline float __uint_as_float(unsigned u) {
    float f;
    memcpy(&f, &u, 4);
    return f;
}
static inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 4; i++) c += (int8_t)(a >> (8 * i)) * (int8_t)(b >> (8 * i));
    return c;
}
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)(((unsigned __int128)a * b) >> 64);
}
using std::max;
using std::min;

/* ---- the runtime calls that the engine makes */
typedef void *cudaStream_t;
typedef struct mull_emu_event *cudaEvent_t;
typedef enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInsufficientDriver = 35,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101,
    cudaErrorNoKernelImageForDevice = 209,
    cudaErrorECCUncorrectable = 214,
    cudaErrorLaunchFailure = 719,
    cudaErrorStreamCaptureUnsupported = 900,
    cudaErrorStreamCaptureInvalidated = 901,
} cudaError_t;
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 };
enum cudaDeviceAttr {
    cudaDevAttrMultiProcessorCount = 16,
    cudaDevAttrL2CacheSize = 38,
    cudaDevAttrComputeCapabilityMajor = 75,
    cudaDevAttrComputeCapabilityMinor = 76,
    cudaDevAttrMaxSharedMemoryPerBlockOptin = 97
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
struct cudaFuncAttributes {
    int maxThreadsPerBlock;
};
struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem;
};
enum { cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2, cudaHostAllocDefault = 0 };

cudaError_t cudaGetLastError(void);
const char *cudaGetErrorString(cudaError_t e);
cudaError_t cudaGetDeviceCount(int *n);
cudaError_t cudaSetDevice(int d);
cudaError_t cudaDriverGetVersion(int *v);
cudaError_t cudaRuntimeGetVersion(int *v);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int d);
cudaError_t cudaDeviceGetAttribute(int *v, cudaDeviceAttr a, int d);
cudaError_t cudaMemGetInfo(size_t *free, size_t *total);
cudaError_t cudaMalloc(void **p, size_t bytes);
cudaError_t cudaFree(void *p);
cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t s);
cudaError_t cudaMemsetAsync(void *p, int byte, size_t bytes, cudaStream_t s);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t s);
cudaError_t cudaStreamSynchronize(cudaStream_t s);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t e);
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s);
cudaError_t cudaEventSynchronize(cudaEvent_t e);
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t a, cudaEvent_t b);
typedef struct mull_emu_graph *cudaGraph_t;
typedef struct mull_emu_graph *cudaGraphExec_t;
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);
template <typename F> static inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *a, F) {
    a->maxThreadsPerBlock = 1024;
    return cudaSuccess;
}
/* What a block may use: sm_80 has the least, 163 KiB. */
template <typename F> static inline cudaError_t cudaFuncSetAttribute(F, cudaFuncAttribute, int bytes) {
    return bytes <= 163 * 1024 ? cudaSuccess : cudaErrorInvalidValue;
}

#endif
