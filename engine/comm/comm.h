/* Collectives between the ranks of one run: one process a rank, on one host or several.
 *
 * Sums are taken in the order of the ranks, whatever arrives first: the same inputs give the same bits on every rank
 * and in every run, and a reduced range does not depend on how it was cut. bf16 sums are taken in float32 and rounded
 * once.
 *
 * Every rank makes the same calls with the same sizes, in the same order, from one thread (a second one may have a
 * channel of its own). A call that fails (a rank
 * has ended, or did not answer in time) leaves the connections unusable: every later call fails at once, and the run
 * has to end (the process ignores SIGPIPE, or the loss of a rank may be its end). That is MULL_EIO, which the queue
 * counts as the machine's fault and not the job's.
 *
 * The transport is Gloo (comm/gloo.cc), a library made for this that needs no launcher: ranks that somebody else
 * started find each other through a folder, or over several hosts through rank 0 (meet.h), and the loss of a peer is an
 * error at once. MPI was weighed and not taken:
 * it wants to start the processes itself (mpirun, PMIx), while here the worker does, and by default the loss of a rank
 * kills the others before they can say why. Gloo's own reductions add in the order of a ring, so only its transport is
 * used. NCCL for GPUs would stand beside it and is not there yet.
 *
 * Over several hosts every pair of ranks proves to each other, when it has connected, that it knows the run's secret.
 * What travels then is neither encrypted nor signed: the network between the hosts of a gang is trusted with it. */
#ifndef MULL_ENGINE_COMM_COMM_H
#define MULL_ENGINE_COMM_COMM_H

#include "engine/core/dtype.h"
#include "engine/core/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MULL_WORLD_MAX = 256 };

typedef struct mull_comm mull_comm;

typedef struct mull_comm_opts {
    int rank, world;        /* world 1: no library is needed and every call is a copy or nothing */
    const char *rendezvous; /* world > 1: a folder that only this run's ranks use; made when it is absent */
    /* Or, over several hosts: where rank 0 listens, what all ranks know and nobody else, and at which name or number
     * the others reach this rank's host. */
    const char *master, *port, *secret, *address;
    int timeout_s; /* for ranks to meet, and of silence inside a call; 0: 1800 */
} mull_comm_opts;

/* Does this build have a library for more than one rank? */
bool mull_comm_available(void);
/* From MULL_RANK, MULL_WORLD_SIZE, MULL_COMM_TIMEOUT_S, and MULL_RENDEZVOUS or (several hosts) MULL_MASTER_ADDR,
 * MULL_MASTER_PORT, MULL_GANG_SECRET and MULL_NODE_ADDR; without them world is 1. Strings are the environment's. */
int mull_comm_from_env(mull_comm_opts *out, mull_error *err);
/* Waits for all ranks. */
int mull_comm_create(const mull_comm_opts *o, mull_comm **out, mull_error *err);
void mull_comm_destroy(mull_comm *c);
/* The same ranks once more, for one other thread: what it calls is apart from what c's thread calls, over the same
 * connections. All ranks make one (at most one) before any uses it, and destroy it before c. When a rank is lost, both
 * fail. c NULL or of one rank: *out is NULL. */
int mull_comm_channel(const mull_comm *c, mull_comm **out, mull_error *err);
/* NULL is one rank alone. */
int mull_comm_rank(const mull_comm *c);
int mull_comm_world(const mull_comm *c);

int mull_comm_barrier(mull_comm *c, mull_error *err);
int mull_comm_broadcast(mull_comm *c, void *data, size_t bytes, int root, mull_error *err);
/* all [world * bytes] gets mine of rank r at r * bytes. */
int mull_comm_collect(mull_comm *c, const void *mine, size_t bytes, void *all, mull_error *err);
/* In place: elements [cuts[r], cuts[r + 1]) of data are rank r's before, everybody's afterwards. cuts rise and have
 * world + 1 entries; parts may be empty. */
int mull_comm_all_gather(mull_comm *c, void *data, mull_dtype type, const int64_t *cuts, mull_error *err);
/* In place: elements [cuts[rank], cuts[rank + 1]) become the sum over ranks; the others stay as they are. F32, BF16. */
int mull_comm_reduce_scatter(mull_comm *c, void *data, mull_dtype type, const int64_t *cuts, mull_error *err);
/* In place: every element becomes the sum over ranks. F32, BF16. */
int mull_comm_all_reduce(mull_comm *c, void *data, mull_dtype type, int64_t n, mull_error *err);

#endif
