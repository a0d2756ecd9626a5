/* See paths.h. */
#include "cli/paths.h"

#include <string.h>
#include <unistd.h>

enum { LONGEST = sizeof "/pg/.s.PGSQL.5432" - 1 }; /* of the paths below run */

bool mull_paths_fit(const char *run) {
    return strlen(run) + LONGEST <= MULL_SOCKET_PATH_MAX && !strchr(run, ',');
}

void mull_paths_set_run(mull_state_dir *d, const char *run) {
    char copy[sizeof d->run];
    snprintf(copy, sizeof copy, "%s", run);
    snprintf(d->run, sizeof d->run, "%s", copy);
    snprintf(d->socket, sizeof d->socket, "%s/scheduler.sock", copy);
    snprintf(d->redis, sizeof d->redis, "%s/redis.sock", copy);
    snprintf(d->pg_socket, sizeof d->pg_socket, "%s/pg", copy);
}

int mull_paths_find(const char *state, mull_state_dir *out, mull_err *err) {
    int rc = mull_state_dir_find(state, out, err);
    if (rc) return rc;
    char target[512];
    ssize_t n = readlink(out->run, target, sizeof target - 1);
    if (n > 0 && target[0] == '/') {
        target[n] = 0;
        mull_paths_set_run(out, target);
    }
    return 0;
}
