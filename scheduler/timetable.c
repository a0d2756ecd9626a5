/* What happens by the clock of the database: schedules submit their jobs. The statement that submits a job also moves
 * its schedule on and holds the term, so a moment is served once however often the lead changes hands. */
#include "scheduler/leader_internal.h"

#include <stdlib.h>

static void on_fired(const mull_pg_reply *r, void *arg) {
    mull_leader *l;
    void *data;
    if (!mull__lead_current(arg, &l, &data)) return;
    l->cron_asked = false;
    if (mull__lead_failed(l, r, "schedules")) return;
    int n = PQntuples(r->res);
    int64_t *ids = n > 0 ? malloc((size_t)n * sizeof *ids) : NULL;
    if (!ids) return; /* the slices of reconcile find them */
    for (int i = 0; i < n; i++) ids[i] = atoll(PQgetvalue(r->res, i, 0));
    mull__refetch(l, ids, (size_t)n);
    free(ids);
}

void mull__cron_tick(mull_leader *l) {
    uint64_t now = mull__now(l);
    if (l->state != MULL_LEADING || l->cron_asked || now - l->cron_ms < MULL_CRON_MS) return;
    l->cron_ms = now;
    l->cron_asked = true;
    const char *params[] = {l->term_text};
    mull__lead_query(l, "SELECT * FROM mull_cron_fire($1::bigint)", 1, params, on_fired, NULL);
}
