/* Victims: running jobs that make way for a blocked one, the set that loses least work since its last checkpoint. */
#include "scheduler/policy/policy_internal.h"

#include <stdlib.h>

enum { NO_PLACE = 0xffffffffu };

void mull__preempt_begin(mull_policy *p) {
    const mull_policy_in *in = p->in;
    for (size_t i = 0; i < in->node_count; i++) p->node_running[i] = NO_PLACE;
    for (size_t i = 0; i < in->running_count; i++) {
        const mull_policy_running *r = &in->running[i];
        p->chosen[i] = 0;
        int64_t ends = r->ending ? in->now_ms : r->ends_ms ? r->ends_ms : INT64_MAX;
        for (uint32_t k = r->first_place; k < r->first_place + r->place_count; k++) {
            p->place_owner[k] = (uint32_t)i;
            p->next_place[k] = p->node_running[in->places[k].node];
            p->node_running[in->places[k].node] = k;
            mull__ends_add(p, k, false, ends < in->now_ms ? in->now_ms : ends);
        }
    }
}

static int64_t units_of(const mull_policy *p, const mull_policy_running *r) {
    int64_t units = 0;
    for (uint32_t k = 0; k < r->place_count; k++) units += mull_policy_units(&p->in->places[r->first_place + k]);
    return units;
}

/* Unit-milliseconds that stopping it now throws away; never 0, so that nobody is stopped for nothing. */
static int64_t loss(const mull_policy *p, const mull_policy_running *r) {
    int64_t since = p->in->now_ms - (r->saved_ms > r->started_ms ? r->saved_ms : r->started_ms);
    return units_of(p, r) * (since > 0 ? since : 0) + 1;
}

/* Whether r may be stopped for this job; *reclaim says on which ground. borrowed: GPUs by which each team is over its
 * nominal are read from the state, which victims chosen so far have left. */
static bool may_stop(const mull_policy *p, uint32_t job, const mull_ask *a, const mull_policy_running *r,
                     bool *reclaim) {
    const mull_policy_job *j = &p->in->jobs[job];
    int32_t mine = mull__team_of(p, j->user), his = mull__team_of(p, r->user);
    if (!r->preemptible || r->ending || p->in->now_ms - r->started_ms < r->min_run_ms) return false;
    *reclaim = mine != his;
    if (mine == his) return r->priority < j->priority;
    if (a->kind != MULL_CUDA || mull__quota_own(p, mine) == INT64_MAX) return false;
    return mull__quota_own(p, mine) >= a->need && mull__quota_borrowed(p, his) > 0;
}

typedef struct victim_set {
    uint32_t *list; /* into running */
    size_t n;
} victim_set;

static int64_t gpus_of(const mull_policy *p, const mull_policy_running *r) {
    int64_t gpus = 0;
    for (uint32_t k = 0; k < r->place_count; k++) gpus += p->in->places[r->first_place + k].gpus;
    return gpus;
}

/* Marks a victim; from now on its GPUs count as free soon, so that the next one is judged by what stays. */
static void choose(mull_policy *p, victim_set *v, uint32_t running) {
    const mull_policy_running *r = &p->in->running[running];
    mull__share_ending(p, r->user, gpus_of(p, r));
    p->chosen[running] = 1;
    v->list[v->n++] = running;
}

/* Takes back all but the first keep. */
static void undo(mull_policy *p, victim_set *v, size_t keep) {
    while (v->n > keep) {
        const mull_policy_running *r = &p->in->running[v->list[--v->n]];
        mull__share_ending(p, r->user, -gpus_of(p, r));
        p->chosen[v->list[v->n]] = 0;
    }
}

/* The cheapest running job of the node that may be stopped and is not chosen yet, or NO_PLACE. */
static uint32_t cheapest(const mull_policy *p, uint32_t job, const mull_ask *a, uint32_t node, int64_t *cost) {
    uint32_t best = NO_PLACE;
    bool reclaim;
    for (uint32_t k = p->node_running[node]; k != NO_PLACE; k = p->next_place[k]) {
        const mull_policy_running *r = &p->in->running[p->place_owner[k]];
        if ((p->in->places[k].gpus == 0) != (a->kind == MULL_CPU)) continue;
        if (p->chosen[p->place_owner[k]] || !may_stop(p, job, a, r, &reclaim)) continue;
        int64_t l = loss(p, r);
        if (best == NO_PLACE || l < *cost || (l == *cost && p->place_owner[k] < best)) {
            best = p->place_owner[k];
            *cost = l;
        }
    }
    return best;
}

/* Units of this node that are free, or will be when what was told to stop has stopped. */
static int32_t free_soon(const mull_policy *p, const mull_ask *a, uint32_t node) {
    int32_t units = p->free[a->kind][node];
    for (uint32_t k = p->node_running[node]; k != NO_PLACE; k = p->next_place[k]) {
        const mull_policy_place *at = &p->in->places[k];
        if ((at->gpus == 0) != (a->kind == MULL_CPU)) continue;
        if (p->in->running[p->place_owner[k]].ending || p->chosen[p->place_owner[k]]) units += mull_policy_units(at);
    }
    int32_t spare = mull__spare(p, node, a->kind, INT64_MAX); /* what others have reserved is not to be had */
    return units < spare ? units : spare;
}

/* Chooses victims on one node until want units are free there. The cost, or -1 (then nothing is chosen). */
static int64_t clear_node(mull_policy *p, uint32_t job, const mull_ask *a, uint32_t node, int32_t want, victim_set *v) {
    int64_t total = 0, cost = 0;
    size_t before = v->n;
    while (free_soon(p, a, node) < want) {
        uint32_t r = cheapest(p, job, a, node, &cost);
        if (r == NO_PLACE) {
            undo(p, v, before);
            return -1;
        }
        total += cost;
        choose(p, v, r);
    }
    return total;
}

static bool clear_one(mull_policy *p, uint32_t job, const mull_ask *a, victim_set *v) {
    size_t best = SIZE_MAX;
    int64_t best_cost = 0;
    for (size_t i = 0; i < p->in->node_count; i++) {
        if (!mull__could_hold(p, a, (uint32_t)i) || p->in->nodes[i].drained ||
            !mull__open_until(&p->in->nodes[i], a->ends_ms))
            continue;
        int64_t cost = clear_node(p, job, a, (uint32_t)i, a->need, v);
        undo(p, v, 0);
        if (cost < 0 || (best != SIZE_MAX && cost >= best_cost)) continue;
        best = i;
        best_cost = cost;
    }
    return best != SIZE_MAX && clear_node(p, job, a, (uint32_t)best, a->need, v) >= 0;
}

/* Whole nodes only: a gang that shares its nodes with what could not be stopped would be split further. */
static bool clear_gang(mull_policy *p, uint32_t job, const mull_ask *a, victim_set *v) {
    size_t n = 0;
    for (size_t i = 0; i < p->in->node_count; i++) {
        if (!mull__could_hold(p, a, (uint32_t)i) || p->in->nodes[i].drained ||
            !mull__open_until(&p->in->nodes[i], a->ends_ms))
            continue;
        int32_t total = mull__total(p, (uint32_t)i, a->kind);
        int64_t cost = clear_node(p, job, a, (uint32_t)i, total, v);
        undo(p, v, 0);
        if (cost >= 0) p->offers[n++] = (mull_offer){(uint32_t)i, total, p->in->nodes[i].switch_id, cost};
    }
    size_t k = mull__choose_gang(p, a, n);
    for (size_t i = 0; i < k; i++)
        if (clear_node(p, job, a, p->offers[i].node, p->offers[i].units, v) < 0) {
            undo(p, v, 0);
            return false;
        }
    return k > 0;
}

/* Room exists but the quota lacks GPUs that others have borrowed: the cheapest borrowers, wherever they run. */
static bool clear_quota(mull_policy *p, uint32_t job, const mull_ask *a, victim_set *v) {
    int32_t team = mull__team_of(p, p->in->jobs[job].user);
    while (mull__quota_room_soon(p, team) < a->need) {
        uint32_t best = NO_PLACE;
        int64_t best_cost = 0, cost;
        for (size_t i = 0; i < p->in->node_count; i++) {
            uint32_t r = cheapest(p, job, a, (uint32_t)i, &cost);
            if (r == NO_PLACE || (best != NO_PLACE && cost >= best_cost)) continue;
            best = r;
            best_cost = cost;
        }
        if (best == NO_PLACE) return false;
        choose(p, v, best);
    }
    return true;
}

void mull__preempt(mull_policy *p, uint32_t job, const mull_ask *a, int64_t quota_short) {
    mull_policy_out *out = p->out;
    victim_set v = {p->victims, 0};
    if (!out->max_preempts || p->preempt_looks++ >= MULL_POLICY_PREEMPTIONS) return;
    bool ok = mull__is_gang(p, a) ? clear_gang(p, job, a, &v) : clear_one(p, job, a, &v);
    if (ok && quota_short > 0) ok = clear_quota(p, job, a, &v);
    if (!ok || out->preempt_count + v.n > out->max_preempts) {
        undo(p, &v, 0);
        return;
    }
    for (size_t i = 0; i < v.n; i++) {
        const mull_policy_running *r = &p->in->running[v.list[i]];
        bool reclaim = mull__team_of(p, r->user) != mull__team_of(p, p->in->jobs[job].user);
        out->preempts[out->preempt_count++] = (mull_policy_preempt){v.list[i], job, reclaim};
        /* Its devices come free now, for the reservation that the caller makes next. */
        for (size_t e = 0; e < p->end_count; e++)
            if (!p->ends[e].started_now && p->place_owner[p->ends[e].place] == v.list[i])
                p->ends[e].at_ms = p->in->now_ms;
        p->ends_sorted = false;
    }
}
