/* The backward of attention on CUDA; see cuda_train.h. Weights are made again from the kept log of each row's sum, so
 * nothing of size [T, T] exists. Two passes, each with its own owner of results, so that nothing is added by atomics
 * and the bits are the same each time: blocks that own a tile of queries meet the keys and have dq; blocks that own a
 * tile of keys of one kv head meet the queries of all heads of the group and have dk and dv. That costs seven products
 * where one pass with atomics needs five.
 *
 * With s = scale q k, p = exp(s - lse), delta = dout . out:  dv = p^T dout, ds = p (dout v^T - delta) scale,
 * dq = ds k, dk = ds^T q (Dao et al. 2022, algorithm 4). */
#include "engine/ops/cuda_kernel.cuh"
#include "engine/ops/cuda_train.h"

#include <math.h>

namespace {

constexpr int THREADS = 128;
constexpr float LOG2E = 1.4426950408889634f;

template <typename T> struct args {
    const T *q, *k, *v, *out, *dout;
    T *dq, *dk, *dv;
    const float *lse;
    float *delta;
    int64_t ld, ldo, ldd, rows;
    const mull_cuda_seq *seqs;
    const mull_cuda_work *work;
    float scale;
    int group, hd;
    bool causal;
};

/* A query pair's row of the batch and head. */
struct pair_at {
    int64_t row;
    int head;
};
template <typename T>
__device__ __forceinline__ pair_at find(const args<T> &a, const mull_cuda_seq &s, int kv_head, int pair) {
    return {s.row0 + pair / a.group, kv_head * a.group + pair % a.group};
}

/* delta[head][row] = dout . out, a warp each. */
template <typename T> __global__ void __launch_bounds__(THREADS) delta_kernel(args<T> a) {
    int lane = (int)threadIdx.x % 32, head = (int)blockIdx.y;
    int64_t row = (int64_t)blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
    int64_t at = (row < a.rows ? row : 0) * a.ldo + (int64_t)head * a.hd;
    float sum = 0;
    for (int d = lane; d < a.hd; d += 32) sum = fmaf(mull_wide(a.dout[at + d]), mull_wide(a.out[at + d]), sum);
    for (int by = 16; by > 0; by /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, by);
    if (lane == 0 && row < a.rows) a.delta[head * a.rows + row] = sum;
}

/* ---- without tensor cores: a thread scores one counterpart, then sums one or two features */
template <typename T>
__device__ __forceinline__ void dot2(const float *x, const T *a, const float *y, const T *b, int n, float *xa,
                                     float *yb) {
    *xa = *yb = 0;
    for (int d = 0; d < n; d++) {
        *xa = fmaf(x[d], mull_wide(a[d]), *xa);
        *yb = fmaf(y[d], mull_wide(b[d]), *yb);
    }
}

template <typename T> __global__ void __launch_bounds__(THREADS) simple_dq_kernel(args<T> a) {
    __shared__ float q[MULL_CUDA_HEAD_MAX], dout[MULL_CUDA_HEAD_MAX], ds[THREADS];
    mull_cuda_work w = a.work[blockIdx.x];
    mull_cuda_seq s = a.seqs[w.seq];
    int kvh = (int)blockIdx.y, tid = (int)threadIdx.x;
    int tile = s.rows * a.group <= MULL_CUDA_TILE_FEW ? MULL_CUDA_TILE_FEW : MULL_CUDA_TILE;
    for (int pair = w.pair0; pair < w.pair0 + tile && pair < s.rows * a.group; pair++) {
        pair_at p = find(a, s, kvh, pair);
        for (int d = tid; d < a.hd; d += THREADS) {
            q[d] = mull_wide(a.q[p.row * a.ld + p.head * a.hd + d]);
            dout[d] = mull_wide(a.dout[p.row * a.ldo + p.head * a.hd + d]);
        }
        float lse = a.lse[p.head * a.rows + p.row] * LOG2E, delta = a.delta[p.head * a.rows + p.row], sum[2] = {0, 0};
        int end = a.causal ? pair / a.group + 1 : s.rows;
        __syncthreads();
        for (int k0 = 0; k0 < end; k0 += THREADS) {
            float g = 0;
            if (k0 + tid < end) {
                int64_t at = (int64_t)(s.row0 + k0 + tid) * a.ld + kvh * a.hd;
                float score, dp;
                dot2(q, a.k + at, dout, a.v + at, a.hd, &score, &dp);
                g = exp2f(score * (a.scale * LOG2E) - lse) * (dp - delta) * a.scale;
            }
            ds[tid] = g;
            __syncthreads();
            int n = min(THREADS, end - k0);
            for (int i = 0; i < n; i++) {
                const T *k = a.k + (int64_t)(s.row0 + k0 + i) * a.ld + kvh * a.hd;
                for (int j = 0, d = tid; d < a.hd; j++, d += THREADS) sum[j] = fmaf(ds[i], mull_wide(k[d]), sum[j]);
            }
            __syncthreads();
        }
        for (int j = 0, d = tid; d < a.hd; j++, d += THREADS)
            a.dq[p.row * a.ldd + p.head * a.hd + d] = mull_narrow<T>(sum[j]);
    }
}

template <typename T> __global__ void __launch_bounds__(THREADS) simple_dkv_kernel(args<T> a) {
    __shared__ float k[MULL_CUDA_HEAD_MAX], v[MULL_CUDA_HEAD_MAX], ps[THREADS], ds[THREADS];
    mull_cuda_work w = a.work[blockIdx.x];
    mull_cuda_seq s = a.seqs[w.seq];
    int kvh = (int)blockIdx.y, tid = (int)threadIdx.x, pairs = s.rows * a.group;
    for (int key = w.key0; key < w.key1; key++) {
        int64_t row = s.row0 + key;
        for (int d = tid; d < a.hd; d += THREADS) {
            k[d] = mull_wide(a.k[row * a.ld + kvh * a.hd + d]);
            v[d] = mull_wide(a.v[row * a.ld + kvh * a.hd + d]);
        }
        float dk[2] = {0, 0}, dv[2] = {0, 0};
        __syncthreads();
        for (int p0 = a.causal ? key * a.group : 0; p0 < pairs; p0 += THREADS) {
            float weight = 0, g = 0;
            if (p0 + tid < pairs) {
                pair_at p = find(a, s, kvh, p0 + tid);
                float score, dp;
                dot2(k, a.q + p.row * a.ld + p.head * a.hd, v, a.dout + p.row * a.ldo + p.head * a.hd, a.hd, &score,
                     &dp);
                weight = exp2f(score * (a.scale * LOG2E) - a.lse[p.head * a.rows + p.row] * LOG2E);
                g = weight * (dp - a.delta[p.head * a.rows + p.row]) * a.scale;
            }
            ps[tid] = weight;
            ds[tid] = g;
            __syncthreads();
            int n = min(THREADS, pairs - p0);
            for (int i = 0; i < n; i++) {
                pair_at p = find(a, s, kvh, p0 + i);
                const T *q = a.q + p.row * a.ld + p.head * a.hd, *o = a.dout + p.row * a.ldo + p.head * a.hd;
                for (int j = 0, d = tid; d < a.hd; j++, d += THREADS) {
                    dk[j] = fmaf(ds[i], mull_wide(q[d]), dk[j]);
                    dv[j] = fmaf(ps[i], mull_wide(o[d]), dv[j]);
                }
            }
            __syncthreads();
        }
        for (int j = 0, d = tid; d < a.hd; j++, d += THREADS) {
            a.dk[row * a.ldd + kvh * a.hd + d] = mull_narrow<T>(dk[j]);
            a.dv[row * a.ldd + kvh * a.hd + d] = mull_narrow<T>(dv[j]);
        }
    }
}

template <typename T> void backward(mull_cuda *c, const mull_cuda_attention_grad *g) {
    args<T> a = {};
    a.q = (const T *)g->q;
    a.k = (const T *)g->k;
    a.v = (const T *)g->v;
    a.out = (const T *)g->out;
    a.dout = (const T *)g->dout;
    a.dq = (T *)g->dq;
    a.dk = (T *)g->dk;
    a.dv = (T *)g->dv;
    a.lse = g->lse;
    a.delta = g->delta;
    a.ld = g->ld;
    a.ldo = g->ldo;
    a.ldd = g->ldd;
    a.rows = g->rows;
    a.seqs = g->seqs;
    a.scale = g->scale;
    a.group = g->heads / g->kv_heads;
    a.hd = g->hd;
    a.causal = g->causal;
    void *stream = mull_cuda_stream(c);
    auto delta = delta_kernel<T>;
    MULL_LAUNCH(delta, dim3(mull_blocks(g->rows, THREADS / 32), (unsigned)g->heads), THREADS, 0, stream, a);
    auto dq = simple_dq_kernel<T>;
    a.work = g->work;
    MULL_LAUNCH(dq, dim3((unsigned)g->nwork, (unsigned)g->kv_heads), THREADS, 0, stream, a);
    auto dkv = simple_dkv_kernel<T>;
    a.work = g->key_work;
    MULL_LAUNCH(dkv, dim3((unsigned)g->nkey_work, (unsigned)g->kv_heads), THREADS, 0, stream, a);
    MULL_LAUNCHED(c, "attention's backward", g->rows, g->hd);
}

} // namespace

extern "C" void mull_cuda_attend_backward(mull_cuda *c, const mull_cuda_attention_grad *g) {
    if (!mull_sizes_ok(c, "attention's backward", g->rows, g->hd) || g->nwork <= 0 || g->nkey_work <= 0) return;
    if (g->hd > MULL_CUDA_HEAD_MAX || g->kv_heads <= 0 || g->heads % g->kv_heads || g->heads > 65535) {
        mull_cuda_refuse(c, MULL_EUNSUPPORTED, "attention's backward", "use --device cpu",
                         "%d heads of %d over %d key heads", g->heads, g->hd, g->kv_heads);
        return;
    }
    if (g->t == MULL_F32)
        backward<float>(c, g);
    else
        backward<mull_bf16>(c, g);
}
