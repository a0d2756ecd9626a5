/* The one-machine mull: which folders, programs and processes belong to a state folder.
 *
 * STATE/mull.lock  held by the supervisor, or by `down` while it stops things: one owner of the processes at a time
 * STATE/mull.json  what runs, for people and scripts (and the phase, for a second `up`)
 * STATE/pid/NAME   records of the processes (proc.h)
 * STATE/log/NAME.log, .log.1
 * STATE/run        sockets (paths.h)
 * STATE/postgres, STATE/redis, STATE/worker  data */
#ifndef MULL_CLI_LOCAL_H
#define MULL_CLI_LOCAL_H

#include "cli/proc.h"
#include "schema/state_dir.h"

#include <jansson.h>
#include <stdbool.h>

/* In the order of starting; stopping goes the other way. */
typedef enum mull_service { MULL_REDIS, MULL_POSTGRES, MULL_SCHEDULER, MULL_WORKER, MULL_SERVICES } mull_service;
const char *mull_service_name(mull_service s); /* "redis" */

typedef struct mull_local {
    mull_state_dir dir;
    char devices[128];                  /* of the worker: "cpu:2" */
    char listen[128];                   /* tcp:HOST:PORT or tls:HOST:PORT that the scheduler also answers on, or "" */
    char tls_cert[4096], tls_key[4096]; /* PEM files of a tls one */
    char workers[128];   /* HOST:PORT at which Redis is open to workers of other hosts, over TLS; or "" */
    char exported[4096]; /* [TEAM=]DIR that the scheduler exports, or "" */
    char node[65];
    char bin_dir[2048];   /* of mull's own programs */
    char redis_bin[2048]; /* redis-server */
    char pg_bin[2048];    /* folder of initdb and postgres */
    bool pg_drop;         /* root: PostgreSQL runs as pg_uid, for it refuses root */
    uid_t pg_uid;
    gid_t pg_gid;
} mull_local;

/* Paths of a state folder (given may be NULL); nothing is created or needed. */
int mull_local_find(mull_local *l, const char *given, mull_err *err);
/* Creates the folders, chooses a place for the sockets. Call with the lock held. */
int mull_local_prepare(mull_local *l, mull_err *err);
/* Finds the programs and the user for PostgreSQL. */
int mull_local_programs(mull_local *l, mull_err *err);
/* The database folder's major version, 0 when there is no database yet. */
int mull_local_pg_version(const mull_local *l);

/* ROOT/NAME/FILE into a static buffer of a few; for use at once. */
const char *mull_local_path(const mull_local *l, const char *folder, const char *file);
const char *mull_local_log(const mull_local *l, const char *name);
const char *mull_local_record(const mull_local *l, const char *name);
bool mull_local_running(const mull_local *l, const char *name, mull_proc *p);

/* The lock: a descriptor (close-on-exec), -1 when another holds it, or -2 with err. */
int mull_local_lock(const mull_local *l, mull_err *err);
/* mull.json as it is, NULL when there is none. */
json_t *mull_local_read(const mull_local *l);
/* Writes mull.json whole or not at all; failing is not fatal. phase: starting, ready, stopping, stopped. */
void mull_local_write(const mull_local *l, const char *phase);
/* {"state_dir","server","pids":{…},"supervisor"}; a pid that does not run is null. */
json_t *mull_local_json(const mull_local *l);

/* Starting and looking at one service (services.c). */
int mull_service_start(const mull_local *l, mull_service s, mull_err *err); /* its pid or negative */
bool mull_service_ready(const mull_local *l, mull_service s);
/* How many devices this machine's worker offers, -1 when nobody can say. */
int mull_local_devices(const mull_local *l);
int mull_local_migrate(const mull_local *l, mull_err *err);
/* Stops everything that runs, in order, each within its limit and then by force. reap: they may be children. False:
 * something could not be stopped. */
bool mull_local_stop(const mull_local *l, double seconds);
/* Moves a log that has grown too long aside. */
void mull_local_rotate(const mull_local *l);

int mull_local_redis_start(const mull_local *l, mull_err *err); /* redis.c; its pid or negative */

/* PostgreSQL's part (postgres.c). */
int mull_postgres_init(const mull_local *l, mull_err *err);
int mull_postgres_start(const mull_local *l, mull_err *err);
bool mull_postgres_ready(const mull_local *l);
/* libpq's connection text for a role. */
void mull_postgres_conninfo(const mull_local *l, const char *role, char *out, size_t cap);

/* Runs the services until SIGTERM or SIGINT: starts what is not there, says "ok" or one error line on the descriptor
 * report, then restarts whatever dies. lock is kept until the end. Returns an exit status. (supervise.c) */
int mull_supervise(mull_local *l, int lock, int report);

#endif
