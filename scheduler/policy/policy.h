/* The scheduling policy: a pure function from a snapshot (teams, users, nodes, what runs, what waits, the time) to
 * decisions (start these, preempt those) and reasons. It reads no clock, does no I/O and draws no random numbers, so a
 * pass over a recorded snapshot always gives the same answer, a simulator can run weeks of it in minutes, and every
 * rule can be tested with a few lines of numbers.
 *
 * The rules:
 *   1. Candidates: not held, dependencies met, begin time (or the end of a back-off) passed.
 *   2. Whose turn: the tree of teams is walked from the top, at each level to the child with the smallest share in
 *      proportion to its weight. A share is half what runs now and half the decayed average of the past, both in GPUs,
 *      so a start moves its team back in the very same pass. Inside a team: higher priority, then the user with the
 *      smaller share, then the order of submission. One team's blocked job never blocks another team's.
 *   3. Quota: a team owns `nominal` GPUs, may use `borrow` more while others leave theirs idle, and lends at most
 * `lend` of its own. A job that its team's nominal could hold, but not now, holds up the later jobs of its team (they
 *      would use up what it waits for); one that has to borrow holds up nobody.
 *   4. Place: a job that fits on one node gets one node, the fullest that has room (large holes stay whole). A larger
 *      gang gets the fewest nodes that the hardware allows, under one switch where that can be had. CPU jobs take a
 * slot on the emptiest node. The node where the job last died is used only when no other fits.
 *   5. Backfill: the first blocked job of each team (up to MULL_POLICY_RESERVATIONS) is given a reservation: the nodes
 * and the time at which it can start by the time limits of what runs. A later job starts only where it delays none of
 *      them: it ends before, or leaves enough room. So nothing big starves, and short jobs fill the holes.
 *   6. Preemption: for a blocked job, running jobs of its own team with lower priority, and (reclaim) of teams that use
 *      more than their nominal while this team stays within its own. Only after their minimum run time; the set that
 *      loses least work since its last checkpoint; reclaim stops once the victim's team is within its nominal.
 *
 * Sources of the ideas: Slurm's fair tree and backfill, Kueue's cohorts and preemption. */
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
    MULL_WHY_QUOTA,
    MULL_WHY_DEPENDENCY,
    MULL_WHY_BEGIN_TIME,
    MULL_WHY_HELD,
    MULL_WHY_DRAINED,
    MULL_WHY_ARRAY_LIMIT
} mull_why;

enum {
    MULL_POLICY_RESERVATIONS = 16, /* blocked jobs that others may not delay */
    MULL_POLICY_LOOKS = 20000,     /* candidates looked at in one pass */
    MULL_POLICY_PREEMPTIONS = 32,  /* blocked jobs that victims are looked for in one pass */
    MULL_POLICY_DEPTH = 8,         /* levels of teams */
    MULL_POLICY_GANG_NODES = 512   /* nodes of one gang */
};

typedef struct mull_policy_team {
    int32_t parent;  /* index, smaller than its own; -1 = top level */
    double weight;   /* > 0, against its siblings */
    double used;     /* decayed average of GPUs (CPU slots for jobs without GPUs) in use */
    int32_t nominal; /* GPUs of its own; -1 = no quota applies to it */
    int32_t borrow;  /* GPUs beyond nominal; -1 = any number */
    int32_t lend;    /* how many of its nominal others may use; -1 = all */
} mull_policy_team;

typedef struct mull_policy_user {
    int32_t team;
    double used; /* like a team's */
} mull_policy_user;

typedef struct mull_policy_job {
    int64_t id;
    int64_t eligible_ms;   /* begin time or end of back-off, unix ms; 0 = at once */
    int64_t time_limit_ms; /* 0 = none known */
    uint64_t labels;       /* a node must have all of these bits */
    int32_t priority;      /* higher starts first */
    int32_t gpus;          /* 0 = CPU slots */
    int32_t slots;         /* CPU slots of a job without GPUs; 0 counts as 1 */
    int32_t user;          /* index into users */
    int32_t tasks;         /* how many more of an array may start now, 0: its limit is used up; 1 for a plain job */
    int32_t avoid_node;    /* index into nodes of the last infrastructure failure, -1 = none */
    uint8_t dep;           /* mull_dep */
    bool held;
    bool nominated; /* victims were preempted for it: it goes before everything else */
    bool array;     /* the caller's: a record of tasks, of which each start makes one */
    uint8_t reason; /* the caller's: the mull_why last written down; the policy does not look at it */
} mull_policy_job;

typedef struct mull_policy_node {
    int32_t free_cpu, total_cpu;   /* CPU slots */
    int32_t free_cuda, total_cuda; /* GPUs */
    uint64_t labels;
    int64_t closes_ms; /* a maintenance window begins: nothing that may run beyond it starts here; 0 = none */
    int32_t switch_id; /* nodes under one switch have the same number */
    bool up;           /* alive; a node that is down counts for nothing */
    bool drained;      /* alive but takes no new jobs */
} mull_policy_node;

typedef struct mull_policy_place {
    uint32_t node;
    int32_t gpus;  /* 0 = CPU slots */
    int32_t slots; /* of these; 0 counts as 1 */
} mull_policy_place;

typedef struct mull_policy_running {
    int64_t started_ms;
    int64_t saved_ms;                  /* last checkpoint, or started_ms: what would be lost is from here on */
    int64_t ends_ms;                   /* by its time limit; 0 = unknown */
    uint32_t first_place, place_count; /* in places */
    int32_t priority;
    int32_t user;
    int32_t min_run_ms; /* not preempted before it has run this long */
    bool preemptible;
    bool ending; /* told to stop already: its devices will be free soon */
} mull_policy_running;

typedef struct mull_policy_in {
    const mull_policy_team *teams;
    size_t team_count; /* 0: one team without quota, and every job's user counts alike */
    const mull_policy_user *users;
    size_t user_count;
    const mull_policy_job *jobs;
    size_t job_count; /* at most UINT32_MAX */
    const mull_policy_node *nodes;
    size_t node_count;
    const mull_policy_running *running;
    size_t running_count;
    const mull_policy_place *places; /* [place_count] of what runs; there may be unused ones between */
    size_t place_count;
    int64_t now_ms;
    bool one_node; /* a job that no single node could hold waits with the reason RESOURCES: no gangs over nodes */
} mull_policy_in;

typedef struct mull_policy_start {
    uint32_t job;                      /* index into jobs; as often as tasks of it start */
    uint32_t first_place, place_count; /* in out->places */
} mull_policy_start;

typedef struct mull_policy_preempt {
    uint32_t victim; /* index into running */
    uint32_t job;    /* for whom, index into jobs */
    bool reclaim;    /* quota is taken back, else priority */
} mull_policy_preempt;

typedef struct mull_policy_out {
    mull_policy_start *starts; /* room for max_starts, in the order in which to start */
    size_t max_starts, start_count;
    mull_policy_place *places; /* room for max_places */
    size_t max_places, place_count;
    mull_policy_preempt *preempts; /* room for max_preempts; may be NULL with 0 */
    size_t max_preempts, preempt_count;
    uint8_t *reasons; /* [job_count] mull_why, or NULL when nobody asks */
    int64_t next_ms;  /* earliest time > now at which a job becomes eligible; 0 = none */
    size_t looked;    /* candidates looked at */
} mull_policy_out;

/* GPUs or CPU slots of a place. */
static inline int32_t mull_policy_units(const mull_policy_place *at) {
    return at->gpus ? at->gpus : at->slots ? at->slots : 1;
}

/* Memory that passes use again; holds nothing between them. */
typedef struct mull_policy mull_policy;
mull_policy *mull_policy_create(void);
void mull_policy_destroy(mull_policy *p);

/* One pass: O(jobs + looks · (log jobs + teams + nodes)). 0, or -1 without memory (then nothing was decided). When a
 * room in out is used up the other candidates get the reason PRIORITY; the caller runs another pass. */
int mull_policy_run(mull_policy *p, const mull_policy_in *in, mull_policy_out *out);

/* The word of the job's reason column ("Resources"), "" for NONE. */
const char *mull_why_name(mull_why why);

#endif
