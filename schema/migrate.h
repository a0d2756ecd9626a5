/* Bringing a database to this build's version. */
#ifndef MULL_SCHEMA_MIGRATE_H
#define MULL_SCHEMA_MIGRATE_H

#include "schema/error.h"

/* Applies the numbered migrations that the database has not seen, each in a transaction of its own, then makes the
 * functions again, in one transaction, if they are not this build's; all under an advisory lock, so that any number of
 * callers may try at once. Blocking: for start-up and the migrate command, never on a loop. A database newer than this
 * build is refused. Waits up to 30 s for the server to come up. */
int mull_migrate(const char *conninfo, mull_err *err);
/* The migrations up to and including version, without functions unless it is the latest (tests of upgrades). */
int mull_migrate_to(const char *conninfo, int version, mull_err *err);
/* Highest version of this build. */
int mull_migrate_latest(void);

#endif
