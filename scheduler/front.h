/* The front door: HTTP requests become one PostgreSQL function call each, and its answer the reply. Any scheduler
 * serves it, leader or not; nothing is kept between requests but the group commit of submits, followers of logs and a
 * short memory of tokens. */
#ifndef MULL_SCHEDULER_FRONT_H
#define MULL_SCHEDULER_FRONT_H

#include "scheduler/leader.h"
#include "scheduler/limit.h"
#include "scheduler/request.h"

typedef struct mull_front mull_front;

typedef struct mull_front_config {
    uv_loop_t *loop;
    mull_pg *pg;       /* for what admins ask, and for what nobody's team is asked about */
    mull_pg *teams_pg; /* mull_pg_create_for_teams */
    mull_redis *redis;
    mull_leader *leader;  /* for its counters, and for what it knows of the queue */
    const char *files;    /* folder of uploads, NULL: none are taken */
    const char *models;   /* folder of checkpoints that may be named without a path, NULL: none */
    uint64_t max_upload;  /* bytes */
    uint32_t rate, burst; /* requests a second of one token, and of one address without any; 0: no limit */
    /* For workers that join: where they find Redis, NULL: none may; the PEM texts of the certificates by which they
     * know Redis and this server, NULL: the system's; and the sum of this server's key that tokens carry, NULL: no TLS.
     */
    const char *worker_redis, *worker_ca, *tls_ca, *tls_pin;
    const struct mull_exports *exports; /* folders whose files it hands out; NULL: none */
} mull_front_config;

/* NULL without memory. */
mull_front *mull_front_create(const mull_front_config *config);
/* The server that serves it; NULL without memory. */
mull_http *mull_front_http(mull_front *front);
/* Wakes the followers of this job's log. */
void mull_front_job_news(int64_t job, void *front);
/* Closes its handles; the loop must run once more before mull_front_destroy. */
void mull_front_close(mull_front *front);
void mull_front_destroy(mull_front *front);

/* Shared by the files of the front door. */
struct mull_front {
    mull_front_config cfg;
    struct mull_submits *submits;
    struct mull_follow *followers;
    struct mull_tokens *tokens;
    mull_limit *limit;    /* by token's hash, or by address */
    mull_limit *refusals; /* written into the audit, by user or address */
    uv_timer_t poll;      /* log followers */
    uint64_t submitted, submit_batches, limited, unauthorized;
    uint64_t expired_ms; /* when batches were last looked through */
    uint64_t sealed_ms;  /* when the audit's chain was last asked to go on */
};

int64_t mull__unix_ms(void); /* leader.c */

/* request.c. Replies 403 "quota" to what a quota of the team is against; problem as functions/quotas.sql words it:
 * "quota WHICH: why". False: it is no such problem. */
bool mull__refuse_quota(mull_req *req, const char *problem);
/* A request whose statement is under way: what its callback is given, and frees. NULL without memory,
 * replied. */
typedef struct mull_call {
    mull_front *front;
    mull_req *req;
} mull_call;
mull_call *mull__call_new(mull_front *f, mull_req *req);
/* The request's body as a JSON object; NULL: refused, replied. */
json_t *mull__body(mull_req *req);
/* Whether body has no other keys than these n; false: refused with code and the nearest, replied. */
bool mull__known_keys(mull_req *req, json_t *body, const char *const *keys, size_t n, const char *code);
/* The query's cursor and limit (1 to MULL_HTTP_MAX_PAGE, 100 when absent) as texts of parameters; false: replied. */
typedef struct mull_page {
    char cursor[24], limit[24];
} mull_page;
bool mull__page(mull_req *req, mull_page *page);
/* n bytes as 2 n hexadecimal digits and a 0. */
void mull__hex(const unsigned char *bytes, size_t n, char *out);
/* A token's SHA-256 as the database keeps it; false without memory. */
bool mull__secret_sum(const char *secret, char out[65]);

/* front.c: replies for a failed statement; true when it failed. */
bool mull__front_failed(mull_req *req, const mull_pg_reply *r);
/* A statement with the rights of who asks: row-level security shows a team's people its rows only. All that touches
 * what belongs to teams goes by here; cfg.pg directly is for the server's own work. */
void mull__query(mull_front *f, const mull_identity *who, const char *sql, int n, const char *const *params,
                 mull_pg_cb cb, void *arg);
/* Replies with the statement's one JSON value, or 404 where it is NULL. */
void mull__answer(mull_front *f, mull_req *req, const char *sql, int n, const char *const *params);
/* The same with the server's rights, for what is shown of the whole cluster. */
void mull__answer_all(mull_front *f, mull_req *req, const char *sql, int n, const char *const *params);
/* Whether the role of who asks allows the route; false: refused, replied. */
bool mull__may(mull_req *req);
/* Tells the leader to look at a job. Best effort, PostgreSQL already has it. */
void mull__poke(mull_front *f, const char *op, int64_t job);

/* auth.c: identifies the peer, then calls next (once), or replies 401/403/429/503 itself. */
struct mull_tokens *mull__tokens_create(void);
void mull__tokens_destroy(struct mull_tokens *t);
/* A token has been revoked: what is remembered is asked again. */
void mull__tokens_forget(struct mull_tokens *t);
/* Charges a request that needs no token to its address; false: refused, replied. */
bool mull__may_ask(mull_front *f, mull_req *req);
void mull__authenticate(mull_front *f, mull_req *req, void (*next)(mull_front *f, mull_req *req));

/* submit.c: group commit. */
struct mull_submits *mull__submits_create(void);
void mull__submits_destroy(struct mull_submits *s);
void mull__submit(mull_front *f, mull_req *req);
/* What mull_submit (SQL) takes, from a checked spec; key may be NULL. NULL without memory. */
json_t *mull__submit_item(const json_t *spec, const mull_identity *who, const char *key);
/* Reads and checks the spec of a request's body and looks for its files; then next gets what mull_submit takes (which
 * it may keep by a reference of its own). Or next is not called, and the request has been answered. */
typedef void (*mull__spec_next)(mull_front *f, mull_req *req, const json_t *item);
void mull__spec_of(mull_front *f, mull_req *req, mull__spec_next next);

/* estimate.c: when jobs may start. params: the job's id and the team. */
void mull__why(mull_front *f, mull_req *req, const char *const *params);
void mull__queue(mull_front *f, mull_req *req);
void mull__simulate(mull_front *f, mull_req *req);

/* cron.c: schedules. */
void mull__cron_set(mull_front *f, mull_req *req);
void mull__cron_rm(mull_front *f, mull_req *req);

/* follow.c: logs, whole or as server-sent events. */
void mull__logs(mull_front *f, mull_req *req);
void mull__follow_poll(uv_timer_t *timer);

/* admin.c: teams, nodes, maintenance windows, for the role admin. */
void mull__team_set(mull_front *f, mull_req *req);
void mull__node_action(mull_front *f, mull_req *req);
void mull__node_labels(mull_front *f, mull_req *req);
void mull__maintenance_add(mull_front *f, mull_req *req);
void mull__maintenance_rm(mull_front *f, mull_req *req);

/* tracking.c: runs and checkpoints. */
void mull__runs(mull_front *f, mull_req *req);
void mull__run(mull_front *f, mull_req *req);
void mull__checkpoints(mull_front *f, mull_req *req);
void mull__checkpoint(mull_front *f, mull_req *req);
void mull__checkpoint_action(mull_front *f, mull_req *req);

/* nodes.c: tokens to join with, joining, throwing out. */
void mull__node_token_create(mull_front *f, mull_req *req);
void mull__node_token_revoke(mull_front *f, mull_req *req);
void mull__node_join(mull_front *f, mull_req *req);
void mull__node_revoke(mull_front *f, mull_req *req);

/* transfer.c: files of jobs, for nodes and users without a shared folder. */
void mull__transfer(mull_front *f, mull_req *req);

/* people.c: users, tokens, the audit. */
void mull__whoami(mull_req *req);
void mull__tokens(mull_front *f, mull_req *req);
void mull__token_create(mull_front *f, mull_req *req);
void mull__token_revoke(mull_front *f, mull_req *req);
void mull__audit(mull_front *f, mull_req *req);
void mull__audit_verify(mull_front *f, mull_req *req);
/* Chains what is new in the audit, now and then. */
void mull__audit_seal(mull_front *f);

/* webhooks.c */
void mull__webhook(mull_front *f, mull_req *req);

/* dashboard.c */
void mull__dashboard(mull_req *req);

/* exposition.c: /metrics. */
void mull__openmetrics(mull_front *f, mull_req *req);

#endif
