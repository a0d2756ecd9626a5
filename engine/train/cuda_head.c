/* Gathered rows, the head with its cross-entropy, cosines: twin of net_head.c. Logits exist for a chunk of rows at a
 * time; where the slopes of the loss are known beforehand the host waits once, for the log-probabilities of all. */
#include "engine/train/cuda_net.h"

#include <math.h>
#include <string.h>

void mull__cuda_net_gather(void *dev, const int32_t *rows, int64_t count) {
    mull_cuda_net *d = dev;
    mull_cuda_batch *o = &d->here;
    int64_t h = d->n->c->hidden;
    d->ngathered = count;
    if (count > d->loss_cap) {
        mull_cuda_refuse(d->c, MULL_EINTERNAL, "gather", "report this", "%lld rows, room for %lld", (long long)count,
                         (long long)d->loss_cap);
        return;
    }
    memcpy(o->rows, rows, (size_t)count * sizeof *rows);
    int rc = mull_cuda_group(rows, count, &o->gather);
    if (rc) mull_cuda_refuse(d->c, rc, "gather", "", "out of memory");
    d->there.gather.n = o->gather.n;
    mull__cuda_batch_put(d, o->rows, (size_t)((char *)o->coef - (char *)o->rows));
    mull_cuda_embed(d->c, d->x, MULL_F32, d->there.rows, NULL, count, h, d->hx);
    mull_cuda_rmsnorm(d->c, d->hx, NULL, count, h, mull__cuda_wide(d, d->n->norm), d->n->c->rms_eps, d->h, MULL_F32);
    if (d->t != MULL_F32) mull_cuda_convert(d->c, d->h, count * h, d->ht, d->t);
    mull_cuda_zero(d->c, d->dh, (size_t)(count * h) * sizeof *d->dh);
}

/* The slopes of rows [at, at + n) to the device. */
static void send_slopes(mull_cuda_net *d, int64_t at, int64_t n, mull_net_slope slope, void *ctx, const double *logp) {
    float *coef = d->here.coef + at;
    for (int64_t i = 0; i < n; i++) coef[i] = (float)slope(ctx, at + i, logp ? logp[at + i] : 0);
    mull__cuda_batch_put(d, coef, (size_t)n * sizeof *coef);
}

static void products_back(mull_cuda_net *d, const void *dlogits, int64_t at, int64_t n) {
    const mull_param *head = d->n->head;
    int64_t h = d->n->c->hidden, v = d->n->c->vocab;
    float *g = mull__cuda_grad(d, head);
    mull_cuda_product p = {.m = n,
                           .n = h,
                           .k = v,
                           .type = d->t,
                           .a = dlogits,
                           .lda = v,
                           .b = mull__cuda_data(d, head),
                           .ldb = h,
                           .y = d->dh + at * h,
                           .ldy = h,
                           .y_type = MULL_F32,
                           .accumulate = true};
    mull_cuda_multiply(d->c, &p);
    if (!g) return;
    p = (mull_cuda_product){.m = v,
                            .n = h,
                            .k = n,
                            .type = d->t,
                            .a = dlogits,
                            .lda = v,
                            .a_t = true,
                            .b = mull__cuda_at(d, d->ht, at * h),
                            .ldb = h,
                            .y = g,
                            .ldy = h,
                            .y_type = MULL_F32,
                            .accumulate = true};
    mull_cuda_multiply(d->c, &p);
}

void mull__cuda_net_head(void *dev, const int32_t *targets, int64_t count, double temperature, mull_net_slope slope,
                         void *ctx, double *logp, double *entropy) {
    mull_cuda_net *d = dev;
    int64_t h = d->n->c->hidden, v = d->n->c->vocab;
    bool wait = slope && slope != mull_net_given;
    for (int64_t i = 0; i < count; i++) logp[i] = NAN; /* what a failure leaves */
    if (count == 0 || mull_cuda_failed(d->c)) return;
    memcpy(d->here.targets, targets, (size_t)count * sizeof *targets);
    mull__cuda_batch_put(d, d->here.targets, (size_t)count * sizeof *targets);
    if (slope && !wait) send_slopes(d, 0, count, slope, ctx, NULL);
    int64_t chunks = (count + d->chunk - 1) / d->chunk, rows = (count + chunks - 1) / chunks;
    for (int64_t r = 0; r < count && !mull_cuda_failed(d->c); r += rows) {
        int64_t n = count - r < rows ? count - r : rows;
        const int32_t *which = d->there.targets + r;
        mull_cuda_product p = {.m = n,
                               .n = v,
                               .k = h,
                               .type = d->t,
                               .a = mull__cuda_at(d, d->ht, r * h),
                               .lda = h,
                               .b = mull__cuda_data(d, d->n->head),
                               .ldb = h,
                               .b_t = true,
                               .y = d->logits,
                               .ldy = v,
                               .y_type = MULL_F32};
        mull_cuda_multiply(d->c, &p);
        mull_cuda_log_softmax(d->c, d->logits, n, v, which, temperature, d->top, d->sum, d->logp + r,
                              entropy ? d->entropy + r : NULL);
        if (!slope) continue;
        if (wait) {
            if (mull_cuda_get(d->c, logp + r, d->logp + r, (size_t)n * sizeof *logp, NULL)) return;
            send_slopes(d, r, n, slope, ctx, logp);
        }
        mull_cuda_log_softmax_backward(d->c, d->logits, n, v, which, temperature, d->top, d->sum, d->there.coef + r,
                                       d->dlogits, d->t);
        products_back(d, d->dlogits, r, n);
    }
    if (mull_cuda_get(d->c, logp, d->logp, (size_t)count * sizeof *logp, NULL)) return;
    if (entropy) mull_cuda_get(d->c, entropy, d->entropy, (size_t)count * sizeof *entropy, NULL);
}

void mull__cuda_net_cosines(void *dev, int64_t first, int64_t count, const float *const *targets, const double *scale,
                            double *cos) {
    mull_cuda_net *d = dev;
    int64_t h = d->n->c->hidden;
    for (int64_t i = 0; i < count; i++) {
        cos[i] = NAN;
        mull_cuda_put(d->c, d->targets + i * h, targets[i], (size_t)h * sizeof(float));
    }
    if (scale) {
        memcpy(d->here.scale, scale, (size_t)count * sizeof *scale);
        mull__cuda_batch_put(d, d->here.scale, (size_t)count * sizeof *scale);
    }
    mull_cuda_cosine(d->c, d->h + first * h, d->targets, count, h, scale ? d->there.scale : NULL, d->dh + first * h,
                     d->cosines);
    mull_cuda_get(d->c, cos, d->cosines, (size_t)count * sizeof *cos, NULL);
}
