/* How an attempt ended, as one word of MULL_CLASSES (schema/states.h). Pure. */
#ifndef MULL_WORKER_CLASSIFY_H
#define MULL_WORKER_CLASSIFY_H

#include <stdbool.h>

/* Why the worker itself stops an attempt. */
typedef enum mull_stop {
    MULL_STOP_NONE,
    MULL_STOP_CANCEL,  /* a user asked */
    MULL_STOP_TIMEOUT, /* its time limit passed */
    MULL_STOP_STALE,   /* the leader no longer counts on it */
    MULL_STOP_HANG,    /* no sign of life from it for too long */
    MULL_STOP_LEASE,   /* cut off for so long that the leader may have started it elsewhere */
    MULL_STOP_PREEMPT, /* its place is wanted by another job */
    MULL_STOP_DRAIN    /* this worker leaves, or a rank on another node has ended: what is saved counts */
} mull_stop;

/* What is known of the rank that ended first (or, when all succeeded, of any). */
typedef struct mull_end {
    mull_stop stop;
    bool spawn_failed;       /* no engine came to run */
    bool oom_seen;           /* the kernel killed something for memory in the last seconds of this attempt */
    int code, signal;        /* exit status; or -1 and the signal */
    const char *error_class; /* of the engine's last error line, or NULL */
} mull_end;

/* The reason word of a cancel message. Unknown words mean cancel. */
mull_stop mull_stop_of(const char *reason);
const char *mull_classify(const mull_end *e);

#endif
