/* See states.h. */
#include "schema/states.h"

#include <string.h>

const char *mull_job_state(const char *name) {
#define X(n, terminal, meaning)                                                                                        \
    if (!strcmp(name, #n)) return #n;
    MULL_JOB_STATES(X)
#undef X
    return NULL;
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
