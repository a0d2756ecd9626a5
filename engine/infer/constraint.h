/* Answers that must match a regular expression: which tokens may come next. The tokens of a vocabulary are walked in
 * the order of their bytes, so that tokens with the same beginning are judged once; what is found for a state of the
 * automaton is kept, for other tokens, sequences and requests with the same expression. */
#ifndef MULL_ENGINE_INFER_CONSTRAINT_H
#define MULL_ENGINE_INFER_CONSTRAINT_H

#include "engine/infer/regex.h"
#include "engine/text/tokenizer.h"

typedef struct mull_constraints mull_constraints; /* of one tokenizer */
typedef struct mull_constraint mull_constraint;   /* one expression */

/* vocab: rows of logits. eos: ids that end an answer, borrowed. */
int mull_constraints_create(const mull_tokenizer *t, int32_t vocab, const int32_t *eos, int neos,
                            mull_constraints **out, mull_error *err);
void mull_constraints_destroy(mull_constraints *c);
/* Takes a reference; the same expression again is the same constraint as long as it is kept (64 unused ones are). */
int mull_constraint_get(mull_constraints *c, const char *regex, mull_constraint **out, mull_error *err);
void mull_constraint_release(mull_constraints *c, mull_constraint *k);

/* Makes what may not follow state impossible (-inf) in a row of logits. */
int mull_constraint_apply(mull_constraints *c, mull_constraint *k, int32_t state, float *logits, mull_error *err);
/* The state behind a token that was allowed. *ends: nothing can follow. */
int mull_constraint_step(mull_constraints *c, mull_constraint *k, int32_t id, int32_t *state, bool *ends,
                         mull_error *err);

#endif
