/* Packed batches, made in the background. Every rank makes its own; what it makes depends only on the recipe, the rank
 * and the position, never on the threads. */
#ifndef MULL_ENGINE_DATA_LOADER_H
#define MULL_ENGINE_DATA_LOADER_H

#include "engine/data/mix.h"
#include "engine/data/sample.h"
#include "engine/model/positions.h"

/* One packed batch; sequences behind each other, B of them, T rows. Same shapes as mull_case (model/forward_case.h).
 * Everything belongs to the batch. */
typedef struct mull_batch {
    int32_t *ids, *labels; /* [T] */
    int64_t rows;          /* T */
    int32_t *cu;           /* [B + 1] */
    int nseq;              /* B */
    mull_grid *media;      /* [nmedia] in order of appearance over all sequences */
    const float **patches; /* [nmedia], each [t*h*w, 1176] */
    size_t nmedia;
    size_t *media_cu;  /* [B + 1] */
    mull_grid *latent; /* [nlatent] reasoning images, in order of their <|latent_image|> tokens */
    const float **latent_patches;
    size_t nlatent;
    size_t *latent_cu;    /* [B + 1] */
    mull_sample *samples; /* [B]: problem_type, solution, dataset and index of each sequence */
    bool last;    /* ends its optimiser step: per_device_train_batch_size samples of every accumulation step came */
    int64_t step; /* optimiser step, from 0 */
} mull_batch;

/* Where a rank stands: the step whose batches come next. Saved with a checkpoint, equal positions give equal batches.
 */
typedef struct mull_position {
    int64_t step;                /* optimiser step */
    int64_t drawn, bad, skipped; /* counts so far: they decide on max_bad_share */
} mull_position;

typedef struct mull_loader mull_loader;
/* Called (from one thread at a time) for every sample left out: its dataset, index and why. */
typedef void (*mull_loader_note_fn)(void *ctx, const mull_draw *draw, bool bad, const mull_error *why);

typedef struct mull_loader_opts {
    int rank, world;          /* world 0: 1 */
    int threads;              /* 0: the recipe's */
    mull_position start;      /* zero: the beginning */
    mull_loader_note_fn note; /* may be NULL */
    void *ctx;
} mull_loader_opts;

/* All borrowed until the loader is closed. */
int mull_loader_open(const mull_recipe *r, mull_mix *mix, const mull_builder *b, const mull_loader_opts *opts,
                     mull_loader **out, mull_error *err);
void mull_loader_close(mull_loader *l);
/* Optimiser steps of one epoch over all ranks, at least 1. */
int64_t mull_loader_steps(const mull_loader *l);
/* The next batch. A step has per_device_train_batch_size * gradient_accumulation_steps samples a rank; they are packed
 * shortest waste first into as few batches as pack_tokens allows (0: one batch for each per_device_train_batch_size).
 * It never ends: the trainer knows how many steps it wants. */
int mull_loader_next(mull_loader *l, mull_batch *out, mull_error *err);
/* After the last batch of a step: the position that continues behind it. */
mull_position mull_loader_position(const mull_loader *l);
void mull_batch_fini(mull_batch *b);

/* The sample at a place of the run (mix.h), as the loader makes it: a row that its dataset's rules or its own faults
 * leave out is replaced by the next one of that dataset. tell (may be NULL) hears of each; not 0 ends the search.
 * Thread-safe. */
typedef int (*mull_left_out_fn)(void *ctx, const mull_draw *draw, bool bad, const mull_error *why);
int mull_sample_at(mull_mix *mix, const mull_builder *b, int64_t place, mull_left_out_fn tell, void *ctx,
                   mull_sample *out, mull_error *err);

#endif
