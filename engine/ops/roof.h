/* What this machine can do at most, measured: the roofs that mull-engine bench compares with. */
#ifndef MULL_ENGINE_OPS_ROOF_H
#define MULL_ENGINE_OPS_ROOF_H

#include "engine/ops/ops.h"

/* Bytes a second at which the pool's threads read memory far larger than the caches; best of some rounds, 0 when there
 * is no memory for it. */
double mull_roof_read(mull_pool *pool);
/* FLOP/s (a multiply-add is two) of the pool's threads on registers alone, with the instructions that mull_matmul uses
 * for weights of this type: no product can be faster. */
double mull_roof_flops(mull_pool *pool, mull_weight_type type);
/* FLOP/s of one large mull_matmul with weights of this type: what a model's products can be compared with. 0 when
 * there is no memory for it. */
double mull_roof_gemm(mull_pool *pool, mull_weight_type type);

#endif
