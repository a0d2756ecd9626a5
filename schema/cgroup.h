/* Where this process stands in the cgroups (version 2) of the machine, and whether groups can be made below: what the
 * worker needs to limit engines, and what mull doctor tells. */
#ifndef MULL_SCHEMA_CGROUP_H
#define MULL_SCHEMA_CGROUP_H

#include "schema/error.h"

#include <stddef.h>

/* The folder of this process's group into out. 0, or negative: err says why none can be made below it: no version 2, no
 * controllers for memory, pids and cpu there, or it is not ours to write. */
int mull_cgroup_own(char *out, size_t cap, mull_err *err);
/* The same of a folder that somebody names. */
int mull_cgroup_usable(const char *folder, mull_err *err);

#endif
