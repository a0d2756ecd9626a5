/* mull_rmsnorm of ops.h on the current CUDA device. Only in builds with MULL_HAVE_CUDA. */
#ifndef MULL_ENGINE_OPS_RMSNORM_CUDA_H
#define MULL_ENGINE_OPS_RMSNORM_CUDA_H

#ifdef __cplusplus
extern "C" {
#endif

#include "engine/core/error.h"

#include <stdint.h>

/* Queues y = x * rsqrt(mean(x^2) + eps) * weight on stream (a cudaStream_t, NULL the default one). Device pointers;
 * x, y [m, d], weight [d]; y may be x. A row's bits do not depend on the other rows. */
int mull_cuda_rmsnorm(const float *x, int64_t m, int64_t d, const float *weight, float eps, float *y, void *stream,
                      mull_error *err);

#ifdef __cplusplus
}
#endif
#endif
