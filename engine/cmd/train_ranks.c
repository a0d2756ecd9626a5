/* The ranks of one run as child processes; see train_ranks.h. No launcher is needed: a rank learns from its environment
 * who it is (comm/comm.h), as it does from the worker. */
#include "engine/cmd/train_ranks.h"

#include "engine/cmd/cmd.h"
#include "engine/comm/comm.h"
#include "engine/core/pool.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *const WHAT = "cannot train on several ranks";
enum { GRACE_S = 15 }; /* for the others to end by themselves once one has failed */

static void set_int(const char *name, int value) {
    char text[16];
    snprintf(text, sizeof text, "%d", value);
    setenv(name, text, 1);
}

static void remove_folder(const char *path) {
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));)
        if (e->d_name[0] != '.') unlinkat(dirfd(d), e->d_name, 0);
    if (d) closedir(d);
    rmdir(path);
}

static void become(int rank, int threads, pid_t parent, const sigset_t *mask, char **argv) {
    set_int("MULL_RANK", rank);
    if (!getenv("MULL_THREADS")) set_int("MULL_THREADS", threads);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(MULL_EXIT_FAILED); /* it died before it could have told us */
    sigprocmask(SIG_SETMASK, mask, NULL);
    execv("/proc/self/exe", argv);
    _exit(127);
}

static void signal_all(const pid_t *pid, int ranks, int sig) {
    for (int r = 0; r < ranks; r++)
        if (pid[r] > 0) kill(pid[r], sig);
}

/* One rank's end; the first failure is the run's. */
static void ended(int rank, int status, int *exit_status) {
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : MULL_EXIT_FAILED;
    if (!code || *exit_status) return;
    *exit_status = code;
    if (WIFEXITED(status)) return; /* it said why */
    mull_error err = {0};
    char where[32];
    snprintf(where, sizeof where, "rank %d", rank);
    mull_fail(&err, MULL_EIO, "training has ended", where,
              "look for memory pressure, then run it again with resume_from_checkpoint: true",
              "it was killed by signal %d (%s); the other ranks end too", WTERMSIG(status),
              strsignal(WTERMSIG(status)));
    mull_error_print(stderr, &err);
}

/* Until all have ended. */
static int watch(pid_t *pid, int ranks, const sigset_t *wait) {
    int status, exit_status = 0, live = ranks;
    time_t deadline = 0;
    while (live) {
        struct timespec second = {.tv_sec = 1};
        int sig = sigtimedwait(wait, NULL, &second);
        if (sig == SIGTERM || sig == SIGINT) signal_all(pid, ranks, SIGTERM);
        for (int r = 0; r < ranks; r++) {
            if (pid[r] <= 0 || waitpid(pid[r], &status, WNOHANG) != pid[r]) continue;
            pid[r] = 0;
            live--;
            ended(r, status, &exit_status);
        }
        if (!exit_status || !live) continue;
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (!deadline) deadline = now.tv_sec + GRACE_S;
        if (now.tv_sec >= deadline) signal_all(pid, ranks, SIGKILL);
    }
    return exit_status;
}

int mull_cmd_train_ranks(int ranks, int argc, char **argv) {
    mull_error err = {0};
    const char *tmp = getenv("TMPDIR");
    char dir[4096], meet[4112];
    snprintf(dir, sizeof dir, "%s/mull-ranks-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    int rc = mull_comm_available() ? MULL_OK
                                   : mull_fail(&err, MULL_EUNSUPPORTED, WHAT, "--ranks",
                                               "run ops/deps (libgloo-dev) and build again, or use one rank",
                                               "this build has no library for collectives between ranks");
    if (!rc && !mkdtemp(dir))
        rc = mull_fail_errno(&err, errno, WHAT, dir, "set TMPDIR to a folder that can be written");
    char **args = rc ? NULL : calloc((size_t)argc + 2, sizeof *args);
    if (!rc && !args) rc = mull_fail(&err, MULL_ENOMEM, WHAT, "", NULL, "out of memory");
    if (rc) return mull_cmd_fail(&err);
    args[0] = (char *)(uintptr_t) "mull-engine";
    memcpy(args + 1, argv, (size_t)argc * sizeof *args);
    snprintf(meet, sizeof meet, "%s/meet", dir);
    mull_pool *pool = mull_pool_create(0);
    int threads = mull_pool_threads(pool) / ranks;
    mull_pool_destroy(pool);
    set_int("MULL_WORLD_SIZE", ranks);
    setenv("MULL_RENDEZVOUS", meet, 1);

    sigset_t wait, before;
    sigemptyset(&wait);
    sigaddset(&wait, SIGCHLD);
    sigaddset(&wait, SIGTERM);
    sigaddset(&wait, SIGINT);
    sigprocmask(SIG_BLOCK, &wait, &before);
    pid_t pid[MULL_WORLD_MAX] = {0}, self = getpid();
    int started = 0;
    for (; started < ranks; started++) {
        pid[started] = fork();
        if (pid[started] == 0) become(started, threads > 0 ? threads : 1, self, &before, args);
        if (pid[started] < 0) break;
    }
    int failed = errno;
    if (started < ranks) {
        mull_fail_errno(&err, failed, WHAT, "fork", "use fewer ranks");
        mull_error_print(stderr, &err);
        signal_all(pid, started, SIGKILL);
    }
    int status = watch(pid, started, &wait);
    sigprocmask(SIG_SETMASK, &before, NULL);
    remove_folder(meet);
    rmdir(dir);
    free(args);
    return started < ranks ? MULL_EXIT_FAILED : status;
}
