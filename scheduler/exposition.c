/* GET /metrics: what this process and the database count, in OpenMetrics text. When PostgreSQL is away the process's
 * own numbers are still given and mull_postgres_up says 0. */
#include "scheduler/front.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct scrape {
    mull_front *front;
    mull_req *req;
} scrape;

static void family(FILE *o, const char *name, const char *type, const char *help) {
    fprintf(o, "# TYPE %s %s\n# HELP %s %s\n", name, type, name, help);
}

static void gauge(FILE *o, const char *name, const char *help, double value) {
    family(o, name, "gauge", help);
    fprintf(o, "%s %.17g\n", name, value);
}

static void counter(FILE *o, const char *name, const char *help, uint64_t value) {
    family(o, name, "counter", help);
    fprintf(o, "%s_total %" PRIu64 "\n", name, value);
}

static void on_counts(const mull_pg_reply *r, void *arg) {
    scrape s = *(scrape *)arg;
    free(arg);
    char *text = NULL;
    size_t len = 0;
    FILE *o = open_memstream(&text, &len);
    if (!o) {
        mull_reply_error(s.req, 503, "unavailable", "the server is out of memory; try again");
        return;
    }
    mull_leader_stats l;
    mull_leader_get_stats(s.front->cfg.leader, &l);
    bool pg = r->status == MULL_PG_OK;
    gauge(o, "mull_postgres_up", "1 when PostgreSQL answered this scrape.", pg);
    gauge(o, "mull_redis_up", "1 when Redis is connected.", mull_redis_connected(s.front->cfg.redis));
    gauge(o, "mull_leader_term", "Term of this process, 0 when it does not lead.", (double)l.term);
    if (pg) {
        family(o, "mull_jobs", "gauge", "Jobs by state.");
        for (int i = 0; i < PQntuples(r->res); i++)
            fprintf(o, "mull_jobs{state=\"%s\"} %s\n", PQgetvalue(r->res, i, 0), PQgetvalue(r->res, i, 1));
    }
    gauge(o, "mull_pending_in_memory", "Pending jobs the leader holds.", (double)l.pending);
    gauge(o, "mull_attempts_running", "Attempts under way.", (double)l.running);
    gauge(o, "mull_nodes_up", "Nodes that are up.", (double)l.nodes_up);
    gauge(o, "mull_pass_seconds", "Length of the last scheduling pass.", l.last_pass_ms / 1e3);
    counter(o, "mull_submitted", "Jobs committed by this front door.", s.front->submitted);
    counter(o, "mull_submit_commits", "Transactions these took.", s.front->submit_batches);
    counter(o, "mull_rate_limited", "Requests refused with 429 for coming too fast.", s.front->limited);
    counter(o, "mull_unauthorized", "Requests refused with 401.", s.front->unauthorized);
    counter(o, "mull_dispatched", "Attempts started.", l.dispatched);
    counter(o, "mull_ended", "Attempts ended.", l.ended);
    counter(o, "mull_events_recorded", "Event lines recorded.", l.recorded);
    counter(o, "mull_events_duplicate", "Event lines dropped as duplicates.", l.duplicates);
    counter(o, "mull_events_stale", "Event lines refused for a stale fence or boot.", l.stale);
    counter(o, "mull_events_refused", "Event lines refused as invalid.", l.refused);
    counter(o, "mull_event_gaps", "Resyncs asked for.", l.gaps);
    counter(o, "mull_passes", "Scheduling passes.", l.passes);
    counter(o, "mull_preempted", "Attempts told to stop for another job.", l.preempted);
    counter(o, "mull_terms_lost", "Leads lost.", l.lost_terms);
    counter(o, "mull_node_downs", "Nodes declared down.", l.node_downs);
    fprintf(o, "# EOF\n");
    if (fclose(o) != 0) {
        free(text);
        mull_reply_error(s.req, 503, "unavailable", "the server is out of memory; try again");
        return;
    }
    mull_reply(s.req, 200, mull_route_get(MULL_ROUTE_OPENMETRICS)->produces, text, len);
}

void mull__openmetrics(mull_front *f, mull_req *req) {
    scrape *s = malloc(sizeof *s);
    if (!s) {
        mull_reply_error(req, 503, "unavailable", "the server is out of memory; try again");
        return;
    }
    *s = (scrape){f, req};
    mull_pg_query(f->cfg.pg, "SELECT state, count(*) FROM job GROUP BY state ORDER BY state", 0, NULL, on_counts, s);
}
