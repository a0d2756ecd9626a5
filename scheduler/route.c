/* The route table, matching and body limits; see route.h. */
#include "scheduler/route.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define JSON_TYPE "application/json"

/* clang-format off */
static const mull_route_def ROUTES[MULL_ROUTE_COUNT] = {
    [MULL_ROUTE_SUBMIT] = {"POST", "/v1/jobs", "", "Submit a job; answered after it is on disk. The same team and key again answers 200 with the first id.", JSON_TYPE, 201, false, true},
    [MULL_ROUTE_JOBS] = {"GET", "/v1/jobs", "state,team,array,cursor,limit", "List jobs, newest first, an array as one; array=ID lists its tasks; next_cursor continues the list.", JSON_TYPE, 200, false, false},
    [MULL_ROUTE_JOB] = {"GET", "/v1/jobs/{id}", "", "Everything known about one job.", JSON_TYPE, 200, false, false},
    [MULL_ROUTE_CANCEL] = {"POST", "/v1/jobs/{id}/cancel", "", "Cancel a pending job, or ask a running one to stop.", JSON_TYPE, 200, false, true},
    [MULL_ROUTE_HOLD] = {"POST", "/v1/jobs/{id}/hold", "", "Keep a pending job from starting.", JSON_TYPE, 200, false, true},
    [MULL_ROUTE_RELEASE] = {"POST", "/v1/jobs/{id}/release", "", "Let a held job start.", JSON_TYPE, 200, false, true},
    [MULL_ROUTE_REQUEUE] = {"POST", "/v1/jobs/{id}/requeue", "", "Queue an ended job again.", JSON_TYPE, 200, false, true},
    [MULL_ROUTE_LOGS] = {"GET", "/v1/jobs/{id}/logs", "follow,attempt,after,limit", "Log lines; follow=1 streams server-sent events until the job has ended.", JSON_TYPE, 200, false, false},
    [MULL_ROUTE_METRICS_OF_JOB] = {"GET", "/v1/jobs/{id}/metrics", "key,after,limit", "Metric points of a job in order of step.", JSON_TYPE, 200, false, false},
    [MULL_ROUTE_SAMPLES_OF_JOB] = {"GET", "/v1/jobs/{id}/samples", "task,after,limit", "Scores of an evaluation's rows, in order of task and row; name a task to go on behind row after.", JSON_TYPE, 200, false, false},
    [MULL_ROUTE_WHY] = {"GET", "/v1/jobs/{id}/why", "", "Why a job is where it is: who is ahead, what is missing, estimated start.", JSON_TYPE, 200, false, false},
    [MULL_ROUTE_NODES] = {"GET", "/v1/nodes", "", "Nodes with their devices.", JSON_TYPE, 200, false, false},
    [MULL_ROUTE_NODE_DRAIN] = {"POST", "/v1/nodes/{name}/drain", "", "Give a node no new jobs; what runs there goes on.", JSON_TYPE, 200, false, true, true},
    [MULL_ROUTE_NODE_RESUME] = {"POST", "/v1/nodes/{name}/resume", "", "Let a drained node take jobs again.", JSON_TYPE, 200, false, true, true},
    [MULL_ROUTE_NODE_LABELS] = {"POST", "/v1/nodes/{name}/labels", "", "Set and take away labels of a node: set, a list of WORD or KEY=VALUE, and unset, a list of keys.", JSON_TYPE, 200, false, true, true},
    [MULL_ROUTE_NODE_TOKENS] = {"GET", "/v1/nodes/tokens", "", "Tokens by which workers join, without their secrets.", JSON_TYPE, 200, false, false, true},
    [MULL_ROUTE_NODE_TOKEN_CREATE] = {"POST", "/v1/nodes/tokens", "", "Make a token to join with: minutes until it ends, uses (0: any number), node (only this name), note. Its secret is in this answer only.", JSON_TYPE, 201, false, true, true},
    [MULL_ROUTE_NODE_TOKEN_REVOKE] = {"DELETE", "/v1/nodes/tokens/{id}", "", "Revoke a token to join with; nodes that have joined stay.", JSON_TYPE, 200, false, true, true},
    [MULL_ROUTE_NODE_JOIN] = {"POST", "/v1/nodes/join", "", "A worker joins: with a token of /v1/nodes/tokens as bearer and its node's name; it gets its credentials.", JSON_TYPE, 201, true, false},
    [MULL_ROUTE_NODE_REVOKE] = {"POST", "/v1/nodes/{name}/revoke", "", "Throw a node out: its credentials are void at once, its engines end with their leases.", JSON_TYPE, 200, false, true, true},
    [MULL_ROUTE_MAINTENANCE] = {"GET", "/v1/maintenance", "", "Windows in which nodes take no jobs.", JSON_TYPE, 200, false, false},
    [MULL_ROUTE_MAINTENANCE_ADD] = {"POST", "/v1/maintenance", "", "Plan a window: starts, ends, nodes (none: all), reason. Nothing starts that may still run when it begins.", JSON_TYPE, 200, false, true, true},
    [MULL_ROUTE_MAINTENANCE_RM] = {"DELETE", "/v1/maintenance/{id}", "", "Remove a window, planned or begun.", JSON_TYPE, 200, false, true, true},
    [MULL_ROUTE_TEAMS] = {"GET", "/v1/teams", "", "Teams: weight, quotas and what is used of them, decayed use, what runs; a token of one team sees that team.", JSON_TYPE, 200, false, false},
    [MULL_ROUTE_USAGE] = {"GET", "/v1/usage", "days", "Tokens and device hours of each team's jobs that ended in the last days (30).", JSON_TYPE, 200, false, false},
    [MULL_ROUTE_TEAM_SET] = {"PUT", "/v1/teams/{name}", "", "Create a team or change the given of weight, nominal, borrow, lend, parent, max_pending, max_spec_bytes, max_log_bytes, max_stored_bytes; null takes one away.", JSON_TYPE, 200, false, true, true},
    [MULL_ROUTE_CRON] = {"GET", "/v1/cron", "", "Schedules that submit jobs, with their next time and last job.", JSON_TYPE, 200, false, false},
    [MULL_ROUTE_CRON_SET] = {"PUT", "/v1/cron/{name}", "", "Make or change a schedule: schedule, tz, no_overlap and the spec of the job that it submits.", JSON_TYPE, 200, false, true},
    [MULL_ROUTE_CRON_RM] = {"DELETE", "/v1/cron/{name}", "team", "Remove a schedule; jobs that it has submitted stay.", JSON_TYPE, 200, false, true},
    [MULL_ROUTE_RUNS] = {"GET", "/v1/runs", "team,kind,name,cursor,limit", "List runs, newest first; a run has the id of its job, name matches a part of the job's.", JSON_TYPE, 200, false, false},
    [MULL_ROUTE_RUN] = {"GET", "/v1/runs/{id}", "", "The run of a job: configuration, content digests, parent, checkpoints, last and extreme values of each metric.", JSON_TYPE, 200, false, false},
    [MULL_ROUTE_CKPTS] = {"GET", "/v1/checkpoints", "team,job,state,cursor,limit", "List checkpoints, newest first.", JSON_TYPE, 200, false, false},
    [MULL_ROUTE_CKPT] = {"GET", "/v1/checkpoints/{id}", "", "One checkpoint with the digest of each of its files and the runs that began with it.", JSON_TYPE, 200, false, false},
    [MULL_ROUTE_CKPT_REMOVE] = {"POST", "/v1/checkpoints/{id}/remove", "force", "Mark a checkpoint as removed, so that its files may go; refused (409) when something needs it, unless force=1.", JSON_TYPE, 200, false, true},
    [MULL_ROUTE_CKPT_PIN] = {"POST", "/v1/checkpoints/{id}/pin", "", "Keep a checkpoint from being removed.", JSON_TYPE, 200, false, true},
    [MULL_ROUTE_CKPT_UNPIN] = {"POST", "/v1/checkpoints/{id}/unpin", "", "Take the pin away.", JSON_TYPE, 200, false, true},
    [MULL_ROUTE_QUEUE] = {"GET", "/v1/queue", "next", "Jobs by state and reason, slots in use; next=1 adds what starts next and when.", JSON_TYPE, 200, false, false},
    [MULL_ROUTE_SIMULATE] = {"POST", "/v1/queue/simulate", "", "When a job with this spec would start if it were submitted now; nothing is submitted.", JSON_TYPE, 200, false, true},
    [MULL_ROUTE_OPENMETRICS] = {"GET", "/metrics", "", "Counters of this server in OpenMetrics form.", "application/openmetrics-text; version=1.0.0; charset=utf-8", 200, false, false},
    [MULL_ROUTE_HEALTHZ] = {"GET", "/healthz", "", "The process answers.", JSON_TYPE, 200, true, false},
    [MULL_ROUTE_READYZ] = {"GET", "/readyz", "", "PostgreSQL and Redis answer, a leader is known.", JSON_TYPE, 200, true, false},
    [MULL_ROUTE_FILES] = {"POST", "/v1/files", "", "Upload a file: a form with purpose (batch) and file.", JSON_TYPE, 200, false, true},
    [MULL_ROUTE_FILE_LIST] = {"GET", "/v1/files", "purpose,after,limit,order", "List files, newest first.", JSON_TYPE, 200, false, false},
    [MULL_ROUTE_FILE] = {"GET", "/v1/files/{name}", "", "One file's name, size and purpose.", JSON_TYPE, 200, false, false},
    [MULL_ROUTE_FILE_CONTENT] = {"GET", "/v1/files/{name}/content", "", "The bytes of a file.", "application/octet-stream", 200, false, false},
    [MULL_ROUTE_FILE_DELETE] = {"DELETE", "/v1/files/{name}", "", "Remove a file; not while a batch reads it.", JSON_TYPE, 200, false, true},
    [MULL_ROUTE_BATCHES] = {"POST", "/v1/batches", "", "Answer every request of an uploaded file: an annotate job in OpenAI's shape.", JSON_TYPE, 200, false, true},
    [MULL_ROUTE_BATCH_LIST] = {"GET", "/v1/batches", "after,limit", "List batches, newest first.", JSON_TYPE, 200, false, false},
    [MULL_ROUTE_BATCH] = {"GET", "/v1/batches/{name}", "", "State, counts and files of a batch.", JSON_TYPE, 200, false, false},
    [MULL_ROUTE_BATCH_CANCEL] = {"POST", "/v1/batches/{name}/cancel", "", "Stop a batch; what is done is kept in its job.", JSON_TYPE, 200, false, true},
    [MULL_ROUTE_FILES_TREE] = {"GET", "/v1/jobs/{id}/files", "path,fence", "The files below a folder of a job (its out by default) with their sizes and SHA-256.", JSON_TYPE, 200, false, false, false, MULL_PEOPLE_AND_NODES},
    [MULL_ROUTE_FILES_READ] = {"GET", "/v1/jobs/{id}/files/bytes", "path,offset,limit,fence", "At most 4 MiB of one of them.", "application/octet-stream", 200, false, false, false, MULL_PEOPLE_AND_NODES},
    [MULL_ROUTE_FILES_PART] = {"GET", "/v1/jobs/{id}/files/part", "path,fence", "For nodes: how much of a file that is being sent has arrived.", JSON_TYPE, 200, false, false, false, MULL_NODES_ONLY},
    [MULL_ROUTE_FILES_WRITE] = {"PUT", "/v1/jobs/{id}/files/bytes", "path,offset,fence", "For nodes: the next bytes of a file below out, at most 4 MiB.", JSON_TYPE, 200, false, true, false, MULL_NODES_ONLY},
    [MULL_ROUTE_FILES_COMMIT] = {"POST", "/v1/jobs/{id}/files/commit", "path,sha256,fence", "For nodes: a file is complete; it takes its name when its SHA-256 is this.", JSON_TYPE, 200, false, true, false, MULL_NODES_ONLY},
    [MULL_ROUTE_FILES_REMOVE] = {"DELETE", "/v1/jobs/{id}/files", "path,fence", "For nodes: remove a file or folder below out.", JSON_TYPE, 200, false, true, false, MULL_NODES_ONLY},
    [MULL_ROUTE_WHOAMI] = {"GET", "/v1/whoami", "", "Whom the token speaks for.", JSON_TYPE, 200, false, false},
    [MULL_ROUTE_USERS] = {"GET", "/v1/users", "", "Users with their tokens and jobs.", JSON_TYPE, 200, false, false, true},
    [MULL_ROUTE_TOKENS] = {"GET", "/v1/tokens", "", "Tokens without their secrets; all of them for an admin, else one's own.", JSON_TYPE, 200, false, false},
    [MULL_ROUTE_TOKEN_CREATE] = {"POST", "/v1/tokens", "", "Make a token: user, team, role, days until it ends, note. Its secret is in this answer only.", JSON_TYPE, 201, false, true, true},
    [MULL_ROUTE_TOKEN_REVOKE] = {"DELETE", "/v1/tokens/{id}", "", "Revoke a token.", JSON_TYPE, 200, false, false},
    [MULL_ROUTE_AUDIT] = {"GET", "/v1/audit", "cursor,limit", "Who did what and what became of it, newest first.", JSON_TYPE, 200, false, false, true},
    [MULL_ROUTE_WEBHOOKS] = {"GET", "/v1/webhooks", "", "Webhooks: where changes of jobs are told, how the last delivery ended, how many wait.", JSON_TYPE, 200, false, false, true},
    [MULL_ROUTE_WEBHOOK_ADD] = {"POST", "/v1/webhooks", "", "Tell a URL of each change of a job's state: url, states (none: all), team (none: every team), note. The secret that signs is in this answer alone.", JSON_TYPE, 201, false, true, true},
    [MULL_ROUTE_WEBHOOK_RM] = {"DELETE", "/v1/webhooks/{id}", "", "Remove a webhook with what it has not been told yet.", JSON_TYPE, 200, false, true, true},
    [MULL_ROUTE_WEBHOOK_TEST] = {"POST", "/v1/webhooks/{id}/test", "", "Send a webhook.test.", JSON_TYPE, 202, false, true, true},
    [MULL_ROUTE_WEBHOOK_LOG] = {"GET", "/v1/webhooks/{id}/deliveries", "limit", "The newest deliveries of a webhook, newest first.", JSON_TYPE, 200, false, false, true},
    [MULL_ROUTE_AUDIT_VERIFY] = {"GET", "/v1/audit/verify", "after,limit", "Check the audit's chain of hashes behind an entry; broken says the first that does not fit.", JSON_TYPE, 200, false, false, true},
    [MULL_ROUTE_DASHBOARD] = {"GET", "/", "", "The dashboard.", "text/html; charset=utf-8", 200, true, false},
    [MULL_ROUTE_DASHBOARD_JS] = {"GET", "/dashboard.js", "", "The dashboard's script.", "text/javascript; charset=utf-8", 200, true, false},
    [MULL_ROUTE_DASHBOARD_CSS] = {"GET", "/dashboard.css", "", "The dashboard's style.", "text/css; charset=utf-8", 200, true, false},
    [MULL_ROUTE_OPENAPI] = {"GET", "/v1/openapi.json", "", "This description.", JSON_TYPE, 200, false, false},
};
/* clang-format on */

const mull_route_def *mull_route_get(int id) {
    return id >= 0 && id < MULL_ROUTE_COUNT ? &ROUTES[id] : NULL;
}

int mull_parse_id(const char *text, int64_t *id) {
    size_t n = text ? strspn(text, "0123456789") : 0;
    if (n == 0 || n > 18 || text[n] != '\0') return -1;
    *id = strtoll(text, NULL, 10);
    return *id > 0 ? 0 : -1;
}

int mull_parse_task_id(const char *text, int64_t *id, int32_t *task) {
    char head[24];
    int64_t index = -1;
    const char *bar = text ? strchr(text, '_') : NULL;
    *task = -1;
    if (!bar) return mull_parse_id(text, id);
    if (!bar[1] || (size_t)(bar - text) >= sizeof head || mull_query_int(bar + 1, 0, INT32_MAX, -1, &index) != 0)
        return -1;
    snprintf(head, sizeof head, "%.*s", (int)(bar - text), text);
    *task = (int32_t)index;
    return mull_parse_id(head, id);
}

int mull_query_int(const char *text, int64_t min, int64_t max, int64_t fallback, int64_t *value) {
    *value = fallback;
    if (!text || !*text) return 0;
    size_t n = strspn(text, "0123456789");
    if (n == 0 || n > 18 || text[n] != '\0') return -1;
    *value = strtoll(text, NULL, 10);
    return *value >= min && *value <= max ? 0 : -1;
}

enum { WORD = 128 };

/* Compares path with a pattern holding at most one {id} or {name}; its text is copied out. */
static bool path_matches(const char *pattern, const char *path, char id[WORD]) {
    const char *brace = strchr(pattern, '{');
    if (!brace) return strcmp(pattern, path) == 0;
    size_t head = (size_t)(brace - pattern);
    if (strncmp(pattern, path, head) != 0) return false;
    const char *start = path + head, *end = strchrnul(start, '/');
    if (strcmp(end, strchr(brace, '}') + 1) != 0) return false;
    /* An over-long id cannot be a number we gave out, nor a name; cut, it stays so. */
    snprintf(id, WORD, "%.*s", (int)((end - start) < WORD - 1 ? end - start : WORD - 1), start);
    return true;
}

mull_route mull_route_match(const char *method, const char *path) {
    mull_route r = {.id = MULL_ROUTE_UNKNOWN, .task = -1};
    for (int i = 0; i < MULL_ROUTE_COUNT; i++) {
        char id[WORD] = "";
        if (!path_matches(ROUTES[i].path, path, id)) continue;
        if (strcmp(ROUTES[i].method, method) != 0) {
            r.id = MULL_ROUTE_METHOD;
            continue;
        }
        r.id = i;
        if (strstr(ROUTES[i].path, "{name}")) {
            memcpy(r.name, id, sizeof r.name);
            if (!id[0]) r.id = MULL_ROUTE_UNKNOWN;
        }
        if (strstr(ROUTES[i].path, "{id}") && mull_parse_task_id(id, &r.job, &r.task) != 0) r.id = MULL_ROUTE_BAD_ID;
        return r;
    }
    return r;
}

/* Deepest nesting of brackets outside strings; a scan without recursion, so that the parser proper, which recurses,
 * only ever sees what it can bear. */
static int depth_of(const char *s, size_t len) {
    int depth = 0, deepest = 0;
    bool in_string = false;
    for (size_t i = 0; i < len; i++) {
        char c = s[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '[' || c == '{') {
            if (++depth > deepest) deepest = depth;
        } else if (c == ']' || c == '}') {
            depth--;
        }
    }
    return deepest;
}

json_t *mull_body_parse(const char *body, size_t len, int *status, char *why, size_t why_cap) {
    *status = 400;
    if (len > MULL_HTTP_MAX_BODY) {
        *status = 413;
        snprintf(why, why_cap, "the request body is larger than %d bytes", MULL_HTTP_MAX_BODY);
        return NULL;
    }
    if (len == 0) {
        snprintf(why, why_cap, "the request body is empty, a JSON object is needed");
        return NULL;
    }
    if (depth_of(body, len) > MULL_HTTP_MAX_DEPTH) {
        snprintf(why, why_cap, "the JSON is nested deeper than %d levels", MULL_HTTP_MAX_DEPTH);
        return NULL;
    }
    json_error_t e;
    json_t *j = json_loadb(body, len, JSON_REJECT_DUPLICATES, &e);
    if (!j) {
        snprintf(why, why_cap, "the body is not valid JSON: %s at line %d column %d", e.text, e.line, e.column);
        return NULL;
    }
    if (!json_is_object(j)) {
        json_decref(j);
        snprintf(why, why_cap, "the body must be a JSON object");
        return NULL;
    }
    return j;
}

json_t *mull_error_json(const char *code, const char *message, json_t *details) {
    if (!details) details = json_array();
    /* type and param are what clients of OpenAI's API look for. */
    bool ours = !strcmp(code, "internal") || !strcmp(code, "unavailable") || !strcmp(code, "no_space");
    return json_pack("{s:{s:s, s:s, s:s, s:n, s:o}}", "error", "code", code, "message", message, "type",
                     ours ? "server_error" : "invalid_request_error", "param", "details", details);
}

static json_t *parameter(const char *name, const char *where, bool required) {
    return json_pack("{s:s, s:s, s:b, s:{s:s}}", "name", name, "in", where, "required", required, "schema", "type",
                     "string");
}

static json_t *operation(const mull_route_def *d) {
    json_t *params = json_array();
    if (strstr(d->path, "{id}")) json_array_append_new(params, parameter("id", "path", true));
    if (strstr(d->path, "{name}")) json_array_append_new(params, parameter("name", "path", true));
    for (const char *q = d->query; *q;) {
        size_t n = strcspn(q, ",");
        char name[32];
        snprintf(name, sizeof name, "%.*s", (int)n, q);
        json_array_append_new(params, parameter(name, "query", false));
        q += n + (q[n] == ',');
    }
    char status[8];
    snprintf(status, sizeof status, "%d", d->status);
    json_t *op = json_pack(
        "{s:s, s:o, s:{s:{s:s, s:{s:{s:{s:s}}}}, s:{s:s, s:{s:{s:{s:s}}}}}}", "summary", d->summary, "parameters",
        params, "responses", status, "description", "good", "content", d->produces, "schema", "type",
        strncmp(d->produces, JSON_TYPE, strlen(JSON_TYPE)) == 0 ? "object" : "string", "default", "description",
        "an error, always of this one shape", "content", JSON_TYPE, "schema", "$ref", "#/components/schemas/Error");
    if (op && strcmp(d->path, "/v1/jobs") == 0 && d->writes) {
        json_array_append_new(params, parameter("Idempotency-Key", "header", false));
        json_t *body =
            json_pack("{s:b, s:{s:{s:{s:s, s:s}}, s:{s:{s:s, s:s}}}}", "required", 1, "content", JSON_TYPE, "schema",
                      "type", "object", "description",
                      "The job spec itself, or {\"spec\": {...}}, or {\"spec_text\": \"...\", \"format\": \"yaml\" or "
                      "\"json\"}.",
                      "application/yaml", "schema", "type", "string", "description", "The job spec.");
        json_object_set_new(op, "requestBody", body);
    }
    if (op && strcmp(d->method, "PUT") == 0) {
        json_t *body = json_pack("{s:b, s:{s:{s:{s:s, s:s}}}}", "required", 1, "content", JSON_TYPE, "schema", "type",
                                 "object", "description",
                                 strstr(d->path, "/cron/")
                                     ? "{\"schedule\": \"30 2 * * mon-fri\", \"tz\": \"UTC\", \"no_overlap\": false, "
                                       "\"spec\": {...}}"
                                     : "{\"weight\": 1, \"nominal\": 8, \"borrow\": null, \"lend\": 4, \"parent\": "
                                       "\"lab\"}, any of them.");
        json_object_set_new(op, "requestBody", body);
    }
    if (op && strcmp(d->path, "/v1/files") == 0 && d->writes) {
        json_t *body = json_pack("{s:b, s:{s:{s:{s:s, s:{s:{s:s}, s:{s:s, s:s}}}}}}", "required", 1, "content",
                                 "multipart/form-data", "schema", "type", "object", "properties", "purpose", "type",
                                 "string", "file", "type", "string", "format", "binary");
        json_object_set_new(op, "requestBody", body);
    }
    if (op && strcmp(d->path, "/v1/batches") == 0 && d->writes) {
        json_t *body =
            json_pack("{s:b, s:{s:{s:{s:s, s:s}}}}", "required", 1, "content", JSON_TYPE, "schema", "type", "object",
                      "description",
                      "{\"input_file_id\": \"file-…\", \"endpoint\": \"/v1/chat/completions\", "
                      "\"completion_window\": \"24h\", \"metadata\": {…}, \"model\": \"…\", \"spec\": {keys of "
                      "the job}}.");
        json_object_set_new(op, "requestBody", body);
    }
    if (op && d->open) json_object_set_new(op, "security", json_array());
    return op;
}

json_t *mull_openapi(void) {
    json_t *paths = json_object();
    for (int i = 0; i < MULL_ROUTE_COUNT; i++) {
        const mull_route_def *d = &ROUTES[i];
        json_t *item = json_object_get(paths, d->path);
        if (!item) {
            item = json_object();
            json_object_set_new(paths, d->path, item);
        }
        json_object_set_new(item,
                            strcmp(d->method, "GET") == 0      ? "get"
                            : strcmp(d->method, "PUT") == 0    ? "put"
                            : strcmp(d->method, "DELETE") == 0 ? "delete"
                                                               : "post",
                            operation(d));
    }
    json_t *string = json_pack("{s:s}", "type", "string"), *integer = json_pack("{s:s}", "type", "integer");
    json_t *detail = json_pack("{s:s, s:{s:O, s:O, s:O, s:O}}", "type", "object", "properties", "path", string, "line",
                               integer, "message", string, "did_you_mean", string);
    json_t *error = json_pack("{s:s, s:{s:{s:s, s:{s:O, s:O, s:{s:s, s:o}}}}}", "type", "object", "properties", "error",
                              "type", "object", "properties", "code", string, "message", string, "details", "type",
                              "array", "items", detail);
    json_decref(string);
    json_decref(integer);
    return json_pack("{s:s, s:{s:s, s:s}, s:[{s:[]}], s:o, s:{s:{s:o}, s:{s:{s:s, s:s}}}}", "openapi", "3.0.3", "info",
                     "title", "mull", "version", MULL_VERSION, "security", "bearer", "paths", paths, "components",
                     "schemas", "Error", error, "securitySchemes", "bearer", "type", "http", "scheme", "bearer");
}
