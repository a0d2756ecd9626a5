/* From a row of logits to a token. Order: tokens that may not be produced, repetition penalty, temperature, top-k,
 * top-p, draw. The draw is a pure function of (seed, index of the token in its output), never of other requests. */
#ifndef MULL_ENGINE_INFER_SAMPLER_H
#define MULL_ENGINE_INFER_SAMPLER_H

#include "engine/infer/infer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Set of token ids, one bit each. */
typedef struct mull_idset {
    uint64_t *bits;
    int32_t n; /* ids [0, n) */
} mull_idset;

int mull_idset_init(mull_idset *s, int32_t n);
void mull_idset_fini(mull_idset *s);
void mull_idset_add(mull_idset *s, int32_t id); /* ids outside [0, n) are ignored */
static inline bool mull_idset_has(const mull_idset *s, int32_t id) {
    return s->bits[(uint32_t)id >> 6] >> (id & 63) & 1;
}

/* Working memory of one draw, reused by all: candidates of a row. */
typedef struct mull_sampler {
    int32_t vocab;
    struct mull_candidate *cand; /* [vocab] */
    double *weight;              /* [vocab] */
} mull_sampler;

typedef struct mull_candidate {
    float logit;
    int32_t id;
} mull_candidate;

int mull_sampler_init(mull_sampler *s, int32_t vocab, mull_error *err);
void mull_sampler_fini(mull_sampler *s);

/* Picks from logits [vocab], which are overwritten. banned (NULL: none) are never produced; seen are the distinct ids
 * of prompt and output, which the repetition penalty lowers. index counts the tokens produced before this one.
 * Greedy takes the lowest id of equal logits. MULL_EINTERNAL when no finite logit is left. */
int mull_sample(mull_sampler *s, float *logits, const mull_sampling *how, const mull_idset *banned,
                const mull_idset *seen, uint64_t index, int32_t *id, mull_error *err);

/* log(sum(exp(x))) of n values, in double from the largest on: the same for any caller. */
double mull_logsumexp(const float *x, int64_t n);

#endif
