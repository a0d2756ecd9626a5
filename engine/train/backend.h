/* Where a net computes, and where the values that it trains lie. The CPU's code (net_*.c, optim.c) is the reference and
 * runs where a net has no backend; a backend is a table of the same steps over its own copy of the values. Losses,
 * packing, the trainer's loop and checkpoints are shared: they see host memory only, and the trained values come back
 * to the host when a checkpoint is due (model/backend.h says why the border lies at this level). */
#ifndef MULL_ENGINE_TRAIN_BACKEND_H
#define MULL_ENGINE_TRAIN_BACKEND_H

#include "engine/model/backend.h"
#include "engine/train/net.h"
#include "engine/train/tower.h"

struct mull_train_backend {
    const char *name;
    const mull_backend *(*model)(void); /* of a frozen vision tower */
    /* A copy of n's parameters, moments included where there are any. n is borrowed: its parts say what is what. */
    int (*open)(mull_net *n, void **dev, mull_error *err);
    void (*close)(void *dev);
    /* The first failure of anything queued so far; waits for it. After one nothing is computed any more. */
    int (*status)(void *dev, mull_error *err);
    /* As the functions of net.h with the same names. */
    int (*reserve)(void *dev, int64_t rows, int64_t loss_rows, mull_error *err);
    size_t (*bytes)(const void *dev);
    void (*forward)(void *dev, const mull_net_batch *b);
    void (*gather)(void *dev, const int32_t *rows, int64_t count);
    void (*head)(void *dev, const int32_t *targets, int64_t count, double temperature, mull_net_slope slope, void *ctx,
                 double *logp, double *entropy);
    void (*cosines)(void *dev, int64_t first, int64_t count, const float *const *targets, const double *scale,
                    double *cos);
    void (*backward)(void *dev, const mull_net_batch *b);
    void (*zero_grad)(void *dev);
    int (*update)(void *dev, const mull_optim_opts *o, int64_t step, double scale, int64_t *applied,
                  mull_optim_result *out, mull_error *err);
    int (*pull)(void *dev, mull_net_pull what, mull_error *err);
    double (*roof)(void *dev);
    int (*lend)(void *dev, mull_model *m, const mull_tower *trained, mull_error *err);
    int (*keep_reference)(void *dev, const bool *copied, mull_error *err);
    int (*set_reference)(void *dev, const mull_param *p, const float *values, mull_error *err);
    void (*use_reference)(void *dev, bool on);
    /* The features of a medium to out (host, [tokens, hidden]), or with dout its gradients to the tower's. */
    int (*tower)(void *dev, const mull_tower *t, const mull_grid *g, const float *patches, float *out,
                 const float *dout, mull_error *err);
};

/* On device 0 of the visible ones; only in builds with MULL_HAVE_CUDA. */
const mull_train_backend *mull_cuda_train_backend(void);

#endif
