/* Where a one-machine mull keeps its things; README.md lists them. */
#ifndef MULL_SCHEMA_STATE_DIR_H
#define MULL_SCHEMA_STATE_DIR_H

#include "schema/error.h"

typedef struct mull_state_dir {
    char root[3072];
    char run[3200];       /* ROOT/run: sockets */
    char socket[3300];    /* RUN/scheduler.sock */
    char redis[3300];     /* RUN/redis.sock */
    char pg_socket[3300]; /* RUN/pg: folder of PostgreSQL's socket */
    char file[3200];      /* ROOT/mull.json */
} mull_state_dir;

enum { MULL_SOCKET_PATH_MAX = 107 }; /* bytes of sun_path without its NUL */

/* The state folder: given (may be NULL), else $MULL_STATE, else /var/lib/mull for root, else $XDG_STATE_HOME/mull, else
 * ~/.local/state/mull. Made absolute; nothing is created. */
int mull_state_dir_find(const char *given, mull_state_dir *out, mull_err *err);

#endif
