/* Answering rows: items from the feed go into the inference engine while it has room, answers go into their shard as
 * they come. One thread, but for the feed's. */
#include "engine/annotate/feed.h"
#include "engine/infer/clock.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BATCH = 32, SLOTS = 256, SYNC_ROWS = 64, CHOICE_BITS = 8 };
static const double SYNC_MS = 1000;
static const int64_t MEDIA_BYTES = 1ll << 30;    /* of patches, inside the engine */
static const int64_t UNUSED_MEDIA = 128ll << 20; /* of patches that rows to come may share */

typedef struct work {
    mull__annotation *a;
    mull_session *s;
    mull_infer *f;
    mull__feed *feed;
    mull__shard *open; /* list */
    mull__item *slots[SLOTS];
    int nslots, batch; /* rows inside the engine, and the most sequences */
    int64_t media_bytes;
    int64_t unsynced;
    double synced_ms, start_ms;
    mull__counts at_start;
    mull__item *next; /* taken, waits for room */
    bool ended;
    int rc; /* set inside callbacks */
    mull_error *err;
} work;

int mull__cancelled(mull_error *err) {
    return mull_fail(err, MULL_ECANCELLED, "stopped", "annotate", "start it again to go on", "it was asked to stop");
}

static void fail(work *w, int rc, const mull_error *why) {
    if (w->rc) return;
    w->rc = rc;
    *w->err = *why;
}

/* A shard whose rows are all there is finished and leaves the list. */
static int settle(work *w, mull__shard *s, mull_error *err) {
    if (s->counts.rows < s->rows) return MULL_OK;
    int rc = mull__shard_finish(s, w->a->work, err);
    if (rc) return rc;
    for (mull__shard **at = &w->open; *at; at = &(*at)->next)
        if (*at == s) {
            *at = s->next;
            break;
        }
    mull__shard_close(s);
    return MULL_OK;
}

static int sync_all(work *w, mull_error *err) {
    int rc = MULL_OK;
    for (mull__shard *s = w->open; s && !rc; s = s->next) rc = mull__shard_sync(s, err);
    w->unsynced = 0;
    w->synced_ms = mull_clock_ms();
    return rc;
}

/* Writes the record of a row and lets go of the item. */
static void write_record(work *w, mull__item *i, mull__kind kind, int64_t out_tokens, const mull_buf *line) {
    mull_error err = {0};
    int rc = mull__shard_append(i->shard, i->row, kind, i->prompt_tokens, out_tokens, line->data, line->len, &err);
    if (!rc) {
        mull__counts_add(&w->a->counts, &(mull__counts){1, kind == MULL_KIND_OK, kind == MULL_KIND_ERROR,
                                                        i->prompt_tokens, out_tokens});
        w->unsynced++;
        rc = settle(w, i->shard, &err);
    }
    if (rc) fail(w, rc, &err);
    mull__item_free(i);
}

static void write_error(work *w, mull__item *i, mull_row_code code, const mull_error *why) {
    mull__asked asked = mull__item_asked(w->a, i);
    mull_buf line = {0};
    mull_error err = {0};
    i->prompt_tokens = 0;
    int rc = mull__record_error(&asked, &i->id, mull_row_code_name(code), why, &line, &err);
    if (rc) {
        fail(w, rc, &err);
        mull__item_free(i);
    } else {
        write_record(w, i, MULL_KIND_ERROR, 0, &line);
    }
    mull_buf_fini(&line);
}

static void write_answer(work *w, mull__item *i) {
    mull__asked asked = mull__item_asked(w->a, i);
    mull_buf line = {0};
    mull_error err = {0};
    int64_t out = 0;
    for (int c = 0; c < i->parsed.choices; c++) out += i->choices[c].tokens;
    int rc = mull__record_answer(&asked, &i->id, i->choices, i->parsed.choices, i->prompt_tokens, &line, &err);
    if (rc) {
        fail(w, rc, &err);
        mull__item_free(i);
    } else {
        write_record(w, i, MULL_KIND_OK, out, &line);
    }
    mull_buf_fini(&line);
}

static mull_row_code code_of(int rc) {
    return rc == MULL_ELIMIT ? MULL_ROW_CONTEXT : rc == MULL_EARG ? MULL_ROW_REQUEST : MULL_ROW_INTERNAL;
}

static void on_done(void *ctx, const mull_result *r) {
    work *w = ctx;
    size_t slot = (size_t)(r->id >> CHOICE_BITS);
    mull__item *i = w->slots[slot];
    mull__choice *c = &i->choices[r->id & ((1 << CHOICE_BITS) - 1)];
    c->text = malloc(r->text_len + 1);
    if (!c->text) {
        mull_error err = {0};
        fail(w, mull_fail(&err, MULL_ENOMEM, "cannot keep answers", "", "", "out of memory"), &err);
        return;
    }
    memcpy(c->text, r->text, r->text_len);
    c->text[r->text_len] = 0;
    c->len = r->text_len;
    c->finish = r->finish;
    c->tokens = (int64_t)r->n;
    i->prompt_tokens = r->prompt_tokens;
    if (r->finish == MULL_FINISH_ERROR && !i->why && (i->why = malloc(sizeof *i->why))) *i->why = r->error;
    if (++i->have < i->parsed.choices) return;
    w->slots[slot] = NULL;
    w->nslots--;
    w->media_bytes -= i->media_bytes;
    /* No memory is the machine's fault, not the row's. */
    if (i->why && i->why->code == MULL_ENOMEM) {
        fail(w, MULL_ENOMEM, i->why);
        mull__item_free(i);
    } else if (i->why) {
        write_error(w, i, code_of(i->why->code), i->why);
    } else {
        write_answer(w, i);
    }
}

/* A row into the engine, all its choices or none. */
static void submit(work *w, mull__item *i) {
    size_t slot = 0;
    mull_error err = {0};
    while (w->slots[slot]) slot++;
    int n = i->parsed.choices, rc = MULL_OK;
    i->choices = calloc((size_t)n, sizeof *i->choices);
    if (!i->choices) rc = mull_fail(&err, MULL_ENOMEM, "cannot take a row", "", "", "out of memory");
    uint64_t seed = i->parsed.sampling.seed;
    for (int c = 0; c < n && !rc; c++) {
        mull_request r = {.id = (uint64_t)slot << CHOICE_BITS | (uint64_t)c,
                          .ids = i->ids.data,
                          .n = i->ids.len,
                          .media = i->list,
                          .nmedia = i->nmedia,
                          .sampling = i->parsed.sampling};
        r.sampling.seed = seed + (uint64_t)c * 0x9e3779b97f4a7c15u; /* the first choice is what n = 1 gives */
        rc = mull_infer_submit(w->f, &r, &err);
        if (rc && c > 0) {
            fail(w, rc, &err); /* the same request as the first: only memory can be missing */
            return;
        }
        if (!rc && c == 0) {
            w->slots[slot] = i;
            w->nslots++;
            w->media_bytes += i->media_bytes;
        }
    }
    if (!rc) {
        mull_ids_fini(&i->ids);
    } else if (rc == MULL_ENOMEM) {
        fail(w, rc, &err);
        mull__item_free(i);
    } else {
        write_error(w, i, code_of(rc), &err);
    }
}

static void take(work *w, mull__item *i) {
    if (i->announces) {
        mull__shard *s = i->shard;
        s->next = w->open;
        w->open = s;
        mull__counts_add(&w->a->counts, &s->counts);
        mull__counts_add(&w->at_start, &s->counts);
        w->a->resumed += s->counts.rows;
        mull_error err = {0};
        int rc = settle(w, s, &err);
        if (rc) fail(w, rc, &err);
        mull__item_free(i);
    } else if (i->code != MULL_ROW_OK) {
        mull_error why = *i->why;
        write_error(w, i, i->code, &why);
    } else {
        submit(w, i);
    }
}

static bool room(const work *w, const mull__item *i) {
    if (i->announces || i->code != MULL_ROW_OK || w->nslots == 0) return true;
    return w->nslots < SLOTS && mull_infer_pending(w->f) < w->batch && w->media_bytes + i->media_bytes <= MEDIA_BYTES;
}

/* Fills the engine from the feed; waits only when the engine has nothing to do. */
static int fill(work *w, mull_error *err) {
    for (;;) {
        if (w->rc) return w->rc;
        if (!w->next && !w->ended) {
            int rc = mull__feed_take(w->feed, w->nslots == 0, &w->next, err);
            if (rc < 0) return rc;
            w->ended = rc == 0;
            if (rc == 2) return MULL_OK;
        }
        if (!w->next || !room(w, w->next)) return MULL_OK;
        mull__item *i = w->next;
        w->next = NULL;
        take(w, i);
        mull_events_beat(w->a->ev);
    }
}

static void progress(const work *w, bool last) {
    mull__counts sum = w->a->counts, others = mull__feed_others(w->feed);
    mull__counts_add(&sum, &others); /* they go on while this process does: the rate is that of all */
    const mull__counts *c = &sum;
    int64_t rows = c->rows - w->at_start.rows, tokens = c->prompt_tokens + c->output_tokens;
    int64_t fresh = tokens - w->at_start.prompt_tokens - w->at_start.output_tokens;
    double s = (mull_clock_ms() - w->start_ms) / 1e3, left = (double)(w->a->rows - c->rows), eta = -1;
    if (fresh > 0 && c->rows > 0)
        eta = left * ((double)tokens / (double)c->rows) / ((double)fresh / s);
    else if (rows > 0)
        eta = left * s / (double)rows;
    mull_events_errors(w->a->ev, c->errors);
    mull_events_progress(w->a->ev, c->rows, w->a->rows, "rows", tokens, eta, last);
}

static double thread_cpu_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static int loop(work *w, mull_error *err) {
    int rc = MULL_OK;
    w->synced_ms = w->start_ms = mull_clock_ms();
    mull_events_loading(w->a->ev, false);
    for (;;) {
        if ((rc = fill(w, err))) return rc;
        if (mull_events_stopped(w->a->ev)) return mull__cancelled(err);
        if (w->nslots > 0) {
            double cpu = thread_cpu_ms();
            rc = mull_infer_step(w->f, err);
            w->a->model_cpu_ms += thread_cpu_ms() - cpu;
            if (rc < 0) return rc;
        }
        if (w->rc) return w->rc;
        if (w->unsynced >= SYNC_ROWS || (w->unsynced && mull_clock_ms() - w->synced_ms > SYNC_MS))
            if ((rc = sync_all(w, err))) return rc;
        progress(w, false);
        if (w->ended && !w->next && w->nslots == 0) return MULL_OK;
    }
}

/* Which shards are complete, and what they hold. */
static int look(mull__annotation *a, uint8_t *state, mull_error *err) {
    a->counts = (mull__counts){0};
    a->resumed = 0;
    for (int64_t k = 0; k < a->shards; k++) {
        mull__counts c = {0};
        mull_error why = {0};
        int rc = mull__shard_complete(a->work, k, &c, &why);
        if (rc < 0) *err = why;
        if (rc < 0) return rc;
        if (rc == 0 || c.rows != mull__shard_size(a, k)) continue;
        state[k] = MULL__SHARD_COMPLETE;
        mull__counts_add(&a->counts, &c);
        a->resumed += c.rows;
        mull_events_beat(a->ev);
        if (mull_events_stopped(a->ev)) return mull__cancelled(err);
    }
    return MULL_OK;
}

static int start(work *w, uint8_t *state, mull_error *err) {
    mull__annotation *a = w->a;
    int rc = look(a, state, err);
    if (rc) return rc;
    w->at_start = a->counts;
    mull_infer_opts opts = {.max_batch = w->batch, .cache_tokens = a->context};
    mull_infer_callbacks cb = {.ctx = w, .on_done = on_done};
    rc = mull_infer_create(w->s->model, w->s->tok, &opts, &cb, &w->f, err);
    if (!rc && a->context == 0) {
        /* From now on it is fixed: it decides where a long answer ends, whatever memory a later start finds. */
        mull_infer_stats stats;
        mull_infer_get_stats(w->f, &stats);
        a->context = stats.cache_tokens;
        rc = mull__manifest_write(a, err);
    }
    if (!rc) mull__unlock(a); /* others may join */
    if (!rc) rc = mull__feed_start(a, w->s, state, &w->feed, err);
    return rc;
}

static void fini(work *w) {
    mull__feed_stop(w->feed);
    mull_infer_destroy(w->f);
    if (w->next && w->next->announces) mull__shard_close(w->next->shard);
    mull__item_free(w->next);
    for (size_t i = 0; i < SLOTS; i++) mull__item_free(w->slots[i]);
    for (mull__shard *s = w->open, *next; s; s = next) {
        next = s->next;
        mull__shard_close(s);
    }
}

/* The totals, of whoever answered. */
static int recount(mull__annotation *a, int64_t resumed, mull_error *err) {
    uint8_t *state = calloc((size_t)a->shards + 1, 1);
    int rc = state ? look(a, state, err) : mull_fail(err, MULL_ENOMEM, "cannot annotate", "", "", "out of memory");
    a->resumed = resumed;
    free(state);
    return rc;
}

int mull__work(mull__annotation *a, mull_session *s, mull_error *err) {
    mull_error inside = {0}, ignored = {0};
    work w = {.a = a, .s = s, .batch = a->job->max_batch > 0 ? (int)a->job->max_batch : BATCH, .err = &inside};
    uint8_t *state = calloc((size_t)a->shards + 1, 1);
    if (!a->media) a->media = mull__media_cache_create(UNUSED_MEDIA);
    int rc = state && a->media ? start(&w, state, err)
                               : mull_fail(err, MULL_ENOMEM, "cannot annotate", "", "", "out of memory");
    if (!rc) {
        rc = loop(&w, err);
        if (rc && rc == w.rc) *err = inside;
        /* However it ended: what is answered is on the disk before anybody hears of it. */
        int synced = sync_all(&w, rc ? &ignored : err);
        if (!rc) rc = synced;
        progress(&w, true);
    }
    if (rc == MULL_ECANCELLED)
        mull_events_log(a->ev, "info", "stopped after %lld of %lld rows; they are kept", (long long)a->counts.rows,
                        (long long)a->rows);
    fini(&w);
    free(state);
    return rc ? rc : recount(a, a->resumed, err);
}
