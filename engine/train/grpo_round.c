/* Prompts and completions of a round. A group's prompt, media and latents are computed once: its requests are queued
 * together, the first one fills the cache and the others wait for its pages (engine/infer/schedule.c). The sampling
 * seed of a completion is a function of (recipe's seed, loader step, prompt, sample): not of what ran beside it, so a
 * round that was lost is drawn again to the same tokens. */
#include "engine/train/grpo_internal.h"

#include "engine/core/rng.h"
#include "engine/train/rollout_intake.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const WHAT = "cannot draw completions";

static int nomem(mull_error *err) {
    return mull_fail(err, MULL_ENOMEM, WHAT, "", "lower num_generations or gradient_accumulation_steps",
                     "out of memory");
}

uint64_t mull__grpo_seed(const mull_recipe *r, int64_t step, int place, int sample) {
    uint32_t x[4];
    mull_philox((uint64_t)r->seed ^ 0x6772706f726f6c6cu, (uint64_t)step, (uint64_t)place << 32 | (uint32_t)sample, x);
    return (uint64_t)x[1] << 32 | x[0];
}

/* ---- prompts */
static int add_groups(struct mull__grpo *g, const mull_batch *b, int part, int *place, mull_error *err) {
    mull__round *o = &g->round;
    int64_t G = g->t->r->num_generations;
    if (o->ngroups + (size_t)b->nseq > o->group_cap) {
        size_t cap = 2 * (o->ngroups + (size_t)b->nseq);
        mull__group *p = realloc(o->groups, cap * sizeof *p);
        if (!p) return nomem(err);
        o->groups = p;
        o->group_cap = cap;
    }
    for (int s = 0; s < b->nseq; s++) {
        mull__group *x = &o->groups[o->ngroups];
        *x = (mull__group){
            .sample = &b->samples[s], .step = b->step, .place = (*place)++, .part = part, .version = o->version};
        x->c = calloc((size_t)G, sizeof *x->c);
        if (!x->c) return nomem(err);
        o->ngroups++;
    }
    return MULL_OK;
}

/* The groups of one loader step. */
static int take_step(struct mull__grpo *g, const mull_train_source *src, mull_error *err) {
    mull__round *o = &g->round;
    int place = mull__grpo_first_place(g),
        part = mull_comm_rank(g->t->params.comm) * (int)g->t->r->gradient_accumulation_steps;
    for (bool last = false; !last; part++) {
        if (o->nbatches == o->batch_cap) {
            size_t cap = o->batch_cap ? 2 * o->batch_cap : 16;
            mull_batch *p = realloc(o->batches, cap * sizeof *p);
            if (!p) return nomem(err);
            o->batches = p;
            o->batch_cap = cap;
        }
        mull_batch *b = &o->batches[o->nbatches];
        int rc = src->next(src->ctx, b, err);
        if (rc) return rc;
        o->nbatches++;
        last = b->last;
        if ((rc = add_groups(g, b, part, &place, err))) return rc;
    }
    return MULL_OK;
}

/* ---- media: encoded once for the rollouts and for every pass of the trainer */
static int by_patches(const void *a, const void *b) {
    const mull__held *x = a, *y = b;
    return x->patches < y->patches ? -1 : x->patches > y->patches;
}

static int hold(struct mull__grpo *g, size_t first, mull_error *err) {
    mull__round *o = &g->round;
    size_t n = o->nheld;
    for (size_t i = first; i < o->ngroups; i++) n += o->groups[i].sample->nmedia;
    mull__held *p = realloc(o->held, (n + 1) * sizeof *p);
    if (!p) return nomem(err);
    o->held = p;
    const mull_config *c = mull_trainer_config(g->t);
    if (g->t->trained_tower) return MULL_OK; /* every pass of the trainer encodes with the weights it has then */
    for (size_t i = first; i < o->ngroups; i++) {
        const mull_sample *s = o->groups[i].sample;
        for (size_t k = 0; k < s->nmedia; k++) {
            mull_page_key key;
            double ms = 0;
            mull__held *h = &o->held[o->nheld];
            int rc = mull_media_key(&s->media[k], &c->vision, &key, err);
            if (!rc) rc = mull_features_get(g->features, &s->media[k], &key, &h->feature, &ms, err);
            if (rc) return rc;
            h->patches = s->media[k].patches;
            o->nheld++;
        }
    }
    qsort(o->held, o->nheld, sizeof *o->held, by_patches);
    return MULL_OK;
}

/* ---- completions */
void mull__grpo_done(void *ctx, const mull_result *r) {
    struct mull__grpo *g = ctx;
    int64_t G = g->t->r->num_generations;
    mull__completion *c = &g->round.groups[r->id / (uint64_t)G].c[r->id % (uint64_t)G];
    if (r->finish == MULL_FINISH_ERROR && !g->failed) {
        g->failed = true;
        if (g->err) *g->err = r->error;
    }
    if (r->finish == MULL_FINISH_ERROR || r->finish == MULL_FINISH_CANCELLED) return;
    c->ids = malloc((r->n + 1) * sizeof *c->ids);
    c->logp = malloc((r->n + 1) * sizeof *c->logp);
    c->text = malloc(r->text_len + 1);
    if (!c->ids || !c->logp || !c->text) {
        if (!g->failed) nomem(g->err);
        g->failed = true;
        return;
    }
    memcpy(c->ids, r->ids, r->n * sizeof *c->ids);
    memcpy(c->logp, r->logprobs, r->n * sizeof *c->logp);
    memcpy(c->text, r->text, r->text_len);
    c->text[r->text_len] = 0;
    c->text_len = r->text_len;
    c->n = c->total = (int32_t)r->n;
    c->truncated = r->finish == MULL_FINISH_LENGTH;
    g->round.tokens += (int64_t)r->n;
    g->round.prompt_tokens += r->prompt_tokens;
    g->round.cached_tokens += r->cached_tokens;
}

static int submit(struct mull__grpo *g, size_t i, mull_error *err) {
    const mull_recipe *r = g->t->r;
    const mull__group *x = &g->round.groups[i];
    const mull_sample *s = x->sample;
    const mull_media **media = malloc((s->nmedia + 1) * sizeof *media);
    if (!media) return nomem(err);
    for (size_t k = 0; k < s->nmedia; k++) media[k] = &s->media[k];
    int rc = MULL_OK;
    for (int64_t k = 0; k < r->num_generations && !rc; k++) {
        x->c[k].seed = mull__grpo_seed(r, x->step, x->place, (int)k);
        mull_request q = {.id = (uint64_t)i * (uint64_t)r->num_generations + (uint64_t)k,
                          .ids = s->ids,
                          .n = s->n,
                          .media = media,
                          .nmedia = s->nmedia,
                          .sampling = {.max_new_tokens = (int)r->max_completion_length,
                                       .temperature = r->temperature,
                                       .top_p = r->top_p,
                                       .repetition_penalty = 1,
                                       .seed = x->c[k].seed,
                                       .logprobs = 1,
                                       .logprobs_scaled = true}};
        rc = mull_infer_submit(g->engine, &q, err);
    }
    free(media);
    return rc;
}

static bool stopped(const struct mull__grpo *g) {
    return g->hooks->stop && g->hooks->stop(g->hooks->ctx);
}

static void cancel_all(struct mull__grpo *g, size_t first) {
    mull_error ignored = {0};
    int64_t G = g->t->r->num_generations;
    for (uint64_t id = (uint64_t)first * (uint64_t)G; id < g->round.ngroups * (uint64_t)G; id++)
        mull_infer_cancel(g->engine, id);
    g->failed = true; /* what comes back is not wanted */
    while (mull_infer_step(g->engine, &ignored) > 0)
        ;
}

int mull__grpo_answer(struct mull__grpo *g, size_t first, mull_error *err) {
    mull__round *o = &g->round;
    double start = mull__train_now();
    int rc = MULL_OK;
    g->err = err;
    g->failed = false;
    for (size_t i = first; i < o->ngroups && !rc; i++) rc = submit(g, i, err);
    while (!rc && mull_infer_pending(g->engine)) {
        if (stopped(g))
            rc = MULL_ECANCELLED;
        else if (mull_infer_step(g->engine, err) < 0)
            rc = MULL_EINTERNAL;
        else if (g->failed)
            rc = MULL_EINTERNAL;
    }
    if (!rc && g->failed) rc = MULL_EINTERNAL;
    if (!rc) rc = mull_model_status(g->t->tower, err); /* nothing reads the weights any more that are to change */
    if (rc) cancel_all(g, first);
    o->seconds += mull__train_now() - start;
    return rc;
}

void mull__group_fini(mull__group *x, int64_t generations) {
    for (int64_t k = 0; x->c && k < generations; k++) {
        free(x->c[k].ids);
        free(x->c[k].logp);
        free(x->c[k].text);
    }
    free(x->c);
    x->c = NULL;
}

/* The groups of one loader step, which begin at first, with completions and advantages. */
static int draw(struct mull__grpo *g, const mull_train_source *src, size_t first, mull_error *err) {
    int rc = take_step(g, src, err);
    if (!rc) rc = hold(g, first, err);
    if (g->intake) {
        rc = mull__intake_take(g, first, rc, err);
    } else {
        if (!rc) rc = mull__grpo_answer(g, first, err);
        if (!rc) rc = mull__grpo_reward(g, first, err);
    }
    if (!rc) rc = mull__grpo_advantages(g, first, err);
    return mull__grpo_agree(g, rc, false, NULL, err);
}

/* DAPO: groups that teach nothing make room for those of further prompts that do, in order. */
static int resample(struct mull__grpo *g, const mull_train_source *src, size_t begin, mull_error *err) {
    const mull__round *o = &g->round;
    int rc = MULL_OK;
    for (int64_t k = 0; k < g->t->r->dynamic_sampling && !rc; k++) {
        size_t flat = 0, first = o->ngroups;
        bool any = false;
        for (size_t i = begin; i < first; i++) flat += o->groups[i].flat;
        rc = mull__grpo_agree(g, rc, flat > 0, &any, err);
        if (rc || !any) break;
        rc = draw(g, src, first, err);
        if (!rc) rc = mull__grpo_refill(g, begin, first, err);
    }
    return rc;
}

/* What grpo_tokens: all averages over reaches to the longest completion of a group. */
static int pad(struct mull__grpo *g, mull_error *err) {
    const mull_recipe *r = g->t->r;
    mull__round *o = &g->round;
    int32_t id = mull_tokenizer_special(g->tokenizer, "<|endoftext|>");
    for (size_t i = 0; i < o->ngroups; i++) {
        int32_t longest = 0;
        for (int64_t k = 0; k < r->num_generations; k++)
            if (o->groups[i].c[k].n > longest) longest = o->groups[i].c[k].n;
        for (int64_t k = 0; k < r->num_generations; k++) {
            mull__completion *c = &o->groups[i].c[k];
            if (r->grpo_tokens) {
                int32_t *ids = realloc(c->ids, ((size_t)longest + 1) * sizeof *ids);
                if (!ids) return nomem(err);
                c->ids = ids;
                while (c->total < longest) c->ids[c->total++] = id;
            }
            c->counted =
                r->mask_truncated_completions && c->truncated ? 0 : (int32_t)mull__completion_rows(r, &o->groups[i], c);
            c->at = o->flat;
            o->flat += mull__completion_rows(r, &o->groups[i], c);
        }
    }
    return MULL_OK;
}

int mull__grpo_collect(struct mull__grpo *g, const mull_train_source *src, mull_error *err) {
    mull__round *o = &g->round;
    const mull_recipe *r = g->t->r;
    int rc = g->stale && !g->intake ? mull__grpo_refresh(g, &o->refresh_seconds, err) : MULL_OK;
    o->version = g->t->state.step;
    if (g->intake) rc = mull__intake_publish(g, src->position(src->ctx).step, err);
    o->window = calloc((size_t)r->steps_per_generation + 1, sizeof *o->window);
    if (!rc && !o->window) rc = nomem(err);
    for (int64_t w = 0; w < r->steps_per_generation && !rc; w++) {
        size_t begin = o->ngroups;
        rc = draw(g, src, begin, err);
        if (!rc && r->dynamic_sampling) rc = resample(g, src, begin, err);
        o->window[w + 1] = o->ngroups;
        o->windows++;
    }
    if (!rc && g->intake) mull__intake_arrived(g);
    return rc ? rc : pad(g, err);
}

void mull__round_fini(struct mull__grpo *g, const mull_train_source *src) {
    mull__round *o = &g->round;
    for (size_t i = 0; i < o->ngroups; i++) mull__group_fini(&o->groups[i], g->t->r->num_generations);
    for (size_t i = 0; i < o->nheld; i++) mull_features_release(g->features, o->held[i].feature);
    for (size_t i = 0; src && i < o->nbatches; i++) src->release(src->ctx, &o->batches[i]);
    free(o->batches);
    free(o->groups);
    free(o->window);
    free(o->held);
    free(o->old);
    free(o->ref);
    *o = (mull__round){0};
}
