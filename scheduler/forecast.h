/* When would a job start? The policy itself is run forward over a copy of what the leader knows: starts take their
 * places, ends give them back, and the clock jumps from one event to the next, until the job has its turn. Who started
 * before it is who is ahead of it, in the very order in which the policy shares.
 *
 * What nobody knows is assumed: a job without a time limit runs an hour (from now on, if it runs already), nobody else
 * submits, nothing fails, dependencies of others stay unmet. So it is an estimate, good where limits are given.
 *
 * Pure but for the wall clock that bounds its work; it shares nothing with the leader, so a thread can run it. */
#ifndef MULL_SCHEDULER_FORECAST_H
#define MULL_SCHEDULER_FORECAST_H

#include "scheduler/queue.h"

enum { MULL_FORECAST_ASSUMED_S = 3600, MULL_FORECAST_DAYS = 60, MULL_FORECAST_LIST = 50 };

typedef struct mull_forecast {
    mull_policy_team *teams;
    mull_team_name *team_names;
    size_t team_count;
    mull_policy_user *users;
    mull_team_name *user_names;
    size_t user_count;
    mull_policy_job *jobs; /* room for one more than job_count */
    size_t job_count;
    mull_policy_node *nodes;
    size_t node_count;
    mull_policy_running *running;
    size_t running_count;
    mull_policy_place *places;
    size_t place_count;
    int64_t now_ms;
} mull_forecast;

typedef struct mull_forecast_start {
    mull_policy_job job; /* user is an index into the forecast's */
    int64_t at_ms;
} mull_forecast_start;

typedef struct mull_forecast_result {
    bool found;     /* the target starts, at at_ms */
    bool cut;       /* the work or the days that are looked at were used up first */
    int64_t at_ms;  /* found: its start; cut: not before this */
    size_t ahead;   /* starts before it, of jobs that wait now; a task of an array counts */
    size_t assumed; /* of these and of what runs, how many have no time limit */
    size_t passes;
    mull_forecast_start list[MULL_FORECAST_LIST]; /* the first of them */
    size_t list_count;
} mull_forecast_result;

/* A copy of the queue; running and places as mull_policy_in has them, copied too. NULL without memory. */
mull_forecast *mull_forecast_take(const mull_queue *q, const mull_policy_running *running, size_t running_count,
                                  const mull_policy_place *places, size_t place_count, int64_t now_ms);
void mull_forecast_free(mull_forecast *f);
/* Runs it forward until the job with this id has started (0: until the list is full). Uses the copy up. 0 or -1 without
 * memory. budget_ms bounds the wall time. */
int mull_forecast_run(mull_forecast *f, int64_t target, int budget_ms, mull_forecast_result *out);

#endif
