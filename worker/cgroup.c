/* See cgroup.h; the files are those of the kernel's Documentation/admin-guide/cgroup-v2.rst. */
#include "worker/cgroup.h"

#include "schema/cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char WHAT[] = "engines cannot be limited by cgroups";
static const char NAME[] = "mull-attempt-";
enum { PIDS_A_RANK = 4096, WEIGHT_A_SLOT = 100, WEIGHT_MOST = 10000 };

/* 0 or errno. */
static int put(const char *folder, const char *file, const char *text) {
    char path[MULL_CGROUP_PATH + 64];
    snprintf(path, sizeof path, "%s/%s", folder, file);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), why = 0;
    if (fd < 0) return errno;
    if (write(fd, text, strlen(text)) != (ssize_t)strlen(text)) why = errno ? errno : EIO;
    close(fd);
    return why;
}

/* The number in a file; 0 for none or "max". */
static uint64_t number_in(const char *folder, const char *file) {
    char path[MULL_CGROUP_PATH + 64];
    unsigned long long n = 0;
    snprintf(path, sizeof path, "%s/%s", folder, file);
    FILE *f = fopen(path, "re");
    if (f && fscanf(f, "%llu", &n) != 1) n = 0;
    if (f) fclose(f);
    return n;
}

/* Whether a process other than this one is in the group itself. */
static bool others_in(const char *folder) {
    char path[MULL_CGROUP_PATH + 64];
    int pid;
    bool others = false;
    snprintf(path, sizeof path, "%s/cgroup.procs", folder);
    FILE *f = fopen(path, "re");
    while (f && fscanf(f, "%d", &pid) == 1) others |= pid != getpid();
    if (f) fclose(f);
    return others;
}

static void end_leftovers(const char *parent) {
    enum { TRIES = 50, PAUSE_US = 20000 };
    char path[MULL_CGROUP_PATH];
    struct dirent *e;
    DIR *d = opendir(parent);
    while (d && (e = readdir(d))) {
        if (strncmp(e->d_name, NAME, sizeof NAME - 1) != 0) continue;
        snprintf(path, sizeof path, "%s/%s", parent, e->d_name);
        for (int i = 0; i < TRIES && mull_cgroup_end(path) != 0; i++) usleep(PAUSE_US);
    }
    if (d) closedir(d);
}

int mull_cgroup_open(const char *folder, char parent[MULL_CGROUP_PATH], mull_err *err) {
    char own[MULL_CGROUP_PATH];
    int rc = folder ? mull_cgroup_usable(folder, err) : mull_cgroup_own(parent, MULL_CGROUP_PATH, err);
    if (rc) return rc;
    if (folder) snprintf(parent, MULL_CGROUP_PATH, "%s", folder);
    if (others_in(parent))
        return mull_fail(err, MULL_ERR_UNSUPPORTED, WHAT, parent,
                         "start the worker in one of its own (systemd: Delegate=yes), or name one with --cgroup",
                         "other processes are in this group");
    if (!folder) {
        snprintf(own, sizeof own, "%.*s/worker", (int)sizeof own - 10, parent);
        if ((mkdir(own, 0755) != 0 && errno != EEXIST) || mull_cgroup_enter(own) != 0)
            return mull_fail_errno(err, errno, WHAT, own, "name a group with --cgroup");
    }
    int why = put(parent, "cgroup.subtree_control", "+cpu +memory +pids");
    if (why) {
        if (!folder && mull_cgroup_enter(parent) == 0) rmdir(own);
        return mull_fail_errno(err, why, WHAT, parent, "name another group with --cgroup");
    }
    end_leftovers(parent);
    return 0;
}

int mull_cgroup_make(const char *parent, const char *name, const mull_cgroup_limits *limits, char out[MULL_CGROUP_PATH],
                     mull_err *err) {
    char text[32];
    int why = 0;
    if (snprintf(out, MULL_CGROUP_PATH, "%s/%s%s", parent, NAME, name) >= MULL_CGROUP_PATH)
        return mull_fail(err, MULL_ERR_UNSUPPORTED, WHAT, parent, NULL, "the path is too long");
    if (mkdir(out, 0755) != 0 && errno != EEXIST) return mull_fail_errno(err, errno, WHAT, out, NULL);
    const char *file = "memory.max";
    if (limits->memory_bytes) {
        snprintf(text, sizeof text, "%llu", (unsigned long long)limits->memory_bytes);
        why = put(out, file, text);
        /* Half an attempt is of no use; a kernel without the file only kills one process at a time. */
        if (!why) put(out, "memory.oom.group", "1");
    }
    if (!why) {
        snprintf(text, sizeof text, "%u", limits->pids);
        why = put(out, file = "pids.max", text);
    }
    if (!why) {
        snprintf(text, sizeof text, "%u", limits->cpu_weight);
        why = put(out, file = "cpu.weight", text);
    }
    if (!why) return 0;
    rmdir(out);
    mull_fail_errno(err, why, WHAT, out, NULL);
    snprintf(err->where, sizeof err->where, "%.200s/%s", out, file);
    return err->code;
}

int mull_cgroup_enter(const char *path) {
    return put(path, "cgroup.procs", "0"); /* who writes */
}

int mull_cgroup_end(const char *path) {
    put(path, "cgroup.kill", "1"); /* since Linux 5.14; before, the worker's own ways have to do */
    return rmdir(path) == 0 || errno == ENOENT ? 0 : -1;
}

mull_cgroup_limits mull_cgroup_share(const char *parent, int held, int offered, int ranks) {
    uint64_t all = number_in(parent, "memory.max"),
             machine = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    if (!all || all > machine) all = machine;
    if (offered < 1) offered = 1;
    if (held < 1) held = 1;
    if (held > offered) held = offered;
    int weight = held * WEIGHT_A_SLOT;
    return (mull_cgroup_limits){.memory_bytes = all / (uint64_t)offered * (uint64_t)held,
                                .cpu_weight = (unsigned)(weight < WEIGHT_MOST ? weight : WEIGHT_MOST),
                                .pids = (unsigned)(ranks > 0 ? ranks : 1) * PIDS_A_RANK};
}
