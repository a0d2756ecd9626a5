/* See servers.h. */
#include "tests/support/servers.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <grp.h>
#include <hiredis/hiredis.h>
#include <libpq-fe.h>
#include <netinet/in.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

__attribute__((format(printf, 1, 2), noreturn)) static void die(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    fputs("test support: ", stderr);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    abort();
}

void mull_sleep_ms(int ms) {
    nanosleep(&(struct timespec){ms / 1000, (long)(ms % 1000) * 1000000}, NULL);
}

long long mull_now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (long long)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

bool mull_wait_for(bool (*check)(void *arg), void *arg, int limit_ms) {
    long long until = mull_now_ms() + limit_ms;
    for (;;) {
        if (check(arg)) return true;
        if (mull_now_ms() >= until) return false;
        mull_sleep_ms(10);
    }
}

/* ---- programs ---- */

static const struct passwd *pg_user(void) {
    if (geteuid() != 0) return NULL;
    struct passwd *pw = getpwnam("postgres");
    if (!pw) {
        fprintf(stderr, "skipped: root, and there is no user postgres to run PostgreSQL as\n");
        exit(77);
    }
    return pw;
}

/* pw: become this user first. The death signal is lost when the user changes, so it is set last. */
static pid_t spawn(const char *log, const char *const *argv, const struct passwd *pw, int death) {
    pid_t parent = getpid(), pid = fork();
    if (pid < 0) die("fork: %s", strerror(errno));
    if (pid) return pid;
    int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0644), null = open("/dev/null", O_RDONLY);
    dup2(null, 0);
    dup2(fd, 1);
    dup2(fd, 2);
    for (int i = 3; i < 256; i++) close(i);
    if (pw && (initgroups(pw->pw_name, pw->pw_gid) || setgid(pw->pw_gid) || setuid(pw->pw_uid))) _exit(126);
    prctl(PR_SET_PDEATHSIG, death);
    if (getppid() != parent) _exit(126);
    signal(SIGPIPE, SIG_DFL);
    if (chdir("/")) _exit(126);
    execv(argv[0], (char *const *)(unsigned long)argv);
    fprintf(stderr, "exec %s: %s\n", argv[0], strerror(errno));
    _exit(127);
}

pid_t mull_spawn(const char *log, const char *const *argv) {
    return spawn(log, argv, NULL, SIGKILL);
}

int mull_reap(pid_t pid, int sig) {
    int status;
    if (pid <= 0) return -1;
    if (sig) kill(pid, sig);
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR) return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static const char *find(const char *name, const char *const *folders, char out[128]) {
    for (; *folders; folders++) {
        snprintf(out, 128, "%s/%s", *folders, name);
        if (access(out, X_OK) == 0) return out;
    }
    return NULL;
}
static const char *pg_program(const char *name, char out[128]) {
    static const char *const folders[] = {"/usr/lib/postgresql/15/bin",
                                          "/usr/lib/postgresql/16/bin",
                                          "/usr/lib/postgresql/17/bin",
                                          "/usr/local/bin",
                                          "/usr/bin",
                                          NULL};
    return find(name, folders, out);
}
static const char *redis_program(char out[128]) {
    static const char *const folders[] = {"/usr/bin", "/usr/local/bin", NULL};
    return find("redis-server", folders, out);
}

static void show_log(const char *log) {
    char line[1000];
    FILE *f = fopen(log, "r");
    while (f && fgets(line, sizeof line, f)) fprintf(stderr, "  %s", line);
    if (f) fclose(f);
}

/* ---- Redis ---- */

static redisContext *redis_dial(const mull_servers *s) {
    redisContext *c = redisConnectUnix(s->redis_sock);
    if (c && !c->err) return c;
    if (c) redisFree(c);
    return NULL;
}

static bool redis_answers(void *arg) {
    redisContext *c = redis_dial(arg);
    if (!c) return false;
    redisReply *r = redisCommand(c, "PING");
    bool ok = r && r->type == REDIS_REPLY_STATUS;
    freeReplyObject(r);
    redisFree(c);
    return ok;
}

void mull_servers_redis(mull_servers *s) {
    char program[128], log[128];
    if (!redis_program(program)) {
        fprintf(stderr, "skipped: redis-server is not installed\n");
        exit(77);
    }
    snprintf(log, sizeof log, "%s/redis.log", s->dir);
    const char *argv[] = {program,
                          "--port",
                          "0",
                          "--unixsocket",
                          s->redis_sock,
                          "--unixsocketperm",
                          "777",
                          "--dir",
                          s->dir,
                          "--appendonly",
                          "yes",
                          "--appendfsync",
                          s->flags & MULL_DURABLE ? "everysec" : "no",
                          "--save",
                          "",
                          "--maxmemory-policy",
                          "noeviction",
                          NULL};
    s->redis = mull_spawn(log, argv);
    if (!mull_wait_for(redis_answers, s, 20000)) {
        show_log(log);
        die("redis-server does not answer");
    }
}

void mull_servers_kill_redis(mull_servers *s) {
    mull_reap(s->redis, SIGKILL);
    s->redis = 0;
}

static json_t *reply_json(const redisReply *r) {
    switch (r->type) {
    case REDIS_REPLY_INTEGER:
        return json_integer(r->integer);
    case REDIS_REPLY_ARRAY: {
        json_t *a = json_array();
        for (size_t i = 0; i < r->elements; i++) json_array_append_new(a, reply_json(r->element[i]));
        return a;
    }
    case REDIS_REPLY_NIL:
        return json_null();
    case REDIS_REPLY_ERROR:
        return json_sprintf("ERROR %s", r->str);
    default: {
        json_t *t = json_stringn(r->str, (size_t)r->len);
        return t ? t : json_stringn_nocheck(r->str, (size_t)r->len);
    }
    }
}

json_t *mull_redis_argv(const mull_servers *s, int argc, const char *const *argv) {
    redisContext *c = redis_dial(s);
    if (!c) die("cannot connect to Redis");
    redisReply *r = redisCommandArgv(c, argc, (const char **)(unsigned long)argv, NULL);
    if (!r) die("Redis: %s", c->errstr);
    json_t *j = reply_json(r);
    freeReplyObject(r);
    redisFree(c);
    return j;
}

json_t *mull_redis_do(const mull_servers *s, const char *words) {
    char copy[4096];
    const char *argv[64];
    int argc = 0;
    if (strlen(words) >= sizeof copy) die("command too long");
    strcpy(copy, words);
    for (char *save, *w = strtok_r(copy, " ", &save); w && argc < 64; w = strtok_r(NULL, " ", &save)) argv[argc++] = w;
    return mull_redis_argv(s, argc, argv);
}

/* ---- PostgreSQL ---- */

static bool pg_answers(void *arg) {
    mull_servers *s = arg;
    PGconn *c = PQconnectdb(s->pg);
    bool ok = PQstatus(c) == CONNECTION_OK;
    PQfinish(c);
    return ok;
}

pid_t mull_spawn_pg(const char *log, const char *const *argv) {
    char program[128];
    const char *copy[64] = {pg_program(argv[0], program)};
    if (!copy[0]) {
        fprintf(stderr, "skipped: PostgreSQL is not installed\n");
        exit(77);
    }
    for (int i = 1; i < 63 && argv[i]; i++) copy[i] = argv[i];
    return spawn(log, copy, pg_user(), SIGQUIT);
}

void mull_give_to_pg(const char *path) {
    const struct passwd *pw = pg_user();
    if (pw && chown(path, pw->pw_uid, pw->pw_gid)) die("%s: %s", path, strerror(errno));
}

static void pg_init(const mull_servers *s) {
    char program[128], data[96], log[96];
    const struct passwd *pw = pg_user();
    if (!pg_program("initdb", program)) {
        fprintf(stderr, "skipped: PostgreSQL is not installed\n");
        exit(77);
    }
    snprintf(data, sizeof data, "%s/pg", s->dir);
    snprintf(log, sizeof log, "%s/initdb.log", s->dir);
    if (mkdir(data, 0700) || (pw && chown(data, pw->pw_uid, pw->pw_gid))) die("%s: %s", data, strerror(errno));
    const char *argv[] = {program, "-D",       data, "-U",        "postgres",          "-A", "trust", "-E",
                          "UTF8",  "--locale", "C",  "--no-sync", "--no-instructions", NULL};
    if (mull_reap(spawn(log, argv, pw, SIGKILL), 0)) {
        show_log(log);
        die("initdb failed");
    }
}

void mull_servers_postgres(mull_servers *s) {
    char program[128], data[96], log[96], sockets[96];
    if (!pg_program("postgres", program)) exit(77);
    snprintf(data, sizeof data, "%s/pg", s->dir);
    snprintf(log, sizeof log, "%s/postgres.log", s->dir);
    snprintf(sockets, sizeof sockets, "unix_socket_directories=%s/pg", s->dir);
    const char *sync = s->flags & MULL_DURABLE ? "fsync=on" : "fsync=off";
    const char *argv[] = {program,
                          "-D",
                          data,
                          "-c",
                          "listen_addresses=",
                          "-c",
                          sockets,
                          "-c",
                          sync,
                          "-c",
                          "max_connections=60",
                          "-c",
                          "shared_buffers=64MB",
                          "-c",
                          "unix_socket_permissions=0777",
                          "-c",
                          "max_wal_size=256MB",
                          NULL};
    s->postgres = spawn(log, argv, pg_user(), SIGQUIT);
    if (!mull_wait_for(pg_answers, s, 60000)) {
        show_log(log);
        die("PostgreSQL does not answer");
    }
}

void mull_servers_kill_postgres(mull_servers *s) {
    mull_reap(s->postgres, SIGQUIT);
    s->postgres = 0;
}

static PGresult *query(const char *conninfo, const char *sql, PGconn **c) {
    *c = PQconnectdb(conninfo);
    if (PQstatus(*c) != CONNECTION_OK) die("cannot connect: %s", PQerrorMessage(*c));
    return PQexec(*c, sql);
}

char *mull_sql(const char *conninfo, const char *sql) {
    PGconn *c;
    PGresult *r = query(conninfo, sql, &c);
    if (PQresultStatus(r) != PGRES_TUPLES_OK && PQresultStatus(r) != PGRES_COMMAND_OK)
        die("%s: %s", sql, PQerrorMessage(c));
    char *text = strdup(PQntuples(r) > 0 ? PQgetvalue(r, 0, 0) : "");
    PQclear(r);
    PQfinish(c);
    return text;
}

long long mull_sql_int(const char *conninfo, const char *sql) {
    char *text = mull_sql(conninfo, sql);
    long long n = atoll(text);
    free(text);
    return n;
}

char *mull_sql_error(const char *conninfo, const char *sql) {
    PGconn *c;
    PGresult *r = query(conninfo, sql, &c);
    if (PQresultStatus(r) == PGRES_TUPLES_OK || PQresultStatus(r) == PGRES_COMMAND_OK) die("did not fail: %s", sql);
    char *text = strdup(PQerrorMessage(c));
    PQclear(r);
    PQfinish(c);
    return text;
}

void mull_servers_database(mull_servers *s, char out[160]) {
    char sql[64];
    snprintf(sql, sizeof sql, "CREATE DATABASE t%d", ++s->databases);
    free(mull_sql(s->pg, sql));
    snprintf(out, 160, "host=%s/pg user=postgres dbname=t%d", s->dir, s->databases);
}

/* ---- both ---- */

void mull_servers_start(mull_servers *s, unsigned flags) {
    memset(s, 0, sizeof *s);
    s->flags = flags;
    snprintf(s->dir, sizeof s->dir, "/tmp/mull-test-XXXXXX");
    if (!mkdtemp(s->dir) || chmod(s->dir, 0755)) die("%s: %s", s->dir, strerror(errno));
    snprintf(s->redis_sock, sizeof s->redis_sock, "%s/redis.sock", s->dir);
    snprintf(s->redis_addr, sizeof s->redis_addr, "unix:%s", s->redis_sock);
    snprintf(s->pg, sizeof s->pg, "host=%s/pg user=postgres dbname=postgres", s->dir);
    signal(SIGPIPE, SIG_IGN);
    if (flags & MULL_WITH_REDIS) mull_servers_redis(s);
    if (flags & MULL_WITH_PG) {
        pg_init(s);
        mull_servers_postgres(s);
    }
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw) {
    (void)st, (void)flag, (void)ftw;
    remove(path);
    return 0;
}

void mull_servers_stop(mull_servers *s) {
    if (s->redis) mull_servers_kill_redis(s);
    if (s->postgres) mull_servers_kill_postgres(s);
    if (s->dir[0]) nftw(s->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    s->dir[0] = 0;
}

/* ---- HTTP by hand ---- */

int mull_dial(const char *path) {
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    snprintf(sa.sun_path, sizeof sa.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&sa, sizeof sa) == 0) return fd;
    if (fd >= 0) close(fd);
    return -1;
}

int mull_free_port(void) {
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof sa;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&sa, sizeof sa) || getsockname(fd, (struct sockaddr *)&sa, &len))
        die("no free port: %s", strerror(errno));
    close(fd);
    return ntohs(sa.sin_port);
}

int mull_dial_tcp(int port) {
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&sa, sizeof sa) == 0) return fd;
    if (fd >= 0) close(fd);
    return -1;
}

size_t mull_raw(const char *path, const void *bytes, size_t len, char *out, size_t cap, int limit_ms) {
    int fd = mull_dial(path);
    size_t n = 0, sent = 0;
    out[0] = 0;
    if (fd < 0) return 0;
    fcntl(fd, F_SETFL, O_NONBLOCK);
    long long until = mull_now_ms() + limit_ms;
    while (n + 1 < cap) {
        struct pollfd p = {fd, (short)(POLLIN | (sent < len ? POLLOUT : 0)), 0};
        long long left = until - mull_now_ms();
        if (left <= 0 || poll(&p, 1, (int)left) <= 0) break;
        if (sent < len && (p.revents & POLLOUT)) {
            ssize_t k = send(fd, (const char *)bytes + sent, len - sent, MSG_NOSIGNAL);
            if (k > 0)
                sent += (size_t)k;
            else if (errno != EAGAIN)
                sent = len; /* the peer refuses more; what it says still counts */
        }
        if (p.revents & (POLLIN | POLLHUP | POLLERR)) {
            ssize_t k = recv(fd, out + n, cap - 1 - n, 0);
            if (k == 0 || (k < 0 && errno != EAGAIN)) break;
            if (k > 0) n += (size_t)k;
        }
    }
    out[n] = 0;
    close(fd);
    return n;
}

int mull_http_do(const char *path, const char *method, const char *target, const char *type, const char *body,
                 char **reply) {
    enum { CAP = 32 << 20 };
    size_t len = body ? strlen(body) : 0, room = len + strlen(target) + 400;
    char *request = malloc(room), *out = malloc(CAP);
    if (!request || !out) die("out of memory");
    int n = snprintf(request, room, "%s %s HTTP/1.1\r\nHost: mull\r\nConnection: close\r\n", method, target);
    if (body)
        n += snprintf(request + n, room - (size_t)n, "Content-Type: %s\r\nContent-Length: %zu\r\n",
                      type ? type : "application/json", len);
    n += snprintf(request + n, room - (size_t)n, "\r\n");
    if (body) memcpy(request + n, body, len);
    mull_raw(path, request, (size_t)n + len, out, CAP, 30000);
    free(request);
    int status = 0;
    if (sscanf(out, "HTTP/1.%*d %d", &status) != 1) status = 0;
    char *text = strstr(out, "\r\n\r\n");
    if (reply) *reply = strdup(text ? text + 4 : "");
    free(out);
    return status;
}

json_t *mull_http_json(const char *path, const char *method, const char *target, const char *body, int *status) {
    char *text;
    int s = mull_http_do(path, method, target, NULL, body, &text);
    if (status) *status = s;
    json_t *j = json_loads(text, JSON_DECODE_ANY, NULL);
    free(text);
    return j;
}
