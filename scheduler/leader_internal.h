/* What leader.c, dispatch.c, sharing.c, timetable.c, recorder.c, reconcile.c and view.c share. Nobody else includes
 * this. */
#ifndef MULL_SCHEDULER_LEADER_INTERNAL_H
#define MULL_SCHEDULER_LEADER_INTERNAL_H

#include "scheduler/leader.h"
#include "scheduler/queue.h"
#include "schema/log.h"

enum {
    MULL_LEASE_MS = 6000, /* of the lead */
    MULL_RENEW_MS = 2000, /* of the lead */
    MULL_TICK_MS = 500,   /* take-over attempts, deadlines, liveness */
    MULL_RECONCILE_MS = 5000,
    MULL_RESEND_MS = 5000,       /* commands a worker has not acted on */
    MULL_NODE_TIMEOUT_S = 15,    /* by default: no sign of life for so long, DOWN */
    MULL_MISSING_MS = 15000,     /* attempt absent from heartbeats → lost */
    MULL_UNSTARTED_MS = 60000,   /* the same for one that never started, though its start was sent again and again */
    MULL_PAUSE_MS = 500,         /* after a dispatch that failed */
    MULL_PENDING_SLICE = 5000,   /* rows a reconcile step reads */
    MULL_DISPATCH_BATCH = 512,   /* jobs one statement starts */
    MULL_DISPATCH_PLACES = 2048, /* on so many nodes, counted once a job */
    MULL_GRACE_S = 10,
    MULL_HALF_LIFE_S = 7 * 24 * 3600, /* of the use that fair share counts; the front door's figures use it too */
    MULL_SAVE_USAGE_MS = 30000,
    MULL_USERS_MS = 5000,          /* between looks at the users that nodes have in Redis */
    MULL_CRON_MS = 1000,           /* between looks for schedules that are due */
    MULL_PREEMPT_BATCH = 64,       /* victims of one pass */
    MULL_NOMINATED_MS = 5 * 60000, /* a job for which others were stopped goes before everything else so long */
    MULL_NOMINATED = 64
};

/* VIEWING: of a view, all has been read. */
typedef enum mull_lead_state { MULL_FOLLOWING, MULL_TAKING, MULL_LOADING, MULL_LEADING, MULL_VIEWING } mull_lead_state;

struct mull_leader {
    mull_leader_config cfg;
    mull_lead_state state;
    bool closing, tried_own;
    bool viewing; /* it only looks (view.c): nothing is written, nobody is told anything */
    int64_t term;
    uint32_t epoch; /* grows whenever the lead is won or lost */
    char term_text[24];
    uint64_t last_renew_ms, last_reconcile_ms, last_reasons_ms;
    bool renewing;
    mull_queue queue;
    mull_leader_stats stats;

    uv_timer_t tick;
    uv_timer_t wake; /* next begin time */
    uv_idle_t pass;  /* runs once when something changed */
    size_t open_handles;
    void (*on_closed)(void *arg);
    void *on_closed_arg;

    /* dispatch.c */
    bool dispatching; /* a dispatch statement is under way */
    uint64_t paused_until_ms;
    bool reasons_wanted; /* the pending set changed since reasons were written */
    mull_policy *policy;
    uint8_t *reasons;
    size_t reasons_cap;

    /* sharing.c */
    uint64_t teams_asked, teams_answered; /* no pass between the two: quotas are not known */
    uint64_t usage_ms, usage_saved_ms;    /* loop time */
    size_t nominated_count;
    struct {
        int64_t job;
        uint64_t until_ms;
    } nominated[MULL_NOMINATED];

    /* timetable.c */
    bool cron_asked;
    uint64_t cron_ms; /* loop time of the last look */

    /* recorder.c */
    mull_redis *events_conn, *ready_conn;
    char cursor[48];
    bool reading_events, reading_ready, recording;
    uint64_t link_since_ms; /* events have flowed without interruption since */
    uint64_t asked_ms;      /* when the read of events that is under way was sent */
    uint64_t caught_up_ms;  /* all events that were in the stream at this time have been recorded */
    uint64_t ends_seen;     /* counts changes to the set of live attempts by the recorder */
    uv_timer_t retry;       /* of a batch that could not be recorded */
    struct mull_batch *retry_batch;
    uint64_t users_ms; /* when Redis's users of nodes were last looked at */
    bool users_all;    /* and the next look makes all of them */

    /* reconcile.c */
    bool reconciling;
    uint64_t nodes_asked, nodes_answered;
    int64_t slice_after; /* pending ids up to here have been read in this round */

    struct mull_view *view; /* view.c; NULL until it is asked for */
};

/* Context of a query: dropped when the lead has changed hands meanwhile. */
typedef struct mull_lead_call {
    mull_leader *l;
    uint32_t epoch;
    uint64_t mark; /* the caller's */
    void *data;    /* the caller's */
} mull_lead_call;

/* leader.c */
mull_lead_call *mull__lead_call(mull_leader *l, void *data);
/* Frees the call; false when its reply belongs to an earlier epoch (data is then the caller's to free). */
bool mull__lead_current(mull_lead_call *c, mull_leader **l, void **data);
/* Runs a statement; cb gets a mull_lead_call with this data. Without memory the lead is given up: nothing that was
 * decided may be forgotten half-way. */
void mull__lead_query(mull_leader *l, const char *sql, int n, const char *const *params, mull_pg_cb cb, void *data);
/* The same with a COPY before it (mull_pg_copy); data is taken. */
void mull__lead_copy(mull_leader *l, const char *before, const char *copy, char *data, size_t len, const char *sql,
                     int n, const char *const *params, mull_pg_cb cb, void *arg);
/* True when the statement failed: logs it; steps down when the term is gone or the queue was just being loaded. */
bool mull__lead_failed(mull_leader *l, const mull_pg_reply *r, const char *what);
void mull__step_down(mull_leader *l, const char *why);
uint64_t mull__now(const mull_leader *l);
int64_t mull__unix_ms(void);
/* Sends one message to a worker's inbox; msg is stolen. Best effort: reconcile repeats what matters. */
void mull__inbox(mull_leader *l, const char *boot, json_t *msg);

/* request.c: SHA-256 of a text as hexadecimal digits; false without memory. */
bool mull__secret_sum(const char *secret, char out[65]);

/* dispatch.c */
void mull__kick(mull_leader *l);
void mull__dispatch_init(mull_leader *l);
void mull__dispatch_reset(mull_leader *l);
/* Builds and sends the start message of an attempt held in memory. */
void mull__send_start(mull_leader *l, mull_attempt *a, const char *spec);
void mull__send_cancel(mull_leader *l, mull_attempt *a, const char *reason);

/* sharing.c */
/* Reads the teams again; while the lead is being loaded, also what was used, and goes on with the nodes. */
void mull__refetch_teams(mull_leader *l);
/* Moves the averages of use on to now and, from time to time, writes them down. */
void mull__usage_tick(mull_leader *l);
/* {"teams","users"} for mull_save_usage, malloc'ed; NULL without memory. */
char *mull__usage_text(const mull_leader *l);
/* Tells the victims that the policy chose to stop, and keeps the jobs they make room for in front. */
void mull__preempt_for(mull_leader *l, const mull_policy_out *out);
void mull__nominations_expire(mull_leader *l);
bool mull__nominated(const mull_leader *l, int64_t job);
/* It has started, or the nomination is over. */
void mull__nominated_done(mull_leader *l, int64_t job);
/* What runs, for the policy: arrays are malloc'ed; false without memory. */
bool mull__running_view(const mull_leader *l, mull_policy_running **running, mull_policy_place **places, size_t *count);

/* replaced.c */
/* Looks whether an event comes from a worker that another one has replaced, and tells that one to stop. */
void mull__stranger(mull_leader *l, const json_t *event);

/* timetable.c */
/* Submits what schedules say is due. */
void mull__cron_tick(mull_leader *l);

/* recorder.c */
void mull__recorder_start(mull_leader *l);
void mull__recorder_init(mull_leader *l);
/* Drops what waits to be recorded: PostgreSQL's cursor says where the next lead goes on. */
void mull__recorder_reset(mull_leader *l);
void mull__recorder_stop(mull_leader *l);
/* Starts reading again whatever is not being read: after a reconnect, an error, a new lead. */
void mull__read_streams(mull_leader *l);
/* Forgets ended attempts and reads their jobs (and waiting dependents) again. */
void mull__attempts_ended(mull_leader *l, const int64_t *fences, size_t n);
void mull__resync_all(mull_leader *l);

/* Makes Redis's users agree with the nodes that have joined (redis_users.h). */
void mull__users_look(mull_leader *l, bool all);
/* How far events have been read, in the ms of their ids. */
uint64_t mull__stream_ms(const mull_leader *l);

/* reconcile.c */
void mull__load(mull_leader *l);
void mull__reconcile(mull_leader *l);
/* Reads these pending jobs again; absent ones are no longer pending. */
void mull__refetch(mull_leader *l, const int64_t *ids, size_t n);
void mull__refetch_nodes(mull_leader *l);
/* Sends cancel to running attempts that a user asked to stop. */
void mull__fetch_cancels(mull_leader *l);
/* Ends these attempts as infrastructure failures. */
void mull__lost(mull_leader *l, const int64_t *fences, size_t n, const char *message);
int32_t mull__min_run_ms(const char *seconds);
/* Time limits and silent nodes. */
void mull__check_deadlines(mull_leader *l);

/* view.c. Of a view whose load has ended, so or so. */
void mull__view_loaded(mull_leader *l);
void mull__view_failed(mull_leader *l, const char *why);
/* Tells those who wait that there is nothing; what comes later is thrown away. */
void mull__view_close(struct mull_view *v);
void mull__view_destroy(struct mull_view *v);

#endif
