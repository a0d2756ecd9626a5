/* Attention on CUDA, twin of attention.c: blocks of keys with an online softmax, never a whole row of scores in memory
 * (Milakov & Gimelshein 2018; FlashAttention-2's division of work). A block takes a tile of query pairs (row, head of
 * the group) of one kv head, so that grouped heads share what is loaded of keys and values; the plan (cuda_plan.c)
 * says which tiles exist and how the keys of decoding sequences are split.
 *
 * bf16 with heads of 64, 80 or 128 goes through mma.sync: 16 pairs a warp, scores and sums in registers, two stages of
 * keys and values in shared memory by cp.async. Rows are padded by 16 bytes, so that ldmatrix meets no bank twice.
 * Everything else (float32 checks, tiny models) takes a kernel without tensor cores. Keys are met in ascending order in
 * blocks at fixed places, so a row's bits do not depend on the rest of the batch. What lies in the cache behind the
 * last key is never read; a NaN in a later row of the same prompt tile can reach an earlier one, unlike on the CPU. */
#include "engine/ops/cuda_kernel.cuh"

#include <math.h>

namespace {

constexpr int SIMPLE_THREADS = 128;
constexpr float LOG2E = 1.4426950408889634f, LN2 = 0.6931471805599453f;

template <typename T> struct args {
    const T *q, *k, *v;
    T *out;
    int64_t ldq, ldkv, ldo, page_stride;
    const int32_t *pages; /* NULL: rows */
    const mull_cuda_seq *seqs;
    const mull_cuda_work *work;
    float *partial, *lse;
    int64_t lse_rows;
    float scale; /* times log2(e): exponentials are powers of two */
    int group, kv_heads, hd;
    bool causal;
};

/* Where key `key` of a sequence lies for one kv head, in elements from k or v. */
template <typename T>
__device__ __forceinline__ int64_t key_at(const args<T> &a, const mull_cuda_seq &s, int head, int key) {
    if (!a.pages) return (int64_t)(s.row0 + key) * a.ldkv + head * a.hd;
    int64_t page = a.pages[s.page0 + key / MULL_CUDA_PAGE];
    return page * a.page_stride + (int64_t)(head * MULL_CUDA_PAGE + key % MULL_CUDA_PAGE) * a.hd;
}

/* Keys that a pair sees; none for pairs past the end of a tile. */
template <typename T> __device__ __forceinline__ int keys_of(const args<T> &a, const mull_cuda_seq &s, int pair) {
    if (pair >= s.rows * a.group) return 0;
    return a.causal ? s.pos0 + pair / a.group + 1 : s.rows;
}

template <typename T>
__device__ __forceinline__ T *out_at(const args<T> &a, const mull_cuda_seq &s, int head, int pair) {
    return a.out + (int64_t)(s.row0 + pair / a.group) * a.ldo + (head * a.group + pair % a.group) * a.hd;
}

template <typename T> __device__ __forceinline__ float *partial_at(const args<T> &a, int part, int head, int pair) {
    return a.partial + (((int64_t)part * a.kv_heads + head) * MULL_CUDA_TILE_FEW + pair) * (a.hd + 2);
}

/* A maximum that the exponent may be taken from: rows that saw no key yet have none. */
__device__ __forceinline__ float base_of(float max) {
    return max == -INFINITY ? 0.0f : max;
}

/* The log of a row's sum of exponentials, from its parts of the online softmax in powers of two. */
template <typename T>
__device__ __forceinline__ void keep_lse(const args<T> &a, const mull_cuda_seq &s, int head, int pair, float max,
                                         float sum) {
    int64_t h = head * a.group + pair % a.group, row = s.row0 + pair / a.group;
    a.lse[h * a.lse_rows + row] = (max + log2f(sum)) * LN2;
}

/* ---- without tensor cores: a thread scores one key, then sums one or two features */
template <typename T> __global__ void __launch_bounds__(SIMPLE_THREADS) simple_kernel(args<T> a) {
    __shared__ float q[MULL_CUDA_HEAD_MAX], p[SIMPLE_THREADS], part_max[SIMPLE_THREADS / 32],
        part_sum[SIMPLE_THREADS / 32];
    mull_cuda_work w = a.work[blockIdx.x];
    mull_cuda_seq s = a.seqs[w.seq];
    int head = (int)blockIdx.y, tid = (int)threadIdx.x, tile = w.part >= 0 ? MULL_CUDA_TILE_FEW : MULL_CUDA_TILE;
    for (int pair = w.pair0; pair < w.pair0 + tile && pair < s.rows * a.group; pair++) {
        const T *row = a.q + (int64_t)(s.row0 + pair / a.group) * a.ldq + (head * a.group + pair % a.group) * a.hd;
        for (int d = tid; d < a.hd; d += SIMPLE_THREADS) q[d] = mull_wide(row[d]);
        float max = -INFINITY, sum = 0, o[2] = {0, 0};
        int end = min(keys_of(a, s, pair), w.key1);
        __syncthreads();
        for (int k0 = w.key0; k0 < end; k0 += SIMPLE_THREADS) {
            float score = -INFINITY;
            if (k0 + tid < end) {
                const T *k = a.k + key_at(a, s, head, k0 + tid);
                score = 0;
                for (int d = 0; d < a.hd; d++) score = fmaf(q[d], mull_wide(k[d]), score);
                score *= a.scale;
            }
            float top = fmaxf(max, mull_block_max<SIMPLE_THREADS>(score, part_max)), base = base_of(top);
            float carry = exp2f(max - base), weight = k0 + tid < end ? exp2f(score - base) : 0.0f;
            p[tid] = weight;
            sum = sum * carry + mull_block_sum<SIMPLE_THREADS>(weight, part_sum);
            max = top;
            int n = min(SIMPLE_THREADS, end - k0);
            o[0] *= carry;
            o[1] *= carry;
            for (int i = 0; i < n; i++) {
                const T *v = a.v + key_at(a, s, head, k0 + i);
                for (int j = 0, d = tid; d < a.hd; j++, d += SIMPLE_THREADS) o[j] = fmaf(p[i], mull_wide(v[d]), o[j]);
            }
            __syncthreads();
        }
        if (w.part < 0) {
            T *out = out_at(a, s, head, pair);
            for (int j = 0, d = tid; d < a.hd; j++, d += SIMPLE_THREADS) out[d] = mull_narrow<T>(o[j] / sum);
            if (a.lse && tid == 0) keep_lse(a, s, head, pair, max, sum);
        } else {
            float *out = partial_at(a, w.part, head, pair);
            for (int j = 0, d = tid; d < a.hd; j++, d += SIMPLE_THREADS) out[d] = o[j];
            if (tid == 0) {
                out[a.hd] = max;
                out[a.hd + 1] = sum;
            }
        }
        __syncthreads();
    }
}

/* ---- with tensor cores */
template <int HD, int WARPS, int KEYS> struct shape {
    static constexpr int LD = HD + 8, TILE = WARPS * 16, THREADS = WARPS * 32;
    static constexpr int BYTES = (TILE + 4 * KEYS) * LD * 2;
};

/* Keys and values [k0, k0 + KEYS) into one stage, zeros from `end` on. */
template <int HD, int WARPS, int KEYS>
__device__ __forceinline__ void load_keys(const args<mull_bf16> &a, const mull_cuda_seq &s, int head, int k0, int end,
                                          mull_bf16 *ks, mull_bf16 *vs) {
    typedef shape<HD, WARPS, KEYS> S;
    constexpr int PIECES = HD / 8;
    for (int i = (int)threadIdx.x; i < KEYS * PIECES; i += S::THREADS) {
        int key = i / PIECES, d = i % PIECES * 8;
        bool valid = k0 + key < end;
        int64_t at = valid ? key_at(a, s, head, k0 + key) + d : 0;
        mull_copy16(ks + key * S::LD + d, a.k + at, valid);
        mull_copy16(vs + key * S::LD + d, a.v + at, valid);
    }
    mull_copy_commit();
}

template <int HD, int WARPS, int KEYS> __global__ void __launch_bounds__(WARPS * 32) mma_kernel(args<mull_bf16> a) {
    typedef shape<HD, WARPS, KEYS> S;
    constexpr int LD = S::LD, PIECES = HD / 8, NK = KEYS / 8, ND = HD / 8;
    MULL_SHARED_DYNAMIC(memory);
    mull_bf16 *qs = (mull_bf16 *)memory, *ks = qs + S::TILE * LD, *vs = ks + 2 * KEYS * LD;
    /* Later tiles of a prompt see more keys: they go first. */
    mull_cuda_work w = a.work[gridDim.x - 1 - blockIdx.x];
    mull_cuda_seq s = a.seqs[w.seq];
    int head = (int)blockIdx.y, warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32, G = a.group;
    for (int i = (int)threadIdx.x; i < S::TILE * PIECES; i += S::THREADS) {
        int pair = w.pair0 + i / PIECES, d = i % PIECES * 8;
        bool valid = pair < s.rows * G;
        const mull_bf16 *row =
            a.q + (valid ? (int64_t)(s.row0 + pair / G) * a.ldq + (head * G + pair % G) * HD + d : 0);
        mull_copy16(qs + i / PIECES * LD + d, row, valid);
    }
    load_keys<HD, WARPS, KEYS>(a, s, head, w.key0, w.key1, ks, vs);

    /* This lane's two rows of the warp's 16, g and g + 8. */
    int low = w.pair0 + warp * 16 + lane / 4, end[2] = {keys_of(a, s, low), keys_of(a, s, low + 8)};
    float o[ND][4] = {}, max[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
    for (int k0 = w.key0, stage = 0; k0 < w.key1; k0 += KEYS, stage ^= 1) {
        if (k0 + KEYS < w.key1) {
            load_keys<HD, WARPS, KEYS>(a, s, head, k0 + KEYS, w.key1, ks + (stage ^ 1) * KEYS * LD,
                                       vs + (stage ^ 1) * KEYS * LD);
            mull_copy_wait<1>();
        } else {
            mull_copy_wait<0>();
        }
        __syncthreads();
        const mull_bf16 *k = ks + stage * KEYS * LD, *v = vs + stage * KEYS * LD;
        float score[NK][4] = {};
#pragma unroll
        for (int d = 0; d < HD; d += 16) {
            unsigned qf[4];
            mull_ldmatrix4(qf, qs + (warp * 16 + lane % 16) * LD + d + lane / 16 * 8);
#pragma unroll
            for (int n = 0; n < NK; n += 2) {
                unsigned kf[4];
                mull_ldmatrix4(kf, k + (n * 8 + lane / 16 * 8 + lane % 8) * LD + d + lane / 8 % 2 * 8);
                mull_mma(score[n], qf, kf[0], kf[1]);
                mull_mma(score[n + 1], qf, kf[2], kf[3]);
            }
        }
        float top[2] = {max[0], max[1]};
#pragma unroll
        for (int n = 0; n < NK; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int key = k0 + n * 8 + lane % 4 * 2 + i % 2;
                score[n][i] = key < end[i / 2] ? score[n][i] * a.scale : -INFINITY;
                top[i / 2] = fmaxf(top[i / 2], score[n][i]);
            }
        float carry[2], base[2];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            top[r] = fmaxf(top[r], __shfl_xor_sync(0xffffffffu, top[r], 1));
            top[r] = fmaxf(top[r], __shfl_xor_sync(0xffffffffu, top[r], 2));
            base[r] = base_of(top[r]);
            carry[r] = exp2f(max[r] - base[r]);
            max[r] = top[r];
            sum[r] *= carry[r];
        }
#pragma unroll
        for (int n = 0; n < NK; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                score[n][i] = exp2f(score[n][i] - base[i / 2]);
                sum[i / 2] += score[n][i];
            }
#pragma unroll
        for (int n = 0; n < ND; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) o[n][i] *= carry[i / 2];
#pragma unroll
        for (int n = 0; n < NK; n += 2) {
            /* The accumulators of two score tiles are the fragment of 16 keys. */
            unsigned pf[4] = {mull_round2(score[n][0], score[n][1]), mull_round2(score[n][2], score[n][3]),
                              mull_round2(score[n + 1][0], score[n + 1][1]),
                              mull_round2(score[n + 1][2], score[n + 1][3])};
#pragma unroll
            for (int d = 0; d < ND; d += 2) {
                unsigned vf[4];
                mull_ldmatrix4_trans(vf, v + (n * 8 + lane / 8 % 2 * 8 + lane % 8) * LD + d * 8 + lane / 16 * 8);
                mull_mma(o[d], pf, vf[0], vf[1]);
                mull_mma(o[d + 1], pf, vf[2], vf[3]);
            }
        }
        __syncthreads(); /* before the next copy overwrites this stage */
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 1);
        sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 2);
        int pair = low + 8 * r, d = lane % 4 * 2;
        if (pair >= s.rows * G) continue;
        if (w.part < 0) {
            unsigned *out = (unsigned *)(out_at(a, s, head, pair) + d);
            float inv = 1.0f / sum[r];
#pragma unroll
            for (int n = 0; n < ND; n++) out[n * 4] = mull_round2(o[n][2 * r] * inv, o[n][2 * r + 1] * inv);
            if (a.lse && lane % 4 == 0) keep_lse(a, s, head, pair, max[r], sum[r]);
        } else {
            float *out = partial_at(a, w.part, head, pair);
#pragma unroll
            for (int n = 0; n < ND; n++) {
                out[n * 8 + d] = o[n][2 * r];
                out[n * 8 + d + 1] = o[n][2 * r + 1];
            }
            if (lane % 4 == 0) {
                out[HD] = max[r];
                out[HD + 1] = sum[r];
            }
        }
    }
}

/* Adds up the parts of one pair, in order. */
template <typename T> __global__ void join_kernel(args<T> a, const mull_cuda_join *joins) {
    mull_cuda_join j = joins[blockIdx.x];
    mull_cuda_seq s = a.seqs[j.seq];
    int head = (int)blockIdx.y, pair = (int)blockIdx.z;
    if (j.parts == 0 || pair >= s.rows * a.group) return;
    float top = -INFINITY, sum = 0;
    for (int i = 0; i < j.parts; i++) top = fmaxf(top, partial_at(a, j.part0 + i, head, pair)[a.hd]);
    float base = base_of(top);
    for (int i = 0; i < j.parts; i++) {
        const float *p = partial_at(a, j.part0 + i, head, pair);
        sum += p[a.hd + 1] * exp2f(p[a.hd] - base);
    }
    T *out = out_at(a, s, head, pair);
    for (int d = (int)threadIdx.x; d < a.hd; d += (int)blockDim.x) {
        float o = 0;
        for (int i = 0; i < j.parts; i++) {
            const float *p = partial_at(a, j.part0 + i, head, pair);
            o = fmaf(p[d], exp2f(p[a.hd] - base), o);
        }
        out[d] = mull_narrow<T>(o / sum);
    }
}

template <int HD, int WARPS, int KEYS> void run_mma(mull_cuda *c, const args<mull_bf16> &a, int32_t n) {
    typedef shape<HD, WARPS, KEYS> S;
    auto kernel = mma_kernel<HD, WARPS, KEYS>;
    mull_cuda_note(c, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, S::BYTES), "attention",
                   "%d bytes of shared memory", S::BYTES);
    if (n > 0 && !mull_cuda_failed(c))
        MULL_LAUNCH(kernel, dim3((unsigned)n, (unsigned)a.kv_heads), S::THREADS, S::BYTES, mull_cuda_stream(c), a);
}

template <int HD> void run_head(mull_cuda *c, args<mull_bf16> a, const mull_cuda_plan &p) {
    run_mma<HD, 4, 64>(c, a, p.wide);
    a.work += p.wide;
    run_mma<HD, 1, 32>(c, a, p.few);
}

bool run_fast(mull_cuda *c, const args<mull_bf16> &a, const mull_cuda_plan &p) {
    bool aligned = a.ldq % 8 == 0 && (a.pages ? a.page_stride : a.ldkv) % 8 == 0 && a.ldo % 2 == 0 &&
                   ((uintptr_t)a.q | (uintptr_t)a.k | (uintptr_t)a.v) % 16 == 0 && (uintptr_t)a.out % 4 == 0;
    if (!aligned) return false;
    switch (a.hd) {
    case 64:
        run_head<64>(c, a, p);
        return true;
    case 80:
        run_head<80>(c, a, p);
        return true;
    case 128:
        run_head<128>(c, a, p);
        return true;
    default:
        return false;
    }
}
bool run_fast(mull_cuda *, const args<float> &, const mull_cuda_plan &) {
    return false;
}

int kv_heads_of(const mull_cuda_attention *g) {
    return g->kv ? g->kv->kv_heads : g->kv_heads ? g->kv_heads : g->heads;
}

template <typename T> void attend(mull_cuda *c, const mull_cuda_attention *g) {
    args<T> a = {};
    a.q = (const T *)g->q;
    a.k = (const T *)(g->kv ? g->kv->k : g->k);
    a.v = (const T *)(g->kv ? g->kv->v : g->v);
    a.out = (T *)g->out;
    a.ldq = g->ldq;
    a.ldkv = g->ldkv;
    a.ldo = g->ldo;
    a.page_stride = g->kv ? g->kv->page_stride : 0;
    a.pages = g->kv ? g->pages : nullptr;
    a.seqs = g->seqs;
    a.work = g->work;
    a.scale = g->scale * LOG2E;
    a.lse = g->lse;
    a.lse_rows = g->lse_rows;
    a.kv_heads = kv_heads_of(g);
    a.group = g->heads / a.kv_heads;
    a.hd = g->hd;
    a.causal = g->causal;
    if (g->plan.parts) {
        a.partial = (float *)mull_cuda_scratch(c, MULL_CUDA_ATTENTION,
                                               mull_cuda_attention_scratch(g->plan.parts, a.kv_heads, a.hd));
        if (!a.partial) return;
    }
    if (g->simple || !run_fast(c, a, g->plan)) {
        int32_t n = g->plan.wide + g->plan.few;
        auto kernel = simple_kernel<T>;
        if (n > 0)
            MULL_LAUNCH(kernel, dim3((unsigned)n, (unsigned)a.kv_heads), SIMPLE_THREADS, 0, mull_cuda_stream(c), a);
    }
    MULL_LAUNCHED(c, "attention", g->plan.wide + g->plan.few, a.hd);
    if (!g->plan.joins || mull_cuda_failed(c)) return;
    auto join = join_kernel<T>;
    MULL_LAUNCH(join, dim3((unsigned)g->plan.joins, (unsigned)a.kv_heads, MULL_CUDA_TILE_FEW), 64, 0,
                mull_cuda_stream(c), a, g->joins);
    MULL_LAUNCHED(c, "attention's join", g->plan.joins, a.hd);
}

} // namespace

extern "C" void mull_cuda_attend(mull_cuda *c, const mull_cuda_attention *g) {
    if (mull_cuda_failed(c)) return;
    int kv_heads = kv_heads_of(g);
    if (g->lse && g->plan.parts) {
        mull_cuda_refuse(c, MULL_EINTERNAL, "attention", "report this", "split keys keep no sums");
        return;
    }
    if (g->hd <= 0 || g->hd > MULL_CUDA_HEAD_MAX || kv_heads <= 0 || g->heads % kv_heads || kv_heads > 65535) {
        mull_cuda_refuse(c, MULL_EUNSUPPORTED, "attention", "use --device cpu", "%d heads of %d over %d key heads",
                         g->heads, g->hd, kv_heads);
        return;
    }
    if (g->t == MULL_F32)
        attend<float>(c, g);
    else
        attend<mull_bf16>(c, g);
}
