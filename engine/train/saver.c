/* Saving beside training: the trained values and their moments are copied, a thread writes the copy as any checkpoint
 * is written and clears away what retention does not keep, and the run is told of it at the next step after it has
 * ended: of its path, or of the failure, which ends the run there (earlier checkpoints are whole). A step waits for the
 * copy only, and for an earlier save that is not done when the next is due. Frozen values do not change and are not
 * copied.
 *
 * With several ranks each copies what it would lose: with ZeRO the values it owns, else rank 0 everything and the
 * others nothing. Their threads write it as the ranks do together, over a channel of their own (comm.h): tensors that
 * are in parts go to rank 0, every rank writes its shard, and rank 0 publishes when all of them are on disk.
 *
 * Saved at once instead: the last checkpoint, and when the machine has not the memory for the copies. */
#include "engine/train/trainer_internal.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static const char *const WHAT = "cannot save the checkpoint";

typedef struct removed {
    int64_t step;
    char path[4096];
} removed;

struct mull__saver {
    /* the copy; kept for the next one */
    float *w;        /* [trained]; with ZeRO only some of it is in memory at a time */
    float *m, *v;    /* [hi - lo] */
    mull_comm *comm; /* of the threads; NULL: one rank */
    mull_ranks *ranks;
    mull_param *list;
    int64_t room;
    /* the save under way */
    pthread_t thread;
    bool running, done; /* running: to be joined; done: under the lock */
    pthread_mutex_t lock;
    mull_params params;
    mull_train_state state;
    mull_checkpoint_opts opts;
    mull_retention keep;
    const mull_config *config;
    const char *out;
    char path[4096];
    removed *gone;
    size_t ngone;
    int rc;
    mull_error err;
};

/* ---- what both ways do ---- */

static mull_checkpoint_opts opts_of(const mull_trainer *t) {
    return (mull_checkpoint_opts){.base = t->model,
                                  .lora_alpha = t->r->lora_alpha,
                                  .lora_rank = t->r->lora_rank,
                                  .lora_targets = t->r->lora_targets,
                                  .ranks = t->ranks};
}

static mull_retention keep_of(const mull_trainer *t) {
    return (mull_retention){.keep_last = t->r->save_total_limit,
                            .keep_best = t->r->metric_for_best_model ? t->r->save_best_limit : 0};
}

static int save_now(mull_trainer *t, const mull_train_hooks *hooks, mull_error *err) {
    char path[4096];
    mull_checkpoint_opts o = opts_of(t);
    int rc = mull_checkpoint_save(t->out, mull_trainer_config(t), &t->params, &t->state, &o, path, sizeof path, err);
    if (rc || mull_comm_rank(t->params.comm)) return rc;
    if (hooks->checkpoint) hooks->checkpoint(hooks->ctx, t->state.step, path);
    mull_retention keep = keep_of(t);
    keep.removed = hooks->removed;
    keep.ctx = hooks->ctx;
    return mull_checkpoint_retain(t->out, &keep, err);
}

/* ---- the thread ---- */

static void note_removed(void *ctx, int64_t step, const char *path) {
    struct mull__saver *s = ctx;
    removed *more = realloc(s->gone, (s->ngone + 1) * sizeof *more);
    if (!more) return; /* the record keeps it as published; verify says that it is not there */
    s->gone = more;
    s->gone[s->ngone].step = step;
    snprintf(s->gone[s->ngone++].path, sizeof s->gone->path, "%s", path);
}

static void *write_copy(void *arg) {
    struct mull__saver *s = arg;
    int rc = mull_checkpoint_save(s->out, s->config, &s->params, &s->state, &s->opts, s->path, sizeof s->path, &s->err);
    if (!rc && mull_comm_rank(s->comm) == 0) rc = mull_checkpoint_retain(s->out, &s->keep, &s->err);
    pthread_mutex_lock(&s->lock);
    s->rc = rc;
    s->done = true;
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* ---- the copy ---- */

typedef struct copying {
    const mull_params *from;
    struct mull__saver *to;
} copying;

/* Part of parts of values [from, to) of an array. */
static void copy_slice(float *to, const float *from, int64_t n, int part, int parts) {
    int64_t lo = n * part / parts;
    memcpy(to + lo, from + lo, (size_t)(n * (part + 1) / parts - lo) * sizeof *to);
}

/* Large tensors are cut, so that all threads have something to do. What is of one dimension every rank has whole. */
static void copy_part(void *ctx, int part, int parts) {
    const copying *c = ctx;
    const mull_params *p = c->from;
    for (size_t i = 0; i < p->n; i++) {
        const mull_param *q = &p->list[i];
        if (q->at < 0) continue;
        int64_t lo = q->ndim < 2 || p->lo < q->at ? q->at : p->lo, end = q->at + q->count,
                hi = q->ndim < 2 || p->hi > end ? end : p->hi;
        if (lo < hi) copy_slice(c->to->w + lo, q->w + (lo - q->at), hi - lo, part, parts);
    }
    copy_slice(c->to->m, p->m, p->hi - p->lo, part, parts);
    copy_slice(c->to->v, p->v, p->hi - p->lo, part, parts);
}

/* What may still be used without pushing others out, in bytes; 0 when that is not known. */
static int64_t memory_left(void) {
    char line[128];
    long long kb = 0;
    FILE *f = fopen("/proc/meminfo", "re");
    while (f && fgets(line, sizeof line, f) && sscanf(line, "MemAvailable: %lld kB", &kb) != 1) kb = 0;
    if (f) fclose(f);
    return (int64_t)kb * 1024;
}

/* Does this rank have to copy anything? */
static bool copies(const mull_params *p) {
    return p->zero || mull_comm_rank(p->comm) == 0;
}

static void drop_room(struct mull__saver *s) {
    if (s->w) munmap(s->w, (size_t)s->room * sizeof *s->w);
    free(s->m), free(s->v), free(s->list);
    s->w = s->m = s->v = NULL;
    s->list = NULL;
    s->room = 0;
}

/* Room for the copy; false when there is too little memory. */
static bool make_room(struct mull__saver *s, const mull_params *p) {
    if (s->list) return true;
    size_t own = copies(p) ? (size_t)(p->hi - p->lo) : 0;
    double ranks = p->zero ? mull_comm_world(p->comm) : 1; /* all of them on this machine, at once */
    if ((double)memory_left() * 0.8 < 12.0 * ranks * (double)own) return false;
    s->room = p->trained;
    s->w = mmap(NULL, (size_t)s->room * sizeof *s->w, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (s->w == MAP_FAILED) s->w = NULL;
    s->m = malloc((own + 1) * sizeof *s->m);
    s->v = malloc((own + 1) * sizeof *s->v);
    s->list = malloc(p->n * sizeof *s->list);
    if (s->w && s->m && s->v && s->list) return true;
    drop_room(s);
    return false;
}

/* The parameters of the copy: as those of a run with ZeRO 3, when they are in parts. */
static int describe_copy(mull_trainer *t, struct mull__saver *s, mull_error *err) {
    s->params = t->params;
    memcpy(s->list, t->params.list, t->params.n * sizeof *s->list);
    for (size_t i = 0; i < t->params.n; i++)
        if (s->list[i].at >= 0) {
            s->list[i].w = s->w + s->list[i].at;
            s->list[i].half = NULL; /* rounded again from the copy */
        }
    s->params.list = s->list;
    s->params.m = s->m;
    s->params.v = s->v;
    s->params.comm = s->comm;
    if (s->params.zero) s->params.zero = 3;
    return s->ranks ? MULL_OK
                    : mull_ranks_create(mull_trainer_config(t), &s->params, mull_model_pool(t->tower), &s->ranks, err);
}

/* Starts the thread, on all ranks; *started false: save at once instead. */
static int begin(mull_trainer *t, struct mull__saver *s, bool *started, mull_error *err) {
    int without;
    bool room = make_room(s, &t->params);
    int rc = mull_ranks_agree(t->ranks, !room, &without, err);
    *started = false;
    if (rc || without) return rc;
    mull_pool *pool = mull_model_pool(t->tower);
    if (copies(&t->params)) mull_pool_run(pool, copy_part, &(copying){&t->params, s}, mull_pool_threads(pool));
    if ((rc = describe_copy(t, s, err))) return rc;
    s->state = t->state;
    s->opts = opts_of(t);
    s->opts.ranks = s->ranks;
    s->keep = keep_of(t);
    s->keep.removed = note_removed;
    s->keep.ctx = s;
    s->config = mull_trainer_config(t);
    s->out = t->out;
    s->err = (mull_error){0};
    s->done = false;
    s->running = pthread_create(&s->thread, NULL, write_copy, s) == 0;
    *started = s->running;
    /* A rank without a thread would leave the others' waiting. */
    if (!s->running && s->comm) return mull_fail(err, MULL_ENOMEM, WHAT, t->out, NULL, "no thread could be started");
    return MULL_OK;
}

int mull__train_saved(mull_trainer *t, const mull_train_hooks *hooks, bool wait, mull_error *err) {
    struct mull__saver *s = t->saver;
    if (!s || !s->running) return MULL_OK;
    pthread_mutex_lock(&s->lock);
    bool done = s->done;
    pthread_mutex_unlock(&s->lock);
    if (!done && !wait) return MULL_OK;
    pthread_join(s->thread, NULL);
    s->running = false;
    /* One that is there is told of even when clearing away after it failed. */
    bool first = mull_comm_rank(s->comm) == 0;
    char *published = s->rc && first ? mull_checkpoint_newest(s->out) : NULL;
    if (first && (!s->rc || (published && !strcmp(published, s->path))) && hooks->checkpoint)
        hooks->checkpoint(hooks->ctx, s->state.step, s->path);
    for (size_t i = 0; i < s->ngone && hooks->removed; i++)
        hooks->removed(hooks->ctx, s->gone[i].step, s->gone[i].path);
    free(published);
    free(s->gone);
    s->gone = NULL;
    s->ngone = 0;
    if (s->rc && err) *err = s->err;
    return s->rc;
}

int mull__train_save(mull_trainer *t, const mull_train_hooks *hooks, bool last, mull_error *err) {
    int rc = mull__train_saved(t, hooks, true, err);
    if (!rc) rc = mull_net_fetch(t->net, MULL_PULL_STATE, err);
    if (rc) return rc;
    if (last || !t->r->async_save) return save_now(t, hooks, err);
    if (!t->saver) {
        if (!(t->saver = calloc(1, sizeof *t->saver)))
            return mull_fail(err, MULL_ENOMEM, WHAT, t->out, NULL, "out of memory");
        pthread_mutex_init(&t->saver->lock, NULL);
        if ((rc = mull_comm_channel(t->params.comm, &t->saver->comm, err))) return rc;
    }
    bool started;
    rc = begin(t, t->saver, &started, err);
    return rc || started ? rc : save_now(t, hooks, err);
}

void mull__saver_destroy(struct mull__saver *s) {
    if (!s) return;
    if (s->running) pthread_join(s->thread, NULL);
    pthread_mutex_destroy(&s->lock);
    mull_ranks_destroy(s->ranks);
    mull_comm_destroy(s->comm);
    drop_room(s);
    free(s->gone);
    free(s);
}
