/* See rollout_work.h. The half of a trainer that answers: prompts by their place in the run, the policy as the engine
 * sees it, completions and rewards, all by the functions that train without rollout jobs. */
#include "engine/train/rollout_work.h"

#include "engine/annotate/fileio.h"
#include "engine/annotate/shard.h"
#include "engine/train/rollout_intake.h"
#include "engine/train/rollout_policy.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const WHAT = "cannot make rollouts";
static const double POLL_MIN_S = 0.005, POLL_MAX_S = 0.25;

typedef struct worker {
    const mull_rollout_opts *o;
    const mull_rollout_hooks *h;
    mull_rollout_figures *f;
    mull_exchange x;
    mull_recipe recipe;
    bool has_recipe;
    char run[65]; /* hash of the recipe */
    mull_tokenizer *tokenizer;
    mull_builder builder;
    mull_mix *mix;
    mull_policy *policy;
    struct mull_trainer t; /* recipe and model only */
    struct mull__grpo g;
    mull_train_hooks stop;
    bool renewed;    /* the run began anew with another recipe */
    int64_t version; /* loaded; -1: none */
    char hex[65];    /* its digest */
    mull_error *err;
} worker;

enum { NOTHING, DID };

static bool stopped(void *ctx) {
    const worker *w = ctx;
    return w->h->stop && w->h->stop(w->h->ctx);
}

static void note(const worker *w, const char *level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void note(const worker *w, const char *level, const char *fmt, ...) {
    char text[1400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (w->h->note) w->h->note(w->h->ctx, level, text);
}

static int nomem(worker *w) {
    return mull_fail(w->err, MULL_ENOMEM, WHAT, "", "lower rollout_groups or num_generations", "out of memory");
}

/* ---- one shard */
static int left_out(void *ctx, const mull_draw *d, bool bad, const mull_error *why) {
    char line[1024];
    note(ctx, bad ? "warning" : "note", "%s %lld is left out: %s", mull_set_name(d->set), (long long)d->index,
         mull_error_line(why, line, sizeof line));
    return 0;
}

/* The groups of the shard, asked of nobody yet. */
static int build(worker *w, const mull_want *want, const mull_rollout_key *key, mull_sample *samples) {
    mull__round *o = &w->g.round;
    int rc = MULL_OK;
    for (int64_t k = 0; k < key->groups && !rc; k++) {
        int64_t place = key->first + k;
        mull__group *x = &o->groups[k];
        *x = (mull__group){.sample = &samples[k], .step = want->step, .place = (int)place, .version = want->version};
        x->c = calloc((size_t)key->generations, sizeof *x->c);
        if (!x->c) return nomem(w);
        o->ngroups++;
        rc = stopped(w) ? MULL_ECANCELLED
                        : mull_sample_at(w->mix, &w->builder, want->step * want->groups + place, left_out, w,
                                         &samples[k], w->err);
    }
    return rc;
}

/* The completions that the engine made, as a file. */
static int put(worker *w, const mull_rollout_key *key, const char *name, const mull_want *want) {
    const mull__round *o = &w->g.round;
    size_t n = (size_t)(key->groups * key->generations);
    mull_rollout_shard s = {.key = *key, .c = calloc(n, sizeof *s.c)};
    mull_buf bytes = {0};
    mull_want now;
    double reward = 0, length = 0;
    if (!s.c) return nomem(w);
    for (size_t i = 0; i < n; i++) {
        const mull__completion *c = &o->groups[i / (size_t)key->generations].c[i % (size_t)key->generations];
        s.c[i] = (mull_rollout){.ids = c->ids,
                                .logp = c->logp,
                                .text = c->text,
                                .text_len = c->text_len,
                                .n = c->n,
                                .truncated = c->truncated,
                                .accuracy = c->accuracy,
                                .format = c->format,
                                .external = c->external};
        reward += c->accuracy + c->format + w->recipe.reward_weight * c->external;
        length += c->n;
    }
    int rc = mull_rollout_encode(&s, &bytes, w->err);
    /* The trainer may have gone back to an earlier step meanwhile, and want it of another policy. */
    mull_error ignored = {0};
    bool wanted = !rc && !mull_want_get(&w->x, want->step, &now, &ignored) && now.version == want->version &&
                  !strcmp(now.policy, want->policy) && now.each == want->each && now.groups == want->groups;
    if (wanted) rc = mull__put_file(w->x.dir, name, bytes.data, bytes.len, w->err);
    mull_buf_fini(&bytes);
    free(s.c);
    if (rc || !wanted) return rc;
    mull_rollout_figures *f = w->f;
    f->shards++;
    f->completions += (int64_t)n;
    f->tokens += o->tokens;
    f->shard_tokens = o->tokens;
    f->step = want->step;
    f->version = want->version;
    f->reward = reward / (double)n;
    f->length = length / (double)n;
    return MULL_OK;
}

static int answer(worker *w, const mull_want *want, int64_t shard, const char *name) {
    mull_rollout_key key = mull__rollout_key(&w->recipe, want, shard);
    mull__round *o = &w->g.round;
    double begun = mull__train_now();
    int64_t before = w->f->shards;
    mull_sample *samples = calloc((size_t)key.groups, sizeof *samples);
    *o = (mull__round){.groups = calloc((size_t)key.groups, sizeof *o->groups), .version = want->version};
    int rc = samples && o->groups ? build(w, want, &key, samples) : nomem(w);
    if (!rc) rc = mull__rollout_prompts(o->groups, o->ngroups, key.prompts, w->err);
    if (!rc) rc = mull__grpo_answer(&w->g, 0, w->err);
    if (!rc) rc = mull__grpo_reward(&w->g, 0, w->err);
    if (!rc) rc = put(w, &key, name, want);
    for (size_t k = 0; k < o->ngroups; k++) mull__group_fini(&o->groups[k], key.generations);
    for (int64_t k = 0; samples && k < key.groups; k++) mull_sample_fini(&samples[k]);
    free(o->groups);
    free(samples);
    *o = (mull__round){0};
    w->f->seconds = mull__train_now() - begun;
    w->f->busy += w->f->seconds;
    w->f->number = want->step * mull_want_shards(want) + shard;
    if (!rc && w->f->shards > before && w->h->shard) w->h->shard(w->h->ctx, w->f);
    return rc;
}

/* ---- what to do next */
/* The engine answers with the version; NOTHING when it is not there any more. */
static int load(worker *w, const mull_want *want) {
    mull_error *err = w->err;
    if (w->version == want->version && !strcmp(w->hex, want->policy)) return DID;
    double begun = mull__train_now();
    int rc = w->g.engine ? mull_infer_forget(w->g.engine, err) : MULL_OK;
    if (!rc && w->g.engine && mull__trains_tower(&w->recipe)) mull_features_forget(mull_infer_features(w->g.engine));
    if (!rc) rc = mull_policy_take(w->policy, &w->x, want->version, want->policy, err);
    w->f->loading += mull__train_now() - begun;
    if (rc == MULL_EMISSING || rc == MULL_EFORMAT) {
        char line[1024];
        note(w, "note", "%s; looking again for what is wanted", mull_error_line(err, line, sizeof line));
        *err = (mull_error){0};
        return NOTHING;
    }
    mull_infer_opts io = {.max_batch = (int)w->recipe.rollout_batch};
    mull_infer_callbacks cb = {.ctx = &w->g, .on_done = mull__grpo_done};
    if (!rc && !w->g.engine) {
        rc = mull_infer_create(w->t.tower, w->tokenizer, &io, &cb, &w->g.engine, err);
        if (!rc && w->h->ready) w->h->ready(w->h->ctx);
    }
    if (rc) return rc;
    w->version = want->version;
    memcpy(w->hex, want->policy, sizeof w->hex);
    w->f->policies++;
    return DID;
}

/* Answers shard when it is nobody's. */
static int try_shard(worker *w, const mull_want *want, int64_t shard) {
    mull_exchange_name name;
    int lock, rc;
    mull_shard_name(want->step, shard, name);
    if (mull_exchange_has(&w->x, name)) return NOTHING;
    if ((rc = mull__shard_claim(w->x.dir, want->step * mull_want_shards(want) + shard, &lock, w->err)) <= 0) return rc;
    /* Between our look and the lock another may have been through with it. */
    rc = mull_exchange_has(&w->x, name) ? NOTHING : load(w, want);
    if (rc == DID && (rc = answer(w, want, shard, name)) == MULL_OK) rc = DID;
    close(lock);
    return rc;
}

/* Earlier steps first: the trainer waits for them. */
static int look(worker *w) {
    int64_t *steps;
    size_t n;
    int rc = mull_want_list(&w->x, &steps, &n, w->err);
    if (rc) return rc;
    for (size_t i = 0; i < n && rc == NOTHING; i++) {
        mull_want want;
        mull_error why = {0};
        int got = mull_want_get(&w->x, steps[i], &want, &why);
        if (got == MULL_EMISSING) continue; /* done with meanwhile */
        if (got) {
            *w->err = why;
            rc = got;
        }
        for (int64_t c = 0; rc == NOTHING && c < mull_want_shards(&want); c++) rc = try_shard(w, &want, c);
    }
    free(steps);
    return rc;
}

/* ---- the job */
/* MULL_OK: go on; 1: the run is done. */
static int state_of(worker *w) {
    bool done;
    char hash[65];
    int rc = mull_exchange_get_run(&w->x, NULL, &done, hash, w->err);
    if (rc) return rc;
    if (done) return 1;
    w->renewed = strcmp(hash, w->run) != 0;
    if (!w->renewed) return MULL_OK;
    return mull_fail(w->err, MULL_ECANCELLED, WHAT, w->x.path, NULL, "the run began anew with another recipe");
}

static int wait_idle(worker *w, double since, double *poll) {
    if (w->o->idle_s > 0 && mull__train_now() - since > w->o->idle_s)
        return mull_fail(w->err, MULL_ELIMIT, WHAT, w->o->out,
                         "see whether its training job runs, or raise idle_timeout", "nothing was wanted for %g s",
                         w->o->idle_s);
    w->f->waited += *poll;
    mull_exchange_pause(poll, POLL_MAX_S);
    return MULL_OK;
}

/* The training job may start later. 1: its run is over. */
static int wait_for_run(worker *w) {
    double since = mull__train_now(), poll = POLL_MIN_S;
    bool told = false, done = false;
    for (;;) {
        mull_error why = {0};
        if (stopped(w)) return MULL_ECANCELLED;
        int rc = w->x.dir < 0 ? mull_exchange_open(w->o->out, false, &w->x, &why) : MULL_OK;
        if (!rc) rc = mull_exchange_get_run(&w->x, &w->recipe, &done, w->run, &why);
        w->has_recipe = !rc;
        if (!rc || rc != MULL_EMISSING) {
            if (rc) *w->err = why;
            return rc ? rc : done;
        }
        if (!told) note(w, "note", "waiting for a training run with rollout_mode: disaggregated in %s", w->o->out);
        told = true;
        if ((rc = wait_idle(w, since, &poll))) return rc;
    }
}

static int open_all(worker *w) {
    const mull_recipe *r = &w->recipe;
    int rc = mull_tokenizer_load(r->model_path, &w->tokenizer, w->err);
    if (!rc) rc = mull_builder_init(&w->builder, r, w->tokenizer, w->err);
    if (!rc) rc = mull_mix_open(r, &w->mix, w->err);
    if (!rc) rc = mull_policy_open(r, w->o->threads, &w->policy, w->err);
    if (rc) return rc;
    w->t = (struct mull_trainer){.r = r, .tower = mull_policy_model(w->policy)};
    w->stop = (mull_train_hooks){.stop = stopped, .ctx = w};
    w->g = (struct mull__grpo){.t = &w->t, .tokenizer = w->tokenizer, .hooks = &w->stop};
    return MULL_OK;
}

static int work(worker *w) {
    double since = mull__train_now(), poll = POLL_MIN_S;
    for (;;) {
        if (stopped(w)) return MULL_ECANCELLED;
        int rc = state_of(w);
        if (rc) return rc;
        rc = look(w);
        if (rc == DID) {
            since = mull__train_now();
            poll = POLL_MIN_S;
        } else if (rc || (rc = wait_idle(w, since, &poll))) {
            return rc;
        }
    }
}

int mull_rollout_work(const mull_rollout_opts *o, const mull_rollout_hooks *h, mull_rollout_figures *f,
                      mull_error *err) {
    worker w = {.o = o, .h = h, .f = f, .x = {.dir = -1}, .version = -1, .err = err};
    *f = (mull_rollout_figures){0};
    int rc = wait_for_run(&w);
    if (!rc) rc = open_all(&w);
    if (!rc) rc = work(&w);
    mull_infer_destroy(w.g.engine);
    mull_policy_close(w.policy);
    mull_mix_close(w.mix);
    mull_tokenizer_destroy(w.tokenizer);
    if (w.has_recipe) mull_recipe_fini(&w.recipe);
    mull_exchange_close(&w.x);
    if (rc == MULL_ECANCELLED && !w.renewed)
        mull_fail(err, MULL_ECANCELLED, "rollouts were stopped", o->out, NULL, "what was wanted is still wanted");
    return rc > 0 ? MULL_OK : rc;
}
