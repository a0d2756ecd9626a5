/* Reconcile: memory, the workers and Redis are made to agree with PostgreSQL, at the start of a lead, every few
 * seconds, and after Redis or PostgreSQL were away. Whatever message was lost, this finds the difference. */
#include "scheduler/leader_internal.h"

#include "schema/event_line.h"
#include "schema/keys.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char PENDING_SQL[] = "SELECT * FROM mull_pending($1::bigint, $2::bigint[], $3::bigint, $4::int)";

/* "{1,2,3}"; NULL without memory. */
static char *array_text(const int64_t *ids, size_t n) {
    char *text = malloc(n * 21 + 3);
    size_t len = 1;
    if (!text) return NULL;
    text[0] = '{';
    for (size_t i = 0; i < n; i++) len += (size_t)sprintf(text + len, "%s%lld", i ? "," : "", (long long)ids[i]);
    strcpy(text + len, "}");
    return text;
}

/* ---- pending jobs ---- */

static mull_why why_of(const char *name) {
    for (int w = MULL_WHY_NONE; w <= MULL_WHY_ARRAY_LIMIT; w++)
        if (strcmp(mull_why_name((mull_why)w), name) == 0) return (mull_why)w;
    return MULL_WHY_NONE;
}

/* Puts the rows of mull_pending into memory; ids of jobs whose dependency can never be met go to never. */
static size_t put_rows(mull_leader *l, const PGresult *res, int64_t *never) {
    size_t hopeless = 0;
    for (int i = 0; i < PQntuples(res); i++) {
        const char *dep = PQgetvalue(res, i, 5);
        mull_policy_job j = {.id = atoll(PQgetvalue(res, i, 0)),
                             .priority = atoi(PQgetvalue(res, i, 1)),
                             .gpus = atoi(PQgetvalue(res, i, 2)),
                             .held = PQgetvalue(res, i, 3)[0] == 't',
                             .eligible_ms = atoll(PQgetvalue(res, i, 4)),
                             .dep = strcmp(dep, "met") == 0    ? MULL_DEP_MET
                                    : strcmp(dep, "wait") == 0 ? MULL_DEP_WAIT
                                                               : MULL_DEP_NEVER,
                             .avoid_node =
                                 PQgetisnull(res, i, 6) ? -1 : mull_queue_find_node(&l->queue, PQgetvalue(res, i, 6)),
                             .reason = (uint8_t)why_of(PQgetvalue(res, i, 7)),
                             .user = mull_queue_user(&l->queue, PQgetvalue(res, i, 8), PQgetvalue(res, i, 9)),
                             .time_limit_ms = atoll(PQgetvalue(res, i, 10)) * 1000,
                             .tasks = atoi(PQgetvalue(res, i, 11)),
                             .array = PQgetvalue(res, i, 12)[0] == 't',
                             .slots = atoi(PQgetvalue(res, i, 13)),
                             .labels = mull_queue_label_bits(&l->queue, PQgetvalue(res, i, 14)),
                             .nominated = mull__nominated(l, atoll(PQgetvalue(res, i, 0)))};
        if (j.dep == MULL_DEP_NEVER) never[hopeless++] = j.id;
        if (j.user < 0 || mull_queue_put_job(&l->queue, &j) != 0) {
            mull_log(MULL_LOG_ERROR, "out of memory with %zu pending jobs in memory; more wait in the database",
                     l->queue.job_count);
            break;
        }
    }
    l->reasons_wanted = true;
    return hopeless;
}

static void on_cancelled(const mull_pg_reply *r, void *arg) {
    mull_leader *l;
    void *data;
    if (!mull__lead_current(arg, &l, &data)) return;
    mull__lead_failed(l, r, "cancelling jobs whose dependency cannot be met");
}

/* A dependency that can never be met cancels its job, so that nobody waits for it for ever. */
static void cancel_unmeetable(mull_leader *l, const int64_t *ids, size_t n) {
    char *text = n ? array_text(ids, n) : NULL;
    if (!text) return;
    const char *params[] = {l->term_text, text};
    if (!l->viewing)
        mull__lead_query(l, "SELECT mull_cancel_unmeetable($1::bigint, $2::bigint[])", 2, params, on_cancelled, NULL);
    for (size_t i = 0; i < n; i++) mull_queue_del_job(&l->queue, ids[i]);
    free(text);
}

typedef struct id_list {
    size_t n;
    int64_t ids[];
} id_list;

static void on_refetched(const mull_pg_reply *r, void *arg) {
    mull_leader *l;
    void *data;
    bool current = mull__lead_current(arg, &l, &data);
    id_list *asked = data;
    if (current && !mull__lead_failed(l, r, "reading pending jobs")) {
        /* Absent rows are no longer pending. */
        for (size_t i = 0; i < asked->n; i++) mull_queue_del_job(&l->queue, asked->ids[i]);
        cancel_unmeetable(l, asked->ids, put_rows(l, r->res, asked->ids));
        mull__kick(l);
    }
    free(asked);
}

void mull__refetch(mull_leader *l, const int64_t *ids, size_t n) {
    if (n == 0) return;
    id_list *asked = malloc(sizeof *asked + n * sizeof *ids);
    char *text = array_text(ids, n), limit[24];
    if (!asked || !text) {
        free(asked);
        free(text);
        return; /* the slices will find them */
    }
    asked->n = n;
    memcpy(asked->ids, ids, n * sizeof *ids);
    snprintf(limit, sizeof limit, "%zu", n);
    const char *params[] = {l->term_text, text, "0", limit};
    mull__lead_query(l, PENDING_SQL, 4, params, on_refetched, asked);
    free(text);
}

static void read_slice(mull_leader *l);
static void read_cursor(mull_leader *l);
static void read_attempts(mull_leader *l);

static void on_slice(const mull_pg_reply *r, void *arg) {
    mull_leader *l;
    void *data;
    if (!mull__lead_current(arg, &l, &data)) return;
    if (mull__lead_failed(l, r, "reading pending jobs")) return;
    int rows = PQntuples(r->res);
    int64_t *ids = malloc(((size_t)rows + 1) * sizeof *ids), *absent = malloc(MULL_PENDING_SLICE * sizeof *absent);
    if (!ids || !absent) {
        free(ids);
        free(absent);
        mull__step_down(l, "out of memory");
        return;
    }
    for (int i = 0; i < rows; i++) ids[i] = atoll(PQgetvalue(r->res, i, 0));
    bool last = rows < MULL_PENDING_SLICE;
    int64_t to = last ? INT64_MAX : ids[rows - 1];
    /* Memory may be newer than this answer: what is absent in it is read once more before it is forgotten. */
    mull__refetch(
        l, absent,
        mull_queue_missing_jobs(&l->queue, l->slice_after, to, ids, (size_t)rows, absent, MULL_PENDING_SLICE));
    free(absent);
    cancel_unmeetable(l, ids, put_rows(l, r->res, ids));
    free(ids);
    l->slice_after = last ? 0 : to;
    if (l->state == MULL_LOADING) {
        if (!last) {
            read_slice(l);
            return;
        }
        if (l->viewing)
            mull__view_loaded(l);
        else
            read_cursor(l);
        return;
    }
    mull__kick(l);
}

static void read_slice(mull_leader *l) {
    char after[24], limit[24];
    snprintf(after, sizeof after, "%lld", (long long)l->slice_after);
    snprintf(limit, sizeof limit, "%d", MULL_PENDING_SLICE);
    const char *params[] = {l->term_text, NULL, after, limit};
    mull__lead_query(l, PENDING_SQL, 4, params, on_slice, NULL);
}

/* Jobs younger than all that is known: their hints were lost, and the slices of a long queue come late. */
static void on_newest(const mull_pg_reply *r, void *arg) {
    mull_leader *l;
    void *data;
    if (!mull__lead_current(arg, &l, &data) || mull__lead_failed(l, r, "reading new jobs")) return;
    int64_t *ids = malloc(((size_t)PQntuples(r->res) + 1) * sizeof *ids);
    if (ids) cancel_unmeetable(l, ids, put_rows(l, r->res, ids));
    free(ids);
    mull__kick(l);
}

static void read_newest(mull_leader *l) {
    char after[24], limit[24];
    snprintf(after, sizeof after, "%lld", (long long)l->queue.newest_id);
    snprintf(limit, sizeof limit, "%d", MULL_PENDING_SLICE);
    const char *params[] = {l->term_text, NULL, after, limit};
    mull__lead_query(l, PENDING_SQL, 4, params, on_newest, NULL);
}

/* ---- nodes ---- */

static size_t parse_devices(const char *text, mull_device *out) {
    json_t *list = json_loads(text, 0, NULL), *d;
    size_t n = 0, i;
    json_array_foreach(list, i, d) {
        const char *kind = json_string_value(json_object_get(d, "kind"));
        if (kind && n < MULL_MAX_DEVICES)
            out[n++] =
                (mull_device){strcmp(kind, "cuda") == 0, (int32_t)json_integer_value(json_object_get(d, "index")), 0};
    }
    json_decref(list);
    return n;
}

/* Words of a JSON list, each ended by a newline. */
static void put_labels(mull_leader *l, uint32_t node, const char *list) {
    enum { MOST = 16384 };
    json_t *words = json_loads(list, 0, NULL), *w;
    char *text = malloc(MOST);
    size_t i, n = 0;
    json_array_foreach(words, i, w) {
        size_t len = json_string_length(w);
        if (!text || len == 0 || len >= MULL_NAME_MAX || n + len + 2 > MOST || strchr(json_string_value(w), '\n'))
            continue;
        memcpy(text + n, json_string_value(w), len);
        text[n + len] = '\n';
        n += len + 1;
    }
    if (text) {
        text[n] = 0;
        mull_queue_label_node(&l->queue, node, text);
    }
    free(text);
    json_decref(words);
}

static void put_nodes(mull_leader *l, const PGresult *res) {
    for (int i = 0; i < PQntuples(res); i++) {
        mull_device devices[MULL_MAX_DEVICES];
        size_t n = parse_devices(PQgetvalue(res, i, 3), devices);
        int32_t known = mull_queue_find_node(&l->queue, PQgetvalue(res, i, 0));
        bool new_boot = known < 0 || strcmp(l->queue.nodes[known].boot, PQgetvalue(res, i, 1)) != 0;
        int32_t at = mull_queue_put_node(&l->queue, PQgetvalue(res, i, 0), PQgetvalue(res, i, 1), devices, n);
        if (at < 0) continue;
        mull_node *node = &l->queue.nodes[at];
        const char *state = PQgetvalue(res, i, 2);
        bool up = strcmp(state, "DOWN") != 0;
        if (up && (new_boot || !node->up)) {
            node->seen_ms = mull__now(l);
            node->seen_at = 0;
        }
        node->up = up;
        node->drained = strncmp(state, "DRAIN", 5) == 0;
        snprintf(node->address, sizeof node->address, "%s", PQgetvalue(res, i, 4));
        node->closes_ms = atoll(PQgetvalue(res, i, 6));
        put_labels(l, (uint32_t)at, PQgetvalue(res, i, 5));
    }
}

static void on_nodes(const mull_pg_reply *r, void *arg) {
    mull_lead_call *c = arg;
    uint64_t mark = c->mark;
    mull_leader *l;
    void *data;
    if (!mull__lead_current(c, &l, &data)) return;
    if (mull__lead_failed(l, r, "reading nodes")) return;
    /* Answers of several connections may overtake each other: an older question must not bring an old boot back. */
    if (mark > l->nodes_answered) {
        l->nodes_answered = mark;
        put_nodes(l, r->res);
    }
    if (l->state == MULL_LOADING)
        read_attempts(l);
    else
        mull__kick(l);
}

void mull__refetch_nodes(mull_leader *l) {
    const char *params[] = {l->term_text};
    mull_lead_call *c = mull__lead_call(l, NULL);
    if (!c) {
        mull__step_down(l, "out of memory");
        return;
    }
    c->mark = ++l->nodes_asked;
    mull_pg_query(l->cfg.pg, "SELECT * FROM mull_leader_nodes($1::bigint)", 1, params, on_nodes, c);
}

/* ---- attempts under way ---- */

static int compare_fences(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

int32_t mull__min_run_ms(const char *seconds) {
    long long s = atoll(seconds);
    return s > INT32_MAX / 1000 ? INT32_MAX : (int32_t)(s * 1000);
}

static void hold_devices(mull_leader *l, mull_attempt *a, uint32_t node, const char *list) {
    mull_device held[MULL_MAX_DEVICES];
    size_t n = parse_devices(list, held);
    for (size_t k = 0; k < n; k++) {
        mull_queue_hold(&l->queue, node, held[k].cuda, held[k].index, a->fence);
        a->gpus += held[k].cuda;
        a->slots += !held[k].cuda;
    }
}

/* The parts of a gang, whose devices are then held. 0, or -1: without memory, or a node is not known. */
static int read_parts(mull_leader *l, const char *text, mull_attempt *a) {
    json_t *list = json_loads(text, 0, NULL), *p;
    size_t i, n = json_array_size(list);
    a->parts = n ? calloc(n, sizeof *a->parts) : NULL;
    a->part_count = a->parts ? n : 0;
    int rc = a->parts ? 0 : -1;
    json_array_foreach(list, i, p) {
        const char *name = json_string_value(json_object_get(p, "node"));
        const char *boot = json_string_value(json_object_get(p, "boot"));
        int32_t node = name ? mull_queue_find_node(&l->queue, name) : -1;
        if (rc != 0 || node < 0 || !boot) {
            rc = -1;
            break;
        }
        mull_part *part = &a->parts[i];
        *part = (mull_part){.node = (uint32_t)node,
                            .started = json_is_true(json_object_get(p, "started")),
                            .ended = json_is_true(json_object_get(p, "ended"))};
        snprintf(part->boot, sizeof part->boot, "%s", boot);
        char *devices = json_dumps(json_object_get(p, "devices"), JSON_COMPACT);
        mull_attempt count = {.fence = a->fence};
        if (devices) hold_devices(l, &count, part->node, devices);
        free(devices);
        part->gpus = count.gpus;
        part->slots = count.slots;
    }
    json_decref(list);
    if (rc == 0) return 0;
    free(a->parts);
    a->parts = NULL;
    a->part_count = 0;
    return -1;
}

/* Rows of mull_live_attempts, ascending by fence, against memory. No dispatch is under way and the recorder ended
 * nothing since the question was asked, so both sides speak of the same moment. */
static void sync_attempts(mull_leader *l, const PGresult *res) {
    int rows = PQntuples(res);
    int64_t *fences = malloc(((size_t)rows + 1) * sizeof *fences);
    if (!fences) return;
    uint64_t now = mull__now(l);
    for (int i = 0; i < rows; i++) {
        fences[i] = atoll(PQgetvalue(res, i, 0));
        mull_attempt fresh = {.fence = fences[i],
                              .job = atoll(PQgetvalue(res, i, 1)),
                              .attempt = atoi(PQgetvalue(res, i, 2)),
                              .time_limit_s = atoll(PQgetvalue(res, i, 7))};
        bool gang = !PQgetisnull(res, i, 19);
        fresh.user = mull_queue_user(&l->queue, PQgetvalue(res, i, 11), PQgetvalue(res, i, 12));
        if (fresh.user < 0 || (gang && read_parts(l, PQgetvalue(res, i, 19), &fresh) != 0)) continue;
        int32_t node = gang ? (int32_t)fresh.parts[0].node : mull_queue_find_node(&l->queue, PQgetvalue(res, i, 3));
        if (node < 0) continue;
        fresh.node = (uint32_t)node;
        snprintf(fresh.boot, sizeof fresh.boot, "%s", PQgetvalue(res, i, 4));
        mull_attempt *a = mull_queue_attempt(&l->queue, fresh.fence);
        if (a && gang) { /* what is known of its parts now; since when one is missing stays */
            for (size_t k = 0; k < fresh.part_count && k < a->part_count; k++)
                fresh.parts[k].missing_ms = a->parts[k].missing_ms;
            free(a->parts);
            a->parts = fresh.parts;
            a->part_count = fresh.part_count;
        }
        if (!a) a = mull_queue_put_attempt(&l->queue, &fresh);
        if (!a) continue;
        a->started = PQgetvalue(res, i, 5)[0] == 't';
        a->cancel_requested = PQgetvalue(res, i, 6)[0] == 't';
        a->deadline_ms = atoll(PQgetvalue(res, i, 8));
        a->priority = atoi(PQgetvalue(res, i, 13));
        a->started_ms = atoll(PQgetvalue(res, i, 14));
        a->saved_ms = atoll(PQgetvalue(res, i, 15));
        a->preemptible = PQgetvalue(res, i, 16)[0] == 't';
        a->min_run_ms = mull__min_run_ms(PQgetvalue(res, i, 17));
        a->preempted |= !PQgetisnull(res, i, 18);
        a->gang_stop = PQgetvalue(res, i, 20)[0] == 't';
        a->gpus = a->slots = 0;
        if (!gang) hold_devices(l, a, a->node, PQgetvalue(res, i, 9));
        for (size_t k = 0; k < a->part_count; k++) {
            a->gpus += a->parts[k].gpus;
            a->slots += a->parts[k].slots;
        }
        if (l->viewing) continue;
        if (!a->started && !a->cancel_requested && !a->gang_stop && !PQgetisnull(res, i, 10) &&
            (a->sent_ms == 0 || now - a->sent_ms >= MULL_RESEND_MS))
            mull__send_start(l, a, PQgetvalue(res, i, 10));
        if (a->cancel_requested)
            mull__send_cancel(l, a, "cancel");
        else if (a->preempted)
            mull__send_cancel(l, a, "preempt");
        else if (a->gang_stop)
            mull__send_cancel(l, a, "gang");
    }
    for (size_t i = l->queue.attempt_count; i-- > 0;) {
        int64_t fence = l->queue.attempts[i].fence;
        if (rows == 0 || !bsearch(&fence, fences, (size_t)rows, sizeof *fences, compare_fences))
            mull_queue_del_attempt(&l->queue, fence);
    }
    free(fences);
}

static void on_attempts(const mull_pg_reply *r, void *arg) {
    mull_lead_call *c = arg;
    uint64_t mark = c->mark;
    mull_leader *l;
    void *data;
    if (!mull__lead_current(c, &l, &data)) return;
    l->reconciling = false;
    if (mull__lead_failed(l, r, "reading attempts")) return;
    if (mark == l->ends_seen) sync_attempts(l, r->res); /* else memory is newer: next time */
    if (l->state == MULL_LOADING) {
        l->slice_after = 0;
        read_slice(l);
        return;
    }
    mull__kick(l);
}

static void read_attempts(mull_leader *l) {
    const char *params[] = {l->term_text};
    mull_lead_call *c = mull__lead_call(l, NULL);
    if (!c) return;
    c->mark = l->ends_seen;
    l->reconciling = true;
    mull_pg_query(l->cfg.pg, "SELECT * FROM mull_live_attempts($1::bigint)", 1, params, on_attempts, c);
}

/* ---- cancel, loss, deadlines ---- */

static void on_cancels(const mull_pg_reply *r, void *arg) {
    mull_leader *l;
    void *data;
    if (!mull__lead_current(arg, &l, &data)) return;
    if (mull__lead_failed(l, r, "reading cancel requests")) return;
    for (int i = 0; i < PQntuples(r->res); i++) {
        mull_attempt *a = mull_queue_attempt(&l->queue, atoll(PQgetvalue(r->res, i, 0)));
        if (!a) continue;
        a->cancel_requested = true;
        mull__send_cancel(l, a, "cancel");
    }
}

void mull__fetch_cancels(mull_leader *l) {
    const char *params[] = {l->term_text};
    mull__lead_query(l, "SELECT * FROM mull_cancels($1::bigint)", 1, params, on_cancels, NULL);
}

static void on_lost(const mull_pg_reply *r, void *arg) {
    mull_leader *l;
    void *data;
    if (!mull__lead_current(arg, &l, &data)) return;
    if (mull__lead_failed(l, r, "ending lost attempts")) return;
    int n = PQntuples(r->res);
    int64_t *fences = malloc(((size_t)n + 1) * sizeof *fences);
    if (!fences) return;
    for (int i = 0; i < n; i++) fences[i] = atoll(PQgetvalue(r->res, i, 0));
    mull__attempts_ended(l, fences, (size_t)n);
    free(fences);
}

void mull__lost(mull_leader *l, const int64_t *fences, size_t n, const char *message) {
    char *text = array_text(fences, n);
    if (!text) return;
    mull_log(MULL_LOG_WARN, "%zu attempts lost: %s", n, message);
    const char *params[] = {l->term_text, text, message};
    mull__lead_query(l, "SELECT * FROM mull_attempts_lost($1::bigint, $2::bigint[], $3)", 3, params, on_lost, NULL);
    free(text);
}

/* A hello may have crossed with a dispatch; see mull_orphans. */
static void end_orphans(mull_leader *l) {
    const char *params[] = {l->term_text};
    mull__lead_query(l, "SELECT * FROM mull_orphans($1::bigint)", 1, params, on_lost, NULL);
}

/* No heartbeat for the node's time-out, and none that lies unread in the stream: a leader that is behind must not give
 * a node up that has spoken, for that node's leases have been renewed (worker/attempt.c). Either everything was read
 * that was there when the time was over, or, where there is always more to read, what has been read is that much
 * younger. */
static bool silent(mull_leader *l, mull_node *n) {
    uint64_t limit = (uint64_t)l->cfg.node_timeout_s * 1000, at = mull__stream_ms(l);
    uint64_t since = n->seen_ms > l->link_since_ms ? n->seen_ms : l->link_since_ms;
    if (!n->seen_at) n->seen_at = at;
    if (mull__now(l) - since < limit) return false;
    return l->caught_up_ms >= since + limit || at >= n->seen_at + limit;
}

void mull__check_deadlines(mull_leader *l) {
    uint64_t now = mull__now(l);
    int64_t unix_now = mull__unix_ms();
    for (size_t i = 0; i < l->queue.attempt_count; i++) {
        mull_attempt *a = &l->queue.attempts[i];
        if (a->deadline_ms && unix_now >= a->deadline_ms) mull__send_cancel(l, a, "timeout");
    }
    bool redis_up = mull_redis_connected(l->events_conn);
    if (!redis_up) l->link_since_ms = now; /* silence proves nothing while nobody could speak */
    for (size_t i = 0; i < l->queue.node_count; i++) {
        mull_node *n = &l->queue.nodes[i];
        if (!n->up || !silent(l, n)) continue;
        mull_log(MULL_LOG_WARN, "node %s is down: no sign of life for %d s", n->name, l->cfg.node_timeout_s);
        n->up = false;
        l->stats.node_downs++;
        const char *params[] = {l->term_text, n->name, n->boot};
        mull__lead_query(l, "SELECT * FROM mull_node_down($1::bigint, $2, $3)", 3, params, on_lost, NULL);
    }
}

/* ---- Redis ---- */

static void on_last_id(const redisReply *reply, void *arg) {
    mull_leader *l;
    void *data;
    if (!mull__lead_current(arg, &l, &data) || l->state != MULL_LEADING || !reply) return;
    /* XINFO STREAM answers name, value, name, value …; an error when the key is gone. */
    const char *last = "0-0";
    for (size_t i = 0; reply->type == REDIS_REPLY_ARRAY && i + 1 < reply->elements; i += 2)
        if (strcmp(reply->element[i]->str, "last-generated-id") == 0) last = reply->element[i + 1]->str;
    unsigned long long a = 0, b = 0, c = 0, d = 0;
    sscanf(last, "%llu-%llu", &a, &b);
    sscanf(l->cursor, "%llu-%llu", &c, &d);
    if (c < a || (c == a && d <= b)) return;
    mull_log(MULL_LOG_WARN, "Redis has lost the event stream; reading it from the beginning");
    snprintf(l->cursor, sizeof l->cursor, "0-0");
    l->link_since_ms = mull__now(l);
    mull__resync_all(l);
}

static void check_stream(mull_leader *l) {
    const char *argv[] = {"XINFO", "STREAM", MULL_KEY_EVENTS};
    mull_lead_call *c = mull__lead_call(l, NULL);
    if (c) mull_redis_command(l->cfg.redis, 3, argv, NULL, on_last_id, c);
}

void mull__reconcile(mull_leader *l) {
    if (l->state != MULL_LEADING || l->dispatching || l->reconciling) return;
    l->last_reconcile_ms = mull__now(l);
    mull__refetch_teams(l);
    mull__refetch_nodes(l);
    end_orphans(l);
    read_attempts(l);
    read_slice(l);
    if (l->slice_after || l->queue.job_count > MULL_PENDING_SLICE / 2) read_newest(l);
    check_stream(l);
}

/* ---- the start of a lead: teams, nodes, attempts, pending jobs, cursor, in this order ---- */

static void on_cursor(const mull_pg_reply *r, void *arg) {
    mull_leader *l;
    void *data;
    if (!mull__lead_current(arg, &l, &data)) return;
    if (mull__lead_failed(l, r, "reading the cursor")) return;
    snprintf(l->cursor, sizeof l->cursor, "%s", PQgetvalue(r->res, 0, 0));
    l->state = MULL_LEADING;
    l->last_reconcile_ms = mull__now(l);
    mull_log(MULL_LOG_INFO, "leads: %zu pending, %zu running, %zu nodes known", l->queue.job_count,
             l->queue.attempt_count, l->queue.node_count);
    mull__recorder_start(l);
    check_stream(l);
    mull__kick(l);
}

static void read_cursor(mull_leader *l) {
    const char *params[] = {MULL_KEY_EVENTS};
    mull__lead_query(l, "SELECT mull_cursor($1)", 1, params, on_cursor, NULL);
}

void mull__load(mull_leader *l) {
    l->slice_after = 0;
    mull__refetch_teams(l);
}
