/* Asynchronous PostgreSQL on a libuv loop: a few connections that come back by themselves and one queue of statements.
 *
 * Each statement is a transaction of its own (everything that must happen together is one SQL function, or a COPY and
 * one statement, mull_pg_copy), runs on any free connection, and its callback is called exactly once, from the loop,
 * never from inside mull_pg_query. Statements wait while a connection is being made; when none can be made, or one is
 * lost under a statement, the answer is LOST: it may have happened or not, so effects are written to be repeatable. All
 * calls from the loop's thread. */
#ifndef MULL_SCHEMA_STORE_PG_H
#define MULL_SCHEMA_STORE_PG_H

#include <libpq-fe.h>
#include <uv.h>

typedef enum mull_pg_status {
    MULL_PG_OK,
    MULL_PG_LOST, /* no connection, or it broke: try again later */
    MULL_PG_ERROR /* the server refused the statement: sqlstate says why */
} mull_pg_status;

/* Valid during the callback. res is NULL when LOST. */
typedef struct mull_pg_reply {
    mull_pg_status status;
    PGresult *res;
    char sqlstate[6];
    const char *message;
} mull_pg_reply;

typedef void (*mull_pg_cb)(const mull_pg_reply *r, void *arg);
typedef struct mull_pg mull_pg;

enum { MULL_PG_CONNECTIONS_MAX = 16, MULL_PG_QUEUE_MAX = 100000 };

/* size connections, made at once and for ever again. NULL on no memory. */
mull_pg *mull_pg_create(uv_loop_t *loop, const char *conninfo, int size);
/* A pool for mull_pg_query_as, and for nothing else: no statement runs there with more rights, and plans that depend on
 * the role are kept. */
mull_pg *mull_pg_create_for_teams(uv_loop_t *loop, const char *conninfo, int size);
/* params are text and are copied. */
void mull_pg_query(mull_pg *p, const char *sql, int n, const char *const *params, mull_pg_cb cb, void *arg);
/* For people of one team: the transaction takes the role mull_front and sets mull.team and mull.user before sql, and
 * row-level security (functions/policies.sql) does the rest; nothing of it is left on the connection. Only on a pool
 * for teams. */
void mull_pg_query_as(mull_pg *p, const char *team, const char *user, const char *sql, int n, const char *const *params,
                      mull_pg_cb cb, void *arg);
/* The same in a transaction with a COPY before it, on one connection: BEGIN, before (a statement or several, NULL:
 * none), copy ("COPY … FROM STDIN (FORMAT binary)") with the bytes of data, then sql, then COMMIT; ROLLBACK after any
 * error. The callback gets the result of sql after the COMMIT, or the first error. data is malloc'ed and taken. */
void mull_pg_copy(mull_pg *p, const char *before, const char *copy, char *data, size_t len, const char *sql, int n,
                  const char *const *params, mull_pg_cb cb, void *arg);
/* Fails what is pending and stops; run the loop until its handles are closed, then destroy. */
void mull_pg_close(mull_pg *p);
void mull_pg_destroy(mull_pg *p);

#endif
