/* See retain.h. One connection, one statement after the other; between two batches the queue has its turn. */
#include "scheduler/retain.h"

#include "schema/error.h"

#include <jansson.h>
#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BATCH = 5000, PAUSE_MS = 20, DAYS_MAX = 36500 };

static int failed(const char *where, PGconn *c) {
    mull_err err;
    char why[400];
    snprintf(why, sizeof why, "%s", PQerrorMessage(c));
    why[strcspn(why, "\n")] = 0;
    mull_fail(&err, MULL_ERR_UNAVAILABLE, "cannot throw old rows away", where, "check --pg; run migrate first", "%s",
              why);
    mull_err_print(stderr, &err);
    return 1;
}

static int one(PGconn *c, const char *what, const char *days, bool dry) {
    char limit[12];
    long long total = 0, n;
    snprintf(limit, sizeof limit, "%d", BATCH);
    const char *params[] = {what, days, limit, dry ? "t" : "f"};
    do {
        PGresult *r =
            PQexecParams(c, "SELECT mull_retain($1, $2::int, $3::int, $4::boolean)", 4, NULL, params, NULL, NULL, 0);
        bool good = PQresultStatus(r) == PGRES_TUPLES_OK;
        n = good ? atoll(PQgetvalue(r, 0, 0)) : -1;
        PQclear(r);
        if (n < 0) return failed(what, c);
        total += n;
        if (!dry && n > 0) nanosleep(&(struct timespec){.tv_nsec = PAUSE_MS * 1000000L}, NULL);
    } while (!dry && n > 0);
    printf("{\"what\":\"%s\",\"days\":%s,\"rows\":%lld}\n", what, days, total);
    fflush(stdout);
    return 0;
}

int mull_retain(const mull_retain_config *c) {
    const struct {
        const char *what, *days;
    } kinds[] = {{"logs", c->logs}, {"metrics", c->metrics}, {"samples", c->samples}, {"deliveries", c->deliveries}};
    int asked = 0, rc = 0;
    for (size_t i = 0; i < 4; i++) {
        const char *d = kinds[i].days;
        if (!d) continue;
        asked++;
        if (strlen(d) > 5 || strspn(d, "0123456789") != strlen(d) || atoi(d) < 1 || atoi(d) > DAYS_MAX) {
            fprintf(stderr,
                    "error: wrong usage (--%s): it takes days from 1 to %d, not '%s'; see mull-scheduler --help\n",
                    kinds[i].what, DAYS_MAX, d);
            return 2;
        }
    }
    if (!asked) {
        fprintf(stderr, "error: wrong usage (retain): give --logs, --metrics, --samples or --deliveries DAYS; see "
                        "mull-scheduler --help\n");
        return 2;
    }
    PGconn *conn = PQconnectdb(c->pg);
    if (PQstatus(conn) != CONNECTION_OK) rc = failed("PostgreSQL", conn);
    for (size_t i = 0; i < 4 && !rc; i++)
        if (kinds[i].days) rc = one(conn, kinds[i].what, kinds[i].days, c->dry_run);
    PQfinish(conn);
    return rc;
}
