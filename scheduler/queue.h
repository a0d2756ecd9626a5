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
    uint64_t seen_at; /* where the stream of events was then, in the ms of its ids; 0 = not known */
    char *labels;     /* words, each ended by a newline; NULL = none */
    uint64_t label_bits;
    int64_t closes_ms; /* of the next maintenance window, unix ms; 0 = none */
    int32_t switch_id; /* of its label switch=…; 0 without one */
    char address[MULL_NAME_MAX];
    bool up, drained;
} mull_node;

/* What an attempt has on one of several nodes. */
typedef struct mull_part {
    uint32_t node;
    char boot[MULL_BOOT_MAX];
    int32_t gpus, slots;
    bool started, ended;
    uint64_t missing_ms; /* as of an attempt */
} mull_part;

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
    int32_t user;          /* index into users */
    int32_t priority;
    int32_t gpus;     /* devices of kind cuda that it holds, on all its nodes; 0 = CPU slots */
    int32_t slots;    /* of these */
    mull_part *parts; /* [part_count] of a gang, the first has rank 0; NULL: all on node */
    size_t part_count;
    bool gang_stop;               /* a part has ended badly: the others are to stop */
    int64_t started_ms, saved_ms; /* unix ms; saved: what it has done until then would not be lost; 0 = not started */
    int32_t min_run_ms;
    bool preemptible;
    bool preempted; /* it is noted that it was told to stop for another job */
} mull_attempt;

typedef struct mull_team_name {
    char name[MULL_NAME_MAX];
} mull_team_name;

/* A team as it is read; parent "" = top level. */
typedef struct mull_team_row {
    char name[MULL_NAME_MAX], parent[MULL_NAME_MAX];
    mull_policy_team team; /* without its parent; used only where it is not known yet */
} mull_team_row;

typedef struct mull_queue {
    mull_policy_job *jobs; /* pending */
    size_t job_count, job_cap;
    size_t waiting;    /* of them, those that the end of another may let start: see mull_queue_waits */
    int64_t newest_id; /* largest id ever put */
    mull_idmap by_job;
    mull_node *nodes;
    size_t node_count, node_cap;
    mull_attempt *attempts;
    size_t attempt_count, attempt_cap;
    mull_idmap by_fence;
    mull_policy_team *teams; /* a parent comes before its children, as the policy wants it */
    mull_team_name *team_names;
    size_t team_count, team_cap, team_name_cap;
    mull_policy_user *users; /* a user of two teams is two; never removed, so their index names them */
    mull_team_name *user_names;
    size_t user_count, user_cap, user_name_cap;
    mull_idmap by_user;           /* hash of team and name */
    char (*words)[MULL_NAME_MAX]; /* labels that jobs ask for: their place is their bit */
    size_t word_count;
} mull_queue;

enum { MULL_LABEL_WORDS = 63 }; /* the last bit is what no node has */

void mull_queue_fini(mull_queue *q);

/* Inserts or replaces a pending job by id. 0 or -1 without memory. */
int mull_queue_put_job(mull_queue *q, const mull_policy_job *job);
void mull_queue_del_job(mull_queue *q, int64_t id);
/* An unmet dependency, or an array whose limit is used up. */
bool mull_queue_waits(const mull_policy_job *job);
/* k tasks of an array have been taken to be started; they are out of the pending set. */
void mull_queue_take_tasks(mull_queue *q, int64_t id, int32_t k);
const mull_policy_job *mull_queue_job(const mull_queue *q, int64_t id);
/* Pending jobs with from < id <= to that are not among the n ascending ids: at most cap of them into out; how many. */
size_t mull_queue_missing_jobs(const mull_queue *q, int64_t from, int64_t to, const int64_t *ids, size_t n,
                               int64_t *out, size_t cap);

/* Makes room for one more element. 0 or -1. */
int mull__queue_reserve(void **array, size_t *cap, size_t count, size_t size);

void mull_queue_nominate(mull_queue *q, int64_t job, bool nominated);

/* queue_users.c */
int32_t mull_queue_find_team(const mull_queue *q, const char *name);
/* Index of a user of a team; one not seen before is added, and so is the team: without quota, weight 1. -1 without
 * memory. */
int32_t mull_queue_user(mull_queue *q, const char *team, const char *user);
/* Replaces what is known of the teams, except what they used if they were known. Teams of users that the rows lack
 * stay. 0, or -1 without memory (nothing has changed). */
int mull_queue_set_teams(mull_queue *q, const mull_team_row *rows, size_t n);
/* Moves the averages of use on by dt_ms, in which what runs now ran. */
void mull_queue_age_usage(mull_queue *q, double dt_ms, double half_life_ms);

/* Index of a node by name, or -1. */
int32_t mull_queue_find_node(const mull_queue *q, const char *name);
/* Inserts or updates; a changed device list keeps the holders of devices that are still there. Index or -1. */
int32_t mull_queue_put_node(mull_queue *q, const char *name, const char *boot, const mull_device *devices, size_t n);

/* labels: words, each ended by a newline; copied. */
void mull_queue_label_node(mull_queue *q, uint32_t node, const char *labels);
/* The bits of the words (separated by newlines) that a job asks for. */
uint64_t mull_queue_label_bits(mull_queue *q, const char *words);

/* Inserts (or finds) an attempt, whose parts it takes over; pointers into attempts are valid until the next put or del.
 * NULL without memory. */
mull_attempt *mull_queue_put_attempt(mull_queue *q, const mull_attempt *a);
mull_attempt *mull_queue_attempt(const mull_queue *q, int64_t fence);
/* Forgets an attempt and frees its devices. */
void mull_queue_del_attempt(mull_queue *q, int64_t fence);

/* Picks free devices of a node for a place as the policy chose it. Fills picked (room for MULL_MAX_DEVICES), returns
 * how many, 0 when they are not free. Does not take them. */
size_t mull_queue_pick(const mull_queue *q, const mull_policy_place *at, mull_device *picked);
/* The part of an attempt on this node and boot, or NULL. */
mull_part *mull_attempt_part(const mull_attempt *a, uint32_t node, const char *boot);
/* Devices of a node that one holder (0: nobody) has become another's. */
void mull_queue_rename_holder(mull_queue *q, uint32_t node, int64_t from, int64_t to);
/* Marks a device as held by fence. */
void mull_queue_hold(mull_queue *q, uint32_t node, bool cuda, int32_t index, int64_t fence);
/* What the policy needs of a node. */
mull_policy_node mull_queue_policy_node(const mull_queue *q, uint32_t node);

#endif
