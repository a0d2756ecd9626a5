/* Schedules over HTTP. A schedule keeps the checked spec, as a submit of this moment would have recorded it; the leader
 * submits it when its time has come (timetable.c). */
#include "scheduler/front.h"

#include "schema/cron.h"
#include "schema/event_line.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool name_ok(mull_req *req) {
    const char *name = mull_req_route(req)->name;
    size_t n = strlen(name);
    if (n > 0 && n < 64 && strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") == n)
        return true;
    mull_reply_error(req, 400, "bad_cron", "the name of a schedule has 1 to 63 letters, digits, '.', '-' and '_'");
    return false;
}

/* ---- making one ---- */

static void on_set(const mull_pg_reply *r, void *arg) {
    mull_call c = *(mull_call *)arg;
    free(arg);
    if (mull__front_failed(c.req, r)) return;
    if (!PQgetisnull(r->res, 0, 0)) {
        mull_reply_error(c.req, 400, "bad_cron", "%s", PQgetvalue(r->res, 0, 0));
        return;
    }
    mull_reply_json(c.req, 200,
                    json_pack("{s:s, s:b, s:s}", "name", mull_req_route(c.req)->name, "created",
                              PQgetvalue(r->res, 0, 1)[0] == 't', "next_at", PQgetvalue(r->res, 0, 2)));
}

static void on_item(mull_front *f, mull_req *req, const json_t *item) {
    char why[256] = "schedule is missing";
    json_t *body = mull__body(req); /* once more: it was read whole for its spec */
    if (!body) return;
    const char *schedule = json_string_value(json_object_get(body, "schedule"));
    const json_t *zone = json_object_get(body, "tz");
    const char *tz = zone && !json_is_null(zone) ? json_string_value(zone) : "UTC";
    json_t *fields = schedule ? mull_cron_parse(schedule, why, sizeof why) : NULL;
    char *fields_text = fields ? json_dumps(fields, JSON_COMPACT) : NULL, *item_text = json_dumps(item, JSON_COMPACT);
    if (!fields) {
        mull_reply_error(req, 400, "bad_cron", "%s", why);
    } else if (!tz || strlen(tz) > 100) {
        mull_reply_error(req, 400, "bad_cron", "tz is the name of a time zone, such as UTC or Europe/Berlin");
    } else if (fields_text && item_text) {
        const char *params[] = {json_string_value(json_object_get(item, "team")),
                                mull_req_route(req)->name,
                                mull_req_who(req)->user,
                                schedule,
                                tz,
                                fields_text,
                                item_text,
                                json_is_true(json_object_get(body, "no_overlap")) ? "t" : "f"};
        mull_call *c = mull__call_new(f, req);
        if (c)
            mull__query(f, mull_req_who(req),
                        "SELECT * FROM mull_cron_set($1, $2, $3, $4, $5, $6::jsonb, $7::jsonb, $8::boolean)", 8, params,
                        on_set, c);
    } else {
        mull_reply_error(req, 503, "unavailable", "the server is out of memory; try again");
    }
    free(fields_text);
    free(item_text);
    json_decref(fields);
    json_decref(body);
}

void mull__cron_set(mull_front *f, mull_req *req) {
    if (!name_ok(req)) return;
    json_t *body = mull__body(req); /* once more: it was read whole for its spec */
    if (!body) return;
    bool has_spec = json_object_get(body, "spec") || json_object_get(body, "spec_text");
    json_decref(body);
    if (has_spec)
        mull__spec_of(f, req, on_item);
    else
        mull_reply_error(req, 400, "bad_cron", "spec is missing: the job that the schedule submits");
}

/* ---- removing one ---- */

static void on_rm(const mull_pg_reply *r, void *arg) {
    mull_call c = *(mull_call *)arg;
    free(arg);
    if (mull__front_failed(c.req, r)) return;
    const char *name = mull_req_route(c.req)->name;
    if (PQgetvalue(r->res, 0, 0)[0] == 't')
        mull_reply_json(c.req, 200, json_pack("{s:s, s:b}", "name", name, "removed", 1));
    else
        mull_reply_error(c.req, 404, "not_found", "no schedule %s of this team", name);
}

void mull__cron_rm(mull_front *f, mull_req *req) {
    const mull_identity *who = mull_req_who(req);
    const char *team = mull_req_query(req, "team");
    if (!name_ok(req)) return;
    if (who->team[0] && team && *team && strcmp(team, who->team) != 0) {
        mull_reply_error(req, 403, "forbidden", "this token is for team %s", who->team);
        return;
    }
    const char *params[] = {who->team[0]    ? who->team
                            : team && *team ? team
                                            : "default",
                            mull_req_route(req)->name, who->user};
    if (mull_utf8_check(params[0]) != 0) {
        mull_reply_error(req, 400, "bad_query", "team is no valid text");
        return;
    }
    mull_call *c = mull__call_new(f, req);
    if (c) mull__query(f, mull_req_who(req), "SELECT mull_cron_rm($1, $2, $3)", 3, params, on_rm, c);
}
