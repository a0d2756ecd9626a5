/* The loop of GRPO; see grpo.h. */
#include "engine/train/rollout_intake.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const WHAT = "cannot train with rollouts";

/* This process answers. */
static int alone(struct mull__grpo *g, mull_error *err) {
    double seconds = 0;
    int rc = mull__grpo_refresh(g, &seconds, err);
    mull_infer_opts io = {.max_batch = (int)g->t->r->rollout_batch, .shares_device = true};
    mull_infer_callbacks cb = {.ctx = g, .on_done = mull__grpo_done};
    if (!rc) rc = mull_infer_create(g->t->tower, g->tokenizer, &io, &cb, &g->engine, err);
    if (!rc) g->features = mull_infer_features(g->engine);
    return rc;
}

/* Rollout jobs answer: no second copy of the weights, only the media's features. */
static int with_jobs(struct mull__grpo *g, const mull_trainer_opts *o, mull_error *err) {
    if (!g->t->trained_tower) g->features = g->own_features = mull_features_create(g->t->tower, 0);
    return g->features || g->t->trained_tower ? mull__intake_create(g, o, err)
                                              : mull_fail(err, MULL_ENOMEM, WHAT, "", NULL, "out of memory");
}

int mull__grpo_create(mull_trainer *t, const mull_trainer_opts *o, mull_error *err) {
    const mull_recipe *r = t->r;
    if (!o->tokenizer)
        return mull_fail(err, MULL_EARG, WHAT, "tokenizer", NULL, "completions cannot be read without one");
    if (!(r->temperature > 0))
        return mull_fail(err, MULL_EARG, WHAT, "temperature", "set it above 0",
                         "greedy completions of one prompt are all the same");
    if (!(r->top_p > 0 && r->top_p <= 1))
        return mull_fail(err, MULL_EARG, WHAT, "top_p", "take 0 < top_p <= 1", "it is %g", r->top_p);
    if (r->max_completion_length > 1 << 20)
        return mull_fail(err, MULL_EARG, WHAT, "max_completion_length", "take at most 1048576", "it is %lld",
                         (long long)r->max_completion_length);
    if (!r->reward_builtin && !*r->reward_command)
        return mull_fail(err, MULL_EARG, WHAT, "reward_builtin", "set reward_command", "nothing would give a reward");
    struct mull__grpo *g = calloc(1, sizeof *g);
    if (!g) return mull_fail(err, MULL_ENOMEM, WHAT, "", NULL, "out of memory");
    t->grpo = g;
    g->t = t;
    g->tokenizer = o->tokenizer;
    g->kl = !r->no_ref_model && r->beta != 0 && !r->basic_reinforce_mode;
    int rc = r->rollout_mode ? with_jobs(g, o, err) : alone(g, err);
    if (!rc && t->state.step > 0) rc = mull__grpo_keep_reference(g, err);
    return rc;
}

void mull__grpo_destroy(struct mull__grpo *g) {
    if (!g) return;
    mull__round_fini(g, NULL);
    mull_infer_destroy(g->engine);
    mull_features_destroy(g->own_features);
    mull__intake_destroy(g->intake);
    mull__reference_fini(&g->ref);
    free(g->merged.data);
    free(g->entropy);
    free(g->logp);
    free(g->klt);
    free(g);
}

/* ---- figures */
static const char *const TYPES[MULL_REWARD_TYPES] = {"multiple choice", "numerical", "regression", "OCR", "free-form"};

/* Sums over completions and groups: what figures are made from, here and on other ranks. */
enum {
    N,
    REWARD,
    SQUARES,
    ACCURACY,
    FORMAT,
    EXTERNAL,
    LENGTH,
    TRUNCATED,
    GROUPS,
    GROUP_STD,
    FLAT,
    LAG,
    RESAMPLED,
    TOKENS,
    PROMPT,
    CACHED,
    TYPE,
    SUMS = TYPE + 3 * MULL_REWARD_TYPES
};
enum { LONGEST, LAG_MAX, SECONDS, REFRESH, MOSTS };

static double deviation(double sum, double squares, double n) {
    double d = n > 1 ? (squares - sum * sum / n) / (n - 1) : 0;
    return d > 0 ? sqrt(d) : 0;
}

static void add_up(const struct mull__grpo *g, int w, double *v, double *most) {
    const mull__round *o = &g->round;
    size_t G = (size_t)g->t->r->num_generations;
    for (size_t i = o->window[w]; i < o->window[w + 1]; i++) {
        const mull__group *x = &o->groups[i];
        double own = 0, own2 = 0;
        int type = 0;
        while (type < MULL_REWARD_TYPES - 1 && strcmp(TYPES[type], x->sample->problem_type)) type++;
        for (size_t k = 0; k < G; k++) {
            const mull__completion *c = &x->c[k];
            double r = (double)c->reward;
            own += r;
            own2 += r * r;
            v[ACCURACY] += c->accuracy;
            v[FORMAT] += c->format;
            v[EXTERNAL] += c->external;
            v[LENGTH] += c->n;
            v[TRUNCATED] += c->truncated;
            most[LONGEST] = fmax(most[LONGEST], c->n);
        }
        v[N] += (double)G;
        v[TYPE + 3 * type] += (double)G;
        v[TYPE + 3 * type + 1] += own;
        v[TYPE + 3 * type + 2] += own2;
        v[REWARD] += own;
        v[SQUARES] += own2;
        v[GROUPS]++;
        v[GROUP_STD] += deviation(own, own2, (double)G);
        v[FLAT] += x->flat;
        double lag = (double)(g->t->state.step - x->version);
        v[LAG] += lag;
        most[LAG_MAX] = fmax(most[LAG_MAX], lag);
    }
    v[RESAMPLED] = (double)o->resampled;
    v[TOKENS] = (double)o->tokens;
    v[PROMPT] = (double)o->prompt_tokens;
    v[CACHED] = (double)o->cached_tokens;
    most[SECONDS] = o->seconds;
    most[REFRESH] = o->refresh_seconds;
}

/* What the completions of window w were like, on all ranks. */
static int describe(const struct mull__grpo *g, int w, mull_grpo_figures *f, mull_error *err) {
    double v[SUMS] = {0}, most[MOSTS] = {0};
    add_up(g, w, v, most);
    int rc = mull_ranks_add(g->t->ranks, v, SUMS, err);
    if (!rc) rc = mull_ranks_most(g->t->ranks, most, MOSTS, err);
    double n = v[N], groups = v[GROUPS];
    *f = (mull_grpo_figures){.reward = v[REWARD] / n,
                             .reward_std = deviation(v[REWARD], v[SQUARES], n),
                             .group_std = v[GROUP_STD] / groups,
                             .accuracy = v[ACCURACY] / n,
                             .format = v[FORMAT] / n,
                             .external = v[EXTERNAL] / n,
                             .length = v[LENGTH] / n,
                             .length_max = most[LONGEST],
                             .truncated = v[TRUNCATED] / n,
                             .zero_spread = v[FLAT] / groups,
                             .staleness = v[LAG] / groups,
                             .staleness_max = most[LAG_MAX],
                             .resampled = (int64_t)v[RESAMPLED],
                             .rollout_tokens = (int64_t)v[TOKENS],
                             .rollout_seconds = most[SECONDS],
                             .rollout_tok_s = most[SECONDS] > 0 ? v[TOKENS] / most[SECONDS] : 0,
                             .refresh_seconds = most[REFRESH],
                             .prefix_share = v[PROMPT] > 0 ? v[CACHED] / v[PROMPT] : 0};
    for (int i = 0; i < MULL_REWARD_TYPES; i++) {
        const double *t = v + TYPE + 3 * i;
        if (t[0] == 0) continue;
        f->type[f->ntypes].name = TYPES[i];
        f->type[f->ntypes].n = (int64_t)t[0];
        f->type[f->ntypes].mean = t[1] / t[0];
        f->type[f->ntypes++].std = deviation(t[1], t[2], t[0]);
    }
    f->wait_seconds = f->wait_share = NAN;
    if (g->intake) f->prefix_share = f->rollout_seconds = NAN;
    return rc;
}

static void put(json_t *to, const char *key, double x) {
    if (isfinite(x)) json_object_set_new(to, key, json_real(x));
}

void mull_grpo_figures_json(const mull_grpo_figures *f, json_t *to) {
    put(to, "reward", f->reward);
    put(to, "reward_std", f->reward_std);
    put(to, "reward_group_std", f->group_std);
    put(to, "accuracy", f->accuracy);
    put(to, "format", f->format);
    put(to, "reward_external", f->external);
    for (int i = 0; i < f->ntypes; i++) {
        char key[64];
        snprintf(key, sizeof key, "reward_%s", f->type[i].name);
        for (char *p = key; *p; p++)
            if (*p == ' ' || *p == '-') *p = '_';
        put(to, key, f->type[i].mean);
        snprintf(key + strlen(key), sizeof key - strlen(key), "_std");
        put(to, key, f->type[i].std);
    }
    put(to, "kl", f->kl);
    put(to, "entropy", f->entropy);
    put(to, "clip_low", f->clip_low);
    put(to, "clip_high", f->clip_high);
    put(to, "length", f->length);
    put(to, "length_max", f->length_max);
    put(to, "truncated", f->truncated);
    put(to, "zero_spread", f->zero_spread);
    put(to, "logp_mismatch", f->mismatch);
    put(to, "logp_mismatch_max", f->mismatch_max);
    put(to, "staleness", f->staleness);
    put(to, "staleness_max", f->staleness_max);
    put(to, "importance", f->importance);
    put(to, "importance_capped", f->importance_capped);
    put(to, "wait_s", f->wait_seconds);
    put(to, "wait_share", f->wait_share);
    put(to, "resampled", (double)f->resampled);
    put(to, "rollout_tok_s", f->rollout_tok_s);
    put(to, "rollout_s", f->rollout_seconds);
    put(to, "train_tok_s", f->train_tok_s);
    put(to, "train_s", f->train_seconds);
    put(to, "refresh_s", f->refresh_seconds);
    put(to, "prefix_share", f->prefix_share);
}

/* ---- the loop */
static int optimise(struct mull__grpo *g, int w, bool first, const mull_train_source *src, double start,
                    mull_error *err) {
    mull_trainer *t = g->t;
    mull_grpo_figures f;
    mull_step st = {.ce = NAN, .cos = NAN, .grpo = &f};
    double begin = mull__train_now();
    int rc = describe(g, w, &f, err);
    mull_net_zero_grad(t->net);
    if (!rc) rc = mull__grpo_window(g, w, first, &st, &f, err);
    if (!rc) rc = mull_ranks_reduce(t->ranks, err);
    if (!rc) rc = mull__grpo_keep_reference(g, err);
    if (rc) return rc;
    mull_position at = src->position(src->ctx);
    if ((rc = mull__train_position(t, &at, err))) return rc;
    if ((rc = mull__train_apply(t, 1, &at, start, &st, err))) return rc;
    g->stale |= !st.skipped;
    f.train_seconds = mull__train_now() - begin;
    if (g->intake) {
        f.wait_seconds = first && w == 0 ? g->intake->waited : 0;
        f.wait_share = st.seconds > 0 ? f.wait_seconds / st.seconds : 0;
    }
    f.train_tok_s = f.train_seconds > 0 ? (double)f.train_rows / f.train_seconds : 0;
    if (g->hooks->step && mull_comm_rank(t->params.comm) == 0) g->hooks->step(g->hooks->ctx, &st);
    return mull__train_check_skipped(t, err);
}

/* A round and its steps. The first step's time holds the rollouts. */
static int round_of(struct mull__grpo *g, int64_t until, const mull_train_source *src, mull_error *err) {
    const mull_recipe *r = g->t->r;
    double start = mull__train_now();
    int rc = mull__grpo_collect(g, src, err);
    for (int w = 0; !rc && w < g->round.windows; w++)
        rc = mull__grpo_scale(g, g->round.window[w], g->round.window[w + 1], err);
    if (!rc) rc = mull__grpo_store(g, err);
    if (!rc) rc = mull__grpo_before(g, err);
    for (int64_t k = 0; !rc && k < r->num_iterations; k++)
        for (int w = 0; !rc && w < g->round.windows && g->t->state.step < until; w++) {
            rc = optimise(g, w, k == 0, src, start, err);
            start = mull__train_now();
        }
    mull__round_fini(g, src);
    return rc;
}

int mull__grpo_finish(mull_trainer *t, mull_error *err) {
    return t->grpo->intake ? mull__intake_finish(t->grpo, err) : MULL_OK;
}

int mull__grpo_run(mull_trainer *t, int64_t until, const mull_train_source *src, const mull_train_hooks *hooks,
                   int64_t *saved, mull_error *err) {
    struct mull__grpo *g = t->grpo;
    int rc = MULL_OK;
    g->hooks = hooks;
    while (!rc && t->state.step < until) {
        rc = hooks->stop && hooks->stop(hooks->ctx) ? MULL_ECANCELLED : MULL_OK;
        rc = mull__grpo_agree(g, rc, false, NULL, err);
        if (!rc) rc = round_of(g, until, src, err);
        if (!rc) rc = mull__train_saved(t, hooks, false, err);
        /* Only between rounds: inside one, the weights that answered are gone. */
        int64_t every = t->r->save_steps;
        if (!rc && t->out && every > 0 && t->state.step / every > *saved / every) {
            rc = mull__train_save(t, hooks, t->state.step >= until, err);
            *saved = t->state.step;
            if (g->intake) mull__intake_saved(g);
        }
    }
    return rc;
}
