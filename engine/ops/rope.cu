/* Rotary embeddings and the write into the paged cache. The angles of a batch are computed once, on the device, since
 * with a captured graph the positions are known there only; sine and cosine are the accurate ones (angles reach the
 * context's length), within 2 units in the last place of the CPU's. */
#include "engine/ops/cuda_kernel.cuh"
#include "engine/ops/cuda_train.h"

namespace {

constexpr int THREADS = 128;

__global__ void mrope_kernel(const int32_t *pos, int64_t stride, const float *inv_freq, const uint8_t *axis, int half,
                             float *cos, float *sin) {
    int64_t r = blockIdx.x;
    for (int i = (int)threadIdx.x; i < half; i += THREADS) {
        float angle = inv_freq[i] * (float)pos[axis[i] * stride + r];
        cos[r * half + i] = cosf(angle);
        sin[r * half + i] = sinf(angle);
    }
}

template <typename T>
__global__ void rope_kernel(T *x, int64_t ldx, int heads, int hd, const float *cos, const float *sin, float sign) {
    int64_t r = blockIdx.x;
    int half = hd / 2;
    for (int i = (int)threadIdx.x; i < heads * half; i += THREADS) {
        T *p = x + r * ldx + i / half * hd + i % half;
        float co = cos[r * half + i % half], si = sin[r * half + i % half] * sign;
        float a = mull_wide(p[0]), b = mull_wide(p[half]);
        p[0] = mull_narrow<T>(a * co - b * si);
        p[half] = mull_narrow<T>(b * co + a * si);
    }
}

/* The sequence that row r belongs to; rows of sequences ascend. */
__device__ int find_seq(const mull_cuda_seq *seqs, int n, int64_t r) {
    int low = 0, high = n - 1;
    while (low < high) {
        int mid = (low + high + 1) / 2;
        if (seqs[mid].row0 <= r)
            low = mid;
        else
            high = mid - 1;
    }
    return low;
}

template <typename T>
__global__ void rope_store_kernel(T *qkv, int heads, mull_cuda_kv kv, const mull_cuda_seq *seqs, int nseq,
                                  const int32_t *pages, const float *cos, const float *sin) {
    int64_t r = blockIdx.x;
    int hd = kv.hd, half = hd / 2, kvw = kv.kv_heads * hd;
    T *row = qkv + r * (heads * hd + 2 * kvw);
    mull_cuda_seq s = seqs[find_seq(seqs, nseq, r)];
    if (r - s.row0 >= s.rows) return; /* padding of a batch */
    int64_t pos = s.pos0 + (r - s.row0), slot = pos % MULL_CUDA_PAGE;
    int64_t page = pages[s.page0 + pos / MULL_CUDA_PAGE] * kv.page_stride;
    const float *co = cos + r * half, *si = sin + r * half;
    for (int i = (int)threadIdx.x; i < (heads + kv.kv_heads) * half; i += THREADS) {
        int head = i / half, at = i % half;
        T *p = row + head * hd + at;
        float a = mull_wide(p[0]), b = mull_wide(p[half]);
        T *to = head < heads ? p : (T *)kv.k + page + ((int64_t)(head - heads) * MULL_CUDA_PAGE + slot) * hd + at;
        to[0] = mull_narrow<T>(a * co[at] - b * si[at]);
        to[half] = mull_narrow<T>(b * co[at] + a * si[at]);
    }
    const T *v = row + heads * hd + kvw;
    for (int i = (int)threadIdx.x; i < kvw; i += THREADS)
        ((T *)kv.v)[page + ((int64_t)(i / hd) * MULL_CUDA_PAGE + slot) * hd + i % hd] = v[i];
}

} // namespace

extern "C" void mull_cuda_mrope_table(mull_cuda *c, const int32_t *pos, int64_t stride, int64_t m,
                                      const float *inv_freq, const uint8_t *axis, int half, float *cos, float *sin) {
    if (!mull_sizes_ok(c, "mrope table", m, half)) return;
    MULL_LAUNCH(mrope_kernel, (unsigned)m, THREADS, 0, mull_cuda_stream(c), pos, stride, inv_freq, axis, half, cos,
                sin);
    MULL_LAUNCHED(c, "mrope table", m, half);
}

static void rotate(mull_cuda *c, const char *op, void *x, int64_t m, int64_t ldx, int heads, int hd, const float *cos,
                   const float *sin, float sign, mull_dtype t) {
    if (!mull_sizes_ok(c, op, m, (int64_t)heads * hd)) return;
    MULL_BY_TYPE(t, auto kernel = rope_kernel<T>; MULL_LAUNCH(kernel, (unsigned)m, THREADS, 0, mull_cuda_stream(c),
                                                              (T *)x, ldx, heads, hd, cos, sin, sign));
    MULL_LAUNCHED(c, op, m, heads * hd);
}

extern "C" void mull_cuda_rope(mull_cuda *c, void *x, int64_t m, int64_t ldx, int heads, int hd, const float *cos,
                               const float *sin, mull_dtype t) {
    rotate(c, "rope", x, m, ldx, heads, hd, cos, sin, 1, t);
}

extern "C" void mull_cuda_rope_backward(mull_cuda *c, void *dx, int64_t m, int64_t ldx, int heads, int hd,
                                        const float *cos, const float *sin, mull_dtype t) {
    rotate(c, "rope's backward", dx, m, ldx, heads, hd, cos, sin, -1, t);
}

extern "C" void mull_cuda_rope_store(mull_cuda *c, void *qkv, int64_t m, int heads, const mull_cuda_kv *kv,
                                     const mull_cuda_seq *seqs, int nseq, const int32_t *pages, const float *cos,
                                     const float *sin, mull_dtype t) {
    if (!mull_sizes_ok(c, "rope and store", m, (int64_t)heads * kv->hd)) return;
    mull_cuda_kv view = *kv;
    MULL_BY_TYPE(t, auto kernel = rope_store_kernel<T>;
                 MULL_LAUNCH(kernel, (unsigned)m, THREADS, 0, mull_cuda_stream(c), (T *)qkv, heads, view, seqs, nseq,
                             pages, cos, sin));
    MULL_LAUNCHED(c, "rope and store", m, heads * kv->hd);
}
