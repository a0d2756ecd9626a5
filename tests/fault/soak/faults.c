/* See soak.h. */
#include "tests/fault/soak/soak.h"

#include "tests/support/run.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- processes ---- */

static void kill_process(soak_process *p) {
    if (p->pid > 0) mull_reap(p->pid, SIGKILL);
    *p = (soak_process){0};
}

static void set_stopped(soak_process *p, bool stopped) {
    if (p->pid <= 0 || p->stopped == stopped) return;
    kill(p->pid, stopped ? SIGSTOP : SIGCONT);
    p->stopped = stopped;
}

/* One of the engines or their supervisors, by the mark in its environment; 0 when there is none. */
static pid_t some_engine(soak *k) {
    pid_t found[256];
    int n = 0;
    char mark[128];
    int len = snprintf(mark, sizeof mark, "MULL_WORKER_STATE=%s/", k->disk);
    DIR *d = opendir("/proc");
    for (struct dirent *e; d && (e = readdir(d)) && n < 256;) {
        char path[300], text[4096];
        pid_t pid = atoi(e->d_name);
        if (pid <= 1) continue;
        snprintf(path, sizeof path, "/proc/%d/environ", (int)pid);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t got = fd >= 0 ? read(fd, text, sizeof text) : 0;
        if (fd >= 0) close(fd);
        if (got > 0 && memmem(text, (size_t)got, mark, (size_t)len)) found[n++] = pid;
    }
    if (d) closedir(d);
    return n ? found[soak_any(k, (uint64_t)n)] : 0;
}

/* ---- Redis ---- */

static void truncate_file(soak *k, const char *path) {
    struct stat st;
    if (stat(path, &st) != 0 || st.st_size == 0) return;
    off_t cut = (off_t)soak_any(k, (uint64_t)st.st_size);
    if (cut > 65536) cut = 65536;
    if (truncate(path, st.st_size - cut) != 0) perror(path);
}

static void truncate_aof(soak *k) {
    char dir[128], path[500];
    snprintf(dir, sizeof dir, "%s/appendonlydir", k->s.dir);
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (!strstr(e->d_name, ".incr.")) continue;
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        truncate_file(k, path);
    }
    if (d) closedir(d);
}

/* Lines of the event stream once more, later ones before earlier ones. */
static void repeat_events(soak *k) {
    json_t *list = mull_redis_do(&k->s, "XREVRANGE mull:events + - COUNT 40");
    size_t i;
    json_t *entry;
    json_array_foreach(list, i, entry) {
        const char *text = json_string_value(json_array_get(json_array_get(entry, 1), 1));
        const char *argv[] = {"XADD", "mull:events", "*", "m", text};
        if (text && soak_any(k, 2)) json_decref(mull_redis_argv(&k->s, 5, argv));
    }
    json_decref(list);
}

/* ---- disks ---- */

static void fill_disk(const soak *k) {
    char path[128], block[65536];
    snprintf(path, sizeof path, "%s/ballast", k->disk);
    memset(block, 'x', sizeof block);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    for (size_t n = sizeof block; fd >= 0 && n > 0;)
        if (write(fd, block, n) <= 0) n /= 2;
    if (fd >= 0) close(fd);
}

static void free_disk(const soak *k) {
    char path[128];
    snprintf(path, sizeof path, "%s/ballast", k->disk);
    unlink(path);
}

/* ---- all of them ---- */

/* The very moment in which something has changed its state and nobody has recorded it yet. */
static void at_next_event(const soak *k) {
    if (k->redis_up) json_decref(mull_redis_do(&k->s, "XREAD BLOCK 400 COUNT 1 STREAMS mull:events $"));
}

static void cancel_some(soak *k, int which) {
    char target[64], out[4096];
    if (!k->jobs[which].id) return;
    snprintf(target, sizeof target, "/v1/jobs/%lld/cancel", k->jobs[which].id);
    soak_post(k, (int)soak_any(k, SCHEDULERS), target, "", out, sizeof out, 1500);
}

static void mend(soak *k, const action *a) {
    switch (a->what) {
    case ACT_KILL_SCHEDULER:
        if (!k->scheduler[a->arg].pid) soak_scheduler(k, a->arg);
        break;
    case ACT_STOP_SCHEDULER:
        set_stopped(&k->scheduler[a->arg], false);
        break;
    case ACT_KILL_WORKER:
        if (!k->worker[a->arg].pid) soak_worker(k, a->arg);
        break;
    case ACT_STOP_WORKER:
        set_stopped(&k->worker[a->arg], false);
        break;
    case ACT_KILL_REDIS:
    case ACT_TRUNCATE_REDIS:
        if (!k->redis_up) mull_servers_redis(&k->s);
        k->redis_up = true;
        break;
    case ACT_CRASH_PG:
        if (!k->s.postgres) mull_servers_postgres(&k->s);
        break;
    case ACT_PROXY:
        *k->proxy[a->arg].mode = MULL_PROXY_PASS;
        break;
    case ACT_CLOCK:
        *k->clock = 0;
        break;
    case ACT_FILL_DISK:
        free_disk(k);
        break;
    default:
        break;
    }
}

void soak_act(soak *k, const action *a) {
    pid_t engine;
    bool process = a->kind >= ACT_KILL_SCHEDULER && a->kind <= ACT_STOP_ENGINE;
    if (process && a->more) at_next_event(k);
    switch (a->kind) {
    case ACT_SUBMIT:
        soak_submit(k, &k->jobs[a->arg], 1500);
        break;
    case ACT_CANCEL:
        cancel_some(k, a->arg);
        break;
    case ACT_KILL_SCHEDULER:
        kill_process(&k->scheduler[a->arg]);
        break;
    case ACT_STOP_SCHEDULER:
        set_stopped(&k->scheduler[a->arg], true);
        break;
    case ACT_KILL_WORKER:
        kill_process(&k->worker[a->arg]);
        break;
    case ACT_STOP_WORKER:
        set_stopped(&k->worker[a->arg], true);
        break;
    case ACT_KILL_ENGINE:
    case ACT_STOP_ENGINE:
        engine = some_engine(k);
        if (engine) kill(engine, a->kind == ACT_KILL_ENGINE ? SIGKILL : SIGSTOP);
        break;
    case ACT_FLUSH_REDIS:
        if (k->redis_up) json_decref(mull_redis_do(&k->s, "FLUSHALL"));
        break;
    case ACT_KILL_REDIS:
    case ACT_TRUNCATE_REDIS:
        if (!k->redis_up) break;
        mull_servers_kill_redis(&k->s);
        k->redis_up = false;
        if (a->kind == ACT_TRUNCATE_REDIS) truncate_aof(k);
        break;
    case ACT_CRASH_PG:
        if (k->s.postgres) mull_servers_kill_postgres(&k->s);
        k->s.postgres = 0;
        break;
    case ACT_PROXY:
        *k->proxy[a->arg].mode = a->more;
        break;
    case ACT_CLOCK:
        *k->clock = a->more;
        break;
    case ACT_REPEAT_EVENTS:
        if (k->redis_up) repeat_events(k);
        break;
    case ACT_FILL_DISK:
        if (k->small_disk) fill_disk(k);
        break;
    case ACT_MEND:
        mend(k, a);
        break;
    case ACT_KINDS:
        break;
    }
}

void soak_mend_all(soak *k) {
    static const action_kind kinds[] = {ACT_KILL_REDIS, ACT_CRASH_PG, ACT_CLOCK, ACT_FILL_DISK};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) mend(k, &(action){.what = kinds[i]});
    for (int i = 0; i < 3; i++) mend(k, &(action){.what = ACT_PROXY, .arg = i});
    for (int i = 0; i < SCHEDULERS; i++) {
        mend(k, &(action){.what = ACT_STOP_SCHEDULER, .arg = i});
        mend(k, &(action){.what = ACT_KILL_SCHEDULER, .arg = i});
    }
    for (int i = 0; i < WORKERS; i++) {
        mend(k, &(action){.what = ACT_STOP_WORKER, .arg = i});
        mend(k, &(action){.what = ACT_KILL_WORKER, .arg = i});
    }
}
