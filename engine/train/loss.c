/* Cross-entropy and Stage 1; see loss.h and the method, section 5. */
#include "engine/train/loss.h"

#include "engine/train/loss_internal.h"

#include <stdlib.h>

void mull_loss_work_fini(mull_loss_work *w) {
    free(w->rows);
    free(w->targets);
    free(w->coef);
    free(w->logp);
    free(w->features);
    *w = (mull_loss_work){0};
}

int mull__loss_reserve(mull_loss_work *w, int64_t n, mull_error *err) {
    if (n <= w->cap) return MULL_OK;
    int32_t *rows = realloc(w->rows, (size_t)n * sizeof *rows);
    if (rows) w->rows = rows;
    int32_t *targets = realloc(w->targets, (size_t)n * sizeof *targets);
    if (targets) w->targets = targets;
    double *coef = realloc(w->coef, (size_t)n * sizeof *coef);
    if (coef) w->coef = coef;
    double *logp = realloc(w->logp, (size_t)n * sizeof *logp);
    if (logp) w->logp = logp;
    const float **features = realloc(w->features, (size_t)n * sizeof *features);
    if (features) w->features = features;
    if (!rows || !targets || !coef || !logp || !features)
        return mull_fail(err, MULL_ENOMEM, "cannot compute the loss", "", NULL, "out of memory");
    w->cap = n;
    return MULL_OK;
}

int64_t mull_loss_rows(const mull_pack *p) {
    int64_t n = p->nlatent;
    for (int s = 0; s < p->net.nseq; s++)
        for (int32_t t = p->net.cu[s] + 1; p->labels && t < p->net.cu[s + 1]; t++) n += p->labels[t] != MULL_IGNORE;
    return n;
}

int mull_loss_ce(mull_net *n, const mull_pack *p, const mull_ce_opts *o, mull_loss_work *w, mull_loss_sum *sum,
                 float *nll, float *cos, mull_error *err) {
    const int32_t *cu = p->net.cu;
    int64_t need = mull_loss_rows(p), count = 0;
    int rc = mull__loss_reserve(w, need + 1, err);
    if (rc) return rc;
    for (int s = 0; s < p->net.nseq; s++) {
        int64_t first = count, cosines = p->latent_cu[s + 1] - p->latent_cu[s];
        for (int32_t t = cu[s]; t + 1 < cu[s + 1]; t++) {
            if (p->labels[t + 1] == MULL_IGNORE) continue;
            w->rows[count] = t;
            w->targets[count++] = p->labels[t + 1];
        }
        int64_t tokens = count - first;
        if (!tokens) continue;
        double weight = o->norm == MULL_NORM_TOKEN ? (double)tokens : 1;
        double share = o->stage1 && cosines ? 0.5 : 1;
        for (int64_t i = first; i < count; i++) w->coef[i] = -share * weight / (double)tokens;
    }
    /* Behind the rows of the cross-entropy those of the cosines, in all three arrays. */
    int64_t cosines = o->stage1 ? p->nlatent : 0;
    double *scale = w->coef + count, *value = w->logp + count;
    for (int64_t i = 0; i < cosines; i++) {
        w->rows[count + i] = p->latent[i] - 1;
        w->features[i] = p->features[p->latent[i]];
    }
    for (int s = 0; s < p->net.nseq && cosines; s++) {
        int64_t tokens = 0, n_cos = p->latent_cu[s + 1] - p->latent_cu[s];
        for (int32_t t = cu[s]; t + 1 < cu[s + 1]; t++) tokens += p->labels[t + 1] != MULL_IGNORE;
        double weight = o->norm == MULL_NORM_TOKEN ? (double)tokens : 1;
        for (int64_t i = p->latent_cu[s]; i < p->latent_cu[s + 1]; i++)
            scale[i] = tokens ? -0.5 * weight / (double)n_cos : 0; /* a sample without tokens does not count */
    }
    mull_net_gather(n, w->rows, count + cosines);
    mull_net_head(n, w->targets, count, 1, o->backward ? mull_net_given : NULL, w->coef, w->logp);
    if (cosines) mull_net_cosines(n, count, cosines, w->features, o->backward ? scale : NULL, value);

    int64_t at = 0, pos = 0;
    for (int s = 0; s < p->net.nseq; s++) {
        double ce = 0, total = 0;
        int64_t tokens = 0, n_cos = o->stage1 ? p->latent_cu[s + 1] - p->latent_cu[s] : 0;
        for (int32_t t = cu[s]; t + 1 < cu[s + 1]; t++, pos++) {
            bool counts = p->labels[t + 1] != MULL_IGNORE;
            if (nll) nll[pos] = counts ? (float)-w->logp[at] : 0;
            if (counts) ce -= w->logp[at++], tokens++;
        }
        if (!tokens) continue;
        double weight = o->norm == MULL_NORM_TOKEN ? (double)tokens : 1;
        for (int64_t i = p->latent_cu[s]; i < p->latent_cu[s] + n_cos; i++) {
            if (cos) cos[i] = (float)value[i];
            total += value[i];
        }
        ce /= (double)tokens;
        sum->loss += weight * (n_cos ? 0.5 * ce + 0.5 * (1 - total / (double)n_cos) : ce);
        sum->weight += weight;
        sum->ce += weight * ce;
        sum->ce_weight += weight;
        sum->cos += total;
        sum->cosines += n_cos;
        sum->tokens += tokens;
        sum->samples++;
    }
    return MULL_OK;
}
