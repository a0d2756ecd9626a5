/* See supervise.h. The supervisor is a child subreaper: whatever the engine starts, however detached, becomes its child
 * when its parent ends, and is found and killed until nothing is left. If the supervisor itself is killed, the kernel
 * kills the engine (parent-death signal) and what the engine started falls to the worker, a subreaper too. */
#include "worker/supervise.h"

#include "worker/cgroup.h"
#include "worker/sandbox.h"
#include "worker/stage.h"

#include "worker/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { CONTROL = MULL_SUPERVISE_CONTROL };

typedef struct super {
    pid_t engine;
    bool ended;
    int status;
    int lease;                            /* timerfd, -1 before the first order of a lease */
    char order, digits[MULL_LEASE_ORDER]; /* of a lease, as far as it has been read */
    size_t n;
} super;

static void say(const char *line) {
    size_t n = strlen(line);
    while (n > 0) {
        ssize_t k = send(CONTROL, line, n, MSG_NOSIGNAL);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) return; /* the worker is gone: the poll sees it */
        line += k;
        n -= (size_t)k;
    }
}

static void note(super *s, pid_t pid, int status) {
    if (pid != s->engine) return;
    s->ended = true;
    s->status = status;
}

static void kill_all(super *s) {
    pid_t child[256];
    for (;;) {
        if (!s->ended) kill(-s->engine, SIGKILL);
        size_t n = mull_proc_children(getpid(), child, sizeof child / sizeof *child);
        for (size_t i = 0; i < n; i++) kill(child[i], SIGKILL);
        int status;
        pid_t pid = waitpid(-1, &status, 0);
        if (pid > 0) note(s, pid, status);
        while ((pid = waitpid(-1, &status, WNOHANG)) > 0) note(s, pid, status);
        if (pid < 0 && errno == ECHILD) return;
    }
}

/* In the child. Never returns; a failure of exec is reported through fd. */
static void become_engine(char **argv, pid_t parent, const sigset_t *mask, int fd) {
    setsid();
    /* Its group first: what comes then may not write there. */
    const char *group = getenv(MULL_CGROUP_ENV);
    int why = group ? mull_cgroup_enter(group) : 0;
    unsetenv(MULL_CGROUP_ENV);
    /* A stager (stage.h) fetches and brings files, and confines the engine that it starts. */
    if (why == 0 && !getenv(MULL_STAGE_ENV)) why = mull_sandbox_enter_env();
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* behind a change of user, which undoes it */
    if (getppid() != parent) _exit(1);
    sigprocmask(SIG_SETMASK, mask, NULL);
    if (why == 0) {
        execv(argv[0], argv);
        why = errno;
    }
    (void)!write(fd, &why, sizeof why);
    _exit(127);
}

/* 0, or the errno of exec or fork. */
static int start_engine(super *s, char **argv, const sigset_t *mask) {
    int fd[2], why = 0;
    pid_t me = getpid();
    if (pipe2(fd, O_CLOEXEC) != 0) return errno;
    s->engine = fork();
    if (s->engine < 0) why = errno;
    if (s->engine == 0) become_engine(argv, me, mask, fd[1]);
    close(fd[1]);
    if (why == 0 && read(fd[0], &why, sizeof why) != sizeof why) why = 0; /* closed by exec */
    close(fd[0]);
    return why;
}

/* Its pipes are the engine's alone: their end tells the worker that all has been said. */
static void let_go_of_pipes(void) {
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = 0; fd <= 3; fd++)
        if (null >= 0 && fd != null) dup2(null, fd);
    if (null > CONTROL) close(null);
}

unsigned long long mull_lease_clock_ms(int one_machine) {
    struct timespec t;
    clock_gettime(one_machine ? CLOCK_MONOTONIC : CLOCK_BOOTTIME, &t);
    return (unsigned long long)t.tv_sec * 1000 + (unsigned long long)t.tv_nsec / 1000000;
}

int mull_lease_order(char out[MULL_LEASE_ORDER], int one_machine, unsigned long long ends_ms) {
    return snprintf(out, MULL_LEASE_ORDER, "%c%llu\n", one_machine ? 'M' : 'B', ends_ms);
}

/* A timer that is due while the machine sleeps fires when it wakes. */
static void set_lease(super *s) {
    unsigned long long ms = strtoull(s->digits, NULL, 10);
    struct itimerspec at = {.it_value = {(time_t)(ms / 1000), (long)(ms % 1000) * 1000000 + 1}};
    if (s->lease < 0) s->lease = timerfd_create(s->order == 'M' ? CLOCK_MONOTONIC : CLOCK_BOOTTIME, TFD_CLOEXEC);
    if (s->lease >= 0) timerfd_settime(s->lease, TFD_TIMER_ABSTIME, &at, NULL);
}

/* False: kill. */
static bool obey(super *s, const char *text, size_t n) {
    for (size_t i = 0; i < n; i++) {
        char c = text[i];
        if (c == 'K') return false;
        if (c == 'T') kill(-s->engine, SIGTERM);
        if (c == 'B' || c == 'M') {
            s->order = c;
            s->n = 0;
        }
        if (c >= '0' && c <= '9' && s->n + 1 < sizeof s->digits) {
            s->digits[s->n++] = c;
            s->digits[s->n] = 0;
        }
        if (c == '\n' && s->n > 0) set_lease(s);
    }
    return true;
}

static void serve(super *s, int signals) {
    while (!s->ended) {
        struct pollfd p[3] = {{CONTROL, POLLIN, 0}, {signals, POLLIN, 0}, {s->lease, POLLIN, 0}};
        if (poll(p, 3, -1) < 0 && errno != EINTR) return;
        struct signalfd_siginfo info;
        if (p[1].revents & POLLIN) {
            if (read(signals, &info, sizeof info) == sizeof info && info.ssi_signo == SIGTERM)
                kill(-s->engine, SIGTERM);
            int status;
            for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) note(s, pid, status);
        }
        if (s->ended) continue;
        /* What renews it may lie unread in the socket. */
        if (!p[0].revents && (p[2].revents & POLLIN)) {
            say("lease\n");
            return;
        }
        if (!p[0].revents) continue;
        char orders[256];
        ssize_t n = read(CONTROL, orders, sizeof orders);
        if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
        if (n <= 0 || !obey(s, orders, (size_t)n)) return;
    }
}

int mull_supervise(char **argv) {
    super s = {.lease = -1};
    sigset_t mask, old;
    char line[96];
    close_range(CONTROL + 1, ~0u, 0); /* what libraries of the worker left open, its connections to Redis above all */
    sigemptyset(&mask);
    sigaddset(&mask, SIGCHLD);
    sigaddset(&mask, SIGTERM);
    sigprocmask(SIG_BLOCK, &mask, &old);
    signal(SIGINT, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    int signals = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
    if (signals < 0 || prctl(PR_SET_CHILD_SUBREAPER, 1) != 0 || fcntl(CONTROL, F_SETFD, FD_CLOEXEC) != 0) return 1;
    int why = start_engine(&s, argv, &old);
    if (why != 0) {
        snprintf(line, sizeof line, "fail %d\n", why);
        say(line);
        return 1;
    }
    let_go_of_pipes();
    snprintf(line, sizeof line, "pid %d %llu\n", (int)s.engine, (unsigned long long)mull_proc_start(s.engine));
    say(line);
    serve(&s, signals);
    kill_all(&s);
    bool killed = WIFSIGNALED(s.status);
    snprintf(line, sizeof line, "exit %d %d\n", killed ? -1 : WEXITSTATUS(s.status), killed ? WTERMSIG(s.status) : 0);
    say(line);
    return 0;
}
