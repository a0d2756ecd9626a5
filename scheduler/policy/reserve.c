/* Reservations: where and when a blocked job can start by the time limits of what runs, so that nothing that starts
 * before it delays it. Room only grows as jobs end, so the earliest time is found by bisection over the ends. What an
 * earlier reservation took counts as gone for good: pessimistic, but never wrong by starving one for another. */
#include "scheduler/policy/policy_internal.h"

#include <stdlib.h>
#include <string.h>

int32_t mull__spare(const mull_policy *p, uint32_t node, mull_kind kind, int64_t ends_ms) {
    int32_t least = INT32_MAX;
    for (int i = 0; i < p->reservation_count; i++) {
        const mull_reservation *r = &p->reservation[i];
        if (r->kind != kind || (r->at_ms != INT64_MAX && ends_ms <= r->at_ms)) continue;
        if (r->spare[node] < least) least = r->spare[node];
    }
    return least;
}

void mull__spare_take(mull_policy *p, uint32_t node, mull_kind kind, int64_t ends_ms, int32_t units) {
    for (int i = 0; i < p->reservation_count; i++) {
        mull_reservation *r = &p->reservation[i];
        if (r->kind != kind || r->spare[node] == INT32_MAX) continue;
        if (r->at_ms == INT64_MAX || ends_ms > r->at_ms) r->spare[node] -= units;
    }
}

void mull__ends_add(mull_policy *p, uint32_t place, bool started_now, int64_t at_ms) {
    p->ends[p->end_count++] = (mull_end){at_ms, place, started_now};
    p->ends_sorted = false;
}

static int by_time(const void *a, const void *b) {
    const mull_end *x = a, *y = b;
    if (x->at_ms != y->at_ms) return x->at_ms < y->at_ms ? -1 : 1;
    return x->place < y->place ? -1 : x->place > y->place;
}

/* p->later = free room of this kind once the first n ends have passed, without what is reserved. */
static void look_ahead(mull_policy *p, mull_kind kind, size_t n) {
    int32_t *later = p->later[kind];
    memcpy(later, p->free[kind], p->in->node_count * sizeof *later);
    for (size_t i = 0; i < n; i++) {
        const mull_end *e = &p->ends[i];
        const mull_policy_place *at = e->started_now ? &p->out->places[e->place] : &p->in->places[e->place];
        if ((at->gpus == 0) != (kind == MULL_CPU)) continue;
        later[at->node] += mull_policy_units(at);
    }
    for (int i = 0; i < p->reservation_count; i++) {
        const mull_reservation *r = &p->reservation[i];
        for (size_t k = 0; r->kind == kind && k < p->in->node_count; k++)
            if (r->spare[k] != INT32_MAX && r->spare[k] < later[k]) later[k] = r->spare[k];
    }
}

/* Nodes of p->later that hold the ask, first in p->offers; their number, 0 when they do not. */
static size_t fits_later(mull_policy *p, const mull_ask *a) {
    const int32_t *later = p->later[a->kind];
    size_t n = 0, best = SIZE_MAX;
    for (size_t i = 0; i < p->in->node_count; i++) {
        if (!mull__could_hold(p, a, (uint32_t)i) || p->in->nodes[i].drained || later[i] <= 0) continue;
        /* What cannot start there now for fear of a window cannot later: nothing is kept for it. */
        if (!mull__open_until(&p->in->nodes[i], a->ends_ms)) continue;
        if (mull__is_gang(p, a))
            p->offers[n++] = (mull_offer){(uint32_t)i, later[i], p->in->nodes[i].switch_id, 0};
        else if (later[i] >= a->need && (best == SIZE_MAX || later[i] < later[best]))
            best = i;
    }
    if (mull__is_gang(p, a)) return mull__choose_gang(p, a, n);
    if (best == SIZE_MAX) return 0;
    p->offers[0] = (mull_offer){(uint32_t)best, a->need, 0, 0};
    return 1;
}

void mull__reserve(mull_policy *p, const mull_ask *a) {
    if (p->reservation_count == MULL_POLICY_RESERVATIONS) return;
    if (!p->ends_sorted) qsort(p->ends, p->end_count, sizeof *p->ends, by_time);
    p->ends_sorted = true;
    size_t known = p->end_count;
    while (known > 0 && p->ends[known - 1].at_ms == INT64_MAX) known--;
    /* The fewest ends after which it fits; known + 1 stands for "when all have ended, whenever that is". */
    size_t low = 0, high = known + 1;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        look_ahead(p, a->kind, mid > known ? p->end_count : mid);
        if (fits_later(p, a))
            high = mid;
        else if (mid > known)
            return; /* other reservations have all that it could use */
        else
            low = mid + 1;
    }
    look_ahead(p, a->kind, low > known ? p->end_count : low);
    size_t nodes = fits_later(p, a);
    if (nodes == 0) return;
    mull_reservation *r = &p->reservation[p->reservation_count++];
    r->kind = a->kind;
    r->at_ms = low > known ? INT64_MAX : low == 0 ? p->in->now_ms : p->ends[low - 1].at_ms;
    for (size_t i = 0; i < p->in->node_count; i++) r->spare[i] = INT32_MAX;
    int32_t left = a->need;
    for (size_t i = 0; i < nodes && left > 0; i++) {
        uint32_t node = p->offers[i].node;
        int32_t units = p->offers[i].units < left ? p->offers[i].units : left;
        r->spare[node] = p->later[a->kind][node] - units;
        left -= units;
    }
    /* Room was found under the assumption that it may be used: shapes that failed stay failed, others are tried. */
}
