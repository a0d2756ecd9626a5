/* What the files of the policy share. Everything here lives for one pass; mull_policy only keeps the memory. */
#ifndef MULL_SCHEDULER_POLICY_INTERNAL_H
#define MULL_SCHEDULER_POLICY_INTERNAL_H

#include "scheduler/policy/policy.h"

typedef enum mull_kind { MULL_CPU, MULL_CUDA, MULL_KINDS } mull_kind;

enum { MULL_POLICY_NONE = -1 };

/* What one job asks for, in units of one kind. */
typedef struct mull_ask {
    mull_kind kind;
    int32_t need; /* GPUs, or 1 CPU slot */
    uint64_t labels;
    int32_t avoid;
    int64_t ends_ms; /* if it started now; INT64_MAX = unknown */
} mull_ask;

typedef enum mull_fit {
    MULL_FIT_NOW,
    MULL_FIT_HELD_BACK, /* there is room, but using it would delay a reservation */
    MULL_FIT_LATER,     /* the hardware could hold it */
    MULL_FIT_DRAINED,   /* only nodes that take no new jobs could hold it */
    MULL_FIT_NEVER
} mull_fit;

/* A node as the choice of nodes for a gang sees it. */
typedef struct mull_offer {
    uint32_t node;
    int32_t units, switch_id;
    int64_t cost; /* of freeing it; 0 for what is free */
} mull_offer;

typedef struct mull_reservation {
    int64_t at_ms;  /* INT64_MAX: not known */
    int32_t *spare; /* [nodes] units that later jobs may keep beyond at_ms; INT32_MAX where it asks for nothing */
    mull_kind kind;
} mull_reservation;

typedef struct mull_end {
    int64_t at_ms; /* INT64_MAX: unknown */
    uint32_t place;
    bool started_now; /* place is in out->places, else in in->places */
} mull_end;

/* A shape of which it is known that it does not fit any more in this pass: room only shrinks. */
typedef struct mull_no_room {
    bool used;
    mull_fit why;
    int32_t need;
    mull_kind kind;
    uint64_t labels;
    int64_t from_ms; /* does not fit if it ends at this time or later */
} mull_no_room;
enum { MULL_NO_ROOM = 64 };

typedef struct mull_policy_team_state {
    double share;           /* half of what runs, half of the past, over weight; see share.c */
    int64_t running;        /* units of both kinds, the whole subtree */
    int64_t gpus;           /* its own */
    int64_t ending;         /* of these, GPUs of jobs that were told to stop */
    uint32_t waiting;       /* candidates in the subtree */
    int32_t child, sibling; /* lists, -1 ends */
    int32_t first_user;     /* list by user_state.next */
    bool reserved;          /* its first blocked job has a reservation, or needs none */
    bool quota_waits;       /* a job that its nominal could hold waits for it: later ones must not use it up */
} mull_policy_team_state;

typedef struct mull_policy_user_state {
    uint32_t *heap; /* candidates, best first */
    uint32_t count;
    int64_t running;
    int32_t next; /* in the team's list */
} mull_policy_user_state;

struct mull_policy {
    const mull_policy_in *in;
    mull_policy_out *out;
    mull_policy_team_state *team;
    mull_policy_user_state *user;
    uint32_t *order;            /* [jobs] heaps of all users, back to back */
    int32_t *started;           /* [jobs] tasks of an array that were started in this pass; only used where tasks > 1 */
    int32_t *free[MULL_KINDS];  /* [nodes] */
    int32_t *later[MULL_KINDS]; /* [nodes] scratch: what is free at some later time */
    int32_t largest[MULL_KINDS]; /* most units of one node that is up */
    mull_offer *offers;          /* [nodes] scratch */
    uint32_t *node_running;      /* [nodes] first place of what runs there, chained by next_place; see preempt.c */
    uint32_t *next_place;        /* [places] */
    uint32_t *place_owner;       /* [places] index into running */
    uint8_t *chosen;             /* [running] victim of this pass */
    uint32_t *victims;           /* [running] scratch */
    mull_end *ends;              /* [places + max_places] by time once sorted */
    size_t end_count;
    bool ends_sorted;
    mull_reservation reservation[MULL_POLICY_RESERVATIONS];
    int reservation_count, preempt_looks;
    mull_no_room no_room[MULL_NO_ROOM];
    int64_t cohort_room;      /* GPUs that may still be borrowed */
    int64_t cohort_room_soon; /* the same once what was told to stop has stopped */
    bool time_matters;        /* the last place that was refused might have done for a shorter job */
    bool cpu_offered;         /* some node that is up has CPU slots */
    void *memory;
    size_t memory_bytes;
    int32_t top; /* first team of the top level; the others hang on it by sibling, -1 = none */
};

/* share.c */
void mull__share_begin(mull_policy *p);
/* Rule 1. NONE for a candidate. */
mull_why mull__not_yet(const mull_policy_job *j, int64_t now_ms);
/* The next candidate in fair order, taken off its heap; false when there is none. */
bool mull__share_next(mull_policy *p, uint32_t *job);
/* Puts back a job of which more tasks may start. */
void mull__share_again(mull_policy *p, uint32_t job);
/* delta units more (or less) run for this user. */
void mull__share_move(mull_policy *p, int32_t user, mull_kind kind, int64_t delta);
int32_t mull__team_of(const mull_policy *p, int32_t user);
/* GPUs that the team may still take by its quota and what the others leave; INT64_MAX without a quota. */
int64_t mull__quota_room(const mull_policy *p, int32_t team);
/* The same once what was told to stop has stopped. */
int64_t mull__quota_room_soon(const mull_policy *p, int32_t team);
/* delta more GPUs of this user will be free soon. */
void mull__share_ending(mull_policy *p, int32_t user, int64_t delta);
/* GPUs of its nominal that the team does not use; INT64_MAX without a quota. */
int64_t mull__quota_own(const mull_policy *p, int32_t team);
/* Whether its nominal, when nothing else ran, would hold this many. */
bool mull__quota_holds(const mull_policy *p, int32_t team, int32_t gpus);
/* GPUs that it will use beyond its nominal when what was told to stop has stopped; 0 without a quota. */
int64_t mull__quota_borrowed(const mull_policy *p, int32_t team);

/* place.c */
mull_ask mull__ask(const mull_policy *p, uint32_t job);
int32_t mull__total(const mull_policy *p, uint32_t node, mull_kind kind);
/* Up, with the labels, large enough for what it would hold of this ask alone. */
bool mull__could_hold(const mull_policy *p, const mull_ask *a, uint32_t node);
/* Whether a job that ends then may start on a node that closes for maintenance. */
bool mull__open_until(const mull_policy_node *n, int64_t ends_ms);
/* Tries to start now. On MULL_FIT_NOW the places are appended to out and the room is taken. */
mull_fit mull__place(mull_policy *p, const mull_ask *a);
/* Chooses for a gang from the offers (reordered): fewest nodes, one switch if possible, cheapest. The number of nodes
 * chosen, now first in offers; 0 when they do not suffice. */
size_t mull__choose_gang(mull_policy *p, const mull_ask *a, size_t offers);
bool mull__is_gang(const mull_policy *p, const mull_ask *a);

/* reserve.c */
/* Units of this node that may be used until ends_ms without delaying a reservation (INT32_MAX: any number). */
int32_t mull__spare(const mull_policy *p, uint32_t node, mull_kind kind, int64_t ends_ms);
void mull__spare_take(mull_policy *p, uint32_t node, mull_kind kind, int64_t ends_ms, int32_t units);
void mull__ends_add(mull_policy *p, uint32_t place, bool started_now, int64_t at_ms);
/* Reserves the earliest place for the job if there is room for another reservation. */
void mull__reserve(mull_policy *p, const mull_ask *a);

/* preempt.c */
void mull__preempt_begin(mull_policy *p);
/* Looks for victims so that the job could start; writes them to out. quota_short: GPUs that its quota lacks. */
void mull__preempt(mull_policy *p, uint32_t job, const mull_ask *a, int64_t quota_short);

#endif
