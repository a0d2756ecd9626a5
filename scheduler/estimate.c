/* Answers to "when?": mull why, mull queue, mull queue --simulate. The policy is run forward over a copy of the queue,
 * in a thread of the pool (forecast.h): of the leader's own, or of one read for the question by a scheduler that
 * follows (view.c). Where that fails, the answer is what the database alone can say. */
#include "scheduler/front.h"

#include "scheduler/forecast.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BUDGET_MS = 1500, AHEAD_SHOWN = 10 };

typedef struct estimate {
    uv_work_t work;
    mull_front *front;
    mull_req *req;
    mull_forecast *f;
    int64_t target;
    int rc;
    json_t *answer; /* is completed and sent */
    mull_forecast_result result;
} estimate;

static json_t *time_json(int64_t ms) {
    char text[40];
    time_t s = (time_t)(ms / 1000);
    struct tm tm;
    gmtime_r(&s, &tm);
    size_t n = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(text + n, sizeof text - n, ".%03dZ", (int)(ms % 1000));
    return json_string(text);
}

static json_t *start_json(const mull_forecast *f, const mull_forecast_start *s) {
    char id[24];
    const mull_policy_job *j = &s->job;
    int32_t team = f->users[j->user].team;
    snprintf(id, sizeof id, "%lld", (long long)j->id);
    return json_pack("{s:s, s:s, s:s, s:i, s:i, s:i, s:o, s:b, s:o}", "id", id, "team", f->team_names[team].name,
                     "user", f->user_names[j->user].name, "priority", (int)j->priority, "gpus", (int)j->gpus, "slots",
                     j->gpus    ? 0
                     : j->slots ? (int)j->slots
                                : 1,
                     "time_limit_s", j->time_limit_ms > 0 ? json_integer(j->time_limit_ms / 1000) : json_null(),
                     "array", j->array, "estimated_start", time_json(s->at_ms));
}

static json_t *list_json(const estimate *e, size_t most) {
    json_t *list = json_array();
    for (size_t i = 0; i < e->result.list_count && i < most; i++)
        json_array_append_new(list, start_json(e->f, &e->result.list[i]));
    return list;
}

/* What the forecast says of one job, over what is known without it. */
static void complete(estimate *e) {
    const mull_forecast_result *r = &e->result;
    json_t *a = e->answer;
    if (e->target == 0) {
        json_object_set_new(a, "next", list_json(e, MULL_FORECAST_LIST));
        return;
    }
    json_object_set_new(a, "order", json_string("fair share"));
    json_object_set_new(a, "ahead_count", json_integer((json_int_t)r->ahead));
    json_object_set_new(a, "ahead", list_json(e, AHEAD_SHOWN));
    json_object_set_new(a, "estimated_start", r->found ? time_json(r->at_ms) : json_null());
    json_object_set_new(a, "not_before", r->cut ? time_json(r->at_ms) : json_null());
    json_object_set_new(a, "assumed", json_integer((json_int_t)r->assumed));
    const char *reason = json_string_value(json_object_get(a, "reason"));
    if (reason && !strcmp(reason, "Priority") && r->ahead > 0) {
        char text[160];
        snprintf(text, sizeof text, "%zu start%s of other jobs come%s before it, by share, priority and room", r->ahead,
                 r->ahead == 1 ? "" : "s", r->ahead == 1 ? "s" : "");
        json_object_set_new(a, "message", json_string(text));
    }
}

static void work(uv_work_t *w) {
    estimate *e = w->data;
    e->rc = mull_forecast_run(e->f, e->target, BUDGET_MS, &e->result);
}

static void done(uv_work_t *w, int status) {
    estimate *e = w->data;
    if (status == 0 && e->rc == 0) complete(e);
    mull_reply_json(e->req, 200, e->answer);
    mull_forecast_free(e->f);
    free(e);
}

/* Takes answer and f; replies, with the forecast when there is memory for it. */
static void send_with_forecast(mull_front *front, mull_req *req, json_t *answer, mull_forecast *f, int64_t target) {
    estimate *e = f ? calloc(1, sizeof *e) : NULL;
    if (!e) {
        mull_forecast_free(f);
        mull_reply_json(req, 200, answer);
        return;
    }
    *e = (estimate){.front = front, .req = req, .f = f, .target = target, .answer = answer};
    e->work.data = e;
    if (uv_queue_work(front->cfg.loop, &e->work, work, done) == 0) return;
    mull_reply_json(req, 200, answer);
    mull_forecast_free(f);
    free(e);
}

/* ---- what the database says first ---- */

typedef struct call {
    mull_front *front;
    mull_req *req;
    json_t *answer; /* so far; of a simulation the item */
    bool why;
} call;

static bool waits_for_others(const json_t *why) {
    static const char *const reasons[] = {"Resources", "Priority",     "Quota", "ArrayLimit",
                                          "BeginTime", "DrainedNodes", ""};
    const char *state = json_string_value(json_object_get(why, "state")),
               *reason = json_string_value(json_object_get(why, "reason"));
    for (size_t i = 0; state && reason && !strcmp(state, "PENDING") && i < sizeof reasons / sizeof *reasons; i++)
        if (!strcmp(reason, reasons[i])) return true;
    return false;
}

static void on_view(mull_leader *source, void *arg) {
    call c = *(call *)arg;
    free(arg);
    mull_forecast *f = source ? mull_leader_snapshot(source) : NULL;
    send_with_forecast(c.front, c.req, c.answer, f, c.why ? mull_req_route(c.req)->job : 0);
}

/* What the database says, into c->answer; false: replied with why not. */
static bool read_answer(call *c, const mull_pg_reply *r) {
    if (mull__front_failed(c->req, r)) return false;
    if (PQntuples(r->res) < 1 || PQgetisnull(r->res, 0, 0)) {
        mull_reply_error(c->req, 404, "not_found", "no job %lld", (long long)mull_req_route(c->req)->job);
        return false;
    }
    c->answer = json_loads(PQgetvalue(r->res, 0, 0), 0, NULL);
    if (!c->answer) mull_reply_error(c->req, 503, "unavailable", "the server is out of memory; try again");
    return c->answer != NULL;
}

static void on_answer(const mull_pg_reply *r, void *arg) {
    call *c = arg;
    if (!read_answer(c, r)) {
        free(c);
        return;
    }
    if (c->why ? waits_for_others(c->answer) : mull_req_query(c->req, "next") != NULL) {
        mull_leader_view(c->front->cfg.leader, on_view, c);
        return;
    }
    mull_reply_json(c->req, 200, c->answer);
    free(c);
}

static void ask(mull_front *f, mull_req *req, bool why, const char *sql, int n, const char *const *params) {
    call *c = malloc(sizeof *c);
    if (!c) {
        mull_reply_error(req, 503, "unavailable", "the server is out of memory; try again");
        return;
    }
    *c = (call){f, req, NULL, why};
    mull_pg_query(f->cfg.pg, sql, n, params, on_answer, c);
}

void mull__why(mull_front *f, mull_req *req, const char *const *params) {
    ask(f, req, true, "SELECT mull_job_why($1::bigint, $2)", 2, params);
}

void mull__queue(mull_front *f, mull_req *req) {
    ask(f, req, false, "SELECT mull_queue()", 0, NULL);
}

/* ---- what if ---- */

static void on_simulated(mull_leader *source, void *arg) {
    call c = *(call *)arg;
    free(arg);
    mull_policy_job j;
    json_t *item = c.answer;
    /* The job first: a user whom the queue did not know is then in the copy. */
    bool known = source && mull_leader_job_of(source, item, INT64_MAX, &j);
    mull_forecast *f = known ? mull_leader_snapshot(source) : NULL;
    if (!f) {
        json_decref(item);
        mull_reply_error(c.req, 503, "unavailable", "this scheduler could not read the queue; try again");
        return;
    }
    const char *depends = json_string_value(json_object_get(item, "depends"));
    json_t *answer = json_pack("{s:b}", "simulated", 1);
    if ((depends && *depends) || json_is_true(json_object_get(item, "hold")))
        json_object_set_new(answer, "note", json_string("as if it were released and what it comes after had ended"));
    json_decref(item);
    f->jobs[f->job_count++] = j;
    send_with_forecast(c.front, c.req, answer, f, j.id);
}

static void on_item(mull_front *front, mull_req *req, const json_t *item) {
    call *c = malloc(sizeof *c);
    if (!c) {
        mull_reply_error(req, 503, "unavailable", "the server is out of memory; try again");
        return;
    }
    *c = (call){front, req, json_incref((json_t *)item), false};
    mull_leader_view(front->cfg.leader, on_simulated, c);
}

void mull__simulate(mull_front *f, mull_req *req) {
    mull__spec_of(f, req, on_item);
}
