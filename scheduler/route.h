/* Requests as pure data: which route a method and path mean, the numbers in the query, the JSON body with its limits.
 * No socket and no database here, so a fuzzer drives every byte of it. The table is also what /v1/openapi.json is
 * made of: a route cannot exist without being described. */
#ifndef MULL_SCHEDULER_ROUTE_H
#define MULL_SCHEDULER_ROUTE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MULL_HTTP_MAX_BODY = 8 << 20, MULL_HTTP_MAX_DEPTH = 64, MULL_HTTP_MAX_PAGE = 1000 };

typedef enum mull_route_id {
    MULL_ROUTE_SUBMIT,
    MULL_ROUTE_JOBS,
    MULL_ROUTE_JOB,
    MULL_ROUTE_CANCEL,
    MULL_ROUTE_HOLD,
    MULL_ROUTE_RELEASE,
    MULL_ROUTE_REQUEUE,
    MULL_ROUTE_LOGS,
    MULL_ROUTE_METRICS_OF_JOB,
    MULL_ROUTE_SAMPLES_OF_JOB,
    MULL_ROUTE_WHY,
    MULL_ROUTE_NODES,
    MULL_ROUTE_NODE_DRAIN,
    MULL_ROUTE_NODE_RESUME,
    MULL_ROUTE_NODE_LABELS,
    MULL_ROUTE_NODE_TOKENS,
    MULL_ROUTE_NODE_TOKEN_CREATE,
    MULL_ROUTE_NODE_TOKEN_REVOKE,
    MULL_ROUTE_NODE_JOIN,
    MULL_ROUTE_NODE_REVOKE,
    MULL_ROUTE_MAINTENANCE,
    MULL_ROUTE_MAINTENANCE_ADD,
    MULL_ROUTE_MAINTENANCE_RM,
    MULL_ROUTE_TEAMS,
    MULL_ROUTE_USAGE,
    MULL_ROUTE_TEAM_SET,
    MULL_ROUTE_CRON,
    MULL_ROUTE_CRON_SET,
    MULL_ROUTE_CRON_RM,
    MULL_ROUTE_RUNS,
    MULL_ROUTE_RUN,
    MULL_ROUTE_CKPTS,
    MULL_ROUTE_CKPT,
    MULL_ROUTE_CKPT_REMOVE,
    MULL_ROUTE_CKPT_PIN,
    MULL_ROUTE_CKPT_UNPIN,
    MULL_ROUTE_QUEUE,
    MULL_ROUTE_SIMULATE,
    MULL_ROUTE_OPENMETRICS,
    MULL_ROUTE_HEALTHZ,
    MULL_ROUTE_READYZ,
    MULL_ROUTE_OPENAPI,
    MULL_ROUTE_FILES,
    MULL_ROUTE_FILE_LIST,
    MULL_ROUTE_FILE,
    MULL_ROUTE_FILE_CONTENT,
    MULL_ROUTE_FILE_DELETE,
    MULL_ROUTE_BATCHES,
    MULL_ROUTE_BATCH_LIST,
    MULL_ROUTE_BATCH,
    MULL_ROUTE_BATCH_CANCEL,
    MULL_ROUTE_FILES_TREE, /* in the order of transfer.c */
    MULL_ROUTE_FILES_READ,
    MULL_ROUTE_FILES_PART,
    MULL_ROUTE_FILES_WRITE,
    MULL_ROUTE_FILES_COMMIT,
    MULL_ROUTE_FILES_REMOVE,
    MULL_ROUTE_WHOAMI,
    MULL_ROUTE_USERS,
    MULL_ROUTE_TOKENS,
    MULL_ROUTE_TOKEN_CREATE,
    MULL_ROUTE_TOKEN_REVOKE,
    MULL_ROUTE_AUDIT,
    MULL_ROUTE_AUDIT_VERIFY,
    MULL_ROUTE_WEBHOOKS,
    MULL_ROUTE_WEBHOOK_ADD,
    MULL_ROUTE_WEBHOOK_RM,
    MULL_ROUTE_WEBHOOK_TEST,
    MULL_ROUTE_WEBHOOK_LOG,
    MULL_ROUTE_DASHBOARD,
    MULL_ROUTE_DASHBOARD_JS,
    MULL_ROUTE_DASHBOARD_CSS,
    MULL_ROUTE_COUNT,
    /* No such route; the words tell which of the three. */
    MULL_ROUTE_UNKNOWN = -1, /* 404 not_found */
    MULL_ROUTE_METHOD = -2,  /* 405: the path is right, the method is not */
    MULL_ROUTE_BAD_ID = -3   /* 400: the job id is neither a positive decimal number nor ARRAY_INDEX */
} mull_route_id;

typedef struct mull_route_def {
    const char *method;   /* GET, POST, PUT or DELETE */
    const char *path;     /* "/v1/jobs/{id}/logs" */
    const char *query;    /* comma-separated names of query parameters, "" for none */
    const char *summary;  /* one sentence */
    const char *produces; /* content type of a good answer */
    int status;           /* of a good answer */
    bool open;            /* needs no token */
    bool writes;          /* refused for the role viewer */
    bool admin;           /* refused for all but the role admin */
    enum { MULL_PEOPLE, MULL_PEOPLE_AND_NODES, MULL_NODES_ONLY } callers;
} mull_route_def;

typedef struct mull_route {
    int id;         /* mull_route_id */
    int64_t job;    /* the {id} of the path, else 0 */
    int32_t task;   /* its index when {id} is ARRAY_INDEX, else -1 */
    char name[128]; /* the {name} of the path, else "" */
} mull_route;

/* Definition of a known route, NULL for others. */
const mull_route_def *mull_route_get(int id);
/* method "GET", path without query, already percent-decoded. Never fails: unknown things have ids of their own. */
mull_route mull_route_match(const char *method, const char *path);
/* The same, or ARRAY_INDEX for a task of an array; *task is -1 without an index. 0 or -1. */
int mull_parse_task_id(const char *text, int64_t *id, int32_t *task);
/* A positive decimal number of at most 18 digits without sign or spaces. 0 or -1. */
int mull_parse_id(const char *text, int64_t *id);
/* A query number in [min, max]; text NULL or empty gives fallback. 0 or -1. */
int mull_query_int(const char *text, int64_t min, int64_t max, int64_t fallback, int64_t *value);

/* Parses a request body: at most MULL_HTTP_MAX_BODY bytes, nesting at most MULL_HTTP_MAX_DEPTH, no duplicate keys, an
 * object at the top. NULL with *status (400 or 413) and why filled. The caller owns the result. */
json_t *mull_body_parse(const char *body, size_t len, int *status, char *why, size_t why_cap);

/* A new reference to the OpenAPI 3 description of the table, NULL without memory. */
json_t *mull_openapi(void);
/* The {"error":{…}} object; details (may be NULL) is stolen. */
json_t *mull_error_json(const char *code, const char *message, json_t *details);

#endif
