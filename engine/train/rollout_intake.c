/* See rollout_intake.h. With several ranks the first one keeps the folder: it publishes, wants and clears away, and
 * tells the others what is wanted of which version; each takes the shards of its own prompts. Exact resume: wants and
 * shards of steps that the last checkpoint does not cover stay on disk, so a run that goes on from it finds what was
 * wanted of which version. A version stays as long as a step that is not taken yet wants it, so a shard that was lost
 * or set aside can be made again from the same policy. */
#include "engine/train/rollout_intake.h"

#include "engine/annotate/fileio.h"
#include "engine/annotate/shard.h"
#include "engine/core/digest.h"
#include "engine/train/rollout_policy.h"
#include "engine/train/rollout_shard.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const WHAT = "cannot take rollouts";
enum { REDO_MAX = 3 }; /* times that one shard may turn out broken */
static const double REMIND_S = 30, POLL_MIN_S = 0.002, POLL_MAX_S = 0.1;

static void note(const struct mull__intake *i, const char *level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static void note(const struct mull__intake *i, const char *level, const char *fmt, ...) {
    char text[1400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (i->note) i->note(i->ctx, level, text);
}

void mull__intake_destroy(struct mull__intake *i) {
    if (!i) return;
    mull_exchange_close(&i->x);
    free(i->wants);
    free(i);
}

/* ---- wants */
static mull_want *find(const struct mull__intake *i, int64_t step) {
    for (size_t k = 0; k < i->n; k++)
        if (i->wants[k].step == step) return &i->wants[k];
    return NULL;
}

static void remove_shards(const struct mull__intake *i, const mull_want *w) {
    mull_exchange_name name;
    for (int64_t c = 0; c < mull_want_shards(w); c++) {
        mull_shard_name(w->step, c, name);
        unlinkat(i->x.dir, name, 0);
    }
}

static bool answered(const struct mull__intake *i, const mull_want *w) {
    mull_exchange_name name;
    for (int64_t c = 0; c < mull_want_shards(w); c++) {
        mull_shard_name(w->step, c, name);
        if (!mull_exchange_has(&i->x, name)) return false;
    }
    return true;
}

/* Is what an earlier process wanted of the step still right? oldest: the least version that is fresh enough when the
 * step's turn comes. */
static bool holds(const struct mull__intake *i, const mull_want *old, const mull_want *now, int64_t oldest) {
    mull_exchange_name name;
    if (old->groups != now->groups || old->each != now->each) return false;
    if (old->version > now->version || old->version < oldest) return false;
    if (old->version == now->version) return !strcmp(old->policy, now->policy);
    mull_policy_name(old->version, name);
    return mull_exchange_has(&i->x, name) || answered(i, old);
}

static bool first_rank(const struct mull__grpo *g) {
    return mull_comm_rank(g->t->params.comm) == 0;
}

/* Room for one more want. */
static int reserve(struct mull__intake *i, size_t n, mull_error *err) {
    if (n <= i->cap) return MULL_OK;
    size_t cap = 2 * n > 16 ? 2 * n : 16;
    mull_want *p = realloc(i->wants, cap * sizeof *p);
    if (!p) return mull_fail(err, MULL_ENOMEM, WHAT, "", NULL, "out of memory");
    i->wants = p;
    i->cap = cap;
    return MULL_OK;
}

/* Prompts of a rank in a loader step. */
static int64_t prompts(const mull_recipe *r) {
    return r->per_device_train_batch_size * r->gradient_accumulation_steps;
}

/* Prompts of a shard: with several ranks no shard has prompts of two, so their number divides a rank's. */
static int64_t each(const struct mull__grpo *g) {
    const mull_recipe *r = g->t->r;
    int64_t n = r->rollout_groups, all = prompts(r);
    if (mull_comm_world(g->t->params.comm) == 1) return n;
    if (n > all) n = all;
    while (all % n) n--;
    return n;
}

static int want(struct mull__grpo *g, int64_t step, int64_t oldest, mull_error *err) {
    struct mull__intake *i = g->intake;
    if (find(i, step)) return MULL_OK;
    int rc = reserve(i, i->n + 1, err);
    if (rc) return rc;
    mull_want now = {.step = step,
                     .version = i->published,
                     .groups = prompts(g->t->r) * mull_comm_world(g->t->params.comm),
                     .each = each(g)},
              old;
    memcpy(now.policy, i->policy, sizeof now.policy);
    mull_error ignored = {0};
    rc = mull_want_get(&i->x, step, &old, &ignored);
    if (!rc && holds(i, &old, &now, oldest)) {
        now = old;
    } else {
        if (!rc) remove_shards(i, &old);
        remove_shards(i, &now);
        if ((rc = mull_want_put(&i->x, &now, err))) return rc;
    }
    i->wants[i->n++] = now;
    return MULL_OK;
}

/* What the first rank knows, to all: rc is this rank's so far. Every rank comes here, failed or not. */
static int share(struct mull__grpo *g, int rc, mull_error *err) {
    struct mull__intake *i = g->intake;
    size_t at[MULL_WORLD_MAX + 1], bytes = first_rank(g) ? i->n * sizeof *i->wants : 0;
    void *all = NULL;
    rc = mull__grpo_agree(g, rc, false, NULL, err);
    if (rc || mull_comm_world(g->t->params.comm) == 1) return rc;
    rc = mull_ranks_collect(g->t->ranks, i->wants, bytes, &all, at, err);
    if (!rc && !first_rank(g)) {
        i->n = 0;
        rc = reserve(i, at[1] / sizeof *i->wants, err);
        if (!rc && at[1]) memcpy(i->wants, all, at[1]);
        if (!rc) i->n = at[1] / sizeof *i->wants;
    }
    free(all);
    return mull__grpo_agree(g, rc, false, NULL, err);
}

/* ---- clearing away */
static bool needs(const struct mull__intake *i, int64_t version) {
    bool needed = version == i->published;
    for (size_t k = 0; k < i->n; k++) needed |= i->wants[k].version == version;
    return needed;
}

static void drop_step(const struct mull__intake *i, int64_t step) {
    mull_exchange_name name;
    mull_want w;
    mull_error ignored = {0};
    if (!mull_want_get(&i->x, step, &w, &ignored)) {
        remove_shards(i, &w);
        for (int64_t c = 0; c < mull_want_shards(&w); c++)
            mull__shard_remove(i->x.dir, step * mull_want_shards(&w) + c);
    }
    mull_want_name(step, name);
    unlinkat(i->x.dir, name, 0);
}

/* Policies that no step wants, and steps before `before`. What cannot be removed now can be next time. */
static void clear(const struct mull__intake *i, int64_t before, bool all) {
    int fd = openat(i->x.dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    if (!d && fd >= 0) close(fd);
    for (struct dirent *e; d && (e = readdir(d));) {
        long long version;
        int end = 0;
        bool policy = sscanf(e->d_name, "policy-%18lld.safetensors%n", &version, &end) == 1 && end && !e->d_name[end];
        if (policy && (all || !needs(i, version))) unlinkat(i->x.dir, e->d_name, 0);
    }
    if (d) closedir(d);
    int64_t *steps;
    size_t n;
    mull_error ignored = {0};
    if (!mull_want_list(&i->x, &steps, &n, &ignored))
        for (size_t k = 0; k < n && steps[k] < before; k++) drop_step(i, steps[k]);
    free(steps);
}

/* Wants and shards of another recipe are not this run's. */
static int begin(const struct mull__intake *i, const mull_recipe *r, mull_error *err) {
    char before[65] = "", now[65] = "";
    bool done;
    mull_error ignored = {0};
    int known = mull_exchange_get_run(&i->x, NULL, &done, before, &ignored);
    int rc = mull_exchange_put_run(&i->x, r, false, err);
    if (!rc) rc = mull_exchange_get_run(&i->x, NULL, &done, now, err);
    if (!rc && (known || strcmp(before, now))) clear(i, INT64_MAX, true);
    return rc;
}

int mull__intake_create(struct mull__grpo *g, const mull_trainer_opts *o, mull_error *err) {
    if (!o->out)
        return mull_fail(err, MULL_EARG, WHAT, "rollout_mode", "give the run a folder", "there is none to exchange in");
    struct mull__intake *i = g->intake = calloc(1, sizeof *i);
    if (!i) return mull_fail(err, MULL_ENOMEM, WHAT, "", NULL, "out of memory");
    *i = (struct mull__intake){.x = {.dir = -1}, .published = -1, .note = o->note, .ctx = o->ctx};
    i->kept = i->saved = g->t->state.position.step;
    i->arrived = mull__train_now();
    int rc = mull_exchange_open(o->out, true, &i->x, err);
    return rc || !first_rank(g) ? rc : begin(i, g->t->r, err);
}

/* The weights as they are, a version. What lies in parts over the ranks is whole on each meanwhile. */
static int publish(struct mull__grpo *g, mull_error *err) {
    struct mull__intake *i = g->intake;
    const mull_trainer *t = g->t;
    int rc = MULL_OK;
    for (size_t k = 0; !rc && k < t->params.n; k++)
        rc = mull_ranks_fetch(t->ranks, &t->params.list[k], t->params.list[k].adapter, err);
    if (!rc && first_rank(g)) rc = mull_policy_publish(&i->x, &t->params, t->state.step, i->policy, err);
    for (size_t k = 0; k < t->params.n; k++) mull_ranks_release(t->ranks, &t->params.list[k]);
    return rc;
}

/* ---- a round's beginning */
int mull__intake_publish(struct mull__grpo *g, int64_t next, mull_error *err) {
    struct mull__intake *i = g->intake;
    const mull_trainer *t = g->t;
    const mull_recipe *r = t->r;
    int64_t inner = r->num_iterations * r->steps_per_generation, left = (t->steps - t->state.step + inner - 1) / inner,
            rounds = r->max_staleness / inner + 1;
    int rc = MULL_OK;
    if (i->published != t->state.step) {
        double begun = mull__train_now();
        rc = mull__grpo_agree(g, publish(g, err), false, NULL, err);
        if (rc) return rc;
        i->published = t->state.step;
        g->round.refresh_seconds += mull__train_now() - begun;
    }
    if (rounds > left) rounds = left > 0 ? left : 1;
    /* Steps that are taken are done with. */
    size_t kept = 0;
    for (size_t k = 0; k < i->n; k++)
        if (i->wants[k].step >= next) i->wants[kept++] = i->wants[k];
    i->n = kept;
    for (int64_t k = 0; k < rounds * r->steps_per_generation && !rc && first_rank(g); k++)
        rc = want(g, next + k, t->state.step + k / r->steps_per_generation * inner - r->max_staleness, err);
    if (!rc && first_rank(g)) clear(i, i->kept, false);
    i->waited = 0;
    return share(g, rc, err);
}

/* ---- taking */
/* Until the file is there. */
static int wait_for(struct mull__grpo *g, const char *name, const mull_want *w, mull_error *err) {
    struct mull__intake *i = g->intake;
    double begun = mull__train_now(), poll = POLL_MIN_S, remind = REMIND_S;
    int rc = MULL_OK;
    while (!rc && !mull_exchange_has(&i->x, name)) {
        double waited = mull__train_now() - begun;
        if (g->hooks->stop && g->hooks->stop(g->hooks->ctx)) {
            rc = MULL_ECANCELLED;
        } else if (g->t->r->rollout_wait > 0 && waited > g->t->r->rollout_wait) {
            rc = mull_fail(err, MULL_EIO, WHAT, i->x.path, "submit rollout jobs for this run, or raise rollout_wait",
                           "no rollout job answered step %lld within %g s", (long long)w->step, g->t->r->rollout_wait);
        } else {
            if (waited > remind) {
                note(i, "note", "waiting for rollouts of step %lld in %s; without rollout jobs there will be none",
                     (long long)w->step, i->x.path);
                remind *= 4;
            }
            mull_exchange_pause(&poll, POLL_MAX_S);
        }
    }
    i->waited += mull__train_now() - begun;
    return rc;
}

int mull__rollout_prompts(const mull__group *groups, size_t n, char hex[65], mull_error *err) {
    mull__sha *s = mull__sha_create();
    uint8_t md[32];
    if (!s) return mull_fail(err, MULL_ENOMEM, WHAT, "", NULL, "out of memory");
    for (size_t k = 0; k < n; k++) {
        const mull_sample *p = groups[k].sample;
        int64_t head[] = {p->set, p->index, (int64_t)p->n, (int64_t)p->nmedia};
        mull__sha_add(s, head, sizeof head);
        mull__sha_add(s, p->ids, p->n * sizeof *p->ids);
        mull__sha_add(s, p->solution, strlen(p->solution) + 1);
    }
    mull__sha_done(s, md);
    mull__hex(md, sizeof md, hex);
    mull__sha_destroy(s);
    return MULL_OK;
}

mull_rollout_key mull__rollout_key(const mull_recipe *r, const mull_want *w, int64_t shard) {
    mull_rollout_key k = {.step = w->step,
                          .first = shard * w->each,
                          .groups = w->groups - shard * w->each < w->each ? w->groups - shard * w->each : w->each,
                          .generations = r->num_generations,
                          .version = w->version,
                          .seed = r->seed,
                          .max_completion_length = r->max_completion_length,
                          .temperature = r->temperature,
                          .top_p = r->top_p};
    memcpy(k.policy, w->policy, sizeof k.policy);
    return k;
}

static int read_shard(const struct mull__grpo *g, const char *name, const mull_rollout_key *key, mull_rollout_shard *s,
                      mull_error *err) {
    mull_buf b = {0};
    int rc = mull__get_file(g->intake->x.dir, name, MULL_ROLLOUT_BYTES_MAX, &b, err);
    if (!rc) rc = mull_rollout_decode(b.data ? b.data : "", b.len, name, s, err);
    if (!rc && (rc = mull_rollout_check(s, key, mull_trainer_config(g->t)->vocab, name, err)))
        mull_rollout_shard_fini(s);
    mull_buf_fini(&b);
    return rc;
}

static int fill(mull__completion *c, const mull_rollout *from, mull_error *err) {
    size_t n = (size_t)from->n;
    c->ids = malloc((n + 1) * sizeof *c->ids);
    c->logp = malloc((n + 1) * sizeof *c->logp);
    c->text = malloc(from->text_len + 1);
    if (!c->ids || !c->logp || !c->text) return mull_fail(err, MULL_ENOMEM, WHAT, "", NULL, "out of memory");
    memcpy(c->ids, from->ids, n * sizeof *c->ids);
    memcpy(c->logp, from->logp, n * sizeof *c->logp);
    memcpy(c->text, from->text, from->text_len);
    c->text[from->text_len] = 0;
    c->text_len = from->text_len;
    c->n = c->total = from->n;
    c->truncated = from->truncated;
    c->accuracy = from->accuracy;
    c->format = from->format;
    c->external = from->external;
    return MULL_OK;
}

/* A shard that cannot be used makes room for its next one. */
static int set_aside(const struct mull__intake *i, const char *name, int times, mull_error *err) {
    char line[1200], aside[96];
    if (times >= REDO_MAX) return err->code;
    snprintf(aside, sizeof aside, "bad-%d-%s", times, name);
    note(i, "warning", "%s; it is set aside as %s and made again", mull_error_line(err, line, sizeof line), aside);
    if (renameat(i->x.dir, name, i->x.dir, aside)) return mull_fail_errno(err, errno, WHAT, name, "check the folder");
    return MULL_OK;
}

/* groups: the shard's. */
static int take_shard(struct mull__grpo *g, mull__group *groups, const mull_want *w, int64_t shard, mull_error *err) {
    mull_rollout_key key = mull__rollout_key(g->t->r, w, shard);
    mull_rollout_shard s = {0};
    mull_exchange_name name;
    mull_shard_name(w->step, shard, name);
    int rc = mull__rollout_prompts(groups, (size_t)key.groups, key.prompts, err);
    for (int times = 1; !rc; times++) {
        if ((rc = wait_for(g, name, w, err))) break;
        rc = read_shard(g, name, &key, &s, err);
        if (!rc) break;
        if (rc == MULL_EMISSING)
            rc = MULL_OK; /* gone between two looks: it is made again */
        else if (rc == MULL_EFORMAT)
            rc = set_aside(g->intake, name, times, err);
    }
    for (int64_t k = 0; !rc && k < key.groups; k++) {
        mull__group *x = &groups[k];
        x->version = w->version;
        g->round.stale |= w->version < g->round.version;
        for (int64_t m = 0; m < key.generations && !rc; m++) {
            x->c[m].seed = mull__grpo_seed(g->t->r, x->step, x->place, (int)m);
            x->c[m].stale = w->version < g->round.version;
            rc = fill(&x->c[m], &s.c[k * key.generations + m], err);
            g->round.tokens += x->c[m].n;
        }
    }
    mull_rollout_shard_fini(&s);
    return rc;
}

int mull__intake_take(struct mull__grpo *g, size_t first, int rc, mull_error *err) {
    struct mull__intake *i = g->intake;
    int64_t step = rc ? 0 : g->round.groups[first].step, from = mull__grpo_first_place(g), n = prompts(g->t->r);
    /* Dynamic sampling may need a step that nobody could foresee. */
    if (!rc && first_rank(g)) rc = want(g, step, g->t->state.step - g->t->r->max_staleness, err);
    if ((rc = share(g, rc, err))) return rc;
    const mull_want *w = find(i, step);
    if (!w) return mull_fail(err, MULL_EINTERNAL, WHAT, "step", NULL, "the ranks are not at the same step");
    for (int64_t c = from / w->each; !rc && c * w->each < from + n; c++)
        rc = take_shard(g, &g->round.groups[(int64_t)first + c * w->each - from], w, c, err);
    return rc;
}

void mull__intake_arrived(struct mull__grpo *g) {
    double now = mull__train_now();
    g->round.seconds = now - g->intake->arrived;
    g->intake->arrived = now;
}

/* ---- the end */
void mull__intake_saved(struct mull__grpo *g) {
    struct mull__intake *i = g->intake;
    i->kept = i->saved;
    i->saved = g->t->state.position.step;
}

int mull__intake_finish(struct mull__grpo *g, mull_error *err) {
    if (!first_rank(g)) return MULL_OK;
    int rc = mull_exchange_put_run(&g->intake->x, g->t->r, true, err);
    if (!rc) clear(g->intake, INT64_MAX, true);
    return rc;
}
