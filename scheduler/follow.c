/* Logs of a job: a page as JSON, or (follow=1) every line as a server-sent event until the job has ended.
 *
 * A follower reads pages from PostgreSQL behind its own position, so it needs nothing from the leader, survives a
 * change of leader, and cannot miss a line. The recorder in this process wakes it at once, a poll every half second
 * finds what another leader recorded. At most one page per follower is in memory; a slow reader slows only itself. */
#include "scheduler/front.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PAGE = 500, KEEPALIVE_MS = 15000 };

typedef struct mull_follow {
    struct mull_follow *prev, *next;
    mull_front *front;
    mull_stream *stream; /* NULL when the peer is gone */
    int64_t job, after_n;
    int64_t after_attempt;
    mull_identity who;
    bool querying, idle, again, ended;
    uint64_t written_ms;
} follow;

static const char LOGS_SQL[] = "SELECT * FROM mull_job_logs($1::bigint, $2, $3::int, $4::bigint, $5::int)";

typedef struct page_call {
    mull_front *front;
    mull_req *req;
} page_call;

static void fetch(follow *w);

static void unlink_follow(follow *w) {
    if (w->prev)
        w->prev->next = w->next;
    else
        w->front->followers = w->next;
    if (w->next) w->next->prev = w->prev;
    free(w);
}

static void put(follow *w, const char *event, const char *data) {
    if (mull_stream_write(w->stream, "event: ", 7) == 0 && mull_stream_write(w->stream, event, strlen(event)) == 0 &&
        mull_stream_write(w->stream, "\ndata: ", 7) == 0 && mull_stream_write(w->stream, data, strlen(data)) == 0)
        mull_stream_write(w->stream, "\n\n", 2);
    w->written_ms = uv_now(w->front->cfg.loop);
}

static void end_with(follow *w, const char *event, const char *key, const char *text) {
    json_t *j = json_pack("{s:s}", key, text);
    char *data = j ? json_dumps(j, JSON_COMPACT) : NULL;
    if (data) put(w, event, data);
    free(data);
    json_decref(j);
    w->ended = true;
    mull_stream_end(w->stream);
}

/* The first column of every row is the job's state; a job without lines behind the position gives one row with nulls,
 * an unknown job none. */
static void on_page(const mull_pg_reply *r, void *arg) {
    follow *w = arg;
    w->querying = false;
    if (!w->stream) {
        unlink_follow(w);
        return;
    }
    if (r->status == MULL_PG_LOST) return; /* the poll asks again: a follower outlives a restart of the database */
    if (r->status != MULL_PG_OK || PQntuples(r->res) == 0) {
        end_with(w, "error", "message", r->status == MULL_PG_OK ? "no such job" : r->message);
        return;
    }
    bool lines = !PQgetisnull(r->res, 0, 1);
    for (int i = 0; lines && i < PQntuples(r->res); i++) {
        w->after_attempt = atoll(PQgetvalue(r->res, i, 1));
        w->after_n = atoll(PQgetvalue(r->res, i, 2));
        put(w, "log", PQgetvalue(r->res, i, 3));
    }
    if (lines) {
        /* More may follow at once, but only when this page has left (on_idle). */
        w->again = true;
        w->idle = false;
        return;
    }
    const char *state = PQgetvalue(r->res, 0, 0);
    if (strcmp(state, "PENDING") != 0 && strcmp(state, "RUNNING") != 0)
        end_with(w, "end", "state", state);
    else if (w->again)
        fetch(w);
}

static void fetch(follow *w) {
    if (w->querying || w->ended || !w->stream) return;
    char job[24], attempt[24], n[24], limit[16];
    snprintf(job, sizeof job, "%" PRId64, w->job);
    snprintf(attempt, sizeof attempt, "%" PRId64, w->after_attempt);
    snprintf(n, sizeof n, "%" PRId64, w->after_n);
    snprintf(limit, sizeof limit, "%d", PAGE);
    const char *params[] = {job, w->who.team, attempt, n, limit};
    w->querying = true;
    w->again = false;
    mull__query(w->front, &w->who, LOGS_SQL, 5, params, on_page, w);
}

static void on_idle(mull_stream *s, void *arg) {
    (void)s;
    follow *w = arg;
    w->idle = true;
    if (w->again) fetch(w);
}

static void on_close(mull_stream *s, void *arg) {
    (void)s;
    follow *w = arg;
    w->stream = NULL;
    if (!w->querying) unlink_follow(w);
}

void mull_front_job_news(int64_t job, void *front) {
    mull_front *f = front;
    for (follow *w = f->followers; w; w = w->next) {
        if (w->job != job || w->ended || !w->stream) continue;
        if (w->querying)
            w->again = true;
        else if (w->idle)
            fetch(w);
    }
}

void mull__follow_poll(uv_timer_t *timer) {
    mull_front *f = timer->data;
    for (follow *w = f->followers; w; w = w->next) {
        if (w->ended || !w->stream || !w->idle) continue;
        /* A peer that has gone is noticed only by writing to it. */
        if (uv_now(f->cfg.loop) - w->written_ms >= KEEPALIVE_MS) {
            mull_stream_write(w->stream, ": still here\n\n", 14);
            w->written_ms = uv_now(f->cfg.loop);
        }
        fetch(w);
    }
}

static void start_follow(mull_front *f, mull_req *req, int64_t attempt, int64_t after) {
    follow *w = calloc(1, sizeof *w);
    if (!w) {
        mull_reply_error(req, 503, "unavailable", "the server is out of memory; try again");
        return;
    }
    *w = (follow){.front = f,
                  .job = mull_req_route(req)->job,
                  .after_attempt = attempt,
                  .after_n = after,
                  .written_ms = uv_now(f->cfg.loop),
                  .again = true,
                  .next = f->followers};
    w->who = *mull_req_who(req);
    if (f->followers) f->followers->prev = w;
    f->followers = w;
    w->stream = mull_reply_stream(req, "text/event-stream", on_idle, on_close, w);
    if (!w->stream) unlink_follow(w);
}

static void on_whole_page(const mull_pg_reply *r, void *arg) {
    page_call *c = arg;
    mull_req *req = c->req;
    free(c);
    if (mull__front_failed(req, r)) return;
    int rows = PQntuples(r->res);
    if (rows == 0) {
        mull_reply_error(req, 404, "not_found", "no job %" PRId64, mull_req_route(req)->job);
        return;
    }
    json_t *lines = json_array();
    for (int i = 0; i < rows && !PQgetisnull(r->res, i, 1); i++)
        json_array_append_new(lines, json_loads(PQgetvalue(r->res, i, 3), 0, NULL));
    mull_reply_json(req, 200, json_pack("{s:s, s:o}", "state", PQgetvalue(r->res, 0, 0), "lines", lines));
}

static void on_checked(const mull_pg_reply *r, void *arg) {
    page_call *c = arg;
    mull_req *req = c->req;
    mull_front *f = c->front;
    free(c);
    if (mull__front_failed(req, r)) return;
    if (PQgetisnull(r->res, 0, 0)) {
        mull_reply_error(req, 404, "not_found", "no job %" PRId64, mull_req_route(req)->job);
        return;
    }
    int64_t attempt = 0, after = 0;
    mull_query_int(mull_req_query(req, "attempt"), 0, INT32_MAX, 0, &attempt);
    mull_query_int(mull_req_query(req, "after"), 0, INT64_MAX, 0, &after);
    start_follow(f, req, attempt, after);
}

void mull__logs(mull_front *f, mull_req *req) {
    int64_t want_follow, attempt, after, limit;
    if (mull_query_int(mull_req_query(req, "follow"), 0, 1, 0, &want_follow) != 0 ||
        mull_query_int(mull_req_query(req, "attempt"), 0, INT32_MAX, 0, &attempt) != 0 ||
        mull_query_int(mull_req_query(req, "after"), 0, INT64_MAX, 0, &after) != 0 ||
        mull_query_int(mull_req_query(req, "limit"), 1, 10000, 10000, &limit) != 0) {
        mull_reply_error(req, 400, "bad_query", "follow is 0 or 1; attempt, after and limit (1 to 10000) are numbers");
        return;
    }
    page_call *c = malloc(sizeof *c);
    if (!c) {
        mull_reply_error(req, 503, "unavailable", "the server is out of memory; try again");
        return;
    }
    *c = (page_call){f, req};
    char job[24], a[24], n[24], l[24];
    snprintf(job, sizeof job, "%" PRId64, mull_req_route(req)->job);
    snprintf(a, sizeof a, "%" PRId64, attempt);
    snprintf(n, sizeof n, "%" PRId64, after);
    snprintf(l, sizeof l, "%" PRId64, limit);
    const char *params[] = {job, mull_req_who(req)->team, a, n, l};
    if (want_follow)
        mull__query(f, mull_req_who(req), "SELECT mull_job_state($1::bigint, $2)", 2, params, on_checked, c);
    else
        mull__query(f, mull_req_who(req), LOGS_SQL, 5, params, on_whole_page, c);
}
