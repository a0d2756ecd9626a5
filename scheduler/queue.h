/* The leader's picture of the queue: pending jobs, nodes with their devices, attempts under way. A mirror of
 * PostgreSQL that can be thrown away and read again at any time; no I/O here.
 *
 * Pending jobs are kept in the very array the policy reads. Nodes are never removed, so their index names them. */
#ifndef MULL_SCHEDULER_QUEUE_H
#define MULL_SCHEDULER_QUEUE_H

#include "scheduler/idmap.h"
#include "scheduler/policy/policy.h"

enum { MULL_MAX_DEVICES = 256, MULL_NAME_MAX = 128, MULL_BOOT_MAX = 40 };

typedef struct mull_device {
    bool cuda;
    int32_t index;
    int64_t fence; /* attempt that holds it, 0 = free */
} mull_device;

typedef struct mull_node {
    char name[MULL_NAME_MAX];
    char boot[MULL_BOOT_MAX];
    mull_device *devices; /* [device_count] */
    size_t device_count;
    uint64_t seen_ms; /* loop time of the last sign of life */
    bool up, drained;
} mull_node;

typedef struct mull_attempt {
    int64_t fence, job;
    int32_t attempt;
    uint32_t node;
    char boot[MULL_BOOT_MAX];
    bool started;          /* attempt_started is recorded */
    bool cancel_requested; /* by a user */
    int64_t time_limit_s;  /* 0 = none */
    int64_t deadline_ms;   /* unix ms, 0 = none or not started */
    uint64_t sent_ms;      /* loop time when start was last sent */
    uint64_t cancel_ms;    /* loop time when cancel was last sent, 0 = never */
    uint64_t missing_ms;   /* loop time since when heartbeats lack it, 0 = they do not */
} mull_attempt;

typedef struct mull_queue {
    mull_policy_job *jobs; /* pending */
    size_t job_count, job_cap;
    size_t waiting;    /* of them, with an unmet dependency */
    int64_t newest_id; /* largest id ever put */
    mull_idmap by_job;
    mull_node *nodes;
    size_t node_count, node_cap;
    mull_attempt *attempts;
    size_t attempt_count, attempt_cap;
    mull_idmap by_fence;
} mull_queue;

void mull_queue_fini(mull_queue *q);

/* Inserts or replaces a pending job by id. 0 or -1 without memory. */
int mull_queue_put_job(mull_queue *q, const mull_policy_job *job);
void mull_queue_del_job(mull_queue *q, int64_t id);
const mull_policy_job *mull_queue_job(const mull_queue *q, int64_t id);
/* Pending jobs with from < id <= to that are not among the n ascending ids: at most cap of them into out; how many. */
size_t mull_queue_missing_jobs(const mull_queue *q, int64_t from, int64_t to, const int64_t *ids, size_t n,
                               int64_t *out, size_t cap);

/* Index of a node by name, or -1. */
int32_t mull_queue_find_node(const mull_queue *q, const char *name);
/* Inserts or updates; a changed device list keeps the holders of devices that are still there. Index or -1. */
int32_t mull_queue_put_node(mull_queue *q, const char *name, const char *boot, const mull_device *devices, size_t n);

/* Inserts (or finds) an attempt; pointers into attempts are valid until the next put or del. NULL without memory. */
mull_attempt *mull_queue_put_attempt(mull_queue *q, const mull_attempt *a);
mull_attempt *mull_queue_attempt(const mull_queue *q, int64_t fence);
/* Forgets an attempt and frees its devices. */
void mull_queue_del_attempt(mull_queue *q, int64_t fence);

/* Picks free devices of a node for a job as the policy counts them. Fills picked (room for gpus or 1), returns how
 * many, 0 when they are not free. Does not take them. */
size_t mull_queue_pick(const mull_queue *q, uint32_t node, int32_t gpus, mull_device *picked);
/* Marks a device as held by fence. */
void mull_queue_hold(mull_queue *q, uint32_t node, bool cuda, int32_t index, int64_t fence);
/* What the policy needs of a node. */
mull_policy_node mull_queue_policy_node(const mull_queue *q, uint32_t node);

#endif
