/* The node's agent: offers devices, starts an engine process for each rank it is told to, and reports what happens. */
#ifndef MULL_WORKER_WORKER_H
#define MULL_WORKER_WORKER_H

#include "schema/store_redis_server.h"
#include "worker/devices.h"
#include "worker/engine_user.h"
#include "worker/sandbox.h"

typedef struct mull_worker_config {
    const mull_redis_server *redis;
    const char *node;    /* the node's name */
    const char *address; /* at which other nodes reach this one */
    const char *state;   /* folder of this worker alone; made when absent */
    const char *engine;  /* path of mull-engine */
    const char *self;    /* path of this program, to start supervisors */
    mull_device_ask devices;
    mull_root roots[MULL_MAX_ROOTS]; /* what jobs may touch; none: whatever this user may */
    size_t root_count;
    bool transfer;         /* files travel to and from the front door (stage.h) */
    mull_engine_user user; /* whom engines run as */
    const char *cgroup;    /* the group below which each attempt gets one (cgroup.h); NULL: none */
    int hang_s;            /* an attempt that says nothing for so long is taken for hung and killed; 0: never */
} mull_worker_config;

enum { MULL_WORKER_REPLACED = 2 }; /* exit status: another worker has this node's name */

/* Runs until SIGTERM or SIGINT, or a shutdown_drain from the leader; engines are then asked to save and stop. Or until
 * it is told that another worker has its name. Returns the exit status. */
int mull_worker_run(const mull_worker_config *config);

#endif
