/* GRPO on several ranks. Each answers and trains on the prompts that its loader gives it; what is decided, and every
 * figure that a loss or an advantage divides by, is of all ranks together, so that so many ranks are one rank with so
 * many times the prompts, but for the order of sums.
 *
 * Groups never move: their media, completions and log-probs are where they were drawn. When a group without spread is
 * replaced, the next one with spread (in the order that one rank would have drawn them) takes its place in the step
 * wherever it lies, so a rank may have fewer groups in a step than another, or none. */
#include "engine/train/grpo_internal.h"

#include <stdlib.h>
#include <string.h>

static const char *const WHAT = "cannot train with rollouts";

enum { NOTHING, MORE, STOP, FAILED };

int mull__grpo_agree(struct mull__grpo *g, int rc, bool more, bool *any, mull_error *err) {
    int mine = rc == MULL_ECANCELLED ? STOP : rc ? FAILED : more ? MORE : NOTHING, all;
    int lost = mull_ranks_agree(g->t->ranks, mine, &all, rc && rc != MULL_ECANCELLED ? NULL : err);
    if (any) *any = all == MORE;
    if (mine == FAILED) return rc;
    if (lost) return lost;
    if (all == FAILED) return mull__train_other_failed(err);
    return all == STOP ? MULL_ECANCELLED : MULL_OK;
}

int mull__grpo_first_place(const struct mull__grpo *g) {
    const mull_recipe *r = g->t->r;
    return (int)(mull_comm_rank(g->t->params.comm) * r->per_device_train_batch_size * r->gradient_accumulation_steps);
}

/* A group as the other ranks need to know it. */
typedef struct word {
    int32_t part;
    bool flat, fresh;
} word;

/* Numbers, over all ranks in their order, the kept groups without spread and the fresh ones with it. The first least of
 * the two are exchanged; part_of [holes] has the parts of the former. NULL: no memory. */
static int32_t *count(const word *w, size_t n, size_t *exchanged) {
    int32_t *part_of = malloc((n + 1) * sizeof *part_of);
    size_t holes = 0, better = 0;
    for (size_t i = 0; part_of && i < n; i++) {
        if (!w[i].fresh && w[i].flat) part_of[holes++] = w[i].part;
        better += w[i].fresh && !w[i].flat;
    }
    *exchanged = holes < better ? holes : better;
    return part_of;
}

/* The groups [begin, ngroups) of this rank, mine of all words, after the exchange. A fresh group goes where one of this
 * rank left, as long as there are such places, and behind the others then. */
static int exchange(struct mull__grpo *g, size_t begin, const word *all, const word *mine, size_t most,
                    const int32_t *part_of, mull_error *err) {
    mull__round *o = &g->round;
    size_t n = o->ngroups - begin, hole = 0, better = 0, places = 0, taken = 0, to = 0;
    for (const word *w = all; w < mine; w++) hole += !w->fresh && w->flat, better += w->fresh && !w->flat;
    mull__group *kept = malloc((n + 1) * sizeof *kept), *moved = malloc((n + 1) * sizeof *moved);
    if (!kept || !moved) {
        free(kept), free(moved);
        return mull_fail(err, MULL_ENOMEM, WHAT, "", NULL, "out of memory");
    }
    for (size_t i = 0; i < n; i++) {
        mull__group *x = &o->groups[begin + i];
        if (!mine[i].fresh) continue;
        if (!mine[i].flat && better < most) {
            moved[places] = *x;
            moved[places++].part = part_of[better++];
            o->resampled++;
        } else {
            mull__group_fini(x, g->t->r->num_generations);
        }
    }
    for (size_t i = 0; i < n && !mine[i].fresh; i++) {
        mull__group *x = &o->groups[begin + i];
        bool leaves = mine[i].flat && hole++ < most;
        if (leaves) mull__group_fini(x, g->t->r->num_generations);
        if (!leaves)
            kept[to++] = *x;
        else if (taken < places)
            kept[to++] = moved[taken++];
    }
    while (taken < places) kept[to++] = moved[taken++];
    memcpy(o->groups + begin, kept, to * sizeof *kept);
    o->ngroups = begin + to;
    free(kept);
    free(moved);
    return MULL_OK;
}

int mull__grpo_refill(struct mull__grpo *g, size_t begin, size_t first, mull_error *err) {
    const mull__round *o = &g->round;
    size_t n = o->ngroups - begin, at[MULL_WORLD_MAX + 1], most;
    word *mine = calloc(n + 1, sizeof *mine);
    void *all = NULL;
    if (!mine) return mull_fail(err, MULL_ENOMEM, WHAT, "", NULL, "out of memory");
    for (size_t i = 0; i < n; i++) {
        const mull__group *x = &o->groups[begin + i];
        mine[i].part = x->part;
        mine[i].flat = x->flat;
        mine[i].fresh = begin + i >= first;
    }
    int rc = mull_ranks_collect(g->t->ranks, mine, n * sizeof *mine, &all, at, err);
    if (!rc) {
        const word *w = all;
        int world = mull_comm_world(g->t->params.comm), rank = mull_comm_rank(g->t->params.comm);
        int32_t *part_of = count(w, at[world] / sizeof *w, &most);
        rc = part_of ? exchange(g, begin, w, w + at[rank] / sizeof *w, most, part_of, err)
                     : mull_fail(err, MULL_ENOMEM, WHAT, "", NULL, "out of memory");
        free(part_of);
    }
    free(all);
    free(mine);
    return rc;
}
