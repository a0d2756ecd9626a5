/* Runs and checkpoints over HTTP. A checkpoint's files lie where its job wrote them, perhaps nowhere this server can
 * see: removing one here says that the files may go and refuses when something still needs them; whoever asked, on a
 * machine that has the files, takes them away. */
#include "scheduler/front.h"

#include "schema/jobspec.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct call {
    mull_req *req;
    const char *missing; /* format of the 404, with the id */
} call;

static void ask(mull_front *f, mull_req *req, const char *missing, const char *sql, int n, const char *const *params,
                mull_pg_cb cb) {
    call *c = malloc(sizeof *c);
    if (!c) {
        mull_reply_error(req, 503, "unavailable", "the server is out of memory; try again");
        return;
    }
    *c = (call){req, missing};
    mull__query(f, mull_req_who(req), sql, n, params, cb, c);
}

static void not_found(const call *c) {
    mull_reply_error(c->req, 404, "not_found", "no %s %" PRId64, c->missing, mull_req_route(c->req)->job);
}

static void on_json(const mull_pg_reply *r, void *arg) {
    call c = *(call *)arg;
    free(arg);
    if (mull__front_failed(c.req, r)) return;
    if (PQntuples(r->res) < 1 || PQgetisnull(r->res, 0, 0)) {
        not_found(&c);
        return;
    }
    size_t len = (size_t)PQgetlength(r->res, 0, 0);
    char *body = malloc(len + 1);
    if (!body) {
        mull_reply_error(c.req, 503, "unavailable", "the server is out of memory; try again");
        return;
    }
    memcpy(body, PQgetvalue(r->res, 0, 0), len + 1);
    mull_reply(c.req, 200, "application/json", body, len);
}

/* The team to look at: the token's own, else the one asked for. NULL after a reply. */
static const char *team_of(mull_req *req) {
    const char *team = mull_req_query(req, "team");
    const mull_identity *who = mull_req_who(req);
    if (who->team[0] && team && *team && strcmp(team, who->team) != 0) {
        mull_reply_error(req, 403, "forbidden", "this token is for team %s", who->team);
        return NULL;
    }
    return who->team[0] ? who->team : team ? team : "";
}

static const char *query_text(mull_req *req, const char *key) {
    const char *text = mull_req_query(req, key);
    return text ? text : "";
}

static bool known_word(mull_req *req, const char *key, const char *text, const char *const *words, size_t n) {
    size_t i = 0;
    while (*text && i < n && strcmp(text, words[i]) != 0) i++;
    if (!*text || i < n) return true;
    const char *near = mull_nearest(text, words, n);
    mull_reply_error(req, 400, "bad_query", "%s %.40s is unknown%s%s", key, text, near ? "; did you mean " : "",
                     near ? near : "");
    return false;
}

void mull__runs(mull_front *f, mull_req *req) {
    static const char *const kinds[] = {"train", "rollout", "eval", "annotate", "generate"};
    const char *kind = query_text(req, "kind"), *team = team_of(req);
    mull_page p;
    if (!team || !known_word(req, "kind", kind, kinds, 5) || !mull__page(req, &p)) return;
    const char *params[] = {team, kind, query_text(req, "name"), p.cursor, p.limit};
    ask(f, req, "run", "SELECT mull_runs($1, $2, $3, $4::bigint, $5::int)", 5, params, on_json);
}

void mull__run(mull_front *f, mull_req *req) {
    char id[24];
    snprintf(id, sizeof id, "%" PRId64, mull_req_route(req)->job);
    const char *params[] = {id, mull_req_who(req)->team};
    ask(f, req, "run of job", "SELECT mull_run_show($1::bigint, $2)", 2, params, on_json);
}

void mull__checkpoints(mull_front *f, mull_req *req) {
    static const char *const states[] = {"PUBLISHED", "REMOVED"};
    const char *state = query_text(req, "state"), *team = team_of(req);
    int64_t job;
    mull_page p;
    if (!team || !known_word(req, "state", state, states, 2) || !mull__page(req, &p)) return;
    if (mull_query_int(mull_req_query(req, "job"), 1, INT64_MAX, 0, &job) != 0) {
        mull_reply_error(req, 400, "bad_query", "job is the id of a job");
        return;
    }
    char j[24];
    snprintf(j, sizeof j, "%" PRId64, job);
    const char *params[] = {team, j, state, p.cursor, p.limit};
    ask(f, req, "checkpoint", "SELECT mull_checkpoints($1, $2::bigint, $3, $4::bigint, $5::int)", 5, params, on_json);
}

void mull__checkpoint(mull_front *f, mull_req *req) {
    char id[24];
    snprintf(id, sizeof id, "%" PRId64, mull_req_route(req)->job);
    const char *params[] = {id, mull_req_who(req)->team};
    ask(f, req, "checkpoint", "SELECT mull_checkpoint_show($1::bigint, $2)", 2, params, on_json);
}

static void on_action(const mull_pg_reply *r, void *arg) {
    call c = *(call *)arg;
    free(arg);
    if (mull__front_failed(c.req, r)) return;
    int64_t id = mull_req_route(c.req)->job;
    char text[24];
    snprintf(text, sizeof text, "%" PRId64, id);
    if (PQgetvalue(r->res, 0, 0)[0] != 't')
        not_found(&c);
    else if (PQgetvalue(r->res, 0, 1)[0] != 't')
        mull_reply_error(c.req, 409, "conflict", "checkpoint %s stays: %s", text, PQgetvalue(r->res, 0, 4));
    else
        mull_reply_json(c.req, 200,
                        json_pack("{s:s, s:s, s:s, s:s}", "id", text, "state", PQgetvalue(r->res, 0, 2), "path",
                                  PQgetvalue(r->res, 0, 3), "message", PQgetvalue(r->res, 0, 4)));
}

void mull__checkpoint_action(mull_front *f, mull_req *req) {
    const mull_route *r = mull_req_route(req);
    const mull_identity *who = mull_req_who(req);
    int64_t force;
    if (mull_query_int(mull_req_query(req, "force"), 0, 1, 0, &force) != 0) {
        mull_reply_error(req, 400, "bad_query", "force is 0 or 1");
        return;
    }
    char id[24];
    snprintf(id, sizeof id, "%" PRId64, r->job);
    const char *op = r->id == MULL_ROUTE_CKPT_REMOVE ? "remove" : r->id == MULL_ROUTE_CKPT_PIN ? "pin" : "unpin";
    const char *params[] = {id, op, who->team, who->user, force ? "t" : "f"};
    ask(f, req, "checkpoint", "SELECT * FROM mull_checkpoint_action($1::bigint, $2, $3, $4, $5::boolean)", 5, params,
        on_action);
}
