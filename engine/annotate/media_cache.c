/* See media_cache.h. One list in the order of use; there are few entries, and each costs milliseconds to make. */
#include "engine/annotate/media_cache.h"

#include "engine/annotate/fileio.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct mull__medium {
    mull_media media;
    uint8_t key[32];
    int64_t bytes;
    int users;
    struct mull__medium *next; /* most recently used first */
};

struct mull__media_cache {
    pthread_mutex_t lock;
    mull__sha *sha;
    mull__medium *all;
    int64_t unused, unused_max, loaded, found;
};

mull__media_cache *mull__media_cache_create(int64_t unused) {
    mull__media_cache *c = calloc(1, sizeof *c);
    if (c) *c = (mull__media_cache){.unused_max = unused, .sha = mull__sha_create()};
    if (!c || !c->sha) {
        free(c);
        return NULL;
    }
    pthread_mutex_init(&c->lock, NULL);
    return c;
}

static void medium_free(mull__medium *m) {
    mull_media_fini(&m->media);
    free(m);
}

void mull__media_cache_destroy(mull__media_cache *c) {
    if (!c) return;
    for (mull__medium *m = c->all, *next; m; m = next) {
        next = m->next;
        medium_free(m);
    }
    mull__sha_destroy(c->sha);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

/* With the lock held: lets go of what was not used for longest. */
static void prune(mull__media_cache *c) {
    while (c->unused > c->unused_max) {
        mull__medium **last = NULL;
        for (mull__medium **at = &c->all; *at; at = &(*at)->next)
            if (!(*at)->users) last = at;
        if (!last) return;
        mull__medium *m = *last;
        *last = m->next;
        c->unused -= m->bytes;
        medium_free(m);
    }
}

static int sum(const char *text, size_t n, void *ctx) {
    mull__sha_add(ctx, text, n);
    return 0;
}

/* What decides how it comes out. */
static int key_of(mull__media_cache *c, const mull__roots *roots, const mull_media_ref *ref, const mull_media_limits *l,
                  uint8_t key[32], mull_error *err) {
    int64_t file[5] = {0};
    int rc = mull__roots_identify(roots, ref, file, err);
    if (rc) return rc;
    const double numbers[] = {(double)l->min_pixels, (double)l->max_pixels, (double)l->nframes, l->fps, ref->video};
    json_dump_callback(ref->part, sum, c->sha, JSON_COMPACT | JSON_SORT_KEYS | JSON_ENCODE_ANY);
    mull__sha_add(c->sha, numbers, sizeof numbers);
    mull__sha_add(c->sha, file, sizeof file);
    mull__sha_done(c->sha, key);
    return MULL_OK;
}

int mull__media_cache_get(mull__media_cache *c, const mull__roots *roots, const mull_media_ref *ref,
                          const mull_media_limits *limits, mull__medium **out, mull_error *err) {
    uint8_t key[32];
    *out = NULL;
    pthread_mutex_lock(&c->lock);
    int rc = key_of(c, roots, ref, limits, key, err);
    for (mull__medium **at = &c->all, *m; !rc && (m = *at); at = &m->next) {
        if (memcmp(m->key, key, 32) != 0) continue;
        *at = m->next;
        m->next = c->all;
        c->all = m;
        if (m->users++ == 0) c->unused -= m->bytes;
        c->found++;
        *out = m;
        break;
    }
    pthread_mutex_unlock(&c->lock);
    if (rc || *out) return rc;
    /* Loading is done outside the lock; one thread feeds, so nothing is loaded twice. */
    mull__medium *m = calloc(1, sizeof *m);
    if (!m) return mull_fail(err, MULL_ENOMEM, "cannot load the media", "", "", "out of memory");
    rc = mull__roots_load(roots, ref, limits, &m->media, err);
    if (rc) {
        medium_free(m);
        return rc;
    }
    memcpy(m->key, key, 32);
    m->bytes = m->media.tokens * 4 * 1176 * (int64_t)sizeof(float);
    m->users = 1;
    pthread_mutex_lock(&c->lock);
    m->next = c->all;
    c->all = *out = m;
    c->loaded++;
    pthread_mutex_unlock(&c->lock);
    return MULL_OK;
}

void mull__media_cache_put(mull__media_cache *c, mull__medium *m) {
    if (!m) return;
    pthread_mutex_lock(&c->lock);
    if (--m->users == 0) c->unused += m->bytes;
    prune(c);
    pthread_mutex_unlock(&c->lock);
}

const mull_media *mull__medium_media(const mull__medium *m) {
    return &m->media;
}

void mull__media_cache_stats(mull__media_cache *c, int64_t *loaded, int64_t *found) {
    pthread_mutex_lock(&c->lock);
    *loaded = c->loaded;
    *found = c->found;
    pthread_mutex_unlock(&c->lock);
}
