/* What teams and users are promised and have used, as the leader keeps it, and preemption.
 *
 * Averages of use decay in memory and are written down every half minute and at an orderly end; the next lead reads
 * them with the decay of the time between. A lead that dies loses at most that half minute.
 *
 * A victim is noted in PostgreSQL (attempt.preempted_by and the event 'preempted') before its worker is told, so that
 * the next leader tells it again; its end then comes as class requeue, and the job goes back to PENDING. */
#include "scheduler/leader_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- teams ---- */

static void copy_text(char *out, const json_t *o, const char *key) {
    const char *text = json_string_value(json_object_get(o, key));
    snprintf(out, MULL_NAME_MAX, "%s", text ? text : "");
}

static int32_t limit_of(const json_t *o, const char *key) {
    const json_t *v = json_object_get(o, key);
    return json_is_integer(v) ? (int32_t)json_integer_value(v) : -1;
}

static int put_teams(mull_leader *l, const json_t *list) {
    size_t n = json_array_size(list), i;
    mull_team_row *rows = calloc(n + 1, sizeof *rows);
    if (!rows) return -1;
    const json_t *o;
    json_array_foreach(list, i, o) {
        copy_text(rows[i].name, o, "name");
        copy_text(rows[i].parent, o, "parent");
        double weight = json_number_value(json_object_get(o, "weight"));
        rows[i].team = (mull_policy_team){.parent = -1,
                                          .weight = weight > 0 ? weight : 1,
                                          .used = json_number_value(json_object_get(o, "used")),
                                          .nominal = limit_of(o, "nominal"),
                                          .borrow = limit_of(o, "borrow"),
                                          .lend = limit_of(o, "lend")};
    }
    int rc = mull_queue_set_teams(&l->queue, rows, n);
    free(rows);
    return rc;
}

static void put_usage(mull_leader *l, const json_t *list) {
    size_t i;
    const json_t *o;
    json_array_foreach(list, i, o) {
        char team[MULL_NAME_MAX], user[MULL_NAME_MAX];
        copy_text(team, o, "team");
        copy_text(user, o, "user");
        int32_t u = mull_queue_user(&l->queue, team, user);
        if (u >= 0) l->queue.users[u].used = json_number_value(json_object_get(o, "used"));
    }
}

static void on_teams(const mull_pg_reply *r, void *arg) {
    mull_lead_call *c = arg;
    uint64_t mark = c->mark;
    mull_leader *l;
    void *data;
    if (!mull__lead_current(c, &l, &data)) return;
    bool newest = mark == l->teams_asked;
    if (newest) l->teams_answered = mark; /* also when it failed: the old quotas stand until the next reconcile */
    if (mull__lead_failed(l, r, "reading teams")) return;
    json_t *j = newest ? json_loads(PQgetvalue(r->res, 0, 0), 0, NULL) : NULL;
    if (j && put_teams(l, json_object_get(j, "teams")) == 0) put_usage(l, json_object_get(j, "users"));
    json_decref(j);
    if (l->state == MULL_LOADING) {
        l->usage_ms = l->usage_saved_ms = mull__now(l);
        mull__refetch_nodes(l);
        return;
    }
    mull__kick(l);
}

void mull__refetch_teams(mull_leader *l) {
    char half_life[16];
    snprintf(half_life, sizeof half_life, "%d", MULL_HALF_LIFE_S);
    const char *params[] = {l->term_text, half_life, l->state == MULL_LOADING ? "t" : "f"};
    mull_lead_call *c = mull__lead_call(l, NULL);
    if (!c) {
        mull__step_down(l, "out of memory");
        return;
    }
    c->mark = ++l->teams_asked;
    mull_pg_query(l->cfg.pg, "SELECT mull_leader_teams($1::bigint, $2::float8, $3::boolean)", 3, params, on_teams, c);
}

/* ---- use ---- */

char *mull__usage_text(const mull_leader *l) {
    const mull_queue *q = &l->queue;
    const double least = 1e-9; /* what has decayed to nothing is left as it is */
    json_t *teams = json_array(), *users = json_array();
    for (size_t i = 0; i < q->team_count; i++)
        if (q->teams[i].used > least)
            json_array_append_new(teams,
                                  json_pack("{s:s, s:f}", "name", q->team_names[i].name, "used", q->teams[i].used));
    for (size_t i = 0; i < q->user_count; i++)
        if (q->users[i].used > least)
            json_array_append_new(users, json_pack("{s:s, s:s, s:f}", "team", q->team_names[q->users[i].team].name,
                                                   "user", q->user_names[i].name, "used", q->users[i].used));
    json_t *both = json_pack("{s:o, s:o}", "teams", teams, "users", users);
    char *text = json_dumps(both, JSON_COMPACT);
    json_decref(both);
    return text;
}

static void on_saved(const mull_pg_reply *r, void *arg) {
    mull_leader *l;
    void *data;
    if (mull__lead_current(arg, &l, &data)) mull__lead_failed(l, r, "writing down what was used");
}

void mull__usage_tick(mull_leader *l) {
    uint64_t now = mull__now(l);
    mull_queue_age_usage(&l->queue, (double)(now - l->usage_ms), MULL_HALF_LIFE_S * 1000.0);
    l->usage_ms = now;
    if (now - l->usage_saved_ms < MULL_SAVE_USAGE_MS) return;
    l->usage_saved_ms = now;
    char *text = mull__usage_text(l);
    const char *params[] = {l->term_text, text};
    if (text) mull__lead_query(l, "SELECT mull_save_usage($1::bigint, $2::jsonb)", 2, params, on_saved, NULL);
    free(text);
}

/* ---- preemption ---- */

bool mull__running_view(const mull_leader *l, mull_policy_running **running, mull_policy_place **places,
                        size_t *count) {
    const mull_queue *q = &l->queue;
    size_t most = 0, n = 0;
    for (size_t i = 0; i < q->attempt_count; i++) most += q->attempts[i].parts ? q->attempts[i].part_count : 1;
    mull_policy_running *out = calloc(q->attempt_count + 1, sizeof *out);
    mull_policy_place *at = calloc(most + 1, sizeof *at);
    *running = out;
    *places = at;
    *count = most;
    if (!out || !at) return false;
    int64_t now = mull__unix_ms();
    for (size_t i = 0; i < q->attempt_count; i++) {
        const mull_attempt *a = &q->attempts[i];
        int64_t started = a->started_ms ? a->started_ms : now;
        out[i] = (mull_policy_running){.started_ms = started,
                                       .saved_ms = a->saved_ms > started ? a->saved_ms : started,
                                       .ends_ms = a->time_limit_s > 0 ? started + a->time_limit_s * 1000 : 0,
                                       .first_place = (uint32_t)n,
                                       .place_count = a->parts ? (uint32_t)a->part_count : 1,
                                       .priority = a->priority,
                                       .user = a->user,
                                       .min_run_ms = a->min_run_ms,
                                       .preemptible = a->preemptible && a->started,
                                       .ending = a->preempted || a->cancel_requested || a->gang_stop};
        if (!a->parts) at[n++] = (mull_policy_place){a->node, a->gpus, a->slots};
        for (size_t k = 0; k < a->part_count; k++)
            at[n++] = (mull_policy_place){a->parts[k].node, a->parts[k].gpus, a->parts[k].slots};
    }
    return true;
}

bool mull__nominated(const mull_leader *l, int64_t job) {
    for (size_t i = 0; i < l->nominated_count; i++)
        if (l->nominated[i].job == job) return true;
    return false;
}

void mull__nominated_done(mull_leader *l, int64_t job) {
    for (size_t i = 0; i < l->nominated_count; i++) {
        if (l->nominated[i].job != job) continue;
        mull_queue_nominate(&l->queue, job, false);
        l->nominated[i] = l->nominated[--l->nominated_count];
        return;
    }
}

void mull__nominations_expire(mull_leader *l) {
    uint64_t now = mull__now(l);
    for (size_t i = l->nominated_count; i-- > 0;)
        if (now >= l->nominated[i].until_ms) mull__nominated_done(l, l->nominated[i].job);
}

static void nominate(mull_leader *l, int64_t job) {
    if (mull__nominated(l, job) || l->nominated_count == MULL_NOMINATED) return;
    l->nominated[l->nominated_count].job = job;
    l->nominated[l->nominated_count++].until_ms = mull__now(l) + MULL_NOMINATED_MS;
    mull_queue_nominate(&l->queue, job, true);
}

typedef struct victims {
    size_t n;
    int64_t fences[MULL_PREEMPT_BATCH];
} victims;

static void on_preempted(const mull_pg_reply *r, void *arg) {
    mull_leader *l;
    void *data;
    bool current = mull__lead_current(arg, &l, &data);
    victims *v = data;
    if (current) {
        bool failed = mull__lead_failed(l, r, "preempting");
        /* Whoever was not noted (it has ended, its preemptor was cancelled) is no longer counted on. */
        for (size_t i = 0; i < v->n; i++) {
            mull_attempt *a = mull_queue_attempt(&l->queue, v->fences[i]);
            if (!a) continue;
            bool noted = false;
            for (int k = 0; !failed && k < PQntuples(r->res); k++)
                noted |= atoll(PQgetvalue(r->res, k, 0)) == v->fences[i];
            a->preempted = noted;
            if (!noted) continue;
            mull__send_cancel(l, a, "preempt");
            l->stats.preempted++;
        }
    }
    free(v);
}

void mull__preempt_for(mull_leader *l, const mull_policy_out *out) {
    if (out->preempt_count == 0) return;
    victims *v = calloc(1, sizeof *v);
    json_t *items = json_array();
    for (size_t i = 0; v && i < out->preempt_count; i++) {
        const mull_policy_preempt *p = &out->preempts[i];
        mull_attempt *a = &l->queue.attempts[p->victim];
        int64_t by = l->queue.jobs[p->job].id;
        json_array_append_new(items, json_pack("{s:I, s:I, s:s}", "fence", (json_int_t)a->fence, "by", (json_int_t)by,
                                               "reason", p->reclaim ? "reclaim" : "priority"));
        v->fences[v->n++] = a->fence;
        a->preempted = true;
        nominate(l, by);
        mull_log(MULL_LOG_INFO, "job %lld is preempted for job %lld (%s)", (long long)a->job, (long long)by,
                 p->reclaim ? "reclaim" : "priority");
    }
    char *text = json_dumps(items, JSON_COMPACT);
    json_decref(items);
    const char *params[] = {l->term_text, text};
    if (v && text)
        mull__lead_query(l, "SELECT * FROM mull_preempt($1::bigint, $2::jsonb)", 2, params, on_preempted, v);
    else
        free(v); /* preempted stays set in memory: the next lead decides anew */
    free(text);
}
