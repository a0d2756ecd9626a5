/* Head and cross-entropy in one; see mull_net_head. For a chunk of rows: logits, their log-sum, and in their place the
 * gradient coef (onehot - softmax) / temperature, then the two products back. Nothing of size [rows, vocabulary] lives
 * longer than a chunk. */
#include "engine/ops/gemm.h"
#include "engine/ops/kernels.h"
#include "engine/train/net_internal.h"

#include <assert.h>
#include <math.h>

typedef struct chunk {
    const mull_kernels *kn;
    float *logits;
    int64_t vocab, rows, row0;
    const int32_t *targets;
    double temperature;
    mull_net_slope slope;
    void *ctx;
    double *logp, *entropy;
} chunk;

static void row_task(void *ctx, int part, int parts) {
    chunk *k = ctx;
    float mul = (float)(1 / k->temperature);
    for (int64_t r = k->rows * part / parts; r < k->rows * (part + 1) / parts; r++) {
        float *x = k->logits + r * k->vocab;
        int64_t i = k->row0 + r;
        float top = k->kn->row_max(x, k->vocab) * mul;
        double sum = k->kn->exp_sum(x, k->vocab, mul, top), lse = (double)top + log(sum);
        k->logp[i] = (double)x[k->targets[i]] * mul - lse;
        if (k->entropy) k->entropy[i] = log(sum) - k->kn->exp_dot(x, k->vocab, mul, top) / sum;
        if (!k->slope) continue;
        double coef = k->slope(k->ctx, i, k->logp[i]) / k->temperature;
        /* exp(x - top) / sum rather than exp(x - lse): lse would lose its last digits to float32. */
        k->kn->exp_scale(x, k->vocab, mul, top, (float)(-coef / sum));
        x[k->targets[i]] += (float)coef;
    }
}

double mull_net_given(void *ctx, int64_t i, double logp) {
    (void)logp;
    return ((const double *)ctx)[i];
}

/* cos(h, e) as torch has it, and dh += scale * d cos / dh. */
static double cosine(const float *h, const float *e, int64_t n, double scale, float *dh) {
    double he = 0, hh = 0, ee = 0, eps = 1e-8;
    for (int64_t i = 0; i < n; i++) {
        he += (double)h[i] * e[i];
        hh += (double)h[i] * h[i];
        ee += (double)e[i] * e[i];
    }
    double lh = fmax(sqrt(hh), eps), le = fmax(sqrt(ee), eps), c = he / (lh * le);
    for (int64_t i = 0; dh && i < n; i++)
        dh[i] += (float)(scale * ((double)e[i] / (lh * le) - (lh > eps ? c * (double)h[i] / (lh * lh) : 0)));
    return c;
}

void mull_net_cosines(mull_net *n, int64_t first, int64_t count, const float *const *targets, const double *scale,
                      double *cos) {
    if (n->backend) {
        n->backend->cosines(n->dev, first, count, targets, scale, cos);
        return;
    }
    int64_t h = n->c->hidden;
    assert(first + count <= n->ngathered);
    for (int64_t i = 0; i < count; i++)
        cos[i] =
            cosine(n->h + (first + i) * h, targets[i], h, scale ? scale[i] : 0, scale ? n->dh + (first + i) * h : NULL);
}

void mull_net_entropy(mull_net *n, double *out) {
    n->entropy = out;
}

void mull_net_head(mull_net *n, const int32_t *targets, int64_t count, double temperature, mull_net_slope slope,
                   void *ctx, double *logp) {
    if (n->backend) {
        n->backend->head(n->dev, targets, count, temperature, slope, ctx, logp, n->entropy);
        return;
    }
    assert(count <= n->ngathered);
    int64_t h = n->c->hidden, v = n->c->vocab;
    mull_dtype type;
    const void *w = mull__data(n->head, &type);
    /* Chunks of even height. */
    int64_t chunks = n->chunk ? (count + n->chunk - 1) / n->chunk : 0,
            rows = chunks ? (count + chunks - 1) / chunks : 0;
    for (int64_t r = 0; r < count; r += rows) {
        int64_t k = count - r < rows ? count - r : rows;
        chunk c = {mull_kernels_get(), n->logits, v, k, r, targets, temperature, slope, ctx, logp, n->entropy};
        mull_linear(n->pool, n->h + r * h, k, h, w, type, h, v, NULL, n->logits, v, false);
        mull_pool_run(k * v < 16384 ? NULL : n->pool, row_task, &c, (int)(k < 64 ? k : 64));
        if (!slope) continue;
        mull_linear_dx(n->pool, n->logits, k, v, w, type, h, v, n->dh + r * h, h, true);
        if (n->head->g) mull_linear_dw(n->pool, n->logits, k, v, n->h + r * h, h, h, v, n->head->g);
    }
}
