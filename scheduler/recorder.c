/* The recorder: event lines from workers become rows, in batches, each exactly once.
 *
 * A batch is one call of mull_record: all its effects and the stream's cursor in one transaction, so a scheduler that
 * dies at any point reads the same events again and PostgreSQL drops what it has (go-back-N by boot and sequence
 * number). Only then are the workers told what is safe (ack) and the stream trimmed. The ready stream is read here
 * too: it carries hints only, the rows are read from PostgreSQL before a hint is acknowledged. */
#include "scheduler/leader_internal.h"
#include "scheduler/redis_users.h"

#include "scheduler/stage.h"

#include "schema/event_line.h"
#include "schema/keys.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { READ_COUNT = 500, BLOCK_MS = 1000, RETRY_MS = 300, BATCH_BYTES = 16 << 20, STAGE_ROWS = 20000 };

static void read_events(mull_leader *l);
static void read_ready(mull_leader *l);

typedef struct mull_batch {
    char *events; /* JSON array text */
    char *points; /* rows of metric_stage for COPY, NULL: none */
    size_t points_len;
    char cursor[48];
    bool careful;
    bool whole; /* nothing was left in the stream when it was read, at asked_ms */
    uint64_t asked_ms;
    size_t n;
} batch;

static void batch_free(batch *b) {
    if (b) free(b->events);
    if (b) free(b->points);
    free(b);
}

/* ---- what a recorded batch means for memory ---- */

void mull__attempts_ended(mull_leader *l, const int64_t *fences, size_t n) {
    if (n == 0) return;
    size_t waiting = l->queue.waiting < MULL_PENDING_SLICE ? l->queue.waiting : MULL_PENDING_SLICE;
    int64_t *ids = malloc((n + waiting) * sizeof *ids);
    size_t k = 0;
    l->ends_seen++;
    for (size_t i = 0; i < n; i++) {
        mull_attempt *a = mull_queue_attempt(&l->queue, fences[i]);
        if (!a) continue;
        if (ids) ids[k++] = a->job;
        mull_queue_del_attempt(&l->queue, fences[i]);
        l->stats.ended++;
    }
    /* Jobs that waited for these ends; the rest of a long list is found by the slices of reconcile. */
    for (size_t i = 0; ids && waiting > 0 && i < l->queue.job_count; i++)
        if (mull_queue_waits(&l->queue.jobs[i])) {
            ids[k++] = l->queue.jobs[i].id;
            waiting--;
        }
    if (ids) mull__refetch(l, ids, k);
    free(ids);
    mull__kick(l);
}

static size_t fence_list(const json_t *array, int64_t **out) {
    size_t n = json_array_size(array);
    *out = n ? malloc(n * sizeof **out) : NULL;
    if (!*out) return 0;
    for (size_t i = 0; i < n; i++) (*out)[i] = json_integer_value(json_array_get(array, i));
    return n;
}

static bool lists_fence(const json_t *attempts, int64_t fence) {
    size_t i;
    json_t *a;
    json_array_foreach(attempts, i, a) {
        if (json_integer_value(json_object_get(a, "fence")) == fence) return true;
    }
    return false;
}

/* A heartbeat names what runs there: what we believe runs and is absent for long is lost; what runs there and is not
 * ours any more is told to stop. */
static void heartbeat(mull_leader *l, const json_t *hb, const json_t *ended) {
    const char *name = json_string_value(json_object_get(hb, "node"));
    const char *boot = json_string_value(json_object_get(hb, "boot"));
    const json_t *attempts = json_object_get(hb, "attempts");
    int32_t at = name ? mull_queue_find_node(&l->queue, name) : -1;
    if (at < 0 || !boot || strcmp(l->queue.nodes[at].boot, boot) != 0) return;
    uint64_t now = mull__now(l);
    l->queue.nodes[at].seen_ms = now;
    l->queue.nodes[at].seen_at = mull__stream_ms(l);
    int64_t lost[64];
    size_t lost_count = 0;
    for (size_t i = 0; i < l->queue.attempt_count; i++) {
        mull_attempt *a = &l->queue.attempts[i];
        mull_part *part = mull_attempt_part(a, (uint32_t)at, boot);
        if (part ? part->ended : a->node != (uint32_t)at || strcmp(a->boot, boot) != 0) continue;
        uint64_t *missing = part ? &part->missing_ms : &a->missing_ms;
        if (lists_fence(attempts, a->fence))
            *missing = 0;
        else if (!*missing)
            *missing = now;
        else if (now - *missing >= (a->started ? MULL_MISSING_MS : MULL_UNSTARTED_MS) && lost_count < 64)
            lost[lost_count++] = a->fence;
    }
    if (lost_count) mull__lost(l, lost, lost_count, "the worker no longer knows this attempt");
    size_t i;
    json_t *a;
    json_array_foreach(attempts, i, a) {
        int64_t fence = json_integer_value(json_object_get(a, "fence"));
        bool just_ended = false;
        for (size_t k = 0; k < json_array_size(ended); k++)
            just_ended |= json_integer_value(json_array_get(ended, k)) == fence;
        if (mull_queue_attempt(&l->queue, fence) || just_ended) continue;
        json_t *job = json_object_get(a, "job");
        mull__inbox(l, boot,
                    json_pack("{s:i, s:s, s:O?, s:I, s:s, s:i}", "v", 1, "type", "cancel", "job", job, "fence",
                              (json_int_t)fence, "reason", "stale", "grace_s", MULL_GRACE_S));
    }
}

static void tell_workers(mull_leader *l, const json_t *out) {
    const char *boot;
    json_t *value;
    json_object_foreach((json_t *)json_object_get(out, "acks"), boot, value) {
        mull__inbox(l, boot, json_pack("{s:i, s:s, s:I}", "v", 1, "type", "ack", "seq", json_integer_value(value)));
    }
    json_object_foreach((json_t *)json_object_get(out, "resync"), boot, value) {
        l->stats.gaps++;
        mull__inbox(l, boot, json_pack("{s:i, s:s, s:I}", "v", 1, "type", "resync", "from", json_integer_value(value)));
    }
}

uint64_t mull__stream_ms(const mull_leader *l) {
    return strtoull(l->cursor, NULL, 10);
}

static void trim(mull_leader *l) {
    const char *argv[] = {"XTRIM", MULL_KEY_EVENTS, "MINID", l->cursor};
    mull_redis_command(l->cfg.redis, 4, argv, NULL, NULL, NULL);
}

static void apply(mull_leader *l, const batch *b, const json_t *out) {
    memcpy(l->cursor, b->cursor, sizeof l->cursor);
    l->stats.recorded += b->n;
    l->stats.stale += (uint64_t)json_integer_value(json_object_get(out, "stale"));
    l->stats.refused += (uint64_t)json_integer_value(json_object_get(out, "refused"));
    l->stats.duplicates += (uint64_t)json_integer_value(json_object_get(out, "duplicates"));
    tell_workers(l, out);
    trim(l);
    size_t i;
    json_t *v;
    json_array_foreach(json_object_get(out, "started"), i, v) {
        mull_attempt *a = mull_queue_attempt(&l->queue, json_integer_value(v));
        if (!a || a->started) continue;
        a->started = true;
        a->started_ms = a->saved_ms = mull__unix_ms();
        if (a->time_limit_s > 0) a->deadline_ms = mull__unix_ms() + a->time_limit_s * 1000;
    }
    json_array_foreach(json_object_get(out, "gang"), i, v) {
        mull_attempt *a = mull_queue_attempt(&l->queue, json_integer_value(v));
        if (!a || a->gang_stop) continue;
        a->gang_stop = true;
        mull__send_cancel(l, a, "gang");
    }
    if (b->whole && b->asked_ms > l->caught_up_ms) l->caught_up_ms = b->asked_ms;
    const json_t *ended = json_object_get(out, "ended");
    json_array_foreach(json_object_get(out, "heartbeats"), i, v) heartbeat(l, v, ended);
    int64_t *fences;
    size_t n = fence_list(ended, &fences);
    mull__attempts_ended(l, fences, n);
    free(fences);
    if (json_is_true(json_object_get(out, "nodes"))) mull__refetch_nodes(l);
    if (l->cfg.on_job_news)
        json_array_foreach(json_object_get(out, "logs"), i, v) l->cfg.on_job_news(json_integer_value(v), l->cfg.arg);
}

static void record(mull_leader *l, batch *b);
static void on_retry(uv_timer_t *t);

static void on_recorded(const mull_pg_reply *r, void *arg) {
    mull_leader *l;
    void *data;
    bool current = mull__lead_current(arg, &l, &data);
    batch *b = data;
    if (!current) {
        batch_free(b);
        return;
    }
    if (mull__lead_failed(l, r, "record")) {
        l->recording = false;
        if (l->state != MULL_LEADING) {
            batch_free(b);
            return;
        }
        l->link_since_ms = mull__now(l); /* heartbeats wait behind this batch: silence proves nothing */
        bool refused = r->status == MULL_PG_ERROR && !b->careful;
        b->careful = true;
        if (refused) {
            record(l, b); /* this time finding the event that PostgreSQL refuses */
        } else {
            l->retry_batch = b;
            uv_timer_start(&l->retry, on_retry, RETRY_MS, 0);
        }
        return;
    }
    json_t *out = json_loads(PQgetvalue(r->res, 0, 0), 0, NULL);
    l->recording = false;
    if (out) apply(l, b, out);
    json_decref(out);
    batch_free(b);
    if (l->state == MULL_LEADING) read_events(l);
}

static void record(mull_leader *l, batch *b) {
    const char *params[] = {l->term_text, MULL_KEY_EVENTS, b->cursor, b->events, b->careful ? "t" : "f"};
    l->recording = true;
    static const char SQL[] = "SELECT mull_record($1::bigint, $2, $3, $4::jsonb, $5::boolean)";
    if (!b->points) {
        mull__lead_query(l, SQL, 5, params, on_recorded, b);
        return;
    }
    char *copy = malloc(b->points_len); /* the batch may have to be recorded again */
    if (!copy) abort();
    memcpy(copy, b->points, b->points_len);
    mull__lead_copy(l, "SELECT mull_stage()", MULL_STAGE_COPY, copy, b->points_len, SQL, 5, params, on_recorded, b);
}

static void on_retry(uv_timer_t *t) {
    mull_leader *l = t->data;
    batch *b = l->retry_batch;
    l->retry_batch = NULL;
    if (!b) return;
    if (l->state == MULL_LEADING)
        record(l, b);
    else
        batch_free(b);
}

/* ---- reading the event stream ---- */

/* One stream entry as the object mull_record takes. A line that is no valid event still has its place in the sequence
 * when it says whose it is: it goes on as type "invalid", so that one bad line cannot stop a worker for ever. */
static json_t *event_of(mull_leader *l, const char *text, size_t len) {
    mull_err err;
    json_t *e = mull_event_parse(text, len, &err);
    if (e) return e;
    l->stats.refused++;
    mull_log(MULL_LOG_WARN, "an event line is not valid: %s", err.why);
    size_t clean_len = 0;
    char *clean = mull_utf8_clean(text, len, &clean_len);
    json_t *raw = clean && len <= MULL_EVENT_MAX && mull_line_depth_ok(clean, clean_len)
                      ? json_loadb(clean, clean_len, JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, NULL)
                      : NULL;
    free(clean);
    const char *node = json_string_value(json_object_get(raw, "node"));
    const char *boot = json_string_value(json_object_get(raw, "boot"));
    double seq = json_number_value(json_object_get(raw, "seq"));
    if (node && boot && seq >= 0 && seq < 9e15)
        e = json_pack("{s:i, s:s, s:s, s:s, s:I, s:s}", "v", 1, "type", "invalid", "node", node, "boot", boot, "seq",
                      (json_int_t)seq, "why", err.why);
    json_decref(raw);
    return e;
}

/* reply: [[key, [[id, [field, value, …]], …]]] */
static batch *batch_of(mull_leader *l, const redisReply *reply) {
    if (reply->type != REDIS_REPLY_ARRAY || reply->elements < 1) return NULL;
    const redisReply *stream = reply->element[0];
    if (stream->type != REDIS_REPLY_ARRAY || stream->elements < 2) return NULL;
    const redisReply *entries = stream->element[1];
    batch *b = calloc(1, sizeof *b);
    mull_stage stage = {0};
    size_t bytes = 0;
    json_t *list = json_array();
    /* What is left of a read of very long lines is read again: the ends of jobs wait behind a batch. */
    size_t i = 0;
    for (; b && list && i < entries->elements && bytes < BATCH_BYTES && stage.rows < STAGE_ROWS; i++) {
        const redisReply *entry = entries->element[i];
        if (entry->type != REDIS_REPLY_ARRAY || entry->elements < 2) continue;
        snprintf(b->cursor, sizeof b->cursor, "%s", entry->element[0]->str);
        const redisReply *fields = entry->element[1];
        for (size_t k = 0; k + 1 < fields->elements; k += 2) {
            const redisReply *name = fields->element[k], *value = fields->element[k + 1];
            if (name->len != 1 || name->str[0] != 'm') continue;
            bytes += (size_t)value->len;
            json_t *e = event_of(l, value->str, (size_t)value->len);
            if (e) mull__stranger(l, e);
            if (e) mull_stage_event(&stage, e, (int)json_array_size(list));
            if (e) json_array_append_new(list, e);
            b->n += e != NULL;
        }
    }
    if (b) {
        b->whole = i == entries->elements && i < READ_COUNT;
        b->asked_ms = l->asked_ms;
    }
    if (b && list) b->events = json_dumps(list, JSON_COMPACT);
    if (b) b->points = mull_stage_take(&stage, &b->points_len);
    bool failed = stage.failed;
    mull_stage_fini(&stage);
    json_decref(list);
    if (!b || failed || !b->events || !b->cursor[0]) {
        batch_free(b);
        return NULL; /* without memory it is read again */
    }
    return b;
}

static void on_events(const redisReply *reply, void *arg) {
    mull_leader *l;
    void *data;
    bool current = mull__lead_current(arg, &l, &data);
    l->reading_events = false;
    if (!current) { /* the stream may have been read for an earlier lead */
        if (l->state == MULL_LEADING && !l->closing && reply) read_events(l);
        return;
    }
    if (!reply || reply->type == REDIS_REPLY_ERROR) {
        if (reply) mull_log(MULL_LOG_WARN, "reading events: %s", reply->str);
        l->link_since_ms = mull__now(l);
        return; /* the reconnect, or the tick, reads again */
    }
    if (reply->type == REDIS_REPLY_NIL) l->caught_up_ms = l->asked_ms;
    batch *b = batch_of(l, reply);
    if (b)
        record(l, b);
    else
        read_events(l);
}

static void read_events(mull_leader *l) {
    if (l->reading_events || l->recording || l->retry_batch || l->state != MULL_LEADING) return;
    char count[16], block[16];
    snprintf(count, sizeof count, "%d", READ_COUNT);
    snprintf(block, sizeof block, "%d", BLOCK_MS);
    const char *argv[] = {"XREAD", "COUNT", count, "BLOCK", block, "STREAMS", MULL_KEY_EVENTS, l->cursor};
    mull_lead_call *c = mull__lead_call(l, NULL);
    if (!c) return;
    l->reading_events = true;
    l->asked_ms = mull__now(l);
    mull_redis_command(l->events_conn, 8, argv, NULL, on_events, c);
}

/* ---- reading hints ---- */

static void handle_hints(mull_leader *l, const redisReply *reply) {
    if (reply->type != REDIS_REPLY_ARRAY || reply->elements < 1 || reply->element[0]->elements < 2) return;
    const redisReply *entries = reply->element[0]->element[1];
    size_t n = entries->elements, jobs = 0;
    int64_t *ids = calloc(n + 1, sizeof *ids);
    const char **ack = calloc(n + 3, sizeof *ack);
    bool cancels = false, teams = false;
    for (size_t i = 0; ids && ack && i < n; i++) {
        const redisReply *entry = entries->element[i];
        ack[3 + i] = entry->element[0]->str;
        if (entry->elements < 2 || entry->element[1]->elements < 2) continue;
        json_t *m = json_loads(entry->element[1]->element[1]->str, 0, NULL);
        const char *job = json_string_value(json_object_get(m, "job")),
                   *op = json_string_value(json_object_get(m, "op"));
        int64_t id = job ? strtoll(job, NULL, 10) : 0;
        if (id > 0) ids[jobs++] = id;
        cancels |= op && strcmp(op, "cancel") == 0;
        teams |= op && strcmp(op, "team") == 0;
        json_decref(m);
    }
    if (ids && ack) {
        if (teams) {
            mull__refetch_teams(l);
            mull__refetch_nodes(l);
        }
        mull__refetch(l, ids, jobs);
        if (cancels) mull__fetch_cancels(l);
        ack[0] = "XACK";
        ack[1] = MULL_KEY_READY;
        ack[2] = MULL_READY_GROUP;
        if (n > 0) mull_redis_command(l->cfg.redis, (int)n + 3, ack, NULL, NULL, NULL);
    }
    free(ids);
    free(ack);
}

/* Hints that came after what was loaded was read, and before there was a group to keep them, are lost: what they were
 * about is read once more, quotas above all, before somebody starts what they forbid. */
static void on_group(const redisReply *reply, void *arg) {
    mull_leader *l;
    void *data;
    if (!mull__lead_current(arg, &l, &data) || !reply || l->state != MULL_LEADING) return;
    l->last_reconcile_ms = 0; /* if it cannot be now, the next tick does it */
    mull__reconcile(l);
}

static void make_group(mull_leader *l) {
    /* A new group from "now": everything older is read from PostgreSQL anyway. */
    const char *destroy[] = {"XGROUP", "DESTROY", MULL_KEY_READY, MULL_READY_GROUP};
    const char *create[] = {"XGROUP", "CREATE", MULL_KEY_READY, MULL_READY_GROUP, "$", "MKSTREAM"};
    mull_redis_command(l->ready_conn, 4, destroy, NULL, NULL, NULL);
    mull_lead_call *c = mull__lead_call(l, NULL);
    mull_redis_command(l->ready_conn, 6, create, NULL, c ? on_group : NULL, c);
}

static void on_ready(const redisReply *reply, void *arg) {
    mull_leader *l;
    void *data;
    bool current = mull__lead_current(arg, &l, &data);
    l->reading_ready = false;
    if (!reply || l->closing) return;
    if (reply->type == REDIS_REPLY_ERROR) {
        if (strncmp(reply->str, "NOGROUP", 7) == 0) {
            if (current) make_group(l);
        } else {
            mull_log(MULL_LOG_WARN, "reading hints: %s", reply->str);
        }
        return; /* the tick reads again */
    }
    if (current) handle_hints(l, reply);
    read_ready(l);
}

static void read_ready(mull_leader *l) {
    if (l->reading_ready || l->state != MULL_LEADING) return;
    char block[16];
    snprintf(block, sizeof block, "%d", BLOCK_MS);
    const char *argv[] = {"XREADGROUP", "GROUP", MULL_READY_GROUP, l->cfg.holder,  "COUNT", "1000",
                          "BLOCK",      block,   "STREAMS",        MULL_KEY_READY, ">"};
    mull_lead_call *c = mull__lead_call(l, NULL);
    if (!c) return;
    l->reading_ready = true;
    mull_redis_command(l->ready_conn, 11, argv, NULL, on_ready, c);
}

void mull__read_streams(mull_leader *l) {
    read_events(l);
    read_ready(l);
}

/* ---- life ---- */

void mull__resync_all(mull_leader *l) {
    /* From 0: all it still holds. */
    for (size_t i = 0; i < l->queue.node_count; i++)
        if (l->queue.nodes[i].up)
            mull__inbox(l, l->queue.nodes[i].boot, json_pack("{s:i, s:s, s:i}", "v", 1, "type", "resync", "from", 0));
}

typedef struct users_look {
    bool all;
    char *listed;
} users_look;

static void look_free(users_look *k) {
    free(k->listed);
    free(k);
}

static void on_node_users(const mull_pg_reply *r, void *arg) {
    mull_leader *l;
    void *data;
    bool current = mull__lead_current(arg, &l, &data);
    if (current && !mull__lead_failed(l, r, "reading the nodes' users"))
        mull__redis_users_restore(l->cfg.redis, ((users_look *)data)->listed, r->res, ((users_look *)data)->all);
    look_free(data);
}

static void on_users_listed(const redisReply *reply, void *arg) {
    mull_leader *l;
    void *data;
    bool current = mull__lead_current(arg, &l, &data);
    users_look *k = data;
    if (current) k->listed = mull__redis_users_listed(reply);
    if (!current || !k->listed)
        look_free(k);
    else
        mull__lead_query(l, "SELECT * FROM mull_node_users()", 0, NULL, on_node_users, k);
}

void mull__users_look(mull_leader *l, bool all) {
    users_look *k = calloc(1, sizeof *k);
    mull_lead_call *c = k && mull_redis_connected(l->cfg.redis) ? mull__lead_call(l, k) : NULL;
    l->users_ms = mull__now(l);
    if (!c) {
        free(k);
        l->users_all |= all; /* with the next look */
        return;
    }
    k->all = all || l->users_all;
    l->users_all = false;
    const char *argv[] = {"ACL", "USERS"};
    mull_redis_command(l->cfg.redis, 2, argv, NULL, on_users_listed, c);
}

/* A fresh connection may be to a server that lost everything: reconcile now rather than in a few seconds. */
static void on_connected(void *arg) {
    mull_leader *l = arg;
    if (l->state != MULL_LEADING || l->closing) return;
    l->link_since_ms = mull__now(l);
    mull__users_look(l, true);
    make_group(l);
    mull__reconcile(l);
    mull__read_streams(l);
}

void mull__recorder_start(mull_leader *l) {
    l->recording = false;
    mull__users_look(l, true);
    make_group(l);
    mull__read_streams(l);
}

void mull__recorder_init(mull_leader *l) {
    uv_timer_init(l->cfg.loop, &l->retry);
    l->retry.data = l;
    l->open_handles++;
    l->events_conn = mull_redis_create(l->cfg.loop, l->cfg.redis_server, on_connected, l);
    l->ready_conn = mull_redis_create(l->cfg.loop, l->cfg.redis_server, NULL, NULL);
}

void mull__recorder_reset(mull_leader *l) {
    uv_timer_stop(&l->retry);
    batch_free(l->retry_batch);
    l->retry_batch = NULL;
    l->recording = false;
}

void mull__recorder_stop(mull_leader *l) {
    batch_free(l->retry_batch);
    l->retry_batch = NULL;
    mull_redis_close(l->events_conn);
    mull_redis_close(l->ready_conn);
}
