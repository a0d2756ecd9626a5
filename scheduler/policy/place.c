/* Where a job goes: one node when it fits on one, else the fewest nodes that the hardware allows. */
#include "scheduler/policy/policy_internal.h"

#include <stdlib.h>
#include <string.h>

mull_ask mull__ask(const mull_policy *p, uint32_t job) {
    const mull_policy_job *j = &p->in->jobs[job];
    bool cpu = j->gpus == 0 && p->cpu_offered; /* where nobody offers CPU slots, a CPU job takes a GPU */
    return (mull_ask){.kind = cpu ? MULL_CPU : MULL_CUDA,
                      .need = j->gpus > 0    ? j->gpus
                              : j->slots > 0 ? j->slots
                                             : 1,
                      .labels = j->labels,
                      .avoid = j->avoid_node,
                      .ends_ms = j->time_limit_ms > 0 ? p->in->now_ms + j->time_limit_ms : INT64_MAX};
}

int32_t mull__total(const mull_policy *p, uint32_t node, mull_kind kind) {
    const mull_policy_node *n = &p->in->nodes[node];
    return kind == MULL_CPU ? n->total_cpu : n->total_cuda;
}

bool mull__is_gang(const mull_policy *p, const mull_ask *a) {
    return a->need > p->largest[a->kind];
}

bool mull__could_hold(const mull_policy *p, const mull_ask *a, uint32_t node) {
    const mull_policy_node *n = &p->in->nodes[node];
    int32_t least = mull__is_gang(p, a) ? 1 : a->need;
    return n->up && (n->labels & a->labels) == a->labels && mull__total(p, node, a->kind) >= least;
}

bool mull__open_until(const mull_policy_node *n, int64_t ends_ms) {
    return !n->closes_ms || ends_ms <= n->closes_ms;
}

/* ---- gangs ---- */

static int by_units(const void *a, const void *b) {
    const mull_offer *x = a, *y = b;
    if (x->units != y->units) return x->units < y->units ? 1 : -1;
    if (x->cost != y->cost) return x->cost < y->cost ? -1 : 1;
    return x->node < y->node ? -1 : x->node > y->node;
}

static int by_switch(const void *a, const void *b) {
    const mull_offer *x = a, *y = b;
    if (x->switch_id != y->switch_id) return x->switch_id < y->switch_id ? -1 : 1;
    return by_units(a, b);
}

/* Nodes that the largest ones must number to hold this: what "fewest" means, whatever is free at the moment. */
static size_t fewest_nodes(const mull_policy *p, const mull_ask *a) {
    int32_t sizes[MULL_POLICY_GANG_NODES + 1] = {0}; /* nodes by size; larger ones count as this large */
    int64_t left = a->need;
    size_t nodes = 0;
    for (size_t i = 0; i < p->in->node_count; i++)
        if (mull__could_hold(p, a, (uint32_t)i) && !p->in->nodes[i].drained) {
            int32_t size = mull__total(p, (uint32_t)i, a->kind);
            sizes[size < MULL_POLICY_GANG_NODES ? size : MULL_POLICY_GANG_NODES]++;
        }
    for (int32_t size = MULL_POLICY_GANG_NODES; size > 0; size--)
        for (int32_t k = 0; k < sizes[size]; k++) {
            left -= size;
            nodes++;
            if (left <= 0) return nodes <= MULL_POLICY_GANG_NODES ? nodes : 0;
        }
    return 0;
}

static int64_t sum(const mull_offer *o, size_t n, int64_t *cost) {
    int64_t units = 0;
    *cost = 0;
    for (size_t i = 0; i < n; i++) {
        units += o[i].units;
        *cost += o[i].cost;
    }
    return units;
}

size_t mull__choose_gang(mull_policy *p, const mull_ask *a, size_t n) {
    size_t k = fewest_nodes(p, a), best = SIZE_MAX;
    int64_t best_cost = 0, best_units = 0, cost = 0;
    if (k == 0 || n < k) return 0;
    qsort(p->offers, n, sizeof *p->offers, by_switch);
    for (size_t from = 0; from < n;) { /* one switch after the other: the cheapest, then the tightest */
        size_t to = from;
        while (to < n && p->offers[to].switch_id == p->offers[from].switch_id) to++;
        int64_t units = to - from >= k ? sum(p->offers + from, k, &cost) : 0;
        if (units >= a->need && (best == SIZE_MAX || cost < best_cost || (cost == best_cost && units < best_units))) {
            best = from;
            best_cost = cost;
            best_units = units;
        }
        from = to;
    }
    if (best != SIZE_MAX) {
        memmove(p->offers, p->offers + best, k * sizeof *p->offers);
        return k;
    }
    qsort(p->offers, n, sizeof *p->offers, by_units);
    return sum(p->offers, k, &cost) >= a->need ? k : 0;
}

/* ---- taking room ---- */

static void take(mull_policy *p, const mull_ask *a, uint32_t node, int32_t units) {
    mull_policy_out *out = p->out;
    out->places[out->place_count] =
        a->kind == MULL_CPU ? (mull_policy_place){node, 0, units} : (mull_policy_place){node, units, 0};
    mull__ends_add(p, (uint32_t)out->place_count, true, a->ends_ms);
    out->place_count++;
    p->free[a->kind][node] -= units;
    mull__spare_take(p, node, a->kind, a->ends_ms, units);
}

static mull_fit place_gang(mull_policy *p, const mull_ask *a) {
    size_t n = 0, k;
    bool held_back = false;
    mull_fit result = MULL_FIT_NEVER;
    for (size_t i = 0; i < p->in->node_count; i++) {
        const mull_policy_node *node = &p->in->nodes[i];
        if (!mull__could_hold(p, a, (uint32_t)i)) continue;
        if (node->drained) {
            if (result == MULL_FIT_NEVER) result = MULL_FIT_DRAINED;
            continue;
        }
        result = MULL_FIT_LATER;
        if (p->free[a->kind][i] <= 0) continue;
        if (!mull__open_until(node, a->ends_ms)) {
            p->time_matters = true;
            continue;
        }
        int32_t units = p->free[a->kind][i], spare = mull__spare(p, (uint32_t)i, a->kind, a->ends_ms);
        if (spare < units) {
            units = spare;
            held_back = p->time_matters = true;
        }
        if (units > 0) p->offers[n++] = (mull_offer){(uint32_t)i, units, node->switch_id, 0};
    }
    if (result == MULL_FIT_LATER && fewest_nodes(p, a) == 0) return MULL_FIT_NEVER;
    k = mull__choose_gang(p, a, n);
    if (k == 0) return result == MULL_FIT_LATER && held_back ? MULL_FIT_HELD_BACK : result;
    if (p->out->place_count + k > p->out->max_places) return MULL_FIT_LATER;
    int32_t left = a->need;
    for (size_t i = 0; i < k && left > 0; i++) {
        int32_t units = p->offers[i].units < left ? p->offers[i].units : left;
        take(p, a, p->offers[i].node, units);
        left -= units;
    }
    return MULL_FIT_NOW;
}

static mull_fit place_on_one(mull_policy *p, const mull_ask *a) {
    mull_fit result = MULL_FIT_NEVER;
    size_t chosen = 0;
    bool chosen_avoided = false;
    int32_t chosen_free = 0;
    for (size_t i = 0; i < p->in->node_count; i++) {
        const mull_policy_node *n = &p->in->nodes[i];
        int32_t room = p->free[a->kind][i];
        if (!mull__could_hold(p, a, (uint32_t)i)) continue;
        if (n->drained) {
            if (result == MULL_FIT_NEVER) result = MULL_FIT_DRAINED;
            continue;
        }
        if (result == MULL_FIT_NEVER || result == MULL_FIT_DRAINED) result = MULL_FIT_LATER;
        if (room < a->need) continue;
        if (!mull__open_until(n, a->ends_ms)) {
            p->time_matters = true;
            continue;
        }
        bool avoided = a->avoid >= 0 && (size_t)a->avoid == i;
        bool better = result != MULL_FIT_NOW || (chosen_avoided && !avoided) ||
                      (chosen_avoided == avoided && (a->kind == MULL_CUDA ? room < chosen_free : room > chosen_free));
        if (!better) continue;
        if (mull__spare(p, (uint32_t)i, a->kind, a->ends_ms) < a->need) {
            p->time_matters = true;
            if (result == MULL_FIT_LATER) result = MULL_FIT_HELD_BACK;
            continue;
        }
        result = MULL_FIT_NOW;
        chosen = i;
        chosen_free = room;
        chosen_avoided = avoided;
    }
    if (result != MULL_FIT_NOW) return result;
    if (p->out->place_count == p->out->max_places) return MULL_FIT_LATER;
    take(p, a, (uint32_t)chosen, a->need);
    return MULL_FIT_NOW;
}

/* ---- shapes without room ---- */

static mull_no_room *slot_of(mull_policy *p, const mull_ask *a) {
    uint64_t h = (a->labels ^ ((uint64_t)(uint32_t)a->need << 1 | (uint64_t)a->kind)) * 0x9E3779B97F4A7C15u;
    return &p->no_room[h >> 58];
}

mull_fit mull__place(mull_policy *p, const mull_ask *a) {
    mull_no_room *s = slot_of(p, a);
    bool same = s->used && s->need == a->need && s->kind == a->kind && s->labels == a->labels;
    if (same && a->ends_ms >= s->from_ms) return s->why;
    p->time_matters = false;
    mull_fit f = mull__is_gang(p, a) ? place_gang(p, a) : place_on_one(p, a);
    if (f == MULL_FIT_NOW) return f;
    /* Reservations and closing nodes ask when it would end: an earlier end may do, a later one cannot. */
    *s = (mull_no_room){true, f, a->need, a->kind, a->labels, p->time_matters ? a->ends_ms : INT64_MIN};
    return f;
}
