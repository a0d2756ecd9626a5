/* What the files of GRPO share. grpo.c: the loop; grpo_round.c: prompts and completions; grpo_score.c: rewards and
 * advantages; grpo_update.c: the passes of the trainer; grpo_weights.c: the policy as the engine sees it, and the
 * reference; grpo_store.c: samples on disk; grpo_ranks.c: what ranks decide together; rollout_intake.c: completions
 * that rollout jobs made. */
#ifndef MULL_ENGINE_TRAIN_GRPO_INTERNAL_H
#define MULL_ENGINE_TRAIN_GRPO_INTERNAL_H

#include "engine/infer/features.h"
#include "engine/infer/infer.h"
#include "engine/train/grpo.h"
#include "engine/train/trainer_internal.h"

typedef struct mull__completion {
    int32_t *ids;     /* with the end token when it came */
    float *logp;      /* [n] of the rollout, at the sampling temperature */
    int32_t n, total; /* total: with the padding that grpo_tokens: all counts, as long as the longest of the group */
    int32_t counted;  /* tokens that count in the loss: all, or none when masked */
    bool truncated;   /* at the limit, without an end */
    bool stale;       /* an older policy made it: its log-probs are no measure of this one's */
    char *text;
    size_t text_len;
    uint64_t seed;
    double accuracy, format, external, penalty;
    float reward, advantage;
    int64_t at; /* of its first row in the round's flat arrays old and ref */
} mull__completion;

typedef struct mull__group {
    const mull_sample *sample; /* a batch's */
    int64_t step;              /* of the loader */
    int place;                 /* in that step, over all ranks */
    int part;                  /* which of the step's batches, over all ranks: bnpo's local batch */
    int64_t version;           /* optimiser steps that the weights had seen which answered */
    mull__completion *c;       /* [G] */
    bool flat;                 /* no spread in its rewards */
} mull__group;

typedef struct mull__held {
    const float *patches;
    mull_feature *feature;
} mull__held;

/* One round. Groups of window w are [window[w], window[w + 1]). */
typedef struct mull__round {
    mull_batch *batches;
    size_t nbatches, batch_cap;
    mull__group *groups;
    size_t ngroups, group_cap;
    size_t *window; /* [windows + 1] */
    int windows;
    mull__held *held; /* sorted by patches */
    size_t nheld;
    float *old, *ref; /* flat over the rows of all completions; NULL: not needed */
    int64_t flat;     /* rows there */
    int64_t resampled, tokens, prompt_tokens, cached_tokens;
    double seconds, refresh_seconds; /* seconds: of answering; with rollout jobs: since the last round's answers */
    int64_t version;                 /* optimiser steps that this process's weights have seen */
    bool stale;                      /* older ones made some of the completions */
} mull__round;

/* The frozen copy of what is trained: pointers by parameter, into the policy's own memory where nothing is trained. */
typedef struct mull__reference {
    float **w;
    uint16_t **half;
    void *memory;
    size_t bytes;
    bool kept; /* it is there: here, or where the net computes */
} mull__reference;

/* Working memory for a matrix with its adapter. */
typedef struct mull__merged {
    float *data;
    int64_t cap;
} mull__merged;

struct mull__grpo {
    mull_trainer *t;
    const mull_tokenizer *tokenizer;
    mull_infer *engine;
    struct mull_features *features;     /* of media: the engine's */
    struct mull_features *own_features; /* those, without an engine */
    struct mull__intake *intake;        /* rollout jobs answer (rollout_intake.h); NULL: this process does */
    mull__round round;
    mull__reference ref; /* not kept: the policy is still the reference itself */
    bool kl;             /* a reference is wanted */
    bool stale;          /* the engine's weights are older than the trainer's */
    bool stopped;        /* by the hook, during rollouts */
    const mull_train_hooks *hooks;
    mull_error *err;
    mull__merged merged; /* working memory: a matrix with its adapter */
    double *entropy;     /* [loss rows] working memory */
    int64_t entropy_cap;
    float *logp, *klt; /* outputs by token of a pack */
    int64_t out_cap;
    bool failed;               /* a completion's memory, inside a callback */
    const mull_param *lent[3]; /* whole on this rank until the next weight is asked for (ZeRO) */
};

static inline int64_t mull__completion_rows(const mull_recipe *r, const mull__group *g, const mull__completion *c) {
    return r->grpo_tokens ? (int64_t)g->sample->n - 1 + c->total : c->n;
}

/* ---- weights (grpo_weights.c) */
/* A matrix w [out, in] and its adapter: w + alpha / rank b [out, rank] a [rank, in]. */
typedef struct mull__adapter {
    const void *w;
    mull_dtype type;
    int64_t out, in;
    const float *a, *b;
    int64_t rank;
    double alpha;
} mull__adapter;
/* The sum, in the working memory; NULL on no memory. The same bits wherever it is formed. */
float *mull__adapted(const mull__adapter *a, mull_pool *pool, mull__merged *m);
/* A mull_weight_source (model/adopt.h): a tensor as rollouts see it. ctx: the struct mull__grpo. */
const void *mull__grpo_weight(void *ctx, const char *name, mull_dtype *type);
/* The engine's weights become the trainer's; *seconds grows by the time it took. */
int mull__grpo_refresh(struct mull__grpo *g, double *seconds, mull_error *err);
/* Makes the reference from the model that the run began with, unless it is there or adapters make it needless. */
int mull__grpo_keep_reference(struct mull__grpo *g, mull_error *err);
/* Between the two, the net computes with the reference's values. */
void mull__grpo_swap_reference(struct mull__grpo *g, bool in);
void mull__reference_fini(mull__reference *r);

/* ---- a round */
/* Draws prompts and lets the engine answer. MULL_ECANCELLED: stopped. */
int mull__grpo_collect(struct mull__grpo *g, const mull_train_source *src, mull_error *err);
uint64_t mull__grpo_seed(const mull_recipe *r, int64_t step, int place, int sample); /* of a completion's draws */
void mull__grpo_done(void *ctx, const mull_result *r);                               /* the engine's callback */
void mull__round_fini(struct mull__grpo *g, const mull_train_source *src);
/* The engine answers the groups from first on. MULL_ECANCELLED: stopped. */
int mull__grpo_answer(struct mull__grpo *g, size_t first, mull_error *err);
/* What the completions of the groups from first on earn (accuracy, format, the command's score), then what that makes
 * of them (penalty, reward, advantage). */
int mull__grpo_reward(struct mull__grpo *g, size_t first, mull_error *err);
int mull__grpo_advantages(struct mull__grpo *g, size_t first, mull_error *err);
void mull__group_fini(mull__group *x, int64_t generations);

/* ---- several ranks (grpo_ranks.c): every rank makes the same calls; with one they decide alone */
/* How far the ranks have come: a failure of one (rc) is a failure of all, a stop of one (MULL_ECANCELLED) one of all.
 * *any (may be NULL): one of them has more. */
int mull__grpo_agree(struct mull__grpo *g, int rc, bool more, bool *any, mull_error *err);
/* The place of this rank's first prompt in a loader step. */
int mull__grpo_first_place(const struct mull__grpo *g);
/* Dynamic sampling: groups of [begin, first) without spread give way to those with spread of [first, ngroups); the rest
 * of the latter goes. */
int mull__grpo_refill(struct mull__grpo *g, size_t begin, size_t first, mull_error *err);

/* scale_rewards: batch: divides the advantages of groups [from, to) by the deviation of all their rewards. */
int mull__grpo_scale(struct mull__grpo *g, size_t from, size_t to, mull_error *err);
/* Log-probs of the weights before the round's first step, and of the reference. */
int mull__grpo_before(struct mull__grpo *g, mull_error *err);
/* Adds up the gradients of window w; fills f and the loss. */
int mull__grpo_window(struct mull__grpo *g, int w, bool first, mull_step *st, mull_grpo_figures *f, mull_error *err);
/* OUT/rollouts/step-N.jsonl.zst. */
int mull__grpo_store(struct mull__grpo *g, mull_error *err);

#endif
