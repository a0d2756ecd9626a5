/* The mix; see mix.h. The permutation of an epoch is a Feistel network over the next power of four, walked until it
 * falls into range (Black & Rogaway 2002): any place in constant memory, in any order. */
#include "engine/data/mix.h"

#include "engine/core/rng.h"

#include <stdlib.h>

struct mull_mix {
    const mull_recipe *r;
    mull_dataset *sets[MULL_SET_COUNT];
    int64_t rows;
    int half; /* bits of one side of the network */
};

enum { ROUNDS = 6 };

int mull_mix_open(const mull_recipe *r, mull_mix **out, mull_error *err) {
    *out = NULL;
    mull_mix *m = calloc(1, sizeof *m);
    if (!m) return mull_fail(err, MULL_ENOMEM, "cannot open the mix", "", NULL, "out of memory");
    m->r = r;
    int rc = MULL_OK;
    for (int s = 0; s < MULL_SET_COUNT && !rc; s++) {
        if (!(r->weight[s] > 0)) continue;
        rc = mull_dataset_open(r, (mull_set)s, &m->sets[s], err);
        if (!rc) m->rows += mull_dataset_rows(m->sets[s]);
    }
    if (!rc && m->rows <= 0)
        rc = mull_fail(err, MULL_EARG, "cannot open the mix", "mix_datas", "give at least one dataset a weight",
                       "it is empty");
    if (rc) {
        mull_mix_close(m);
        return rc;
    }
    while ((INT64_C(1) << 2 * m->half) < m->rows) m->half++;
    *out = m;
    return MULL_OK;
}

void mull_mix_close(mull_mix *m) {
    if (!m) return;
    for (int s = 0; s < MULL_SET_COUNT; s++)
        if (m->sets[s]) mull_dataset_close(m->sets[s]);
    free(m);
}

int64_t mull_mix_rows(const mull_mix *m) {
    return m->rows;
}

mull_dataset *mull_mix_set(const mull_mix *m, mull_set set) {
    return m->sets[set];
}

static int64_t permute(const mull_mix *m, uint64_t seed, uint64_t epoch, int64_t i) {
    uint64_t mask = (UINT64_C(1) << m->half) - 1, x = (uint64_t)i;
    do {
        uint64_t left = x >> m->half, right = x & mask;
        for (int k = 0; k < ROUNDS; k++) {
            uint32_t f[4];
            mull_philox(seed, epoch << 8 | (uint64_t)k, right, f);
            uint64_t next = left ^ (((uint64_t)f[1] << 32 | f[0]) & mask);
            left = right;
            right = next;
        }
        x = left << m->half | right;
    } while (x >= (uint64_t)m->rows);
    return (int64_t)x;
}

mull_draw mull_mix_draw(const mull_mix *m, int64_t place) {
    uint64_t seed = (uint64_t)m->r->seed, epoch = (uint64_t)(place / m->rows), at = (uint64_t)(place % m->rows);
    double u = mull_uniform(seed, epoch << 8 | 0x80, at), sum = 0;
    mull_draw d = {.set = MULL_SET_COUNT};
    for (int s = 0; s < MULL_SET_COUNT; s++) {
        if (!m->sets[s]) continue;
        d.set = (mull_set)s; /* the last one takes what rounding leaves */
        sum += m->r->weight[s];
        if (u < sum) break;
    }
    d.index = permute(m, seed, epoch, (int64_t)at) % mull_dataset_rows(m->sets[d.set]);
    uint32_t key[4];
    mull_philox(seed, epoch << 8 | 0x81, at, key);
    d.key = (uint64_t)key[1] << 32 | key[0];
    return d;
}
