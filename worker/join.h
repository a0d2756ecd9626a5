/* How a worker of another host comes in: `mull-worker join URL` with a token, once; what it gets is kept in the state
 * folder, and later starts need nothing else. */
#ifndef MULL_WORKER_JOIN_H
#define MULL_WORKER_JOIN_H

#include "schema/store_redis_server.h"

/* `mull-worker join ...`; argv begins with "join". Returns the exit status. */
int mull_join_main(int argc, char **argv);

/* What STATE/join.json says. */
typedef struct mull_joined {
    char *node;        /* the name it joined with */
    char *server, *ca; /* the front door: its URL, and the PEM text it is known by (NULL: the system's) */
    char *secret;      /* by which the front door knows this node */
    mull_redis_server redis;
} mull_joined;
/* MULL_ERR_MISSING: it has not joined. */
int mull_joined_read(const char *state, mull_joined *out, mull_err *err);
void mull_joined_fini(mull_joined *j);

#endif
