/* Counter-based random numbers: Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as
 * 1, 2, 3", SC 2011). A draw is a pure function of (key, counter), so results never depend on how many
 * draws others made: the same request gives the same tokens in any batch. */
#ifndef MULL_ENGINE_CORE_RNG_H
#define MULL_ENGINE_CORE_RNG_H

#include <stdint.h>

#ifdef __CUDACC__
#define MULL_RNG static inline __host__ __device__
#else
#define MULL_RNG static inline
#endif

MULL_RNG void mull_philox(uint64_t key, uint64_t ctr_hi, uint64_t ctr_lo, uint32_t out[4]) {
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    uint32_t c0 = (uint32_t)ctr_lo, c1 = (uint32_t)(ctr_lo >> 32), c2 = (uint32_t)ctr_hi, c3 = (uint32_t)(ctr_hi >> 32);
    for (int r = 0; r < 10; r++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/* Uniform in [0, 1) with 53 bits. */
MULL_RNG double mull_uniform(uint64_t key, uint64_t ctr_hi, uint64_t ctr_lo) {
    uint32_t r[4];
    mull_philox(key, ctr_hi, ctr_lo, r);
    uint64_t v = ((uint64_t)r[0] << 32 | r[1]) >> 11;
    return (double)v * 0x1p-53;
}

#endif
