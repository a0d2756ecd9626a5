/* One round of a soak: real servers and processes, a workload and faults drawn from one seed, then the invariants.
 *
 * soak.c    the plan of a round and its play
 * world.c   servers, processes, the engine (a shell script), submits
 * faults.c  what can go wrong and how it is mended
 * check.c   what must hold whatever went wrong */
#ifndef MULL_TESTS_SOAK_H
#define MULL_TESTS_SOAK_H

#include "tests/fault/soak/proxy.h"
#include "tests/support/servers.h"

#include <stdbool.h>
#include <stdint.h>

enum { SCHEDULERS = 2, WORKERS = 2, JOBS = 64, ACTIONS = 512, KEY = 24 };

typedef struct soak_process {
    pid_t pid;
    bool stopped;
} soak_process;

typedef struct soak_job {
    char key[KEY], more[160];
    int steps;
    long long id; /* 0: not acknowledged yet */
    int after;    /* index of the job it comes after, -1 none */
    bool asked;   /* a submit has been sent, acknowledged or not */
} soak_job;

typedef enum action_kind {
    ACT_SUBMIT,
    ACT_CANCEL,
    ACT_KILL_SCHEDULER,
    ACT_STOP_SCHEDULER,
    ACT_KILL_WORKER,
    ACT_STOP_WORKER,
    ACT_KILL_ENGINE,
    ACT_STOP_ENGINE,
    ACT_FLUSH_REDIS,
    ACT_KILL_REDIS,
    ACT_TRUNCATE_REDIS,
    ACT_CRASH_PG,
    ACT_PROXY,
    ACT_CLOCK,
    ACT_REPEAT_EVENTS,
    ACT_FILL_DISK,
    ACT_MEND, /* undoes one of the above: what says which, arg whom */
    ACT_KINDS
} action_kind;

typedef struct action {
    int at_ms;
    action_kind kind, what;
    int arg, more;
} action;

typedef struct soak {
    mull_servers s;
    char pg[160], pg_proxied[200], redis_for[2][200], sock[SCHEDULERS][112], out[96], disk[96];
    bool small_disk; /* the workers' state lies on a small file system of its own */
    soak_process scheduler[SCHEDULERS], worker[WORKERS];
    mull_proxy proxy[3]; /* schedulers to PostgreSQL, schedulers to Redis, workers to Redis */
    volatile int64_t *clock;
    bool redis_up, verbose;
    soak_job jobs[JOBS];
    int job_count;
    action plan[ACTIONS];
    int action_count, faults;
    uint64_t rng;
} soak;

uint64_t soak_any(soak *k, uint64_t n);
void soak_say(const soak *k, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* world.c */
void soak_open(soak *k);
void soak_close(soak *k);
void soak_scheduler(soak *k, int i);
void soak_worker(soak *k, int i);
/* One try; the job's id is set when it was acknowledged. */
void soak_submit(soak *k, soak_job *j, int limit_ms);
int soak_post(const soak *k, int scheduler, const char *target, const char *body, char *out, size_t cap, int limit_ms);

/* faults.c */
void soak_act(soak *k, const action *a);
/* Everything runs and passes again. */
void soak_mend_all(soak *k);

/* check.c: the number of violations, each told on stderr. */
int soak_check(soak *k);
/* Damages the record of a round that held, in several ways, and counts those that the rules did not notice. */
int soak_check_blind(soak *k);

#endif
