/* Real servers for tests: a private redis-server and PostgreSQL in a temporary folder on unix sockets, and the tools to
 * talk to them plainly (blocking, no code of ours in between). What is started here dies with the test, even when the
 * test is killed. PostgreSQL refuses to run as root, so as root it runs as the user `postgres`.
 *
 * Everything that cannot be done aborts the test with one line on stderr, so callers need no checks. When the server
 * programs are not installed mull_servers_start exits with 77: skipped. */
#ifndef MULL_TESTS_SUPPORT_SERVERS_H
#define MULL_TESTS_SUPPORT_SERVERS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

enum {
    MULL_WITH_REDIS = 1,
    MULL_WITH_PG = 2,
    MULL_DURABLE = 4 /* fsync on: where durability or its speed is tested */
};

typedef struct mull_servers {
    char dir[64];         /* /tmp/mull-test-XXXXXX, 0755; removed by stop */
    char redis_sock[96];  /* DIR/redis.sock */
    char redis_addr[104]; /* unix:DIR/redis.sock */
    char pg[160];         /* conninfo of the superuser `postgres` on the database `postgres` */
    pid_t redis, postgres;
    unsigned flags;
    int databases;
} mull_servers;

/* Starts what flags ask for and waits until it answers. */
void mull_servers_start(mull_servers *s, unsigned flags);
/* Stops everything and removes the folder. */
void mull_servers_stop(mull_servers *s);
/* One server again, after it was ended; waits until it answers. Data that was saved is there again. */
void mull_servers_redis(mull_servers *s);
void mull_servers_postgres(mull_servers *s);
/* SIGKILL and wait (PostgreSQL: SIGQUIT, its crash: nothing is flushed, recovery at the next start). */
void mull_servers_kill_redis(mull_servers *s);
void mull_servers_kill_postgres(mull_servers *s);
/* A new empty database; its conninfo into out. */
void mull_servers_database(mull_servers *s, char out[160]);

/* First column of the first row as text, "" for NULL or no row; the caller frees. A failing statement aborts. */
char *mull_sql(const char *conninfo, const char *sql);
long long mull_sql_int(const char *conninfo, const char *sql);
/* The server's error message of a statement that must fail; the caller frees. */
char *mull_sql_error(const char *conninfo, const char *sql);
/* One Redis command with words separated by single spaces; the reply as JSON (arrays, strings, numbers, null). */
json_t *mull_redis_do(const mull_servers *s, const char *words);
json_t *mull_redis_argv(const mull_servers *s, int argc, const char *const *argv);

/* Starts a program of ours (argv[0] a path) that dies with the test; stdout and stderr are appended to log. */
pid_t mull_spawn(const char *log, const char *const *argv);
/* The same for a program of PostgreSQL (argv[0] its name), as the user that it runs as. */
pid_t mull_spawn_pg(const char *log, const char *const *argv);
/* A file or folder shall belong to that user. */
void mull_give_to_pg(const char *path);
/* A port of 127.0.0.1 that nobody listens on. */
int mull_free_port(void);
/* Sends a signal (0: none) and waits; the exit status, or 128 + signal. */
int mull_reap(pid_t pid, int sig);
/* Sleeps; for loops that wait for something with a bound of their own. */
void mull_sleep_ms(int ms);
long long mull_now_ms(void); /* monotonic */
/* Waits up to limit_ms until check(arg) is true; false when it never was. */
bool mull_wait_for(bool (*check)(void *arg), void *arg, int limit_ms);

/* A blocking connection to a unix socket, or -1. */
int mull_dial(const char *path);
/* To a port of 127.0.0.1. */
int mull_dial_tcp(int port);
/* Sends raw bytes and reads until the peer closes, limit_ms pass or cap is full; returns the count, text NUL-ended. */
size_t mull_raw(const char *path, const void *bytes, size_t len, char *out, size_t cap, int limit_ms);
/* One HTTP request (Connection: close) over a unix socket. body may be NULL; type NULL means application/json. Returns
 * the status (0: no answer) and, when reply is not NULL, the body; the caller frees. */
int mull_http_do(const char *path, const char *method, const char *target, const char *type, const char *body,
                 char **reply);
/* The same with a JSON answer; NULL when it was no JSON. */
json_t *mull_http_json(const char *path, const char *method, const char *target, const char *body, int *status);

#endif
