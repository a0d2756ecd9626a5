/* One small process between the worker and each engine: whatever happens to the worker, no engine and none of its
 * children outlives it. Not for users: the worker starts itself as `mull-worker __supervise ENGINE run`. */
#ifndef MULL_WORKER_SUPERVISE_H
#define MULL_WORKER_SUPERVISE_H

/* The control socket, the supervisor's descriptor 4. From the worker: 'T' = SIGTERM to the engine's process group,
 * 'K' = SIGKILL to the engine and everything that descends from it, "BMS\n" or "MMS\n" = the lease ends at so many
 * milliseconds of CLOCK_BOOTTIME or CLOCK_MONOTONIC, when nothing later comes: then as 'K'. To the worker, one line
 * each: "pid PID START", "fail ERRNO" (the engine could not be executed), "lease" (it has ended), "exit CODE SIGNAL"
 * (CODE -1 when SIGNAL ended it). The end of this socket, however it comes about, means 'K' and leave.
 *
 * The lease is watched here and not in the worker, which may be the one that stands still. */
enum { MULL_SUPERVISE_CONTROL = 4, MULL_LEASE_ORDER = 24 };

/* Milliseconds of the clock that a lease is counted in. Over a network CLOCK_BOOTTIME: a machine that slept has been
 * silent meanwhile. On one machine CLOCK_MONOTONIC: everybody slept. */
unsigned long long mull_lease_clock_ms(int one_machine);
/* The order for it; its length. */
int mull_lease_order(char out[MULL_LEASE_ORDER], int one_machine, unsigned long long ends_ms);

int mull_supervise(char **engine_argv);

#endif
