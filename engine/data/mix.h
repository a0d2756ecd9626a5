/* The mix: which sample stands at a place of the run. A draw is a pure function of (seed, epoch, place), and a place is
 * step * global batch + rank * batch + slot: a run that is resumed, or goes on with other ranks but the same global
 * batch, sees the same samples. */
#ifndef MULL_ENGINE_DATA_MIX_H
#define MULL_ENGINE_DATA_MIX_H

#include "engine/data/dataset.h"

typedef struct mull_mix mull_mix;

typedef struct mull_draw {
    mull_set set;
    int64_t index; /* in the dataset */
    uint64_t key;  /* for what the row draws itself */
} mull_draw;

/* Opens every dataset with a weight. r is borrowed. */
int mull_mix_open(const mull_recipe *r, mull_mix **out, mull_error *err);
void mull_mix_close(mull_mix *m);
/* Sum of the parts: places of one epoch. */
int64_t mull_mix_rows(const mull_mix *m);
mull_dataset *mull_mix_set(const mull_mix *m, mull_set set); /* NULL: not in the mix */
/* Place p >= 0 counts on through the epochs: epoch p / rows, in each one a permutation of [0, rows) is walked; the
 * dataset is drawn by weight, the index is the permuted place modulo its length. */
mull_draw mull_mix_draw(const mull_mix *m, int64_t place);

#endif
