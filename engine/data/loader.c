/* Threads that build samples ahead of the trainer. A rank's samples are numbered on from its start; a thread takes the
 * next number, builds that sample (replacing what is left out by the next index of the same dataset) and puts it into
 * its slot; the consumer takes the slots in order. So the order, the replacements and the counts depend on the position
 * alone. Ahead of the step that is waited for, threads stop at prefetch_tokens. */
#include "engine/data/loader_internal.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TRIES_MAX = 1000, AHEAD_STEPS = 4 };

typedef struct left_out {
    mull_draw draw;
    bool bad;
    mull_error why;
} left_out;

typedef struct slot {
    bool ready;
    int rc; /* of the sample: nothing usable was found, or memory is gone */
    mull_error err;
    mull_sample sample;
    left_out *notes; /* samples that it replaces */
    size_t nnotes;
} slot;

struct mull_loader {
    const mull_recipe *r;
    mull_mix *mix;
    const mull_builder *b;
    mull_loader_opts o;
    int64_t per_rank, global; /* samples of a step */
    mull_position at;         /* of the step that is being handed out */

    pthread_mutex_t lock;
    pthread_cond_t work, done;
    pthread_t *threads;
    int nthreads;
    bool stop;
    slot *slots;                  /* ring of nslots, number n in slot n % nslots */
    int64_t nslots, next, wanted; /* next number to build; numbers below wanted are waited for */
    int64_t tokens;               /* in ready slots */

    mull_sample *step; /* [per_rank] of the step being handed out */
    int *group;
    int groups, given;
};

/* ---- one sample */
static int note(void *ctx, const mull_draw *d, bool bad, const mull_error *why) {
    slot *s = ctx;
    left_out *p = realloc(s->notes, (s->nnotes + 1) * sizeof *p);
    if (!p) return MULL_ENOMEM;
    s->notes = p;
    p[s->nnotes++] = (left_out){*d, bad, *why};
    return MULL_OK;
}

int mull_sample_at(mull_mix *mix, const mull_builder *b, int64_t place, mull_left_out_fn tell, void *ctx,
                   mull_sample *out, mull_error *err) {
    mull_draw d = mull_mix_draw(mix, place);
    mull_dataset *set = mull_mix_set(mix, d.set);
    int64_t rows = mull_dataset_rows(set), tries = rows < TRIES_MAX ? rows : TRIES_MAX;
    for (int64_t t = 0; t < tries; t++) {
        mull_example e;
        int rc = mull_dataset_get(set, d.index, d.key, &e, err);
        if (!rc) {
            rc = mull_sample_build(b, &e, out, err);
            mull_example_fini(&e);
        }
        if (!rc) return MULL_OK;
        /* What the row cannot help ends the run; the row's own faults leave it out. */
        if (rc == MULL_ENOMEM || rc == MULL_EUNSUPPORTED || rc == MULL_EINTERNAL) return rc;
        if (tell && tell(ctx, &d, rc != MULL_SKIP, err)) return rc;
        d.index = (d.index + 1) % rows;
    }
    mull_error last = *err;
    return mull_fail(
        err, MULL_EFORMAT, "no sample can be used", mull_set_name(d.set), "look at it with mull-engine data",
        "%lld rows in a row were left out, the last one (%.200s): %.300s", (long long)tries, last.where, last.why);
}

static void build(mull_loader *l, int64_t n, slot *s) {
    int64_t step = n / l->per_rank, k = n % l->per_rank;
    s->rc = mull_sample_at(l->mix, l->b, step * l->global + l->o.rank * l->per_rank + k, note, s, &s->sample, &s->err);
}

/* ---- threads */
/* Whether the next number may be built now. */
static bool may_build(const mull_loader *l) {
    int64_t first = l->at.step * l->per_rank;
    if (l->next - first >= l->nslots) return false;
    return l->next < l->wanted || l->tokens < l->r->prefetch_tokens;
}

static void *worker(void *ctx) {
    mull_loader *l = ctx;
    pthread_mutex_lock(&l->lock);
    while (!l->stop) {
        if (!may_build(l)) {
            pthread_cond_wait(&l->work, &l->lock);
            continue;
        }
        int64_t n = l->next++;
        slot *s = &l->slots[n % l->nslots];
        pthread_mutex_unlock(&l->lock);
        build(l, n, s);
        pthread_mutex_lock(&l->lock);
        s->ready = true;
        l->tokens += (int64_t)s->sample.n;
        pthread_cond_broadcast(&l->done);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

static int thread_count(const mull_recipe *r, const mull_loader_opts *o) {
    long n = o->threads ? o->threads : (long)r->loader_threads;
    if (n > 0) return (int)n;
    n = sysconf(_SC_NPROCESSORS_ONLN) - 1;
    return n < 1 ? 1 : n > 4 ? 4 : (int)n;
}

int mull_loader_open(const mull_recipe *r, mull_mix *mix, const mull_builder *b, const mull_loader_opts *opts,
                     mull_loader **out, mull_error *err) {
    mull_loader *l = calloc(1, sizeof *l);
    *out = NULL;
    if (!l) return mull_fail(err, MULL_ENOMEM, "cannot load data", NULL, NULL, "out of memory");
    l->r = r;
    l->mix = mix;
    l->b = b;
    if (opts) l->o = *opts;
    if (l->o.world < 1) l->o.world = 1;
    l->per_rank = r->per_device_train_batch_size * r->gradient_accumulation_steps;
    l->global = l->per_rank * l->o.world;
    l->at = l->o.start;
    l->next = l->wanted = l->at.step * l->per_rank;
    l->nslots = l->per_rank * AHEAD_STEPS;
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->work, NULL);
    pthread_cond_init(&l->done, NULL);
    int threads = thread_count(r, &l->o);
    /* Signals are the trainer's: its threads see them, these do not. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    l->slots = calloc((size_t)l->nslots, sizeof *l->slots);
    l->step = calloc((size_t)l->per_rank, sizeof *l->step);
    l->group = calloc((size_t)l->per_rank, sizeof *l->group);
    l->threads = calloc((size_t)threads, sizeof *l->threads);
    int rc = l->slots && l->step && l->group && l->threads ? MULL_OK : MULL_ENOMEM;
    while (!rc && l->nthreads < threads && !pthread_create(&l->threads[l->nthreads], NULL, worker, l)) l->nthreads++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc || !l->nthreads) {
        mull_loader_close(l);
        return mull_fail(err, rc ? rc : MULL_EIO, "cannot load data", NULL, NULL,
                         rc ? "out of memory" : "the system gives no thread");
    }
    *out = l;
    return MULL_OK;
}

static void clear(slot *s) {
    mull_sample_fini(&s->sample);
    free(s->notes);
    memset(s, 0, sizeof *s);
}

void mull_loader_close(mull_loader *l) {
    if (!l) return;
    pthread_mutex_lock(&l->lock);
    l->stop = true;
    pthread_cond_broadcast(&l->work);
    pthread_mutex_unlock(&l->lock);
    for (int i = 0; i < l->nthreads; i++) pthread_join(l->threads[i], NULL);
    for (int64_t i = 0; l->slots && i < l->nslots; i++) clear(&l->slots[i]);
    for (int64_t i = 0; l->step && i < l->per_rank; i++) mull_sample_fini(&l->step[i]);
    free(l->slots);
    free(l->step);
    free(l->group);
    free(l->threads);
    pthread_cond_destroy(&l->work);
    pthread_cond_destroy(&l->done);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

int64_t mull_loader_steps(const mull_loader *l) {
    int64_t n = mull_mix_rows(l->mix) / l->global;
    return n < 1 ? 1 : n;
}

/* ---- the consumer */
/* Counts what slot s says and tells it; then the sample is taken. */
static int take(mull_loader *l, slot *s, mull_sample *out, mull_error *err) {
    enum { FEW = 20 }; /* a share of fewer draws than this says little */
    mull_position *p = &l->at;
    for (size_t i = 0; i < s->nnotes; i++) {
        const left_out *n = &s->notes[i];
        p->drawn++;
        p->bad += n->bad;
        p->skipped += !n->bad;
        if (l->o.note) l->o.note(l->o.ctx, &n->draw, n->bad, &n->why);
        if (n->bad && p->drawn >= FEW && (double)p->bad > l->r->max_bad_share * (double)p->drawn)
            return mull_fail(err, MULL_ELIMIT, "too many bad samples", n->why.where,
                             "correct the data, or raise max_bad_share",
                             "%lld of %lld are bad, the share allowed is %g; the last one: %.300s", (long long)p->bad,
                             (long long)p->drawn, l->r->max_bad_share, n->why.why);
    }
    if (s->rc) {
        if (err) *err = s->err;
        return s->rc;
    }
    p->drawn++;
    *out = s->sample;
    memset(&s->sample, 0, sizeof s->sample);
    return MULL_OK;
}

/* Waits for the samples of the step and plans its batches. */
static int begin_step(mull_loader *l, mull_error *err) {
    int64_t first = l->at.step * l->per_rank;
    int rc = MULL_OK;
    pthread_mutex_lock(&l->lock);
    l->wanted = first + l->per_rank;
    pthread_cond_broadcast(&l->work);
    for (int64_t k = 0; !rc && k < l->per_rank; k++) {
        slot *s = &l->slots[(first + k) % l->nslots];
        while (!s->ready) pthread_cond_wait(&l->done, &l->lock);
        l->tokens -= (int64_t)s->sample.n;
        rc = take(l, s, &l->step[k], err);
        clear(s);
    }
    pthread_mutex_unlock(&l->lock);
    size_t *lengths = rc ? NULL : calloc((size_t)l->per_rank, sizeof *lengths);
    if (!rc && !lengths) rc = MULL_ENOMEM;
    for (int64_t k = 0; !rc && k < l->per_rank; k++) lengths[k] = l->step[k].n;
    if (!rc)
        l->groups = mull__pack_plan(lengths, (size_t)l->per_rank, l->r->pack_tokens, l->r->per_device_train_batch_size,
                                    l->group);
    free(lengths);
    if (rc == MULL_ENOMEM || (!rc && l->groups < 0))
        rc = mull_fail(err, MULL_ENOMEM, "cannot load data", NULL, NULL, "out of memory");
    l->given = 0;
    return rc;
}

int mull_loader_next(mull_loader *l, mull_batch *out, mull_error *err) {
    memset(out, 0, sizeof *out);
    int rc = l->given == l->groups ? begin_step(l, err) : MULL_OK;
    if (!rc) rc = mull__pack_batch(l->step, l->group, (size_t)l->per_rank, l->given, out, err);
    if (rc) {
        /* A step that failed is not handed out in parts. */
        l->given = l->groups = 0;
        return rc;
    }
    out->step = l->at.step;
    out->last = ++l->given == l->groups;
    if (out->last) {
        pthread_mutex_lock(&l->lock);
        l->at.step++;
        pthread_cond_broadcast(&l->work);
        pthread_mutex_unlock(&l->lock);
    }
    return MULL_OK;
}

mull_position mull_loader_position(const mull_loader *l) {
    return l->at;
}
