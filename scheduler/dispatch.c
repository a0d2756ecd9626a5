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

/* What the ranks of one attempt know and nobody else: from the boots of its nodes, which only they and the leaders
 * know, so that every leader says the same. False without memory. */
static bool gang_secret(const mull_attempt *a, char out[65]) {
    char *text = NULL;
    size_t size;
    FILE *m = open_memstream(&text, &size);
    if (!m) return false;
    fprintf(m, "mull gang %lld", (long long)a->fence);
    for (size_t i = 0; i < a->part_count; i++) fprintf(m, " %s", a->parts[i].boot);
    bool ok = fclose(m) == 0 && mull__secret_sum(text, out);
    free(text);
    return ok;
}

/* How the ranks of a gang find each other: rank 0 listens at master, on a port that hardly two gangs share. */
static json_t *gang_json(const mull_leader *l, const mull_attempt *a, size_t part) {
    enum { FIRST_PORT = 20000, PORTS = 10000 };
    const mull_node *head = &l->queue.nodes[a->parts[0].node];
    int first = 0, world = 0;
    char secret[65] = "";
    if (!gang_secret(a, secret)) return NULL;
    json_t *nodes = json_array();
    for (size_t i = 0; i < a->part_count; i++) {
        int ranks = (int)(a->parts[i].gpus + a->parts[i].slots);
        if (i < part) first += ranks;
        world += ranks;
        json_array_append_new(nodes, json_string(l->queue.nodes[a->parts[i].node].name));
    }
    return json_pack("{s:i, s:i, s:i, s:i, s:o, s:s, s:i, s:s}", "first_rank", first, "world_size", world, "node_rank",
                     (int)part, "node_count", (int)a->part_count, "nodes", nodes, "master_addr",
                     head->address[0] ? head->address : head->name, "master_port", FIRST_PORT + (int)(a->fence % PORTS),
                     "secret", secret);
}

static void send_start_to(mull_leader *l, const mull_attempt *a, uint32_t node, const char *boot, json_t *spec,
                          json_t *gang) {
    mull__inbox(l, boot,
                json_pack("{s:i, s:s, s:o, s:i, s:I, s:I, s:i, s:I, s:i, s:o, s:O, s:o*}", "v", 1, "type", "start",
                          "job", id_json(a->job), "attempt", (int)a->attempt, "fence", (json_int_t)a->fence, "term",
                          (json_int_t)l->term, "lease_s", l->cfg.node_timeout_s * 2 / 3, "time_limit_s",
                          (json_int_t)a->time_limit_s, "grace_s", MULL_GRACE_S, "devices",
                          devices_json(&l->queue, node, a->fence), "spec", spec, "gang", gang));
}

void mull__send_start(mull_leader *l, mull_attempt *a, const char *spec_text) {
    json_t *spec = json_loads(spec_text, 0, NULL);
    if (!spec) {
        mull_log(MULL_LOG_ERROR, "the spec of job %lld cannot be read; it will not start", (long long)a->job);
        return;
    }
    json_object_set_new(spec, "attempt", json_integer(a->attempt));
    json_object_set_new(spec, "fence", json_integer(a->fence));
    if (!a->parts) send_start_to(l, a, a->node, a->boot, spec, NULL);
    for (size_t i = 0; i < a->part_count; i++) {
        if (a->parts[i].started || a->parts[i].ended) continue;
        json_t *gang = gang_json(l, a, i); /* without memory it is sent again later */
        if (gang) send_start_to(l, a, a->parts[i].node, a->parts[i].boot, spec, gang);
    }
    json_decref(spec);
    a->sent_ms = mull__now(l);
}

static void send_cancel_to(mull_leader *l, const mull_attempt *a, const char *boot, const char *reason) {
    mull__inbox(l, boot,
                json_pack("{s:i, s:s, s:o, s:I, s:s, s:i}", "v", 1, "type", "cancel", "job", id_json(a->job), "fence",
                          (json_int_t)a->fence, "reason", reason, "grace_s", MULL_GRACE_S));
}

void mull__send_cancel(mull_leader *l, mull_attempt *a, const char *reason) {
    uint64_t now = mull__now(l);
    if (a->cancel_ms && now - a->cancel_ms < MULL_RESEND_MS) return;
    a->cancel_ms = now ? now : 1;
    if (!a->parts) send_cancel_to(l, a, a->boot, reason);
    for (size_t i = 0; i < a->part_count; i++)
        if (!a->parts[i].ended) send_cancel_to(l, a, a->parts[i].boot, reason);
}

/* ---- the statement ---- */

typedef struct planned {
    mull_policy_job job; /* of an array: the array, until the answer says which task it is */
    int64_t holder;      /* negative: holds the devices in place of the fence to come */
    size_t first, count; /* places in the plan */
} planned;

typedef struct plan_place {
    mull_policy_place at;
    char boot[MULL_BOOT_MAX];
} plan_place;

typedef struct plan {
    size_t n;
    plan_place *places;
    planned items[];
} plan;

static void plan_free(plan *p) {
    if (p) free(p->places);
    free(p);
}

/* Gives the placeholder's devices to the true fence, or frees them (0). */
static void settle(mull_queue *q, const plan *p, const planned *it, int64_t fence) {
    for (size_t k = 0; k < it->count; k++)
        mull_queue_rename_holder(q, p->places[it->first + k].at.node, it->holder, fence);
}

/* One attempt of the answer into memory. NULL without memory: reconcile reads it. */
static mull_attempt *hold(mull_leader *l, const plan *p, const planned *it, const PGresult *res, int row) {
    const plan_place *head = &p->places[it->first];
    mull_attempt a = {.fence = atoll(PQgetvalue(res, row, 2)),
                      .job = atoll(PQgetvalue(res, row, 0)),
                      .attempt = atoi(PQgetvalue(res, row, 1)),
                      .node = head->at.node,
                      .time_limit_s = atoll(PQgetvalue(res, row, 3)),
                      .user = it->job.user,
                      .priority = it->job.priority,
                      .preemptible = PQgetvalue(res, row, 5)[0] == 't',
                      .min_run_ms = mull__min_run_ms(PQgetvalue(res, row, 6))};
    memcpy(a.boot, head->boot, sizeof a.boot);
    if (it->count > 1) {
        a.parts = calloc(it->count, sizeof *a.parts);
        if (!a.parts) return NULL;
        a.part_count = it->count;
    }
    for (size_t k = 0; k < it->count; k++) {
        const plan_place *at = &p->places[it->first + k];
        int32_t units = mull_policy_units(&at->at), gpus = at->at.gpus > 0 ? units : 0;
        a.gpus += gpus;
        a.slots += units - gpus;
        if (!a.parts) continue;
        a.parts[k] = (mull_part){.node = at->at.node, .gpus = gpus, .slots = units - gpus};
        memcpy(a.parts[k].boot, at->boot, sizeof at->boot);
    }
    settle(&l->queue, p, it, a.fence);
    return mull_queue_put_attempt(&l->queue, &a);
}

static void on_dispatched(const mull_pg_reply *r, void *arg) {
    mull_leader *l;
    void *data;
    bool current = mull__lead_current(arg, &l, &data);
    plan *p = data;
    if (!current) {
        plan_free(p);
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
                settle(&l->queue, p, &p->items[i], 0);
                ids[i] = p->items[i].job.id;
            }
            mull__reconcile(l);
            mull__refetch(l, ids, p->n);
        }
        plan_free(p);
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
            settle(&l->queue, p, it, 0);
            refused = true;
            continue;
        }
        mull__nominated_done(l, it->job.id);
        mull_attempt *held = hold(l, p, it, r->res, row);
        if (!held) {
            mull_log(MULL_LOG_ERROR, "out of memory; job %lld starts with the next reconcile", (long long)it->job.id);
            continue;
        }
        mull__send_start(l, held, PQgetvalue(r->res, row, 4));
        l->stats.dispatched++;
    }
    plan_free(p);
    mull__refetch(l, again, agains);
    if (refused) mull__refetch_nodes(l);
    mull__kick(l);
}

/* Takes the devices of one place and says which: {"kind","index"} each, with the node's name where several are meant.
 */
static json_t *take_devices(mull_leader *l, const plan_place *at, int64_t holder) {
    mull_queue *q = &l->queue;
    mull_device picked[MULL_MAX_DEVICES];
    size_t n = mull_queue_pick(q, &at->at, picked);
    for (size_t k = 0; k < n; k++) mull_queue_hold(q, at->at.node, picked[k].cuda, picked[k].index, holder);
    return devices_json(q, at->at.node, holder);
}

/* An item of mull_dispatch. */
static json_t *item_json(mull_leader *l, plan *p, planned *it, size_t i) {
    const mull_node *nodes = l->queue.nodes;
    json_t *item = json_pack("{s:i, s:I, s:b}", "i", (int)i, "job", (json_int_t)it->job.id, "array", it->job.array);
    for (size_t k = 0; k < it->count; k++) {
        plan_place *at = &p->places[it->first + k];
        memcpy(at->boot, nodes[at->at.node].boot, sizeof at->boot);
    }
    if (it->count == 1) {
        const plan_place *at = &p->places[it->first];
        json_object_set_new(item, "node", json_string(nodes[at->at.node].name));
        json_object_set_new(item, "boot", json_string(at->boot));
        json_object_set_new(item, "devices", take_devices(l, at, it->holder));
        return item;
    }
    char names[1024] = "";
    json_t *parts = json_array(), *all = json_array();
    for (size_t k = 0; k < it->count; k++) {
        const plan_place *at = &p->places[it->first + k];
        const char *name = nodes[at->at.node].name;
        json_t *devices = take_devices(l, at, it->holder), *d;
        size_t j;
        json_array_foreach(devices, j, d) {
            json_t *copy = json_copy(d);
            json_object_set_new(copy, "node", json_string(name));
            json_array_append_new(all, copy);
        }
        json_array_append_new(parts, json_pack("{s:s, s:s, s:o}", "node", name, "boot", at->boot, "devices", devices));
        size_t len = strlen(names);
        snprintf(names + len, sizeof names - len, "%s%s", k ? "," : "", name);
    }
    json_object_set_new(item, "node", json_string(names));
    json_object_set_new(item, "boot", json_string("gang"));
    json_object_set_new(item, "devices", all);
    json_object_set_new(item, "parts", parts);
    return item;
}

static void send_plan(mull_leader *l, plan *p) {
    json_t *items = json_array();
    bool arrays = false;
    for (size_t i = 0; i < p->n; i++) {
        planned *it = &p->items[i];
        it->holder = -(int64_t)i - 1;
        json_array_append_new(items, item_json(l, p, it, i));
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
    plan *p = calloc(1, sizeof *p + out->start_count * sizeof p->items[0]);
    if (p) p->places = calloc(out->place_count, sizeof *p->places);
    if (!p || !p->places) {
        plan_free(p);
        return;
    }
    p->n = out->start_count;
    for (size_t i = 0; i < out->place_count; i++) p->places[i].at = out->places[i];
    for (size_t i = 0; i < p->n; i++) {
        const mull_policy_start *s = &out->starts[i];
        p->items[i] = (planned){.job = l->queue.jobs[s->job], .first = s->first_place, .count = s->place_count};
    }
    send_plan(l, p);
}

static void pass(mull_leader *l) {
    mull_queue *q = &l->queue;
    uint64_t begin = uv_hrtime(), now = mull__now(l);
    if (reserve_reasons(l, q->job_count + 1) != 0) return;
    mull_policy_start starts[MULL_DISPATCH_BATCH];
    mull_policy_place places[MULL_DISPATCH_PLACES];
    mull_policy_preempt preempts[MULL_PREEMPT_BATCH];
    mull_policy_running *running = NULL;
    mull_policy_place *held = NULL;
    size_t held_count = 0;
    mull_policy_node *nodes = calloc(q->node_count + 1, sizeof *nodes);
    bool want_reasons = l->reasons_wanted && now - l->last_reasons_ms >= 1000;
    if (!nodes || !mull__running_view(l, &running, &held, &held_count)) goto out;
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
                         .place_count = held_count,
                         .now_ms = mull__unix_ms()};
    mull_policy_out out = {.starts = starts,
                           .max_starts = MULL_DISPATCH_BATCH,
                           .places = places,
                           .max_places = MULL_DISPATCH_PLACES,
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
