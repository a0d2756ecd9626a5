/* The hosts that a libpq connection string names. libpq tries them in order, but looks names up itself, which would
 * block the loop, and has no limit of time for one host: behind one that swallows packets the others would never have
 * their turn. So names are looked up here, off the loop, and the order is turned after an attempt that took too long.
 */
#ifndef MULL_SCHEMA_STORE_PG_HOSTS_H
#define MULL_SCHEMA_STORE_PG_HOSTS_H

#include <stdbool.h>

typedef struct mull_pg_hosts {
    char *hosts, *addresses, *ports; /* comma-separated as given, or NULL */
    int count;
    bool names; /* at least one host must be looked up */
} mull_pg_hosts;

/* From the string and the environment's defaults. */
void mull__pg_hosts_init(mull_pg_hosts *h, const char *conninfo);
void mull__pg_hosts_fini(mull_pg_hosts *h);
/* Blocks, and touches nothing but its argument: one address for each host of the list, "" for a path; a name that is
 * unknown gets one that refuses at once. malloc'ed, or NULL. */
char *mull__pg_look_up(const char *hosts);
/* A comma-separated list begun at its element number turn; malloc'ed. NULL for NULL, and without memory. */
char *mull__list_turned(const char *list, int turn);

#endif
