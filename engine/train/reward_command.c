/* See reward_command.h. One process scores all lines of a round; reading and writing go on together, so that neither
 * side waits for the other's full pipe. */
#include "engine/train/reward_command.h"

#include "engine/core/buf.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *const WHAT = "the reward command failed";
enum { ANSWER_MAX = 64 << 20, TAIL = 400, TICK_MS = 100, GRACE_S = 5 };

typedef struct child {
    pid_t pid;
    int in, out, err; /* our ends; -1: closed */
} child;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void limit(int what, size_t most) {
    struct rlimit l = {most, most};
    setrlimit(what, &l);
}

/* In the child, before the shell. Only calls that are safe between fork and exec. */
static void confine(const mull_reward_command *c) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    limit(RLIMIT_CORE, 0);
    limit(RLIMIT_CPU, (size_t)ceil(c->timeout_s) * 16 + 1);
    limit(RLIMIT_NOFILE, 256);
    limit(RLIMIT_FSIZE, (size_t)1 << 30);
    if (c->memory) limit(RLIMIT_AS, c->memory);
    /* A network namespace of its own has no way out. Where user namespaces are not allowed the network stays. */
    if (unshare(CLONE_NEWUSER | CLONE_NEWNET)) unshare(CLONE_NEWNET);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    signal(SIGINT, SIG_DFL);
}

/* Ends every process that is left. Whatever left its session or lost its parent is a child here by now, or is when its
 * own parent has ended (PR_SET_CHILD_SUBREAPER). */
static void kill_rest(void) {
    for (pid_t ended; (ended = waitpid(-1, NULL, WNOHANG)) >= 0 || errno == EINTR;) {
        char list[4096];
        if (ended > 0) continue;
        int fd = open("/proc/thread-self/children", O_RDONLY | O_CLOEXEC);
        if (fd < 0) kill(0, SIGKILL); /* a kernel without that list: the session at least, this process included */
        ssize_t n = read(fd, list, sizeof list - 1);
        close(fd);
        list[n > 0 ? n : 0] = 0;
        for (char *p = list, *end; *p; p = end) {
            pid_t pid = (pid_t)strtol(p, &end, 10);
            if (end == p || *end != ' ') break; /* the end, or a number that was cut */
            kill(pid, SIGKILL);
        }
        nanosleep(&(struct timespec){0, 200000}, NULL);
    }
}

/* The child: between the engine and the shell, so that nothing outlives a round. Ends as the shell does; SIGTERM, or
 * the engine's death, ends all. */
__attribute__((noreturn)) static void supervise(const mull_reward_command *c, const sigset_t *wanted, int in, int out,
                                                int err) {
    siginfo_t got;
    setsid();
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    signal(SIGTERM, SIG_DFL); /* ignored signals would not be waited for */
    signal(SIGCHLD, SIG_DFL);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    pid_t shell = fork();
    if (!shell) {
        confine(c);
        if (dup2(in, 0) >= 0 && dup2(out, 1) >= 0 && dup2(err, 2) >= 0) {
            for (int fd = 3; fd < 256; fd++) close(fd);
            execl("/bin/sh", "sh", "-c", c->command, (char *)NULL);
        }
        _exit(127);
    }
    for (int fd = 0; fd < 1024; fd++) close(fd); /* the ends of the pipes are the shell's alone */
    for (int status; shell > 0;) {
        if (sigwaitinfo(wanted, &got) == SIGTERM) break;
        for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
            if (pid == shell) {
                kill_rest();
                _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
            }
    }
    kill_rest();
    _exit(127);
}

static int start(const mull_reward_command *c, child *k, mull_error *err) {
    int p[3][2] = {{-1, -1}, {-1, -1}, {-1, -1}}, e;
    sigset_t wanted, before;
    sigemptyset(&wanted);
    sigaddset(&wanted, SIGTERM);
    sigaddset(&wanted, SIGCHLD);
    for (int i = 0; i < 3; i++)
        if (pipe2(p[i], O_CLOEXEC)) goto fail;
    pthread_sigmask(SIG_BLOCK, &wanted, &before); /* so that the child never meets one with our handlers */
    k->pid = fork();
    if (!k->pid) supervise(c, &wanted, p[0][0], p[1][1], p[2][1]);
    e = errno;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    errno = e;
    if (k->pid < 0) goto fail;
    close(p[0][0]), close(p[1][1]), close(p[2][1]);
    k->in = p[0][1], k->out = p[1][0], k->err = p[2][0];
    for (int i = 0; i < 3; i++) {
        int fd = i == 0 ? k->in : i == 1 ? k->out : k->err;
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    }
    return MULL_OK;
fail:
    e = errno;
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 2; j++)
            if (p[i][j] >= 0) close(p[i][j]);
    return mull_fail_errno(err, e, WHAT, c->command, NULL);
}

static void shut(int *fd) {
    if (*fd >= 0) close(*fd);
    *fd = -1;
}

/* Reads what is there; closes at the end. */
static int drain(int *fd, mull_buf *to, size_t most) {
    char piece[65536];
    for (;;) {
        ssize_t n = read(*fd, piece, sizeof piece);
        if (n > 0) {
            if (to->len + (size_t)n > most) return MULL_ELIMIT;
            if (mull_buf_add(to, piece, (size_t)n)) return MULL_ENOMEM;
        } else if (n == 0) {
            shut(fd);
            return MULL_OK;
        } else if (errno != EINTR) {
            if (errno != EAGAIN) shut(fd);
            return MULL_OK;
        }
    }
}

static void feed(int *fd, const char *in, size_t len, size_t *at) {
    while (*at < len) {
        ssize_t n = write(*fd, in + *at, len - *at);
        if (n > 0) {
            *at += (size_t)n;
        } else if (errno != EINTR) {
            if (errno != EAGAIN) shut(fd); /* it does not read on; what it answers decides */
            return;
        }
    }
    shut(fd);
}

/* Standard error's end on one line, for the message. */
static const char *tail(mull_buf *b) {
    if (mull_buf_add(b, "", 1)) return "";
    char *s = b->data + (b->len > TAIL ? b->len - TAIL : 0);
    for (char *p = s; *p; p++)
        if ((unsigned char)*p < ' ') *p = ' ';
    return s;
}

int mull_reward_command_parse(const char *command, const char *out, size_t len, double *scores, size_t n,
                              const char *said, mull_error *err) {
    const char *hint = "write one finite number, or {\"score\": number}, for every line read";
    size_t k = 0;
    for (size_t at = 0; at < len;) {
        const char *end = memchr(out + at, '\n', len - at);
        size_t size = end ? (size_t)(end - (out + at)) : len - at;
        json_t *v = json_loadb(out + at, size, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
        const json_t *score = json_is_object(v) ? json_object_get(v, "score") : v;
        double x = json_is_number(score) ? json_number_value(score) : (double)NAN;
        json_decref(v);
        if (k == n)
            return mull_fail(err, MULL_EFORMAT, WHAT, command, hint, "it wrote more than the %zu lines it was given",
                             n);
        if (!isfinite(x))
            return mull_fail(err, MULL_EFORMAT, WHAT, command, hint, "line %zu is no finite score: %.*s", k + 1,
                             size < 120 ? (int)size : 120, out + at);
        scores[k++] = x;
        at += size + (end != NULL);
    }
    if (k == n) return MULL_OK;
    return mull_fail(err, MULL_EFORMAT, WHAT, command, hint, "it wrote %zu scores for %zu lines%s%s", k, n,
                     said && *said ? "; standard error ends: " : "", said ? said : "");
}

/* *status: how it ended, when it did by itself; k->pid is 0 then. */
static int converse(const mull_reward_command *c, child *k, const char *in, size_t len, mull_buf *out, mull_buf *said,
                    int *status, mull_error *err) {
    double end = now() + c->timeout_s;
    size_t at = 0;
    while (k->out >= 0 || k->err >= 0 || k->pid) {
        if (k->out < 0 && k->err < 0 && waitpid(k->pid, status, WNOHANG) == k->pid) {
            k->pid = 0;
            break;
        }
        struct pollfd p[3] = {{k->in, POLLOUT, 0}, {k->out, POLLIN, 0}, {k->err, POLLIN, 0}};
        poll(p, 3, k->out < 0 && k->err < 0 ? 1 : TICK_MS);
        if (p[0].revents) feed(&k->in, in, len, &at);
        int rc = p[1].revents ? drain(&k->out, out, ANSWER_MAX) : MULL_OK;
        if (!rc && p[2].revents && drain(&k->err, said, 1 << 20)) said->len = 0; /* its newest words are enough */
        if (rc)
            return mull_fail(err, rc, WHAT, c->command, "write one score a line",
                             rc == MULL_ELIMIT ? "it wrote more than %d MiB" : "no memory for its %d MiB answer",
                             ANSWER_MAX >> 20);
        if (c->stop && c->stop(c->ctx)) return MULL_ECANCELLED;
        if (now() > end)
            return mull_fail(err, MULL_ELIMIT, WHAT, c->command, "raise reward_timeout, or make it faster",
                             "it ran longer than %g s", c->timeout_s);
    }
    return MULL_OK;
}

/* All of it, within seconds; a command that forks faster than it can be killed loses its supervisor and goes on. */
static void end_all(pid_t pid) {
    double last = now() + GRACE_S;
    kill(pid, SIGTERM);
    while (waitpid(pid, NULL, WNOHANG) == 0) {
        if (now() > last) kill(-pid, SIGKILL);
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
}

int mull_reward_command_run(const mull_reward_command *c, const char *in, size_t len, double *scores, size_t n,
                            mull_error *err) {
    child k = {0, -1, -1, -1};
    mull_buf out = {0}, said = {0};
    struct sigaction ignore = {.sa_handler = SIG_IGN}, before;
    sigaction(SIGPIPE, &ignore, &before); /* a command that ends early is an answer, not our end */
    int rc = start(c, &k, err);
    if (!rc) {
        int status = 0; /* as long as it has not ended by itself */
        rc = converse(c, &k, in, len, &out, &said, &status, err);
        if (k.pid > 0) end_all(k.pid);
        if (!rc && WIFEXITED(status) && WEXITSTATUS(status)) {
            const char *why = tail(&said);
            rc = mull_fail(err, MULL_EFORMAT, WHAT, c->command, "try it by hand with a line of OUT/rollouts",
                           "exit status %d%s%s", WEXITSTATUS(status), *why ? "; standard error ends: " : "", why);
        }
        if (!rc)
            rc = mull_reward_command_parse(c->command, out.data ? out.data : "", out.len, scores, n, tail(&said), err);
    }
    shut(&k.in), shut(&k.out), shut(&k.err);
    sigaction(SIGPIPE, &before, NULL);
    mull_buf_fini(&out);
    mull_buf_fini(&said);
    return rc;
}
