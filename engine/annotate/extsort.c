/* See extsort.h. */
#include "engine/annotate/extsort.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { REC = MULL_SORT_RECORD, RUN = 262144, AHEAD = 4096 / REC };
static const char *const WHAT = "cannot sort the input's ids";

struct mull__sort {
    int dir, fd;
    size_t run, n; /* records in memory */
    uint8_t *recs;
    size_t cap;
    int64_t spilled; /* full runs in the file */
};

/* One run while merging. */
typedef struct source {
    int64_t next, end; /* records of the file still to be read */
    uint8_t *buf;      /* [AHEAD] records; the run in memory: the records themselves */
    size_t pos, len;
} source;

static int compare(const void *a, const void *b) {
    return memcmp(a, b, REC);
}

int mull__sort_create(int dir, size_t run, mull__sort **out, mull_error *err) {
    mull__sort *s = *out = calloc(1, sizeof *s);
    if (!s) return mull_fail(err, MULL_ENOMEM, WHAT, "", "", "out of memory");
    *s = (mull__sort){.dir = dir, .fd = -1, .run = run ? run : RUN};
    return MULL_OK;
}

void mull__sort_destroy(mull__sort *s) {
    if (!s) return;
    if (s->fd >= 0) close(s->fd);
    free(s->recs);
    free(s);
}

static int spill(mull__sort *s, mull_error *err) {
    if (s->fd < 0) {
        s->fd = openat(s->dir, "sort.tmp", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        if (s->fd < 0) return mull__io_fail(err, errno, WHAT, "sort.tmp");
        unlinkat(s->dir, "sort.tmp", 0);
    }
    qsort(s->recs, s->n, REC, compare);
    int rc = mull__write_all(s->fd, s->recs, s->n * REC);
    if (rc) return mull__io_fail(err, rc, WHAT, "sort.tmp");
    s->spilled++;
    s->n = 0;
    return MULL_OK;
}

int mull__sort_add(mull__sort *s, const uint8_t rec[REC], mull_error *err) {
    int rc = s->n == s->run ? spill(s, err) : MULL_OK;
    if (rc) return rc;
    if (s->n == s->cap) {
        size_t cap = s->cap ? s->cap * 2 : 1024;
        if (cap > s->run) cap = s->run;
        uint8_t *p = realloc(s->recs, cap * REC);
        if (!p) return mull_fail(err, MULL_ENOMEM, WHAT, "", "", "out of memory");
        s->recs = p;
        s->cap = cap;
    }
    memcpy(s->recs + s->n++ * REC, rec, REC);
    return MULL_OK;
}

/* Makes src's first record available. False at its end or on an error. */
static bool load(mull__sort *s, source *src, int *rc, mull_error *err) {
    if (src->pos < src->len) return true;
    int64_t left = src->end - src->next, n = left < AHEAD ? left : AHEAD;
    if (n <= 0) return false;
    for (size_t have = 0, want = (size_t)n * REC; have < want;) {
        ssize_t got = pread(s->fd, src->buf + have, want - have, (off_t)(src->next * REC) + (off_t)have);
        if (got <= 0) {
            *rc = mull__io_fail(err, got < 0 ? errno : EIO, WHAT, "sort.tmp");
            return false;
        }
        have += (size_t)got;
    }
    src->next += n;
    src->pos = 0;
    src->len = (size_t)n;
    return true;
}

static void sift(source **heap, size_t n, size_t i) {
    source *x = heap[i];
    for (size_t c; (c = 2 * i + 1) < n; i = c) {
        if (c + 1 < n && memcmp(heap[c + 1]->buf + heap[c + 1]->pos * REC, heap[c]->buf + heap[c]->pos * REC, REC) < 0)
            c++;
        if (memcmp(heap[c]->buf + heap[c]->pos * REC, x->buf + x->pos * REC, REC) >= 0) break;
        heap[i] = heap[c];
    }
    heap[i] = x;
}

static int merge(mull__sort *s, source *src, source **heap, size_t n,
                 int (*take)(void *, const uint8_t *, mull_error *), void *ctx, mull_error *err) {
    size_t live = 0;
    int rc = MULL_OK;
    for (size_t i = 0; i < n && !rc; i++)
        if (load(s, &src[i], &rc, err)) heap[live++] = &src[i];
    for (size_t i = live / 2; i-- > 0;) sift(heap, live, i);
    while (!rc && live) {
        rc = take(ctx, heap[0]->buf + heap[0]->pos * REC, err);
        heap[0]->pos++;
        if (!rc && !load(s, heap[0], &rc, err)) heap[0] = heap[--live];
        if (!rc && live) sift(heap, live, 0);
    }
    return rc;
}

int mull__sort_finish(mull__sort *s, int (*take)(void *ctx, const uint8_t *rec, mull_error *err), void *ctx,
                      mull_error *err) {
    size_t n = (size_t)s->spilled + 1;
    if (s->n) qsort(s->recs, s->n, REC, compare);
    source *src = calloc(n, sizeof *src), **heap = calloc(n, sizeof(source *));
    uint8_t *ahead = s->spilled ? malloc((size_t)s->spilled * AHEAD * REC) : NULL;
    int rc = !src || !heap || (s->spilled && !ahead) ? mull_fail(err, MULL_ENOMEM, WHAT, "", "", "out of memory") : 0;
    if (!rc) {
        for (size_t i = 0; i + 1 < n; i++)
            src[i] = (source){
                .next = (int64_t)(i * s->run), .end = (int64_t)((i + 1) * s->run), .buf = ahead + i * AHEAD * REC};
        src[n - 1] = (source){.buf = s->recs, .len = s->n};
        rc = merge(s, src, heap, n, take, ctx, err);
    }
    free(src);
    free(heap);
    free(ahead);
    return rc;
}
