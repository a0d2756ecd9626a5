/* What a trained vision tower is made of, for its files on the host (tower.c) and on the device (cuda_tower.c). */
#ifndef MULL_ENGINE_TRAIN_TOWER_INTERNAL_H
#define MULL_ENGINE_TRAIN_TOWER_INTERNAL_H

#include "engine/model/vision_windows.h"
#include "engine/train/net_internal.h"
#include "engine/train/tower.h"

typedef struct mull__tower_block {
    mull_param *norm1, *norm2;
    mull__linear qkv, proj, gate_up, down;
} mull__tower_block;

struct mull_tower {
    mull_net *n;
    const mull_vision_config *v;
    int64_t in, unit, wide, hidden; /* a patch's values, patches of a unit, unit * E, width of a feature */
    mull__tower_block *blocks;
    mull_param *ln_q;
    mull__linear embed, merge0, merge2;
    /* Only where the host computes: */
    float *arena;
    size_t cap;
    /* Of the medium at work: its windows, and for n rows of a group: */
    mull_windows windows;
    int64_t step_rows;
    float *kept;      /* [depth + 1][n, E]: what each block gets, and the merger */
    float *norm, *dx; /* [n, E] */
    float *dnorm;     /* [n, E] */
    float *mid;       /* [n, E]: between a block's halves */
    float *qkv, *dqkv, *att, *datt, *lse;
    float *gu, *act, *dact; /* [n, 2F], [n, F] x 2 */
    float *h0, *h1, *d0;    /* [units, wide]: the merger's inside before and after gelu, and its gradient */
    float *out;             /* [units, hidden], window order */
    float *cos, *sin, *nsin, *partial, *raw;
    int32_t *window_cu, *full_cu; /* in the arena */
    int nwindows, nfull;
};

#endif
