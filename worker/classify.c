/* See classify.h. The order of the rules is their meaning: work that was finished is finished, whoever asked to stop it
 * meanwhile (an engine that is stopped exits 75, so 0 means that the answer is complete and published: throwing it away
 * because a cancel came in the last second would help nobody; Slurm too calls such a job COMPLETED); then the worker's
 * own reasons, which explain any signal; then what the process says of itself. */
#include "worker/classify.h"

#include <signal.h>
#include <string.h>

mull_stop mull_stop_of(const char *reason) {
    if (!strcmp(reason, "timeout")) return MULL_STOP_TIMEOUT;
    if (!strcmp(reason, "stale")) return MULL_STOP_STALE;
    if (!strcmp(reason, "preempt")) return MULL_STOP_PREEMPT;
    if (!strcmp(reason, "drain") || !strcmp(reason, "gang")) return MULL_STOP_DRAIN;
    return MULL_STOP_CANCEL;
}

const char *mull_classify(const mull_end *e) {
    enum { REQUEUE = 75, CANNOT_EXECUTE = 126, NOT_FOUND = 127 };
    if (e->code == 0 && !e->spawn_failed) return "ok";
    switch (e->stop) {
    case MULL_STOP_CANCEL:
        return "cancelled";
    case MULL_STOP_TIMEOUT:
        return "timeout";
    case MULL_STOP_STALE:
    case MULL_STOP_HANG:
    case MULL_STOP_LEASE:
        return "infra";
    case MULL_STOP_PREEMPT:
    case MULL_STOP_DRAIN:
    case MULL_STOP_NONE:
        break;
    }
    if (e->spawn_failed) return "infra";
    if (e->code == REQUEUE) return "requeue";
    if (e->error_class && !strcmp(e->error_class, "oom")) return "oom";
    if (e->code < 0) {
        /* It did not hear, and is not to blame for being asked. */
        if (e->stop == MULL_STOP_PREEMPT || e->stop == MULL_STOP_DRAIN) return "requeue";
        return e->signal == SIGKILL && e->oom_seen && e->stop == MULL_STOP_NONE ? "oom" : "infra";
    }
    if (e->error_class && !strcmp(e->error_class, "infra")) return "infra";
    return e->code == CANNOT_EXECUTE || e->code == NOT_FOUND ? "infra" : "user";
}
