/* The language model over a packed batch, on the CPU or the model's backend: any mix of prompt pieces and single decode tokens of any sequences is one
 * list of rows. A row's result is the same bits in every batch, since no operation lets rows see each other but
 * attention, and that sees only its own sequence. Not thread-safe: one mull_lm serves one thread. */
#ifndef MULL_ENGINE_MODEL_LM_H
#define MULL_ENGINE_MODEL_LM_H

#include "engine/model/model.h"
#include "engine/model/tap.h"

enum { MULL_PAGE_TOKENS = 32 }; /* tokens in one page of the key/value cache */

typedef struct mull_lm mull_lm;

typedef struct mull_lm_batch {
    int64_t rows;
    const int32_t *ids; /* [rows], each below the vocabulary */
    const float *const
        *features;      /* [rows]: the row's input instead of the embedding of its id; NULL entries, or NULL */
    const int32_t *pos; /* three planes (t, h, w), plane a at pos + a * pos_stride */
    int64_t pos_stride;
    const mull_attn_seq *seqs; /* cover all rows */
    int nseq;
    const mull_kv_view *kv; /* [layers] */
} mull_lm_batch;

/* Activations for at most max_rows rows are allocated here, nothing later. */
int mull_lm_create(const mull_model *m, int64_t max_rows, mull_lm **out, mull_error *err);
void mull_lm_destroy(mull_lm *lm);
size_t mull_lm_bytes(const mull_lm *lm);
int64_t mull_lm_max_rows(const mull_lm *lm);

/* Runs all layers; keys and values of the rows are in the cache afterwards. tap may be NULL. */
void mull_lm_run(mull_lm *lm, const mull_lm_batch *b, const mull_tap *tap);
/* After a run: the final norm of the n rows named (ascending), to out [n, hidden]. */
void mull_lm_hidden(mull_lm *lm, const int32_t *rows, int64_t n, float *out);
/* logits [n, vocab] of hidden [n, hidden]. */
void mull_lm_logits(mull_lm *lm, const float *hidden, int64_t n, float *logits);
/* How the next token of a row is chosen; the meaning is that of mull_sample (infer/sampler.h). */
typedef struct mull_lm_choice {
    double temperature, top_p, penalty;
    int top_k;
    uint64_t seed, index;
    const uint64_t *seen; /* bits of ids [0, vocab); NULL without penalty */
} mull_lm_choice;
/* Chooses on the model's backend, so that no logits come to the host: ids [n] (-1: no finite logit) and logprobs [n]
 * (NULL: not wanted) of the rows named. banned: bits of ids that are never chosen. False where the host chooses. */
bool mull_lm_choose(mull_lm *lm, const int32_t *rows, int64_t n, const mull_lm_choice *how, const uint64_t *banned,
                    int32_t *ids, float *logprobs);
/* Both at once: logits of the rows named; hidden [n, hidden] is room for the CPU's hidden states. */
void mull_lm_row_logits(mull_lm *lm, const int32_t *rows, int64_t n, float *hidden, float *logits);

#endif
