/* See claims.h. */
#include "engine/eval/claims.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const WHAT = "cannot share the rows of a task";
enum { OPEN, MINE, COMPLETE };

static int64_t first_of(int64_t shard) {
    return shard * MULL__EVAL_SHARD;
}

static int64_t size_of(const mull__claims *c, int64_t shard) {
    int64_t left = c->rows - first_of(shard);
    return left < MULL__EVAL_SHARD ? left : MULL__EVAL_SHARD;
}

int mull__claims_init(mull__claims *c, int work, int64_t rows, mull_error *err) {
    *c = (mull__claims){.work = work, .rows = rows, .shards = (rows + MULL__EVAL_SHARD - 1) / MULL__EVAL_SHARD};
    c->state = calloc((size_t)c->shards + 1, 1);
    if (!c->state) return mull_fail(err, MULL_ENOMEM, WHAT, "", NULL, "out of memory");
    return mull__claims_look(c, err);
}

static void release(mull__claims *c, mull__claim *claim) {
    for (mull__claim **p = &c->mine; *p; p = &(*p)->after)
        if (*p == claim) {
            *p = claim->after;
            break;
        }
    mull__shard_close(claim->shard);
    if (claim->lock >= 0) close(claim->lock);
    free(claim);
}

void mull__claims_fini(mull__claims *c) {
    while (c->mine) release(c, c->mine);
    free(c->state);
    *c = (mull__claims){0};
}

/* 1: it is complete, and noted. */
static int note_complete(mull__claims *c, int64_t shard, mull_error *err) {
    mull__counts counts;
    int rc = mull__shard_complete(c->work, shard, &counts, err);
    if (rc <= 0) return rc;
    c->state[shard] = COMPLETE;
    c->complete++;
    c->done += size_of(c, shard);
    return 1;
}

int mull__claims_look(mull__claims *c, mull_error *err) {
    int rc = MULL_OK;
    for (int64_t i = 0; i < c->shards && rc >= 0; i++)
        if (c->state[i] == OPEN) rc = note_complete(c, i, err);
    return rc < 0 ? rc : MULL_OK;
}

/* *out NULL: another process has it, or it has become complete. */
static int claim(mull__claims *c, int64_t shard, mull__claim **out, mull_error *err) {
    *out = NULL;
    mull__claim *x = calloc(1, sizeof *x);
    if (!x) return mull_fail(err, MULL_ENOMEM, WHAT, "", NULL, "out of memory");
    int rc = mull__shard_claim(c->work, shard, &x->lock, err);
    bool got = rc > 0;
    if (got) rc = MULL_OK;
    if (got && (rc = note_complete(c, shard, err)) > 0) { /* between our look and the lock */
        got = false;
        rc = MULL_OK;
    }
    if (!rc && got) rc = mull__shard_open(c->work, shard, first_of(shard), size_of(c, shard), &x->shard, err);
    if (rc || !got) {
        if (x->lock >= 0) close(x->lock);
        free(x);
        return rc;
    }
    x->next = x->shard->first;
    x->after = c->mine;
    c->mine = x;
    c->state[shard] = MINE;
    c->done += x->shard->counts.rows;
    *out = x;
    return MULL_OK;
}

static int settle(mull__claims *c, mull__claim *x, mull_error *err) {
    if (x->shard->counts.rows < x->shard->rows) return MULL_OK;
    int rc = mull__shard_finish(x->shard, c->work, err);
    if (rc) return rc;
    c->state[x->shard->number] = COMPLETE;
    c->complete++;
    release(c, x);
    return MULL_OK;
}

int mull__claims_next(mull__claims *c, int64_t *row, mull__claim **out, mull_error *err) {
    *out = NULL;
    for (mull__claim *x = c->mine; x; x = x->after)
        for (int64_t end = x->shard->first + x->shard->rows; x->next < end;) {
            *row = x->next++;
            if (mull__shard_has(x->shard, *row)) continue;
            *out = x;
            return MULL_OK;
        }
    for (int64_t i = 0; i < c->shards; i++) {
        mull__claim *x;
        if (c->state[i] != OPEN) continue;
        int rc = claim(c, i, &x, err);
        if (rc) return rc;
        if (!x) continue;
        if (x->shard->counts.rows == x->shard->rows) { /* answered, but its process died before the marker */
            if ((rc = settle(c, x, err))) return rc;
            continue;
        }
        return mull__claims_next(c, row, out, err);
    }
    return MULL_OK;
}

int mull__claims_answered(mull__claims *c, mull__claim *x, mull_error *err) {
    c->done++;
    return settle(c, x, err);
}

int mull__claims_sync(mull__claims *c, mull_error *err) {
    int rc = MULL_OK;
    for (mull__claim *x = c->mine; x && !rc; x = x->after) rc = mull__shard_sync(x->shard, err);
    return rc;
}

int mull__claims_merge(mull__claims *c, mull__sink *ok, mull__sink *bad, mull_error *err) {
    int rc = MULL_OK;
    for (int64_t i = 0; i < c->shards && !rc; i++) {
        rc = mull__shard_merge(c->work, i, first_of(i), size_of(c, i), ok, bad, err);
        if (rc != MULL_EFORMAT) continue;
        c->state[i] = OPEN;
        c->complete--;
        c->done -= size_of(c, i);
    }
    return rc;
}
