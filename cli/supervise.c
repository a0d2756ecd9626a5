/* The supervisor: a small process that owns the services of a state folder, so that whatever dies is started again.
 *
 * It keeps no state that matters: the records of the processes are files, and a supervisor that takes over from one
 * that was killed adopts what still runs. It knows the death of its children by SIGCHLD and of adopted ones by looking
 * twice a second. */
#include "cli/local.h"

#include "cli/jobs.h"
#include "schema/log.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { READY_S = 60, STOP_S = 30, ROTATE_EVERY_S = 10 };
static const double LOOK_S = 0.5, RETRY_MIN_S = 0.1, RETRY_MAX_S = 10, LIVED_S = 10;

typedef struct watched {
    bool running; /* as last seen */
    double born, next, pause;
} watched;

typedef struct supervisor {
    mull_local *l;
    int report; /* -1 when all is said */
    sigset_t signals;
    bool stop;
    watched services[MULL_SERVICES];
} supervisor;

static void tell(supervisor *v, const char *text) {
    if (v->report < 0) return;
    size_t n = strlen(text);
    if (write(v->report, text, n) != (ssize_t)n || write(v->report, "\n", 1) != 1) mull_log(MULL_LOG_INFO, "%s", text);
}

/* Sleeps up to so long, or until a signal; takes in the dead. */
static void nap(supervisor *v, double seconds) {
    struct timespec ts = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    int sig = sigtimedwait(&v->signals, NULL, &ts);
    if (sig == SIGTERM || sig == SIGINT) v->stop = true;
    if (sig == SIGUSR1)
        for (int s = 0; s < MULL_SERVICES; s++) v->services[s].next = v->services[s].pause = 0;
    int status;
    for (int pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
        if (WIFSIGNALED(status))
            mull_log(MULL_LOG_WARN, "process %d was ended by signal %d", pid, WTERMSIG(status));
        else
            mull_log(MULL_LOG_INFO, "process %d ended with status %d", pid, WEXITSTATUS(status));
    }
}

/* Waits until the service answers. 0, or negative with err: it died, took too long, or we were told to stop. */
static int wait_ready(supervisor *v, mull_service s, long long log_from, mull_err *err) {
    const char *name = mull_service_name(s), *log = mull_local_log(v->l, name);
    char what[80], path[4096], why[700];
    mull_proc p;
    snprintf(what, sizeof what, "cannot start the %s", name);
    snprintf(path, sizeof path, "%s", log);
    for (double until = mull_clock() + READY_S; mull_clock() < until && !v->stop; nap(v, 0.03)) {
        bool alive = mull_local_running(v->l, name, &p);
        if (alive && mull_service_ready(v->l, s)) return 0;
        if (alive) continue;
        mull_log_last(path, log_from, why, sizeof why);
        return mull_fail(err, MULL_ERR_UNAVAILABLE, what, path, "mend that, then: mull up", "%s",
                         *why ? why : "it ended at once and said nothing");
    }
    if (v->stop) return mull_fail(err, MULL_ERR_BUSY, what, path, "start again with: mull up", "it was told to stop");
    mull_log_last(path, log_from, why, sizeof why);
    return mull_fail(err, MULL_ERR_UNAVAILABLE, what, path, "see the log and: mull doctor",
                     "it does not answer after %d s%s%s", READY_S, *why ? ": " : "", why);
}

static int bring_up(supervisor *v, bool started[MULL_SERVICES], mull_err *err) {
    mull_proc p;
    int rc = 0;
    if (!mull_local_pg_version(v->l)) tell(v, "creating the database (first time)");
    rc = mull_postgres_init(v->l, err);
    long long from[MULL_SERVICES];
    for (int s = 0; !rc && s < MULL_SERVICES; s++) {
        from[s] = mull_log_size(mull_local_log(v->l, mull_service_name(s)));
        /* The first two start side by side; the tables come before the scheduler. */
        for (int i = 0; !rc && s == MULL_SCHEDULER && i < MULL_SCHEDULER; i++) rc = wait_ready(v, i, from[i], err);
        if (!rc && s == MULL_SCHEDULER) rc = mull_local_migrate(v->l, err);
        if (rc || mull_local_running(v->l, mull_service_name(s), &p)) continue;
        rc = mull_service_start(v->l, s, err);
        started[s] = rc > 0;
        v->services[s].born = mull_clock();
        mull_log(MULL_LOG_INFO, "started %s (%d)", mull_service_name(s), rc);
        rc = rc > 0 ? 0 : rc;
    }
    for (int s = MULL_SCHEDULER; !rc && s < MULL_SERVICES; s++) rc = wait_ready(v, s, from[s], err);
    return rc;
}

/* Starts again what has died; a service that keeps dying is tried less and less often. */
static void mend(supervisor *v) {
    bool changed = false;
    for (int s = 0; s < MULL_SERVICES && !v->stop; s++) {
        watched *w = &v->services[s];
        const char *name = mull_service_name(s);
        mull_proc p;
        mull_err err;
        double now = mull_clock();
        bool alive = mull_local_running(v->l, name, &p);
        if (w->running && !alive) {
            char why[300];
            mull_log_last(mull_local_log(v->l, name), 0, why, sizeof why);
            mull_log(MULL_LOG_WARN, "%s has died; its log ends: %s", name, why);
            w->pause = now - w->born > LIVED_S ? 0 : w->pause ? w->pause * 2 : RETRY_MIN_S;
            if (w->pause > RETRY_MAX_S) w->pause = RETRY_MAX_S;
            w->next = now + w->pause;
        }
        changed |= w->running != alive;
        w->running = alive;
        if (alive || now < w->next) continue;
        int pid = mull_service_start(v->l, s, &err);
        if (pid > 0) {
            mull_log(MULL_LOG_INFO, "started %s again (%d)", name, pid);
            w->running = changed = true;
            w->born = now;
        } else {
            char line[sizeof err + 64];
            mull_log(MULL_LOG_ERROR, "%s", mull_err_line(&err, line, sizeof line));
            w->pause = w->pause ? w->pause * 2 : RETRY_MIN_S;
            if (w->pause > RETRY_MAX_S) w->pause = RETRY_MAX_S;
            w->next = now + w->pause;
        }
    }
    if (changed) mull_local_write(v->l, "ready");
}

static void stop_started(supervisor *v, const bool started[MULL_SERVICES]) {
    bool all = true;
    for (int s = 0; s < MULL_SERVICES; s++) all &= started[s];
    mull_proc p;
    if (all) {
        mull_local_stop(v->l, STOP_S);
        return;
    }
    for (int s = MULL_SERVICES - 1; s >= 0; s--) {
        if (!started[s] || !mull_local_running(v->l, mull_service_name(s), &p)) continue;
        mull_proc_signal(&p, s == MULL_POSTGRES ? SIGINT : SIGTERM);
        for (double until = mull_clock() + STOP_S; mull_proc_alive(&p) && mull_clock() < until;) nap(v, 0.05);
        mull_proc_signal(&p, SIGKILL);
    }
}

static void prepare_signals(supervisor *v) {
    static const int heard[] = {SIGTERM, SIGINT, SIGUSR1, SIGCHLD};
    sigemptyset(&v->signals);
    for (size_t i = 0; i < sizeof heard / sizeof *heard; i++) sigaddset(&v->signals, heard[i]);
    sigprocmask(SIG_BLOCK, &v->signals, NULL);
    signal(SIGCHLD, SIG_DFL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
}

int mull_supervise(mull_local *l, int lock, int report) {
    supervisor v = {.l = l, .report = report};
    bool started[MULL_SERVICES] = {0};
    mull_err err = {0};
    (void)lock; /* held by being open */
    mull_log_init("supervisor");
    prepare_signals(&v);
    mull_local_rotate(l);
    int rc = mull_local_programs(l, &err);
    if (!rc && (rc = mull_proc_record(mull_local_record(l, "supervisor"))) != 0)
        rc = mull_fail_errno(&err, rc, "cannot start", mull_local_record(l, "supervisor"), "check the disk");
    if (!rc) {
        mull_local_write(l, "starting");
        rc = bring_up(&v, started, &err);
    }
    if (rc) {
        char line[sizeof err + 64];
        mull_log(MULL_LOG_ERROR, "%s", mull_err_line(&err, line, sizeof line));
        stop_started(&v, started);
        mull_local_write(l, "stopped");
        unlink(mull_local_record(l, "supervisor"));
        tell(&v, line);
        return 1;
    }
    mull_local_write(l, "ready");
    tell(&v, "ok");
    if (report >= 0) close(report);
    v.report = -1;
    mull_log(MULL_LOG_INFO, "everything runs");
    double rotate_at = 0;
    for (int s = 0; s < MULL_SERVICES; s++) v.services[s].running = true;
    while (!v.stop) {
        nap(&v, LOOK_S);
        mend(&v);
        if (mull_clock() < rotate_at) continue;
        mull_local_rotate(l);
        rotate_at = mull_clock() + ROTATE_EVERY_S;
    }
    mull_local_write(l, "stopping");
    bool all = mull_local_stop(l, STOP_S);
    mull_log(MULL_LOG_INFO, all ? "everything has stopped" : "something could not be stopped");
    mull_local_write(l, "stopped");
    unlink(mull_local_record(l, "supervisor"));
    return all ? 0 : 1;
}
