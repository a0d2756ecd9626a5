/* NumPy's default_rng(seed).permutation(n): SeedSequence, PCG64 (XSL-RR 128/64) and Fisher-Yates with masked
 * rejection over 32-bit halves, as NumPy has kept it since 1.17. Sources: O'Neill 2014 (PCG), O'Neill's seed_seq,
 * NumPy's documentation of bit generators. */
#include "engine/eval/prompt.h"

typedef unsigned __int128 u128;

static const uint32_t MULT_A = 0x931e8875, MULT_B = 0x58f38ded, MIX_L = 0xca01f9dd, MIX_R = 0x4973f715;

static uint32_t hash_in(uint32_t v, uint32_t *h) {
    v ^= *h;
    *h *= MULT_A;
    v *= *h;
    return v ^ v >> 16;
}

static uint32_t mix(uint32_t x, uint32_t y) {
    uint32_t r = MIX_L * x - MIX_R * y;
    return r ^ r >> 16;
}

/* Eight words of state from the seed's words. */
static void seed_words(uint64_t seed, uint32_t out[8]) {
    uint32_t words[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)}, pool[4], h = 0x43b0d7e5;
    int n = words[1] ? 2 : 1;
    for (int i = 0; i < 4; i++) pool[i] = hash_in(i < n ? words[i] : 0, &h);
    for (int from = 0; from < 4; from++)
        for (int to = 0; to < 4; to++)
            if (from != to) pool[to] = mix(pool[to], hash_in(pool[from], &h));
    uint32_t k = 0x8b51f9dd;
    for (int i = 0; i < 8; i++) {
        uint32_t v = pool[i % 4] ^ k;
        k *= MULT_B;
        v *= k;
        out[i] = v ^ v >> 16;
    }
}

typedef struct pcg {
    u128 state, inc;
    uint32_t half; /* the upper half of the last draw */
    bool has_half;
} pcg;

static uint64_t next64(pcg *g) {
    g->state = g->state * (((u128)UINT64_C(2549297995355413924) << 64) + UINT64_C(4865540595714422341)) + g->inc;
    uint64_t x = (uint64_t)(g->state >> 64) ^ (uint64_t)g->state;
    unsigned r = (unsigned)(g->state >> 122);
    return x >> r | x << (-r & 63);
}

static uint32_t next32(pcg *g) {
    if (g->has_half) {
        g->has_half = false;
        return g->half;
    }
    uint64_t x = next64(g);
    g->has_half = true;
    g->half = (uint32_t)(x >> 32);
    return (uint32_t)x;
}

static void pcg_seed(pcg *g, uint64_t seed) {
    uint32_t w[8];
    seed_words(seed, w);
    uint64_t v[4];
    for (int i = 0; i < 4; i++) v[i] = w[2 * i] | (uint64_t)w[2 * i + 1] << 32;
    g->inc = (((u128)v[2] << 64 | v[3]) << 1) | 1;
    g->has_half = false;
    g->state = 0;
    next64(g);
    g->state += (u128)v[0] << 64 | v[1];
    next64(g);
}

static uint32_t below_or_equal(pcg *g, uint32_t max) {
    uint32_t mask = max, v;
    for (int s = 1; s < 32; s *= 2) mask |= mask >> s;
    do {
        v = next32(g) & mask;
    } while (v > max);
    return v;
}

int mull_shuffle_order(uint64_t seed, size_t n, uint32_t *out) {
    pcg g;
    if (n >= UINT32_MAX) return MULL_ELIMIT;
    pcg_seed(&g, seed);
    for (size_t i = 0; i < n; i++) out[i] = (uint32_t)i;
    for (size_t i = n; i-- > 1;) {
        uint32_t j = below_or_equal(&g, (uint32_t)i), t = out[i];
        out[i] = out[j];
        out[j] = t;
    }
    return MULL_OK;
}
