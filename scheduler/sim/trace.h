/* A synthetic trace of many teams' jobs, or one read from a file. */
#ifndef MULL_SCHEDULER_SIM_TRACE_H
#define MULL_SCHEDULER_SIM_TRACE_H

#include "scheduler/policy/policy.h"

#include <stdio.h>

typedef struct mull_trace_job {
    int64_t submit_ms, run_ms; /* since the start of the trace; how long it really runs */
    int64_t limit_ms;          /* what its user says it may run; 0 = nothing */
    int32_t gpus, user, priority;
    bool preemptible;
} mull_trace_job;

typedef struct mull_trace_config {
    uint64_t seed;
    int teams, users_per_team;
    int gpus; /* of the cluster */
    size_t jobs;
    double weeks;
    double load; /* offered GPU time over capacity */
} mull_trace_config;

typedef struct mull_trace {
    mull_trace_job *jobs; /* [n] by submission */
    size_t n;
    mull_policy_team *teams; /* weights and quotas; used = 0 */
    size_t team_count;
    mull_policy_user *users;
    size_t user_count;
    int64_t span_ms;
} mull_trace;

/* Sizes, run times, limits and arrivals follow what is published of shared GPU clusters: most jobs are small and short,
 * most GPU time is in few large ones; users come by day and submit in bursts; limits are generous; every fifth gives
 * none. A pure function of the configuration. 0, -1 without memory. */
int mull_trace_make(const mull_trace_config *c, mull_trace *out);
/* CSV with the columns submit_s,run_s,limit_s,gpus,team,priority (a header line, by submission). 0; -1 with a line on
 * stderr. Teams have equal weights and no quota. */
int mull_trace_read(const char *path, mull_trace *out);
int mull_trace_write(const mull_trace *t, FILE *f);
void mull_trace_fini(mull_trace *t);

#endif
