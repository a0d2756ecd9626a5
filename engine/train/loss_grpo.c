/* GRPO's losses; see loss.h. Per token, with r = exp(lp - old) and d = clamp(ref - lp, +-10):
 *   -min(r A, clip(r) A) + beta (exp(d) - d - 1)
 * What a type does is the divisor of a token's share, known before any log-probability is.
 *
 * Tokens that an older policy sampled (behaviour b) get the decoupled objective (Hilton et al. 2022; AReaL, Fu et al.
 * 2025): the first term is weighted by min(cap, exp(old - b)), a constant, so that the clip is about how far this round
 * moves and not about how far the policy had moved before it. With b as old, tokens beyond the clip would stop counting
 * before they were ever trained on. */
#include "engine/train/loss_internal.h"

#include <math.h>

typedef struct tokens {
    const mull_grpo_opts *o;
    const float *ref, *old, *behaviour; /* by token of the batch, or NULL */
    const double *share;                /* by token: 0 where it does not count */
    const float *advantage;             /* by sequence */
    const int32_t *seq;                 /* by token */

} tokens;

double mull_grpo_importance(double old, double behaviour, double cap) {
    double w = exp(old - behaviour);
    return cap > 0 && w > cap ? cap : w;
}

/* The loss of token i and its slope in lp. */
static double token(const tokens *t, int64_t i, double lp, double *kl, double *loss) {
    const mull_grpo_opts *o = t->o;
    double a = t->advantage[t->seq[i]], slope;
    *kl = 0;
    if (o->reinforce) {
        *loss = -lp * a;
        return -a;
    }
    double ratio = t->old ? exp(lp - (double)t->old[i]) : 1, high = o->epsilon_high > 0 ? o->epsilon_high : o->epsilon;
    double clipped = fmin(fmax(ratio, 1 - o->epsilon), 1 + high);
    if (ratio * a <= clipped * a) {
        *loss = -ratio * a;
        slope = -ratio * a;
    } else {
        *loss = -clipped * a; /* flat: the clip is active */
        slope = 0;
    }
    if (t->behaviour && !isnan(t->behaviour[i])) {
        double w = mull_grpo_importance(t->old ? (double)t->old[i] : lp, (double)t->behaviour[i], o->importance_cap);
        *loss *= w;
        slope *= w;
    }
    if (t->ref) {
        double d = (double)t->ref[i] - lp, c = fmin(fmax(d, -10), 10);
        *kl = exp(c) - c - 1;
        if (o->beta != 0) {
            *loss += o->beta * *kl;
            if (d == c) slope += o->beta * (1 - exp(c));
        }
    }
    return slope;
}

static double slope_of(void *ctx, int64_t i, double logp) {
    const tokens *t = ctx;
    double kl, loss, slope = token(t, i, logp, &kl, &loss);
    return slope * t->share[i];
}

/* What a counted token of sequence s counts for. */
static double share_of(const mull_grpo_opts *o, const mull_grpo_batch *g, int nseq, int s, int64_t total) {
    switch (o->type) {
    case MULL_LOSS_GRPO:
        return 1.0 / ((double)(g->counted[s] > 1 ? g->counted[s] : 1) * nseq);
    case MULL_LOSS_DR_GRPO:
        return 1.0 / ((double)nseq * (double)o->max_completion_length);
    case MULL_LOSS_DAPO:
        if (o->window_tokens > 0) return 1.0 / (double)o->window_tokens;
        break;
    default:
        break;
    }
    return 1.0 / (double)(total > 1 ? total : 1);
}

typedef struct span {
    int32_t first, length, before;
} span;

static span span_of(const mull_pack *p, const mull_grpo_batch *g, int s) {
    if (g->count) return (span){g->first[s], g->length[s], g->before[s]};
    int32_t first = p->net.cu[s] + g->prompt[s];
    return (span){first, p->net.cu[s + 1] - first, first - 1};
}

int mull_loss_grpo(mull_net *n, const mull_pack *p, const mull_grpo_batch *g, const mull_grpo_opts *o,
                   mull_loss_work *w, mull_loss_sum *sum, float *logp, float *kl, mull_error *err) {
    int nseq = g->count ? g->count : p->net.nseq;
    int64_t all = 0, total = 0, i = 0;
    for (int s = 0; s < nseq; s++) {
        all += span_of(p, g, s).length;
        total += g->counted[s];
    }
    /* rows: [all] rows, then [all] sequences; coef: [all] shares, then room for nothing else */
    int rc = mull__loss_reserve(w, 2 * all + 1, err);
    if (rc) return rc;
    int32_t *seq = w->rows + all;
    for (int s = 0; s < nseq; s++) {
        double share = g->share ? g->share[s] : share_of(o, g, nseq, s, total);
        span c = span_of(p, g, s);
        for (int32_t t = 0; t < c.length; t++, i++) {
            w->rows[i] = t ? c.first + t - 1 : c.before;
            w->targets[i] = p->net.ids[c.first + t];
            seq[i] = s;
            w->coef[i] = t < g->counted[s] ? share : 0;
        }
    }
    tokens t = {.o = o,
                .ref = g->ref,
                .old = g->old,
                .behaviour = g->behaviour,
                .share = w->coef,
                .advantage = g->advantage,
                .seq = seq};
    mull_net_gather(n, w->rows, all);
    mull_net_head(n, w->targets, all, o->temperature, o->backward ? slope_of : NULL, &t, w->logp);
    for (i = 0; i < all; i++) {
        double k, loss;
        token(&t, i, w->logp[i], &k, &loss);
        if (w->coef[i] != 0) sum->loss += loss * w->coef[i];
        if (logp) logp[i] = (float)w->logp[i];
        if (kl) kl[i] = (float)k;
    }
    sum->weight += g->share || (o->type == MULL_LOSS_DAPO && o->window_tokens > 0) ? 0 : 1;
    sum->tokens += total;
    sum->samples += nseq;
    return MULL_OK;
}
