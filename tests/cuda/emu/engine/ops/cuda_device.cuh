/* What engine/ops/cuda_device.cuh has in PTX, computed by a warp of fibers: lanes hand each other their operands and
 * every lane computes its own share, by the fragment layouts that the PTX manual gives for m16n8k16 and ldmatrix. */
#ifndef MULL_TESTS_CUDA_DEVICE_CUH
#define MULL_TESTS_CUDA_DEVICE_CUH

#include <cuda_runtime.h>

#include "engine/ops/cuda_types.cuh"

#include <assert.h>

#define MULL_LAUNCH(kernel, grid, block, shared, stream, ...)                                                          \
    ((void)(stream), mull_emu_launch((grid), (block), (shared), std::bind(kernel, __VA_ARGS__)))
#define MULL_SHARED_DYNAMIC(name) unsigned char *name = mull_emu_shared()

static inline mull_bf16 mull_round(float f) {
    return {mull_bf16_bits(f)};
}
static inline unsigned mull_round2(float low, float high) {
    return mull_bf16_bits(low) | (unsigned)mull_bf16_bits(high) << 16;
}

template <typename V> static inline V mull_load_once(const V *p) {
    assert((uintptr_t)p % sizeof(V) == 0);
    return *p;
}

static inline void mull_copy16(void *shared, const void *global, bool valid) {
    assert((uintptr_t)shared % 16 == 0);
    if (!valid) {
        memset(shared, 0, 16);
        return;
    }
    assert((uintptr_t)global % 16 == 0);
    memcpy(shared, global, 16);
}
static inline void mull_copy_commit(void) {}
template <int N> static inline void mull_copy_wait(void) {}

static inline void mull_ldmatrix4(unsigned r[4], const void *row) {
    assert((uintptr_t)row % 16 == 0);
    const unsigned char *all = mull_emu_exchange(&row, sizeof row, __LINE__);
    int lane = mull_emu_self->lane;
    for (int i = 0; i < 4; i++) {
        const char *at;
        memcpy(&at, all + 64 * (8 * i + lane / 4), sizeof at);
        memcpy(&r[i], at + 4 * (lane % 4), 4);
    }
}
static inline void mull_ldmatrix4_trans(unsigned r[4], const void *row) {
    assert((uintptr_t)row % 16 == 0);
    const unsigned char *all = mull_emu_exchange(&row, sizeof row, __LINE__);
    int lane = mull_emu_self->lane;
    for (int i = 0; i < 4; i++) {
        uint16_t e[2];
        for (int k = 0; k < 2; k++) {
            const char *at;
            memcpy(&at, all + 64 * (8 * i + 2 * (lane % 4) + k), sizeof at);
            memcpy(&e[k], at + 2 * (lane / 4), 2);
        }
        r[i] = e[0] | (unsigned)e[1] << 16;
    }
}

static inline float mull_emu_half(unsigned v, int i) {
    return __uint_as_float(i ? v & 0xffff0000u : v << 16);
}

/* c [16, 8] += a [16, 16] b [16, 8] */
static inline void mull_mma(float c[4], const unsigned a[4], unsigned b0, unsigned b1) {
    unsigned mine[6] = {a[0], a[1], a[2], a[3], b0, b1};
    const unsigned char *all = mull_emu_exchange(mine, sizeof mine, __LINE__);
    int g = mull_emu_self->lane / 4, t = mull_emu_self->lane % 4;
    for (int i = 0; i < 4; i++) {
        int high = i / 2, col = 2 * t + i % 2;
        float sum = 0;
        for (int k = 0; k < 16; k++) {
            unsigned va, vb;
            memcpy(&va, all + 64 * (4 * g + k % 8 / 2) + 4 * (high + 2 * (k / 8)), 4);
            memcpy(&vb, all + 64 * (4 * col + k % 8 / 2) + 4 * (4 + k / 8), 4);
            sum += mull_emu_half(va, k % 2) * mull_emu_half(vb, k % 2);
        }
        c[i] += sum;
    }
}

#endif
