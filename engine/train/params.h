/* What is trained: every tensor of the language model (and, when asked, of the vision tower or of LoRA adapters) as
 * float32 in one flat arena, gradients and the optimiser's moments of those that are not frozen in three more.
 *
 * Order in the arenas: that of the checkpoint, but what is used as one matrix lies together (q, k, v; gate, up; their
 * biases). A flat range of the trained values is therefore a unit of sharding.
 *
 * With several ranks (ZeRO, Rajbhandari et al. 2020) each owns one range [lo, hi) of the trained values: from stage 1
 * on it holds moments (and float32 masters of bf16 weights) of that range alone, from 2 on gradients too, with 3 the
 * weights as well. The arenas keep their full size as address space, so that a value has one place whoever owns it;
 * pages of what a rank does not keep are given back to the system and come again, as zeros, when they are next touched.
 * Frozen tensors and those of one dimension (norms, biases: small, and always read as float32) stay on every rank.
 * train/ranks.h moves the values. */
#ifndef MULL_ENGINE_TRAIN_PARAMS_H
#define MULL_ENGINE_TRAIN_PARAMS_H

#include "engine/core/dtype.h"
#include "engine/core/error.h"
#include "engine/core/pool.h"
#include "engine/comm/comm.h"
#include "engine/model/config.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct mull_param {
    char name[112]; /* the published name; of adapters the one of their file */
    int ndim;
    int64_t shape[5], count;
    float *w;       /* into the arena */
    uint16_t *half; /* bf16 copy that products use, or NULL: they use w */
    float *g;       /* gradient, NULL when frozen */
    int64_t at;     /* trained: index of the first value in the trained arenas, else -1 */
    bool decay;     /* weight decay applies */
    bool adapter;   /* of LoRA: not part of the checkpoint folder */
} mull_param;

typedef struct mull_params {
    mull_param *list;
    size_t n;
    int64_t count, trained; /* values in all, and those with a gradient */
    float *w, *g;           /* [count], [trained] */
    float *m, *v;           /* [hi - lo], NULL without moments */
    float *sum;             /* [hi - lo]: gradients of the step over all ranks, from stage 2 on; NULL: they are in g */
    uint16_t *half;         /* [count] or NULL */
    size_t bytes;
    mull_comm *comm; /* borrowed; NULL: one rank */
    int zero;        /* stage, 0 with one rank */
    int64_t lo, hi;  /* trained values that this rank updates: all with stage 0 */
} mull_params;

typedef struct mull_params_opts {
    const char *freeze;       /* comma-separated patterns (* and ?) of names that are not trained; NULL or "": none */
    bool vision;              /* train the vision tower too */
    bool moments;             /* room for AdamW */
    bool half;                /* products see weights rounded to bf16; w stays float32 */
    int64_t lora_rank;        /* > 0: train adapters only */
    const char *lora_targets; /* comma-separated module names: q_proj,v_proj; NULL or "": all seven */
    uint64_t seed;            /* of the adapters' first values */
    mull_comm *comm;          /* NULL: one rank */
    int zero;                 /* stage 0 .. 3; 0 with one rank */
} mull_params_opts;

/* Reads the checkpoint folder dir, whose configuration is c. A pattern that names nothing is an error. */
int mull_params_load(const char *dir, const mull_config *c, const mull_params_opts *opts, mull_params *out,
                     mull_error *err);
void mull_params_fini(mull_params *p);
/* NULL when there is no such tensor. */
mull_param *mull_params_find(const mull_params *p, const char *name);
void mull_params_zero_grad(mull_pool *pool, mull_params *p);
/* half from w again, after an update: of what this rank owns. */
void mull_params_round(mull_pool *pool, mull_params *p);

/* The optimiser's work and the norm's sum are cut into so many pieces, whatever the number of ranks or threads; a rank
 * owns whole pieces, so that neither changes a bit. */
enum { MULL_PIECES = MULL_WORLD_MAX };
/* Border k (0 .. MULL_PIECES) of the pieces of n values. */
int64_t mull_params_border(int64_t n, int k);
/* The first piece of a rank. */
int mull_params_piece(int rank, int world);
/* Gives back what this rank does not keep of q between its uses. */
void mull_params_release(const mull_params *p, const mull_param *q);
/* Zeroes n floats, giving their whole pages back. */
void mull_params_forget(float *at, int64_t n);
/* Does the name fit one of the comma-separated patterns? */
bool mull_params_match(const char *patterns, const char *name);
/* Is the tensor exempt from weight decay by its name? (names with bias or layernorm; model.norm.weight is not, as in
 * transformers 4.49) */
bool mull_params_decays(const char *name);

#endif
