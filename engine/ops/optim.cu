/* The optimiser step on CUDA, twin of train/optim.c; see cuda_train.h. Three launches over all tensors at once: squares
 * of each piece, their sum with everything that follows from it (norm, clip, whether to skip, this step's factors), and
 * the update. What a launch found is read by the next from device memory, so the host waits for nothing. Moments and
 * masters are float32; the bf16 copy that products read is rounded to nearest even in the same pass. */
#include "engine/ops/cuda_kernel.cuh"
#include "engine/ops/cuda_train.h"

#include <math.h>

namespace {

constexpr int THREADS = 256;

__global__ void __launch_bounds__(THREADS)
    square_kernel(const mull_cuda_piece *pieces, const float *g, double *partial) {
    __shared__ double part[THREADS / 32];
    mull_cuda_piece p = pieces[blockIdx.x];
    double sum = 0; /* float32 squares, as the CPU's; their sum would lose digits over thousands */
    for (int i = (int)threadIdx.x; i < p.count; i += THREADS) sum += (double)(g[p.at + i] * g[p.at + i]);
    for (int by = 16; by > 0; by /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, by);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x) return;
    for (int w = 1; w < THREADS / 32; w++) part[0] += part[w];
    partial[blockIdx.x] = part[0];
}

/* One block: threads add strided pieces, thread 0 adds the threads' sums in order. */
__global__ void __launch_bounds__(THREADS)
    decide_kernel(const double *partial, int64_t n, mull_cuda_adamw o, mull_cuda_adamw_state *state) {
    __shared__ double sums[THREADS];
    double sum = 0;
    for (int64_t i = threadIdx.x; i < n; i += THREADS) sum += partial[i];
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x) return;
    for (int i = 1; i < THREADS; i++) sum += sums[i];
    mull_cuda_adamw_state s = *state;
    s.norm = sqrt(sum) * o.scale;
    s.clip = 1;
    s.skipped = !isfinite(s.norm);
    if (!s.skipped) {
        if (o.max_grad_norm > 0) s.clip = fmin(1.0, o.max_grad_norm / (s.norm + 1e-6));
        double t = (double)++s.applied;
        s.gradient = (float)(o.scale * s.clip);
        s.keep = (float)(1 - o.lr * o.weight_decay);
        s.step = (float)(o.lr / (1 - pow(o.beta1, t)));
        s.inv_root = (float)(1 / sqrt(1 - pow(o.beta2, t)));
    }
    *state = s;
}

__global__ void __launch_bounds__(THREADS)
    adamw_kernel(const mull_cuda_piece *pieces, mull_cuda_adamw o, const mull_cuda_adamw_state *state, float *w,
                 uint16_t *half, const float *g, float *m, float *v) {
    if (state->skipped) return;
    mull_cuda_piece p = pieces[blockIdx.x];
    float keep = p.decay ? state->keep : 1.0f, gradient = state->gradient, step = state->step,
          inv_root = state->inv_root;
    float one_beta1 = (float)(1 - o.beta1), beta2 = (float)o.beta2, one_beta2 = (float)(1 - o.beta2),
          eps = (float)o.eps;
    for (int i = (int)threadIdx.x; i < p.count; i += THREADS) {
        int64_t at = p.at + i, to = p.w + i;
        float d = g[at] * gradient, a = w[to] * keep, vm = m[at], vv = v[at];
        vm += (d - vm) * one_beta1;
        vv = vv * beta2 + d * d * one_beta2;
        a -= vm * step / (sqrtf(vv) * inv_root + eps);
        w[to] = a;
        m[at] = vm;
        v[at] = vv;
        if (half) half[to] = mull_round(a).bits;
    }
}

} // namespace

extern "C" void mull_cuda_adamw_step(mull_cuda *c, const mull_cuda_piece *pieces, int64_t n, const mull_cuda_adamw *o,
                                     mull_cuda_adamw_state *state, float *w, uint16_t *half, const float *g, float *m,
                                     float *v, double *partial) {
    if (!mull_sizes_ok(c, "AdamW", n, MULL_CUDA_PIECE)) return;
    void *s = mull_cuda_stream(c);
    MULL_LAUNCH(square_kernel, (unsigned)n, THREADS, 0, s, pieces, g, partial);
    MULL_LAUNCH(decide_kernel, 1, THREADS, 0, s, partial, n, *o, state);
    MULL_LAUNCH(adamw_kernel, (unsigned)n, THREADS, 0, s, pieces, *o, state, w, half, g, m, v);
    MULL_LAUNCHED(c, "AdamW", n, MULL_CUDA_PIECE);
}
