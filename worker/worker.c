/* The worker's life: lock and clean the state folder, find the devices, say hello, beat, and at the end let the engines
 * save what they have. */
#include "schema/log.h"
#include "schema/remove_tree.h"
#include "worker/proc.h"
#include "worker/seccomp.h"
#include "worker/supervise.h"
#include "worker/worker_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- the state folder ---- */

static int make_dirs(const char *path, mull_err *err) {
    char part[4096];
    if (snprintf(part, sizeof part, "%s", path) >= 3800)
        return mull_fail(err, MULL_ERR_LIMIT, "cannot make a folder", path, "choose a shorter path",
                         "the path is too long");
    for (char *p = part + 1;; p++) {
        if (*p != '/' && *p) continue;
        char c = *p;
        *p = 0;
        if (mkdir(part, 0700) != 0 && errno != EEXIST)
            return mull_fail_errno(err, errno, "cannot make a folder", part, "choose another with --state DIR");
        if (!c) return 0;
        *p = c;
    }
}

static int lock_state(mull_worker *w, mull_err *err) {
    static const char what[] = "cannot use the state folder";
    char path[4200];
    const char *dir = w->cfg.state;
    static const char *const parts[] = {"", "/pids", "/attempts"};
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s%s", dir, parts[i]);
        int rc = make_dirs(path, err);
        if (rc != 0) return rc;
    }
    snprintf(path, sizeof path, "%s/worker.lock", dir);
    w->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (w->lock < 0) return mull_fail_errno(err, errno, what, path, "choose another with --state DIR");
    if (flock(w->lock, LOCK_EX | LOCK_NB) == 0) return 0;
    if (errno != EWOULDBLOCK) return mull_fail_errno(err, errno, what, path, "choose another with --state DIR");
    return mull_fail(err, MULL_ERR_BUSY, what, dir, "stop it, or choose another with --state DIR",
                     "another worker is using it");
}

/* Below the state folder only the attempts' own folders are an engine's. */
static int open_for_user(const mull_worker *w, mull_err *err) {
    char path[4200];
    snprintf(path, sizeof path, "%s/attempts", w->cfg.state);
    return mull_engine_user_reach(&w->cfg.user, path, w->cfg.state, err);
}

/* Engines of a former start must be gone before their devices are offered again. */
static void end_leftovers(mull_worker *w) {
    enum { ROUNDS = 50, PAUSE_US = 100000 };
    char path[4200];
    snprintf(path, sizeof path, "%s/pids", w->cfg.state);
    size_t n = mull_proc_kill_recorded(path), round = 0;
    for (size_t more; round < ROUNDS && (more = mull_proc_kill_marked(w->marker)) > 0; round++) {
        if (round == 0) n += more;
        usleep(PAUSE_US);
    }
    if (n > 0) mull_log(MULL_LOG_WARN, "killed what a former start of this worker had left running (%zu processes)", n);
    if (round == ROUNDS) mull_log(MULL_LOG_ERROR, "some of it does not die; its devices may be busy");
    snprintf(path, sizeof path, "%s/attempts", w->cfg.state);
    int why = mull_remove_tree(path);
    if (why) mull_log(MULL_LOG_WARN, "cannot remove all of %s: %s", path, strerror(why));
    mkdir(path, w->cfg.user.uid ? 0711 : 0700);
}

/* ---- heartbeat ---- */

/* Processes that engines left behind when their supervisor was killed end up as children of this process. */
static void reap_strays(mull_worker *w) {
    pid_t child[64];
    size_t n = mull_proc_children(getpid(), child, sizeof child / sizeof *child);
    for (size_t i = 0; i < n; i++) {
        bool ours = false;
        for (mull_run *r = w->runs; r; r = r->next)
            for (int k = 0; r->started && k < r->world; k++)
                ours |= r->ranks[k]->spawned && !r->ranks[k]->closing && r->ranks[k]->process.pid == child[i];
        if (ours) continue;
        kill(child[i], SIGKILL);
        waitpid(child[i], NULL, WNOHANG);
    }
}

static bool everything_said(const mull_worker *w) {
    return mull_evq_empty(&w->evq) || !mull_redis_connected(w->out);
}

static void close_handle(uv_handle_t *h) {
    if (!uv_is_closing(h)) uv_close(h, NULL);
}

static void on_inbox_gone(const redisReply *reply, void *arg) {
    (void)reply;
    mull__link_close(arg);
}

static void leave(mull_worker *w) {
    if (w->closed) return;
    w->closed = true;
    close_handle((uv_handle_t *)&w->beat);
    close_handle((uv_handle_t *)&w->settle);
    close_handle((uv_handle_t *)&w->term);
    close_handle((uv_handle_t *)&w->intr);
    mull__runs_acked(w);
    const char *argv[] = {"DEL", w->inbox};
    if (mull_redis_connected(w->out))
        mull_redis_command(w->out, 2, argv, NULL, on_inbox_gone, w);
    else
        mull__link_close(w);
}

static bool idle(const mull_worker *w) {
    for (const mull_run *r = w->runs; r; r = r->next)
        if (!r->end_seq || r->open > 0) return false;
    return true;
}

/* While draining: when the last engine has gone and the last event is recorded, or it takes too long. */
static void maybe_leave(mull_worker *w) {
    uint64_t now = uv_now(&w->loop);
    if (!w->draining || w->closed || !idle(w)) return;
    if (!w->farewell) {
        w->farewell = true;
        w->farewell_ms = now;
    }
    if (w->again || w->replaced || everything_said(w) || now - w->farewell_ms >= MULL_FAREWELL_MS) leave(w);
}

/* An engine says something every few seconds while its job moves. Time in which nobody listened does not count: this
 * process was stopped, or its pipes are not read for want of room. */
static void look_for_hung(mull_worker *w) {
    uint64_t now = uv_now(&w->loop), since = now - w->beat_ms, slept = since > 2 * MULL_BEAT_MS ? since : 0;
    w->beat_ms = now;
    for (mull_run *r = w->runs; r; r = r->next) {
        if (!r->started || r->end_seq || r->stopping || r->killed) continue;
        r->heard_ms = slept || mull_evq_full(&w->evq) ? now : r->heard_ms;
        if (now - r->heard_ms < (uint64_t)w->cfg.hang_s * 1000) continue;
        mull_log(MULL_LOG_WARN, "job %s attempt %d gave no sign of life for %d s: killed", r->job, r->attempt,
                 w->cfg.hang_s);
        mull__run_stop(r, MULL_STOP_HANG, 0);
    }
}

static void on_beat(uv_timer_t *t) {
    mull_worker *w = t->data;
    if (w->cfg.hang_s > 0) look_for_hung(w);
    w->oom_kills[1] = w->oom_kills[0];
    w->oom_kills[0] = mull_proc_oom_kills();
    reap_strays(w);
    mull__link_beat(w);
}

static void on_settle(uv_timer_t *t) {
    mull_worker *w = t->data;
    if (mull_evq_full(&w->evq)) {
        mull_evq_settle(&w->evq);
        mull__flow(w);
    }
    maybe_leave(w);
}

/* ---- drain ---- */

void mull__run_gone(mull_worker *w) {
    mull__runs_start(w);
}

void mull__drain(mull_worker *w) {
    if (w->draining) return;
    w->draining = true;
    mull_log(MULL_LOG_INFO, "leaving: engines are asked to save and stop");
    mull__report_hello(w, false); /* offers nothing any more */
    for (mull_run *r = w->runs; r; r = r->next)
        if (!r->end_seq) mull__run_stop(r, MULL_STOP_DRAIN, r->grace_s);
}

static void kill_runs(mull_worker *w) {
    w->hasty = true;
    mull__flow(w);
    for (mull_run *r = w->runs; r; r = r->next) mull__run_kill(r);
}

void mull__start_over(mull_worker *w) {
    if (w->draining) return; /* it leaves anyway */
    w->draining = w->again = true;
    for (mull_run *r = w->runs; r; r = r->next) mull__run_stop(r, MULL_STOP_STALE, 0);
    kill_runs(w);
}

void mull__replaced(mull_worker *w) {
    if (w->replaced) return;
    mull_log(MULL_LOG_ERROR,
             "another worker has taken the name of this node (%s): this one stops; give each worker a name of its own "
             "with --node",
             w->cfg.node);
    w->draining = w->replaced = true;
    w->again = false;
    for (mull_run *r = w->runs; r; r = r->next) mull__run_stop(r, MULL_STOP_STALE, 0);
    kill_runs(w);
}

static void on_signal(uv_signal_t *s, int number) {
    mull_worker *w = s->data;
    (void)number;
    if (!w->draining) {
        mull__drain(w);
        return;
    }
    w->again = false;
    mull_log(MULL_LOG_WARN, "asked again: engines are killed now");
    kill_runs(w);
}

/* ---- start ---- */

static int make_boot(mull_worker *w) {
    unsigned char random[16];
    if (getrandom(random, sizeof random, 0) != sizeof random) return MULL_ERR_IO;
    for (int i = 0; i < 16; i++) snprintf(w->boot + 2 * i, 3, "%02x", random[i]);
    return 0;
}

static void start_timers(mull_worker *w) {
    enum { SETTLE_MS = 100 };
    uv_timer_init(&w->loop, &w->beat);
    uv_timer_init(&w->loop, &w->settle);
    uv_signal_init(&w->loop, &w->term);
    uv_signal_init(&w->loop, &w->intr);
    w->beat.data = w->settle.data = w->term.data = w->intr.data = w;
    w->beat_ms = uv_now(&w->loop);
    uv_timer_start(&w->beat, on_beat, MULL_BEAT_MS, MULL_BEAT_MS);
    uv_timer_start(&w->settle, on_settle, SETTLE_MS, SETTLE_MS);
    uv_signal_start(&w->term, on_signal, SIGTERM);
    uv_signal_start(&w->intr, on_signal, SIGINT);
}

static int set_up(mull_worker *w, mull_err *err) {
    static const mull_evq_limits LIMITS = {.head_count = 8192,
                                           .head_bytes = 16 << 20,
                                           .flight_count = 1000,
                                           .flight_bytes = 4 << 20,
                                           .spool_bytes = (uint64_t)4 << 30};
    char path[4200];
    int rc = lock_state(w, err);
    if (rc != 0) return rc;
    snprintf(w->marker, sizeof w->marker, "MULL_WORKER_STATE=%s", w->cfg.state);
    end_leftovers(w);
    rc = open_for_user(w, err);
    if (rc != 0) return rc;
    if (geteuid() == 0 && !w->cfg.user.uid)
        mull_log(MULL_LOG_WARN,
                 "engines run as root, as this worker does; --engine-user NAME gives them their own user");
    if (!mull_seccomp_possible())
        mull_log(MULL_LOG_WARN, "this kernel has no seccomp filters: engines are not kept from its dangerous calls");
    rc = mull_devices_find(&w->cfg.devices, &w->devices, err);
    if (rc != 0) return rc;
    if (make_boot(w) != 0) return mull_fail(err, MULL_ERR_IO, "cannot start", "boot id", NULL, "no random numbers");
    snprintf(path, sizeof path, "%s/spool", w->cfg.state);
    rc = mull_evq_init(&w->evq, path, &LIMITS, err);
    if (rc != 0) return rc;
    if (access(w->cfg.engine, X_OK) != 0)
        mull_log(MULL_LOG_WARN, "the engine %s cannot be executed: %s; jobs will fail until it can", w->cfg.engine,
                 strerror(errno));
    return 0;
}

/* One boot. */
static int run_once(const mull_worker_config *config, bool *again) {
    mull_worker *w = calloc(1, sizeof *w);
    mull_err err;
    if (!w) return 1;
    w->cfg = *config;
    w->lock = -1;
    w->renewed_ms = mull_lease_clock_ms(w->cfg.redis->is_unix);
    w->evq.spool.fd = -1;
    int rc = set_up(w, &err);
    if (rc != 0) {
        mull_err_print(stderr, &err);
        goto out;
    }
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    w->oom_kills[0] = w->oom_kills[1] = mull_proc_oom_kills();
    uv_loop_init(&w->loop);
    start_timers(w);
    mull__report_hello(w, true);
    if (mull__link_open(w) != 0) {
        leave(w);
        rc = 1;
    } else {
        mull_log(MULL_LOG_INFO, "node %s offers %d devices (boot %s)", w->cfg.node, w->devices.count, w->boot);
    }
    uv_run(&w->loop, UV_RUN_DEFAULT);
    mull_redis_destroy(w->out);
    mull_redis_destroy(w->in);
    uv_loop_close(&w->loop);
    *again = w->again && rc == 0;
    if (w->replaced) rc = MULL_WORKER_REPLACED;
    mull_log(MULL_LOG_INFO, *again ? "starting over" : "stopped");
out:
    mull_evq_fini(&w->evq);
    if (w->lock >= 0) close(w->lock);
    free(w);
    return rc == MULL_WORKER_REPLACED ? rc : rc ? 1 : 0;
}

int mull_worker_run(const mull_worker_config *config) {
    bool again;
    int rc;
    do {
        again = false;
        rc = run_once(config, &again);
    } while (again);
    return rc;
}
