/* Losses on CUDA: the softmax over the vocabulary with its gradient, and the cosine; see cuda_train.h. One block a row,
 * which is read twice forward (largest, sum) and once back; the second read of a row of 150,000 logits (0.6 MB) comes
 * from L2. Exponentials are taken relative to the largest and divided by the sum: a log-sum in float32 would lose the
 * digits that small probabilities live on. */
#include "engine/ops/cuda_kernel.cuh"
#include "engine/ops/cuda_train.h"

#include <math.h>

namespace {

constexpr int THREADS = 512, NARROW = 256;

/* Sum of a block in double, in a fixed order, the same to all. */
template <int N> __device__ __forceinline__ double block_sum(double v, double *part) {
    for (int by = 16; by > 0; by /= 2) v += __shfl_xor_sync(0xffffffffu, v, by);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
    __syncthreads();
    double sum = 0;
    for (int w = 0; w < N / 32; w++) sum += part[w];
    return sum;
}

__global__ void __launch_bounds__(THREADS)
    softmax_kernel(const float *logits, int64_t vocab, const int32_t *targets, float mul, float *top, float *sum,
                   double *logp, double *entropy) {
    __shared__ float part[THREADS / 32];
    __shared__ double part_sum[THREADS / 32], part_dot[THREADS / 32], part_bad[THREADS / 32];
    int64_t r = blockIdx.x;
    const float *x = logits + r * vocab;
    float most = -INFINITY, poison = 0;
    for (int64_t i = threadIdx.x; i < vocab; i += THREADS) {
        most = fmaxf(most, x[i]); /* which passes over NaN: poison shows it */
        poison += x[i] == x[i] ? 0.0f : x[i];
    }
    most = mull_block_max<THREADS>(most, part) * mul + (float)block_sum<THREADS>(poison, part_bad);
    float s = 0, dot = 0;
    for (int64_t i = threadIdx.x; i < vocab; i += THREADS) {
        float z = x[i] * mul - most, e = expf(z);
        s += e;
        if (z > -120.0f) dot += e * z; /* beyond, e is 0 and z may be infinite */
    }
    double total = block_sum<THREADS>(s, part_sum);
    double moment = entropy ? block_sum<THREADS>(dot, part_dot) : 0; /* the same way for all threads */
    if (threadIdx.x) return;
    top[r] = most;
    sum[r] = (float)total;
    logp[r] = (double)x[targets[r]] * (double)mul - (double)most - log(total);
    if (entropy) entropy[r] = log(total) - moment / total;
}

/* In place is fine: a thread reads a value and writes it. */
template <typename T>
__global__ void __launch_bounds__(THREADS)
    softmax_backward_kernel(const float *logits, int64_t vocab, const int32_t *targets, float mul, const float *top,
                            const float *sum, const float *coef, T *d) {
    int64_t r = blockIdx.x, target = targets[r];
    float most = top[r], c = coef[r] * mul, scale = -c / sum[r];
    for (int64_t i = threadIdx.x; i < vocab; i += THREADS) {
        float v = expf(logits[r * vocab + i] * mul - most) * scale;
        d[r * vocab + i] = mull_narrow<T>(i == target ? v + c : v);
    }
}

__global__ void __launch_bounds__(NARROW)
    cosine_kernel(const float *a, const float *b, int64_t d, const double *scale, float *da, double *cos) {
    __shared__ double part[3][NARROW / 32];
    int64_t at = (int64_t)blockIdx.x * d;
    double ab = 0, aa = 0, bb = 0, least = 1e-8;
    for (int64_t i = threadIdx.x; i < d; i += NARROW) {
        double x = a[at + i], y = b[at + i];
        ab += x * y;
        aa += x * x;
        bb += y * y;
    }
    ab = block_sum<NARROW>(ab, part[0]);
    aa = block_sum<NARROW>(aa, part[1]);
    bb = block_sum<NARROW>(bb, part[2]);
    double la = fmax(sqrt(aa), least), lb = fmax(sqrt(bb), least), value = ab / (la * lb);
    if (threadIdx.x == 0) cos[blockIdx.x] = value;
    if (!scale) return;
    double s = scale[blockIdx.x];
    for (int64_t i = threadIdx.x; i < d; i += NARROW)
        da[at + i] +=
            (float)(s * ((double)b[at + i] / (la * lb) - (la > least ? value * (double)a[at + i] / (la * la) : 0)));
}

} // namespace

extern "C" void mull_cuda_log_softmax(mull_cuda *c, const float *logits, int64_t n, int64_t vocab,
                                      const int32_t *targets, double temperature, float *top, float *sum, double *logp,
                                      double *entropy) {
    if (!mull_sizes_ok(c, "log softmax", n, vocab)) return;
    MULL_LAUNCH(softmax_kernel, (unsigned)n, THREADS, 0, mull_cuda_stream(c), logits, vocab, targets,
                (float)(1 / temperature), top, sum, logp, entropy);
    MULL_LAUNCHED(c, "log softmax", n, vocab);
}

extern "C" void mull_cuda_log_softmax_backward(mull_cuda *c, const float *logits, int64_t n, int64_t vocab,
                                               const int32_t *targets, double temperature, const float *top,
                                               const float *sum, const float *coef, void *d, mull_dtype t) {
    if (!mull_sizes_ok(c, "log softmax's backward", n, vocab)) return;
    MULL_BY_TYPE(t, auto kernel = softmax_backward_kernel<T>;
                 MULL_LAUNCH(kernel, (unsigned)n, THREADS, 0, mull_cuda_stream(c), logits, vocab, targets,
                             (float)(1 / temperature), top, sum, coef, (T *)d));
    MULL_LAUNCHED(c, "log softmax's backward", n, vocab);
}

extern "C" void mull_cuda_cosine(mull_cuda *c, const float *a, const float *b, int64_t n, int64_t d,
                                 const double *scale, float *da, double *cos) {
    if (!mull_sizes_ok(c, "cosine", n, d)) return;
    MULL_LAUNCH(cosine_kernel, (unsigned)n, NARROW, 0, mull_cuda_stream(c), a, b, d, scale, da, cos);
    MULL_LAUNCHED(c, "cosine", n, d);
}
