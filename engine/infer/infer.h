/* Batched generation over one loaded model: continuous batching, paged cache shared by prefix, chunked prefill.
 * A request's tokens are a pure function of (model, request, seed): never of what else is in the batch. */
#ifndef MULL_ENGINE_INFER_INFER_H
#define MULL_ENGINE_INFER_INFER_H

#include "engine/core/buf.h"
#include "engine/media/media.h"
#include "engine/model/model.h"

#include <jansson.h>

typedef struct mull_sampling {
    int max_new_tokens;        /* default 512 */
    double temperature;        /* 0 = greedy */
    double top_p;              /* 1 = off */
    int top_k;                 /* 0 = off */
    double repetition_penalty; /* 1 = off */
    uint64_t seed;
    bool ignore_eos;
    const char *const *stop; /* stop strings, borrowed for the request's life */
    int nstop;
    const char
        *regex;   /* what the whole answer has to match (regex.h), NULL: anything; borrowed until it is submitted */
    int logprobs; /* keep each token's log-prob when nonzero: the model's own, before penalty and temperature */
    bool logprobs_scaled; /* those log-probs at the temperature, as training computes them for rollouts */
} mull_sampling;

/* Defaults, then the checkpoint's generation_config.json (repetition_penalty; temperature, top_p, top_k when it
 * samples; a temperature below 1e-5 is greedy). */
void mull_sampling_defaults(const mull_model *m, mull_sampling *s);

typedef struct mull_infer_opts {
    int64_t cache_tokens; /* 0: from free memory and the requests */
    int max_batch;        /* sequences decoded together; 0: 32 */
    int prefill_chunk;    /* tokens; 0: 512 */
    bool no_prefix_cache;
    bool shares_device; /* others need its memory later: the cache takes a quarter of what is free, not three */
    bool raw;           /* suppress nothing, not even ids outside the tokenizer: comparisons with a reference */
} mull_infer_opts;

typedef struct mull_infer mull_infer;

/* Figures of an engine since its creation. */
typedef struct mull_infer_stats {
    int64_t steps, rows; /* rows: tokens that went through the model */
    int64_t prompt_tokens, cached_tokens, output_tokens;
    int64_t media_encoded, preempted;
    int64_t cache_tokens, cache_peak_tokens; /* room, and the most that was ever in use or kept */
    int64_t kv_bytes;                        /* of the peak */
    double step_ms;                          /* time inside mull_infer_step */
} mull_infer_stats;

/* Media in order of appearance in ids; the engine owns nothing of it and needs it until the request finished. */
typedef struct mull_request {
    uint64_t id;        /* the caller's */
    const int32_t *ids; /* prompt with placeholders expanded */
    size_t n;
    const mull_media *const *media;
    size_t nmedia;
    mull_sampling sampling;
} mull_request;

typedef enum mull_finish { MULL_FINISH_STOP, MULL_FINISH_LENGTH, MULL_FINISH_ERROR, MULL_FINISH_CANCELLED } mull_finish;

typedef struct mull_result {
    uint64_t id;
    const int32_t *ids;    /* generated ids, EOS included when produced; valid during the callback */
    const float *logprobs; /* or NULL */
    size_t n;
    const char *text; /* decoded, special tokens skipped, cut before a stop string */
    size_t text_len;
    mull_finish finish;
    int64_t prompt_tokens, cached_tokens;
    double vision_ms, prefill_ms, decode_ms;
    mull_error error; /* when finish is MULL_FINISH_ERROR */
} mull_result;

typedef struct mull_infer_callbacks {
    void *ctx;
    void (*on_text)(void *ctx, uint64_t id, const char *piece, size_t len); /* may be NULL */
    void (*on_done)(void *ctx, const mull_result *r);
} mull_infer_callbacks;

/* Callbacks run inside mull_infer_step (and may submit or cancel, not destroy). tok may be NULL: results then have ids
 * and no text. One engine serves one thread. */
int mull_infer_create(mull_model *m, const mull_tokenizer *tok, const mull_infer_opts *opts,
                      const mull_infer_callbacks *cb, mull_infer **out, mull_error *err);
void mull_infer_destroy(mull_infer *f);
/* Queues a request (the ids are copied). A prompt longer than the context, or a wrong count of placeholders, is an
 * error here and nothing is queued. */
int mull_infer_submit(mull_infer *f, const mull_request *r, mull_error *err);
/* The request ends with MULL_FINISH_CANCELLED in the next step. MULL_EMISSING when no request has this id. */
int mull_infer_cancel(mull_infer *f, uint64_t id);
/* Runs one step (some prefill, one decode round). Returns the number of unfinished requests, or negative on a
 * failure that ends the engine. */
int mull_infer_step(mull_infer *f, mull_error *err);
int mull_infer_pending(const mull_infer *f);
void mull_infer_get_stats(const mull_infer *f, mull_infer_stats *out);
/* The weights have changed: nothing computed with the old ones may be used again. MULL_EARG while requests are pending.
 * Vision features stay: the tower's weights do not change. */
int mull_infer_forget(mull_infer *f, mull_error *err);
/* The engine's vision features, for others that need the same media. */
struct mull_features *mull_infer_features(mull_infer *f);

#endif
