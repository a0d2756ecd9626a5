/* The trainer's passes over a round. Completions are packed behind each other with their prompts, as many as
 * pack_tokens rows hold; what a counted token weighs is worked out for the whole optimiser step beforehand, so that
 * packing changes nothing but the order of sums. Completions that cannot move the weights (no advantage and no KL) are
 * left out. */
#include "engine/train/grpo_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const WHAT = "cannot train on completions";
enum { PACK_ROWS = 4096 }; /* without pack_tokens */

/* A packed run of completions: a prompt and the branches of its group behind it are one sequence, computed once; with
 * grpo_tokens: all, where the prompt counts for each completion, and on a backend every completion has its prompt to
 * itself. */
typedef struct pack {
    mull_batch b;
    int count;            /* completions */
    mull__completion **c; /* [count] */
    int32_t *first, *length, *before, *counted;
    int32_t *trunk, *branch; /* [nseq], [T] */
    float *advantage, *old, *ref, *behaviour;
    double *share, pairs;
    int64_t rows; /* of the loss */
} pack;

static void pack_fini(pack *p) {
    free(p->b.ids);
    free(p->b.cu);
    free(p->b.media);
    free(p->b.patches);
    free(p->b.media_cu);
    free(p->c);
    free(p->first);
    free(p->length);
    free(p->before);
    free(p->counted);
    free(p->trunk);
    free(p->branch);
    free(p->advantage);
    free(p->old);
    free(p->ref);
    free(p->behaviour);
    free(p->share);
    *p = (pack){0};
}

/* Every completion has its prompt to itself. On a backend always: its attention knows no branches. */
static bool apart(const struct mull__grpo *g) {
    return g->t->r->grpo_tokens || !mull_net_on_host(g->t->net);
}

static bool useful(const struct mull__grpo *g, const mull__completion *c) {
    return c->counted > 0 && (c->advantage != 0 || (g->kl && g->t->r->beta != 0));
}

static double share_of(const struct mull__grpo *g, const mull__group *x, const mull__completion *c, const double *part,
                       int64_t n, int parts, double total) {
    const mull_recipe *r = g->t->r;
    switch (r->loss_type) {
    case MULL_LOSS_GRPO:
        return 1.0 / ((double)(c->counted > 1 ? c->counted : 1) * (double)n);
    case MULL_LOSS_DR_GRPO:
        return 1.0 / ((double)n * (double)r->max_completion_length);
    case MULL_LOSS_BNPO:
        return 1.0 / (fmax(1, part[x->part]) * parts);
    default:
        return 1.0 / fmax(1, total);
    }
}

static int allocate(const struct mull__grpo *g, pack *p, int64_t rows, int64_t loss, size_t n, size_t media,
                    mull_error *err) {
    const mull__round *o = &g->round;
    p->b.ids = malloc(((size_t)rows + 1) * sizeof *p->b.ids);
    p->branch = calloc((size_t)rows + 1, sizeof *p->branch);
    p->b.cu = calloc(n + 1, sizeof *p->b.cu);
    p->b.media = calloc(media + 1, sizeof *p->b.media);
    p->b.patches = calloc(media + 1, sizeof *p->b.patches);
    p->b.media_cu = calloc(n + 1, sizeof *p->b.media_cu);
    p->c = calloc(n + 1, sizeof *p->c);
    p->first = calloc(n + 1, sizeof *p->first);
    p->length = calloc(n + 1, sizeof *p->length);
    p->before = calloc(n + 1, sizeof *p->before);
    p->counted = calloc(n + 1, sizeof *p->counted);
    p->trunk = calloc(n + 1, sizeof *p->trunk);
    p->advantage = calloc(n + 1, sizeof *p->advantage);
    p->share = calloc(n + 1, sizeof *p->share);
    p->old = o->old ? malloc(((size_t)loss + 1) * sizeof *p->old) : NULL;
    p->ref = o->ref ? malloc(((size_t)loss + 1) * sizeof *p->ref) : NULL;
    p->behaviour = o->stale ? malloc(((size_t)loss + 1) * sizeof *p->behaviour) : NULL;
    if (rows < INT32_MAX && p->b.ids && p->branch && p->b.cu && p->b.media && p->b.patches && p->b.media_cu && p->c &&
        p->first && p->length && p->before && p->counted && p->trunk && p->advantage && p->share &&
        (!o->old || p->old) && (!o->ref || p->ref) && (!o->stale || p->behaviour))
        return MULL_OK;
    pack_fini(p);
    return mull_fail(err, MULL_ENOMEM, WHAT, "", "lower pack_tokens", "out of memory");
}

/* A sequence begins with the prompt of x. */
static void add_prompt(pack *p, const mull__group *x) {
    const mull_sample *s = x->sample;
    int k = p->b.nseq++;
    memcpy(p->b.ids + p->b.rows, s->ids, s->n * sizeof *s->ids);
    p->b.rows += (int64_t)s->n;
    p->pairs += (double)s->n * (double)s->n / 2;
    p->trunk[k] = (int32_t)s->n;
    for (size_t j = 0; j < s->nmedia; j++, p->b.nmedia++) {
        const mull_media *media = &s->media[j];
        p->b.media[p->b.nmedia] = (mull_grid){.video = media->kind == MULL_MEDIA_VIDEO,
                                              .t = media->grid[0],
                                              .h = media->grid[1],
                                              .w = media->grid[2],
                                              .second_per_grid = (float)media->second_per_grid};
        p->b.patches[p->b.nmedia] = media->patches;
    }
    p->b.cu[k + 1] = (int32_t)p->b.rows;
    p->b.media_cu[k + 1] = p->b.nmedia;
}

/* The completion goes behind what the last sequence has. */
static void add_completion(const struct mull__grpo *g, pack *p, const mull__group *x, mull__completion *c,
                           double share) {
    const mull__round *o = &g->round;
    bool all = g->t->r->grpo_tokens;
    int k = p->count++, s = p->b.nseq - 1;
    size_t need = (size_t)mull__completion_rows(g->t->r, x, c);
    int32_t start = (int32_t)p->b.rows, begin = p->b.cu[s];
    memcpy(p->b.ids + p->b.rows, c->ids, (size_t)c->total * sizeof *c->ids);
    for (int32_t i = 0; i < c->total; i++) p->branch[start + i] = start;
    p->b.rows += c->total;
    p->b.cu[s + 1] = (int32_t)p->b.rows;
    p->pairs += (double)c->total * ((double)x->sample->n + c->total / 2.0);
    p->c[k] = c;
    p->first[k] = all ? begin + 1 : start;
    p->before[k] = all ? begin : begin + (int32_t)x->sample->n - 1;
    p->length[k] = (int32_t)need;
    p->counted[k] = c->counted;
    p->advantage[k] = c->advantage;
    p->share[k] = share;
    if (p->old) memcpy(p->old + p->rows, o->old + c->at, need * sizeof *p->old);
    if (p->ref) memcpy(p->ref + p->rows, o->ref + c->at, need * sizeof *p->ref);
    /* Completions of older weights are not trained on with grpo_tokens: all, so these are the answer's tokens. */
    for (size_t i = 0; p->behaviour && i < need; i++) p->behaviour[p->rows + (int64_t)i] = c->stale ? c->logp[i] : NAN;
    p->rows += (int64_t)need;
}

/* The next pack of completions [*at, end), numbered through the round's groups; *at moves on. count 0: none is left.
 * share (or NULL) by completion of the round. */
static int pack_next(const struct mull__grpo *g, size_t *at, size_t end, const double *share, pack *p,
                     mull_error *err) {
    const mull__round *o = &g->round;
    const mull_recipe *r = g->t->r;
    size_t G = (size_t)r->num_generations, stop = *at, n = 0, media = 0, none = o->ngroups, group = none;
    int64_t limit = r->pack_tokens ? r->pack_tokens : PACK_ROWS, rows = 0, loss = 0;
    *p = (pack){0};
    for (; stop < end; stop++) {
        const mull__group *x = &o->groups[stop / G];
        const mull__completion *c = &x->c[stop % G];
        if (!useful(g, c)) continue;
        bool fresh = apart(g) || group != stop / G;
        int64_t more = c->total + (fresh ? (int64_t)x->sample->n : 0);
        if (n && rows + more > limit) break;
        group = stop / G;
        rows += more;
        loss += mull__completion_rows(r, x, c);
        media += fresh ? x->sample->nmedia : 0;
        n++;
    }
    int rc = allocate(g, p, rows, loss, n, media, err);
    group = none;
    for (size_t i = *at; !rc && i < stop; i++) {
        const mull__group *x = &o->groups[i / G];
        if (!useful(g, &x->c[i % G])) continue;
        if (apart(g) || group != i / G) add_prompt(p, x);
        group = i / G;
        add_completion(g, p, x, &x->c[i % G], share ? share[i] : 0);
    }
    *at = stop;
    return rc;
}

/* Branches stand where the one completion of a sequence would: right behind the trunk. */
static void place_branches(const pack *p, int32_t *pos) {
    for (int s = 0; s < p->b.nseq; s++)
        for (int32_t t = p->b.cu[s] + p->trunk[s]; t < p->b.cu[s + 1]; t++)
            for (int a = 0; a < 3; a++) pos[a * p->b.rows + t] -= p->branch[t] - p->b.cu[s] - p->trunk[s];
}

/* Features of the round's media, which it holds. */
static int held_features(void *ctx, const mull_grid *grid, const float *patches, float *out, mull_error *err) {
    const struct mull__grpo *g = ctx;
    const mull__round *o = &g->round;
    size_t lo = 0, hi = o->nheld;
    (void)grid;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (o->held[mid].patches < patches)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (lo == o->nheld || o->held[lo].patches != patches)
        return mull_fail(err, MULL_EINTERNAL, WHAT, "media", NULL, "a medium of the round is not held");
    const mull_feature *f = o->held[lo].feature;
    size_t n = (size_t)(f->tokens * mull_trainer_config(g->t)->hidden);
    return mull_model_buffer_read(g->t->tower, out, f->data, n * sizeof *out, err);
}

static int room(struct mull__grpo *g, int64_t rows, mull_error *err) {
    if (rows <= g->out_cap) return MULL_OK;
    float *logp = realloc(g->logp, (size_t)rows * sizeof *logp);
    if (logp) g->logp = logp;
    float *kl = realloc(g->klt, (size_t)rows * sizeof *kl);
    if (kl) g->klt = kl;
    double *entropy = realloc(g->entropy, (size_t)rows * sizeof *entropy);
    if (entropy) g->entropy = entropy;
    if (!logp || !kl || !entropy) return mull_fail(err, MULL_ENOMEM, WHAT, "", NULL, "out of memory");
    g->out_cap = rows;
    return MULL_OK;
}

/* Forward, loss and (when wanted) backward of one pack; log-probs and KL are in g->logp, g->klt then. */
static int pass(struct mull__grpo *g, pack *p, bool backward, mull_loss_sum *sum, mull_error *err) {
    mull_trainer *t = g->t;
    const mull_recipe *r = t->r;
    mull_tower *tower = t->trained_tower;
    mull_pack_source source = tower ? t->source : (mull_pack_source){held_features, g};
    mull_grpo_batch b = {.count = p->count,
                         .first = p->first,
                         .length = p->length,
                         .before = p->before,
                         .advantage = p->advantage,
                         .ref = p->ref,
                         .old = p->old,
                         .behaviour = p->behaviour,
                         .counted = p->counted,
                         .share = p->share};
    mull_grpo_opts o = {.type = (mull_grpo_loss)r->loss_type,
                        .beta = r->beta,
                        .epsilon = r->epsilon,
                        .epsilon_high = r->epsilon_high,
                        .temperature = r->temperature,
                        .max_completion_length = r->max_completion_length,
                        .reinforce = r->basic_reinforce_mode,
                        .importance_cap = r->importance_cap,
                        .backward = backward};
    if (tower) mull_tower_enter(tower);
    int rc = mull_pack_build(&t->pack, mull_trainer_config(t), &p->b, &source, err);
    if (!rc) rc = room(g, p->rows, err);
    if (!rc) rc = mull_net_reserve(t->net, p->b.rows, p->rows, err);
    if (rc) return rc;
    if (!apart(g)) {
        place_branches(p, t->pack.pos);
        t->pack.net.trunk = p->trunk;
        t->pack.net.branch = p->branch;
    }
    mull_net_forward(t->net, &t->pack.net);
    mull_net_entropy(t->net, backward ? g->entropy : NULL);
    rc = mull_loss_grpo(t->net, &t->pack, &b, &o, &t->work, sum, g->logp, g->klt, err);
    mull_net_entropy(t->net, NULL);
    if (rc) return rc;
    if (backward)
        mull_net_backward(t->net, &t->pack.net);
    else
        mull_net_end(t->net);
    if (tower && backward) rc = mull_tower_backward(tower, &t->pack, &p->b, err);
    if (tower) mull_tower_leave(tower, backward);
    return rc;
}

/* The next pack and its pass. Ranks have different numbers of packs: one that has no more takes part in what the
 * others' need of it, and p->count is 0. *any: there was one somewhere. */
static int next(struct mull__grpo *g, size_t *at, size_t end, const double *share, pack *p, mull_loss_sum *sum,
                bool *any, mull_error *err) {
    int rc = pack_next(g, at, end, share, p, err);
    rc = mull__grpo_agree(g, rc, p->count > 0, any, err);
    if (rc || !*any) return rc;
    if (p->count) return pass(g, p, share != NULL, sum, err);
    if (g->t->trained_tower) mull_tower_enter(g->t->trained_tower);
    mull_net_idle(g->t->net, share != NULL);
    if (g->t->trained_tower) mull_tower_leave(g->t->trained_tower, share != NULL);
    return MULL_OK;
}

/* ---- before the first step */
static int log_probs(struct mull__grpo *g, float *out, mull_error *err) {
    size_t at = 0, end = g->round.ngroups * (size_t)g->t->r->num_generations;
    int rc = MULL_OK;
    for (bool any = true; !rc && any;) {
        pack p;
        mull_loss_sum ignored = {0};
        rc = next(g, &at, end, NULL, &p, &ignored, &any, err);
        int64_t from = 0;
        for (int s = 0; !rc && s < p.count; from += p.length[s++])
            memcpy(out + p.c[s]->at, g->logp + from, (size_t)p.length[s] * sizeof *out);
        pack_fini(&p);
    }
    return rc;
}

int mull__grpo_before(struct mull__grpo *g, mull_error *err) {
    const mull_recipe *r = g->t->r;
    mull__round *o = &g->round;
    bool several = r->num_iterations * r->steps_per_generation > 1 && !r->basic_reinforce_mode;
    float *old = several ? calloc((size_t)o->flat + 1, sizeof *old) : NULL;
    float *ref = g->kl ? calloc((size_t)o->flat + 1, sizeof *ref) : NULL;
    int rc =
        (several && !old) || (g->kl && !ref) ? mull_fail(err, MULL_ENOMEM, WHAT, "", NULL, "out of memory") : MULL_OK;
    /* A rank without groups still takes part in the passes of the others. */
    if (!rc && old) rc = log_probs(g, old, err);
    if (!rc && ref) {
        /* Until the policy moves away, the reference is the policy. */
        if (old && !g->ref.kept && !r->lora_rank) {
            memcpy(ref, old, (size_t)o->flat * sizeof *ref);
        } else {
            mull__grpo_swap_reference(g, true);
            rc = log_probs(g, ref, err);
            mull__grpo_swap_reference(g, false);
        }
    }
    o->old = old;
    o->ref = ref;
    return rc;
}

/* ---- one optimiser step */
typedef struct token_sums {
    double kl, entropy, low, high, mismatch, worst, importance, capped;
    int64_t n, compared, stale;
} token_sums;

static void count_tokens(const struct mull__grpo *g, const pack *p, bool compare, token_sums *t) {
    const mull_recipe *r = g->t->r;
    double low = 1 - r->epsilon, high = 1 + (r->epsilon_high > 0 ? r->epsilon_high : r->epsilon);
    int64_t at = 0;
    for (int s = 0; s < p->count; s++) {
        const mull__completion *c = p->c[s];
        int64_t n = p->length[s], answer = n - c->total;
        for (int64_t i = 0; i < n; i++, at++) {
            if (i < c->counted) {
                t->n++;
                t->kl += (double)g->klt[at];
                t->entropy += g->entropy[at];
                double ratio = p->old ? exp((double)g->logp[at] - (double)p->old[at]) : 1;
                t->low += ratio < low && c->advantage < 0;
                t->high += ratio > high && c->advantage > 0;
            }
            if (c->stale && i < c->counted) {
                double before = p->old ? (double)p->old[at] : (double)g->logp[at], b = (double)p->behaviour[at];
                t->importance += mull_grpo_importance(before, b, r->importance_cap);
                t->capped += r->importance_cap > 0 && exp(before - b) > r->importance_cap;
                t->stale++;
            }
            if (!compare || c->stale || i < answer || i - answer >= c->n) continue;
            double d = fabs((double)(p->old ? p->old[at] : g->logp[at]) - (double)c->logp[i - answer]);
            t->mismatch += d;
            if (!(d <= t->worst)) t->worst = d;
            t->compared++;
        }
    }
}

/* By completion of the round, of groups [from, to); what they divide by is counted over all ranks. */
static int shares(struct mull__grpo *g, size_t from, size_t to, double **out, mull_error *err) {
    const mull__round *o = &g->round;
    size_t G = (size_t)g->t->r->num_generations;
    int mine = 0, parts;
    for (size_t i = from; i < to; i++)
        if (o->groups[i].part >= mine) mine = o->groups[i].part + 1;
    int rc = mull_ranks_agree(g->t->ranks, mine, &parts, err);
    if (rc) return rc;
    double *share = calloc(o->ngroups * G + 1, sizeof *share), *part = calloc((size_t)parts + 2, sizeof *part);
    double *total = part ? part + parts : NULL, *n = part ? part + parts + 1 : NULL;
    if (!share || !part) rc = mull_fail(err, MULL_ENOMEM, WHAT, "", NULL, "out of memory");
    for (size_t i = from; i < to && !rc; i++)
        for (size_t k = 0; k < G; k++, ++*n) {
            part[o->groups[i].part] += o->groups[i].c[k].counted;
            *total += o->groups[i].c[k].counted;
        }
    if (!rc) rc = mull_ranks_add(g->t->ranks, part, parts + 2, err);
    for (size_t i = from; i < to && !rc; i++)
        for (size_t k = 0; k < G; k++)
            share[i * G + k] = share_of(g, &o->groups[i], &o->groups[i].c[k], part, (int64_t)*n, parts, *total);
    free(part);
    if (rc)
        free(share);
    else
        *out = share;
    return rc;
}

/* What the passes of one step gave, over all ranks. */
static int add_ranks(struct mull__grpo *g, mull_loss_sum *sum, token_sums *t, mull_step *st, mull_error *err) {
    double v[] = {sum->loss,
                  (double)st->tokens,
                  st->flops,
                  (double)st->samples,
                  (double)t->n,
                  t->kl,
                  t->entropy,
                  t->low,
                  t->high,
                  t->mismatch,
                  (double)t->compared,
                  t->importance,
                  t->capped,
                  (double)t->stale};
    int rc = mull_ranks_add(g->t->ranks, v, sizeof v / sizeof *v, err);
    if (!rc) rc = mull_ranks_most(g->t->ranks, &t->worst, 1, err);
    sum->loss = v[0];
    st->tokens = (int64_t)v[1];
    st->flops = v[2];
    st->samples = (int64_t)v[3];
    *t = (token_sums){.n = (int64_t)v[4],
                      .kl = v[5],
                      .entropy = v[6],
                      .low = v[7],
                      .high = v[8],
                      .mismatch = v[9],
                      .compared = (int64_t)v[10],
                      .importance = v[11],
                      .capped = v[12],
                      .stale = (int64_t)v[13],
                      .worst = t->worst};
    return rc;
}

int mull__grpo_window(struct mull__grpo *g, int w, bool first, mull_step *st, mull_grpo_figures *f, mull_error *err) {
    mull__round *o = &g->round;
    size_t G = (size_t)g->t->r->num_generations, at = o->window[w] * G, end = o->window[w + 1] * G;
    mull_loss_sum sum = {0};
    token_sums t = {0};
    double *share = NULL;
    int rc = shares(g, o->window[w], o->window[w + 1], &share, err);
    bool compare = first && (o->old || g->t->state.step == o->version);
    for (bool any = true; !rc && any;) {
        pack p;
        rc = next(g, &at, end, share, &p, &sum, &any, err);
        if (!rc && p.count) {
            count_tokens(g, &p, compare, &t);
            st->tokens += p.b.rows;
            st->flops += mull__train_flops(g->t, p.b.rows, p.rows, p.pairs);
        }
        pack_fini(&p);
    }
    free(share);
    st->samples = (int64_t)(end - o->window[w] * G);
    if (!rc) rc = add_ranks(g, &sum, &t, st, err);
    double n = t.n ? (double)t.n : NAN;
    st->loss = sum.loss;
    st->counted = t.n;
    f->kl = g->kl ? t.kl / n : NAN;
    f->entropy = t.entropy / n;
    f->importance = t.stale ? t.importance / (double)t.stale : NAN;
    f->importance_capped = t.stale ? t.capped / (double)t.stale : NAN;
    f->clip_low = t.low / n;
    f->clip_high = t.high / n;
    f->mismatch = t.compared ? t.mismatch / (double)t.compared : NAN;
    f->mismatch_max = t.compared ? t.worst : NAN;
    f->train_rows = st->tokens;
    return rc;
}
