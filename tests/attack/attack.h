/* A whole `mull up --listen` on loopback as an attacker over the network meets it: two teams with tokens, and requests
 * by hand, so that a test says every byte that is sent. What cannot be set up ends the test program. */
#ifndef MULL_TESTS_ATTACK_H
#define MULL_TESTS_ATTACK_H

#include "tests/support/check.h"
#include "tests/support/run.h"
#include "tests/support/servers.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MULL MULL_BIN_DIR "/mull"
enum { LIMIT_S = 120, TOKEN_MAX = 80, ANSWER_MAX = 1 << 20 };

typedef struct attack {
    char *folder, *state; /* the second below the first */
    char model[512], socket[600], pg[700];
    int port;
    char admin[TOKEN_MAX], red[TOKEN_MAX], red_viewer[TOKEN_MAX], blue[TOKEN_MAX], blue_viewer[TOKEN_MAX];
    char answer[ANSWER_MAX]; /* the last one, head and body */
} attack;

/* Sends bytes to the port, closes nothing, and reads until the server closes or limit_ms pass; the count of bytes read,
 * which are in a->answer, 0-ended. */
static inline size_t attack_raw(attack *a, const void *bytes, size_t len, int limit_ms) {
    int fd = mull_dial_tcp(a->port);
    size_t n = 0, sent = 0;
    a->answer[0] = 0;
    if (fd < 0) return 0;
    fcntl(fd, F_SETFL, O_NONBLOCK);
    for (long long until = mull_now_ms() + limit_ms; n + 1 < sizeof a->answer;) {
        struct pollfd p = {fd, (short)(POLLIN | (sent < len ? POLLOUT : 0)), 0};
        long long left = until - mull_now_ms();
        if (left <= 0 || poll(&p, 1, (int)left) <= 0) break;
        if (sent < len && (p.revents & POLLOUT)) {
            ssize_t k = send(fd, (const char *)bytes + sent, len - sent, MSG_NOSIGNAL);
            sent = k > 0 ? sent + (size_t)k : len;
        }
        if (!(p.revents & (POLLIN | POLLHUP | POLLERR))) continue;
        ssize_t k = recv(fd, a->answer + n, sizeof a->answer - 1 - n, 0);
        if (k <= 0) break;
        n += (size_t)k;
    }
    a->answer[n] = 0;
    close(fd);
    return n;
}

/* How many responses the last answer holds, and the status of the i-th from 0 (0: there is none). */
static inline int attack_status(const attack *a, int i) {
    const char *p = a->answer;
    for (; (p = strstr(p, "HTTP/1.1 ")); p += 9)
        if (i-- == 0) return atoi(p + 9);
    return 0;
}

static inline const char *attack_body(const attack *a) {
    const char *p = strstr(a->answer, "\r\n\r\n");
    return p ? p + 4 : "";
}

/* One well-formed request; its status. type NULL: JSON. */
static inline int attack_ask(attack *a, const char *token, const char *method, const char *target, const char *type,
                             const char *body) {
    size_t len = body ? strlen(body) : 0, cap = len + strlen(target) + (token ? strlen(token) : 0) + 600;
    char *text = malloc(cap);
    int n = snprintf(text, cap,
                     "%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s%s%sContent-Type: %s\r\n"
                     "Content-Length: %zu\r\n\r\n",
                     method, target, token ? "Authorization: Bearer " : "", token ? token : "", token ? "\r\n" : "",
                     type ? type : "application/json", len);
    if (len) memcpy(text + n, body, len);
    attack_raw(a, text, (size_t)n + len, 20000);
    free(text);
    return attack_status(a, 0);
}

/* The same of the last answer's body as JSON; a new reference, or the test fails. */
static inline json_t *attack_json(const attack *a) {
    json_t *j = json_loads(attack_body(a), 0, NULL);
    if (!j) fail_msg("no JSON: %.300s", a->answer);
    return j;
}

/* Asks through the socket, where the owner needs no token, and expects a status. */
static inline json_t *attack_own(attack *a, const char *method, const char *target, const char *body, int want) {
    int status;
    json_t *j = mull_http_json(a->socket, method, target, body, &status);
    if (status != want) {
        char *text = json_dumps(j, JSON_ENCODE_ANY);
        fail_msg("%s %s: %d %.400s", method, target, status, text ? text : "");
    }
    return j;
}

static inline void attack_token(attack *a, const char *user, const char *team, const char *role, char out[TOKEN_MAX]) {
    char body[300];
    snprintf(body, sizeof body, "{\"user\":\"%s\",\"team\":\"%s\",\"role\":\"%s\"}", user, team, role);
    json_t *j = attack_own(a, "POST", "/v1/tokens", body, 201);
    snprintf(out, TOKEN_MAX, "%s", json_string_value(json_object_get(j, "token")));
    json_decref(j);
}

/* A held job of the token's team, its id; more is further members (", \"a\": 1" or ""). */
static inline long long attack_submit(attack *a, const char *token, const char *more) {
    char body[2000];
    snprintf(body, sizeof body, "{\"kind\":\"generate\",\"model\":\"%s\",\"prompt\":\"secret\",\"hold\":true%s}",
             a->model, more);
    int status = attack_ask(a, token, "POST", "/v1/jobs", NULL, body);
    if (status != 201) fail_msg("submit: %d %.400s", status, a->answer);
    json_t *j = attack_json(a);
    long long id = atoll(json_string_value(json_object_get(j, "id")));
    json_decref(j);
    return id;
}

/* A statement as the database's owner. */
static inline long long attack_count(const attack *a, const char *sql) {
    return mull_sql_int(a->pg, sql);
}

/* What was started goes down with the program too when a test cannot go on. */
static attack *attack_running;
static inline void attack_at_exit(void) {
    if (!attack_running) return;
    mull_run r = mull_run_command((const char *const[]){MULL, "down", NULL}, LIMIT_S);
    mull_run_fini(&r);
    mull_tree_remove(attack_running->folder);
}

static inline attack *attack_start(void) {
    attack *a = calloc(1, sizeof *a);
    char listen[64];
    if (access("/usr/bin/redis-server", X_OK) || access("/usr/lib/postgresql", X_OK)) {
        fprintf(stderr, "skipped: redis-server and PostgreSQL are not installed (ops/deps)\n");
        exit(77);
    }
    signal(SIGPIPE, SIG_IGN);
    a->folder = mull_temp_folder("attack");
    a->state = malloc(strlen(a->folder) + 8);
    sprintf(a->state, "%s/state", a->folder);
    a->port = mull_free_port();
    attack_running = a;
    atexit(attack_at_exit);
    unsetenv("MULL_SERVER");
    setenv("MULL_STATE", a->state, 1);
    snprintf(a->model, sizeof a->model, "%s/model", a->folder);
    snprintf(a->socket, sizeof a->socket, "%s/run/scheduler.sock", a->state);
    snprintf(a->pg, sizeof a->pg, "host=%s/run/pg user=mull_admin dbname=mull", a->state);
    snprintf(listen, sizeof listen, "127.0.0.1:%d", a->port);
    free(mull_run_ok(
        (const char *const[]){MULL_BIN_DIR "/mull-engine", "init", "--preset", "tiny", "--out", a->model, NULL},
        LIMIT_S));
    free(mull_run_ok((const char *const[]){MULL, "up", "--listen", listen, "--json", NULL}, LIMIT_S));
    json_decref(attack_own(a, "PUT", "/v1/teams/red", "{}", 200));
    json_decref(attack_own(a, "PUT", "/v1/teams/blue", "{}", 200));
    attack_token(a, "root", "default", "admin", a->admin);
    attack_token(a, "rita", "red", "member", a->red);
    attack_token(a, "rolf", "red", "viewer", a->red_viewer);
    attack_token(a, "bob", "blue", "member", a->blue);
    attack_token(a, "bea", "blue", "viewer", a->blue_viewer);
    return a;
}

static inline int attack_stop(attack *a) {
    mull_run r = mull_run_command((const char *const[]){MULL, "down", NULL}, LIMIT_S);
    int status = r.status;
    mull_run_fini(&r);
    mull_tree_remove(a->folder);
    attack_running = NULL;
    free(a->folder);
    free(a->state);
    free(a);
    return status;
}

#endif
