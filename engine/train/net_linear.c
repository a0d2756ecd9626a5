/* Linear layers of the net: fused tensors, frozen parts, LoRA (Hu et al. 2021: y += scale (x A^T) B^T). */
#include "engine/ops/backward.h"
#include "engine/ops/gemm.h"
#include "engine/ops/kernels.h"
#include "engine/train/net_internal.h"

void mull_net_adapters(mull_net *n, bool on) {
    n->plain = !on;
}

const void *mull__data(const mull_param *p, mull_dtype *type) {
    *type = p->half ? MULL_BF16 : MULL_F32;
    return p->half ? (const void *)p->half : p->w;
}

static int64_t rows_of(const mull_param *p) {
    return p->shape[0];
}

/* t [rows, rank] = scale x a^T: needed forward, and again for the gradient of b. */
static void lora_down(mull_net *n, const mull_param *a, const float *x, int64_t rows, int64_t in, float *t) {
    mull_dtype type;
    const void *data = mull__data(a, &type);
    mull_linear(n->pool, x, rows, in, data, type, in, n->rank, NULL, t, n->rank, false);
    mull_kernels_get()->scale_row(t, rows * n->rank, n->opts.lora_scale);
}

void mull__linear_forward(mull_net *n, const mull__linear *l, const float *x, int64_t rows, float *y, int64_t ldy,
                          bool accumulate) {
    mull_dtype type;
    const void *w = mull__data(l->w[0], &type);
    mull_linear(n->pool, x, rows, l->in, w, type, l->in, l->out, l->bias[0] ? l->bias[0]->w : NULL, y, ldy, accumulate);
    int64_t at = 0;
    for (int i = 0; i < l->parts; at += rows_of(l->w[i++])) {
        if (!l->a[i] || n->plain) continue;
        lora_down(n, l->a[i], x, rows, l->in, n->lora_t);
        const void *b = mull__data(l->b[i], &type);
        mull_linear(n->pool, n->lora_t, rows, n->rank, b, type, n->rank, rows_of(l->w[i]), NULL, y + at, ldy, true);
    }
}

/* Gradients of the weights: parts that are neighbours in the gradients' arena too take one product. */
static void weights_backward(mull_net *n, const mull__linear *l, const float *x, const float *dy, int64_t ldy,
                             int64_t rows) {
    int64_t at = 0;
    for (int i = 0; i < l->parts;) {
        int64_t out = rows_of(l->w[i]);
        int e = i + 1;
        if (l->w[i]->g)
            for (; e < l->parts && l->w[e]->g == l->w[e - 1]->g + l->w[e - 1]->count; e++) out += rows_of(l->w[e]);
        if (l->w[i]->g) mull_linear_dw(n->pool, dy + at, rows, ldy, x, l->in, l->in, out, l->w[i]->g);
        at += out;
        i = e;
    }
    at = 0;
    for (int i = 0; i < l->parts; at += rows_of(l->w[i++]))
        if (l->bias[i] && l->bias[i]->g)
            mull_bias_backward(n->pool, dy + at, rows, ldy, rows_of(l->w[i]), l->bias[i]->g);
}

void mull__linear_backward(mull_net *n, const mull__linear *l, const float *x, const float *dy, int64_t ldy,
                           int64_t rows, float *dx) {
    mull_dtype type;
    const void *w = mull__data(l->w[0], &type);
    weights_backward(n, l, x, dy, ldy, rows);
    if (dx) mull_linear_dx(n->pool, dy, rows, ldy, w, type, l->in, l->out, dx, l->in, false);
    int64_t at = 0;
    for (int i = 0; i < l->parts; at += rows_of(l->w[i++])) {
        if (!l->a[i]) continue;
        int64_t out = rows_of(l->w[i]);
        const void *b = mull__data(l->b[i], &type);
        mull_linear_dx(n->pool, dy + at, rows, ldy, b, type, n->rank, out, n->lora_u, n->rank, false);
        mull_kernels_get()->scale_row(n->lora_u, rows * n->rank, n->opts.lora_scale);
        if (l->b[i]->g) {
            lora_down(n, l->a[i], x, rows, l->in, n->lora_t);
            mull_linear_dw(n->pool, dy + at, rows, ldy, n->lora_t, n->rank, n->rank, out, l->b[i]->g);
        }
        if (l->a[i]->g) mull_linear_dw(n->pool, n->lora_u, rows, n->rank, x, l->in, l->in, n->rank, l->a[i]->g);
        const void *a = mull__data(l->a[i], &type);
        if (dx) mull_linear_dx(n->pool, n->lora_u, rows, n->rank, a, type, l->in, n->rank, dx, l->in, true);
    }
}
