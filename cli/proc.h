/* Processes by number and start time, so that a number used again never means a stranger.
 *
 * A record is a small file "PID START BOOT" that a process writes about itself before it becomes the program it is
 * started for: no moment exists in which a program runs unrecorded. */
#ifndef MULL_CLI_PROC_H
#define MULL_CLI_PROC_H

#include "schema/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

typedef struct mull_proc {
    int pid;
    unsigned long long start; /* clock ticks after boot */
} mull_proc;

/* Whether it still runs; a zombie does not. */
bool mull_proc_alive(const mull_proc *p);
/* Writes the calling process into the file. 0 or an errno. Allocates nothing. */
int mull_proc_record(const char *file);
/* Reads a record; false, with *p zeroed, when there is none, or it names a process that is gone. */
bool mull_proc_recorded(const char *file, mull_proc *p);
/* Sends a signal to this very process. 0, or -1 when it is gone or not ours. */
int mull_proc_signal(const mull_proc *p, int signum);

/* Seconds of a clock that never jumps. */
double mull_clock(void);

/* How to start a program. Its standard input is /dev/null (or input), its output the log. */
typedef struct mull_spawn {
    const char *const *argv; /* argv[0] is its path */
    const char *log;         /* appended to */
    const char *record;      /* see above; NULL: none */
    const char *input;       /* text for standard input; NULL: none */
    bool drop;               /* become uid and gid first */
    uid_t uid;
    gid_t gid;
    const char *folders[2]; /* opened before the drop and left open as MULL_SPAWN_FD, MULL_SPAWN_FD + 1; NULL: none */
} mull_spawn;
enum { MULL_SPAWN_FD = 8 };

/* Starts it in a session of its own. Its process id, or negative with err when it could not be executed. */
int mull_spawn_start(const mull_spawn *s, mull_err *err);
/* Starts it and waits for its end: 0, or negative with err, which quotes the log's last line. */
int mull_spawn_run(const mull_spawn *s, const char *what, mull_err *err);
/* The last line that says something after byte offset from of a log, into out ("" when there is none). A line with
 * FATAL, ERROR or error: is preferred. */
void mull_log_last(const char *log, long long from, char *out, size_t cap);
long long mull_log_size(const char *log);

#endif
