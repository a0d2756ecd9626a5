/* Winning, keeping and losing the lead; see leader.h. */
#include "scheduler/leader_internal.h"

#include "schema/event_line.h"
#include "schema/keys.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

uint64_t mull__now(const mull_leader *l) {
    return uv_now(l->cfg.loop);
}

int64_t mull__unix_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ---- statements under a term ---- */

mull_lead_call *mull__lead_call(mull_leader *l, void *data) {
    mull_lead_call *c = malloc(sizeof *c);
    if (c) *c = (mull_lead_call){l, l->epoch, 0, data};
    return c;
}

bool mull__lead_current(mull_lead_call *c, mull_leader **l, void **data) {
    bool current = c->epoch == c->l->epoch && !c->l->closing;
    *l = c->l;
    *data = c->data;
    free(c);
    return current;
}

bool mull__lead_failed(mull_leader *l, const mull_pg_reply *r, const char *what) {
    if (r->status == MULL_PG_OK) return false;
    if (strcmp(r->sqlstate, "ML001") == 0) {
        mull__step_down(l, "another scheduler has taken the lead");
    } else {
        mull_log(r->status == MULL_PG_LOST ? MULL_LOG_WARN : MULL_LOG_ERROR, "%s: %s", what, r->message);
        if (l->state == MULL_LOADING) mull__step_down(l, "the queue could not be loaded");
    }
    return true;
}

void mull__lead_query(mull_leader *l, const char *sql, int n, const char *const *params, mull_pg_cb cb, void *data) {
    mull_lead_call *c = mull__lead_call(l, data);
    if (c) {
        mull_pg_query(l->cfg.pg, sql, n, params, cb, c);
    } else {
        free(data); /* plain memory in every caller */
        mull__step_down(l, "out of memory");
    }
}

void mull__lead_copy(mull_leader *l, const char *before, const char *copy, char *data, size_t len, const char *sql,
                     int n, const char *const *params, mull_pg_cb cb, void *arg) {
    mull_lead_call *c = mull__lead_call(l, arg);
    if (c) {
        mull_pg_copy(l->cfg.pg, before, copy, data, len, sql, n, params, cb, c);
    } else {
        free(data);
        free(arg);
        mull__step_down(l, "out of memory");
    }
}

/* ---- the lead ---- */

void mull__step_down(mull_leader *l, const char *why) {
    if (l->state == MULL_FOLLOWING) return;
    if (l->viewing) {
        mull__view_failed(l, why);
        return;
    }
    mull_log(MULL_LOG_WARN, "gives up the lead (term %lld): %s", (long long)l->term, why);
    l->state = MULL_FOLLOWING;
    l->epoch++;
    l->term = 0;
    l->stats.lost_terms++;
    l->renewing = l->cron_asked = false;
    mull__dispatch_reset(l);
    mull__recorder_reset(l);
    mull_queue_fini(&l->queue);
    l->nominated_count = 0;
    l->teams_answered = l->teams_asked;
}

static void on_taken(const mull_pg_reply *r, void *arg) {
    mull_leader *l;
    void *data;
    if (!mull__lead_current(arg, &l, &data)) return;
    l->state = MULL_FOLLOWING;
    if (r->status != MULL_PG_OK) return; /* the pool says so itself; the tick tries again */
    l->tried_own = true;
    long long term = atoll(PQgetvalue(r->res, 0, 0));
    if (term <= 0) return;
    l->term = term;
    snprintf(l->term_text, sizeof l->term_text, "%lld", term);
    l->epoch++;
    l->state = MULL_LOADING;
    l->last_renew_ms = mull__now(l);
    l->link_since_ms = mull__now(l);
    mull_log(MULL_LOG_INFO, "leads with term %lld", term);
    mull__load(l);
}

static void take(mull_leader *l) {
    char ttl[16];
    snprintf(ttl, sizeof ttl, "%d", MULL_LEASE_MS);
    const char *params[] = {l->cfg.holder, ttl, l->tried_own ? "f" : "t"};
    mull_lead_call *c = mull__lead_call(l, NULL);
    if (!c) return;
    l->state = MULL_TAKING;
    mull_pg_query(l->cfg.pg, "SELECT mull_leader_take($1, $2::int, $3::boolean)", 3, params, on_taken, c);
}

static void on_renewed(const mull_pg_reply *r, void *arg) {
    mull_leader *l;
    void *data;
    if (!mull__lead_current(arg, &l, &data)) return;
    l->renewing = false;
    if (r->status != MULL_PG_OK) return; /* tried again; the term is checked with every write anyway */
    if (PQgetvalue(r->res, 0, 0)[0] == 't')
        l->last_renew_ms = mull__now(l);
    else
        mull__step_down(l, "the term has ended");
}

static void renew(mull_leader *l) {
    char ttl[16];
    snprintf(ttl, sizeof ttl, "%d", MULL_LEASE_MS);
    const char *params[] = {l->term_text, ttl};
    mull_lead_call *c = mull__lead_call(l, NULL);
    if (!c) return;
    l->renewing = true;
    mull_pg_query(l->cfg.pg, "SELECT mull_leader_renew($1::bigint, $2::int)", 2, params, on_renewed, c);
}

static void on_tick(uv_timer_t *t) {
    mull_leader *l = t->data;
    uint64_t now = mull__now(l);
    switch (l->state) {
    case MULL_FOLLOWING:
        take(l);
        return;
    case MULL_TAKING:
    case MULL_VIEWING: /* a view has no tick */
        return;
    case MULL_LOADING:
    case MULL_LEADING:
        break;
    }
    if (now - l->last_renew_ms > MULL_LEASE_MS) {
        /* The lease has run out unrenewed: another may lead by now, and if none does, taking it again is quick. */
        mull__step_down(l, "the term could not be renewed in time");
        return;
    }
    if (!l->renewing && now - l->last_renew_ms >= MULL_RENEW_MS) renew(l);
    if (l->state != MULL_LEADING) return;
    mull__check_deadlines(l);
    mull__usage_tick(l);
    mull__cron_tick(l);
    if (l->users_all || now - l->users_ms >= MULL_USERS_MS) mull__users_look(l, false);
    mull__read_streams(l);
    if (l->state == MULL_LEADING && now - l->last_reconcile_ms >= MULL_RECONCILE_MS) mull__reconcile(l);
}

void mull__inbox(mull_leader *l, const char *boot, json_t *msg) {
    char key[96];
    char *text = msg ? json_dumps(msg, JSON_COMPACT) : NULL;
    json_decref(msg);
    if (!text) return;
    mull_key_inbox(boot, key, sizeof key);
    const char *argv[] = {"XADD", key, "MAXLEN", "~", "1000", "*", "m", text};
    mull_redis_command(l->cfg.redis, 8, argv, NULL, NULL, NULL);
    free(text);
}

/* ---- life ---- */

mull_leader *mull_leader_create(const mull_leader_config *config) {
    mull_leader *l = calloc(1, sizeof *l);
    if (!l) return NULL;
    l->cfg = *config;
    if (l->cfg.node_timeout_s <= 0) l->cfg.node_timeout_s = MULL_NODE_TIMEOUT_S;
    l->policy = mull_policy_create();
    if (!l->policy) {
        free(l);
        return NULL;
    }
    uv_timer_init(config->loop, &l->tick);
    l->tick.data = l;
    l->open_handles = 1;
    mull__dispatch_init(l);
    mull__recorder_init(l);
    uv_timer_start(&l->tick, on_tick, 0, MULL_TICK_MS);
    return l;
}

void mull_leader_get_stats(const mull_leader *l, mull_leader_stats *stats) {
    *stats = l->stats;
    stats->term = l->state == MULL_LEADING ? l->term : 0;
    stats->pending = l->queue.job_count;
    stats->running = l->queue.attempt_count;
    stats->nodes_up = 0;
    for (size_t i = 0; i < l->queue.node_count; i++) stats->nodes_up += l->queue.nodes[i].up;
}

static void on_handle_closed(uv_handle_t *h) {
    mull_leader *l = h->data;
    if (--l->open_handles == 0) l->on_closed(l->on_closed_arg);
}

static void close_handles(mull_leader *l) {
    uv_close((uv_handle_t *)&l->tick, on_handle_closed);
    uv_close((uv_handle_t *)&l->wake, on_handle_closed);
    uv_close((uv_handle_t *)&l->pass, on_handle_closed);
    uv_close((uv_handle_t *)&l->retry, on_handle_closed);
    mull__recorder_stop(l);
}

static void on_released(const mull_pg_reply *r, void *arg) {
    (void)r; /* if it was not released, it expires */
    close_handles(arg);
}

void mull_leader_close(mull_leader *l, void (*done)(void *arg), void *arg) {
    l->closing = true;
    l->on_closed = done;
    l->on_closed_arg = arg;
    uv_timer_stop(&l->tick);
    mull__view_close(l->view);
    bool leads = l->state == MULL_LOADING || l->state == MULL_LEADING;
    char *usage = l->state == MULL_LEADING ? mull__usage_text(l) : NULL;
    const char *params[] = {l->term_text, usage};
    mull__dispatch_reset(l);
    l->state = MULL_FOLLOWING;
    l->epoch++;
    if (leads && usage)
        mull_pg_query(l->cfg.pg, "SELECT mull_save_usage($1::bigint, $2::jsonb), mull_leader_release($1::bigint)", 2,
                      params, on_released, l);
    else if (leads)
        mull_pg_query(l->cfg.pg, "SELECT mull_leader_release($1::bigint)", 1, params, on_released, l);
    else
        close_handles(l);
    free(usage);
}

void mull_leader_destroy(mull_leader *l) {
    if (!l) return;
    mull_redis_destroy(l->events_conn);
    mull_redis_destroy(l->ready_conn);
    mull_queue_fini(&l->queue);
    mull_policy_destroy(l->policy);
    mull__view_destroy(l->view);
    free(l->reasons);
    free(l);
}
