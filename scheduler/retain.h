/* `mull-scheduler retain`: throws old rows away, a few thousand at a time, while the queue runs. */
#ifndef MULL_SCHEDULER_RETAIN_H
#define MULL_SCHEDULER_RETAIN_H

#include <stdbool.h>

typedef struct mull_retain_config {
    const char *pg;                                    /* libpq conninfo */
    const char *logs, *metrics, *samples, *deliveries; /* days as texts, NULL: that kind stays */
    bool dry_run;
} mull_retain_config;

/* Prints a JSON line a kind, {"what","days","rows"}; an exit status. */
int mull_retain(const mull_retain_config *c);

#endif
