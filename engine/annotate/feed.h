/* Rows made ready ahead of the model, on a thread of their own: read, parsed, media decoded, prompt rendered. The queue
 * is bounded in rows and in bytes of patches. Shards are opened here too, in order; a row belongs to the shard that was
 * announced last. */
#ifndef MULL_ENGINE_ANNOTATE_FEED_H
#define MULL_ENGINE_ANNOTATE_FEED_H

#include "engine/annotate/media_cache.h"
#include "engine/annotate/record.h"
#include "engine/annotate/state.h"

typedef struct mull__item {
    mull__shard *shard;
    bool announces; /* no row: shard is open from here on, and the taker's */
    int64_t row, line;
    mull_row parsed; /* its messages are gone by now */
    mull__row_id id;
    mull_row_code code; /* not OK: why says what is wrong with the row */
    mull_error *why;
    mull_ids ids;
    mull__media_cache *cache; /* that media come from */
    mull__medium **media;
    const mull_media **list;
    size_t nmedia;
    int64_t media_bytes;
    /* the taker's */
    mull__choice *choices;
    int have;
    int64_t prompt_tokens;
    struct mull__item *next;
} mull__item;

typedef struct mull__feed mull__feed;

enum { MULL__SHARD_OPEN, MULL__SHARD_MINE, MULL__SHARD_COMPLETE };

/* state: [shards] of the above, known to be complete or open; the feed's from here on until it is stopped. Shards that
 * other processes work on are left to them; it ends when none is open. */
int mull__feed_start(mull__annotation *a, const mull_session *s, uint8_t *state, mull__feed **out, mull_error *err);
/* What other processes have completed since the start. */
mull__counts mull__feed_others(mull__feed *f);
/* 1: *out is the next item, the caller's. 0: no more. 2: none ready (only when !wait; waits 200 ms at most). Negative:
 * the feed failed. */
int mull__feed_take(mull__feed *f, bool wait, mull__item **out, mull_error *err);
void mull__feed_stop(mull__feed *f);
void mull__item_free(mull__item *i);
/* What a record says about the row. */
mull__asked mull__item_asked(const mull__annotation *a, const mull__item *i);

#endif
