/* Thin wrappers that turn CUDA's errors into ours; see cuda.h. */
#include "engine/core/cuda.h"

#include <cuda_runtime.h>

extern "C" int mull_cuda_fail(mull_error *err, int cuda_error, const char *what) {
    if (cuda_error == cudaSuccess) return MULL_OK;
    cudaError_t e = (cudaError_t)cuda_error;
    bool memory = e == cudaErrorMemoryAllocation;
    return mull_fail(err, memory ? MULL_ENOMEM : MULL_EINTERNAL, what, "cuda",
                     memory ? "use a smaller batch or a GPU with more memory" : "check the GPU with nvidia-smi",
                     "%s (the fault may be of an earlier kernel)", cudaGetErrorString(e));
}

extern "C" int mull_cuda_devices(void) {
    int n = 0;
    if (cudaGetDeviceCount(&n) == cudaSuccess) return n;
    cudaGetLastError(); /* "no driver" must not show up at the next call */
    return 0;
}

extern "C" int mull_cuda_alloc(size_t bytes, void **out, mull_error *err) {
    return mull_cuda_fail(err, cudaMalloc(out, bytes), "cannot allocate GPU memory");
}

extern "C" void mull_cuda_free(void *p) {
    cudaFree(p);
}

extern "C" int mull_cuda_upload(void *device, const void *host, size_t bytes, mull_error *err) {
    return mull_cuda_fail(err, cudaMemcpy(device, host, bytes, cudaMemcpyHostToDevice), "cannot copy to the GPU");
}

extern "C" int mull_cuda_download(void *host, const void *device, size_t bytes, mull_error *err) {
    return mull_cuda_fail(err, cudaMemcpy(host, device, bytes, cudaMemcpyDeviceToHost), "cannot copy from the GPU");
}
