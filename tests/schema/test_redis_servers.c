/* Redis as several hosts use it, with real servers: TLS whose certificate is checked, users with passwords, and a
 * primary whose replica takes over. */
#include "schema/secret_file.h"
#include "schema/store_redis.h"
#include "tests/support/certs.h"
#include "tests/support/check.h"
#include "tests/support/servers.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static mull_servers s; /* for its folder */
static const char PROGRAM[] = "/usr/bin/redis-server";

static int setup(void **state) {
    (void)state;
    mull_servers_start(&s, 0);
    return 0;
}
static int teardown(void **state) {
    (void)state;
    mull_servers_stop(&s);
    return 0;
}

static const char *in_dir(const char *name, char out[128]) {
    snprintf(out, 128, "%s/%s", s.dir, name);
    return out;
}

static void write_text(const char *path, const char *text, mode_t mode) {
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    chmod(path, mode);
}

static pid_t start(const char *name, const char *conf) {
    char path[128], log[128], file[32];
    snprintf(file, sizeof file, "%s.conf", name);
    write_text(in_dir(file, path), conf, 0600);
    snprintf(file, sizeof file, "%s.log", name);
    const char *argv[] = {PROGRAM, path, NULL};
    return mull_spawn(in_dir(file, log), argv);
}

/* ---- addresses ---- */

static void bad_address(const char *addr, const char *password, const char *words) {
    mull_redis_server server;
    mull_err err;
    char line[2600];
    assert_true(mull_redis_server_init(&server, addr, password, NULL, &err) < 0);
    if (!strstr(mull_err_line(&err, line, sizeof line), words)) fail_msg("%s: '%s' is not in: %s", addr, words, line);
    if (strstr(line, "hunter2")) fail_msg("a password is shown: %s", line);
}

static void addresses(void **state) {
    (void)state;
    mull_redis_server r;
    mull_err err;
    assert_int_equal(mull_redis_server_init(&r, "rediss://w@[::1]:7000,b.example,10.0.0.1:1", "x", NULL, &err), 0);
    assert_int_equal(r.count, 3);
    assert_string_equal(r.user, "w");
    assert_string_equal(r.at[0].host, "::1");
    assert_int_equal(r.at[0].port, 7000);
    assert_string_equal(r.at[1].host, "b.example");
    assert_int_equal(r.at[1].port, 6379);
    assert_non_null(r.tls);
    mull_redis_server_fini(&r);
    assert_int_equal(mull_redis_server_init(&r, "tcp:[fe80::1]:6379", NULL, NULL, &err), 0);
    assert_false(r.is_unix);
    mull_redis_server_fini(&r);
    assert_int_equal(mull_redis_server_init(&r, "unix:/tmp/x", NULL, NULL, &err), 0);
    assert_true(r.is_unix);
    mull_redis_server_fini(&r);
    bad_address("nonsense", NULL, "unix:PATH");
    bad_address("tcp:localhost", NULL, "is not HOST:PORT");
    bad_address("tcp::6379", NULL, "is not HOST:PORT");
    bad_address("redis://a:70000", NULL, "is not HOST:PORT");
    bad_address("redis://a,,b", NULL, "a host is missing");
    bad_address("redis://[::1", NULL, "no closing ]");
    bad_address("redis://@a", "x", "no user");
    bad_address("redis://w@a", NULL, "user w needs one");
    bad_address("rediss://w:hunter2@a", "x", "every user of this machine can read it");
    bad_address("redis://1,2,3,4,5,6,7,8,9", NULL, "more than 8 hosts");
    bad_address("unix:", NULL, "1 to 107 bytes");
    assert_true(mull_redis_server_init(&r, "rediss://a", NULL, "no PEM", &err) < 0);
    assert_non_null(strstr(err.why, "no certificate"));
}

static void a_password_file_that_others_can_read_is_refused(void **state) {
    (void)state;
    char path[128], *text;
    mull_err err;
    mull_redis_server r;
    write_text(in_dir("pw", path), "s3cret\nmore\n", 0644);
    assert_true(mull_redis_server_open(&r, "redis://w@a", path, NULL, &err) < 0);
    assert_non_null(strstr(err.why, "mode 644"));
    chmod(path, 0600);
    assert_int_equal(mull_redis_server_open(&r, "redis://w@a", path, NULL, &err), 0);
    assert_string_equal(r.password, "s3cret");
    mull_redis_server_fini(&r);
    setenv("MULL_REDIS_PASSWORD", "from the environment", 1);
    assert_int_equal(mull_redis_server_open(&r, "redis://w@a", NULL, NULL, &err), 0);
    assert_string_equal(r.password, "from the environment");
    assert_null(getenv("MULL_REDIS_PASSWORD")); /* engines do not inherit it */
    mull_redis_server_fini(&r);
    write_text(path, "\n", 0600);
    assert_true(mull_secret_read(path, &text, &err) < 0);
    unlink(path);
    assert_int_equal(mull_secret_write(path, "k", 1, &err), 0);
    assert_int_equal(mull_secret_read(path, &text, &err), 0);
    assert_string_equal(text, "k");
    free(text);
}

/* ---- connections ---- */

typedef struct client {
    uv_loop_t loop;
    mull_redis_server server;
    mull_redis *r;
    int connects, replies, nulls, errors;
    char last[200];
} client;

static void on_connect(void *arg) {
    ((client *)arg)->connects++;
}
static void on_reply(const redisReply *reply, void *arg) {
    client *c = arg;
    c->replies += reply != NULL;
    c->nulls += reply == NULL;
    c->errors += reply && reply->type == REDIS_REPLY_ERROR;
    snprintf(c->last, sizeof c->last, "%s", reply && reply->str ? reply->str : "");
}

static void open_client(client *c, const char *addr, const char *password, const char *ca_file) {
    char *ca = NULL;
    mull_err err;
    memset(c, 0, sizeof *c);
    if (ca_file) assert_int_equal(mull_text_read(ca_file, &ca, &err), 0);
    if (mull_redis_server_init(&c->server, addr, password, ca, &err) != 0) fail_msg("%s", err.why);
    free(ca);
    uv_loop_init(&c->loop);
    c->r = mull_redis_create(&c->loop, &c->server, on_connect, c);
}

static void close_client(client *c) {
    mull_redis_close(c->r);
    uv_run(&c->loop, UV_RUN_DEFAULT);
    mull_redis_destroy(c->r);
    mull_redis_server_fini(&c->server);
    assert_int_equal(uv_loop_close(&c->loop), 0);
}

static void run_until(client *c, const int *count, int want, int limit_ms) {
    for (long long until = mull_now_ms() + limit_ms; *count < want && mull_now_ms() < until; mull_sleep_ms(1))
        uv_run(&c->loop, UV_RUN_NOWAIT);
}

static void say(client *c, const char *words) {
    char copy[300];
    const char *argv[16];
    int argc = 0;
    snprintf(copy, sizeof copy, "%s", words);
    for (char *save, *w = strtok_r(copy, " ", &save); w && argc < 16; w = strtok_r(NULL, " ", &save)) argv[argc++] = w;
    int want = c->replies + c->nulls + 1;
    mull_redis_command(c->r, argc, argv, NULL, on_reply, c);
    for (long long until = mull_now_ms() + 10000; c->replies + c->nulls < want && mull_now_ms() < until;)
        uv_run(&c->loop, UV_RUN_ONCE);
}

static void never_connects(const char *addr, const char *password, const char *ca) {
    client c;
    int never = 0;
    open_client(&c, addr, password, ca);
    run_until(&c, &never, 1, 700);
    assert_int_equal(c.connects, 0);
    assert_false(mull_redis_connected(c.r));
    close_client(&c);
}

static void tls_and_users(void **state) {
    (void)state;
    char key[128], cert[128], other[128], other_key[128], conf[1200], addr[128];
    EVP_PKEY *k = mull_new_key(in_dir("key.pem", key)), *o = mull_new_key(in_dir("other-key.pem", other_key));
    mull_new_cert(in_dir("cert.pem", cert), k, "DNS:localhost", 86400); /* not for 127.0.0.1 */
    mull_new_cert(in_dir("other.pem", other), o, "DNS:localhost", 86400);
    EVP_PKEY_free(k);
    EVP_PKEY_free(o);
    int port = mull_free_port();
    snprintf(conf, sizeof conf,
             "port 0\ntls-port %d\nbind 127.0.0.1\ntls-cert-file %s\ntls-key-file %s\ntls-ca-cert-file %s\n"
             "tls-auth-clients no\nsave \"\"\ndir %s\nuser default off\n"
             "user worker on >s3cret resetchannels -@all +ping +role +xadd +xlen ~mull:*\n",
             port, cert, key, cert, s.dir);
    pid_t redis = start("tls", conf);

    client c;
    snprintf(addr, sizeof addr, "rediss://worker@localhost:%d", port);
    open_client(&c, addr, "s3cret", cert);
    run_until(&c, &c.connects, 1, 10000);
    assert_int_equal(c.connects, 1);
    say(&c, "PING");
    assert_string_equal(c.last, "PONG");
    say(&c, "XADD other * m x");
    assert_int_equal(strncmp(c.last, "NOPERM", 6), 0);
    /* Far more than a record of TLS or a socket's buffer holds, there and back in order. */
    enum { MANY = 3000, BYTES = 10000 };
    char *blob = malloc(BYTES + 1);
    memset(blob, 'x', BYTES);
    blob[BYTES] = 0;
    const char *add[] = {"XADD", "mull:events", "*", "m", blob};
    int before = c.replies;
    for (int i = 0; i < MANY; i++) mull_redis_command(c.r, 5, add, NULL, on_reply, &c);
    run_until(&c, &c.replies, before + MANY, 30000);
    assert_int_equal(c.replies, before + MANY);
    assert_int_equal(c.errors, 1);
    free(blob);
    kill(redis, SIGSTOP); /* and what is under way at the close is answered, with nothing */
    const char *ping[] = {"PING"};
    mull_redis_command(c.r, 1, ping, NULL, on_reply, &c);
    close_client(&c);
    kill(redis, SIGCONT);
    assert_int_equal(c.nulls, 1);

    never_connects(addr, "wrong", cert);
    never_connects(addr, "s3cret", other); /* signed by somebody else */
    snprintf(addr, sizeof addr, "rediss://worker@127.0.0.1:%d", port);
    never_connects(addr, "s3cret", cert); /* another name */
    snprintf(addr, sizeof addr, "redis://worker@localhost:%d", port);
    never_connects(addr, "s3cret", NULL); /* without TLS */
    mull_reap(redis, SIGKILL);
}

static void a_replica_that_is_promoted_is_found(void **state) {
    (void)state;
    char conf[600], addr[160];
    int a = mull_free_port(), b = mull_free_port();
    snprintf(conf, sizeof conf, "port %d\nbind 127.0.0.1\nsave \"\"\ndir %s\ndbfilename a.rdb\n", a, s.dir);
    pid_t first = start("a", conf);
    snprintf(conf, sizeof conf,
             "port %d\nbind 127.0.0.1\nsave \"\"\ndir %s\ndbfilename b.rdb\nreplicaof 127.0.0.1 %d\n", b, s.dir, a);
    pid_t second = start("b", conf);

    client c, replica;
    snprintf(addr, sizeof addr, "redis://127.0.0.1:%d,127.0.0.1:%d", b, a); /* the replica is asked first */
    open_client(&c, addr, NULL, NULL);
    snprintf(addr, sizeof addr, "tcp:127.0.0.1:%d", b);
    open_client(&replica, addr, NULL, NULL);
    run_until(&c, &c.connects, 1, 10000);
    run_until(&replica, &replica.connects, 1, 10000);
    say(&c, "SET here 1");
    assert_string_equal(c.last, "OK");
    for (int i = 0; i < 200 && strcmp(replica.last, "1") != 0; i++) {
        mull_sleep_ms(50);
        say(&replica, "GET here");
    }
    assert_string_equal(replica.last, "1");

    long long from = mull_now_ms();
    mull_reap(first, SIGKILL);
    say(&replica, "REPLICAOF NO ONE");
    run_until(&c, &c.connects, 2, 15000);
    assert_int_equal(c.connects, 2);
    fprintf(stderr, "a promoted replica was in use %lld ms after the primary was killed\n", mull_now_ms() - from);
    say(&c, "SET here 2");
    assert_string_equal(c.last, "OK");

    /* The other way round: the one in use becomes a replica, without its connections being cut. */
    snprintf(conf, sizeof conf, "port %d\nbind 127.0.0.1\nsave \"\"\ndir %s\ndbfilename a.rdb\n", a, s.dir);
    first = start("a", conf);
    char words[64];
    snprintf(words, sizeof words, "REPLICAOF 127.0.0.1 %d", a);
    say(&replica, words);
    say(&c, "SET here 3"); /* refused, or the connection has gone */
    run_until(&c, &c.connects, 3, 15000);
    assert_int_equal(c.connects, 3);
    say(&c, "SET here 4");
    assert_string_equal(c.last, "OK");
    close_client(&c);
    close_client(&replica);
    mull_reap(first, SIGKILL);
    mull_reap(second, SIGKILL);
}

int main(void) {
    if (access(PROGRAM, X_OK) != 0) {
        fprintf(stderr, "skipped: %s is not there\n", PROGRAM);
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(addresses),
        cmocka_unit_test(a_password_file_that_others_can_read_is_refused),
        cmocka_unit_test(tls_and_users),
        cmocka_unit_test(a_replica_that_is_promoted_is_found),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
