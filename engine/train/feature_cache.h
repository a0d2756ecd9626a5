/* Features of the frozen vision tower on disk, across epochs, runs and ranks: a medium goes through the tower once.
 *
 * An entry is keyed by everything its numbers follow from: the patches (which hold the medium's content and the limits
 * it was resized with), the grid, the tower's tensors, their type in memory and the instruction set. It is one file,
 * DIR/xx/KEY.zst: a zstd frame with checksum of "MULLFEA1", rows and width (8 bytes each, little endian) and the
 * float32 values. Entries appear whole (written beside, renamed); several processes may use one folder.
 *
 * The folder is bounded: when it has grown past the limit, the entries used longest ago go until a tenth is free. What
 * cannot be read, is cut short or damaged is computed again, and said; what cannot be written is done without, and said
 * once: a cache is no reason to stop. */
#ifndef MULL_ENGINE_TRAIN_FEATURE_CACHE_H
#define MULL_ENGINE_TRAIN_FEATURE_CACHE_H

#include "engine/train/pack.h"

typedef struct mull_feature_cache mull_feature_cache;

typedef struct mull_feature_cache_opts {
    const char *dir;                                              /* made when absent */
    int64_t limit;                                                /* bytes of all entries; 0: none */
    const char *model;                                            /* the checkpoint folder that the tower is of */
    mull_weight_type weights;                                     /* as the tower holds them */
    void (*note)(void *ctx, const char *level, const char *text); /* one line for a person; may be NULL */
    void *ctx;
} mull_feature_cache_opts;

/* tower: where features come from that are not there; what it points to stays the caller's. */
int mull_feature_cache_open(const mull_feature_cache_opts *o, const mull_config *c, mull_pack_source tower,
                            mull_feature_cache **out, mull_error *err);
void mull_feature_cache_close(mull_feature_cache *f);
/* A source like the tower itself. Not thread-safe. */
mull_pack_source mull_feature_cache_source(mull_feature_cache *f);

typedef struct mull_feature_figures {
    int64_t found, computed, damaged, removed; /* media since opening; entries taken away for room */
    int64_t bytes;                             /* of the folder, as this process knows it */
} mull_feature_figures;
mull_feature_figures mull_feature_cache_figures(const mull_feature_cache *f);

#endif
