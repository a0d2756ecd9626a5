/* Vision features by content: a medium that many requests show, or that a preempted request needs again, goes through
 * the vision tower once. Entries in use are held; of the others the most recently used stay, up to a number of bytes.
 */
#ifndef MULL_ENGINE_INFER_FEATURES_H
#define MULL_ENGINE_INFER_FEATURES_H

#include "engine/infer/kv_cache.h"
#include "engine/media/media.h"

typedef struct mull_features mull_features;
typedef struct mull_feature {
    mull_page_key key;
    float *data; /* [tokens, hidden], a buffer of the model */
    int64_t tokens;
    size_t bytes;
    int refs;
    struct mull_feature *newer, *older; /* all entries, by last use */
} mull_feature;

/* idle_bytes: bound of what nobody uses. */
mull_features *mull_features_create(const mull_model *m, size_t idle_bytes);
void mull_features_destroy(mull_features *f);
/* The digest of everything the features and positions of a medium depend on. */
int mull_media_key(const mull_media *media, const mull_vision_config *v, mull_page_key *out, mull_error *err);
/* The features of media, whose digest is key, with one more reference; encodes them if they are not there. *ms grows by
 * the time spent in the tower. */
int mull_features_get(mull_features *f, const mull_media *media, const mull_page_key *key, mull_feature **out,
                      double *ms, mull_error *err);
/* Lets go of what nobody uses: the tower has other weights now. Nothing may be in use. */
void mull_features_forget(mull_features *f);
void mull_features_release(mull_features *f, mull_feature *e); /* e may be NULL */
/* Media encoded so far, for tests and figures. */
int64_t mull_features_encoded(const mull_features *f);

#endif
