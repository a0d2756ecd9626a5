/* The dispatch loop: when something changed, one policy pass over memory, one statement for everything it decided,
 * then the start messages. One statement is under way at a time, so memory never decides the same job twice; while it
 * runs, its jobs are out of the pending set and its devices are held under a negative number of the plan. */
#include "scheduler/leader_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void on_pass(uv_idle_t *h);
static void on_wake(uv_timer_t *t);

void mull__kick(mull_leader *l) {
    if (l->state == MULL_LEADING && !l->dispatching && !l->reconciling && !l->closing &&
        l->teams_answered == l->teams_asked && mull__now(l) >= l->paused_until_ms &&
        !uv_is_active((uv_handle_t *)&l->pass))
        uv_idle_start(&l->pass, on_pass);
}

/* ---- messages to workers ---- */

static json_t *devices_json(const mull_queue *q, uint32_t node, int64_t fence) {
    json_t *list = json_array();
    const mull_node *n = &q->nodes[node];
    for (size_t i = 0; list && i < n->device_count; i++)
        if (n->devices[i].fence == fence)
            json_array_append_new(list, json_pack("{s:s, s:i}", "kind", n->devices[i].cuda ? "cuda" : "cpu", "index",
                                                  (int)n->devices[i].index));
    return list;
}

static json_t *id_json(int64_t id) {
    char text[24];
    snprintf(text, sizeof text, "%lld", (long long)id);
    return json_string(text);
}

void mull__send_start(mull_leader *l, mull_attempt *a, const char *spec_text) {
    json_t *spec = json_loads(spec_text, 0, NULL);
    if (!spec) {
        mull_log(MULL_LOG_ERROR, "the spec of job %lld cannot be read; it will not start", (long long)a->job);
        return;
    }
    json_object_set_new(spec, "attempt", json_integer(a->attempt));
    json_object_set_new(spec, "fence", json_integer(a->fence));
    mull__inbox(l, a->boot,
                json_pack("{s:i, s:s, s:o, s:i, s:I, s:I, s:i, s:I, s:i, s:o, s:o}", "v", 1, "type", "start", "job",
                          id_json(a->job), "attempt", (int)a->attempt, "fence", (json_int_t)a->fence, "term",
                          (json_int_t)l->term, "lease_s", MULL_ATTEMPT_LEASE_S, "time_limit_s",
                          (json_int_t)a->time_limit_s, "grace_s", MULL_GRACE_S, "devices",
                          devices_json(&l->queue, a->node, a->fence), "spec", spec));
    a->sent_ms = mull__now(l);
}

void mull__send_cancel(mull_leader *l, mull_attempt *a, const char *reason) {
    uint64_t now = mull__now(l);
    if (a->cancel_ms && now - a->cancel_ms < MULL_RESEND_MS) return;
    a->cancel_ms = now ? now : 1;
    mull__inbox(l, a->boot,
                json_pack("{s:i, s:s, s:o, s:I, s:s, s:i}", "v", 1, "type", "cancel", "job", id_json(a->job), "fence",
                          (json_int_t)a->fence, "reason", reason, "grace_s", MULL_GRACE_S));
}

/* ---- the statement ---- */

typedef struct planned {
    mull_policy_job job; /* of an array: the array, until the answer says which task it is */
    int64_t holder;      /* negative: holds the devices in place of the fence to come */
    uint32_t node;
    int32_t gpus; /* devices of kind cuda; 0 = a CPU slot */
    char boot[MULL_BOOT_MAX];
} planned;

typedef struct plan {
    size_t n;
    planned items[];
} plan;

/* Moves the placeholder's devices to the true fence, or frees them (fence 0). */
static void rename_holder(mull_queue *q, uint32_t node, int64_t from, int64_t to) {
    mull_node *n = &q->nodes[node];
    for (size_t i = 0; i < n->device_count; i++)
        if (n->devices[i].fence == from) n->devices[i].fence = to;
}

static void on_dispatched(const mull_pg_reply *r, void *arg) {
    mull_leader *l;
    void *data;
    bool current = mull__lead_current(arg, &l, &data);
    plan *p = data;
    if (!current) {
        free(p);
        return;
    }
    l->dispatching = false;
    if (mull__lead_failed(l, r, "dispatch")) {
        if (l->state == MULL_LEADING) {
            l->paused_until_ms = mull__now(l) + MULL_PAUSE_MS;
            uv_timer_start(&l->wake, on_wake, MULL_PAUSE_MS, 0);
            /* Whether it was committed is not known: free the devices and let reconcile read what is true. */
            int64_t ids[MULL_DISPATCH_BATCH];
            for (size_t i = 0; i < p->n; i++) {
                rename_holder(&l->queue, p->items[i].node, p->items[i].holder, 0);
                ids[i] = p->items[i].job.id;
            }
            mull__reconcile(l);
            mull__refetch(l, ids, p->n);
        }
        free(p);
        return;
    }
    bool refused = false;
    int rows = PQntuples(r->res), next = 0; /* rows come in the order of the items; column i says of which */
    int64_t again[MULL_DISPATCH_BATCH];     /* to be read again: what was refused, and arrays for what they have left */
    size_t agains = 0;
    for (size_t i = 0; i < p->n; i++) {
        const planned *it = &p->items[i];
        int row = next;
        bool started = row < rows && atoll(PQgetvalue(r->res, row, 7)) == (long long)i;
        next += started;
        if ((!started || it->job.array) && (agains == 0 || again[agains - 1] != it->job.id))
            again[agains++] = it->job.id;
        if (!started) { /* no longer pending, or the node has started anew */
            rename_holder(&l->queue, it->node, it->holder, 0);
            refused = true;
            continue;
        }
        mull_attempt a = {.fence = atoll(PQgetvalue(r->res, row, 2)),
                          .job = atoll(PQgetvalue(r->res, row, 0)),
                          .attempt = atoi(PQgetvalue(r->res, row, 1)),
                          .node = it->node,
                          .time_limit_s = atoll(PQgetvalue(r->res, row, 3)),
                          .user = it->job.user,
                          .priority = it->job.priority,
                          .gpus = it->gpus,
                          .preemptible = PQgetvalue(r->res, row, 5)[0] == 't',
                          .min_run_ms = mull__min_run_ms(PQgetvalue(r->res, row, 6))};
        mull__nominated_done(l, it->job.id);
        memcpy(a.boot, it->boot, sizeof a.boot);
        rename_holder(&l->queue, it->node, it->holder, a.fence);
        mull_attempt *held = mull_queue_put_attempt(&l->queue, &a);
        if (!held) {
            mull_log(MULL_LOG_ERROR, "out of memory; attempt %lld starts with the next reconcile", (long long)a.fence);
            continue;
        }
        mull__send_start(l, held, PQgetvalue(r->res, row, 4));
        l->stats.dispatched++;
    }
    free(p);
    mull__refetch(l, again, agains);
    if (refused) mull__refetch_nodes(l);
    mull__kick(l);
}

static void send_plan(mull_leader *l, plan *p) {
    json_t *items = json_array();
    bool arrays = false;
    for (size_t i = 0; i < p->n; i++) {
        planned *it = &p->items[i];
        it->holder = -(int64_t)i - 1;
        mull_device picked[MULL_MAX_DEVICES];
        size_t n = mull_queue_pick(&l->queue, it->node, it->gpus, picked);
        for (size_t k = 0; k < n; k++)
            mull_queue_hold(&l->queue, it->node, picked[k].cuda, picked[k].index, it->holder);
        memcpy(it->boot, l->queue.nodes[it->node].boot, sizeof it->boot);
        json_array_append_new(items,
                              json_pack("{s:i, s:I, s:b, s:s, s:s, s:o}", "i", (int)i, "job", (json_int_t)it->job.id,
                                        "array", it->job.array, "node", l->queue.nodes[it->node].name, "boot", it->boot,
                                        "devices", devices_json(&l->queue, it->node, it->holder)));
        arrays |= it->job.array;
        if (it->job.array)
            mull_queue_take_tasks(&l->queue, it->job.id, 1);
        else
            mull_queue_del_job(&l->queue, it->job.id);
    }
    char *text = json_dumps(items, JSON_COMPACT);
    json_decref(items);
    const char *params[] = {l->term_text, text};
    l->dispatching = true;
    mull__lead_query(l,
                     arrays ? "SELECT * FROM mull_dispatch($1::bigint, mull__array_items($1::bigint, $2::jsonb))"
                            : "SELECT * FROM mull_dispatch($1::bigint, $2::jsonb)",
                     2, params, on_dispatched, p);
    free(text);
}

/* ---- reasons ---- */

static void on_reasons(const mull_pg_reply *r, void *arg) {
    mull_leader *l;
    void *data;
    if (mull__lead_current(arg, &l, &data)) mull__lead_failed(l, r, "reasons");
}

/* Writes down at most a few thousand changed reasons a second: ps and why are for people. */
static void write_reasons(mull_leader *l) {
    enum { MOST = 2000 };
    mull_queue *q = &l->queue;
    char *ids = malloc(MOST * 21 + 3), *words = malloc(MOST * 16 + 3);
    size_t n = 0, a = 0, b = 0;
    bool more = false;
    for (size_t i = 0; ids && words && i < q->job_count; i++) {
        mull_policy_job *j = &q->jobs[i];
        if (l->reasons[i] == j->reason || l->reasons[i] == MULL_WHY_NONE) continue;
        if (n == MOST) {
            more = true;
            break;
        }
        j->reason = l->reasons[i];
        a += (size_t)sprintf(ids + a, "%c%lld", n ? ',' : '{', (long long)j->id);
        b += (size_t)sprintf(words + b, "%c%s", n ? ',' : '{', mull_why_name(j->reason));
        n++;
    }
    if (n > 0) {
        strcpy(ids + a, "}");
        strcpy(words + b, "}");
        const char *params[] = {l->term_text, ids, words};
        mull__lead_query(l, "SELECT mull_set_reasons($1::bigint, $2::bigint[], $3::text[])", 3, params, on_reasons,
                         NULL);
    }
    free(ids);
    free(words);
    l->reasons_wanted = more;
    l->last_reasons_ms = mull__now(l);
}

/* ---- the pass ---- */

static void on_wake(uv_timer_t *t) {
    mull__kick(t->data);
}

static int reserve_reasons(mull_leader *l, size_t n) {
    if (n <= l->reasons_cap) return 0;
    uint8_t *reasons = realloc(l->reasons, n * 2);
    if (!reasons) return -1;
    l->reasons = reasons;
    l->reasons_cap = n * 2;
    return 0;
}

/* What the pass decided to start, in one statement. */
static void start_all(mull_leader *l, const mull_policy_out *out) {
    if (out->start_count == 0) return;
    plan *p = malloc(sizeof *p + out->start_count * sizeof p->items[0]);
    if (!p) return;
    p->n = out->start_count;
    for (size_t i = 0; i < p->n; i++) {
        const mull_policy_start *s = &out->starts[i];
        const mull_policy_place *at = &out->places[s->first_place];
        p->items[i] = (planned){.job = l->queue.jobs[s->job], .node = at->node, .gpus = at->gpus};
    }
    send_plan(l, p);
}

static void pass(mull_leader *l) {
    mull_queue *q = &l->queue;
    uint64_t begin = uv_hrtime(), now = mull__now(l);
    if (reserve_reasons(l, q->job_count + 1) != 0) return;
    mull_policy_start starts[MULL_DISPATCH_BATCH];
    mull_policy_place places[MULL_DISPATCH_BATCH]; /* one each: attempts on several nodes are not made yet */
    mull_policy_preempt preempts[MULL_PREEMPT_BATCH];
    mull_policy_running *running = NULL;
    mull_policy_place *held = NULL;
    mull_policy_node *nodes = calloc(q->node_count + 1, sizeof *nodes);
    bool want_reasons = l->reasons_wanted && now - l->last_reasons_ms >= 1000;
    if (!nodes || !mull__running_view(l, &running, &held)) goto out;
    for (size_t i = 0; i < q->node_count; i++) nodes[i] = mull_queue_policy_node(q, (uint32_t)i);
    mull__nominations_expire(l);
    mull_policy_in in = {.teams = q->teams,
                         .team_count = q->team_count,
                         .users = q->users,
                         .user_count = q->user_count,
                         .jobs = q->jobs,
                         .job_count = q->job_count,
                         .nodes = nodes,
                         .node_count = q->node_count,
                         .running = running,
                         .running_count = q->attempt_count,
                         .places = held,
                         .place_count = q->attempt_count,
                         .now_ms = mull__unix_ms(),
                         .one_node = true};
    mull_policy_out out = {.starts = starts,
                           .max_starts = MULL_DISPATCH_BATCH,
                           .places = places,
                           .max_places = MULL_DISPATCH_BATCH,
                           .preempts = preempts,
                           .max_preempts = MULL_PREEMPT_BATCH,
                           .reasons = want_reasons ? l->reasons : NULL};
    if (mull_policy_run(l->policy, &in, &out) != 0) goto out;
    l->stats.passes++;
    l->stats.last_pass_ms = (double)(uv_hrtime() - begin) / 1e6;
    if (want_reasons) write_reasons(l);
    /* The next look: when a job becomes eligible, or when reasons may be written again. */
    uint64_t delay = UINT64_MAX;
    if (out.next_ms) delay = (uint64_t)(out.next_ms - in.now_ms) + 1;
    if (l->reasons_wanted && delay > 1000) delay = 1000;
    if (delay != UINT64_MAX) uv_timer_start(&l->wake, on_wake, delay, 0);
    mull__preempt_for(l, &out); /* before the starts: they move jobs in the array */
    start_all(l, &out);
out:
    free(nodes);
    free(running);
    free(held);
}

static void on_pass(uv_idle_t *h) {
    mull_leader *l = h->data;
    uv_idle_stop(h);
    if (l->state == MULL_LEADING && !l->dispatching && !l->reconciling && l->teams_answered == l->teams_asked) pass(l);
}

void mull__dispatch_init(mull_leader *l) {
    uv_idle_init(l->cfg.loop, &l->pass);
    uv_timer_init(l->cfg.loop, &l->wake);
    l->pass.data = l->wake.data = l;
    l->open_handles += 2;
}

void mull__dispatch_reset(mull_leader *l) {
    l->dispatching = l->reconciling = false;
    uv_idle_stop(&l->pass);
    uv_timer_stop(&l->wake);
}
