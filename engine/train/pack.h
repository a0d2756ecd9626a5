/* A packed batch ready for the net: positions, and the inputs that come from the vision tower. */
#ifndef MULL_ENGINE_TRAIN_PACK_H
#define MULL_ENGINE_TRAIN_PACK_H

#include "engine/data/loader.h"
#include "engine/model/model.h"
#include "engine/train/net.h"

/* Buffers grow to the largest batch and stay. Zero-initialise. */
typedef struct mull_pack {
    mull_net_batch net; /* borrows the batch's ids and cu */
    const int32_t *labels;
    int32_t *pos;
    const float **features; /* [T] */
    float *vision;          /* all features of the batch, then the pooled ones */
    size_t *first;
    int32_t *latent;    /* rows of <|latent_image|> tokens that stand for a reasoning image, ascending */
    int32_t *latent_cu; /* [nseq + 1] */
    int nlatent;
    bool vision_gradient; /* set before building: the tower is trained, so media get gradients */
    const float **starts; /* [nmedia]: a medium's features; equal for media that were encoded once */
    float **d_starts;     /* [nmedia]: the gradient of each place's own */
    float **d_features;   /* [T] */
    float *d_vision;
    int64_t row_cap, seq_cap, vision_cap, first_cap, media_cap, d_row_cap, d_vision_cap;
} mull_pack;

/* Where a medium's features come from: fills out [units, hidden]. */
typedef struct mull_pack_source {
    int (*encode)(void *ctx, const mull_grid *g, const float *patches, float *out, mull_error *err);
    void *ctx;
} mull_pack_source;

/* The frozen tower of a model, each time anew. */
mull_pack_source mull_pack_tower(const mull_model *m);

/* b is borrowed until the next call. Equal patch pointers within a batch are encoded once. */
int mull_pack_build(mull_pack *p, const mull_config *c, const mull_batch *b, const mull_pack_source *source,
                    mull_error *err);
void mull_pack_fini(mull_pack *p);

#endif
