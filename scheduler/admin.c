/* What only admins may: quotas of teams, draining and labels of nodes, maintenance windows. One statement each, with
 * its line in the audit; then the leader is told to look again (it does so by itself within seconds). */
#include "scheduler/front.h"

#include "schema/event_line.h"
#include "schema/jobspec.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- teams ---- */

static bool number_within(const json_t *v, double low, double high) {
    double x = json_number_value(v);
    return json_is_null(v) || (json_is_number(v) && isfinite(x) && x >= low && x <= high);
}

/* Replies and returns false when a member is wrong. */
static bool check_members(mull_req *req, json_t *set) {
    static const char *const keys[] = {"weight",         "nominal",       "borrow",
                                       "lend",           "parent",        "max_pending",
                                       "max_spec_bytes", "max_log_bytes", "max_stored_bytes"};
    enum { KEYS = sizeof keys / sizeof *keys };
    const char *key;
    json_t *v;
    json_object_foreach(set, key, v) {
        size_t k = 0;
        while (k < KEYS && strcmp(key, keys[k]) != 0) k++;
        if (k == KEYS) {
            const char *near = mull_nearest(key, keys, KEYS);
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
        if (k > 4 && !(number_within(v, 0, 9007199254740992.0) && (json_is_null(v) || json_is_integer(v)))) {
            mull_reply_error(req, 400, "bad_team", "%s is a whole number from 0 to 2^53, or null", key);
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
    mull_call c = *(mull_call *)arg;
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
    if (strlen(name) > 63 || mull_utf8_check(name) != 0) {
        mull_reply_error(req, 400, "bad_team", "the name of a team is a text of 1 to 63 bytes");
        return;
    }
    json_t *set = mull__body(req);
    if (!set) return;
    char *text = check_members(req, set) ? json_dumps(set, JSON_COMPACT) : NULL;
    json_decref(set);
    if (!text) return;
    const char *params[] = {name, text, mull_req_who(req)->user};
    mull_call *c = mull__call_new(f, req);
    if (c) mull_pg_query(f->cfg.pg, "SELECT * FROM mull_team_set($1, $2::jsonb, $3)", 3, params, on_team, c);
    free(text);
}

/* ---- nodes ---- */

static void on_node(const mull_pg_reply *r, void *arg) {
    mull_call c = *(mull_call *)arg;
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
    mull_call *c = mull__call_new(f, req);
    if (c) mull_pg_query(f->cfg.pg, "SELECT mull_node_action($1, $2, $3)", 3, params, on_node, c);
}

/* ---- labels and maintenance windows ---- */

/* "{\"a\",\"b\"}" of a list of texts (absent: empty), each of which ok accepts; NULL after a reply. The caller frees.
 */
static char *text_array(mull_req *req, const json_t *body, const char *key, bool (*ok)(const char *)) {
    const json_t *list = json_object_get(body, key), *v;
    size_t i, n = 0;
    enum { MOST = 1000 };
    if (list && !json_is_null(list) && (!json_is_array(list) || json_array_size(list) > MOST)) {
        mull_reply_error(req, 400, "bad_body", "%s is a list of at most %d texts", key, MOST);
        return NULL;
    }
    char *out = malloc(json_array_size(list) * 264 + 3);
    if (!out) {
        mull_reply_error(req, 503, "unavailable", "the server is out of memory; try again");
        return NULL;
    }
    out[n++] = '{';
    json_array_foreach(list, i, v) {
        const char *word = json_string_value(v);
        /* The words are plain: no quote, backslash or brace that an array of PostgreSQL would read otherwise. */
        if (!word || strlen(word) > 256 || !ok(word)) {
            mull_reply_error(req, 400, "bad_body", "%s: '%.100s' is not possible; letters, digits, '.', '-', '_'%s",
                             key, word ? word : "?", ok == mull_label_ok ? ", '/', blanks, one '='" : "");
            free(out);
            return NULL;
        }
        n += (size_t)sprintf(out + n, "%s\"%s\"", i ? "," : "", word);
    }
    strcpy(out + n, "}");
    return out;
}

static bool node_name_ok(const char *s) {
    size_t n = strlen(s);
    return n > 0 && n < 128 && strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") == n;
}

/* The body as an object with no other keys than these (NULL ends). NULL after a reply. */
static json_t *read_body(mull_req *req, const char *const *keys) {
    size_t n = 0;
    json_t *json = mull__body(req);
    while (keys[n]) n++;
    if (json && !mull__known_keys(req, json, keys, n, "bad_body")) {
        json_decref(json);
        json = NULL;
    }
    return json;
}

static void on_labels(const mull_pg_reply *r, void *arg) {
    mull_call c = *(mull_call *)arg;
    free(arg);
    if (mull__front_failed(c.req, r)) return;
    if (PQntuples(r->res) < 1 || PQgetisnull(r->res, 0, 0)) {
        mull_reply_error(c.req, 404, "not_found", "no node %s", mull_req_route(c.req)->name);
        return;
    }
    mull__poke(c.front, "team", 0);
    mull_reply_json(c.req, 200, json_loads(PQgetvalue(r->res, 0, 0), 0, NULL));
}

void mull__node_labels(mull_front *f, mull_req *req) {
    static const char *const keys[] = {"set", "unset", NULL};
    const char *name = mull_req_route(req)->name;
    if (!node_name_ok(name)) {
        mull_reply_error(req, 404, "not_found", "no such node");
        return;
    }
    json_t *body = read_body(req, keys);
    if (!body) return;
    char *set = text_array(req, body, "set", mull_label_ok);
    char *unset = set ? text_array(req, body, "unset", mull_label_ok) : NULL;
    json_decref(body);
    if (unset) {
        const char *params[] = {name, set, unset, mull_req_who(req)->user};
        mull_call *c = mull__call_new(f, req);
        if (c)
            mull_pg_query(f->cfg.pg, "SELECT mull_node_label($1, $2::text[], $3::text[], $4)", 4, params, on_labels, c);
    }
    free(set);
    free(unset);
}

static void on_window(const mull_pg_reply *r, void *arg) {
    mull_call c = *(mull_call *)arg;
    free(arg);
    if (mull__front_failed(c.req, r)) return;
    if (!PQgetisnull(r->res, 0, 0)) {
        mull_reply_error(c.req, 400, "bad_maintenance", "%s", PQgetvalue(r->res, 0, 0));
        return;
    }
    mull__poke(c.front, "team", 0);
    mull_reply_json(c.req, 200, json_pack("{s:s}", "id", PQgetvalue(r->res, 0, 1)));
}

void mull__maintenance_add(mull_front *f, mull_req *req) {
    static const char *const keys[] = {"nodes", "starts", "ends", "reason", NULL};
    json_t *body = read_body(req, keys);
    if (!body) return;
    const char *starts = json_string_value(json_object_get(body, "starts"));
    const char *ends = json_string_value(json_object_get(body, "ends"));
    const json_t *given = json_object_get(body, "reason");
    const char *reason = given && !json_is_null(given) ? json_string_value(given) : "";
    int64_t from = 0, to = 0, now = mull__unix_ms();
    char *nodes = NULL;
    if (!starts || !ends || mull_time_parse(starts, now, &from) || mull_time_parse(ends, now, &to) || to <= from ||
        to <= now)
        mull_reply_error(req, 400, "bad_maintenance",
                         "starts and ends are times such as 2026-01-31T08:00:00Z or now+2h; the end is the later one, "
                         "and to come");
    else if (!reason || strlen(reason) > 500 || mull_utf8_check(reason) != 0)
        mull_reply_error(req, 400, "bad_maintenance", "reason is a text of at most 500 bytes");
    else
        nodes = text_array(req, body, "nodes", node_name_ok);
    mull_call *c = nodes ? mull__call_new(f, req) : NULL;
    if (c) {
        char a[24], b[24];
        snprintf(a, sizeof a, "%lld", (long long)from);
        snprintf(b, sizeof b, "%lld", (long long)to);
        const char *params[] = {nodes, a, b, reason, mull_req_who(req)->user};
        mull_pg_query(f->cfg.pg, "SELECT * FROM mull_maintenance_add($1::text[], $2::bigint, $3::bigint, $4, $5)", 5,
                      params, on_window, c);
    }
    free(nodes);
    json_decref(body);
}

static void on_window_gone(const mull_pg_reply *r, void *arg) {
    mull_call c = *(mull_call *)arg;
    free(arg);
    if (mull__front_failed(c.req, r)) return;
    if (PQgetvalue(r->res, 0, 0)[0] != 't') {
        mull_reply_error(c.req, 404, "not_found", "no maintenance window %lld", (long long)mull_req_route(c.req)->job);
        return;
    }
    mull__poke(c.front, "team", 0);
    mull_reply_json(c.req, 200, json_pack("{s:b}", "removed", 1));
}

void mull__maintenance_rm(mull_front *f, mull_req *req) {
    char id[24];
    snprintf(id, sizeof id, "%lld", (long long)mull_req_route(req)->job);
    const char *params[] = {id, mull_req_who(req)->user};
    mull_call *c = mull__call_new(f, req);
    if (c) mull_pg_query(f->cfg.pg, "SELECT mull_maintenance_rm($1::bigint, $2)", 2, params, on_window_gone, c);
}
