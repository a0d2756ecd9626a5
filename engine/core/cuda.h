/* The CUDA runtime as the engine's C code sees it: devices and their memory. Only in builds with MULL_HAVE_CUDA. Errors
 * of a kernel may show at a later call; the error says so. */
#ifndef MULL_ENGINE_CORE_CUDA_H
#define MULL_ENGINE_CORE_CUDA_H

#ifdef __cplusplus
extern "C" {
#endif

#include "engine/core/error.h"

#include <stddef.h>

/* Devices that this process can use; 0 without a driver. */
int mull_cuda_devices(void);
/* Device memory of the current device; free with mull_cuda_free, which accepts NULL. */
int mull_cuda_alloc(size_t bytes, void **out, mull_error *err);
void mull_cuda_free(void *p);
/* Copies that return when done, after all work queued before. */
int mull_cuda_upload(void *device, const void *host, size_t bytes, mull_error *err);
int mull_cuda_download(void *host, const void *device, size_t bytes, mull_error *err);
/* Fills err from a cudaError_t that a call of what returned; 0 stays MULL_OK. */
int mull_cuda_fail(mull_error *err, int cuda_error, const char *what);

#ifdef __cplusplus
}
#endif
#endif
