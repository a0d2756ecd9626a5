/* Linear layers of the net on the device, twin of net_linear.c: fused tensors, frozen parts, LoRA. */
#include "engine/train/cuda_net.h"

static int64_t rows_of(const mull_param *p) {
    return p->shape[0];
}

/* y (+)= a b^T (b a weight [out, in]) */
static void apply(mull_cuda_net *d, const void *x, int64_t rows, int64_t in, const mull_param *w, int64_t out,
                  const void *bias, void *y, mull_dtype y_type, int64_t ldy, bool accumulate) {
    mull_cuda_multiply(d->c, &(mull_cuda_product){.m = rows,
                                                  .n = out,
                                                  .k = in,
                                                  .type = d->t,
                                                  .a = x,
                                                  .lda = in,
                                                  .b = mull__cuda_data(d, w),
                                                  .ldb = in,
                                                  .b_t = true,
                                                  .bias = bias,
                                                  .y = y,
                                                  .y_type = y_type,
                                                  .ldy = ldy,
                                                  .accumulate = accumulate});
}

/* dx (+)= dy w */
static void apply_back(mull_cuda_net *d, const void *dy, int64_t rows, int64_t ldy, const mull_param *w, int64_t in,
                       int64_t out, void *dx, mull_dtype type, bool accumulate) {
    mull_cuda_multiply(d->c, &(mull_cuda_product){.m = rows,
                                                  .n = in,
                                                  .k = out,
                                                  .type = d->t,
                                                  .a = dy,
                                                  .lda = ldy,
                                                  .b = mull__cuda_data(d, w),
                                                  .ldb = in,
                                                  .y = dx,
                                                  .y_type = type,
                                                  .ldy = in,
                                                  .accumulate = accumulate});
}

/* dw += dy^T x */
static void weight_gradient(mull_cuda_net *d, const void *dy, int64_t rows, int64_t ldy, const void *x, int64_t in,
                            int64_t out, float *dw) {
    mull_cuda_multiply(d->c, &(mull_cuda_product){.m = out,
                                                  .n = in,
                                                  .k = rows,
                                                  .type = d->t,
                                                  .a = dy,
                                                  .lda = ldy,
                                                  .a_t = true,
                                                  .b = x,
                                                  .ldb = in,
                                                  .y = dw,
                                                  .y_type = MULL_F32,
                                                  .ldy = in,
                                                  .accumulate = true});
}

static void lora_down(mull_cuda_net *d, const mull_param *a, const void *x, int64_t rows, int64_t in) {
    int64_t rank = d->n->rank;
    apply(d, x, rows, in, a, rank, NULL, d->lora_t, d->t, rank, false);
    mull_cuda_scale(d->c, d->lora_t, rows * rank, d->n->opts.lora_scale, d->t);
}

void mull__cuda_linear_forward(mull_cuda_net *d, const mull__linear *l, const void *x, int64_t rows, void *y,
                               mull_dtype y_type, int64_t ldy, bool accumulate) {
    const void *bias = !l->bias[0]          ? NULL
                       : y_type == MULL_F32 ? (const void *)mull__cuda_wide(d, l->bias[0])
                                            : mull__cuda_data(d, l->bias[0]);
    size_t size = mull_dtype_size(y_type);
    apply(d, x, rows, l->in, l->w[0], l->out, bias, y, y_type, ldy, accumulate);
    char *at = y;
    for (int i = 0; i < l->parts; at += (size_t)rows_of(l->w[i++]) * size) {
        if (!l->a[i] || d->n->plain) continue;
        lora_down(d, l->a[i], x, rows, l->in);
        apply(d, d->lora_t, rows, d->n->rank, l->b[i], rows_of(l->w[i]), NULL, at, y_type, ldy, true);
    }
}

/* Parts that are neighbours in the gradients' arena too take one product. */
static void weights_backward(mull_cuda_net *d, const mull__linear *l, const void *x, const void *dy, int64_t ldy,
                             int64_t rows) {
    int64_t at = 0;
    for (int i = 0; i < l->parts;) {
        int64_t out = rows_of(l->w[i]);
        int e = i + 1;
        float *g = mull__cuda_grad(d, l->w[i]);
        for (; g && e < l->parts && l->w[e]->at == l->w[e - 1]->at + l->w[e - 1]->count; e++) out += rows_of(l->w[e]);
        if (g) weight_gradient(d, mull__cuda_at(d, dy, at), rows, ldy, x, l->in, out, g);
        at += out;
        i = e;
    }
    at = 0;
    for (int i = 0; i < l->parts; at += rows_of(l->w[i++])) {
        float *g = l->bias[i] ? mull__cuda_grad(d, l->bias[i]) : NULL;
        if (g) mull_cuda_column_sum(d->c, mull__cuda_at(d, dy, at), d->t, rows, ldy, rows_of(l->w[i]), g, d->sums);
    }
}

void mull__cuda_linear_backward(mull_cuda_net *d, const mull__linear *l, const void *x, const void *dy, int64_t ldy,
                                int64_t rows, void *dx, mull_dtype dx_type) {
    int64_t rank = d->n->rank, at = 0;
    weights_backward(d, l, x, dy, ldy, rows);
    if (!dx) return; /* nothing before it learns, an adapter neither */
    apply_back(d, dy, rows, ldy, l->w[0], l->in, l->out, dx, dx_type, false);
    for (int i = 0; i < l->parts; at += rows_of(l->w[i++])) {
        if (!l->a[i]) continue;
        int64_t out = rows_of(l->w[i]);
        const void *part = mull__cuda_at(d, dy, at);
        float *ga = mull__cuda_grad(d, l->a[i]), *gb = mull__cuda_grad(d, l->b[i]);
        apply_back(d, part, rows, ldy, l->b[i], rank, out, d->lora_u, d->t, false);
        mull_cuda_scale(d->c, d->lora_u, rows * rank, d->n->opts.lora_scale, d->t);
        if (gb) {
            lora_down(d, l->a[i], x, rows, l->in);
            weight_gradient(d, part, rows, ldy, d->lora_t, rank, out, gb);
        }
        if (ga) weight_gradient(d, d->lora_u, rows, rank, x, l->in, rank, ga);
        apply_back(d, d->lora_u, rows, rank, l->a[i], l->in, rank, dx, dx_type, true);
    }
}

void mull__cuda_linear_merge(mull_cuda_net *d, const mull__linear *l, void *merged, void *scaled) {
    int64_t at = 0, rank = d->n->rank;
    size_t size = mull_dtype_size(d->t);
    mull_cuda_move(d->c, merged, mull__cuda_data(d, l->w[0]), (size_t)(l->out * l->in) * size);
    for (int i = 0; i < l->parts; at += rows_of(l->w[i++])) {
        if (!l->a[i]) continue;
        int64_t out = rows_of(l->w[i]);
        mull_cuda_move(d->c, scaled, mull__cuda_data(d, l->b[i]), (size_t)(out * rank) * size);
        mull_cuda_scale(d->c, scaled, out * rank, d->n->opts.lora_scale, d->t);
        apply_back(d, scaled, out, rank, l->a[i], l->in, rank, mull__cuda_at(d, merged, at * l->in), d->t, true);
    }
}
