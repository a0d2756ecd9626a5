/* The feature cache; see features.h. A plain list: there are tens of entries, and each costs milliseconds to make. */
#include "engine/infer/features.h"

#include "engine/infer/clock.h"
#include "engine/model/vision.h"

#include <stdlib.h>
#include <string.h>

struct mull_features {
    const mull_model *m;
    size_t idle_bytes, idle_limit;
    mull_feature *newest, *oldest;
    int64_t encoded;
};

mull_features *mull_features_create(const mull_model *m, size_t idle_bytes) {
    mull_features *f = calloc(1, sizeof *f);
    if (f) *f = (mull_features){.m = m, .idle_limit = idle_bytes};
    return f;
}

static void unlink_entry(mull_features *f, mull_feature *e) {
    if (e->newer)
        e->newer->older = e->older;
    else
        f->newest = e->older;
    if (e->older)
        e->older->newer = e->newer;
    else
        f->oldest = e->newer;
}

static void push_newest(mull_features *f, mull_feature *e) {
    e->newer = NULL;
    e->older = f->newest;
    if (f->newest)
        f->newest->newer = e;
    else
        f->oldest = e;
    f->newest = e;
}

static void drop(mull_features *f, mull_feature *e) {
    unlink_entry(f, e);
    mull_model_buffer_free(f->m, e->data);
    free(e);
}

void mull_features_destroy(mull_features *f) {
    if (!f) return;
    while (f->newest) drop(f, f->newest);
    free(f);
}

int mull_media_key(const mull_media *media, const mull_vision_config *v, mull_page_key *out, mull_error *err) {
    struct {
        int64_t grid[3];
        int64_t video;
        double second_per_grid;
    } head;
    memset(&head, 0, sizeof head);
    memcpy(head.grid, media->grid, sizeof head.grid);
    head.video = media->kind == MULL_MEDIA_VIDEO;
    head.second_per_grid = head.video ? media->second_per_grid : 0;
    int64_t floats = media->grid[0] * media->grid[1] * media->grid[2] * mull_vision_patch_floats(v);
    mull_page_key shape;
    if (!mull_page_key_next(&shape, NULL, &head, sizeof head) ||
        !mull_page_key_next(out, &shape, media->patches, (size_t)floats * sizeof(float)))
        return mull_fail(err, MULL_ENOMEM, "cannot identify a medium", "", "", "out of memory");
    return MULL_OK;
}

int mull_features_get(mull_features *f, const mull_media *media, const mull_page_key *key, mull_feature **out,
                      double *ms, mull_error *err) {
    for (mull_feature *e = f->newest; e; e = e->older) {
        if (memcmp(e->key.bytes, key->bytes, sizeof key->bytes) != 0) continue;
        if (e->refs++ == 0) f->idle_bytes -= e->bytes;
        *out = e;
        return MULL_OK;
    }
    const mull_config *c = mull_model_config(f->m);
    mull_feature *e = calloc(1, sizeof *e);
    size_t bytes = (size_t)media->tokens * (size_t)c->hidden * sizeof(float);
    if (!e) return mull_fail(err, MULL_ENOMEM, "cannot encode a medium", "", "", "out of memory");
    void *data;
    int rc = mull_model_buffer(f->m, bytes, "features of a medium", &data, err);
    if (rc) {
        free(e);
        return rc;
    }
    double start = mull_clock_ms();
    rc = mull_vision_encode(f->m, media->patches, media->grid, data, NULL, err);
    *ms += mull_clock_ms() - start;
    if (rc) {
        mull_model_buffer_free(f->m, data);
        free(e);
        return rc;
    }
    f->encoded++;
    *e = (mull_feature){.key = *key, .data = data, .tokens = media->tokens, .bytes = bytes, .refs = 1};
    push_newest(f, e);
    *out = e;
    return MULL_OK;
}

void mull_features_release(mull_features *f, mull_feature *e) {
    if (!e || --e->refs > 0) return;
    f->idle_bytes += e->bytes;
    unlink_entry(f, e);
    push_newest(f, e);
    for (mull_feature *o = f->oldest, *next; o && f->idle_bytes > f->idle_limit; o = next) {
        next = o->newer;
        if (o->refs) continue;
        f->idle_bytes -= o->bytes;
        drop(f, o);
    }
}

void mull_features_forget(mull_features *f) {
    for (mull_feature *o = f->oldest, *next; o; o = next) {
        next = o->newer;
        if (o->refs) continue;
        f->idle_bytes -= o->bytes;
        drop(f, o);
    }
}

int64_t mull_features_encoded(const mull_features *f) {
    return f->encoded;
}
