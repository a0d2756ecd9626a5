/* See listen.h. */
#include "engine/serve/listen.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { BACKLOG = 512 };
static const char *const WHAT = "cannot serve";

static int open_unix(const char *path, mull__listen *l, mull_error *err) {
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    struct stat st;
    if (!*path || strlen(path) >= sizeof sa.sun_path)
        return mull_fail(err, MULL_EARG, WHAT, path, "choose a shorter path", "a socket's path has 1 to %zu bytes",
                         sizeof sa.sun_path - 1);
    memcpy(sa.sun_path, path, strlen(path));
    l->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (l->fd < 0) return mull_fail_errno(err, errno, WHAT, path, "");
    /* A socket that nobody answers on is left over from a process that was killed. */
    if (connect(l->fd, (struct sockaddr *)&sa, sizeof sa) == 0 || errno == EAGAIN)
        return mull_fail(err, MULL_EARG, WHAT, path, "stop that one first, or choose another path",
                         "another process answers on this socket");
    if (lstat(path, &st) == 0 && !S_ISSOCK(st.st_mode))
        return mull_fail(err, MULL_EARG, WHAT, path, "choose another path", "a file that is no socket is in the way");
    unlink(path);
    mode_t old = umask(0177);
    int rc = bind(l->fd, (struct sockaddr *)&sa, sizeof sa) ? errno : 0;
    umask(old);
    if (rc || listen(l->fd, BACKLOG)) return mull_fail_errno(err, rc ? rc : errno, WHAT, path, "check its folder");
    snprintf(l->path, sizeof l->path, "%s", path);
    snprintf(l->url, sizeof l->url, "unix:%s", path);
    l->is_unix = l->local = true;
    return MULL_OK;
}

static bool is_loopback(const struct sockaddr *sa) {
    if (sa->sa_family == AF_INET)
        return (ntohl(((const struct sockaddr_in *)(const void *)sa)->sin_addr.s_addr) >> 24) == 127;
    return sa->sa_family == AF_INET6 &&
           IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)(const void *)sa)->sin6_addr);
}

/* HOST:PORT into two; a port alone means this machine. */
static int split(const char *text, char host[256], const char **port) {
    const char *colon = strrchr(text, ':');
    if (!colon) {
        strcpy(host, "127.0.0.1");
        *port = text;
        return *text && strspn(text, "0123456789") == strlen(text) ? 0 : -1;
    }
    const char *from = text, *to = colon;
    if (*from == '[' && to > from && to[-1] == ']') {
        from++;
        to--;
    }
    if (to <= from || to - from > 255 || !colon[1]) return -1;
    memcpy(host, from, (size_t)(to - from));
    host[to - from] = 0;
    *port = colon + 1;
    return 0;
}

static int open_tcp(const char *address, mull__listen *l, mull_error *err) {
    char host[256];
    const char *port;
    if (split(address, host, &port))
        return mull_fail(err, MULL_EARG, WHAT, address, "give HOST:PORT, PORT or unix:PATH", "it is no address");
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *list = NULL;
    int gai = getaddrinfo(host, port, &hints, &list), on = 1;
    if (gai)
        return mull_fail(err, MULL_EARG, WHAT, address, "give HOST:PORT, PORT or unix:PATH", "%s", gai_strerror(gai));
    l->fd = socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int rc = l->fd < 0 ? errno : 0;
    if (!rc) setsockopt(l->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (!rc && (bind(l->fd, list->ai_addr, list->ai_addrlen) || listen(l->fd, BACKLOG))) rc = errno;
    l->local = is_loopback(list->ai_addr);
    freeaddrinfo(list);
    if (rc) return mull_fail_errno(err, rc, WHAT, address, "stop who has it, or choose another address");
    struct sockaddr_storage sa;
    socklen_t n = sizeof sa;
    char name[256] = "", number[32] = "";
    if (getsockname(l->fd, (struct sockaddr *)&sa, &n) == 0)
        getnameinfo((struct sockaddr *)&sa, n, name, sizeof name, number, sizeof number,
                    NI_NUMERICHOST | NI_NUMERICSERV);
    snprintf(l->url, sizeof l->url, strchr(name, ':') ? "http://[%.200s]:%s/v1" : "http://%.200s:%s/v1", name, number);
    return MULL_OK;
}

int mull__listen_open(const char *address, mull__listen *l, mull_error *err) {
    *l = (mull__listen){.fd = -1};
    int rc = strncmp(address, "unix:", 5) ? open_tcp(address, l, err) : open_unix(address + 5, l, err);
    if (rc && l->fd >= 0) {
        close(l->fd);
        l->fd = -1;
    }
    return rc;
}
