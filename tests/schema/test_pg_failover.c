/* PostgreSQL over TLS with verified names, and a standby that takes over: a real primary with synchronous streaming
 * replication is killed and the standby promoted. What was acknowledged is there, and statements go on. */
#include "schema/store_pg.h"
#include "schema/store_pg_hosts.h"
#include "tests/support/certs.h"
#include "tests/support/check.h"
#include "tests/support/servers.h"

#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct place {
    char data[96], log[96], key[112];
    int port;
    pid_t pid;
} place;

static mull_servers s; /* for its folder */
static place a, b;
static char cert[96];

static void write_text(const char *path, const char *how, const char *text) {
    FILE *f = fopen(path, how);
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void run_pg(const char *const *argv, const char *log) {
    if (mull_reap(mull_spawn_pg(log, argv), 0) == 0) return;
    fprintf(stderr, "%s failed; see %s\n", argv[0], log);
    abort();
}

static void start(place *p) {
    char port[24], sockets[128], crt[128], key[160];
    snprintf(port, sizeof port, "%d", p->port);
    snprintf(sockets, sizeof sockets, "unix_socket_directories=%s", p->data);
    snprintf(crt, sizeof crt, "ssl_cert_file=%s", cert);
    snprintf(key, sizeof key, "ssl_key_file=%s", p->key);
    const char *argv[] = {
        "postgres", "-D", p->data, "-p", port, "-c", "listen_addresses=127.0.0.1", "-c", sockets,     "-c",
        "ssl=on",   "-c", crt,     "-c", key,  "-c", "shared_buffers=32MB",        "-c", "fsync=off", NULL};
    p->pid = mull_spawn_pg(p->log, argv);
}

static bool answers(void *arg) {
    const place *p = arg;
    char info[200];
    snprintf(info, sizeof info, "host=%s port=%d user=postgres dbname=postgres", p->data, p->port);
    PGconn *c = PQconnectdb(info);
    bool ok = PQstatus(c) == CONNECTION_OK;
    PQfinish(c);
    return ok;
}

static char *sql_at(const place *p, const char *sql) {
    char info[200];
    snprintf(info, sizeof info, "host=%s port=%d user=postgres dbname=postgres", p->data, p->port);
    return mull_sql(info, sql);
}

static void name(place *p, const char *word) {
    snprintf(p->data, sizeof p->data, "%s/%s", s.dir, word);
    snprintf(p->log, sizeof p->log, "%s/%s.log", s.dir, word);
    snprintf(p->key, sizeof p->key, "%s/%s.key", s.dir, word);
    p->port = mull_free_port();
    assert_int_equal(mkdir(p->data, 0700), 0);
    mull_give_to_pg(p->data);
}

static void give_key(place *p, EVP_PKEY **k) {
    *k = mull_new_key(p->key);
    chmod(p->key, 0600);
    mull_give_to_pg(p->key);
}

static int setup(void **state) {
    (void)state;
    char path[128], port[24], target[128];
    EVP_PKEY *k, *unused;
    mull_servers_start(&s, 0);
    name(&a, "a");
    name(&b, "b");
    snprintf(cert, sizeof cert, "%s/cert.pem", s.dir);
    give_key(&a, &k);
    mull_new_cert(cert, k, "DNS:localhost", 86400);
    give_key(&b, &unused);
    EVP_PKEY_free(unused);
    EVP_PKEY_free(k);
    snprintf(b.key, sizeof b.key, "%s", a.key); /* one certificate for the name that both have */
    const char *init[] = {"initdb", "-D", a.data, "-U", "postgres", "-A", "trust", "--no-sync", "--no-instructions",
                          NULL};
    run_pg(init, a.log);
    snprintf(path, sizeof path, "%s/pg_hba.conf", a.data);
    write_text(path, "w",
               "local all all trust\nlocal replication all trust\nhostssl all mull 127.0.0.1/32 scram-sha-256\n"
               "host replication all 127.0.0.1/32 trust\n");
    start(&a);
    assert_true(mull_wait_for(answers, &a, 60000));
    free(sql_at(&a, "CREATE ROLE mull LOGIN PASSWORD 's3cret'"));
    free(sql_at(&a, "CREATE TABLE kept (x int); GRANT ALL ON kept TO mull"));
    snprintf(port, sizeof port, "%d", a.port);
    snprintf(target, sizeof target, "%s/new", s.dir);
    const char *copy[] = {"pg_basebackup", "-h", a.data, "-p",   port, "-U", "postgres", "-D",
                          b.data,          "-R", "-c",   "fast", NULL};
    run_pg(copy, b.log);
    start(&b);
    assert_true(mull_wait_for(answers, &b, 60000));
    free(sql_at(&a, "ALTER SYSTEM SET synchronous_standby_names = '*'"));
    free(sql_at(&a, "SELECT pg_reload_conf()"));
    return 0;
}

static int teardown(void **state) {
    (void)state;
    if (a.pid) mull_reap(a.pid, SIGQUIT);
    if (b.pid) mull_reap(b.pid, SIGQUIT);
    mull_servers_stop(&s);
    return 0;
}

static int good, lost, refused;
static bool acknowledged[4000];
static void on_row(const mull_pg_reply *r, void *arg) {
    good += r->status == MULL_PG_OK;
    lost += r->status == MULL_PG_LOST;
    refused += r->status == MULL_PG_ERROR;
    if (r->status == MULL_PG_OK) acknowledged[(size_t)arg] = true;
}

static void put(mull_pg *p, size_t i) {
    char n[16];
    const char *params[] = {n};
    snprintf(n, sizeof n, "%zu", i);
    mull_pg_query(p, "INSERT INTO kept VALUES ($1::int)", 1, params, on_row, (void *)i);
}

static bool one_good(uv_loop_t *loop, mull_pg *p, size_t i, int limit_ms) {
    int before = good + lost + refused, was = good;
    put(p, i);
    for (long long until = mull_now_ms() + limit_ms; good + lost + refused == before && mull_now_ms() < until;)
        uv_run(loop, UV_RUN_ONCE);
    return good > was;
}

static bool connects(const char *host, const char *ca, const char *password) {
    char info[500];
    uv_loop_t loop;
    uv_loop_init(&loop);
    setenv("PGPASSWORD", password, 1);
    snprintf(info, sizeof info, "host=%s port=%d user=mull dbname=postgres sslmode=verify-full sslrootcert=%s", host,
             a.port, ca);
    mull_pg *p = mull_pg_create(&loop, info, 1);
    int before = good;
    mull_pg_query(p, "SELECT 1", 0, NULL, on_row, (void *)0);
    int asked = good + lost + refused + 1;
    while (good + lost + refused < asked) uv_run(&loop, UV_RUN_ONCE);
    bool ok = good > before;
    mull_pg_close(p);
    uv_run(&loop, UV_RUN_DEFAULT);
    mull_pg_destroy(p);
    assert_int_equal(uv_loop_close(&loop), 0);
    return ok;
}

static void the_server_is_verified(void **state) {
    (void)state;
    char other[128], key[128];
    snprintf(key, sizeof key, "%s/x.key", s.dir);
    snprintf(other, sizeof other, "%s/x.pem", s.dir);
    EVP_PKEY *k = mull_new_key(key);
    mull_new_cert(other, k, "DNS:localhost", 86400);
    EVP_PKEY_free(k);
    assert_true(connects("localhost", cert, "s3cret"));
    assert_false(connects("localhost", other, "s3cret"));
    assert_false(connects("127.0.0.1", cert, "s3cret")); /* the certificate is for another name */
    assert_false(connects("localhost", cert, "wrong"));
}

static void lists_turn(void **state) {
    (void)state;
    static const struct {
        const char *list;
        int turn;
        const char *want;
    } cases[] = {
        {"a,b,c", 0, "a,b,c"}, {"a,b,c", 1, "b,c,a"}, {"a,b,c", 2, "c,a,b"}, {"5432", 1, "5432"}, {"a,,c", 1, ",c,a"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *got = mull__list_turned(cases[i].list, cases[i].turn);
        assert_string_equal(got, cases[i].want);
        free(got);
    }
    assert_null(mull__list_turned(NULL, 1));
}

/* A host that swallows packets: its listening socket has no room for another connection. */
static int black_hole(int *port, int fillers[4]) {
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof sa;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof sa), 0);
    assert_int_equal(listen(fd, 0), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
    *port = ntohs(sa.sin_port);
    for (int i = 0; i < 4; i++) {
        fillers[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        (void)!connect(fillers[i], (struct sockaddr *)&sa, sizeof sa);
    }
    return fd;
}

static void a_host_that_swallows_packets_is_passed_over(void **state) {
    (void)state;
    uv_loop_t loop;
    uv_loop_init(&loop);
    int port, fillers[4], hole = black_hole(&port, fillers);
    char info[500];
    setenv("PGPASSWORD", "s3cret", 1);
    snprintf(info, sizeof info,
             "host=localhost,localhost port=%d,%d user=mull dbname=postgres sslmode=verify-full sslrootcert=%s", port,
             a.port, cert);
    mull_pg *p = mull_pg_create(&loop, info, 1);
    long long from = mull_now_ms();
    bool ok = false;
    for (int i = 0; i < 200 && !(ok = one_good(&loop, p, 0, 20000)); i++) mull_sleep_ms(50);
    assert_true(ok);
    fprintf(stderr, "the second host was in use after %lld ms\n", mull_now_ms() - from);
    mull_pg_close(p);
    uv_run(&loop, UV_RUN_DEFAULT);
    mull_pg_destroy(p);
    assert_int_equal(uv_loop_close(&loop), 0);
    for (int i = 0; i < 4; i++) close(fillers[i]);
    close(hole);
}

static void a_standby_takes_over(void **state) {
    (void)state;
    uv_loop_t loop;
    uv_loop_init(&loop);
    char info[500];
    size_t i = 1;
    setenv("PGPASSWORD", "s3cret", 1);
    snprintf(info, sizeof info,
             "host=localhost,localhost port=%d,%d user=mull dbname=postgres sslmode=verify-full sslrootcert=%s", b.port,
             a.port, cert); /* the standby is asked first, and passed over: read-write is the default for several */
    mull_pg *p = mull_pg_create(&loop, info, 2);
    good = lost = refused = 0;
    for (; i <= 300; i++) put(p, i);
    for (long long until = mull_now_ms() + 20000; good < 300 && mull_now_ms() < until;) uv_run(&loop, UV_RUN_ONCE);
    assert_int_equal(good, 300);
    for (; i <= 400; i++) put(p, i); /* under way at the crash */
    for (int k = 0; k < 5; k++) uv_run(&loop, UV_RUN_NOWAIT);
    long long from = mull_now_ms();
    mull_reap(a.pid, SIGQUIT);
    a.pid = 0;
    free(sql_at(&b, "SELECT pg_promote()"));
    long long promoted = mull_now_ms();
    free(sql_at(&b, "ALTER SYSTEM RESET synchronous_standby_names"));
    free(sql_at(&b, "SELECT pg_reload_conf()"));
    bool ok = false;
    for (int k = 0; k < 400 && !(ok = one_good(&loop, p, i++, 20000)); k++) mull_sleep_ms(20);
    assert_true(ok);
    fprintf(stderr, "the standby was promoted %lld ms after the crash and written to %lld ms later\n", promoted - from,
            mull_now_ms() - promoted);
    for (size_t k = 1; k < i; k++) {
        char sql[64];
        snprintf(sql, sizeof sql, "SELECT count(*) FROM kept WHERE x = %zu", k);
        char *n = acknowledged[k] ? sql_at(&b, sql) : NULL;
        if (n) assert_string_equal(n, "1");
        free(n);
    }
    assert_int_equal(refused, 0);
    mull_pg_close(p);
    uv_run(&loop, UV_RUN_DEFAULT);
    mull_pg_destroy(p);
    assert_int_equal(uv_loop_close(&loop), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lists_turn),
        cmocka_unit_test(the_server_is_verified),
        cmocka_unit_test(a_host_that_swallows_packets_is_passed_over),
        cmocka_unit_test(a_standby_takes_over),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
