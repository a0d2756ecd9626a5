/* See feed.h. */
#include "engine/annotate/feed.h"

#include "engine/annotate/extsort.h"
#include "engine/annotate/source.h"
#include "engine/core/rng.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { AHEAD_ROWS = 64 };
static const int64_t AHEAD_BYTES = 512ll << 20;

struct mull__feed {
    mull__annotation *a;
    const mull_session *s;
    mull__media_cache *cache; /* the annotation's: items live longer than this */
    uint8_t *state;           /* [shards], the feed thread's */
    int64_t at;               /* the shard that the reader stands at */
    mull__source *in;
    int plan;
    FILE *twice;
    int64_t twice_row, twice_line; /* the next repeated id, row INT64_MAX at the end */
    bool started;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* under lock */
    mull__item *first, *last;
    int rows;
    int64_t bytes;
    mull__counts others; /* of shards that other processes completed meanwhile */
    bool quit, ended;
    int rc;
    mull_error err;
};

void mull__item_free(mull__item *i) {
    if (!i) return;
    for (int c = 0; i->choices && c < i->parsed.choices; c++) free(i->choices[c].text);
    free(i->choices);
    for (size_t m = 0; m < i->nmedia; m++) mull__media_cache_put(i->cache, i->media[m]);
    free(i->media);
    free(i->list);
    mull_ids_fini(&i->ids);
    mull_row_fini(&i->parsed);
    free(i->why);
    free(i);
}

mull__asked mull__item_asked(const mull__annotation *a, const mull__item *i) {
    return (mull__asked){.batch = i->parsed.batch,
                         .custom_id = i->parsed.custom_id,
                         .model = i->parsed.model ? i->parsed.model : a->model_name,
                         .line = i->line};
}

/* Takes item. False when the feed has to end. */
static bool push(mull__feed *f, mull__item *i) {
    pthread_mutex_lock(&f->lock);
    while (!f->quit && f->rows > 0 && (f->rows >= AHEAD_ROWS || f->bytes + i->media_bytes > AHEAD_BYTES))
        pthread_cond_wait(&f->changed, &f->lock);
    bool go = !f->quit;
    if (go) {
        *(f->first ? &f->last->next : &f->first) = i;
        f->last = i;
        f->rows++;
        f->bytes += i->media_bytes;
        pthread_cond_broadcast(&f->changed);
    }
    pthread_mutex_unlock(&f->lock);
    if (!go && i->announces) mull__shard_close(i->shard);
    if (!go) mull__item_free(i);
    return go;
}

static int next_twice(mull__feed *f, int64_t row) {
    uint8_t rec[16];
    while (f->twice_row < row) {
        if (fread(rec, 1, sizeof rec, f->twice) != sizeof rec) {
            f->twice_row = INT64_MAX;
            break;
        }
        f->twice_row = (int64_t)mull__get64(rec);
        f->twice_line = (int64_t)mull__get64(rec + 8);
    }
    return f->twice_row == row;
}

static int load_media(mull__feed *f, mull__item *i, mull_error *err) {
    const mull_row *r = &i->parsed;
    mull_media_limits limits = f->s->limits;
    i->code = MULL_ROW_REQUEST;
    int rc = mull_media_limits_override(r->body, "body", &limits, err);
    if (rc) return rc;
    i->code = MULL_ROW_MEDIA;
    i->cache = f->cache;
    i->media = calloc(r->nrefs + 1, sizeof *i->media);
    i->list = calloc(r->nrefs + 1, sizeof *i->list);
    if (!i->media || !i->list) return mull_fail(err, MULL_ENOMEM, "cannot load the media", "", "", "out of memory");
    for (size_t m = 0; m < r->nrefs; m++) {
        rc = mull__media_cache_get(f->cache, &f->a->roots, &r->refs[m], &limits, &i->media[m], err);
        if (rc) return rc;
        i->list[m] = mull__medium_media(i->media[m]);
        i->nmedia = m + 1;
        i->media_bytes += i->list[m]->tokens * 4 * 1176 * (int64_t)sizeof(float);
    }
    return MULL_OK;
}

static int render(mull__feed *f, mull__item *i, mull_error *err) {
    int64_t *tokens = calloc(i->nmedia + 1, sizeof *tokens);
    if (!tokens) return mull_fail(err, MULL_ENOMEM, "cannot render the prompt", "", "", "out of memory");
    for (size_t m = 0; m < i->nmedia; m++) tokens[m] = i->list[m]->tokens;
    i->code = MULL_ROW_REQUEST;
    int rc = mull_chat_render(f->s->tok, i->parsed.messages, tokens, i->nmedia, &f->s->render, NULL, &i->ids, err);
    free(tokens);
    return rc;
}

/* A seed of its own for each row and choice, unless the row says one. */
static void seed(const mull__feed *f, mull__item *i) {
    uint32_t r[4];
    if (i->parsed.seeded) return;
    mull_philox(f->s->sampling.seed, (uint64_t)i->row, 0x726f77, r);
    i->parsed.sampling.seed = (uint64_t)r[0] << 32 | r[1];
}

static int prepare(mull__feed *f, const mull__line *l, mull__item *i, mull_error *err) {
    if (l->too_long) {
        i->code = MULL_ROW_TOO_LONG;
        return mull_fail(err, MULL_ELIMIT, MULL_ROW_WHAT, "", "", "it has more than %d bytes", MULL_ROW_BYTES_MAX);
    }
    bool repeated = next_twice(f, i->row);
    int rc = mull_row_parse(l->data, l->len, &f->s->sampling, &i->parsed, &i->code, err);
    if (l->problem) /* its custom_id is known now */
        return mull_fail(err, MULL_EARG, MULL_ROW_WHAT, "prompt", "", "%s", l->problem);
    if (!rc && repeated) {
        i->code = MULL_ROW_DUPLICATE;
        return mull_fail(err, MULL_EARG, MULL_ROW_WHAT, "custom_id", "give each row its own", "line %lld has the same",
                         (long long)f->twice_line);
    }
    if (!rc) rc = load_media(f, i, err);
    if (!rc) rc = render(f, i, err);
    if (rc) return rc;
    i->code = MULL_ROW_OK;
    seed(f, i);
    /* What was rendered, and data URLs above all, need not wait in memory. */
    free(i->parsed.refs);
    i->parsed.refs = NULL;
    i->parsed.messages = NULL;
    json_object_del((json_t *)(uintptr_t)i->parsed.body, "messages");
    return MULL_OK;
}

/* One row into the queue; only what is wrong with the machine, not with the row, is an error here. */
static int feed_row(mull__feed *f, mull__shard *shard, const mull__line *l, int64_t row, mull_error *err) {
    mull__item *i = calloc(1, sizeof *i);
    mull_error why = {0};
    if (!i) return mull_fail(err, MULL_ENOMEM, "cannot take a row", "", "", "out of memory");
    i->shard = shard;
    i->row = row;
    i->line = l->number;
    mull__row_id_make(f->a->work_hex, row, l->data, l->len, &i->id);
    int rc = prepare(f, l, i, &why);
    if (rc && rc != MULL_ENOMEM && !(i->why = malloc(sizeof *i->why))) rc = MULL_ENOMEM;
    if (rc == MULL_ENOMEM) {
        mull__item_free(i);
        return mull_fail(err, MULL_ENOMEM, "cannot take a row", "", "use less max_pixels, or a machine with more",
                         "out of memory at line %lld", (long long)l->number);
    }
    if (rc) *i->why = why;
    return push(f, i) ? MULL_OK : mull__cancelled(err);
}

static int seek(mull__feed *f, int64_t shard, mull_error *err) {
    uint8_t at[16];
    if (pread(f->plan, at, sizeof at, (off_t)(shard * 16)) != (ssize_t)sizeof at)
        return mull_fail(err, MULL_EFORMAT, "cannot continue", ".mull/plan", "remove the output folder and start again",
                         "it cannot be read");
    return mull__source_seek(f->in, mull__shard_first(f->a, shard), (int64_t)mull__get64(at),
                             (int64_t)mull__get64(at + 8), err);
}

/* Takes lock. */
static int feed_shard(mull__feed *f, int64_t k, int lock, mull_error *err) {
    mull__shard *shard;
    mull__line l;
    int64_t first = mull__shard_first(f->a, k), rows = mull__shard_size(f->a, k);
    int rc = mull__shard_open(f->a->work, k, first, rows, &shard, err);
    if (rc) {
        close(lock);
        return rc;
    }
    shard->lock = lock;
    size_t bytes = (size_t)(rows + 7) / 8;
    uint8_t *had = malloc(bytes); /* the taker goes on to change the shard's own */
    mull__item *i = had ? calloc(1, sizeof *i) : NULL;
    if (!i) {
        mull__shard_close(shard);
        free(had);
        return mull_fail(err, MULL_ENOMEM, "cannot take a row", "", "", "out of memory");
    }
    memcpy(had, shard->done, bytes);
    i->shard = shard;
    i->announces = true;
    if (!push(f, i)) rc = mull__cancelled(err);
    for (int64_t r = 0; r < rows && !rc; r++) {
        int got = mull__source_next(f->in, &l, err);
        if (got == 0)
            rc = mull_fail(err, MULL_EARG, "cannot annotate", f->a->job->input, "start again with another --out",
                           "the input has fewer rows than when it was first read");
        else if (got < 0)
            rc = got;
        else if (!(had[r >> 3] >> (r & 7) & 1))
            rc = feed_row(f, shard, &l, first + r, err);
    }
    free(had);
    return rc;
}

/* The reader to the beginning of shard k. A compressed input is read again from its start to go back. */
static int stand_at(mull__feed *f, int64_t k, mull_error *err) {
    if (f->at == k) return MULL_OK;
    if (f->at > k) {
        mull__source_close(f->in);
        f->in = NULL;
        f->twice_row = f->twice_line = -1;
        rewind(f->twice);
        int rc = mull__source_open(f->a->rows_path, f->a->job, NULL, &f->in, err);
        if (rc) return rc;
    }
    f->at = k;
    return seek(f, k, err);
}

/* Another process has completed it: notes that. 1: so it is. */
static int look_at(mull__feed *f, int64_t k, mull_error *err) {
    mull__counts c = {0};
    int rc = mull__shard_complete(f->a->work, k, &c, err);
    if (rc <= 0 || c.rows != mull__shard_size(f->a, k)) return rc < 0 ? rc : 0;
    f->state[k] = MULL__SHARD_COMPLETE;
    pthread_mutex_lock(&f->lock);
    mull__counts_add(&f->others, &c);
    pthread_mutex_unlock(&f->lock);
    return 1;
}

/* One shard: feeds it when it is to be had. *open counts those that others have. */
static int try_shard(mull__feed *f, int64_t k, int64_t *open, mull_error *err) {
    int lock, rc = look_at(f, k, err);
    if (rc) return rc < 0 ? rc : MULL_OK;
    rc = mull__shard_claim(f->a->work, k, &lock, err);
    if (rc <= 0) {
        ++*open;
        return rc;
    }
    /* Between our look and the lock: its end, or the end of all, after which there are no markers. */
    rc = look_at(f, k, err);
    if (rc == 0 && mull__complete_there(f->a)) {
        f->state[k] = MULL__SHARD_COMPLETE;
        rc = 1;
    }
    if (rc) {
        close(lock);
        return rc < 0 ? rc : MULL_OK;
    }
    rc = stand_at(f, k, err);
    if (rc) {
        close(lock);
        return rc;
    }
    f->state[k] = MULL__SHARD_MINE;
    f->at = k + 1;
    return feed_shard(f, k, lock, err);
}

/* A pause in which it may be told to end. False: it has to. */
static bool nap(mull__feed *f) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_nsec += 200000000;
    t.tv_sec += t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    pthread_mutex_lock(&f->lock);
    while (!f->quit && pthread_cond_timedwait(&f->changed, &f->lock, &t) == 0) {
    }
    bool go = !f->quit;
    pthread_mutex_unlock(&f->lock);
    return go;
}

static void *feed_all(void *arg) {
    mull__feed *f = arg;
    mull_error err = {0};
    int rc = MULL_OK;
    /* What others work on is looked at again and again: it becomes complete, or, when they die, ours. */
    for (int64_t open = 1; open && !rc;) {
        open = 0;
        for (int64_t k = 0; k < f->a->shards && !rc; k++)
            if (f->state[k] == MULL__SHARD_OPEN) rc = try_shard(f, k, &open, &err);
        if (open && !rc && !nap(f)) rc = mull__cancelled(&err);
    }
    if (!rc && !mull__source_unchanged(f->in))
        rc = mull_fail(&err, MULL_EARG, "cannot annotate", f->a->job->input, "start again with another --out",
                       "the input changed while it was read");
    pthread_mutex_lock(&f->lock);
    f->ended = true;
    f->rc = rc;
    f->err = err;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
    return NULL;
}

mull__counts mull__feed_others(mull__feed *f) {
    pthread_mutex_lock(&f->lock);
    mull__counts c = f->others;
    pthread_mutex_unlock(&f->lock);
    return c;
}

int mull__feed_start(mull__annotation *a, const mull_session *s, uint8_t *state, mull__feed **out, mull_error *err) {
    mull__feed *f = *out = calloc(1, sizeof *f);
    if (!f) return mull_fail(err, MULL_ENOMEM, "cannot annotate", "", "", "out of memory");
    *f = (mull__feed){.cache = a->media, .a = a, .s = s, .state = state, .plan = -1, .twice_row = -1};
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->changed, NULL);
    int rc = mull__source_open(a->rows_path, a->job, NULL, &f->in, err);
    if (!rc && (f->plan = openat(a->work, "plan", O_RDONLY | O_CLOEXEC)) < 0)
        rc = mull_fail_errno(err, errno, "cannot continue", ".mull/plan", "remove the output folder and start again");
    int fd = rc ? -1 : openat(a->work, "twice", O_RDONLY | O_CLOEXEC);
    if (!rc && (fd < 0 || !(f->twice = fdopen(fd, "r"))))
        rc = mull_fail_errno(err, errno, "cannot continue", ".mull/twice", "remove the output folder and start again");
    if (rc) return rc;
    sigset_t all, old; /* the signals are the main thread's */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    f->started = pthread_create(&f->thread, NULL, feed_all, f) == 0;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return f->started ? MULL_OK : mull_fail(err, MULL_EIO, "cannot annotate", "", "", "the system refused a thread");
}

int mull__feed_take(mull__feed *f, bool wait, mull__item **out, mull_error *err) {
    int rc = 2;
    pthread_mutex_lock(&f->lock);
    if (!f->first && !f->ended && wait) {
        struct timespec t;
        clock_gettime(CLOCK_REALTIME, &t);
        t.tv_nsec += 200000000;
        t.tv_sec += t.tv_nsec / 1000000000;
        t.tv_nsec %= 1000000000;
        pthread_cond_timedwait(&f->changed, &f->lock, &t);
    }
    mull__item *i = f->first;
    if (i) {
        f->first = i->next;
        i->next = NULL;
        f->rows--;
        f->bytes -= i->media_bytes;
        *out = i;
        rc = 1;
        pthread_cond_broadcast(&f->changed);
    } else if (f->ended) {
        rc = f->rc;
        if (rc) *err = f->err;
    }
    pthread_mutex_unlock(&f->lock);
    return rc;
}

void mull__feed_stop(mull__feed *f) {
    if (!f) return;
    pthread_mutex_lock(&f->lock);
    f->quit = true;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
    if (f->started) pthread_join(f->thread, NULL);
    while (f->first) {
        mull__item *i = f->first;
        f->first = i->next;
        if (i->announces) mull__shard_close(i->shard);
        mull__item_free(i);
    }
    mull__source_close(f->in);
    if (f->plan >= 0) close(f->plan);
    if (f->twice) fclose(f->twice);
    pthread_mutex_destroy(&f->lock);
    pthread_cond_destroy(&f->changed);
    free(f);
}
