/* The losses, on a net that has run forward over the pack. Each selects the rows that it needs, gathers them, and
 * leaves its gradient with respect to them in the net (mull_net_backward goes on from there).
 *
 * Losses and gradients are sums over samples, weighted; the caller divides both by the weight of everything that is to
 * count as one step. That way accumulation, packing and ranks all give the same mean. */
#ifndef MULL_ENGINE_TRAIN_LOSS_H
#define MULL_ENGINE_TRAIN_LOSS_H

#include "engine/train/pack.h"

/* Adds up over batches. Zero-initialise. */
typedef struct mull_loss_sum {
    double loss, weight;  /* loss / weight is the mean */
    double ce, ce_weight; /* cross-entropy alone, same weights */
    double cos;           /* sum of the cosines of all <|latent_image|> positions */
    int64_t cosines;
    int64_t tokens, samples; /* counted tokens; samples with any */
} mull_loss_sum;

/* Working memory, grows and stays. Zero-initialise. */
typedef struct mull_loss_work {
    int32_t *rows, *targets;
    double *coef, *logp;
    const float **features; /* targets of cosines */
    int64_t cap;
} mull_loss_work;
void mull_loss_work_fini(mull_loss_work *w);

typedef struct mull_ce_opts {
    mull_loss_norm norm; /* SAMPLE: every sample weighs 1, TOKEN: as much as it has counted tokens */
    bool stage1;         /* samples with reasoning images: CE/2 + (1 - mean cos)/2 */
    bool backward;       /* false: only the loss */
} mull_ce_opts;

/* Rows of the pack that take part in the loss: what mull_net_reserve needs. */
int64_t mull_loss_rows(const mull_pack *p);

/* Next-token cross-entropy over labels that are not MULL_IGNORE, mean per sample. nll (or NULL) [T - nseq]: -log p of
 * the label of every next token, 0 where ignored. cos (or NULL) [nlatent]. */
int mull_loss_ce(mull_net *n, const mull_pack *p, const mull_ce_opts *o, mull_loss_work *w, mull_loss_sum *sum,
                 float *nll, float *cos, mull_error *err);

/* GRPO on the completions of one batch (Shao et al. 2024; the normalisations as TRL has them). */
typedef struct mull_grpo_opts {
    mull_grpo_loss type;
    double beta, epsilon, epsilon_high; /* epsilon_high 0: epsilon */
    double temperature;
    int64_t max_completion_length; /* dr_grpo's divisor */
    int64_t window_tokens;         /* dapo: counted tokens of the whole accumulation window; 0: of this batch */
    bool reinforce;                /* -logp * advantage, no ratio, no KL */
    double importance_cap;         /* bound of the weights that behaviour gives; 0: none */
    bool backward;
} mull_grpo_opts;

typedef struct mull_grpo_batch {
    /* Completions that are not simply the rest of a sequence each (prompt is not read then), or count 0: completion s
     * is the rows [first[s], first[s] + length[s]), its first token is predicted by row before[s]. Below, [nseq] is
     * [count]. */
    int count;
    const int32_t *first, *length, *before;
    const int32_t *prompt;  /* [nseq]: tokens before the completion */
    const float *advantage; /* [nseq] */
    const float *ref, *old; /* flat over completions; NULL: no KL; the current ones */
    const float *behaviour; /* flat: log-probs of the policy that sampled, NAN where it is the one of old; or NULL */
    const int32_t *counted; /* [nseq]: tokens of the completion that count: up to and including the first end token */
    const double *share;    /* [nseq]: what each counted token weighs, instead of what the loss type makes of this batch
                               alone: the caller knows the whole step. NULL: the latter */
} mull_grpo_batch;

/* What a token counts for that another policy sampled: min(cap, exp(old - behaviour)). */
double mull_grpo_importance(double old, double behaviour, double cap);

/* sum->loss grows by the batch's loss under its own normalisation, sum->weight by 1 (dapo with window_tokens: by 0, its
 * loss is already a share of the window's; with share: by 0). logp, kl (or NULL): flat over completions, every token.
 */
int mull_loss_grpo(mull_net *n, const mull_pack *p, const mull_grpo_batch *g, const mull_grpo_opts *o,
                   mull_loss_work *w, mull_loss_sum *sum, float *logp, float *kl, mull_error *err);

#endif
