/* store_pg, store_redis and migrate against real servers: every callback exactly once whatever the servers do, any
 * number of migrations at once, from every earlier version, and a newer database refused. */
#include "schema/migrate.h"
#include "schema/store_pg.h"
#include "schema/store_redis.h"
#include "tests/support/check.h"
#include "tests/support/servers.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static mull_servers s;

static int setup(void **state) {
    (void)state;
    mull_servers_start(&s, MULL_WITH_PG | MULL_WITH_REDIS);
    return 0;
}
static int teardown(void **state) {
    (void)state;
    mull_servers_stop(&s);
    return 0;
}

enum { ASKED = 400 };
static int answered[ASKED], good, lost, refused;

static void on_row(const mull_pg_reply *r, void *arg) {
    answered[(size_t)arg]++;
    if (r->status == MULL_PG_OK && PQntuples(r->res) == 1) {
        assert_int_equal(atoi(PQgetvalue(r->res, 0, 0)), (int)(size_t)arg);
        good++;
    }
    lost += r->status == MULL_PG_LOST;
    refused += r->status == MULL_PG_ERROR;
}

static void ask(mull_pg *p, size_t i, const char *sql) {
    char n[16];
    const char *params[] = {n};
    snprintf(n, sizeof n, "%zu", i);
    mull_pg_query(p, sql, 1, params, on_row, (void *)i);
}

static void run_until(uv_loop_t *loop, int *count, int want, int limit_ms) {
    for (long long until = mull_now_ms() + limit_ms; *count < want && mull_now_ms() < until; mull_sleep_ms(1))
        uv_run(loop, UV_RUN_NOWAIT);
}

static void clear_counts(void) {
    memset(answered, 0, sizeof answered);
    good = lost = refused = 0;
}
static void each_once(size_t n) {
    for (size_t i = 0; i < n; i++) assert_int_equal(answered[i], 1);
}

static void statements_answer_once_through_a_crash(void **state) {
    (void)state;
    uv_loop_t loop;
    uv_loop_init(&loop);
    clear_counts();
    mull_pg *p = mull_pg_create(&loop, s.pg, 3);
    for (size_t i = 0; i < 100; i++) ask(p, i, "SELECT $1::int");
    assert_int_equal(good, 0); /* never from inside the call */
    run_until(&loop, &good, 100, 10000);
    assert_int_equal(good, 100);
    ask(p, 100, "SELECT $1::int / 0");
    run_until(&loop, &refused, 1, 5000);
    assert_int_equal(refused, 1);
    for (size_t i = 101; i < 200; i++) ask(p, i, "SELECT $1::int FROM pg_sleep(0.5)");
    for (int i = 0; i < 50; i++) {
        uv_run(&loop, UV_RUN_NOWAIT);
        mull_sleep_ms(1);
    }
    mull_servers_kill_postgres(&s);
    run_until(&loop, &lost, 99, 10000);
    assert_int_equal(lost, 99);
    ask(p, 200, "SELECT $1::int"); /* while it is away: lost, and soon */
    run_until(&loop, &lost, 100, 5000);
    assert_int_equal(lost, 100);
    mull_servers_postgres(&s);
    size_t i = 201;
    for (int before = good; good == before && i < ASKED - 50; i++) { /* it comes back by itself */
        ask(p, i, "SELECT $1::int");
        for (int k = 0; k < 50 && !answered[i]; k++) {
            uv_run(&loop, UV_RUN_NOWAIT);
            mull_sleep_ms(2);
        }
    }
    assert_true(good > 100);
    for (size_t k = 0; k < 40; k++) ask(p, i++, "SELECT $1::int FROM pg_sleep(1)"); /* under way and waiting at close */
    uv_run(&loop, UV_RUN_NOWAIT);
    mull_pg_close(p);
    uv_run(&loop, UV_RUN_DEFAULT);
    mull_pg_destroy(p);
    each_once(i);
    assert_int_equal(uv_loop_close(&loop), 0); /* nothing is left on the loop */
}

/* COPY's binary form of rows of one int4: 1, 2 … n; broken: the last row says that it has two columns. */
static char *int_rows(int n, bool broken, size_t *len) {
    char *data = malloc(32 + (size_t)n * 10), *p = data;
    memcpy(p, "PGCOPY\n\377\r\n\0", 11), p += 11;
    memset(p, 0, 8), p += 8;
    for (int i = 1; i <= n; i++) {
        const unsigned char row[] = {0,
                                     broken && i == n ? 2 : 1,
                                     0,
                                     0,
                                     0,
                                     4,
                                     0,
                                     (unsigned char)(i >> 16),
                                     (unsigned char)(i >> 8),
                                     (unsigned char)i};
        memcpy(p, row, sizeof row), p += sizeof row;
    }
    memcpy(p, "\377\377", 2);
    *len = (size_t)(p + 2 - data);
    return data;
}

static void copy_and_ask(mull_pg *p, size_t i, int rows, bool broken, const char *sql) {
    size_t len;
    char *data = int_rows(rows, broken, &len);
    mull_pg_copy(p, "CREATE TEMPORARY TABLE IF NOT EXISTS stage (x int) ON COMMIT DELETE ROWS; SELECT 7",
                 "COPY stage FROM STDIN (FORMAT binary)", data, len, sql, 0, NULL, on_row, (void *)i);
}

/* A COPY and its statement are one transaction; whichever of them fails, nothing is kept, the caller gets that error
 * and the connection goes on. */
static void a_copy_and_its_statement(void **state) {
    (void)state;
    uv_loop_t loop;
    uv_loop_init(&loop);
    clear_counts();
    mull_pg *p = mull_pg_create(&loop, s.pg, 1);
    mull_pg_query(p, "CREATE TABLE kept (x int)", 0, NULL, NULL, NULL);
    static const char INTO[] = "WITH k AS (INSERT INTO kept SELECT x FROM stage RETURNING x) SELECT count(*) FROM k";
    copy_and_ask(p, 300, 300, false, INTO);
    copy_and_ask(p, 1, 5, true, INTO);                                        /* refused by COPY */
    copy_and_ask(p, 2, 5, false, "INSERT INTO kept SELECT x / 0 FROM stage"); /* refused by the statement */
    copy_and_ask(p, 3, 5, false, "WITH k AS (INSERT INTO kept SELECT x FROM stage) SELECT 1 / 0");
    ask(p, 0, "SELECT $1::int + count(*)::int - 300 FROM kept");
    copy_and_ask(p, 20, 20, false, INTO); /* the stage was empty again */
    run_until(&loop, &good, 3, 10000);
    assert_int_equal(good, 3);
    assert_int_equal(refused, 3);
    each_once(4);
    /* More than a socket takes at once. */
    copy_and_ask(p, 5, 1000000, false, "SELECT count(*)::int - 999995 FROM stage");
    run_until(&loop, &good, 4, 20000);
    assert_int_equal(good, 4);
    copy_and_ask(p, 6, 5, false, "SELECT pg_sleep(5)");
    for (int i = 0; i < 50; i++) {
        uv_run(&loop, UV_RUN_NOWAIT);
        mull_sleep_ms(2);
    }
    mull_pg_close(p); /* inside one */
    uv_run(&loop, UV_RUN_DEFAULT);
    mull_pg_destroy(p);
    assert_int_equal(answered[6], 1);
    assert_int_equal(lost, 1);
    assert_int_equal(uv_loop_close(&loop), 0);
}

static const mull_redis_server *server_at(const char *addr) {
    static mull_redis_server server;
    mull_err err;
    assert_int_equal(mull_redis_server_init(&server, addr, NULL, NULL, &err), 0);
    return &server;
}

static void names_are_looked_up_off_the_loop(void **state) {
    (void)state;
    uv_loop_t loop;
    uv_loop_init(&loop);
    clear_counts();
    mull_pg *p = mull_pg_create(&loop, "host=no.such.host.invalid user=x dbname=y", 1);
    mull_redis *r = mull_redis_create(&loop, server_at("tcp:no.such.host.invalid:6379"), NULL, NULL);
    long long from = mull_now_ms();
    uv_run(&loop, UV_RUN_NOWAIT);
    assert_true(mull_now_ms() - from < 1000); /* a name server's time-out is 5 s and more */
    ask(p, 0, "SELECT $1::int");
    run_until(&loop, &lost, 1, 20000);
    assert_int_equal(lost, 1);
    mull_pg_close(p);
    mull_redis_close(r);
    uv_run(&loop, UV_RUN_DEFAULT);
    mull_pg_destroy(p);
    mull_redis_destroy(r);
    assert_int_equal(uv_loop_close(&loop), 0);
}

static int replies, nulls, connects;
static void on_reply(const redisReply *r, void *arg) {
    answered[(size_t)arg]++;
    replies += r != NULL;
    nulls += r == NULL;
}
static void on_connect(void *arg) {
    (void)arg;
    connects++;
}
static void ping(mull_redis *r, size_t i) {
    const char *argv[] = {"ECHO", "x"};
    mull_redis_command(r, 2, argv, NULL, on_reply, (void *)i);
}

static void commands_answer_once_through_a_crash(void **state) {
    (void)state;
    uv_loop_t loop;
    uv_loop_init(&loop);
    clear_counts();
    replies = nulls = connects = 0;
    mull_redis *r = mull_redis_create(&loop, server_at(s.redis_addr), on_connect, NULL);
    ping(r, 0); /* before it is up: NULL, from the loop */
    assert_int_equal(nulls, 0);
    run_until(&loop, &nulls, 1, 5000);
    run_until(&loop, &connects, 1, 5000);
    assert_int_equal(connects, 1);
    for (size_t i = 1; i < 50; i++) ping(r, i);
    run_until(&loop, &replies, 49, 5000);
    assert_int_equal(replies, 49);
    const char *block[] = {"XREAD", "BLOCK", "0", "STREAMS", "nothing", "$"};
    mull_redis_command(r, 6, block, NULL, on_reply, (void *)50);
    for (int i = 0; i < 20; i++) uv_run(&loop, UV_RUN_NOWAIT);
    mull_servers_kill_redis(&s);
    run_until(&loop, &nulls, 2, 5000);
    assert_int_equal(nulls, 2);
    assert_false(mull_redis_connected(r));
    mull_servers_redis(&s);
    run_until(&loop, &connects, 2, 10000);
    assert_int_equal(connects, 2);
    ping(r, 51);
    run_until(&loop, &replies, 50, 5000);
    /* A server that stands still: given up after a while, then found again. */
    kill(s.redis, SIGSTOP);
    ping(r, 52);
    run_until(&loop, &nulls, 3, 20000);
    kill(s.redis, SIGCONT);
    assert_int_equal(nulls, 3);
    run_until(&loop, &connects, 3, 10000);
    assert_int_equal(connects, 3);
    ping(r, 53);
    mull_redis_close(r); /* under way at close */
    uv_run(&loop, UV_RUN_DEFAULT);
    mull_redis_destroy(r);
    each_once(54);
    assert_int_equal(uv_loop_close(&loop), 0);
}

static void *migrate_one(void *conninfo) {
    mull_err err = {0};
    return (void *)(intptr_t)mull_migrate(conninfo, &err);
}

static void any_number_of_migrations_at_once(void **state) {
    (void)state;
    enum { N = 8 };
    char pg[160], other[160];
    pthread_t t[N];
    mull_servers_database(&s, pg);
    mull_servers_database(&s, other); /* the role belongs to the server: two databases make it at the same time */
    for (int i = 0; i < N; i++) pthread_create(&t[i], NULL, migrate_one, i % 2 ? other : pg);
    for (int i = 0; i < N; i++) {
        void *rc;
        pthread_join(t[i], &rc);
        assert_int_equal((intptr_t)rc, 0);
    }
    assert_int_equal(mull_sql_int(pg, "SELECT count(*) FROM schema_migration"), mull_migrate_latest());
}

/* Shape of a database: tables, columns, functions. */
static char *shape(const char *pg) {
    return mull_sql(
        pg,
        "SELECT string_agg(x, E'\\n' ORDER BY x) FROM (SELECT table_name || '.' || column_name || ' ' || data_type x "
        "FROM information_schema.columns WHERE table_schema = 'public' UNION ALL SELECT proname || "
        "pg_get_function_arguments(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace) y");
}

static void from_every_earlier_version(void **state) {
    (void)state;
    char pg[160];
    mull_err err = {0};
    mull_servers_database(&s, pg);
    assert_int_equal(mull_migrate(pg, &err), 0);
    char *want = shape(pg);
    for (int v = 0; v < mull_migrate_latest(); v++) {
        mull_servers_database(&s, pg);
        assert_int_equal(mull_migrate_to(pg, v, &err), 0);
        assert_int_equal(mull_sql_int(pg, "SELECT COALESCE(max(version), 0) FROM schema_migration"), v);
        assert_int_equal(mull_migrate(pg, &err), 0);
        char *got = shape(pg);
        assert_string_equal(got, want);
        free(got);
    }
    free(want);
    free(mull_sql(pg, "INSERT INTO schema_migration (version) VALUES (9999)"));
    assert_int_equal(mull_migrate(pg, &err), MULL_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.why, "9999"));
}

/* A later migration may stand on what an earlier one did not do: that cannot be made up for, and is said. */
static void a_hole_among_the_versions_is_refused(void **state) {
    (void)state;
    char pg[160];
    mull_err err = {0};
    mull_servers_database(&s, pg);
    assert_int_equal(mull_migrate(pg, &err), 0);
    free(mull_sql(pg, "DELETE FROM schema_migration WHERE version = 2"));
    assert_int_equal(mull_migrate(pg, &err), MULL_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.where, "migration 2"));
    assert_non_null(strstr(err.why, "missing"));
}

/* Functions follow the build: those of another one go, and nothing is touched while they are ours. */
static void functions_are_made_again_when_they_differ(void **state) {
    (void)state;
    char pg[160];
    mull_err err = {0};
    mull_servers_database(&s, pg);
    assert_int_equal(mull_migrate(pg, &err), 0);
    char *want = shape(pg);
    static const char oid[] = "SELECT 'mull_leader_release'::regproc::oid";
    long first = mull_sql_int(pg, oid);
    assert_int_equal(mull_migrate(pg, &err), 0);
    assert_int_equal(mull_sql_int(pg, oid), first);
    free(mull_sql(pg, "DROP FUNCTION mull_leader_release; CREATE FUNCTION mull_gone() RETURNS int LANGUAGE sql AS "
                      "'SELECT 1'; UPDATE schema_functions SET hash = ''"));
    assert_int_equal(mull_migrate(pg, &err), 0);
    char *got = shape(pg);
    assert_string_equal(got, want);
    free(got);
    free(want);
}

static void the_serving_role_changes_rows_only(void **state) {
    (void)state;
    char pg[160], role[200];
    mull_err err = {0};
    mull_servers_database(&s, pg);
    assert_int_equal(mull_migrate(pg, &err), 0);
    snprintf(role, sizeof role, "host=%s/pg user=mull_scheduler dbname=t%d", s.dir, s.databases);
    free(mull_sql(role, "INSERT INTO team (name) VALUES ('x')"));
    free(mull_sql(role, "SELECT * FROM mull_leader_take('h', 1000, false)"));
    static const char *const refused_sql[] = {"DROP TABLE job", "INSERT INTO schema_migration (version) VALUES (3)",
                                              "CREATE TABLE evil (x int)", "ALTER TABLE job ADD COLUMN x int",
                                              "CREATE ROLE evil"};
    for (size_t i = 0; i < sizeof refused_sql / sizeof *refused_sql; i++) free(mull_sql_error(role, refused_sql[i]));
}

static void a_role_that_may_not_create_roles_can_migrate(void **state) {
    (void)state;
    char sql[200], pg[200];
    char ignored[160];
    mull_err err = {0};
    free(mull_sql(s.pg, "CREATE ROLE plain LOGIN"));
    mull_servers_database(&s, ignored);
    snprintf(sql, sizeof sql, "ALTER DATABASE t%d OWNER TO plain", s.databases);
    free(mull_sql(s.pg, sql));
    snprintf(pg, sizeof pg, "host=%s/pg user=plain dbname=t%d", s.dir, s.databases);
    if (mull_migrate(pg, &err) != 0) fail_msg("%s", err.why);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(statements_answer_once_through_a_crash),
        cmocka_unit_test(a_copy_and_its_statement),
        cmocka_unit_test(names_are_looked_up_off_the_loop),
        cmocka_unit_test(commands_answer_once_through_a_crash),
        cmocka_unit_test(any_number_of_migrations_at_once),
        cmocka_unit_test(from_every_earlier_version),
        cmocka_unit_test(a_hole_among_the_versions_is_refused),
        cmocka_unit_test(functions_are_made_again_when_they_differ),
        cmocka_unit_test(the_serving_role_changes_rows_only),
        cmocka_unit_test(a_role_that_may_not_create_roles_can_migrate),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
