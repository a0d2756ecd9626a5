/* See states.h. */
#include "schema/states.h"

#include "schema/jobspec.h"

#include <string.h>

const char *mull_job_state(const char *name) {
#define X(n, terminal, meaning)                                                                                        \
    if (!strcmp(name, #n)) return #n;
    MULL_JOB_STATES(X)
#undef X
    return NULL;
}

const char *mull_job_state_nearest(const char *name) {
    static const char *const names[] = {
#define X(n, terminal, meaning) #n,
        MULL_JOB_STATES(X)
#undef X
    };
    return mull_nearest(name, names, sizeof names / sizeof *names);
}

bool mull_job_state_terminal(const char *name) {
#define X(n, terminal, meaning)                                                                                        \
    if (!strcmp(name, #n)) return terminal;
    MULL_JOB_STATES(X)
#undef X
    return false;
}

const char *mull_class(const char *name) {
#define X(n, meaning)                                                                                                  \
    if (!strcmp(name, #n)) return #n;
    MULL_CLASSES(X)
#undef X
    return NULL;
}

const char *mull_job_state_meaning(const char *name) {
#define X(n, terminal, meaning)                                                                                        \
    if (!strcmp(name, #n)) return meaning;
    MULL_JOB_STATES(X)
#undef X
    return "";
}

const char *mull_reason_meaning(const char *name) {
#define X(n, meaning)                                                                                                  \
    if (!strcmp(name, #n)) return meaning;
    MULL_REASONS(X)
#undef X
    return "";
}
