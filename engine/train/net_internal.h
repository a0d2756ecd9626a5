/* What the files of the net share. */
#ifndef MULL_ENGINE_TRAIN_NET_INTERNAL_H
#define MULL_ENGINE_TRAIN_NET_INTERNAL_H

#include "engine/model/rope.h"
#include "engine/train/backend.h"

/* A matrix of up to three tensors that lie together (q, k, v), [out, in], with their biases and adapters. */
typedef struct mull__linear {
    int64_t in, out;
    int parts;
    mull_param *w[3], *bias[3]; /* bias NULL: none */
    mull_param *a[3], *b[3];    /* LoRA: [rank, in], [out of the part, rank]; NULL: none */
} mull__linear;

typedef struct mull__layer {
    mull_param *input_norm, *post_norm;
    mull__linear qkv, o, gate_up, down;
    /* Kept for the backward, or NULL: then it is computed again into the net's own buffers. */
    float *x_in, *qkv_out, *att, *lse, *x_mid, *gu;
} mull__layer;

enum { MULL__SLICE = 1024 }; /* rows of the MLP at a time when its inner activations are not kept */

struct mull_net {
    const mull_config *c;
    mull_params *params;
    mull_pool *pool;
    mull_net_opts opts;
    mull_mrope rope;
    mull_param *embed, *norm, *head; /* head is embed when tied */
    mull__layer *layers;
    void *dev; /* the backend's; then only the fields above and first, rank, entropy and plain are used */
    const mull_train_backend *backend;
    int first; /* layers before this one and the inputs need no gradient */
    int64_t rank;

    int64_t cap, loss_cap, chunk; /* rows, rows of a loss, rows of logits at a time */
    size_t bytes;
    float *arena;
    float *x;                                /* [T, H] the residual stream as it is now */
    float *norm_out;                         /* [T, H] */
    float *qkv_out, *att, *lse, *x_mid, *gu; /* shared, where a layer keeps none */
    float *act;                              /* [slice, F] */
    float *cos, *sin, *nsin;                 /* [T, hd/2]; nsin = -sin turns back */
    float *dx, *dnorm, *dqkv, *datt, *kv, *dact, *partial;
    float *lora_t, *lora_u;      /* [T, rank] */
    float *hx, *h, *dh, *logits; /* [L, H] x 3, [chunk, V] */
    int32_t *gathered;           /* [L] */
    int64_t ngathered;
    double *entropy; /* [L] of the next heads, or NULL */
    bool plain;      /* without adapters */
};

/* What net.h says of parts. */
void mull__net_enter(const mull_net *n, int part);
void mull__net_leave(const mull_net *n, int part, bool backward);

/* y = x w^T + bias + adapters (accumulate: y += ..). */
void mull__linear_forward(mull_net *n, const mull__linear *l, const float *x, int64_t rows, float *y, int64_t ldy,
                          bool accumulate);
/* dx = dy w + adapters' part, and the gradients of whatever is trained. dx NULL: not wanted. */
void mull__linear_backward(mull_net *n, const mull__linear *l, const float *x, const float *dy, int64_t ldy,
                           int64_t rows, float *dx);
/* What products read: bf16 where there is a bf16 copy. */
const void *mull__data(const mull_param *p, mull_dtype *type);

/* The first half of a layer; what its backward needs goes into what the layer keeps, else into the net's own buffers.
 * x_mid NULL: only that. */
void mull__attention_half(mull_net *n, const mull_net_batch *b, const mull__layer *l, const float *x_in, float *x_mid);

#endif
