/* A cgroup (version 2) for each attempt, where the machine lets us: its processes together have no more memory than the
 * attempt's share of the node, no more processes than memory could bear, and processor time by the slots it holds; and
 * what is left of them at its end is killed whatever it calls itself. Where it does not let us, engines run as before.
 */
#ifndef MULL_WORKER_CGROUP_H
#define MULL_WORKER_CGROUP_H

#include "schema/error.h"

#include <stddef.h>
#include <stdint.h>

enum { MULL_CGROUP_PATH = 2600 };
#define MULL_CGROUP_ENV "MULL_CGROUP" /* tells the supervisor which one its engine enters */

typedef struct mull_cgroup_limits {
    uint64_t memory_bytes; /* 0: none */
    unsigned cpu_weight;   /* 1 to 10000; 100 is a slot */
    unsigned pids;
} mull_cgroup_limits;

/* Makes ready the group below which those of attempts come, its path into parent: folder, or NULL: the one this process
 * is in, where it must be alone; it moves into a group "worker" below, since a group that limits others may hold no
 * processes. Ends what an earlier worker left there. 0, or negative: err says why not. */
int mull_cgroup_open(const char *folder, char parent[MULL_CGROUP_PATH], mull_err *err);
/* Makes PARENT/name with these limits, path into out. 0, or negative and nothing is left of it. */
int mull_cgroup_make(const char *parent, const char *name, const mull_cgroup_limits *limits, char out[MULL_CGROUP_PATH],
                     mull_err *err);
/* Moves the calling process into it. 0 or errno. */
int mull_cgroup_enter(const char *path);
/* Kills what is in it and removes it; 0, or -1: it is not empty yet, ask again. */
int mull_cgroup_end(const char *path);
/* The share of an attempt with held of offered devices of a kind: of the memory that the machine (or the parent group)
 * has, and weight and pids by slots. */
mull_cgroup_limits mull_cgroup_share(const char *parent, int held, int offered, int ranks);

#endif
