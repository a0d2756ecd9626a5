/* Words of the queue's records, each with its one-sentence meaning. The names are stored and sent as text. */
#ifndef MULL_SCHEMA_STATES_H
#define MULL_SCHEMA_STATES_H

#include <stdbool.h>

/* X(name, terminal, meaning) */
#define MULL_JOB_STATES(X)                                                                                             \
    X(PENDING, false, "waits for its turn, or for what its reason names")                                              \
    X(RUNNING, false, "an attempt has been given to a worker and has not ended")                                       \
    X(COMPLETED, true, "the last attempt ended with exit status 0")                                                    \
    X(FAILED, true, "the job's own error, or more infrastructure failures in a row than its retries allow")            \
    X(CANCELLED, true, "a user stopped it")                                                                            \
    X(TIMEOUT, true, "it ran longer than its time limit")                                                              \
    X(PREEMPTED, false, "another job took its place and it goes back to PENDING")                                      \
    X(NODE_FAIL, true, "its node was lost and its policy forbids another attempt")                                     \
    X(OUT_OF_MEMORY, true, "it needed more memory than there was")

/* X(name, meaning): why a PENDING job waits */
#define MULL_REASONS(X)                                                                                                \
    X(Resources, "no node has enough free devices")                                                                    \
    X(Priority, "jobs of higher priority or submitted earlier are ahead")                                              \
    X(Quota, "its team has used what it may use")                                                                      \
    X(Dependency, "a job that it comes after has not ended as required")                                               \
    X(BeginTime, "its begin time, or the pause before a retry, has not passed")                                        \
    X(Held, "a user holds it")                                                                                         \
    X(DrainedNodes, "the nodes that could run it are drained or down")                                                 \
    X(ArrayLimit, "as many tasks of its array run as its limit allows")

/* X(name, meaning): how an attempt ended */
#define MULL_CLASSES(X)                                                                                                \
    X(ok, "exit status 0")                                                                                             \
    X(user, "the job's own error: exit status 1 or 2; never retried")                                                  \
    X(requeue, "exit status 75: state was saved and the job wants to go on; not counted")                              \
    X(oom, "the kernel or an allocator said there is no memory; not retried")                                          \
    X(timeout, "the time limit passed")                                                                                \
    X(cancelled, "a user asked for it")                                                                                \
    X(infra, "anything that is not the job's fault: killed by a stranger, worker restarted, node lost")

/* The name if it is one of the list, else NULL. */
const char *mull_job_state(const char *name);
/* The state that was probably meant, or NULL. */
const char *mull_job_state_nearest(const char *name);
bool mull_job_state_terminal(const char *name);
const char *mull_class(const char *name);
/* One-sentence meanings; "" for unknown names. */
const char *mull_job_state_meaning(const char *name);
const char *mull_reason_meaning(const char *name);

#endif
