/* Events on their way to the leader, each exactly once and in order.
 *
 *   push -> [tail] -> [spool] -> [head] -> published -> acknowledged
 *
 * The head is a bounded piece of memory; what it has no room for goes to the spool on disk, and while the disk is full
 * to the tail, which grows only by what has been read from the engines already: its owner stops reading while
 * mull_evq_full. Sequence numbers are given on entering the head, 1, 2, 3 … without a gap, whatever happened before.
 * An event leaves when the leader acknowledges it; until then it can be published again. No I/O but the spool's. */
#ifndef MULL_WORKER_EVQ_H
#define MULL_WORKER_EVQ_H

#include "worker/spool.h"

#include <stdbool.h>

typedef struct mull_evq_limits {
    size_t head_count, head_bytes;     /* in memory */
    size_t flight_count, flight_bytes; /* published and not acknowledged; at least one event may be */
    uint64_t spool_bytes;
} mull_evq_limits;

typedef struct mull_evq_entry {
    char *text; /* a JSON object without its seq */
    size_t len;
    uint64_t id_ms, id_n; /* of its latest entry in the stream, 0 = unknown */
} mull_evq_entry;

typedef struct mull_evq_ring {
    mull_evq_entry *at;
    size_t first, count, cap, bytes;
} mull_evq_ring;

typedef struct mull_evq {
    mull_evq_limits limits;
    mull_evq_ring head, tail;
    mull_spool spool;
    uint64_t acked;      /* head[0] has the number acked + 1 */
    uint64_t next;       /* number of the event to publish next */
    size_t flight_bytes; /* of acked + 1 … next - 1 */
    bool complained;     /* about a full disk */
} mull_evq;

int mull_evq_init(mull_evq *q, const char *spool_path, const mull_evq_limits *limits, mull_err *err);
void mull_evq_fini(mull_evq *q);
/* Takes text (malloced, an object without "seq"). Without memory the process ends: an event must not be lost. */
void mull_evq_push(mull_evq *q, char *text, size_t len);
/* True while engines must wait. */
bool mull_evq_full(const mull_evq *q);
/* Moves events forward as far as there is room; to be called now and then while mull_evq_full. */
void mull_evq_settle(mull_evq *q);
/* The next event to publish and its number, or NULL: none left or too many under way. Counts as published. */
const mull_evq_entry *mull_evq_publish(mull_evq *q, uint64_t *seq);
/* An event in the head by number, or NULL. */
mull_evq_entry *mull_evq_find(mull_evq *q, uint64_t seq);
/* Everything up to seq is recorded. */
void mull_evq_ack(mull_evq *q, uint64_t seq);
/* Publish again from this number on (as far as it is still held). */
void mull_evq_rewind(mull_evq *q, uint64_t from);
/* True when there is nothing left to publish or to be acknowledged. */
bool mull_evq_empty(const mull_evq *q);
/* The number the latest pushed event has or will have. */
uint64_t mull_evq_last(const mull_evq *q);

#endif
