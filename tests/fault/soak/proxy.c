/* See proxy.h. */
#include "tests/fault/soak/proxy.h"

#include "tests/support/servers.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { PAIRS = 256, CHUNK = 1 << 16, TICK_MS = 20, SLOW_US = 100000 };

typedef struct pair {
    int fd[2];
} pair;

static void close_pair(pair *p) {
    close(p->fd[0]);
    close(p->fd[1]);
    p->fd[0] = -1;
}

static int send_all(int fd, const char *data, size_t n) {
    while (n > 0) {
        ssize_t k = send(fd, data, n, MSG_NOSIGNAL);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) return -1;
        data += k;
        n -= (size_t)k;
    }
    return 0;
}

/* Bytes of one direction; -1 when one end is gone. */
static int forward(int from, int to, int mode) {
    static char chunk[CHUNK];
    ssize_t n = recv(from, chunk, sizeof chunk, 0);
    if (n <= 0) return -1;
    if (mode == MULL_PROXY_SLOW) usleep(SLOW_US);
    return send_all(to, chunk, (size_t)n);
}

static void serve(int listener, const char *target, volatile int *shared) {
    static pair pairs[PAIRS];
    static struct pollfd polls[2 * PAIRS + 1];
    static int owner[2 * PAIRS + 1];
    for (int i = 0; i < PAIRS; i++) pairs[i].fd[0] = -1;
    for (;;) {
        int mode = *shared, n = 1;
        polls[0] = (struct pollfd){listener, POLLIN, 0};
        for (int i = 0; i < PAIRS; i++) {
            if (pairs[i].fd[0] < 0) continue;
            if (mode == MULL_PROXY_CUT) {
                close_pair(&pairs[i]);
                continue;
            }
            for (int side = 0; side < 2 && mode != MULL_PROXY_HOLD; side++) {
                owner[n] = 2 * i + side;
                polls[n++] = (struct pollfd){pairs[i].fd[side], POLLIN, 0};
            }
        }
        if (poll(polls, (nfds_t)n, TICK_MS) <= 0) continue;
        for (int k = 1; k < n; k++) {
            pair *p = &pairs[owner[k] / 2];
            int side = owner[k] % 2;
            if (!polls[k].revents || p->fd[0] < 0) continue;
            if (forward(p->fd[side], p->fd[!side], mode) != 0) close_pair(p);
        }
        if (!(polls[0].revents & POLLIN)) continue;
        int fd = accept(listener, NULL, NULL), other = fd >= 0 && mode != MULL_PROXY_CUT ? mull_dial(target) : -1,
            at = 0;
        while (at < PAIRS && pairs[at].fd[0] >= 0) at++;
        if (fd >= 0 && other >= 0 && at < PAIRS) {
            pairs[at] = (pair){{fd, other}};
        } else {
            if (fd >= 0) close(fd);
            if (other >= 0) close(other);
        }
    }
}

mull_proxy mull_proxy_start(const char *listen_path, const char *target_path) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    mull_proxy p = {.mode = mmap(NULL, sizeof(int), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)};
    snprintf(a.sun_path, sizeof a.sun_path, "%s", listen_path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (p.mode == MAP_FAILED || fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) != 0 || listen(fd, 128) != 0 ||
        chmod(listen_path, 0777) != 0) {
        fprintf(stderr, "cannot make the proxy %s: %s\n", listen_path, strerror(errno));
        exit(1);
    }
    pid_t parent = getpid();
    p.pid = fork();
    if (p.pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) _exit(1);
        serve(fd, target_path, p.mode);
    }
    close(fd);
    return p;
}

void mull_proxy_stop(mull_proxy *p) {
    if (p->pid > 0) mull_reap(p->pid, SIGKILL);
    p->pid = 0;
}
