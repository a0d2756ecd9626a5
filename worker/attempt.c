/* An attempt: all its ranks or none. One rank that fails stops the others; the first failure is the attempt's. */
#include "schema/event_line.h"
#include "schema/log.h"
#include "worker/cgroup.h"
#include "worker/proc.h"
#include "worker/supervise.h"
#include "worker/worker_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void finish(mull_run *r);

mull_run *mull__run_find(mull_worker *w, int64_t fence) {
    mull_run *r = w->runs;
    while (r && r->fence != fence) r = r->next;
    return r;
}

/* ---- progress, the latest of a few a second ---- */

static void flush_progress(mull_run *r) {
    if (!r->progress) return;
    char *line = r->progress;
    r->progress = NULL;
    r->progress_ms = uv_now(&r->w->loop);
    mull__report_engine(r, 0, line, r->progress_len);
    free(line);
}

static void on_progress_timer(uv_timer_t *t) {
    flush_progress(t->data);
}

static void keep_progress(mull_run *r, const char *line, size_t n) {
    char *copy = malloc(n);
    if (!copy) return; /* the next one will do */
    memcpy(copy, line, n);
    free(r->progress);
    r->progress = copy;
    r->progress_len = n;
    uint64_t since = uv_now(&r->w->loop) - r->progress_ms;
    if (since >= MULL_PROGRESS_MS)
        flush_progress(r);
    else if (!uv_is_active((uv_handle_t *)&r->progress_timer))
        uv_timer_start(&r->progress_timer, on_progress_timer, MULL_PROGRESS_MS - since, 0);
}

static void keep_error(mull_rank *k, const json_t *o) {
    mull_run *r = k->run;
    const char *message = json_string_value(json_object_get(o, "message"));
    if (r->failed) return; /* the others stumble over the first */
    r->said = k->rank;
    snprintf(r->error_class, sizeof r->error_class, "%s", json_string_value(json_object_get(o, "class")));
    if (message)
        snprintf(r->message, sizeof r->message, "%s", message);
    else
        snprintf(r->message, sizeof r->message, "error: %.1500s", json_string_value(json_object_get(o, "what")));
}

void mull__run_engine_line(mull_rank *k, const char *line, size_t n) {
    mull_run *r = k->run;
    mull_err err;
    json_t *o = mull_engine_line_parse(line, n, &err);
    if (!o) {
        mull__report_note(r, k->rank, "the engine wrote an event that is not valid: %s", err.why);
        return;
    }
    const char *ev = json_string_value(json_object_get(o, "ev"));
    bool progress = !strcmp(ev, "progress"), first = r->first_rank + k->rank == 0;
    if (!strcmp(ev, "error")) keep_error(k, o);
    if (progress && first) {
        keep_progress(r, line, n);
    } else if (!progress && strcmp(ev, "heartbeat") != 0 && (first || strncmp(ev, "metric", 6) != 0)) {
        flush_progress(r);
        mull__report_engine(r, k->rank, line, n);
    }
    json_decref(o);
}

/* ---- stopping ---- */

static void order(mull_run *r, char what) {
    for (int i = 0; i < r->world; i++)
        if (!r->ranks[i]->ended) mull__rank_order(r->ranks[i], &what, 1);
}

/* Supervisors that do not obey (stopped, say) are killed themselves, and the kernel kills their engines. */
static void on_disobeyed(uv_timer_t *t) {
    mull_run *r = t->data;
    for (int i = 0; i < r->world; i++) {
        mull_rank *k = r->ranks[i];
        if (k->spawned && uv_is_active((uv_handle_t *)&k->process)) uv_process_kill(&k->process, SIGKILL);
    }
}

void mull__run_kill(mull_run *r) {
    enum { OBEY_MS = 5000 };
    if (!r->started || r->end_seq || r->killed) return;
    r->killed = true;
    order(r, 'K');
    uv_timer_start(&r->timer, on_disobeyed, OBEY_MS, OBEY_MS);
}

static void on_grace_over(uv_timer_t *t) {
    mull__run_kill(t->data);
}

static void stop_ranks(mull_run *r, int grace_s) {
    if (r->stopping) return;
    r->stopping = true;
    order(r, 'T');
    uv_timer_start(&r->timer, on_grace_over, (uint64_t)grace_s * 1000, 0);
}

void mull__run_stop(mull_run *r, mull_stop why, int grace_s) {
    if (r->end_seq) return;
    /* A user's wish outweighs a drain or a time limit that came before it. */
    if (!r->failed && (r->end.stop == MULL_STOP_NONE || why == MULL_STOP_CANCEL)) r->end.stop = why;
    if (!r->started) {
        r->end.code = -1;
        finish(r);
        return;
    }
    if (why == MULL_STOP_HANG || (why == MULL_STOP_STALE && grace_s == 0))
        mull__run_kill(r);
    else
        stop_ranks(r, grace_s);
}

/* ---- leases ----
 *
 * The leader gives a node up, and its jobs to others, when it has not heard of it for a time that is longer than the
 * lease. So engines that stop by themselves when the lease ends never run beside their successors, whatever network or
 * process stands still. What the leader can have heard last is the last heartbeat that Redis has taken; the lease
 * counts from the sending of that. On one machine nothing can come between the two: there it is renewed while this loop
 * turns, and only a worker that stands still loses its engines. */

static bool lease_ended(const mull_run *r) {
    const mull_worker *w = r->w;
    return r->lease_s > 0 && mull_lease_clock_ms(w->cfg.redis->is_unix) >= w->renewed_ms + (uint64_t)r->lease_s * 1000;
}

void mull__run_lease_ended(mull_run *r) {
    if (r->failed || r->end.stop == MULL_STOP_LEASE) return;
    if (r->end.stop == MULL_STOP_NONE) r->end.stop = MULL_STOP_LEASE;
    mull_log(MULL_LOG_WARN, "job %s attempt %d: cut off for longer than its lease of %d s; killed", r->job, r->attempt,
             r->lease_s);
}

void mull__leases_renew(mull_worker *w, uint64_t at_ms) {
    if (at_ms <= w->renewed_ms) return;
    w->renewed_ms = at_ms;
    for (mull_run *r = w->runs; r; r = r->next)
        for (int i = 0; r->started && !r->end_seq && i < r->world; i++) mull__rank_lease(r->ranks[i]);
    mull__runs_start(w);
}

static void on_limit(uv_timer_t *t) {
    mull_run *r = t->data;
    mull__run_stop(r, MULL_STOP_TIMEOUT, r->grace_s);
}

/* ---- ending ---- */

static void describe(mull_run *r, const char *class_) {
    const mull_end *e = &r->end;
    if (!strcmp(class_, "ok")) {
        r->message[0] = 0;
    } else if (!strcmp(class_, "timeout")) {
        snprintf(r->message, sizeof r->message, "ran longer than its time limit of %lld s", (long long)r->time_limit_s);
    } else if (!strcmp(class_, "cancelled")) {
        snprintf(r->message, sizeof r->message, "cancelled");
    } else if (e->stop == MULL_STOP_HANG) {
        snprintf(r->message, sizeof r->message,
                 "the engine gave no sign of life for %d s (no event, no output): taken for hung and killed",
                 r->w->cfg.hang_s);
    } else if (e->stop == MULL_STOP_LEASE) {
        snprintf(r->message, sizeof r->message,
                 "its node was cut off from the queue for longer than the lease of %d s: stopped, for it may run "
                 "elsewhere by now",
                 r->lease_s);
    } else if (!r->message[0]) {
        if (!r->started)
            snprintf(r->message, sizeof r->message, "it was waiting for its devices when the worker stopped it");
        else if (e->code == 75)
            snprintf(r->message, sizeof r->message, "saved its state and asked to be started again");
        else if (e->code >= 0)
            snprintf(r->message, sizeof r->message, "the engine ended with exit status %d", e->code);
        else
            snprintf(r->message, sizeof r->message, "the engine was killed by signal %d (%s)%s", e->signal,
                     strsignal(e->signal), !strcmp(class_, "oom") ? ": the machine is out of memory" : "");
    }
}

static void on_run_handle_closed(uv_handle_t *h) {
    mull_run *r = h->data;
    if (--r->open == 0) mull__runs_acked(r->w);
}

static void finish(mull_run *r) {
    mull_worker *w = r->w;
    flush_progress(r);
    r->end.error_class = r->error_class[0] ? r->error_class : NULL;
    const char *class_ = mull_classify(&r->end);
    describe(r, class_);
    mull__report_ended(w, r->job, r->attempt, r->fence, r->end.code, r->end.signal, class_, r->message);
    r->end_seq = mull_evq_last(&w->evq);
    uv_close((uv_handle_t *)&r->timer, on_run_handle_closed);
    uv_close((uv_handle_t *)&r->limit, on_run_handle_closed);
    uv_close((uv_handle_t *)&r->progress_timer, on_run_handle_closed);
    mull__run_gone(w);
}

void mull__run_rank_ended(mull_rank *k) {
    mull_run *r = k->run;
    mull_worker *w = r->w;
    bool bad = k->spawn_failed || !k->ended || k->code != 0;
    if (bad && !r->failed) {
        r->failed = true;
        r->end.spawn_failed = k->spawn_failed;
        r->end.code = k->ended ? k->code : -1;
        r->end.signal = k->signal;
        /* Killed: what the others said of losing it explains nothing. */
        if (!k->spawn_failed && (!k->ended || k->code < 0) && r->said != k->rank) r->message[0] = r->error_class[0] = 0;
        r->end.oom_seen = mull_proc_oom_kills() > w->oom_kills[1];
        if (r->world > 1 && r->live > 1)
            mull__report_note(r, k->rank, "rank %d of %d is lost; the others are stopped", k->rank, r->world);
    }
    if (--r->live == 0)
        finish(r);
    else if (bad)
        stop_ranks(r, r->grace_s);
}

static void run_free(mull_run *r) {
    for (int i = 0; r->ranks && i < r->world; i++) mull__rank_free(r->ranks[i]);
    free(r->ranks);
    if (r->cgroup && mull_cgroup_end(r->cgroup) != 0)
        mull_log(MULL_LOG_WARN, "%s is not empty yet: the next start of this worker removes it", r->cgroup);
    free(r->cgroup);
    free(r->progress);
    json_decref(r->spec);
    free(r);
}

void mull__runs_acked(mull_worker *w) {
    for (mull_run **at = &w->runs; *at;) {
        mull_run *r = *at;
        if (r->end_seq && r->open == 0 && (w->evq.acked >= r->end_seq || w->closed)) {
            *at = r->next;
            run_free(r);
        } else {
            at = &r->next;
        }
    }
}

/* ---- beginning ---- */

void mull__run_rank_started(mull_run *r) {
    for (int i = 0; i < r->world; i++)
        if (!r->ranks[i]->told_pid) return;
    if (r->reported) return;
    r->reported = true;
    mull_log(MULL_LOG_INFO, "job %s attempt %d (fence %lld) started: %d engine process%s, the first is %d", r->job,
             r->attempt, (long long)r->fence, r->world, r->world == 1 ? "" : "es", r->ranks[0]->pid);
    mull__report_started(r, r->ranks[0]->pid);
    if (r->time_limit_s > 0) uv_timer_start(&r->limit, on_limit, (uint64_t)r->time_limit_s * 1000, 0);
    if (r->stopping) order(r, r->killed ? 'K' : 'T'); /* asked before there was anybody to hear */
}

static bool free_devices(const mull_worker *w, const mull_run *r) {
    for (const mull_run *o = w->runs; o; o = o->next) {
        if (o == r || !o->started || o->end_seq) continue;
        for (int i = 0; i < r->device_count; i++)
            for (int j = 0; j < o->device_count; j++)
                if (r->devices[i] == o->devices[j]) return false;
    }
    return true;
}

/* An attempt for which none can be made runs without, and its log says so. */
static void make_cgroup(mull_run *r) {
    const mull_worker *w = r->w;
    int offered = 0;
    char name[32], path[MULL_CGROUP_PATH];
    mull_err err;
    if (!w->cfg.cgroup) return;
    for (int i = 0; i < w->devices.count; i++)
        offered += r->device_count > 0 && w->devices.at[i].cuda == r->devices[0]->cuda;
    mull_cgroup_limits limits = mull_cgroup_share(w->cfg.cgroup, r->device_count, offered, r->world);
    snprintf(name, sizeof name, "%lld", (long long)r->fence);
    if (mull_cgroup_make(w->cfg.cgroup, name, &limits, path, &err) == 0)
        r->cgroup = strdup(path);
    else
        mull__report_note(r, 0, "this attempt runs without limits of memory and processes: %s: %s", err.where, err.why);
}

static void launch(mull_run *r) {
    mull_worker *w = r->w;
    r->started = true;
    r->live = r->world;
    r->heard_ms = uv_now(&w->loop);
    for (int i = 0; i < r->world; i++) {
        mull_rank *k = r->ranks[i];
        k->run = r;
        k->rank = i;
        snprintf(k->dir, sizeof k->dir, "%s/attempts/%lld.%d", w->cfg.state, (long long)r->fence, i);
        snprintf(k->record, sizeof k->record, "%s/pids/%lld.%d", w->cfg.state, (long long)r->fence, i);
    }
    make_cgroup(r);
    for (int i = 0; i < r->world; i++) mull__rank_start(r->ranks[i]);
}

void mull__runs_start(mull_worker *w) {
    for (mull_run *r = w->runs; r; r = r->next)
        if (!r->started && !r->end_seq && !w->draining && free_devices(w, r) && !lease_ended(r)) launch(r);
}

/* Fills the devices that the command names; false when one is not here. */
static bool find_devices(mull_run *r, const json_t *list) {
    size_t i;
    json_t *d;
    json_array_foreach(list, i, d) {
        const char *kind = json_string_value(json_object_get(d, "kind"));
        bool cuda = kind && !strcmp(kind, "cuda");
        const mull_node_device *v =
            mull_devices_get(&r->w->devices, cuda, (int)json_integer_value(json_object_get(d, "index")));
        if (!kind || !v || r->device_count == MULL_DEVICES_MAX) return false;
        r->devices[r->device_count++] = v;
    }
    return true;
}

/* A whole number of the leader's from lo to hi, into out. */
static bool number_of(const json_t *o, const char *key, int lo, int hi, int *out) {
    json_int_t v = json_integer_value(json_object_get(o, key));
    *out = v >= lo && v <= hi ? (int)v : lo;
    return json_is_integer(json_object_get(o, key)) && v >= lo && v <= hi;
}

/* Where this node's ranks are in a gang over several. False when the leader's words make no sense. */
static bool find_gang(mull_run *r, const json_t *gang) {
    enum { MOST = 1 << 20 };
    r->world_size = r->world;
    r->node_count = 1;
    if (!gang) return true;
    const char *addr = json_string_value(json_object_get(gang, "master_addr")),
               *secret = json_string_value(json_object_get(gang, "secret"));
    int port;
    bool ok =
        number_of(gang, "master_port", 1, 65535, &port) && number_of(gang, "first_rank", 0, MOST, &r->first_rank) &&
        number_of(gang, "world_size", 1, MOST, &r->world_size) &&
        number_of(gang, "node_rank", 0, MOST, &r->node_rank) && number_of(gang, "node_count", 2, MOST, &r->node_count);
    size_t i, n = 0;
    json_t *name;
    json_array_foreach(json_object_get(gang, "nodes"), i, name) {
        const char *text = json_string_value(name);
        if (text && n < sizeof r->nodes)
            n += (size_t)snprintf(r->nodes + n, sizeof r->nodes - n, "%s%s", n ? "," : "", text);
    }
    if (!ok || !addr || !secret || snprintf(r->secret, sizeof r->secret, "%s", secret) >= (int)sizeof r->secret ||
        r->world_size < r->first_rank + r->world || r->node_rank >= r->node_count)
        return false;
    return snprintf(r->master, sizeof r->master, "%s:%d", addr, port) < (int)sizeof r->master;
}

static void init_timers(mull_run *r) {
    uv_timer_t *timers[] = {&r->timer, &r->limit, &r->progress_timer};
    for (int i = 0; i < 3; i++) {
        uv_timer_init(&r->w->loop, timers[i]);
        timers[i]->data = r;
    }
    r->open = 3;
}

mull_run *mull__run_add(mull_worker *w, const char *job, int attempt, int64_t fence, const json_t *msg) {
    mull_run *r = calloc(1, sizeof *r);
    if (!r) abort();
    r->w = w;
    r->fence = fence;
    r->attempt = attempt;
    r->grace_s = mull__grace_of(msg);
    r->time_limit_s = json_integer_value(json_object_get(msg, "time_limit_s"));
    number_of(msg, "lease_s", 0, 1000000, &r->lease_s);
    r->spec = json_incref(json_object_get(msg, "spec"));
    snprintf(r->job, sizeof r->job, "%s", job);
    init_timers(r);
    bool here = find_devices(r, json_object_get(msg, "devices"));
    r->world = r->device_count ? r->device_count : 1;
    const json_t *gang = json_object_get(msg, "gang");
    /* A job may want more processes than it has devices: they share them. Over several nodes it has one a device. */
    int64_t ranks = gang ? 0 : json_integer_value(json_object_get(r->spec, "ranks"));
    if (ranks > r->world && ranks <= MULL_DEVICES_MAX) r->world = (int)ranks;
    bool placed = find_gang(r, gang);
    r->ranks = calloc((size_t)r->world, sizeof(mull_rank *));
    for (int i = 0; r->ranks && i < r->world; i++)
        if (!(r->ranks[i] = calloc(1, sizeof(mull_rank)))) abort();
    if (!r->ranks) abort();
    for (int i = 0; i < r->world; i++) r->ranks[i]->run = r;
    mull_run **at = &w->runs;
    while (*at) at = &(*at)->next;
    *at = r;
    if (!here || !placed) {
        r->end.spawn_failed = true;
        r->end.code = -1;
        snprintf(r->message, sizeof r->message, "error: cannot start the engine (%.100s): %s", w->cfg.node,
                 here ? "its place in the gang makes no sense; use one version of mull on all nodes"
                      : "a device is not on this node; see mull node ls");
        finish(r);
        return r;
    }
    mull__runs_start(w);
    return r;
}
