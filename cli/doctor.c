/* See doctor.h. */
#include "cli/doctor.h"

#include "cli/capture.h"
#include "cli/jobs.h"
#include "cli/probe.h"

#include <errno.h>
#include <glob.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

enum { VERSION_S = 10, MIB = 1 << 20, SPACE_FAIL_MIB = 200, SPACE_WARN_MIB = 2048, FILES_WANTED = 1024 };

void mull_doctor_say(mull_doctor *d, const char *check, mull_finding f, const char *todo, const char *fmt, ...) {
    static const char *const words[] = {"ok", "warn", "fail"};
    char detail[1500];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(detail, sizeof detail, fmt, ap);
    va_end(ap);
    for (unsigned char *p = (unsigned char *)detail; *p; p++)
        if (*p < 0x20) *p = ' ';
    json_array_append_new(d->findings, json_pack("{s:s, s:s, s:s, s:s}", "check", check, "status", words[f], "detail",
                                                 detail, "todo", todo ? todo : ""));
    d->failed += f == MULL_FINDING_FAIL;
}

/* First line of `program --version`, within a limit of time. False when it does not run or fails. */
static bool version_of(const char *program, char *out, size_t cap) {
    int status = mull_capture((const char *const[]){program, "--version", NULL}, true, VERSION_S, out, cap);
    out[strcspn(out, "\n")] = 0;
    return status == 0;
}

static void version(mull_doctor *d, const char *check, const char *program, bool ours) {
    char text[300];
    const char *rebuild = "build again: cmake --build --preset release";
    if (!version_of(program, text, sizeof text))
        mull_doctor_say(d, check, MULL_FINDING_FAIL, ours ? rebuild : "install it again: ops/deps",
                        "%s does not run: %s", program, *text ? text : "no answer");
    else if (ours && !strstr(text, MULL_VERSION))
        mull_doctor_say(d, check, MULL_FINDING_FAIL, rebuild, "%s is of version %s, this mull is %s", program, text,
                        MULL_VERSION);
    else
        mull_doctor_say(d, check, MULL_FINDING_OK, NULL, "%s: %s", program, text);
}

void mull_doctor_programs(mull_doctor *d) {
    static const char *const own[] = {"scheduler", "worker", "engine"};
    mull_local *l = d->local;
    mull_err err;
    char file[2200];
    if (mull_local_programs(l, &err)) {
        char where[600] = "";
        if (err.where[0]) snprintf(where, sizeof where, " (%s)", err.where);
        mull_doctor_say(d, "programs", MULL_FINDING_FAIL, err.todo, "%s%s: %s", err.what, where, err.why);
        return;
    }
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) {
        snprintf(file, sizeof file, "%s/mull-%s", l->bin_dir, own[i]);
        version(d, own[i], file, true);
    }
    version(d, "redis-server", l->redis_bin, false);
    snprintf(file, sizeof file, "%s/postgres", l->pg_bin);
    version(d, "postgres", file, false);
}

/* ---- the machine */
static void folder(mull_doctor *d) {
    const char *root = d->local->dir.root;
    struct stat st;
    struct statvfs v;
    char part[3072];
    snprintf(part, sizeof part, "%s", root);
    if (stat(root, &st) != 0) {
        bool none = errno == ENOENT;
        mull_doctor_say(d, "state", none ? MULL_FINDING_OK : MULL_FINDING_FAIL, none ? NULL : "check the path",
                        none ? "%s is not there yet; mull up makes it" : "%s cannot be seen", root);
    } else if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || access(root, W_OK | X_OK)) {
        mull_doctor_say(d, "state", MULL_FINDING_FAIL, "choose another with --state or MULL_STATE, or run as its owner",
                        "%s is not a writable folder of this user", root);
    } else {
        mull_doctor_say(d, "state", MULL_FINDING_OK, NULL, "%s", root);
    }
    while (statvfs(part, &v) != 0 && strrchr(part, '/') && strrchr(part, '/') != part) *strrchr(part, '/') = 0;
    if (statvfs(part, &v) != 0) return;
    unsigned long long mib = (unsigned long long)v.f_bavail * v.f_frsize / MIB;
    bool no_inodes = v.f_files > 0 && v.f_favail < 1000;
    mull_doctor_say(d, "disk",
                    mib < SPACE_FAIL_MIB || no_inodes ? MULL_FINDING_FAIL
                    : mib < SPACE_WARN_MIB            ? MULL_FINDING_WARN
                                                      : MULL_FINDING_OK,
                    mib < SPACE_WARN_MIB || no_inodes ? "free some space, or choose a state folder elsewhere" : NULL,
                    "%llu MiB free at %s%s", mib, part, no_inodes ? ", and no more files can be made" : "");
}

static long number_in(const char *file) {
    FILE *f = fopen(file, "re");
    long n = -1;
    if (f && fscanf(f, "%ld", &n) != 1) n = -1;
    if (f) fclose(f);
    return n;
}

static void limits(mull_doctor *d) {
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r) == 0) {
        bool few = r.rlim_max != RLIM_INFINITY && r.rlim_max < FILES_WANTED;
        mull_doctor_say(d, "open files", few ? MULL_FINDING_WARN : MULL_FINDING_OK,
                        few ? "raise it: ulimit -Hn 8192, or /etc/security/limits.conf" : NULL, "up to %llu",
                        (unsigned long long)r.rlim_max);
    }
    struct statvfs v;
    if (statvfs("/dev/shm", &v) == 0) {
        unsigned long long mib = (unsigned long long)v.f_bavail * v.f_frsize / MIB;
        mull_doctor_say(d, "/dev/shm", mib < 16 ? MULL_FINDING_WARN : MULL_FINDING_OK,
                        mib < 16 ? "PostgreSQL needs some shared memory: in a container, --shm-size 64m" : NULL,
                        "%llu MiB free", mib);
    }
    if (number_in("/proc/sys/vm/overcommit_memory") == 2)
        mull_doctor_say(d, "memory", MULL_FINDING_WARN, "sysctl vm.overcommit_memory=1 is what Redis asks for",
                        "the kernel refuses memory before it is used up (vm.overcommit_memory = 2)");
}

static void gpus(mull_doctor *d) {
    glob_t g;
    size_t n = 0;
    char driver[200] = "";
    if (glob("/dev/nvidia[0-9]*", 0, NULL, &g) == 0) {
        n = g.gl_pathc;
        globfree(&g);
    }
    FILE *f = fopen("/proc/driver/nvidia/version", "re");
    if (f && fgets(driver, sizeof driver, f)) driver[strcspn(driver, "\n")] = 0;
    if (f) fclose(f);
    if (n)
        mull_doctor_say(d, "gpu", MULL_FINDING_OK, NULL, "%zu found, %s", n, *driver ? driver : "driver not seen");
    else
        mull_doctor_say(d, "gpu", MULL_FINDING_OK, NULL, "none; jobs run on the CPU");
}

/* A file system that forgets, or that PostgreSQL should not be on. */
static void media(mull_doctor *d) {
    struct statfs v;
    if (statfs(d->local->dir.root, &v) != 0) return;
    const char *kind = v.f_type == 0x01021994   ? "tmpfs"
                       : v.f_type == 0x6969     ? "NFS"
                       : v.f_type == 0xFF534D42 ? "CIFS"
                                                : NULL;
    if (kind)
        mull_doctor_say(d, "file system", MULL_FINDING_WARN,
                        "choose a state folder on a local disk: --state or MULL_STATE",
                        !strcmp(kind, "tmpfs") ? "the state folder is on tmpfs: everything is gone at a reboot"
                                               : "the state folder is on %s: locks and fsync may not hold there",
                        kind);
}

void mull_doctor_machine(mull_doctor *d) {
    folder(d);
    limits(d);
    gpus(d);
    media(d);
}

/* ---- what runs */
static void nodes(mull_doctor *d) {
    json_t *body = NULL;
    size_t i, up = 0, total = 0, devices = 0;
    const json_t *n;
    char names[600] = "";
    if (mull_probe_http(d->local->dir.socket, "/v1/nodes", &body) != 200) {
        mull_doctor_say(d, "nodes", MULL_FINDING_FAIL, "see log/scheduler.log", "the scheduler does not list them");
        json_decref(body);
        return;
    }
    json_array_foreach(json_object_get(body, "nodes"), i, n) {
        bool down = !strcmp(mull_text(n, "state"), "DOWN");
        up += !down;
        if (!down) devices += json_array_size(json_object_get(n, "devices"));
        total++;
        size_t used = strlen(names);
        snprintf(names + used, sizeof names - used, "%s%s %s", used ? ", " : "", mull_text(n, "name"),
                 mull_text(n, "state"));
    }
    json_decref(body);
    mull_doctor_say(d, "nodes",
                    up == 0      ? MULL_FINDING_FAIL
                    : up < total ? MULL_FINDING_WARN
                                 : MULL_FINDING_OK,
                    up == 0 ? "see log/worker.log; mull up starts the worker" : NULL, "%zu of %zu up%s%s", up, total,
                    *names ? ": " : "", names);
    if (up && devices == 0)
        mull_doctor_say(d, "devices", MULL_FINDING_FAIL, "mull down, then mull up --devices cpu:1",
                        "no worker offers any, so no job can start");
}

static bool process(mull_doctor *d, const char *name) {
    mull_proc p;
    if (mull_local_running(d->local, name, &p)) {
        mull_doctor_say(d, name, MULL_FINDING_OK, NULL, "runs as process %d", p.pid);
        return true;
    }
    char why[600];
    mull_log_last(mull_local_log(d->local, name), 0, why, sizeof why);
    mull_doctor_say(d, name, MULL_FINDING_FAIL, "start it: mull up", "does not run%s%s", *why ? "; its log ends: " : "",
                    why);
    return false;
}

static void answers(mull_doctor *d, const char *check, bool yes, const char *where) {
    mull_doctor_say(d, check, yes ? MULL_FINDING_OK : MULL_FINDING_FAIL,
                    yes ? NULL : "see its log in the state folder; mull down, then mull up", "%s on %s",
                    yes ? "answers" : "does not answer", where);
}

/* What it holds may be lost, but never thrown away while it runs. */
static void redis_settings(mull_doctor *d) {
    char policy[40], aof[8];
    mull_probe_redis_setting(d->local->dir.redis, "maxmemory-policy", policy, sizeof policy);
    mull_probe_redis_setting(d->local->dir.redis, "appendonly", aof, sizeof aof);
    bool right = !strcmp(policy, "noeviction") && !strcmp(aof, "yes");
    mull_doctor_say(d, "redis keeps", right ? MULL_FINDING_OK : MULL_FINDING_FAIL,
                    right ? NULL : "mull down, then mull up; nobody else may change its settings",
                    "maxmemory-policy %s, appendonly %s", *policy ? policy : "unknown", *aof ? aof : "unknown");
}

void mull_doctor_services(mull_doctor *d) {
    const mull_local *l = d->local;
    mull_proc p;
    bool any = mull_local_running(l, "supervisor", &p), running[MULL_SERVICES];
    for (int s = 0; s < MULL_SERVICES; s++) any |= mull_local_running(l, mull_service_name(s), &p);
    if (!any) {
        mull_doctor_say(d, "mull", MULL_FINDING_FAIL, "start it: mull up", "nothing runs in %s", l->dir.root);
        return;
    }
    process(d, "supervisor");
    for (int s = 0; s < MULL_SERVICES; s++) running[s] = process(d, mull_service_name(s));
    if (running[MULL_REDIS]) answers(d, "redis", mull_probe_redis(l->dir.redis), l->dir.redis);
    if (running[MULL_REDIS]) redis_settings(d);
    if (running[MULL_POSTGRES]) answers(d, "postgres", mull_probe_postgres(l->dir.pg_socket), l->dir.pg_socket);
    if (!running[MULL_SCHEDULER]) return;
    json_t *body = NULL;
    int status = mull_probe_http(l->dir.socket, "/readyz", &body);
    if (status == 200) {
        mull_doctor_say(d, "scheduler", MULL_FINDING_OK, NULL, "ready on %s", l->dir.socket);
    } else {
        char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
        mull_doctor_say(d, "scheduler", MULL_FINDING_FAIL, "see log/scheduler.log", "not ready (HTTP %d)%s%s", status,
                        text ? ": " : "", text ? text : "");
        free(text);
    }
    json_decref(body);
    nodes(d);
}
