/* Routing of requests to their statements; see front.h. */
#include "scheduler/files.h"

#include "schema/keys.h"
#include "schema/log.h"
#include "schema/states.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FOLLOW_POLL_MS = 500, REFUSALS_RATE = 2, REFUSALS_BURST = 200 };

bool mull__front_failed(mull_req *req, const mull_pg_reply *r) {
    if (r->status == MULL_PG_OK) return false;
    if (r->status == MULL_PG_LOST) {
        mull_reply_error(req, 503, "unavailable",
                         "the database does not answer (%s); nothing was changed unless it was already on its way; try "
                         "again shortly",
                         r->message);
    } else if (strcmp(r->sqlstate, "ML003") != 0 || !mull__refuse_quota(req, r->message)) {
        mull_log(MULL_LOG_ERROR, "a request failed in the database: %s (%s)", r->message, r->sqlstate);
        mull_reply_error(req, 500, "internal", "the database refused this: %s", r->message);
    }
    return true;
}

void mull__poke(mull_front *f, const char *op, int64_t job) {
    char m[96];
    snprintf(m, sizeof m, "{\"op\":\"%s\",\"job\":\"%" PRId64 "\"}", op, job);
    const char *argv[] = {"XADD", MULL_KEY_READY, "MAXLEN", "~", "100000", "*", "m", m};
    mull_redis_command(f->cfg.redis, 8, argv, NULL, NULL, NULL);
}

/* ---- the database's JSON as it is ---- */

static void on_json(const mull_pg_reply *r, void *arg) {
    mull_call *c = arg;
    mull_req *req = c->req;
    free(c);
    if (mull__front_failed(req, r)) return;
    if (PQntuples(r->res) < 1 || PQgetisnull(r->res, 0, 0)) {
        const mull_route *route = mull_req_route(req);
        if (route->name[0])
            mull_reply_error(req, 404, "not_found", "there is no %s", route->name);
        else
            mull_reply_error(req, 404, "not_found", "no job %" PRId64, route->job);
        return;
    }
    size_t len = (size_t)PQgetlength(r->res, 0, 0);
    char *body = malloc(len + 1);
    if (!body) {
        mull_reply_error(req, 503, "unavailable", "the server is out of memory; try again");
        return;
    }
    memcpy(body, PQgetvalue(r->res, 0, 0), len);
    body[len] = '\0';
    mull_reply(req, 200, "application/json", body, len);
}

void mull__query(mull_front *f, const mull_identity *who, const char *sql, int n, const char *const *params,
                 mull_pg_cb cb, void *arg) {
    if (who->team[0])
        mull_pg_query_as(f->cfg.teams_pg, who->team, who->user, sql, n, params, cb, arg);
    else
        mull_pg_query(f->cfg.pg, sql, n, params, cb, arg);
}

void mull__answer(mull_front *f, mull_req *req, const char *sql, int n, const char *const *params) {
    mull_call *c = mull__call_new(f, req);
    if (c) mull__query(f, mull_req_who(req), sql, n, params, on_json, c);
}

void mull__answer_all(mull_front *f, mull_req *req, const char *sql, int n, const char *const *params) {
    mull_call *c = mull__call_new(f, req);
    if (c) mull_pg_query(f->cfg.pg, sql, n, params, on_json, c);
}

static void list_jobs(mull_front *f, mull_req *req) {
    const char *state = mull_req_query(req, "state"), *team = mull_req_query(req, "team");
    const mull_identity *who = mull_req_who(req);
    int64_t cursor, limit, array;
    if (mull_query_int(mull_req_query(req, "array"), 1, INT64_MAX, 0, &array) != 0 ||
        mull_query_int(mull_req_query(req, "cursor"), 0, INT64_MAX, 0, &cursor) != 0 ||
        mull_query_int(mull_req_query(req, "limit"), 1, MULL_HTTP_MAX_PAGE, 100, &limit) != 0) {
        mull_reply_error(req, 400, "bad_query", "array, cursor and limit are numbers, limit from 1 to %d",
                         MULL_HTTP_MAX_PAGE);
        return;
    }
    if (state && *state && !mull_job_state(state)) {
        const char *near = mull_job_state_nearest(state);
        mull_reply_error(req, 400, "bad_query", "state %.40s is unknown%s%s", state, near ? "; did you mean " : "",
                         near ? near : "");
        return;
    }
    if (who->team[0] && team && *team && strcmp(team, who->team) != 0) {
        mull_reply_error(req, 403, "forbidden", "this token is for team %s", who->team);
        return;
    }
    char a[24], c[24], l[24];
    snprintf(a, sizeof a, "%" PRId64, array);
    snprintf(c, sizeof c, "%" PRId64, cursor);
    snprintf(l, sizeof l, "%" PRId64, limit);
    const char *params[] = {state ? state : "", who->team[0] ? who->team : team ? team : "", a, c, l};
    mull__answer(f, req, "SELECT mull_job_list($1, $2, $3::bigint, $4::bigint, $5::int)", 5, params);
}

static void usage(mull_front *f, mull_req *req) {
    int64_t days;
    char d[24];
    if (mull_query_int(mull_req_query(req, "days"), 1, 3650, 30, &days) != 0) {
        mull_reply_error(req, 400, "bad_query", "days is a number from 1 to 3650");
        return;
    }
    snprintf(d, sizeof d, "%" PRId64, days);
    const char *params[] = {mull_req_who(req)->team, d};
    mull__answer(f, req, "SELECT mull_usage($1, $2::int)", 2, params);
}

static void job_metrics(mull_front *f, mull_req *req, const char *id) {
    const char *key = mull_req_query(req, "key");
    int64_t after, limit;
    if (mull_query_int(mull_req_query(req, "after"), 0, INT64_MAX, 0, &after) != 0 ||
        mull_query_int(mull_req_query(req, "limit"), 1, 100000, 10000, &limit) != 0) {
        mull_reply_error(req, 400, "bad_query", "after and limit are numbers, limit from 1 to 100000");
        return;
    }
    char a[24], l[24];
    snprintf(a, sizeof a, "%" PRId64, after);
    snprintf(l, sizeof l, "%" PRId64, limit);
    const char *params[] = {id, mull_req_who(req)->team, key ? key : "", a, l};
    mull__answer(f, req, "SELECT mull_job_metrics($1::bigint, $2, $3, $4::bigint, $5::int)", 5, params);
}

static void job_samples(mull_front *f, mull_req *req, const char *id) {
    const char *task = mull_req_query(req, "task");
    int64_t after, limit;
    if (mull_query_int(mull_req_query(req, "after"), 0, INT64_MAX, -1, &after) != 0 ||
        mull_query_int(mull_req_query(req, "limit"), 1, 10000, 1000, &limit) != 0) {
        mull_reply_error(req, 400, "bad_query", "after and limit are numbers, limit from 1 to 10000");
        return;
    }
    char a[24], l[24];
    snprintf(a, sizeof a, "%" PRId64, after);
    snprintf(l, sizeof l, "%" PRId64, limit);
    const char *params[] = {id, mull_req_who(req)->team, task ? task : "", a, l};
    mull__answer(f, req, "SELECT mull_job_samples($1::bigint, $2, $3, $4::bigint, $5::int)", 5, params);
}

/* ---- cancel, hold, release, requeue ---- */

static const char *op_of(int route) {
    switch (route) {
    case MULL_ROUTE_CANCEL:
        return "cancel";
    case MULL_ROUTE_HOLD:
        return "hold";
    case MULL_ROUTE_RELEASE:
        return "release";
    default:
        return "requeue";
    }
}

static void on_action(const mull_pg_reply *r, void *arg) {
    mull_call *c = arg;
    mull_req *req = c->req;
    mull_front *f = c->front;
    free(c);
    if (mull__front_failed(req, r)) return;
    int64_t job = mull_req_route(req)->job;
    if (PQgetvalue(r->res, 0, 0)[0] != 't' && mull_req_route(req)->task >= 0) {
        mull_reply_error(req, 404, "not_found", "no task %d of job %" PRId64, (int)mull_req_route(req)->task, job);
        return;
    }
    if (PQgetvalue(r->res, 0, 0)[0] != 't') {
        mull_reply_error(req, 404, "not_found", "no job %" PRId64, job);
        return;
    }
    const char *message = PQgetvalue(r->res, 0, 3);
    if (PQgetvalue(r->res, 0, 1)[0] != 't') {
        mull_reply_error(req, 409, "conflict", "job %" PRId64 " is %s: %s", job, PQgetvalue(r->res, 0, 2), message);
        return;
    }
    mull__poke(f, op_of(mull_req_route(req)->id), job);
    char id[24];
    snprintf(id, sizeof id, "%" PRId64, job);
    mull_reply_json(req, 200,
                    json_pack("{s:s, s:s, s:s}", "id", id, "state", PQgetvalue(r->res, 0, 2), "message", message));
}

static void action(mull_front *f, mull_req *req, const char *id) {
    const mull_identity *who = mull_req_who(req);
    const mull_route *r = mull_req_route(req);
    char index[16];
    snprintf(index, sizeof index, "%d", (int)r->task);
    const char *params[] = {id, op_of(r->id), who->user, who->team, index};
    mull_call *c = mull__call_new(f, req);
    if (c && r->task >= 0)
        mull__query(f, who, "SELECT * FROM mull_task_action($1::bigint, $5::int, $2, $3, $4)", 5, params, on_action, c);
    else if (c)
        mull__query(f, who, "SELECT * FROM mull_job_action($1::bigint, $2, $3, $4)", 4, params, on_action, c);
}

/* ---- tasks of an array ---- */

static void route(mull_front *f, mull_req *req);

static void on_task(const mull_pg_reply *r, void *arg) {
    mull_call c = *(mull_call *)arg;
    free(arg);
    if (mull__front_failed(c.req, r)) return;
    if (PQgetisnull(r->res, 0, 0)) {
        const mull_route *asked = mull_req_route(c.req);
        mull_reply_error(c.req, 404, "not_found",
                         "job %" PRId64 " has no task %d, or it has not begun; see job %" PRId64, asked->job,
                         (int)asked->task, asked->job);
        return;
    }
    mull_req_set_job(c.req, strtoll(PQgetvalue(r->res, 0, 0), NULL, 10));
    route(c.front, c.req);
}

static void find_task(mull_front *f, mull_req *req) {
    const mull_route *r = mull_req_route(req);
    char id[24], index[16];
    snprintf(id, sizeof id, "%" PRId64, r->job);
    snprintf(index, sizeof index, "%d", (int)r->task);
    const char *params[] = {id, index, mull_req_who(req)->team};
    mull_call *c = mull__call_new(f, req);
    if (c) mull__query(f, mull_req_who(req), "SELECT mull_task_id($1::bigint, $2::int, $3)", 3, params, on_task, c);
}

/* ---- health ---- */

static void on_ready_row(const mull_pg_reply *r, void *arg) {
    mull_call *c = arg;
    mull_req *req = c->req;
    bool redis = mull_redis_connected(c->front->cfg.redis);
    free(c);
    bool pg = r->status == MULL_PG_OK;
    bool leader = pg && PQntuples(r->res) == 1 && PQgetvalue(r->res, 0, 0)[0] == 't';
    mull_reply_json(req, pg && redis && leader ? 200 : 503,
                    json_pack("{s:b, s:b, s:b, s:b}", "ready", pg && redis && leader, "postgres", pg, "redis", redis,
                              "leader", leader));
}

static void readyz(mull_front *f, mull_req *req) {
    mull_call *c = mull__call_new(f, req);
    if (c)
        mull_pg_query(f->cfg.pg, "SELECT expires_at > clock_timestamp() FROM leader WHERE id = 1", 0, NULL,
                      on_ready_row, c);
}

/* ---- routing ---- */

bool mull__may(mull_req *req) {
    const mull_route_def *d = mull_route_get(mull_req_route(req)->id);
    if (d->open) return true;
    bool node = mull_req_who(req)->node[0] != 0;
    if (node ? d->callers == MULL_PEOPLE : d->callers == MULL_NODES_ONLY) {
        mull_reply_error(req, 403, "forbidden", node ? "a node may not do this" : "this is for nodes that have joined");
        return false;
    }
    if (node) return true;
    mull_role role = mull_req_who(req)->role;
    if (d->writes && role < MULL_ROLE_MEMBER)
        mull_reply_error(req, 403, "forbidden", "the role viewer may not change anything");
    else if (d->admin && role < MULL_ROLE_ADMIN)
        mull_reply_error(req, 403, "forbidden", "this needs the role admin");
    else
        return true;
    return false;
}

static void route(mull_front *f, mull_req *req) {
    const mull_route *r = mull_req_route(req);
    const mull_identity *who = mull_req_who(req);
    if (!mull__may(req)) return;
    if (r->task >= 0 && !mull_route_get(r->id)->writes) {
        find_task(f, req);
        return;
    }
    char id[24];
    snprintf(id, sizeof id, "%" PRId64, r->job);
    const char *params[] = {id, who->team};
    switch (r->id) {
    case MULL_ROUTE_SUBMIT:
        mull__submit(f, req);
        break;
    case MULL_ROUTE_JOBS:
        list_jobs(f, req);
        break;
    case MULL_ROUTE_JOB:
        mull__answer(f, req, "SELECT mull_job_show($1::bigint, $2)", 2, params);
        break;
    case MULL_ROUTE_WHY:
        mull__why(f, req, params);
        break;
    case MULL_ROUTE_CANCEL:
    case MULL_ROUTE_HOLD:
    case MULL_ROUTE_RELEASE:
    case MULL_ROUTE_REQUEUE:
        action(f, req, id);
        break;
    case MULL_ROUTE_LOGS:
        mull__logs(f, req);
        break;
    case MULL_ROUTE_METRICS_OF_JOB:
        job_metrics(f, req, id);
        break;
    case MULL_ROUTE_SAMPLES_OF_JOB:
        job_samples(f, req, id);
        break;
    case MULL_ROUTE_NODES:
        mull__answer_all(f, req, "SELECT mull_nodes()", 0, NULL);
        break;
    case MULL_ROUTE_NODE_DRAIN:
    case MULL_ROUTE_NODE_RESUME:
        mull__node_action(f, req);
        break;
    case MULL_ROUTE_NODE_LABELS:
        mull__node_labels(f, req);
        break;
    case MULL_ROUTE_NODE_TOKENS:
        mull__answer(f, req, "SELECT mull_node_tokens()", 0, NULL);
        break;
    case MULL_ROUTE_NODE_TOKEN_CREATE:
        mull__node_token_create(f, req);
        break;
    case MULL_ROUTE_NODE_TOKEN_REVOKE:
        mull__node_token_revoke(f, req);
        break;
    case MULL_ROUTE_NODE_JOIN:
        mull__node_join(f, req);
        break;
    case MULL_ROUTE_NODE_REVOKE:
        mull__node_revoke(f, req);
        break;
    case MULL_ROUTE_MAINTENANCE:
        mull__answer_all(f, req, "SELECT mull_maintenance_list()", 0, NULL);
        break;
    case MULL_ROUTE_MAINTENANCE_ADD:
        mull__maintenance_add(f, req);
        break;
    case MULL_ROUTE_MAINTENANCE_RM:
        mull__maintenance_rm(f, req);
        break;
    case MULL_ROUTE_USAGE:
        usage(f, req);
        break;
    case MULL_ROUTE_TEAMS:
        mull__answer_all(f, req, "SELECT mull_teams($1)", 1, params + 1);
        break;
    case MULL_ROUTE_TEAM_SET:
        mull__team_set(f, req);
        break;
    case MULL_ROUTE_CRON:
        mull__answer(f, req, "SELECT mull_cron_list($1)", 1, params + 1);
        break;
    case MULL_ROUTE_CRON_SET:
        mull__cron_set(f, req);
        break;
    case MULL_ROUTE_CRON_RM:
        mull__cron_rm(f, req);
        break;
    case MULL_ROUTE_RUNS:
        mull__runs(f, req);
        break;
    case MULL_ROUTE_RUN:
        mull__run(f, req);
        break;
    case MULL_ROUTE_CKPTS:
        mull__checkpoints(f, req);
        break;
    case MULL_ROUTE_CKPT:
        mull__checkpoint(f, req);
        break;
    case MULL_ROUTE_CKPT_REMOVE:
    case MULL_ROUTE_CKPT_PIN:
    case MULL_ROUTE_CKPT_UNPIN:
        mull__checkpoint_action(f, req);
        break;
    case MULL_ROUTE_QUEUE:
        mull__queue(f, req);
        break;
    case MULL_ROUTE_SIMULATE:
        mull__simulate(f, req);
        break;
    case MULL_ROUTE_FILES:
        mull__upload(f, req);
        break;
    case MULL_ROUTE_FILE_LIST:
        mull__file_list(f, req);
        break;
    case MULL_ROUTE_FILE:
        mull__answer(f, req, "SELECT mull_file_show($1, $2)", 2, (const char *[]){r->name, who->team});
        break;
    case MULL_ROUTE_FILE_CONTENT:
        mull__file_content(f, req);
        break;
    case MULL_ROUTE_FILE_DELETE:
        mull__file_delete(f, req);
        break;
    case MULL_ROUTE_BATCHES:
        mull__batch_create(f, req);
        break;
    case MULL_ROUTE_BATCH_LIST:
        mull__batch_list(f, req);
        break;
    case MULL_ROUTE_BATCH:
        mull__answer(f, req, "SELECT mull_batch_show($1, $2)", 2, (const char *[]){r->name, who->team});
        break;
    case MULL_ROUTE_BATCH_CANCEL:
        mull__batch_cancel(f, req);
        break;
    case MULL_ROUTE_FILES_TREE:
    case MULL_ROUTE_FILES_READ:
    case MULL_ROUTE_FILES_PART:
    case MULL_ROUTE_FILES_WRITE:
    case MULL_ROUTE_FILES_COMMIT:
    case MULL_ROUTE_FILES_REMOVE:
        mull__transfer(f, req);
        break;
    case MULL_ROUTE_WHOAMI:
        mull__whoami(req);
        break;
    case MULL_ROUTE_USERS:
        mull__answer(f, req, "SELECT mull_users()", 0, NULL);
        break;
    case MULL_ROUTE_TOKENS:
        mull__tokens(f, req);
        break;
    case MULL_ROUTE_TOKEN_CREATE:
        mull__token_create(f, req);
        break;
    case MULL_ROUTE_TOKEN_REVOKE:
        mull__token_revoke(f, req);
        break;
    case MULL_ROUTE_AUDIT:
        mull__audit(f, req);
        break;
    case MULL_ROUTE_WEBHOOKS:
    case MULL_ROUTE_WEBHOOK_ADD:
    case MULL_ROUTE_WEBHOOK_RM:
    case MULL_ROUTE_WEBHOOK_TEST:
    case MULL_ROUTE_WEBHOOK_LOG:
        mull__webhook(f, req);
        break;
    case MULL_ROUTE_AUDIT_VERIFY:
        mull__audit_verify(f, req);
        break;
    case MULL_ROUTE_DASHBOARD:
    case MULL_ROUTE_DASHBOARD_JS:
    case MULL_ROUTE_DASHBOARD_CSS:
        mull__dashboard(req);
        break;
    case MULL_ROUTE_OPENMETRICS:
        mull__openmetrics(f, req);
        break;
    case MULL_ROUTE_OPENAPI:
        mull_reply_json(req, 200, mull_openapi());
        break;
    case MULL_ROUTE_HEALTHZ:
        mull_reply_json(req, 200, json_pack("{s:s}", "status", "ok"));
        break;
    case MULL_ROUTE_READYZ:
        readyz(f, req);
        break;
    default:
        mull_reply_error(req, 500, "internal", "this route has no handler");
        break;
    }
}

static void handle(mull_req *req, void *front) {
    int id = mull_req_route(req)->id;
    if ((id < 0 || mull_route_get(id)->open) && !mull__may_ask(front, req)) return;
    if (id == MULL_ROUTE_UNKNOWN)
        mull_reply_error(req, 404, "not_found", "no such path; /v1/openapi.json lists them");
    else if (id == MULL_ROUTE_METHOD)
        mull_reply_error(req, 405, "method_not_allowed", "this path has no such method");
    else if (id == MULL_ROUTE_BAD_ID)
        mull_reply_error(req, 400, "bad_id",
                         "a job id is a positive decimal number, or ARRAY_INDEX for a task of an array");
    else if (mull_route_get(id)->open)
        route(front, req);
    else
        mull__authenticate(front, req, route);
}

static void begin(mull_req *req, const char *method, const char *path, void *front) {
    mull_ask *ask = mull_req_user(req);
    ask->route = mull_route_match(method, path);
    if (ask->route.id == MULL_ROUTE_FILES) mull__upload_begin(front, req);
}

/* Who tried a change and was refused is written down as who made one. What has no token at all is only counted, and
 * each user and address is written down so often only, so that nobody fills the audit. */
static void answered(mull_req *req, int status, void *front) {
    mull_front *f = front;
    const mull_route *r = mull_req_route(req);
    const mull_route_def *d = mull_route_get(r->id);
    const mull_identity *who = mull_req_who(req);
    char peer[MULL_HTTP_PEER], id[24];
    if (!d || !(d->writes || strcmp(d->method, "GET") != 0) || (status != 401 && status != 403 && status != 404))
        return;
    if (status == 401 && !mull_req_header(req, "Authorization")) return;
    mull_req_peer(req, peer);
    if (mull_limit_take(f->refusals, who->user[0] ? who->user : peer, uv_hrtime() / 1000) != 0) return;
    snprintf(id, sizeof id, "%" PRId64, r->job);
    json_t *detail = json_pack("{s:s, s:s, s:s, s:i, s:s}", "method", d->method, "path", d->path, "what",
                               r->name[0] ? r->name : id, "status", status, "peer", peer);
    const char *quota = ((mull_ask *)mull_req_user(req))->quota;
    if (*quota) json_object_set_new(detail, "quota", json_string(quota));
    char *text = json_dumps(detail, JSON_COMPACT);
    json_decref(detail);
    if (text)
        mull__query(f, who, "SELECT mull_refused($1, $2::jsonb)", 2, (const char *[]){who->user, text}, NULL, NULL);
    free(text);
}

static void gone(mull_req *req, void *front) {
    (void)front;
    mull__upload_gone(req);
}

/* Log followers, and now and then what is due. */
static void on_poll(uv_timer_t *timer) {
    mull__follow_poll(timer);
    mull__batches_expire(timer->data);
    mull__audit_seal(timer->data);
}

static json_t *error_json(int status, const char *code, const char *message) {
    (void)status;
    return mull_error_json(code, message, NULL);
}

static void log_line(const char *line) {
    mull_log(MULL_LOG_DEBUG, "http: %s", line); /* what clients do wrong is their business */
}

mull_http *mull_front_http(mull_front *f) {
    return mull_http_create(&(mull_http_config){.loop = f->cfg.loop,
                                                .handler = handle,
                                                .arg = f,
                                                .max_body = MULL_HTTP_MAX_BODY,
                                                .user_size = sizeof(mull_ask),
                                                .begin = begin,
                                                .gone = gone,
                                                .answered = answered,
                                                .error_json = error_json,
                                                .log = log_line});
}

mull_front *mull_front_create(const mull_front_config *config) {
    mull_front *f = calloc(1, sizeof *f);
    if (!f) return NULL;
    f->cfg = *config;
    f->submits = mull__submits_create();
    f->tokens = mull__tokens_create();
    f->limit = mull_limit_create(config->rate, config->burst);
    f->refusals = mull_limit_create(REFUSALS_RATE, REFUSALS_BURST);
    if (!f->submits || !f->tokens || !f->limit || !f->refusals) {
        mull_front_destroy(f);
        return NULL;
    }
    uv_timer_init(config->loop, &f->poll);
    f->poll.data = f;
    uv_timer_start(&f->poll, on_poll, FOLLOW_POLL_MS, FOLLOW_POLL_MS);
    return f;
}

void mull_front_close(mull_front *f) {
    uv_close((uv_handle_t *)&f->poll, NULL);
}

void mull_front_destroy(mull_front *f) {
    if (!f) return;
    mull__submits_destroy(f->submits);
    mull__tokens_destroy(f->tokens);
    mull_limit_destroy(f->limit);
    mull_limit_destroy(f->refusals);
    free(f);
}
