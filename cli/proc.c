/* See proc.h. Everything comes from /proc: the start time there makes a process id unique until the next boot, and the
 * boot's own id makes it unique for ever. */
#include "cli/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static ssize_t slurp(const char *file, char *out, size_t cap) {
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    ssize_t n = read(fd, out, cap - 1);
    close(fd);
    if (n < 0) return -1;
    out[n] = 0;
    return n;
}

/* State letter and start time of /proc/PID/stat; the name in it may hold anything, even ')'. */
static bool stat_of(int pid, char *state, unsigned long long *start) {
    char file[40], text[1024];
    snprintf(file, sizeof file, "/proc/%d/stat", pid);
    if (slurp(file, text, sizeof text) <= 0) return false;
    const char *p = strrchr(text, ')');
    if (!p || sscanf(p + 1, " %c", state) != 1) return false;
    for (int field = 2; p && field < 22; field++) p = strchr(p + 1, ' ');
    return p && sscanf(p, " %llu", start) == 1;
}

static void boot_id(char out[48]) {
    if (slurp("/proc/sys/kernel/random/boot_id", out, 48) <= 0) snprintf(out, 48, "unknown");
    out[strcspn(out, "\n")] = 0;
}

bool mull_proc_alive(const mull_proc *p) {
    char state;
    unsigned long long start;
    return p->pid > 0 && stat_of(p->pid, &state, &start) && start == p->start && state != 'Z' && state != 'X';
}

int mull_proc_record(const char *file) {
    char text[128], boot[48], state, tmp[4096];
    unsigned long long start;
    if (!stat_of(getpid(), &state, &start)) return ENOSYS;
    boot_id(boot);
    int n = snprintf(text, sizeof text, "%d %llu %s\n", getpid(), start, boot);
    snprintf(tmp, sizeof tmp, "%s.new", file);
    int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) return errno;
    ssize_t done = write(fd, text, (size_t)n);
    int e = done == n ? 0 : done < 0 ? errno : ENOSPC;
    close(fd);
    if (!e && rename(tmp, file) != 0) e = errno;
    return e;
}

bool mull_proc_recorded(const char *file, mull_proc *p) {
    char text[128], boot[48], now[48];
    *p = (mull_proc){0};
    if (slurp(file, text, sizeof text) <= 0) return false;
    boot_id(now);
    if (sscanf(text, "%d %llu %47s", &p->pid, &p->start, boot) == 3 && !strcmp(boot, now) && mull_proc_alive(p))
        return true;
    *p = (mull_proc){0};
    return false;
}

int mull_proc_signal(const mull_proc *p, int signum) {
    int fd = p->pid > 0 ? pidfd_open(p->pid, 0) : -1, rc = -1;
    if (fd < 0) return p->pid > 0 && errno == ENOSYS && mull_proc_alive(p) ? kill(p->pid, signum) : -1;
    /* Looked at again behind the descriptor: from here on it cannot become another process. */
    if (mull_proc_alive(p)) rc = pidfd_send_signal(fd, signum, NULL, 0);
    close(fd);
    return rc;
}

double mull_clock(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* ---- starting */
static bool kept_variable(const char *entry) {
    /* libpq's and postgres's own variables would turn them away from what their command lines say. */
    static const char *const dropped[] = {"MULL_SERVER=", "MULL_TOKEN=", "MULL_STATE=", "NOTIFY_SOCKET="};
    if (!strncmp(entry, "PG", 2)) return false;
    for (size_t i = 0; i < sizeof dropped / sizeof *dropped; i++)
        if (!strncmp(entry, dropped[i], strlen(dropped[i]))) return false;
    return true;
}

static char **clean_environment(void) {
    size_t n = 0, kept = 0;
    while (environ[n]) n++;
    char **out = calloc(n + 1, sizeof *out);
    for (size_t i = 0; out && i < n; i++)
        if (kept_variable(environ[i])) out[kept++] = environ[i];
    return out;
}

/* Where the child stopped, sent to the parent through a pipe that a successful exec closes. */
typedef struct failure {
    int errnum;
    char where[64];
} failure;

static _Noreturn void give_up(int report, const char *where) {
    failure f = {.errnum = errno};
    snprintf(f.where, sizeof f.where, "%s", where);
    if (write(report, &f, sizeof f) < 0) _exit(126);
    _exit(127);
}

/* Puts fd at number to, to be kept over exec. */
static int place(int fd, int to) {
    if (fd == to) return fcntl(fd, F_SETFD, 0);
    return dup2(fd, to) < 0 ? -1 : 0;
}

static _Noreturn void become(const mull_spawn *s, char **environment, const int *folders, int in, int log, int report) {
    sigset_t none;
    sigemptyset(&none);
    for (int sig = 1; sig < 32; sig++) signal(sig, SIG_DFL);
    sigprocmask(SIG_SETMASK, &none, NULL);
    umask(077);
    setsid();
    if (place(in, 0) || place(log, 1) || place(log, 2)) give_up(report, "standard streams");
    for (int i = 0; i < 2; i++)
        if (folders[i] >= 0 && place(folders[i], MULL_SPAWN_FD + i)) give_up(report, s->folders[i]);
    int e = s->record ? mull_proc_record(s->record) : 0;
    errno = e;
    if (e) give_up(report, "process record");
    if (chdir("/")) give_up(report, "/");
    if (s->drop && setgroups(0, NULL)) give_up(report, "setgroups");
    if (s->drop && setgid(s->gid)) give_up(report, "setgid");
    if (s->drop && setuid(s->uid)) give_up(report, "setuid");
    execve(s->argv[0], (char *const *)s->argv, environment);
    give_up(report, s->argv[0]);
}

/* Descriptors above those that place() aims at, so that none is overwritten before it is placed. */
static int high(int fd) {
    if (fd < 0) return fd;
    int to = fcntl(fd, F_DUPFD_CLOEXEC, 32), e = errno;
    close(fd);
    errno = e;
    return to;
}

/* A short text fits into the pipe, so that writing it all before the reader starts cannot block. */
static int open_input(const char *text) {
    int p[2];
    if (!text) return high(open("/dev/null", O_RDONLY | O_CLOEXEC));
    if (strlen(text) > 2048 || pipe2(p, O_CLOEXEC)) return -1;
    ssize_t n = write(p[1], text, strlen(text));
    close(p[1]);
    if (n < 0) {
        close(p[0]);
        return -1;
    }
    return high(p[0]);
}

int mull_spawn_start(const mull_spawn *s, mull_err *err) {
    static const char *const what = "cannot start a program";
    int folders[2] = {-1, -1}, in = -1, log = -1, report[2] = {-1, -1}, rc = -1, pid = -1;
    char **environment = clean_environment();
    if (!environment) return mull_fail(err, MULL_ERR_NOMEM, what, s->argv[0], "free some memory", "out of memory");
    in = open_input(s->input);
    log = high(open(s->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
    if (in < 0 || log < 0) {
        rc = mull_fail_errno(err, errno, what, log < 0 ? s->log : s->argv[0], "check the folder and the disk");
        goto done;
    }
    for (int i = 0; i < 2; i++) {
        if (!s->folders[i]) continue;
        folders[i] = high(open(s->folders[i], O_PATH | O_DIRECTORY | O_CLOEXEC));
        if (folders[i] < 0) {
            rc = mull_fail_errno(err, errno, what, s->folders[i], "check the folder's permissions");
            goto done;
        }
    }
    if (pipe2(report, O_CLOEXEC) == 0) {
        report[1] = high(report[1]);
        pid = fork();
    }
    if (pid < 0) {
        rc = mull_fail_errno(err, errno, what, s->argv[0], "raise the limit of processes or open files (ulimit)");
        goto done;
    }
    if (pid == 0) become(s, environment, folders, in, log, report[1]);
    close(report[1]);
    report[1] = -1;
    failure f;
    ssize_t n;
    do n = read(report[0], &f, sizeof f);
    while (n < 0 && errno == EINTR);
    if (n == (ssize_t)sizeof f) {
        waitpid(pid, NULL, 0);
        rc = mull_fail_errno(err, f.errnum, what, s->argv[0], "see mull doctor");
        if (strcmp(f.where, s->argv[0]) != 0)
            mull_fail(err, err ? err->code : -1, what, s->argv[0], "see mull doctor", "%s: %s", f.where,
                      strerror(f.errnum));
        goto done;
    }
    rc = pid;
done:
    for (int i = 0; i < 2; i++) {
        if (folders[i] >= 0) close(folders[i]);
        if (report[i] >= 0) close(report[i]);
    }
    if (in >= 0) close(in);
    if (log >= 0) close(log);
    free(environment);
    return rc;
}

int mull_spawn_run(const mull_spawn *s, const char *what, mull_err *err) {
    long long from = mull_log_size(s->log);
    int pid = mull_spawn_start(s, err), status = 0;
    if (pid < 0) return pid;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return 0;
    char why[700];
    mull_log_last(s->log, from, why, sizeof why);
    if (!*why && WIFSIGNALED(status)) snprintf(why, sizeof why, "it was ended by signal %d", WTERMSIG(status));
    if (!*why) snprintf(why, sizeof why, "it ended with status %d and no word", WEXITSTATUS(status));
    return mull_fail(err, MULL_ERR_IO, what, s->log, "the log says more", "%s", why);
}

/* ---- logs */
long long mull_log_size(const char *log) {
    struct stat st;
    return stat(log, &st) == 0 ? (long long)st.st_size : 0;
}

void mull_log_last(const char *log, long long from, char *out, size_t cap) {
    enum { TAIL = 16384 };
    static const char *const loud[] = {"FATAL:", "ERROR:", "error:", "error "};
    static char text[TAIL + 1];
    *out = 0;
    int fd = open(log, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    long long size = mull_log_size(log), start = size - from > TAIL || from > size ? size - TAIL : from;
    ssize_t n = pread(fd, text, TAIL, start > 0 ? start : 0);
    close(fd);
    if (n <= 0) return;
    text[n] = 0;
    bool found = false;
    for (char *line = text, *next; line && *line; line = next) {
        next = strchr(line, '\n');
        if (next) *next++ = 0;
        bool is_loud = false;
        const char *at = line + strspn(line, " \t\r");
        for (size_t i = 0; i < sizeof loud / sizeof *loud && !is_loud; i++) {
            const char *hit = strstr(line, loud[i]);
            if (!hit) continue;
            is_loud = true;
            at = hit; /* times and names before it are the log's own */
        }
        /* PostgreSQL's LOG, HINT and child-exit lines follow the one that matters. */
        if (*at && (is_loud || !found)) snprintf(out, cap, "%s", at);
        found |= is_loud;
    }
}
