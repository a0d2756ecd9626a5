/* Listening sockets; see listen.h. The lock file decides between two schedulers that start at the same moment, which
 * connecting to the socket alone could not: both would find nobody and each would remove the other's file. */
#include "scheduler/listen.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static const char CANNOT[] = "cannot listen";

static int taken(const char *path, mull_err *err) {
    return mull_fail(err, MULL_ERR_BUSY, CANNOT, path, "stop that one first, or give this one another --listen",
                     "another scheduler answers on this socket");
}

static int open_unix(const char *path, int *fd, int *lock_fd, mull_err *err) {
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    char lock_path[sizeof sa.sun_path + 8];
    if (strlen(path) >= sizeof sa.sun_path || !*path)
        return mull_fail(err, MULL_ERR_ARG, CANNOT, path, "choose a shorter state folder",
                         "a unix socket path has 1 to %zu bytes", sizeof sa.sun_path - 1);
    memcpy(sa.sun_path, path, strlen(path));
    snprintf(lock_path, sizeof lock_path, "%s.lock", path);
    int lock = open(lock_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (lock < 0) return mull_fail_errno(err, errno, CANNOT, lock_path, "check that the folder exists and is writable");
    if (flock(lock, LOCK_EX | LOCK_NB) != 0) {
        int e = errno;
        close(lock);
        return e == EWOULDBLOCK ? taken(path, err) : mull_fail_errno(err, e, CANNOT, lock_path, NULL);
    }
    int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int rc = -1;
    if (s < 0) {
        rc = mull_fail_errno(err, errno, CANNOT, path, NULL);
        goto fail;
    }
    /* Somebody without our lock may still answer there. */
    if (connect(s, (struct sockaddr *)&sa, sizeof sa) == 0 || errno == EAGAIN) {
        rc = taken(path, err);
        goto fail;
    }
    struct stat st;
    if (lstat(path, &st) == 0 && !S_ISSOCK(st.st_mode)) {
        rc = mull_fail(err, MULL_ERR_BUSY, CANNOT, path, "choose another path or move that file away",
                       "a file that is no socket is in the way");
        goto fail;
    }
    close(s);
    unlink(path);
    s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    /* Only the owner (and root) may connect; SO_PEERCRED is checked again for every request. */
    mode_t old = umask(0177);
    int bound = s < 0 ? -1 : bind(s, (struct sockaddr *)&sa, sizeof sa);
    int bind_errno = errno;
    umask(old);
    if (bound != 0 || listen(s, 1024) != 0) {
        rc = mull_fail_errno(err, bound != 0 ? bind_errno : errno, CANNOT, path,
                             "check that the folder exists and is writable");
        goto fail;
    }
    *fd = s;
    *lock_fd = lock;
    return 0;
fail:
    if (s >= 0) close(s);
    close(lock);
    return rc;
}

/* Splits "HOST:PORT" or "[V6]:PORT". */
static int split(const char *text, char *host, size_t cap, const char **port) {
    const char *colon = strrchr(text, ':');
    if (!colon || !colon[1]) return -1;
    const char *start = text, *end = colon;
    if (*start == '[') {
        if (end == start || end[-1] != ']') return -1;
        start++;
        end--;
    }
    if (end <= start || (size_t)(end - start) >= cap) return -1;
    memcpy(host, start, (size_t)(end - start));
    host[end - start] = '\0';
    *port = colon + 1;
    return 0;
}

static int open_tcp(const char *text, int *fd, char *name, size_t name_cap, mull_err *err) {
    char host[256];
    const char *port;
    if (split(text, host, sizeof host, &port) != 0)
        return mull_fail(err, MULL_ERR_ARG, CANNOT, text, "give tcp:HOST:PORT", "the address is not HOST:PORT");
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *list;
    int gai = getaddrinfo(host, port, &hints, &list);
    if (gai != 0)
        return mull_fail(err, MULL_ERR_ARG, CANNOT, text, "check the host and the port", "%s", gai_strerror(gai));
    int last = EADDRNOTAVAIL, s = -1;
    for (struct addrinfo *a = list; a && s < 0; a = a->ai_next) {
        s = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        int one = 1;
        if (s >= 0) setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        if (s >= 0 && bind(s, a->ai_addr, a->ai_addrlen) == 0 && listen(s, 1024) == 0) break;
        last = errno;
        if (s >= 0) close(s);
        s = -1;
    }
    freeaddrinfo(list);
    if (s < 0 && last == EADDRINUSE)
        return mull_fail(err, MULL_ERR_BUSY, CANNOT, text, "stop the other program or choose another port",
                         "the port is taken");
    if (s < 0) return mull_fail_errno(err, last, CANNOT, text, "check the address");
    struct sockaddr_storage sa;
    socklen_t len = sizeof sa;
    char h[128] = "?", p[16] = "?";
    if (getsockname(s, (struct sockaddr *)&sa, &len) == 0)
        getnameinfo((struct sockaddr *)&sa, len, h, sizeof h, p, sizeof p, NI_NUMERICHOST | NI_NUMERICSERV);
    snprintf(name, name_cap, strchr(h, ':') ? "tcp:[%s]:%s" : "tcp:%s:%s", h, p);
    *fd = s;
    return 0;
}

int mull_listen_open(const char *spec, int *fd, int *lock_fd, bool *is_unix, char *name, size_t name_cap,
                     mull_err *err) {
    *fd = *lock_fd = -1;
    *is_unix = strncmp(spec, "unix:", 5) == 0;
    snprintf(name, name_cap, "%s", spec);
    if (*is_unix) return open_unix(spec + 5, fd, lock_fd, err);
    if (strncmp(spec, "tcp:", 4) == 0 || strncmp(spec, "tls:", 4) == 0) {
        int rc = open_tcp(spec + 4, fd, name, name_cap, err);
        memcpy(name, spec, 3);
        return rc;
    }
    return mull_fail(err, MULL_ERR_ARG, CANNOT, spec, "give unix:PATH, tcp:HOST:PORT or tls:HOST:PORT",
                     "unknown kind of address");
}

void mull_listen_remove(const char *spec) {
    if (strncmp(spec, "unix:", 5) == 0) unlink(spec + 5);
}
