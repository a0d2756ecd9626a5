/* The language model forward and backward over packed sequences, by hand, layer by layer: no graph is recorded. All
 * activations lie in one arena that is planned from the largest batch; a batch that fits allocates nothing.
 *
 * One step: mull_net_forward; mull_net_gather the rows that a loss needs; losses (head, cosines) leave their
 * gradient there; mull_net_backward. Gradients accumulate (+=) in the parameters' float32 arena. Not thread-safe. */
#ifndef MULL_ENGINE_TRAIN_NET_H
#define MULL_ENGINE_TRAIN_NET_H

#include "engine/train/optim.h"

typedef struct mull_net mull_net;
typedef struct mull_model mull_model;                 /* model/model.h */
typedef struct mull_tower mull_tower;                 /* tower.h */
typedef struct mull_train_backend mull_train_backend; /* backend.h */

/* One packed batch of T rows. Borrowed during forward and backward. */
typedef struct mull_net_batch {
    int64_t rows;
    const int32_t *ids;           /* [T] */
    const int32_t *pos;           /* [3, T]: t, h, w */
    const float *const *features; /* [T]: the row's input instead of its embedding; NULL entries, or NULL */
    float *const *d_features;     /* [T]: where the gradient of such a row is written, or NULL */
    const int32_t *cu;            /* [nseq + 1] borders of the sequences */
    int nseq;
    const int32_t *trunk, *branch; /* [nseq], [T] or NULL: sequences that branch, see mull_attn_shape */
} mull_net_batch;

/* Told when a part of the model is about to be used and when it is done with: for values that live elsewhere between
 * their uses. A part is a layer, a block of the vision tower, what the tower has beside them, or all else (embedding,
 * final norm, head), which is entered once for forward and backward together. */
#define MULL_PART_BLOCK(c, i) ((c)->layers + (i))
#define MULL_PART_TOWER(c) ((c)->layers + (c)->vision.depth)
#define MULL_PART_OUTER(c) ((c)->layers + (c)->vision.depth + 1)
#define MULL_PARTS(c) ((c)->layers + (c)->vision.depth + 2)
typedef struct mull_net_parts {
    void (*enter)(void *ctx, int part); /* entering what was entered already does nothing */
    void (*leave)(void *ctx, int part, bool backward);
    void *ctx;
} mull_net_parts;

typedef struct mull_net_opts {
    mull_recompute recompute; /* what the backward computes again instead of keeping: nothing, attention, layers */
    float lora_scale;         /* alpha / rank */
    mull_net_parts parts;     /* zero: nobody is told */
    const mull_train_backend *backend; /* NULL: the CPU */
} mull_net_opts;

/* params, c and pool are borrowed. With a backend the values are copied to it now, moments included. Nothing is
 * allocated for activations before mull_net_reserve. */
int mull_net_create(const mull_config *c, mull_params *params, mull_pool *pool, const mull_net_opts *opts,
                    mull_net **out, mull_error *err);
void mull_net_destroy(mull_net *n);
/* Room for batches of so many rows of which loss_rows take part in a loss; keeps more if there is more. */
int mull_net_reserve(mull_net *n, int64_t rows, int64_t loss_rows, mull_error *err);
/* Bytes of the arena for such a batch, without a net: what a plan prints. */
size_t mull_net_plan(const mull_config *c, mull_recompute recompute, int64_t rows, int64_t loss_rows);
size_t mull_net_bytes(const mull_net *n);

void mull_net_forward(mull_net *n, const mull_net_batch *b);
/* Final-norm hidden states of the rows named, [count, hidden]; a row may come twice. dh [count, hidden] starts at 0. */
void mull_net_gather(mull_net *n, const int32_t *rows, int64_t count);
/* Cosines of gathered rows [first, first + count) with targets[i] (host memory, [hidden]), as torch has them: cos
 * [count]. dh += scale[i] times the gradient; scale NULL: no gradient. */
void mull_net_cosines(mull_net *n, int64_t first, int64_t count, const float *const *targets, const double *scale,
                      double *cos);
/* The backward of everything from dh on. */
void mull_net_backward(mull_net *n, const mull_net_batch *b);
/* After a forward that no backward follows: the parts learn that its values are not needed. */
void mull_net_end(mull_net *n);
/* Tells the parts what a forward and a backward tell them (without backward: a forward and mull_net_end): for a rank
 * that has no batch while others have one. */
void mull_net_idle(mull_net *n, bool backward);

/* Log-probabilities of targets under the head, for gathered rows [0, count), at this temperature: logp [count].
 * slope (NULL: no gradient) gives d loss / d logp of row i; dh and the head's gradient accumulate. Logits exist for a
 * chunk of rows at a time, never for all. */
typedef double (*mull_net_slope)(void *ctx, int64_t i, double logp);
/* The slope of losses that are linear in logp: ctx is the slopes, double [count]. A backend sees by its name that it
 * need not wait for the log-probabilities. */
double mull_net_given(void *ctx, int64_t i, double logp);
void mull_net_head(mull_net *n, const int32_t *targets, int64_t count, double temperature, mull_net_slope slope,
                   void *ctx, double *logp);
/* Where the heads that follow also put the entropy of each row's distribution, in nats: [count], or NULL. */
void mull_net_entropy(mull_net *n, double *out);
/* Off: the adapters of LoRA are as if they were not there, forward and in the head. A net starts with them on. */
void mull_net_adapters(mull_net *n, bool on);

/* ---- the trained values as a whole, where the net computes */
/* The first failure of the backend's work, which it waits for; the host's cannot fail. What was computed after a
 * failure is NaN or nothing. */
int mull_net_status(const mull_net *n, mull_error *err);
bool mull_net_on_host(const mull_net *n);
void mull_net_zero_grad(mull_net *n);
/* mull_optim_step. */
int mull_net_update(mull_net *n, const mull_optim_opts *o, int64_t step, double scale, int64_t *applied,
                    mull_optim_result *out, mull_error *err);
/* Brings values back into the parameters' host memory, where they are stale otherwise: the trained ones with their
 * moments, or the gradients. Nothing to do on the host. */
typedef enum mull_net_pull { MULL_PULL_STATE, MULL_PULL_GRADIENTS } mull_net_pull;
int mull_net_fetch(mull_net *n, mull_net_pull what, mull_error *err);
/* For rollouts, on a backend only. m was loaded for it with vision_only: its language model becomes the net's own
 * values, where they lie, and its tower those of trained (NULL: it is frozen); only matrices with adapters are copies
 * (the sums), made anew by each call. To be called after every update, and nothing may run over m while the net
 * changes. */
int mull_net_lend(mull_net *n, mull_model *m, const mull_tower *trained, mull_error *err);
/* A frozen copy, where the net computes, of the parameters marked in copied [params->n]; the rest of the reference is
 * the policy itself. What is one matrix is marked together. On a backend only: the host exchanges pointers. */
int mull_net_keep_reference(mull_net *n, const bool *copied, mull_error *err);
/* Other values [p->count] for a parameter of the copy. */
int mull_net_set_reference(mull_net *n, const mull_param *p, const float *values, mull_error *err);
/* On: forwards and heads compute with the reference. No backward, no update meanwhile. */
void mull_net_use_reference(mull_net *n, bool on);
/* FLOP/s that products reach here, measured; 0: it could not be. */
double mull_net_roof(mull_net *n);

#endif
