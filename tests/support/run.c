/* See run.h. */
#include "tests/support/run.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void die(const char *what) {
    fprintf(stderr, "test support: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

typedef struct sink {
    char *data;
    size_t len, cap;
} sink;

/* One read; false at the end. */
static bool drain(int fd, sink *s) {
    if (s->cap - s->len < 4096) {
        s->cap = s->cap ? s->cap * 2 : 16384;
        s->data = realloc(s->data, s->cap);
        if (!s->data) die("no memory");
    }
    ssize_t n = read(fd, s->data + s->len, s->cap - s->len - 1);
    if (n > 0) s->len += (size_t)n;
    s->data[s->len] = 0;
    return n > 0 || (n < 0 && errno == EINTR);
}

static pid_t start(const char *const *argv, int out[2], int err[2]) {
    if (pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC)) die("pipe");
    pid_t pid = fork();
    if (pid < 0) die("fork");
    if (pid == 0) {
        int null = open("/dev/null", O_RDONLY);
        setpgid(0, 0);
        if (dup2(null, 0) < 0 || dup2(out[1], 1) < 0 || dup2(err[1], 2) < 0) _exit(126);
        execvp(argv[0], (char **)(size_t)argv);
        fprintf(stderr, "cannot run %s: %s\n", argv[0], strerror(errno));
        _exit(127);
    }
    close(out[1]);
    close(err[1]);
    return pid;
}

mull_run mull_run_command(const char *const *argv, int seconds) {
    int out[2], err[2], status;
    sink so = {0}, se = {0};
    double end = now() + seconds;
    pid_t pid = start(argv, out, err);
    bool late = false, exited = false;
    struct pollfd p[2] = {{out[0], POLLIN, 0}, {err[0], POLLIN, 0}};
    /* A daemon that the command leaves behind may keep the pipes open: the end of the command is the end of waiting. */
    while (!exited || p[0].fd >= 0 || p[1].fd >= 0) {
        int ready = poll(p, 2, exited ? 0 : 50);
        if (ready > 0 && p[0].revents && !drain(p[0].fd, &so)) p[0].fd = -1;
        if (ready > 0 && p[1].revents && !drain(p[1].fd, &se)) p[1].fd = -1;
        if (exited && ready <= 0) break;
        if (!exited && waitpid(pid, &status, WNOHANG) == pid) exited = true;
        if (!exited && now() > end) {
            late = true;
            kill(-pid, SIGKILL);
            waitpid(pid, &status, 0);
            exited = true;
        }
    }
    close(out[0]);
    close(err[0]);
    mull_run r = {.status = late ? -1 : WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status)};
    r.out = so.data ? so.data : calloc(1, 1);
    r.out_len = so.len;
    r.err = se.data ? se.data : calloc(1, 1);
    return r;
}

void mull_run_fini(mull_run *r) {
    free(r->out);
    free(r->err);
    r->out = r->err = NULL;
}

char *mull_run_ok(const char *const *argv, int seconds) {
    mull_run r = mull_run_command(argv, seconds);
    if (r.status != 0) {
        for (const char *const *a = argv; *a; a++) fprintf(stderr, "%s ", *a);
        fprintf(stderr, "ended with %d\nstdout: %.4000s\nstderr: %.4000s\n", r.status, r.out, r.err);
        exit(1);
    }
    free(r.err);
    return r.out;
}

json_t *mull_run_json(const char *const *argv, int seconds) {
    char *out = mull_run_ok(argv, seconds);
    json_error_t e;
    json_t *v = json_loads(out, JSON_DISABLE_EOF_CHECK, &e);
    if (!v) {
        fprintf(stderr, "%s printed no JSON (%s): %.1000s\n", argv[0], e.text, out);
        exit(1);
    }
    free(out);
    return v;
}

char *mull_temp_folder(const char *tag) {
    char *path = malloc(256);
    const char *base = getenv("TMPDIR");
    if (!path) die("no memory");
    snprintf(path, 256, "%.150s/mull-%.40s-XXXXXX", base && *base ? base : "/tmp", tag);
    if (!mkdtemp(path)) die(path);
    return path;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw) {
    (void)st;
    (void)flag;
    (void)ftw;
    remove(path);
    return 0;
}

void mull_tree_remove(const char *path) {
    nftw(path, remove_one, 32, FTW_DEPTH | FTW_PHYS);
}

char *mull_slurp(const char *path, size_t *len) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return NULL;
    sink s = {0};
    while (drain(fd, &s)) continue;
    close(fd);
    if (len) *len = s.len;
    return s.data;
}

void mull_write_file(const char *path, const void *data, size_t len) {
    FILE *f = fopen(path, "we");
    if (!f || fwrite(data, 1, len, f) != len || fclose(f)) die(path);
}

/* Fields 3 and 4 of /proc/PID/stat: state and parent. The name before them may hold anything but ends at the last ')'.
 */
static bool process_stat(pid_t pid, char *state, pid_t *parent) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    char *text = mull_slurp(path, NULL), *after = text ? strrchr(text, ')') : NULL;
    int ppid = 0;
    bool ok = after && sscanf(after + 1, " %c %d", state, &ppid) == 2;
    *parent = ppid;
    free(text);
    return ok;
}

bool mull_pid_alive(pid_t pid) {
    char state;
    pid_t parent;
    return process_stat(pid, &state, &parent) && state != 'Z' && state != 'X';
}

static bool command_has(pid_t pid, const char *word) {
    char path[64];
    size_t len = 0;
    bool found = false;
    snprintf(path, sizeof path, "/proc/%d/cmdline", (int)pid);
    char *text = mull_slurp(path, &len);
    for (size_t i = 0; text && i < len && !found; i += strlen(text + i) + 1) found = strstr(text + i, word) != NULL;
    free(text);
    return found;
}

static bool descends(pid_t pid, pid_t from) {
    char state;
    pid_t parent = 0;
    for (int depth = 0; depth < 32 && pid > 1; depth++) {
        if (!process_stat(pid, &state, &parent)) return false;
        if (parent == from) return true;
        pid = parent;
    }
    return false;
}

pid_t mull_find_descendant(pid_t from, const char *word) {
    DIR *d = opendir("/proc");
    pid_t found = 0;
    for (struct dirent *e; d && !found && (e = readdir(d));) {
        pid_t pid = (pid_t)atoi(e->d_name);
        if (pid > 0 && pid != from && command_has(pid, word) && descends(pid, from) && mull_pid_alive(pid)) found = pid;
    }
    if (d) closedir(d);
    return found;
}
