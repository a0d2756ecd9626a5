/* What only admins may: quotas of teams, draining of nodes. One statement each, with its line in the audit; then the
 * leader is told to look again (it does so by itself within seconds). */
#include "scheduler/front.h"

#include "schema/event_line.h"
#include "schema/jobspec.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct call {
    mull_front *front;
    mull_req *req;
} call;

static call *call_new(mull_front *f, mull_req *req) {
    call *c = malloc(sizeof *c);
    if (c)
        *c = (call){f, req};
    else
        mull_reply_error(req, 503, "unavailable", "the server is out of memory; try again");
    return c;
}

/* ---- teams ---- */

static bool number_within(const json_t *v, double low, double high) {
    double x = json_number_value(v);
    return json_is_null(v) || (json_is_number(v) && isfinite(x) && x >= low && x <= high);
}

/* Replies and returns false when a member is wrong. */
static bool check_members(mull_req *req, json_t *set) {
    static const char *const keys[] = {"weight", "nominal", "borrow", "lend", "parent"};
    const char *key;
    json_t *v;
    json_object_foreach(set, key, v) {
        size_t k = 0;
        while (k < 5 && strcmp(key, keys[k]) != 0) k++;
        if (k == 5) {
            const char *near = mull_nearest(key, keys, 5);
            mull_reply_error(req, 400, "bad_team", "unknown key %.60s%s%s", key, near ? "; did you mean " : "",
                             near ? near : "");
            return false;
        }
        if (k == 0 && !number_within(v, 0.001, 1e6)) {
            mull_reply_error(req, 400, "bad_team", "weight is a number from 0.001 to 1e6");
            return false;
        }
        if (k >= 1 && k <= 3 && !(number_within(v, 0, 1e6) && (json_is_null(v) || json_is_integer(v)))) {
            mull_reply_error(req, 400, "bad_team", "%s is a whole number from 0 to 1000000, or null", key);
            return false;
        }
        if (k == 4 && !json_is_null(v) &&
            (!json_is_string(v) || json_string_length(v) < 1 || json_string_length(v) > 63)) {
            mull_reply_error(req, 400, "bad_team", "parent is the name of a team, or null");
            return false;
        }
    }
    return true;
}

static void on_team(const mull_pg_reply *r, void *arg) {
    call c = *(call *)arg;
    free(arg);
    if (mull__front_failed(c.req, r)) return;
    if (!PQgetisnull(r->res, 0, 0)) {
        mull_reply_error(c.req, 400, "bad_team", "%s", PQgetvalue(r->res, 0, 0));
        return;
    }
    mull__poke(c.front, "team", 0);
    mull_reply_json(
        c.req, 200,
        json_pack("{s:s, s:b}", "name", mull_req_route(c.req)->name, "created", PQgetvalue(r->res, 0, 1)[0] == 't'));
}

void mull__team_set(mull_front *f, mull_req *req) {
    const char *name = mull_req_route(req)->name;
    size_t len;
    const char *body = mull_req_body(req, &len);
    int status;
    char why[256];
    if (strlen(name) > 63 || mull_utf8_check(name) != 0) {
        mull_reply_error(req, 400, "bad_team", "the name of a team is a text of 1 to 63 bytes");
        return;
    }
    json_t *set = mull_body_parse(body, len, &status, why, sizeof why);
    if (!set) {
        mull_reply_error(req, status, status == 413 ? "too_large" : "bad_json", "%s", why);
        return;
    }
    char *text = check_members(req, set) ? json_dumps(set, JSON_COMPACT) : NULL;
    json_decref(set);
    if (!text) return;
    const char *params[] = {name, text, mull_req_who(req)->user};
    call *c = call_new(f, req);
    if (c) mull_pg_query(f->cfg.pg, "SELECT * FROM mull_team_set($1, $2::jsonb, $3)", 3, params, on_team, c);
    free(text);
}

/* ---- nodes ---- */

static void on_node(const mull_pg_reply *r, void *arg) {
    call c = *(call *)arg;
    free(arg);
    if (mull__front_failed(c.req, r)) return;
    const char *name = mull_req_route(c.req)->name;
    if (PQntuples(r->res) < 1 || PQgetisnull(r->res, 0, 0)) {
        mull_reply_error(c.req, 404, "not_found", "no node %s", name);
        return;
    }
    mull__poke(c.front, "team", 0);
    mull_reply_json(c.req, 200, json_pack("{s:s, s:s}", "name", name, "state", PQgetvalue(r->res, 0, 0)));
}

void mull__node_action(mull_front *f, mull_req *req) {
    const mull_route *r = mull_req_route(req);
    if (mull_utf8_check(r->name) != 0) {
        mull_reply_error(req, 404, "not_found", "no such node");
        return;
    }
    const char *params[] = {r->name, r->id == MULL_ROUTE_NODE_DRAIN ? "drain" : "resume", mull_req_who(req)->user};
    call *c = call_new(f, req);
    if (c) mull_pg_query(f->cfg.pg, "SELECT mull_node_action($1, $2, $3)", 3, params, on_node, c);
}
