/* See proc.h. */
#include "worker/proc.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Fields of /proc/PID/stat behind the command's name, which may hold anything. */
static bool stat_of(pid_t pid, pid_t *parent, uint64_t *start) {
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0) return false;
    text[n] = 0;
    const char *p = strrchr(text, ')');
    int ppid;
    unsigned long long at;
    if (!p || sscanf(p + 1, " %*c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu", &ppid,
                     &at) != 2)
        return false;
    *parent = ppid;
    *start = at;
    return true;
}

uint64_t mull_proc_start(pid_t pid) {
    pid_t parent;
    uint64_t start;
    return stat_of(pid, &parent, &start) ? start : 0;
}

/* The next process id in an open /proc, 0 at its end. */
static pid_t next_pid(DIR *d) {
    struct dirent *e;
    while ((e = readdir(d)))
        if (isdigit((unsigned char)e->d_name[0])) return (pid_t)strtol(e->d_name, NULL, 10);
    return 0;
}

size_t mull_proc_children(pid_t parent, pid_t *out, size_t cap) {
    DIR *d = opendir("/proc");
    size_t n = 0;
    pid_t pid, ppid;
    uint64_t start;
    while (d && n < cap && (pid = next_pid(d)))
        if (stat_of(pid, &ppid, &start) && ppid == parent) out[n++] = pid;
    if (d) closedir(d);
    return n;
}

static bool has_marker(pid_t pid, const char *marker) {
    enum { MOST = 256 << 10 };
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/environ", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    char *text = fd >= 0 ? malloc(MOST + 1) : NULL;
    size_t len = 0;
    for (ssize_t n; text && len < MOST && (n = read(fd, text + len, MOST - len)) > 0;) len += (size_t)n;
    bool found = false;
    for (size_t at = 0; at < len && !found;) {
        text[len] = 0;
        found = strcmp(text + at, marker) == 0;
        at += strlen(text + at) + 1;
    }
    free(text);
    if (fd >= 0) close(fd);
    return found;
}

size_t mull_proc_kill_marked(const char *marker) {
    DIR *d = opendir("/proc");
    size_t n = 0;
    pid_t pid;
    while (d && (pid = next_pid(d)))
        if (pid != getpid() && has_marker(pid, marker) && kill(pid, SIGKILL) == 0) n++;
    if (d) closedir(d);
    return n;
}

uint64_t mull_proc_oom_kills(void) {
    FILE *f = fopen("/proc/vmstat", "re");
    char line[128];
    uint64_t n = 0;
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "oom_kill %" SCNu64, &n) == 1) break;
    if (f) fclose(f);
    return n;
}

/* Process ids and start times mean something within one run of the kernel only. */
static void kernel_boot(char out[64]) {
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");
    if (!f || fscanf(f, "%63s", out) != 1) strcpy(out, "unknown");
    if (f) fclose(f);
}

int mull_proc_record(const char *path, pid_t pid, uint64_t start) {
    char boot[64];
    kernel_boot(boot);
    FILE *f = fopen(path, "we");
    if (!f) return -1;
    fprintf(f, "%s %d %" PRIu64 "\n", boot, (int)pid, start);
    return fclose(f);
}

static size_t kill_record(const char *path, const char *boot) {
    char of[64];
    int pid;
    uint64_t start;
    FILE *f = fopen(path, "re");
    if (!f) return 0;
    bool ok = fscanf(f, "%63s %d %" SCNu64, of, &pid, &start) == 3;
    fclose(f);
    if (!ok || strcmp(of, boot) != 0 || pid <= 1 || start == 0 || mull_proc_start(pid) != start) return 0;
    if (kill(-pid, SIGKILL) != 0) kill(pid, SIGKILL);
    return 1;
}

size_t mull_proc_kill_recorded(const char *dir) {
    DIR *d = opendir(dir);
    struct dirent *e;
    char boot[64], path[4608];
    size_t n = 0;
    kernel_boot(boot);
    while (d && (e = readdir(d))) {
        if (e->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        n += kill_record(path, boot);
        unlink(path);
    }
    if (d) closedir(d);
    return n;
}
