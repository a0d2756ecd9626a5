/* Plays a trace against the policy: the same passes that the leader makes, with a clock of its own. */
#ifndef MULL_SCHEDULER_SIM_SIM_H
#define MULL_SCHEDULER_SIM_SIM_H

#include "scheduler/sim/trace.h"

typedef struct mull_sim_config {
    int nodes, gpus_per_node, nodes_per_switch;
    int64_t pass_ms;       /* at most one pass in this time */
    int64_t checkpoint_ms; /* jobs save their state this often: what a preemption loses is what came after */
    int64_t grace_ms;      /* a preempted job holds its GPUs this long */
    int32_t min_run_ms;
    double half_life_ms; /* of usage */
} mull_sim_config;

typedef struct mull_sim_job {
    int64_t start_ms; /* the first time; -1 = never */
    int64_t end_ms;   /* -1 = never */
    int32_t preempted;
} mull_sim_job;

typedef struct mull_sim_sample {
    int64_t at_ms;
    int64_t busy, pending_gpus; /* GPUs */
    size_t pending;
} mull_sim_sample;

typedef struct mull_sim_result {
    mull_sim_job *jobs;       /* [trace->n] */
    mull_sim_sample *samples; /* [nsamples], an hour apart */
    size_t nsamples;
    double busy_gpu_ms, lost_gpu_ms; /* up to the last submission; lost: done again after preemptions */
    double *team_gpu_ms;             /* [teams] up to the last submission */
    size_t finished, preemptions, reclaims, passes;
    float *pass_ms;       /* [passes] wall time */
    int64_t end_ms;       /* of the last job */
    size_t double_booked; /* places beyond a node's GPUs: must be 0 */
} mull_sim_result;

/* 0, -1 without memory. Jobs larger than the cluster never start. */
int mull_sim_run(const mull_trace *t, const mull_sim_config *c, mull_sim_result *out);
void mull_sim_fini(mull_sim_result *r);

/* Words and numbers on f. */
void mull_sim_report(const mull_trace *t, const mull_sim_config *c, const mull_sim_result *r, FILE *f);
/* Two pictures in folder: utilisation.svg and waits.svg. 0, -1 with a line on stderr. */
int mull_sim_plot(const mull_trace *t, const mull_sim_config *c, const mull_sim_result *r, const char *folder);

#endif
