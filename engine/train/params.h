/* What is trained: every tensor of the language model (and, when asked, of the vision tower or of LoRA adapters) as
 * float32 in one flat arena, gradients and the optimiser's moments of those that are not frozen in three more.
 *
 * Order in the arenas: that of the checkpoint, but what is used as one matrix lies together (q, k, v; gate, up; their
 * biases). A flat range of the trained values is therefore a unit of sharding. */
#ifndef MULL_ENGINE_TRAIN_PARAMS_H
#define MULL_ENGINE_TRAIN_PARAMS_H

#include "engine/core/dtype.h"
#include "engine/core/error.h"
#include "engine/core/pool.h"
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
    float *w, *g, *m, *v;   /* [count], [trained] x 3 */
    uint16_t *half;         /* [count] or NULL */
    size_t bytes;
} mull_params;

typedef struct mull_params_opts {
    const char *freeze;       /* comma-separated patterns (* and ?) of names that are not trained; NULL or "": none */
    bool vision;              /* train the vision tower too */
    bool moments;             /* room for AdamW */
    bool half;                /* products see weights rounded to bf16; w stays float32 */
    int64_t lora_rank;        /* > 0: train adapters only */
    const char *lora_targets; /* comma-separated module names: q_proj,v_proj; NULL or "": all seven */
    uint64_t seed;            /* of the adapters' first values */
} mull_params_opts;

/* Reads the checkpoint folder dir, whose configuration is c. A pattern that names nothing is an error. */
int mull_params_load(const char *dir, const mull_config *c, const mull_params_opts *opts, mull_params *out,
                     mull_error *err);
void mull_params_fini(mull_params *p);
/* NULL when there is no such tensor. */
mull_param *mull_params_find(const mull_params *p, const char *name);
void mull_params_zero_grad(mull_params *p);
/* half from w again, after an update. */
void mull_params_round(mull_pool *pool, mull_params *p);
/* Does the name fit one of the comma-separated patterns? */
bool mull_params_match(const char *patterns, const char *name);
/* Is the tensor exempt from weight decay by its name? (names with bias or layernorm; model.norm.weight is not, as in
 * transformers 4.49) */
bool mull_params_decays(const char *name);

#endif
