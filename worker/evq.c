/* See evq.h. */
#include "worker/evq.h"

#include "schema/log.h"

#include <stdlib.h>

static mull_evq_entry *ring_at(const mull_evq_ring *r, size_t i) {
    return &r->at[(r->first + i) % r->cap];
}

static void ring_push(mull_evq_ring *r, char *text, size_t len) {
    if (r->count == r->cap) {
        size_t cap = r->cap ? r->cap * 2 : 64;
        mull_evq_entry *at = malloc(cap * sizeof *at);
        if (!at) abort(); /* see mull_evq_push */
        for (size_t i = 0; i < r->count; i++) at[i] = *ring_at(r, i);
        free(r->at);
        r->at = at;
        r->cap = cap;
        r->first = 0;
    }
    r->count++;
    r->bytes += len;
    *ring_at(r, r->count - 1) = (mull_evq_entry){.text = text, .len = len};
}

/* The text becomes the caller's. */
static mull_evq_entry ring_shift(mull_evq_ring *r) {
    mull_evq_entry e = *ring_at(r, 0);
    r->first = (r->first + 1) % r->cap;
    r->count--;
    r->bytes -= e.len;
    return e;
}

static void ring_fini(mull_evq_ring *r) {
    while (r->count) free(ring_shift(r).text);
    free(r->at);
}

int mull_evq_init(mull_evq *q, const char *spool_path, const mull_evq_limits *limits, mull_err *err) {
    *q = (mull_evq){.limits = *limits, .next = 1};
    return mull_spool_open(&q->spool, spool_path, limits->spool_bytes, err);
}

void mull_evq_fini(mull_evq *q) {
    ring_fini(&q->head);
    ring_fini(&q->tail);
    mull_spool_close(&q->spool);
}

static bool head_room(const mull_evq *q) {
    return q->head.count == 0 || (q->head.count < q->limits.head_count && q->head.bytes < q->limits.head_bytes);
}

static bool to_spool(mull_evq *q, const char *text, size_t len) {
    mull_err err;
    if (mull_spool_put(&q->spool, text, len, &err) == 0) {
        if (q->complained) mull_log(MULL_LOG_INFO, "the event spool has room again; engines go on");
        q->complained = false;
        return true;
    }
    if (!q->complained) {
        char line[2600];
        mull_log(MULL_LOG_ERROR, "%s (engines wait until then)", mull_err_line(&err, line, sizeof line));
    }
    q->complained = true;
    return false;
}

void mull_evq_push(mull_evq *q, char *text, size_t len) {
    if (q->tail.count == 0) {
        if (q->spool.count == 0 && head_room(q)) {
            ring_push(&q->head, text, len);
            return;
        }
        if (to_spool(q, text, len)) {
            free(text);
            return;
        }
    }
    ring_push(&q->tail, text, len);
}

bool mull_evq_full(const mull_evq *q) {
    return q->tail.count > 0;
}

void mull_evq_settle(mull_evq *q) {
    while (head_room(q) && (q->spool.count || q->tail.count)) {
        char *text;
        size_t len;
        uint64_t lost;
        mull_err err;
        if (q->spool.count == 0) {
            mull_evq_entry e = ring_shift(&q->tail);
            ring_push(&q->head, e.text, e.len);
            continue;
        }
        int rc = mull_spool_get(&q->spool, &text, &len, &lost, &err);
        if (rc == 0) {
            ring_push(&q->head, text, len);
        } else {
            char line[2600];
            mull_log(MULL_LOG_ERROR, "%s", mull_err_line(&err, line, sizeof line));
            if (rc != MULL_ERR_FORMAT) return;
        }
    }
    while (q->tail.count && to_spool(q, ring_at(&q->tail, 0)->text, ring_at(&q->tail, 0)->len))
        free(ring_shift(&q->tail).text);
    if (q->tail.count == 0) q->complained = false;
}

mull_evq_entry *mull_evq_find(mull_evq *q, uint64_t seq) {
    if (seq <= q->acked || seq - q->acked > q->head.count) return NULL;
    return ring_at(&q->head, (size_t)(seq - q->acked - 1));
}

const mull_evq_entry *mull_evq_publish(mull_evq *q, uint64_t *seq) {
    mull_evq_entry *e = mull_evq_find(q, q->next);
    uint64_t flight = q->next - q->acked - 1;
    if (!e) return NULL;
    if (flight > 0 && (flight >= q->limits.flight_count || q->flight_bytes + e->len > q->limits.flight_bytes))
        return NULL;
    q->flight_bytes += e->len;
    e->id_ms = e->id_n = 0;
    *seq = q->next++;
    return e;
}

void mull_evq_ack(mull_evq *q, uint64_t seq) {
    if (seq > q->acked + q->head.count) return; /* not one of ours */
    while (q->acked < seq) {
        mull_evq_entry e = ring_shift(&q->head);
        q->acked++;
        if (q->acked < q->next)
            q->flight_bytes -= e.len;
        else
            q->next = q->acked + 1; /* published before a rewind */
        free(e.text);
    }
    mull_evq_settle(q);
}

void mull_evq_rewind(mull_evq *q, uint64_t from) {
    if (from <= q->acked) from = q->acked + 1;
    while (q->next > from) q->flight_bytes -= mull_evq_find(q, --q->next)->len;
}

bool mull_evq_empty(const mull_evq *q) {
    return q->head.count == 0 && q->spool.count == 0 && q->tail.count == 0;
}

uint64_t mull_evq_last(const mull_evq *q) {
    return q->acked + q->head.count + q->spool.count + q->tail.count;
}
