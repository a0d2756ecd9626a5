/* What the worker's parts share. Nobody else includes this.
 *
 * worker.c    start, heartbeat, drain, stop
 * link.c      both ways to Redis: event queue -> mull:events, mull:inbox:BOOT -> command.c
 * command.c   what the leader asks: start, cancel, ack, resync, shutdown_drain
 * attempt.c   an attempt: its ranks as one gang, why it stops, how it ended
 * rank.c      one engine process: supervisor, pipes, lines -> events
 * report.c    event objects */
#ifndef MULL_WORKER_INTERNAL_H
#define MULL_WORKER_INTERNAL_H

#include "schema/store_redis.h"
#include "worker/classify.h"
#include "worker/evq.h"
#include "worker/lines.h"
#include "worker/worker.h"

#include <uv.h>

enum {
    MULL_BEAT_MS = 2000,     /* node heartbeats; the leader gives a node up after 15 s */
    MULL_STALL_MS = 6000,    /* without an acknowledgement: look whether the stream still has what was sent */
    MULL_SILENCE_MS = 20000, /* of a connection that should speak: make a new one */
    MULL_GRACE_DEFAULT_S = 10,
    MULL_PROGRESS_MS = 300, /* between progress events of a job */
    MULL_PIPES_MS = 2000,   /* after the engine's end, for its pipes to end too */
    MULL_DOUBT_MS = 5000,   /* of being asked for what was acknowledged, before it is believed */
    MULL_DOUBTS = 3,
    MULL_FAREWELL_MS = 5000,       /* at the end, for the last events to be acknowledged */
    MULL_LOG_LINE_MAX = 16 << 10,  /* bytes; longer lines go in pieces */
    MULL_LOG_EVENT_MAX = 48 << 10, /* bytes of lines in one event: six times that as JSON is below its limit */
    MULL_ENGINE_LINE_MAX = (1 << 20) - 2048,
    MULL_KNOWN_FENCES = 4096,
    MULL_NODE_NAME_MAX = 128,
};

typedef struct mull_worker mull_worker;
typedef struct mull_run mull_run;

/* One engine process of an attempt. */
typedef struct mull_rank {
    mull_run *run;
    int rank; /* on this node */
    char dir[4352], record[4352];
    uv_process_t process; /* the supervisor */
    uv_pipe_t in, out, err, events, control;
    uv_write_t spec_write;
    char *spec_text;
    uv_timer_t last_call; /* for pipes that somebody keeps open */
    mull_lines out_lines, err_lines, event_lines, control_lines;
    json_t *log; /* lines of one read, not yet an event */
    size_t log_bytes;
    int open;   /* handles */
    int pipes;  /* of out, err, events that have not ended */
    bool heard; /* the supervisor's first word: only then is the engine listened to, so that the start is told first */
    bool process_made, spawned, told_pid, ended, closing, finished, paused;
    bool spawn_failed;
    int pid, code, signal;
    char read_buf[64 << 10];
} mull_rank;

/* An attempt on this node. */
struct mull_run {
    mull_worker *w;
    mull_run *next;
    char job[24];
    int64_t fence;
    int attempt, grace_s, threads;
    int64_t time_limit_s;
    int lease_s; /* its engines are killed so long after the leader can last have heard of this node; 0: never */
    json_t *spec;
    const mull_node_device *devices[MULL_DEVICES_MAX];
    int device_count;
    mull_rank **ranks;
    int world, live;                                   /* ranks on this node; those not finished */
    int first_rank, world_size, node_rank, node_count; /* of the whole gang */
    char master[160];                                  /* HOST:PORT where rank 0 listens, "" on one node */
    char nodes[1024];                                  /* names, with commas */
    char secret[72];                                   /* by which its ranks know each other */
    bool started;                                      /* processes exist (else it waits for its devices) */
    bool reported;                                     /* attempt_started */
    bool stopping, killed;
    uint64_t end_seq; /* of attempt_ended; 0 = not ended. Kept until that is acknowledged. */
    mull_end end;     /* of the rank that failed first */
    bool failed;
    char message[1600], error_class[24];
    int said; /* the rank that message is of */
    uint64_t oom_kills;
    char *progress; /* latest engine line not yet sent */
    size_t progress_len;
    uint64_t progress_ms;
    uint64_t heard_ms;                       /* loop time of the last bytes of any of its engines */
    uv_timer_t timer, limit, progress_timer; /* grace; time limit; coalescing */
    int open;                                /* handles of this run and its ranks */
    char *cgroup;                            /* its group, NULL without */
};

struct mull_worker {
    mull_worker_config cfg;
    uv_loop_t loop;
    char boot[40], marker[4400];
    int lock;
    mull_devices devices;
    mull_evq evq;
    mull_run *runs;
    struct {
        int64_t job, fence;
    } known[MULL_KNOWN_FENCES]; /* fences seen, the latest ones */
    size_t known_count;
    uint64_t oom_kills[2]; /* as of the last two heartbeats */

    uv_timer_t beat, settle;
    uv_signal_t term, intr;
    bool draining, farewell, closed;
    bool hasty;    /* what engines still have to say may be more than there is room for: read it all the same */
    bool again;    /* leaves to begin a new boot */
    bool replaced; /* leaves because another worker has its name */
    uint64_t farewell_ms, beat_ms;
    uint64_t renewed_ms; /* in the leases' clock: when the last heartbeat that Redis has taken was sent */

    /* link.c */
    mull_redis *out, *in;
    char inbox[96], cursor[48];
    uint64_t link_epoch; /* grows with every connection of out */
    uint64_t ack_ms;     /* loop time of the last progress of acknowledgements */
    uint64_t out_ms, in_ms, rewind_ms;
    uint64_t rewind_from;
    uint64_t doubt_ms; /* when the leader first asked for what it had acknowledged */
    int doubts;        /* how often since, without an acknowledgement */
    bool reading, asking, complained;
};

/* worker.c */
void mull__drain(mull_worker *w);
/* Kills the engines, forgets every event and begins as if the program had just been started: a new boot. */
void mull__start_over(mull_worker *w);
/* Another worker has this node's name: kills the engines and leaves. */
void mull__replaced(mull_worker *w);
/* An attempt has gone: perhaps the last one. */
void mull__run_gone(mull_worker *w);

/* report.c: each pushes one event. */
void mull__report_hello(mull_worker *w, bool offering);
void mull__report_started(mull_run *r, int pid);
/* line is a JSON object's text. */
void mull__report_engine(mull_run *r, int rank, const char *line, size_t n);
/* Takes lines, an array of strings. */
void mull__report_log(mull_run *r, int rank, const char *stream, json_t *lines);
void mull__report_ended(mull_worker *w, const char *job, int attempt, int64_t fence, int code, int sig,
                        const char *class_, const char *message);
/* A line of the worker's own among the job's logs. */
void mull__report_note(mull_run *r, int rank, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
char *mull__heartbeat_text(mull_worker *w);
int64_t mull__unix_ms(void);

/* link.c */
int mull__link_open(mull_worker *w);
void mull__link_close(mull_worker *w);
/* Publishes what can be. */
void mull__pump(mull_worker *w);
void mull__link_beat(mull_worker *w);
/* from 0: all that is still held. */
void mull__resync(mull_worker *w, uint64_t from);
/* The queue has room again, or not any more: engines' pipes are read accordingly. */
void mull__flow(mull_worker *w);

/* command.c */
int mull__grace_of(const json_t *msg);
void mull__command(mull_worker *w, const char *text, size_t len);

/* attempt.c */
mull_run *mull__run_find(mull_worker *w, int64_t fence);
/* Puts the attempt of a start command on the list and starts it as soon as its devices are free. */
mull_run *mull__run_add(mull_worker *w, const char *job, int attempt, int64_t fence, const json_t *msg);
void mull__runs_start(mull_worker *w);
void mull__run_stop(mull_run *r, mull_stop why, int grace_s);
void mull__run_kill(mull_run *r);
void mull__run_rank_started(mull_run *r);
void mull__run_rank_ended(mull_rank *k);
void mull__run_engine_line(mull_rank *k, const char *line, size_t n);
/* Its supervisor has seen the lease end, and kills. */
void mull__run_lease_ended(mull_run *r);
/* All leases begin anew at at_ms of their clock. */
void mull__leases_renew(mull_worker *w, uint64_t at_ms);
/* Ended attempts whose end is recorded are forgotten. */
void mull__runs_acked(mull_worker *w);

/* rank.c */
/* Its end comes through mull__run_rank_ended, later, also when it could not be started. */
void mull__rank_start(mull_rank *k);
/* An order to the supervisor (supervise.h). */
void mull__rank_order(mull_rank *k, const char *order, size_t n);
/* The end of its attempt's lease, as it is now. */
void mull__rank_lease(mull_rank *k);
void mull__rank_flow(mull_rank *k, bool paused);
void mull__rank_free(mull_rank *k);

#endif
