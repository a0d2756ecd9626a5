/* Runs one function as several ranks: a process each, which meet in a folder of their own. */
#ifndef MULL_TESTS_ENGINE_RANKS_UTIL_H
#define MULL_TESTS_ENGINE_RANKS_UTIL_H

#include "engine/comm/comm.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

typedef int (*rank_fn)(mull_comm *c, void *ctx);

/* What fn returned in each rank (0 .. 124), 125 when it could not meet the others, or 128 + the signal that ended it;
 * cmocka's assertions work in no child. at [world]: where each rank meets the others. The caller has no threads. */
static inline void run_ranks_at(int world, const mull_comm_opts *at, rank_fn fn, void *ctx, int *status) {
    pid_t pid[MULL_WORLD_MAX];
    fflush(NULL);
    for (int r = 0; r < world; r++) {
        pid[r] = fork();
        if (pid[r] < 0) abort();
        if (pid[r]) continue;
        mull_comm *c = NULL;
        mull_error err = {0};
        mull_comm_opts o = at[r];
        o.rank = r;
        o.world = world;
        alarm(200);
        signal(SIGPIPE, SIG_IGN); /* as the engine does: a lost rank is an error, not our end */
        if (mull_comm_create(&o, &c, &err)) {
            mull_error_print(stderr, &err);
            _exit(125);
        }
        int rc = fn(c, ctx);
        mull_comm_destroy(c);
        fflush(NULL);
        _exit(rc);
    }
    for (int r = 0; r < world; r++) {
        int s = 0;
        if (waitpid(pid[r], &s, 0) != pid[r]) abort();
        status[r] = WIFEXITED(s) ? WEXITSTATUS(s) : 128 + WTERMSIG(s);
    }
}

/* The same, all in one folder. */
static inline void run_ranks(int world, const char *meet, rank_fn fn, void *ctx, int *status) {
    mull_comm_opts at[MULL_WORLD_MAX];
    for (int r = 0; r < world; r++) at[r] = (mull_comm_opts){.rendezvous = meet, .timeout_s = 60};
    run_ranks_at(world, at, fn, ctx, status);
}

/* In a child: says where and leaves fn with 1. */
#define RANK_CHECK(x)                                                                                                  \
    do {                                                                                                               \
        if (!(x)) {                                                                                                    \
            fprintf(stderr, "%s:%d: rank %d: %s\n", __FILE__, __LINE__, mull_comm_rank(c), #x);                        \
            return 1;                                                                                                  \
        }                                                                                                              \
    } while (0)

#endif
