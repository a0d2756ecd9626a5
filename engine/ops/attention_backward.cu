/* The backward of attention on CUDA; see cuda_train.h. Weights are made again from the kept log of each row's sum, so
 * nothing of size [T, T] exists. Two passes, each with its own owner of results, so that nothing is added by atomics
 * and the bits are the same each time: blocks that own a tile of queries meet the keys and have dq; blocks that own a
 * tile of keys of one kv head meet the queries of all heads of the group and have dk and dv. That costs seven products
 * where one pass with atomics needs five.
 *
 * Both passes are one kernel, mma.sync on bf16 with heads of 64, 80 or 128: a block of four warps keeps 64 rows (of q
 * and dout, or of k and v) and streams their counterparts, 32 at a time, in two stages. The two products of scores,
 * then the one or two of gradients, have the fragments of the forward (attention.cu), with the roles of queries and
 * keys swapped in the second pass. float32 and other heads take kernels without tensor cores.
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

/* ---- with tensor cores */
template <int HD> struct shape {
    static constexpr int LD = HD + 8, OWN = 64, STREAM = 32, THREADS = 128;
    static constexpr int BYTES = (2 * OWN + 4 * STREAM) * LD * 2 + 4 * STREAM * (int)sizeof(float);
};

/* Rows [i0, i0 + N) of q and dout (PAIRS) or of k and v, zeros from `end` on. */
template <int HD, int N, bool PAIRS>
__device__ __forceinline__ void load_rows(const args<mull_bf16> &a, const mull_cuda_seq &s, int kvh, int i0, int end,
                                          mull_bf16 *x1, mull_bf16 *x2) {
    typedef shape<HD> S;
    constexpr int PIECES = HD / 8;
    for (int i = (int)threadIdx.x; i < N * PIECES; i += S::THREADS) {
        int at = i0 + i / PIECES, d = i % PIECES * 8, to = i / PIECES * S::LD + d;
        bool valid = at < end;
        if (!valid) at = i0; /* any row that exists */
        if (PAIRS) {
            pair_at p = find(a, s, kvh, at);
            mull_copy16(x1 + to, a.q + p.row * a.ld + p.head * HD + d, valid);
            mull_copy16(x2 + to, a.dout + p.row * a.ldo + p.head * HD + d, valid);
        } else {
            int64_t from = (int64_t)(s.row0 + at) * a.ld + kvh * HD + d;
            mull_copy16(x1 + to, a.k + from, valid);
            mull_copy16(x2 + to, a.v + from, valid);
        }
    }
}

/* lse (of powers of two) and delta of a pair. */
__device__ __forceinline__ void stats_of(const args<mull_bf16> &a, const mull_cuda_seq &s, int kvh, int pair, int end,
                                         float *lse, float *delta) {
    *lse = *delta = 0;
    if (pair >= end) return;
    pair_at p = find(a, s, kvh, pair);
    *lse = a.lse[p.head * a.rows + p.row] * LOG2E;
    *delta = a.delta[p.head * a.rows + p.row];
}

/* KEYS false: the block's rows are pairs and have dq; true: they are keys and have dk, dv. */
template <int HD, bool KEYS> __global__ void __launch_bounds__(128) mma_kernel(args<mull_bf16> a) {
    typedef shape<HD> S;
    constexpr int LD = S::LD, STREAM = S::STREAM, NS = STREAM / 8, ND = HD / 8;
    MULL_SHARED_DYNAMIC(memory);
    mull_bf16 *x1 = (mull_bf16 *)memory, *x2 = x1 + S::OWN * LD, *ys = x2 + S::OWN * LD;
    float *stats = (float *)(ys + 4 * STREAM * LD); /* [stage][lse, delta][STREAM] */
    /* Later queries see more keys, earlier keys are seen by more queries: the heavy blocks go first. */
    mull_cuda_work w = a.work[KEYS ? blockIdx.x : gridDim.x - 1 - blockIdx.x];
    mull_cuda_seq s = a.seqs[w.seq];
    int kvh = (int)blockIdx.y, tid = (int)threadIdx.x, warp = tid / 32, lane = tid % 32, pairs = s.rows * a.group;
    int own0 = KEYS ? w.key0 : w.pair0, own_end = KEYS ? w.key1 : pairs;
    int first = KEYS && a.causal ? w.key0 * a.group : 0, end = KEYS ? pairs : w.key1;

    load_rows<HD, S::OWN, !KEYS>(a, s, kvh, own0, own_end, x1, x2);
    load_rows<HD, STREAM, KEYS>(a, s, kvh, first, end, ys, ys + STREAM * LD);
    mull_copy_commit();
    if (KEYS && tid < STREAM) stats_of(a, s, kvh, first + tid, pairs, stats + tid, stats + STREAM + tid);
    /* This lane's two rows of the warp's 16, g and g + 8. */
    int low = own0 + warp * 16 + lane / 4;
    float row_lse[2] = {0, 0}, row_delta[2] = {0, 0};
    for (int r = 0; !KEYS && r < 2; r++) stats_of(a, s, kvh, low + 8 * r, pairs, &row_lse[r], &row_delta[r]);
    float acc1[ND][4] = {}, acc2[KEYS ? ND : 1][4] = {};
    for (int c0 = first, stage = 0; c0 < end; c0 += STREAM, stage ^= 1) {
        if (c0 + STREAM < end) {
            mull_bf16 *next = ys + (stage ^ 1) * 2 * STREAM * LD;
            float *st = stats + (stage ^ 1) * 2 * STREAM;
            load_rows<HD, STREAM, KEYS>(a, s, kvh, c0 + STREAM, end, next, next + STREAM * LD);
            mull_copy_commit();
            if (KEYS && tid < STREAM) stats_of(a, s, kvh, c0 + STREAM + tid, pairs, st + tid, st + STREAM + tid);
            mull_copy_wait<1>();
        } else {
            mull_copy_wait<0>();
        }
        __syncthreads();
        const mull_bf16 *y1 = ys + stage * 2 * STREAM * LD, *y2 = y1 + STREAM * LD;
        const float *col = stats + stage * 2 * STREAM;
        float p[NS][4] = {}, ds[NS][4] = {};
#pragma unroll
        for (int d = 0; d < HD; d += 16) {
            unsigned a1[4], a2[4];
            int at = (warp * 16 + lane % 16) * LD + d + lane / 16 * 8;
            mull_ldmatrix4(a1, x1 + at);
            mull_ldmatrix4(a2, x2 + at);
#pragma unroll
            for (int n = 0; n < NS; n += 2) {
                unsigned b1[4], b2[4];
                int from = (n * 8 + lane / 16 * 8 + lane % 8) * LD + d + lane / 8 % 2 * 8;
                mull_ldmatrix4(b1, y1 + from);
                mull_ldmatrix4(b2, y2 + from);
                mull_mma(p[n], a1, b1[0], b1[1]);
                mull_mma(p[n + 1], a1, b1[2], b1[3]);
                mull_mma(ds[n], a2, b2[0], b2[1]);
                mull_mma(ds[n + 1], a2, b2[2], b2[3]);
            }
        }
#pragma unroll
        for (int n = 0; n < NS; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int j = n * 8 + lane % 4 * 2 + i % 2, own = low + 8 * (i / 2), other = c0 + j;
                int pair = KEYS ? other : own, key = KEYS ? own : other;
                bool seen = pair < pairs && key < w.key1 && (!a.causal || key <= pair / a.group);
                float lse = KEYS ? col[j] : row_lse[i / 2], delta = KEYS ? col[STREAM + j] : row_delta[i / 2];
                p[n][i] = seen ? exp2f(p[n][i] * (a.scale * LOG2E) - lse) : 0.0f;
                ds[n][i] = p[n][i] * (ds[n][i] - delta) * a.scale;
            }
#pragma unroll
        for (int n = 0; n < NS; n += 2) {
            /* The accumulators of two tiles are the fragment of 16 counterparts. */
            unsigned df[4] = {mull_round2(ds[n][0], ds[n][1]), mull_round2(ds[n][2], ds[n][3]),
                              mull_round2(ds[n + 1][0], ds[n + 1][1]), mull_round2(ds[n + 1][2], ds[n + 1][3])};
            unsigned pf[4] = {mull_round2(p[n][0], p[n][1]), mull_round2(p[n][2], p[n][3]),
                              mull_round2(p[n + 1][0], p[n + 1][1]), mull_round2(p[n + 1][2], p[n + 1][3])};
#pragma unroll
            for (int d = 0; d < ND; d += 2) {
                unsigned b[4];
                int from = (n * 8 + lane / 8 % 2 * 8 + lane % 8) * LD + d * 8 + lane / 16 * 8;
                mull_ldmatrix4_trans(b, y1 + from);
                mull_mma(acc1[d], df, b[0], b[1]);
                mull_mma(acc1[d + 1], df, b[2], b[3]);
                if (!KEYS) continue;
                mull_ldmatrix4_trans(b, y2 + from);
                mull_mma(acc2[KEYS ? d : 0], pf, b[0], b[1]);
                mull_mma(acc2[KEYS ? d + 1 : 0], pf, b[2], b[3]);
            }
        }
        __syncthreads(); /* before the next copy overwrites this stage */
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int own = low + 8 * r;
        if (own >= own_end) continue;
        pair_at p = KEYS ? pair_at{(int64_t)s.row0 + own, kvh} : find(a, s, kvh, own);
        int64_t at = p.row * a.ldd + p.head * HD + lane % 4 * 2;
        unsigned *out1 = (unsigned *)((KEYS ? a.dk : a.dq) + at), *out2 = (unsigned *)(a.dv + at);
#pragma unroll
        for (int n = 0; n < ND; n++) {
            out1[n * 4] = mull_round2(acc1[n][2 * r], acc1[n][2 * r + 1]);
            if (KEYS) out2[n * 4] = mull_round2(acc2[KEYS ? n : 0][2 * r], acc2[KEYS ? n : 0][2 * r + 1]);
        }
    }
}

template <int HD, bool KEYS>
void run_pass(mull_cuda *c, args<mull_bf16> a, const mull_cuda_work *work, int32_t n, int kv_heads) {
    typedef shape<HD> S;
    auto kernel = mma_kernel<HD, KEYS>;
    a.work = work;
    mull_cuda_note(c, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, S::BYTES),
                   "attention's backward", "%d bytes of shared memory", S::BYTES);
    if (!mull_cuda_failed(c))
        MULL_LAUNCH(kernel, dim3((unsigned)n, (unsigned)kv_heads), S::THREADS, S::BYTES, mull_cuda_stream(c), a);
}

template <int HD> void run_head(mull_cuda *c, const args<mull_bf16> &a, const mull_cuda_attention_grad *g) {
    run_pass<HD, false>(c, a, g->work, g->nwork, g->kv_heads);
    run_pass<HD, true>(c, a, g->key_work, g->nkey_work, g->kv_heads);
}

bool run_fast(mull_cuda *c, const args<mull_bf16> &a, const mull_cuda_attention_grad *g) {
    uintptr_t in = (uintptr_t)a.q | (uintptr_t)a.k | (uintptr_t)a.v | (uintptr_t)a.dout,
              out = (uintptr_t)a.dq | (uintptr_t)a.dk | (uintptr_t)a.dv;
    if (g->simple || a.ld % 8 || a.ldo % 8 || a.ldd % 2 || in % 16 || out % 4) return false;
    switch (a.hd) {
    case 64:
        run_head<64>(c, a, g);
        return true;
    case 80:
        run_head<80>(c, a, g);
        return true;
    case 128:
        run_head<128>(c, a, g);
        return true;
    default:
        return false;
    }
}
bool run_fast(mull_cuda *, const args<float> &, const mull_cuda_attention_grad *) {
    return false;
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
    if (!run_fast(c, a, g)) {
        auto dq = simple_dq_kernel<T>;
        a.work = g->work;
        MULL_LAUNCH(dq, dim3((unsigned)g->nwork, (unsigned)g->kv_heads), THREADS, 0, stream, a);
        auto dkv = simple_dkv_kernel<T>;
        a.work = g->key_work;
        MULL_LAUNCH(dkv, dim3((unsigned)g->nkey_work, (unsigned)g->kv_heads), THREADS, 0, stream, a);
    }
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
