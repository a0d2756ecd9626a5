/* The leader: one process at a time that starts jobs and records what workers say.
 *
 * PostgreSQL issues a term; every write carries it and is refused once another term is current. This process asks for
 * the lead again and again (first at once, if the last holder had its name), loads the queue from PostgreSQL, then
 * runs three things side by side on the loop: the dispatch loop (dispatch.c), the recorder (recorder.c) and reconcile
 * (reconcile.c). Losing the term, for whatever reason, drops all of it; replies that arrive for an earlier epoch are
 * thrown away. */
#ifndef MULL_SCHEDULER_LEADER_H
#define MULL_SCHEDULER_LEADER_H

#include "scheduler/forecast.h"
#include "schema/store_pg.h"
#include "schema/store_redis.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

typedef struct mull_leader mull_leader;

typedef struct mull_leader_config {
    uv_loop_t *loop;
    mull_pg *pg;                           /* shared, outlives the leader */
    mull_redis *redis;                     /* commands */
    const mull_redis_server *redis_server; /* for the two connections that block on streams */
    int node_timeout_s; /* a node silent for so long is down; 0: 15. Leases of attempts are two thirds of it */
    const char *holder; /* unique among live schedulers, the same after a restart */
    /* Told after new log lines or an end of this job were committed. */
    void (*on_job_news)(int64_t job, void *arg);
    void *arg;
} mull_leader_config;

typedef struct mull_leader_stats {
    int64_t term; /* 0 = not leading */
    uint64_t dispatched, recorded, duplicates, stale, gaps, refused, ended, passes, lost_terms, node_downs, preempted;
    size_t pending, running, nodes_up;
    double last_pass_ms;
} mull_leader_stats;

/* NULL without memory. */
mull_leader *mull_leader_create(const mull_leader_config *config);
void mull_leader_get_stats(const mull_leader *l, mull_leader_stats *stats);
/* Calls cb, now or later, with one that knows the queue: this one if it leads, else one read from PostgreSQL, which is
 * good until cb returns; NULL: it could not be read. */
typedef void (*mull_leader_view_cb)(mull_leader *source, void *arg);
void mull_leader_view(mull_leader *l, mull_leader_view_cb cb, void *arg);
/* A copy of what it knows, to be run forward; the caller frees. NULL when it knows nothing, or without memory. */
mull_forecast *mull_leader_snapshot(const mull_leader *l);
/* What mull_submit takes as a pending job of this queue, with this id; false when it knows nothing. */
bool mull_leader_job_of(mull_leader *l, const json_t *item, int64_t id, mull_policy_job *job);
/* Gives the lead up (best effort) and closes every handle; done is called when nothing is left on the loop. */
void mull_leader_close(mull_leader *l, void (*done)(void *arg), void *arg);
void mull_leader_destroy(mull_leader *l);

#endif
