/* One small process between the worker and each engine: whatever happens to the worker, no engine and none of its
 * children outlives it. Not for users: the worker starts itself as `mull-worker __supervise ENGINE run`. */
#ifndef MULL_WORKER_SUPERVISE_H
#define MULL_WORKER_SUPERVISE_H

/* The control socket, the supervisor's descriptor 4. From the worker: 'T' = SIGTERM to the engine's process group,
 * 'K' = SIGKILL to the engine and everything that descends from it. To the worker, one line each: "pid PID START",
 * "fail ERRNO" (the engine could not be executed), "exit CODE SIGNAL" (CODE -1 when SIGNAL ended it). The end of this
 * socket, however it comes about, means 'K' and leave. */
enum { MULL_SUPERVISE_CONTROL = 4 };

int mull_supervise(char **engine_argv);

#endif
