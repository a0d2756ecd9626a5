/* See probe.h. Plain sockets, so that a stopped or full server costs its limit and no more. */
#include "cli/probe.h"

#include "schema/state_dir.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { LIMIT_MS = 2000, ANSWER_MAX = 4 << 20 };

static long long now_ms(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000LL + ts.tv_nsec / 1000000;
}

/* Connected with the bytes sent, or -1. */
static int ask(const char *path, const void *bytes, size_t n) {
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    if (strlen(path) > MULL_SOCKET_PATH_MAX) return -1;
    memcpy(sa.sun_path, path, strlen(path));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -1;
    if (connect(fd, (struct sockaddr *)&sa, sizeof sa) != 0 || send(fd, bytes, n, MSG_NOSIGNAL) != (ssize_t)n) {
        close(fd);
        return -1;
    }
    return fd;
}

/* Reads until the end, the limit of time, or cap bytes. */
static size_t answer(int fd, char *out, size_t cap, long long until) {
    size_t n = 0;
    while (n < cap) {
        struct pollfd p = {fd, POLLIN, 0};
        long long left = until - now_ms();
        if (left <= 0 || poll(&p, 1, (int)left) <= 0) break;
        ssize_t k = read(fd, out + n, cap - n);
        if (k < 0 && (errno == EAGAIN || errno == EINTR)) continue;
        if (k <= 0) break;
        n += (size_t)k;
    }
    return n;
}

bool mull_probe_redis(const char *socket_path) {
    char got[5]; /* one that wants a password answers too */
    int fd = ask(socket_path, "PING\r\n", 6);
    if (fd < 0) return false;
    size_t n = answer(fd, got, sizeof got, now_ms() + LIMIT_MS);
    close(fd);
    return n == sizeof got && (!memcmp(got, "+PONG", sizeof got) || !memcmp(got, "-NOAU", sizeof got));
}

void mull_probe_redis_setting(const char *socket_path, const char *name, char *out, size_t cap) {
    char request[128], got[512], *line = got;
    *out = 0;
    /* QUIT behind it ends the answer: *2 $N name $N value +OK */
    int len = snprintf(request, sizeof request, "CONFIG GET %.60s\r\nQUIT\r\n", name);
    int fd = ask(socket_path, request, (size_t)len);
    if (fd < 0) return;
    size_t n = answer(fd, got, sizeof got - 1, now_ms() + LIMIT_MS);
    close(fd);
    got[n] = 0;
    for (int i = 0; i < 4 && line; i++) line = (line = strstr(line, "\r\n")) ? line + 2 : NULL;
    if (line) snprintf(out, cap, "%.*s", (int)strcspn(line, "\r\n"), line);
}

bool mull_probe_postgres(const char *folder) {
    static const unsigned char request[8] = {0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f}; /* SSLRequest */
    char path[3400], got;
    snprintf(path, sizeof path, "%s/.s.PGSQL.5432", folder);
    int fd = ask(path, request, sizeof request);
    if (fd < 0) return false;
    size_t n = answer(fd, &got, 1, now_ms() + LIMIT_MS);
    close(fd);
    return n == 1 && (got == 'N' || got == 'S');
}

int mull_probe_http(const char *socket_path, const char *target, json_t **body) {
    char request[256];
    if (body) *body = NULL;
    int len =
        snprintf(request, sizeof request, "GET %s HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n\r\n", target);
    int fd = ask(socket_path, request, (size_t)len), status = 0;
    char *text = fd >= 0 ? malloc(ANSWER_MAX) : NULL;
    if (text) {
        size_t n = answer(fd, text, ANSWER_MAX - 1, now_ms() + LIMIT_MS);
        text[n] = 0;
        if (sscanf(text, "HTTP/1.%*1d %d", &status) != 1) status = 0;
        const char *start = strstr(text, "\r\n\r\n");
        if (status && start && body) *body = json_loads(start + 4, JSON_DISABLE_EOF_CHECK, NULL);
    }
    free(text);
    if (fd >= 0) close(fd);
    return status;
}
