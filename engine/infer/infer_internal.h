/* Inside engine/infer: the engine's state, shared by infer.c (life cycle, steps), choose.c (tokens from logits) and
 * schedule.c (batches). */
#ifndef MULL_ENGINE_INFER_INFER_INTERNAL_H
#define MULL_ENGINE_INFER_INFER_INTERNAL_H

#include "engine/infer/sequence.h"
#include "engine/model/lm.h"

#define WHAT_CREATE "cannot create the inference engine"

struct mull_infer {
    mull_model *m;
    const mull_config *c;
    const mull_tokenizer *tok; /* may be NULL */
    mull_infer_opts opts;      /* every default filled in */
    mull_infer_callbacks cb;
    mull_kv_cache *kv;
    mull_features *features;
    mull_lm *lm;
    mull_idset banned;
    mull_constraints *rules;          /* NULL until one is asked for */
    int64_t max_len;                  /* of a sequence: model's context and cache */
    mull_seq *waiting, *last_waiting; /* queue, oldest first */
    mull_seq **running;               /* [max_batch], oldest first */
    int nrunning, pending;
    mull_infer_stats stats;
    /* the batch: room for max_batch + prefill_chunk rows */
    mull_kv_view *views; /* [layers] */
    mull_attn_seq *seqs;
    int32_t *ids, *pos;
    const float **inputs;
    int32_t *want;           /* rows whose logits are needed, in the order of running */
    float *hidden;           /* [max_batch, hidden] */
    mull_lm_choice *choices; /* [max_batch], and what a backend chose */
    int32_t *chosen;
    float *chosen_logprobs;
    float *logits, *raw_logits; /* [logit_rows, vocab]; [samplers, vocab] */
    int logit_rows;
    mull_sampler *sampler; /* [samplers]: of the threads that choose */
    int samplers;
    struct mull__pick *picks; /* [logit_rows] */
};

/* Adds token id to s and ends s if that was its last. */
void mull__infer_accept(mull_infer *f, mull_seq *s, int32_t id);
/* choose.c. Room for n rows of logits and what chooses from them; grows to the largest batch seen and stays. */
int mull__infer_need_logits(mull_infer *f, int n, mull_error *err);
/* The next token of every running sequence whose row of logits is there, in the order of running. */
void mull__infer_choose(mull_infer *f);
void mull__infer_choose_fini(mull_infer *f);
/* Reports s as finished; sweep removes it. */
void mull__infer_finish(mull_infer *f, mull_seq *s, mull_finish finish, const mull_error *why);
/* Removes what is finished or was cancelled. */
void mull__infer_sweep(mull_infer *f);
/* Moves requests from the queue to the running ones while their pages fit. */
void mull__infer_admit(mull_infer *f);
/* Fills the next batch and f->want; returns its number of sequences, 0 when there is nothing to run. */
int mull__infer_build(mull_infer *f, mull_lm_batch *b);
/* Lets go of features whose placeholders are all in the cache. */
void mull__infer_drop_features(mull_infer *f, mull_seq *s);

#endif
