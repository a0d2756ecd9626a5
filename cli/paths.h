/* The state folder with socket paths that fit into a socket address.
 *
 * A unix socket's path has at most 107 bytes. When the state folder's is too long for that, STATE/run is a symbolic
 * link to a short private folder, and the paths through that folder are used. `mull up` makes the link; everyone else
 * follows it here. */
#ifndef MULL_CLI_PATHS_H
#define MULL_CLI_PATHS_H

#include "schema/state_dir.h"

#include <stdbool.h>

/* Like mull_state_dir_find, then with run, socket, redis and pg_socket through the link if there is one. */
int mull_paths_find(const char *state, mull_state_dir *out, mull_err *err);
/* Sets run and everything below it. */
void mull_paths_set_run(mull_state_dir *d, const char *run);
/* Whether the longest socket path below run fits, and libpq can read it (a comma would part it into two hosts). */
bool mull_paths_fit(const char *run);

#endif
