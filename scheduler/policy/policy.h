/* The scheduling policy: a pure function from a snapshot (pending jobs, nodes, the time) to decisions and reasons.
 *
 * It reads no clock, allocates nothing, calls nothing and links nothing, so every rule can be tested with a few lines
 * of numbers and a pass over a recorded snapshot always gives the same answer.
 *
 * The rules, in this order:
 *   1. A job is a candidate when it is not held, its dependencies are met and its begin time (or the end of its
 *      back-off after an infrastructure failure) has passed.
 *   2. Candidates are taken by priority (higher first), then in order of submission (smaller id first).
 *   3. A job with gpus > 0 needs that many free GPUs on one node; a job with gpus = 0 needs one CPU slot, or one GPU on
 *      a node that offers no CPU slots at all.
 *   4. A job that fits the hardware but not what is free right now blocks every later job of its kind (CPU or GPU), so
 *      that small late jobs cannot starve a big early one. A job that fits no node at all blocks nobody.
 *   5. GPU jobs go to the fullest node that fits (large holes stay whole), CPU jobs to the emptiest (less contention);
 *      the node where the job last died of infrastructure is used only when no other fits. */
#ifndef MULL_SCHEDULER_POLICY_H
#define MULL_SCHEDULER_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum mull_dep {
    MULL_DEP_MET,  /* no dependency, or all fulfilled */
    MULL_DEP_WAIT, /* at least one job it depends on has not ended */
    MULL_DEP_NEVER /* a job it depends on ended the other way: it can never run as asked */
} mull_dep;

/* Why a pending job was not started; NONE for the ones that were. */
typedef enum mull_why {
    MULL_WHY_NONE,
    MULL_WHY_RESOURCES,
    MULL_WHY_PRIORITY,
    MULL_WHY_DEPENDENCY,
    MULL_WHY_BEGIN_TIME,
    MULL_WHY_HELD,
    MULL_WHY_DRAINED
} mull_why;

typedef struct mull_policy_job {
    int64_t id;
    int64_t eligible_ms; /* begin time or end of back-off, unix ms; 0 = at once */
    int32_t priority;    /* higher starts first */
    int32_t gpus;        /* 0 = one CPU slot */
    int32_t avoid_node;  /* index into nodes of the last infrastructure failure, -1 = none */
    uint8_t dep;         /* mull_dep */
    bool held;
    uint8_t reason; /* the caller's: the mull_why last written down; the policy does not look at it */
} mull_policy_job;

typedef struct mull_policy_node {
    int32_t free_cpu, total_cpu;   /* CPU slots */
    int32_t free_cuda, total_cuda; /* GPUs */
    bool up;                       /* alive; a node that is down counts for nothing */
    bool drained;                  /* alive but takes no new jobs */
} mull_policy_node;

typedef struct mull_policy_decision {
    uint32_t job;  /* index into jobs */
    uint32_t node; /* index into nodes */
} mull_policy_decision;

typedef struct mull_policy_in {
    const mull_policy_job *jobs;
    size_t job_count;        /* at most UINT32_MAX */
    mull_policy_node *nodes; /* the free counts are consumed by the decisions */
    size_t node_count;
    int64_t now_ms;
} mull_policy_in;

typedef struct mull_policy_out {
    mull_policy_decision *decisions; /* room for max_decisions, in the order in which to start */
    size_t max_decisions, decision_count;
    uint8_t *reasons;  /* [job_count] mull_why, or NULL when nobody asks */
    uint32_t *scratch; /* [job_count] overwritten */
    int64_t next_ms;   /* earliest time > now at which a job becomes eligible; 0 = none */
} mull_policy_out;

/* One pass: O(jobs + started · (log jobs + nodes)). Cannot fail. When max_decisions is reached the remaining
 * candidates get the reason PRIORITY; the caller runs another pass. */
void mull_policy_run(const mull_policy_in *in, mull_policy_out *out);

/* The word of the job's reason column ("Resources"), "" for NONE. */
const char *mull_why_name(mull_why why);

#endif
