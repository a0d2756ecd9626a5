/* Starting, asking and stopping one service of the four; see local.h. */
#include "cli/local.h"

#include "cli/jobs.h"
#include "cli/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LOG_MAX = 16 << 20 };

static int start_scheduler(const mull_local *l, mull_err *err) {
    char program[2200], pg[4200], redis[3400], listen[3400];
    snprintf(program, sizeof program, "%s/mull-scheduler", l->bin_dir);
    snprintf(redis, sizeof redis, "unix:%s", l->dir.redis);
    snprintf(listen, sizeof listen, "unix:%s", l->dir.socket);
    mull_postgres_conninfo(l, "mull_scheduler", pg, sizeof pg);
    char files[3400], models[3400];
    snprintf(files, sizeof files, "%.3000s", mull_local_path(l, "files", ""));
    snprintf(models, sizeof models, "%.3000s", mull_local_path(l, "models", ""));
    const char *argv[28] = {program,    "serve", "--pg",    pg,    "--redis",  redis,
                            "--listen", listen,  "--files", files, "--models", models};
    const char **more = argv + 12;
    if (l->listen[0]) {
        *more++ = "--listen";
        *more++ = l->listen;
    }
    char workers[160];
    if (l->workers[0]) {
        snprintf(workers, sizeof workers, "rediss://*%s", strrchr(l->workers, ':'));
        *more++ = "--redis-password-file";
        *more++ = mull_local_path(l, "redis", "password");
        *more++ = "--worker-redis";
        *more++ = workers;
        *more++ = "--worker-ca";
        *more++ = l->tls_cert;
    }
    if (l->exported[0]) {
        *more++ = "--export";
        *more++ = l->exported;
    }
    if (l->tls_cert[0]) {
        *more++ = "--tls-cert";
        *more++ = l->tls_cert;
        *more++ = "--tls-key";
        *more++ = l->tls_key;
    }
    mull_spawn s = {.argv = argv, .log = mull_local_log(l, "scheduler"), .record = mull_local_record(l, "scheduler")};
    return mull_spawn_start(&s, err);
}

static int start_worker(const mull_local *l, mull_err *err) {
    char program[2200], engine[2200], redis[3400];
    snprintf(program, sizeof program, "%s/mull-worker", l->bin_dir);
    snprintf(engine, sizeof engine, "%s/mull-engine", l->bin_dir);
    snprintf(redis, sizeof redis, "unix:%s", l->dir.redis);
    const char *argv[] = {program,
                          "--redis",
                          redis,
                          "--node",
                          l->node,
                          "--devices",
                          l->devices,
                          "--state",
                          mull_local_path(l, "worker", ""),
                          "--engine",
                          engine,
                          l->workers[0] ? "--redis-password-file" : NULL,
                          mull_local_path(l, "redis", "password"),
                          NULL};
    mull_spawn s = {.argv = argv, .log = mull_local_log(l, "worker"), .record = mull_local_record(l, "worker")};
    return mull_spawn_start(&s, err);
}

int mull_service_start(const mull_local *l, mull_service s, mull_err *err) {
    switch (s) {
    case MULL_REDIS:
        return mull_local_redis_start(l, err);
    case MULL_POSTGRES:
        return mull_postgres_start(l, err);
    case MULL_SCHEDULER:
        return start_scheduler(l, err);
    default:
        return start_worker(l, err);
    }
}

static bool node_is_up(const mull_local *l) {
    json_t *body = NULL;
    bool up = false;
    size_t i;
    const json_t *n;
    if (mull_probe_http(l->dir.socket, "/v1/nodes", &body) == 200)
        json_array_foreach(json_object_get(body, "nodes"), i, n) up |=
            !strcmp(mull_text(n, "name"), l->node) && strcmp(mull_text(n, "state"), "DOWN") != 0;
    json_decref(body);
    return up;
}

int mull_local_devices(const mull_local *l) {
    json_t *body = NULL;
    int count = -1;
    size_t i;
    const json_t *n;
    if (mull_probe_http(l->dir.socket, "/v1/nodes", &body) == 200)
        json_array_foreach(json_object_get(body, "nodes"), i, n) if (!strcmp(mull_text(n, "name"), l->node)) count =
            (int)json_array_size(json_object_get(n, "devices"));
    json_decref(body);
    return count;
}

bool mull_service_ready(const mull_local *l, mull_service s) {
    switch (s) {
    case MULL_REDIS:
        return mull_probe_redis(l->dir.redis);
    case MULL_POSTGRES:
        return mull_postgres_ready(l);
    case MULL_SCHEDULER:
        return mull_probe_http(l->dir.socket, "/readyz", NULL) == 200;
    default:
        return node_is_up(l);
    }
}

int mull_local_migrate(const mull_local *l, mull_err *err) {
    char program[2200], pg[4200];
    snprintf(program, sizeof program, "%s/mull-scheduler", l->bin_dir);
    mull_postgres_conninfo(l, "mull_admin", pg, sizeof pg);
    const char *argv[] = {program, "migrate", "--pg", pg, NULL};
    mull_spawn s = {.argv = argv, .log = mull_local_log(l, "scheduler")};
    return mull_spawn_run(&s, "cannot bring the database up to date", err);
}

/* ---- stopping */
static bool wait_gone(const mull_proc *p, double seconds) {
    for (double until = mull_clock() + seconds; mull_proc_alive(p) && mull_clock() < until; mull_pause(0.02))
        waitpid(p->pid, NULL, WNOHANG); /* when it is a child */
    waitpid(p->pid, NULL, WNOHANG);
    return !mull_proc_alive(p);
}

/* Ways to ask, from the polite one to force; each gets its time. A stopped process (SIGSTOP) is woken, or it could not
 * hear. */
static bool stop_one(const mull_local *l, mull_service s, double seconds) {
    const int polite = s == MULL_POSTGRES ? SIGINT : SIGTERM; /* PostgreSQL: fast shutdown */
    const int signals[] = {polite, s == MULL_POSTGRES ? SIGQUIT : 0, SIGKILL};
    const double limits[] = {seconds, 5, 5};
    mull_proc p;
    if (!mull_local_running(l, mull_service_name(s), &p)) return true;
    for (int i = 0; i < 3; i++) {
        if (!signals[i]) continue;
        mull_proc_signal(&p, signals[i]);
        mull_proc_signal(&p, SIGCONT);
        if (wait_gone(&p, limits[i])) return true;
    }
    return false;
}

bool mull_local_stop(const mull_local *l, double seconds) {
    static const mull_service order[] = {MULL_WORKER, MULL_SCHEDULER, MULL_REDIS, MULL_POSTGRES};
    bool all = true;
    for (int i = 0; i < MULL_SERVICES; i++) {
        all &= stop_one(l, order[i], seconds);
        if (all) unlink(mull_local_record(l, mull_service_name(order[i])));
    }
    return all;
}

/* ---- logs: the writers append, so a file may be cut under them; lines written between copy and cut are lost */
static void rotate(const char *log) {
    char old[4200], *block;
    if (mull_log_size(log) <= LOG_MAX) return;
    snprintf(old, sizeof old, "%s.1", log);
    int from = open(log, O_RDWR | O_CLOEXEC), to = open(old, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    block = malloc(1 << 16);
    for (ssize_t n; from >= 0 && to >= 0 && block && (n = read(from, block, 1 << 16)) > 0;)
        if (write(to, block, (size_t)n) != n) break; /* a full disk: the cut below frees more than this needs */
    if (from >= 0 && ftruncate(from, 0) != 0) unlink(old);
    free(block);
    if (from >= 0) close(from);
    if (to >= 0) close(to);
}

void mull_local_rotate(const mull_local *l) {
    for (int s = 0; s < MULL_SERVICES; s++) rotate(mull_local_log(l, mull_service_name(s)));
    rotate(mull_local_log(l, "supervisor"));
}
