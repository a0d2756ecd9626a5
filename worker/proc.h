/* What /proc says about processes: who they are, whose they are, and the end of those left over. */
#ifndef MULL_WORKER_PROC_H
#define MULL_WORKER_PROC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* The start time in clock ticks since the machine started: with the id it names a process for good. 0 = no such. */
uint64_t mull_proc_start(pid_t pid);
/* Children of a process (zombies too), at most cap. */
size_t mull_proc_children(pid_t parent, pid_t *out, size_t cap);
/* SIGKILL to every process of this user but the caller whose environment holds exactly this NAME=VALUE. Returns how
 * many. */
size_t mull_proc_kill_marked(const char *marker);
/* Processes the kernel has killed for memory since the machine started, 0 when it does not say. */
uint64_t mull_proc_oom_kills(void);

/* A record of a process in a file of its own, so that the next start of the worker can end it. */
int mull_proc_record(const char *path, pid_t pid, uint64_t start);
/* Kills the process (group) of every record in a folder that still is that very process; removes the records. */
size_t mull_proc_kill_recorded(const char *dir);

#endif
