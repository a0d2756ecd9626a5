/* See capture.h. */
#include "cli/capture.h"

#include "cli/jobs.h"
#include "cli/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <sys/wait.h>
#include <unistd.h>

int mull_capture(const char *const *argv, bool errors, double seconds, char *out, size_t cap) {
    int p[2], status = -1;
    size_t n = 0;
    char rest[4096];
    *out = 0;
    if (pipe2(p, O_CLOEXEC)) return 127;
    pid_t pid = fork();
    if (pid == 0) {
        setpgid(0, 0);
        int null = open("/dev/null", O_RDWR);
        dup2(null, 0);
        dup2(p[1], 1);
        if (errors) dup2(p[1], 2);
        execv(argv[0], (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    close(p[1]);
    double until = mull_clock() + seconds;
    while (pid > 0) {
        struct pollfd f = {p[0], POLLIN, 0};
        double left = until - mull_clock();
        int k = left > 0 ? poll(&f, 1, (int)(left * 1e3) + 1) : 0;
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) break;
        bool room = n + 1 < cap; /* what does not fit is read and dropped, so that it does not wait for us */
        ssize_t got = read(p[0], room ? out + n : rest, room ? cap - 1 - n : sizeof rest);
        if (got <= 0) break;
        if (room) n += (size_t)got;
    }
    out[n] = 0;
    close(p[0]);
    if (pid < 0) return 127;
    pid_t done;
    while ((done = waitpid(pid, &status, WNOHANG)) == 0 && mull_clock() < until) mull_pause(0.005);
    if (done == 0) {
        kill(-pid, SIGKILL);
        kill(pid, SIGKILL); /* in case it has not made its group yet */
        waitpid(pid, &status, 0);
        return -1;
    }
    return done == pid && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}
