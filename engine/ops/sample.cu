/* From rows of logits to tokens on the device, twin of infer/sampler.c: penalty, bans, temperature, top-k, top-p, draw,
 * with the same counter-based random number. One block a row.
 *
 * Nothing is sorted. The candidates' order (larger logit first, then lower id) is only asked "where does the running
 * sum pass this target", for counts (top-k), for weights (top-p) and for the draw itself; a radix search answers that
 * by histograms of 8 bits at a time. Weights are exp(z - top) in fixed point of 2^-44, so that their sums are exact
 * integers and do not depend on the order in which threads add; the CPU's doubles differ from them by less than 1e-9 of
 * the total. */
#include "engine/ops/cuda_kernel.cuh"

#include "engine/core/rng.h"

#include <math.h>

namespace {

typedef unsigned long long u64;

constexpr int THREADS = 1024, CHUNK_BITS = 10, CHUNKS = 256; /* ids in chunks of 1024: at most 262,144 */
constexpr double UNIT = 17592186044416.0;                    /* 2^44; 2^18 weights of at most one fit 64 bits */

struct state {
    u64 hist[CHUNKS], target, above;
    unsigned prefix, bucket;
    float top, part[32];
    double dpart[32];
    int best, id;
    int best_part[32];
};

/* Larger floats have larger keys. */
__device__ unsigned key_of(float z) {
    unsigned u = __float_as_uint(z);
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

__device__ u64 weight(float z, float top) {
    return (u64)(exp((double)(z - top)) * UNIT + 0.5);
}

/* The largest of v, of equal ones the lowest id; to st->top and st->best (-1: none above minus infinity). */
__device__ void block_argmax(state *st, float v, int id) {
    for (int by = 16; by > 0; by /= 2) {
        float ov = __shfl_xor_sync(0xffffffffu, v, by);
        int oid = __shfl_xor_sync(0xffffffffu, id, by);
        if (ov > v || (ov == v && oid >= 0 && (id < 0 || oid < id))) {
            v = ov;
            id = oid;
        }
    }
    if (threadIdx.x % 32 == 0) {
        st->part[threadIdx.x / 32] = v;
        st->best_part[threadIdx.x / 32] = id;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        st->top = -INFINITY;
        st->best = -1;
        for (int w = 0; w < THREADS / 32; w++) {
            float pv = st->part[w];
            int pid = st->best_part[w];
            if (pid >= 0 && (pv > st->top || (pv == st->top && pid < st->best))) {
                st->top = pv;
                st->best = pid;
            }
        }
    }
    __syncthreads();
}

__device__ void clear(state *st) {
    if (threadIdx.x < CHUNKS) st->hist[threadIdx.x] = 0;
    __syncthreads();
}

/* Where the running count (or weight) of the candidates in descending order first exceeds st->target: the key to
 * st->prefix, what lies above that key to st->above, what of the target is left within it to st->target. */
__device__ void search(state *st, const float *z, int vocab, bool count, float top) {
    if (threadIdx.x == 0) {
        st->prefix = 0;
        st->above = 0;
    }
    for (int shift = 24; shift >= 0; shift -= 8) {
        clear(st);
        unsigned seen = shift == 24 ? 0 : 0xffffffffu << (shift + 8), prefix = st->prefix;
        for (int i = (int)threadIdx.x; i < vocab; i += THREADS) {
            if (!(z[i] > -INFINITY)) continue;
            unsigned k = key_of(z[i]);
            if ((k & seen) == prefix) atomicAdd(&st->hist[k >> shift & 255], count ? (u64)1 : weight(z[i], top));
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            int b = 255;
            for (; b > 0 && st->hist[b] <= st->target; b--) {
                st->target -= st->hist[b];
                st->above += st->hist[b];
            }
            st->prefix = prefix | (unsigned)b << shift;
        }
        __syncthreads();
    }
}

/* Where the running sum over ids in ascending order first exceeds st->target, to st->id; ids with this key count one
 * each, or all by weight. */
__device__ void locate(state *st, const float *z, int vocab, bool by_key, float top) {
    unsigned key = st->prefix;
    clear(st);
    for (int i = (int)threadIdx.x; i < vocab; i += THREADS)
        if (z[i] > -INFINITY && (!by_key || key_of(z[i]) == key))
            atomicAdd(&st->hist[i >> CHUNK_BITS], by_key ? (u64)1 : weight(z[i], top));
    __syncthreads();
    if (threadIdx.x == 0) {
        int c = 0, last = (vocab - 1) >> CHUNK_BITS;
        u64 left = st->target;
        for (; c < last && st->hist[c] <= left; c++) left -= st->hist[c];
        int end = min(vocab, (c + 1) << CHUNK_BITS), id = -1;
        for (int i = c << CHUNK_BITS; i < end; i++) {
            if (!(z[i] > -INFINITY) || (by_key && key_of(z[i]) != key)) continue;
            id = i;
            u64 w = by_key ? (u64)1 : weight(z[i], top);
            if (w > left) break;
            left -= w;
        }
        st->id = id;
    }
    __syncthreads();
}

/* After search by weight: the target's remainder becomes a rank among candidates of equal weight. */
__device__ void rank_of_weight(state *st, float top) {
    if (threadIdx.x == 0) {
        unsigned k = st->prefix;
        float z = __uint_as_float(k & 0x80000000u ? k & 0x7fffffffu : ~k);
        u64 w = weight(z, top);
        st->target = w ? st->target / w : 0;
    }
    __syncthreads();
}

/* All candidates' weights, or those before and with rank `rank` of key `key`; leaves their number in st->hist[1] (all
 * only). */
__device__ u64 total_weight(state *st, const float *z, int vocab, float top, bool all, unsigned key, u64 rank) {
    clear(st);
    u64 sum = 0, n = 0;
    for (int i = (int)threadIdx.x; i < vocab; i += THREADS)
        if (z[i] > -INFINITY && (all || key_of(z[i]) > key)) {
            sum += weight(z[i], top);
            n++;
        }
    atomicAdd(&st->hist[0], sum);
    atomicAdd(&st->hist[1], n);
    __syncthreads();
    if (all) return st->hist[0];
    float same = __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
    return st->hist[0] + (rank + 1) * weight(same, top);
}

/* log(sum(exp(x))) from the largest on. */
__device__ double log_sum(state *st, const float *x, int vocab) {
    float v = -INFINITY;
    int id = -1;
    for (int i = (int)threadIdx.x; i < vocab; i += THREADS)
        if (x[i] > v) {
            v = x[i];
            id = i;
        }
    block_argmax(st, v, id);
    float top = st->top;
    double sum = 0;
    for (int i = (int)threadIdx.x; i < vocab; i += THREADS) sum += (double)expf(x[i] - top);
    for (int by = 16; by > 0; by /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, by);
    __syncthreads(); /* before another call writes dpart */
    if (threadIdx.x % 32 == 0) st->dpart[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = 0;
    for (int w = 0; w < THREADS / 32; w++) sum += st->dpart[w];
    return (double)top + log(sum);
}

__global__ void __launch_bounds__(THREADS)
    sample_kernel(const float *logits, int vocab, const mull_cuda_sampling *hows, const uint32_t *banned,
                  uint32_t *seen, int64_t seen_stride, float *work, int32_t *ids, float *logprob) {
    __shared__ state mem;
    state *st = &mem;
    mull_cuda_sampling how = hows[blockIdx.x];
    const float *x = logits + (int64_t)how.row * vocab;
    float *z = work + (int64_t)blockIdx.x * vocab;
    int best = -1;
    uint32_t *mine = seen && how.slot >= 0 ? seen + how.slot * seen_stride : nullptr;
    double lse = logprob ? log_sum(st, x, vocab) : 0;
    float penalty = (float)how.penalty, top = -INFINITY;
    bool punish = how.penalty != 1 && mine;
    for (int i = (int)threadIdx.x; i < vocab; i += THREADS) {
        float v = x[i];
        if (punish && mine[i / 32] >> (i % 32) & 1) v = v < 0 ? v * penalty : v / penalty;
        if (banned && banned[i / 32] >> (i % 32) & 1) v = -INFINITY;
        z[i] = v;
        if (v > top) {
            top = v;
            best = i;
        }
    }
    block_argmax(st, top, best);
    int id = st->best;
    if (id < 0 || !isfinite(st->top)) {
        id = -1;
    } else if (how.temperature > 0) {
        top = (float)(st->top / how.temperature);
        for (int i = (int)threadIdx.x; i < vocab; i += THREADS) z[i] = (float)(z[i] / how.temperature);
        __syncthreads();
        u64 total = total_weight(st, z, vocab, top, true, 0, 0);
        bool cut_k = how.top_k > 0 && (u64)how.top_k < st->hist[1], cut_p = how.top_p < 1;
        __syncthreads();
        if (cut_k) {
            if (threadIdx.x == 0) st->target = (u64)how.top_k - 1;
            search(st, z, vocab, true, top);
            unsigned key = st->prefix;
            u64 rank = st->target;
            total = total_weight(st, z, vocab, top, false, key, rank);
            __syncthreads();
        }
        if (cut_p) {
            if (threadIdx.x == 0) {
                double want = ceil(how.top_p * (double)total);
                st->target = want >= 1 ? (u64)want - 1 : 0;
                if (st->target >= total) st->target = total - 1;
            }
            search(st, z, vocab, false, top);
            rank_of_weight(st, top);
            unsigned key = st->prefix;
            u64 rank = st->target, kept = st->above;
            float same = __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
            total = kept + (rank + 1) * weight(same, top);
            __syncthreads();
        }
        if (threadIdx.x == 0) {
            uint32_t r[4];
            mull_philox(how.seed, how.index, 0, r);
            u64 u = ((u64)r[0] << 32 | r[1]) >> 11; /* 53 bits, as mull_uniform */
            st->target = __umul64hi(u << 11, total);
        }
        if (cut_k || cut_p) {
            search(st, z, vocab, false, top);
            rank_of_weight(st, top);
            locate(st, z, vocab, true, top);
        } else {
            locate(st, z, vocab, false, top);
        }
        id = st->id;
    }
    if (threadIdx.x != 0) return;
    ids[blockIdx.x] = id;
    if (id < 0) return;
    if (mine) mine[id / 32] |= 1u << (id % 32);
    if (logprob) logprob[blockIdx.x] = (float)((double)x[id] - lse);
}

} // namespace

extern "C" void mull_cuda_sample(mull_cuda *c, const float *logits, int64_t vocab, const mull_cuda_sampling *how,
                                 int64_t n, const uint32_t *banned, uint32_t *seen, int64_t seen_stride, int32_t *ids,
                                 float *logprob) {
    if (!mull_sizes_ok(c, "sample", n, vocab)) return;
    if (vocab > (int64_t)CHUNKS << CHUNK_BITS) {
        mull_cuda_refuse(c, MULL_ELIMIT, "sample", "use --device cpu", "a vocabulary of %lld is larger than %d",
                         (long long)vocab, CHUNKS << CHUNK_BITS);
        return;
    }
    float *work = (float *)mull_cuda_scratch(c, MULL_CUDA_SAMPLE, (size_t)(n * vocab) * sizeof(float));
    if (!work) return;
    MULL_LAUNCH(sample_kernel, (unsigned)n, THREADS, 0, mull_cuda_stream(c), logits, (int)vocab, how, banned, seen,
                seen_stride, work, ids, logprob);
    MULL_LAUNCHED(c, "sample", n, vocab);
}
