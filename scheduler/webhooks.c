/* Webhooks over HTTP, for the role admin: add, list, remove, try, look at deliveries. Sending is deliver.c's. */
#include "scheduler/front.h"

#include "scheduler/deliver.h"
#include "scheduler/http_out.h"
#include "schema/event_line.h"
#include "schema/states.h"

#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct call {
    mull_req *req;
    char secret[MULL_WEBHOOK_SECRET_CAP];
} call;

static void on_added(const mull_pg_reply *r, void *arg) {
    call c = *(call *)arg;
    OPENSSL_cleanse(arg, sizeof c);
    free(arg);
    if (!mull__front_failed(c.req, r)) {
        if (!PQgetisnull(r->res, 0, 0))
            mull_reply_error(c.req, 400, "bad_webhook", "%s", PQgetvalue(r->res, 0, 0));
        else
            mull_reply_json(c.req, 201, json_pack("{s:s, s:s}", "id", PQgetvalue(r->res, 0, 1), "secret", c.secret));
    }
    OPENSSL_cleanse(c.secret, sizeof c.secret);
}

/* '{RUNNING,FAILED}' from a list of states, NULL after a reply. */
static const char *states_of(mull_req *req, const json_t *list, char *out, size_t cap) {
    size_t n = (size_t)snprintf(out, cap, "{"), i;
    const json_t *v;
    if (list && !json_is_array(list)) {
        mull_reply_error(req, 400, "bad_webhook", "states is a list of states of jobs");
        return NULL;
    }
    json_array_foreach(list, i, v) {
        const char *state = json_string_value(v);
        if (!state || !mull_job_state(state) || i == 16) {
            const char *near = state ? mull_job_state_nearest(state) : NULL;
            mull_reply_error(req, 400, "bad_webhook", "state %.40s is unknown%s%s", state ? state : "(no text)",
                             near ? "; did you mean " : "", near ? near : "");
            return NULL;
        }
        n += (size_t)snprintf(out + n, cap - n, "%s%s", i ? "," : "", state);
    }
    snprintf(out + n, cap - n, "}");
    return out;
}

static const char *text_of(mull_req *req, const json_t *body, const char *key, const char *fallback, size_t max) {
    const json_t *v = json_object_get(body, key);
    if (!v) return fallback;
    const char *text = json_string_value(v);
    if (text && json_string_length(v) == strlen(text) && strlen(text) <= max) return text;
    mull_reply_error(req, 400, "bad_webhook", "%s is a text of at most %zu bytes", key, max);
    return NULL;
}

static void add(mull_front *f, mull_req *req, json_t *body) {
    static const char *const keys[] = {"url", "states", "team", "note"};
    char states[400];
    const char *url, *team, *note, *list, *why;
    if (!mull__known_keys(req, body, keys, 4, "bad_webhook") || !(url = text_of(req, body, "url", "", 2000)) ||
        !(team = text_of(req, body, "team", "", 63)) || !(note = text_of(req, body, "note", "", 200)) ||
        !(list = states_of(req, json_object_get(body, "states"), states, sizeof states)))
        return;
    if ((why = mull_http_out_url_problem(url))) {
        mull_reply_error(req, 400, "bad_webhook", "url cannot be used: %s", why);
        return;
    }
    call *c = calloc(1, sizeof *c);
    if (!c) {
        mull_reply_error(req, 503, "unavailable", "the server is out of memory; try again");
        return;
    }
    c->req = req;
    mull_webhook_secret(c->secret);
    const char *params[] = {team, url, c->secret, list, note, mull_req_who(req)->user};
    mull_pg_query(f->cfg.pg, "SELECT * FROM mull_webhook_add($1, $2, $3, $4, $5, $6)", 6, params, on_added, c);
}

static void start_add(mull_front *f, mull_req *req) {
    json_t *body = mull__body(req);
    if (body) add(f, req, body);
    json_decref(body);
}

static void on_changed(const mull_pg_reply *r, void *arg) {
    mull_call c = *(mull_call *)arg;
    free(arg);
    if (mull__front_failed(c.req, r)) return;
    char id[24];
    snprintf(id, sizeof id, "%lld", (long long)mull_req_route(c.req)->job);
    if (PQgetisnull(r->res, 0, 0))
        mull_reply_error(c.req, 404, "not_found", "there is no webhook %s", id);
    else if (mull_req_route(c.req)->id == MULL_ROUTE_WEBHOOK_RM)
        mull_reply_json(c.req, 200,
                        json_pack("{s:s, s:s, s:b}", "id", id, "url", PQgetvalue(r->res, 0, 0), "removed", 1));
    else
        mull_reply_json(c.req, 202, json_pack("{s:s, s:s}", "id", id, "delivery", PQgetvalue(r->res, 0, 0)));
}

static void change(mull_front *f, mull_req *req, const char *sql) {
    char id[24];
    snprintf(id, sizeof id, "%lld", (long long)mull_req_route(req)->job);
    const char *params[] = {id, mull_req_who(req)->user};
    mull_call *c = mull__call_new(f, req);
    if (c) mull_pg_query(f->cfg.pg, sql, 2, params, on_changed, c);
}

void mull__webhook(mull_front *f, mull_req *req) {
    char id[24];
    mull_page p;
    switch (mull_req_route(req)->id) {
    case MULL_ROUTE_WEBHOOKS:
        mull__answer(f, req, "SELECT mull_webhooks()", 0, NULL);
        break;
    case MULL_ROUTE_WEBHOOK_ADD:
        start_add(f, req);
        break;
    case MULL_ROUTE_WEBHOOK_RM:
        change(f, req, "SELECT mull_webhook_rm($1::bigint, $2)");
        break;
    case MULL_ROUTE_WEBHOOK_TEST:
        change(f, req, "SELECT mull_webhook_test($1::bigint, $2)");
        break;
    case MULL_ROUTE_WEBHOOK_LOG:
        if (!mull__page(req, &p)) break;
        snprintf(id, sizeof id, "%lld", (long long)mull_req_route(req)->job);
        mull__answer(f, req, "SELECT mull_webhook_log($1::bigint, $2::int)", 2, (const char *const[]){id, p.limit});
        break;
    default:
        break;
    }
}
