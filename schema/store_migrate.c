/* See migrate.h. The SQL files are part of the executable, so binary and schema cannot drift apart.
 *
 * Tables change by numbered steps, each applied once. Functions have no state, so they are not part of the steps: every
 * function stands once under schema/functions, and all of them are dropped and made again, in one transaction, whenever
 * the text differs from what the database has (Flyway calls such files repeatable). A reader finds today's definition
 * in one place, and a change of a function is a change of a line. */
#include "schema/migrate.h"

#include <libpq-fe.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char *const WHAT = "cannot migrate the database";

#define MULL_MIGRATION(n, file)                                                                                        \
    __asm__(".section .rodata\n.global mull_migration_" #n "\nmull_migration_" #n ":\n.incbin \"" file                 \
            "\"\n.byte 0\n.previous\n");                                                                               \
    extern const char mull_migration_##n[];
#include "migrations.inc"
#undef MULL_MIGRATION

static const struct {
    int version;
    const char *sql;
} migrations[] = {
#define MULL_MIGRATION(n, file) {n, mull_migration_##n},
#include "migrations.inc"
#undef MULL_MIGRATION
};
enum { COUNT = sizeof migrations / sizeof *migrations };
__asm__(".section .rodata\n.global mull_sql_functions\nmull_sql_functions:\n"
#include "functions.inc"
        ".byte 0\n.previous\n");
extern const char mull_sql_functions[];
static const char LOCK[] = "5577006791947779410"; /* any number that nobody else uses */

int mull_migrate_latest(void) {
    return migrations[COUNT - 1].version;
}

static int failed(PGconn *c, const char *where, mull_err *err) {
    char text[600];
    snprintf(text, sizeof text, "%s", PQerrorMessage(c));
    text[strcspn(text, "\n")] = 0;
    return mull_fail(err, MULL_ERR_FORMAT, WHAT, where, "see the server's log", "%s", text);
}

static int run(PGconn *c, const char *sql, const char *where, PGresult **keep, mull_err *err) {
    PGresult *r = PQexec(c, sql);
    ExecStatusType s = PQresultStatus(r);
    int rc = s != PGRES_COMMAND_OK && s != PGRES_TUPLES_OK ? failed(c, where, err) : 0;
    if (keep && !rc)
        *keep = r;
    else
        PQclear(r);
    return rc;
}

/* The server may be starting: connection refused and "starting up" are waited for. */
static PGconn *connect_wait(const char *conninfo, mull_err *err) {
    for (int tries = 0;; tries++) {
        PGconn *c = PQconnectdb(conninfo);
        if (PQstatus(c) == CONNECTION_OK) return c;
        char text[600];
        snprintf(text, sizeof text, "%s", PQerrorMessage(c));
        text[strcspn(text, "\n")] = 0;
        PQfinish(c);
        if (tries >= 300) {
            mull_fail(err, MULL_ERR_UNAVAILABLE, WHAT, "PostgreSQL", "check that the server runs and --pg names it",
                      "%s", text);
            return NULL;
        }
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    }
}

/* A later migration may replace what an earlier one makes, so an earlier one that is missing cannot be made up for. */
static int check_whole(const PGresult *applied, int have, mull_err *err) {
    for (int i = 0, row = 0; i < COUNT && migrations[i].version <= have; i++) {
        char where[60];
        if (row < PQntuples(applied) && atoi(PQgetvalue(applied, row, 0)) == migrations[i].version) {
            row++;
            continue;
        }
        snprintf(where, sizeof where, "migration %d", migrations[i].version);
        return mull_fail(err, MULL_ERR_UNSUPPORTED, WHAT, where,
                         "begin with an empty database or state folder, or restore a backup of an earlier version",
                         "it is missing though the database is at version %d: a build that was never released made it",
                         have);
    }
    return 0;
}

/* Their bodies are checked when they run: they call each other in any order. Tables that others are using are locked
 * for triggers and policies, so a deadlock with them is possible: who migrates gives up well before the server would
 * pick a victim among those, and tries again. The last try waits as long as it takes: somebody reads for minutes then.
 */
static int make_functions(PGconn *c, mull_err *err) {
    enum { TRIES = 60 };
    static const char where[] = "schema/functions";
    const char *text[] = {mull_sql_functions};
    PGresult *r = PQexecParams(c, "SELECT count(*) FROM schema_functions WHERE hash = sha256(convert_to($1, 'UTF8'))",
                               1, NULL, text, NULL, NULL, 0);
    if (PQresultStatus(r) == PGRES_TUPLES_OK && strcmp(PQgetvalue(r, 0, 0), "1") == 0) {
        PQclear(r);
        return 0;
    }
    PQclear(r);
    int rc = 0;
    for (int tries = 0; tries < TRIES; tries++) {
        rc = run(c,
                 tries < TRIES - 1 ? "BEGIN; SET LOCAL check_function_bodies = off; SET LOCAL lock_timeout = '300ms'"
                                   : "BEGIN; SET LOCAL check_function_bodies = off",
                 where, NULL, err);
        if (!rc) {
            r = PQexec(c, mull_sql_functions);
            const char *state = PQresultErrorField(r, PG_DIAG_SQLSTATE);
            bool locked = state && (strcmp(state, "40P01") == 0 || strcmp(state, "55P03") == 0);
            rc = PQresultStatus(r) == PGRES_COMMAND_OK ? 0 : failed(c, where, err);
            PQclear(r);
            if (locked && tries < TRIES - 1) {
                PQclear(PQexec(c, "ROLLBACK"));
                nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
                continue;
            }
        }
        break;
    }
    if (rc) return rc;
    r = PQexecParams(
        c,
        "INSERT INTO schema_functions (one, hash) VALUES (true, sha256(convert_to($1, 'UTF8'))) ON CONFLICT (one) "
        "DO UPDATE SET hash = EXCLUDED.hash, at = EXCLUDED.at",
        1, NULL, text, NULL, NULL, 0);
    if (PQresultStatus(r) != PGRES_COMMAND_OK) rc = failed(c, where, err);
    PQclear(r);
    return rc ? rc : run(c, "COMMIT", where, NULL, err);
}

int mull_migrate_to(const char *conninfo, int version, mull_err *err) {
    PGconn *c = connect_wait(conninfo, err);
    if (!c) return err ? err->code : MULL_ERR_UNAVAILABLE;
    PGresult *r = NULL;
    char sql[200], where[60];
    snprintf(sql, sizeof sql, "SET client_min_messages = warning; SELECT pg_advisory_lock(%s)", LOCK);
    int rc = run(c, sql, NULL, NULL, err);
    if (!rc)
        rc =
            run(c,
                "CREATE TABLE IF NOT EXISTS schema_migration (version int PRIMARY KEY, at timestamptz NOT NULL DEFAULT "
                "clock_timestamp()); CREATE TABLE IF NOT EXISTS schema_functions (one boolean PRIMARY KEY CHECK (one), "
                "hash bytea NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp()); SELECT version FROM "
                "schema_migration ORDER BY version",
                NULL, &r, err);
    int have = !rc && PQntuples(r) > 0 ? atoi(PQgetvalue(r, PQntuples(r) - 1, 0)) : 0;
    if (!rc) rc = check_whole(r, have, err);
    PQclear(r);
    if (!rc && have > mull_migrate_latest())
        rc = mull_fail(err, MULL_ERR_UNSUPPORTED, WHAT, NULL, "use a newer mull",
                       "the database is at version %d, this build knows %d", have, mull_migrate_latest());
    for (int i = 0; !rc && i < COUNT; i++) {
        if (migrations[i].version <= have || migrations[i].version > version) continue;
        snprintf(where, sizeof where, "migration %d", migrations[i].version);
        rc = run(c, "BEGIN", where, NULL, err);
        if (!rc) rc = run(c, migrations[i].sql, where, NULL, err);
        snprintf(sql, sizeof sql, "INSERT INTO schema_migration (version) VALUES (%d); COMMIT", migrations[i].version);
        if (!rc) rc = run(c, sql, where, NULL, err);
    }
    if (!rc && version == mull_migrate_latest()) rc = make_functions(c, err);
    PQfinish(c); /* gives the lock back, and rolls back what failed */
    return rc;
}

int mull_migrate(const char *conninfo, mull_err *err) {
    return mull_migrate_to(conninfo, mull_migrate_latest(), err);
}
