/* A user's own reward: a command that reads one JSON line a completion on standard input and writes one score a line.
 *
 * In: {"completion","solution","problem_type","prompt","dataset","index","tokens","truncated"}. Out: a number, or an
 * object with a number "score". The command runs by /bin/sh in a session of its own, without network where the kernel
 * lets an ordinary user cut it off, with limits on processor time, memory, files and cores. When its shell has ended, or
 * the time is up, every process that came of it is killed, those in sessions of their own too. */
#ifndef MULL_ENGINE_TRAIN_REWARD_COMMAND_H
#define MULL_ENGINE_TRAIN_REWARD_COMMAND_H

#include "engine/core/error.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct mull_reward_command {
    const char *command;
    double timeout_s;        /* for all lines together */
    size_t memory;           /* bytes of address space, 0: no limit */
    bool (*stop)(void *ctx); /* asked for now and then; NULL: never */
    void *ctx;
} mull_reward_command;

/* in: n lines, each with its newline. scores [n]. An answer that is short, long, no number or not finite is
 * MULL_EFORMAT with the line and the end of what the command wrote to standard error; too slow is MULL_ELIMIT;
 * MULL_ECANCELLED: stopped. */
int mull_reward_command_run(const mull_reward_command *c, const char *in, size_t len, double *scores, size_t n,
                            mull_error *err);
/* What a command answered, as scores [n]; said (or NULL) is the end of its standard error, for the message. */
int mull_reward_command_parse(const char *command, const char *out, size_t len, double *scores, size_t n,
                              const char *said, mull_error *err);

#endif
