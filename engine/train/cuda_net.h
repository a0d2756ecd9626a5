/* Inside the CUDA training backend: a net's values and activations on the device. Types: the residual stream, its
 * gradient, masters, moments and gradients of weights are float32; operands of products are T (float32 for checks, else
 * bf16: weights then are rounded copies of the masters, and activations are rounded where the CPU's are not). */
#ifndef MULL_ENGINE_TRAIN_CUDA_NET_H
#define MULL_ENGINE_TRAIN_CUDA_NET_H

#include "engine/core/cuda_arena.h"
#include "engine/ops/cuda_train.h"
#include "engine/train/net_internal.h"

typedef struct mull_cuda_kept { /* of a layer, as mull__layer keeps it */
    float *x_in, *lse, *x_mid;
    void *qkv, *att, *gu;
} mull_cuda_kept;

/* A batch's description: one block, laid out alike on the host and on the device. */
typedef struct mull_cuda_batch {
    const float **features; /* [rows]: into features of the net, NULL: the embedding */
    int32_t *ids, *pos;     /* [rows], [3, rows] */
    mull_cuda_seq *seqs;
    mull_cuda_work *work, *keys;
    mull_cuda_groups embed;  /* rows by their id */
    int32_t *rows, *targets; /* [loss rows] of the gathered rows */
    mull_cuda_groups gather; /* gathered rows by their row */
    float *coef;             /* [loss rows] */
    double *scale;           /* [loss rows] of cosines */
} mull_cuda_batch;

typedef struct mull_cuda_net {
    mull_net *n;
    mull_cuda *c;
    mull_dtype t;
    /* values, as the arenas of mull_params */
    float *w, *g, *m, *v; /* [count], [trained] x 3 */
    uint16_t *half;       /* [count], NULL with float32 */
    mull_cuda_piece *pieces;
    double *partial;
    mull_cuda_adamw_state *state;
    int64_t npieces, applied; /* applied: what state has */
    float *inv_freq;
    uint8_t *axis;
    void *values; /* the allocation of all these */
    size_t value_bytes;
    /* rollouts and their reference (cuda_rollout.c) */
    void *merged; /* matrices with their adapters, NULL without */
    void *reference;
    int64_t *ref_at, *ref_wide_at; /* [params]: index into the reference's values, -1: the policy's are used */
    float *ref_w;                  /* float32: all copied; bf16: those of one dimension */
    uint16_t *ref_half;
    size_t rollout_bytes;
    bool on_reference;
    void *tower; /* working memory of the trained vision tower (cuda_tower.c) */
    size_t tower_bytes;
    /* activations, one arena */
    void *arena;
    size_t arena_bytes;
    int64_t cap, loss_cap, chunk;
    mull_cuda_kept *layers, own; /* own: shared, where a layer keeps none */
    float *x, *features, *cos, *sin, *dx, *dnorm, *delta, *sums;
    void *norm, *act, *dxt, *dqkv, *datt, *dact, *lora_t, *lora_u; /* T */
    float *hx, *h, *dh, *targets, *logits, *top, *sum;
    void *ht, *dlogits;
    double *logp, *entropy, *cosines;
    /* descriptions */
    char *host; /* [batch_bytes] */
    mull_cuda_batch here, there;
    char *batch_base;
    size_t batch_bytes;
    mull_cuda_plan plan;
    int32_t nkeys;
    int64_t rows, ngathered; /* of the batch */
} mull_cuda_net;

/* Where a parameter lies on the device: as products read it (T), as float32, its gradient (NULL when frozen). */
static inline const void *mull__cuda_data(const mull_cuda_net *d, const mull_param *p) {
    int64_t at = p->w - d->n->params->w, ref = d->on_reference ? d->ref_at[p - d->n->params->list] : -1;
    if (ref >= 0) return d->half ? (const void *)(d->ref_half + ref) : d->ref_w + ref;
    return d->half ? (const void *)(d->half + at) : d->w + at;
}
static inline const float *mull__cuda_wide(const mull_cuda_net *d, const mull_param *p) {
    int64_t ref = d->on_reference ? d->ref_wide_at[p - d->n->params->list] : -1;
    if (ref >= 0) return d->ref_w + ref;
    return d->w + (p->w - d->n->params->w);
}
static inline float *mull__cuda_grad(const mull_cuda_net *d, const mull_param *p) {
    return p->at < 0 ? NULL : d->g + p->at;
}
/* x + n elements of T */
static inline void *mull__cuda_at(const mull_cuda_net *d, const void *x, int64_t n) {
    return (char *)(uintptr_t)x + n * (int64_t)mull_dtype_size(d->t);
}

/* cuda_params.c */
int mull__cuda_params_open(mull_cuda_net *d, mull_error *err);
void mull__cuda_params_zero_grad(void *dev);
int mull__cuda_params_update(void *dev, const mull_optim_opts *o, int64_t step, double scale, int64_t *applied,
                             mull_optim_result *out, mull_error *err);
int mull__cuda_params_pull(void *dev, mull_net_pull what, mull_error *err);
/* cuda_batch.c */
void mull__cuda_batch_lay_out(const mull_cuda_net *d, mull_cuda_arena *a, int64_t rows, int64_t loss_rows,
                              mull_cuda_batch *b);
/* Fills and sends what a batch says; false: refused. */
bool mull__cuda_batch_send(mull_cuda_net *d, const mull_net_batch *b);
/* Sends n elements of the batch's block, at the same place on both sides. */
void mull__cuda_batch_put(mull_cuda_net *d, const void *here, size_t bytes);
/* cuda_linear.c: as mull__linear_forward and _backward; y and dx of the given type. */
void mull__cuda_linear_forward(mull_cuda_net *d, const mull__linear *l, const void *x, int64_t rows, void *y,
                               mull_dtype y_type, int64_t ldy, bool accumulate);
void mull__cuda_linear_backward(mull_cuda_net *d, const mull__linear *l, const void *x, const void *dy, int64_t ldy,
                                int64_t rows, void *dx, mull_dtype dx_type);
/* The sum of each matrix and its adapters into merged (T, [out, in]); scaled: room for rank values of T a row. */
void mull__cuda_linear_merge(mull_cuda_net *d, const mull__linear *l, void *merged, void *scaled);
/* cuda_rollout.c */
int mull__cuda_lend(void *dev, mull_model *m, const mull_tower *trained, mull_error *err);
int mull__cuda_keep_reference(void *dev, const bool *copied, mull_error *err);
int mull__cuda_set_reference(void *dev, const mull_param *p, const float *values, mull_error *err);
void mull__cuda_use_reference(void *dev, bool on);
/* cuda_tower.c */
int mull__cuda_tower(void *dev, const mull_tower *t, const mull_grid *g, const float *patches, float *out,
                     const float *dout, mull_error *err);
/* cuda_pass.c */
void mull__cuda_net_forward(void *dev, const mull_net_batch *b);
void mull__cuda_net_backward(void *dev, const mull_net_batch *b);
/* cuda_head.c */
void mull__cuda_net_gather(void *dev, const int32_t *rows, int64_t count);
void mull__cuda_net_head(void *dev, const int32_t *targets, int64_t count, double temperature, mull_net_slope slope,
                         void *ctx, double *logp, double *entropy);
void mull__cuda_net_cosines(void *dev, int64_t first, int64_t count, const float *const *targets, const double *scale,
                            double *cos);

#endif
