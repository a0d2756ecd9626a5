/* Row-level security: as mull_front with one team set, a statement that names no team sees and changes that team's rows
 * only, in every table that the catalogue has; the scheduler's role and an owner without special rights see all of
 * them; and nothing of a team is left on a connection of the pool. */
#include "schema/migrate.h"
#include "schema/store_pg.h"
#include "tests/support/check.h"
#include "tests/support/servers.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static mull_servers s;
static char pg[160], front[200];

/* Rows of the teams a and b in every table that knows teams. A table that is added wants its line here. */
static const char ROWS[] =
    "INSERT INTO app_user (name) VALUES ('u');"
    "INSERT INTO team (name) VALUES ('a'), ('b');"
    "INSERT INTO token (hash, \"user\", team, role) SELECT 'h' || name, 'u', name, 'member' FROM team;"
    "INSERT INTO user_usage SELECT name, 'u', 1, now() FROM team;"
    "INSERT INTO webhook (team, url, secret, created_by) SELECT name, 'http://x', 's', 'u' FROM team;"
    "INSERT INTO webhook_delivery (webhook, body) SELECT id, '{}' FROM webhook;"
    "INSERT INTO cron (team, name, \"user\", schedule, tz, fields, item, no_overlap)"
    " SELECT name, 'c', 'u', '* * * * *', 'UTC', '{}', '{}', false FROM team;"
    "INSERT INTO api_file (id, team, \"user\", purpose, filename, bytes, path)"
    " SELECT 'file-' || name, name, 'u', 'batch', 'f', 1, '/f' FROM team;"
    "INSERT INTO job (name, kind, team, \"user\", state, submitted_at) SELECT 'j', 'eval', name, 'u', 'PENDING', now()"
    " FROM team ORDER BY name;"
    "INSERT INTO job_spec SELECT id, '{}' FROM job;"
    "INSERT INTO job_result SELECT id, 1, '{}' FROM job;"
    "INSERT INTO progress (job, done) SELECT id, 1 FROM job;"
    "INSERT INTO attempt (job, attempt, fence, node, boot, state, term) SELECT id, 1, id, 'n', 'b', 'RUNNING', 1 FROM "
    "job;"
    "INSERT INTO attempt_part (fence, part, node, boot, devices) SELECT fence, 0, 'n', 'b', '[]' FROM attempt;"
    "INSERT INTO job_log SELECT id, 1, 1, now(), 'stdout', 'x' FROM job;"
    "INSERT INTO run (job) SELECT id FROM job;"
    "INSERT INTO metric SELECT id, job, 'loss', 1, 1, now() FROM run;"
    "INSERT INTO checkpoint (job, attempt, path, step) SELECT id, 1, '/c', 1 FROM job;"
    "INSERT INTO artifact (job, attempt, path) SELECT id, 1, '/o' FROM job;"
    "INSERT INTO eval_result SELECT id, 't', -1, '{}' FROM job;"
    "INSERT INTO job_array (job, range, los, steps, starts, total) SELECT id, '0', '{0}', '{1}', '{0}', 1 FROM job;"
    "INSERT INTO job_follow SELECT id, id, 1, '{}' FROM job;"
    "INSERT INTO job_follow_child SELECT j.id, j.id, c.id FROM job j JOIN checkpoint c ON c.job = j.id;"
    "INSERT INTO api_batch (id, job, endpoint, completion_window, input_file, expires_at)"
    " SELECT 'batch_' || team, id, '/v1', '24h', 'file-' || team, now() FROM job;"
    "INSERT INTO event (at, actor, kind, job) SELECT now(), 'u', 'cancel', id FROM job;"
    "INSERT INTO event (at, actor, kind, team) SELECT now(), 'u', 'refused', name FROM team;";

/* As mull_front for a team, through the role that serves, as the front door does it. */
#define AS_TEAM(team) "SET ROLE mull_front; SET mull.team = '" team "'; SET mull.\"user\" = 'u'; "

/* Tables that have rows of teams by what the catalogue says: a column team, or a way to team by foreign keys or by a
 * column job. */
static const char OF_TEAMS[] =
    "WITH RECURSIVE t(rel) AS (SELECT 'team'::regclass::oid UNION SELECT attrelid FROM pg_attribute a JOIN pg_class c "
    "ON "
    "c.oid = a.attrelid WHERE a.attname IN ('team', 'job') AND a.attnum > 0 AND c.relkind IN ('r', 'p') AND "
    "c.relnamespace = 'public'::regnamespace UNION SELECT f.conrelid FROM pg_constraint f JOIN t ON f.confrelid = "
    "t.rel "
    "WHERE f.contype = 'f') SELECT string_agg(rel::regclass::text, ' ' ORDER BY rel::regclass::text) FROM t";

static int setup(void **state) {
    (void)state;
    mull_err err = {0};
    mull_servers_start(&s, MULL_WITH_PG);
    mull_servers_database(&s, pg);
    if (mull_migrate(pg, &err) != 0) fail_msg("%s", err.why);
    free(mull_sql(pg, ROWS));
    snprintf(front, sizeof front, "host=%s/pg user=mull_scheduler dbname=t%d", s.dir, s.databases);
    return 0;
}
static int teardown(void **state) {
    (void)state;
    mull_servers_stop(&s);
    return 0;
}

static long long number(const char *conninfo, const char *format, const char *table) {
    char sql[1200];
    snprintf(sql, sizeof sql, format, table, table, table);
    return mull_sql_int(conninfo, sql);
}

static bool may(const char *table, const char *what) {
    char sql[200];
    snprintf(sql, sizeof sql, "SELECT has_table_privilege('mull_front', '%s', '%s')::int", table, what);
    return mull_sql_int(pg, sql) == 1;
}

static void for_each(const char *list_sql, void (*look)(const char *table)) {
    char *list = mull_sql(pg, list_sql), *save = NULL;
    int n = 0;
    for (char *t = strtok_r(list, " \n", &save); t; t = strtok_r(NULL, " \n", &save), n++) look(t);
    assert_true(n >= 22);
    free(list);
}

static void is_forced(const char *table) {
    if (number(pg, "SELECT (relrowsecurity AND relforcerowsecurity)::int FROM pg_class WHERE oid = '%s'::regclass",
               table) != 1)
        fail_msg("row-level security of %s is not on, or not forced", table);
    if (number(pg,
               "SELECT count(*) FROM pg_policies WHERE tablename = '%s' AND policyname = 'team' AND roles = "
               "'{mull_front}'",
               table) != 1)
        fail_msg("%s has no policy for mull_front", table);
}

static void every_table_of_teams_is_forced(void **state) {
    (void)state;
    for_each(OF_TEAMS, is_forced);
}

/* Whatever else there is: no rights at all, or under a policy. */
static void is_shut_or_forced(const char *table) {
    static const char *const whats[] = {"SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"};
    for (size_t i = 0; i < sizeof whats / sizeof *whats; i++)
        if (may(table, whats[i])) is_forced(table);
    if (may(table, "TRUNCATE")) fail_msg("mull_front may empty %s", table);
}

static void every_other_table_is_shut(void **state) {
    (void)state;
    for_each("SELECT string_agg(oid::regclass::text, ' ') FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm') AND "
             "relnamespace = 'public'::regnamespace",
             is_shut_or_forced);
}

/* Rows are told apart by their place. */
#define PLACES(team) AS_TEAM(team) "SELECT coalesce(string_agg(ctid::text, ' ' ORDER BY ctid), '') FROM %s"
static char *places(const char *format, const char *table) {
    char sql[400];
    snprintf(sql, sizeof sql, format, table);
    return mull_sql(front, sql);
}

static void shows_its_own(const char *table) {
    long long all = number(pg, "SELECT count(*) FROM %s", table);
    if (all < 2) fail_msg("this test has no rows of two teams in %s: add them", table);
    if (!may(table, "SELECT")) {
        char sql[200];
        snprintf(sql, sizeof sql, AS_TEAM("a") "SELECT count(*) FROM %s", table);
        free(mull_sql_error(front, sql));
        return;
    }
    char *a = places(PLACES("a"), table), *b = places(PLACES("b"), table), *none = places(PLACES(""), table);
    if (!*a || !*b) fail_msg("a team does not see its own rows of %s", table);
    if (*none) fail_msg("without a team rows of %s are seen: %s", table, none);
    char *save = NULL, *list = strdup(a);
    for (char *t = strtok_r(list, " ", &save); t; t = strtok_r(NULL, " ", &save))
        if (strstr(b, t)) fail_msg("both teams see the row %s of %s", t, table);
    free(list), free(a), free(b), free(none);
    if (number(front, "SELECT count(*) FROM %s", table) != all) fail_msg("the scheduler does not see all of %s", table);
}

static void a_team_sees_its_own_rows_only(void **state) {
    (void)state;
    for_each(OF_TEAMS, shows_its_own);
}

/* A statement without any condition changes as many rows as are seen; one that adds a row of the other team is refused
 * before any constraint is asked. */
static void changes_its_own(const char *table) {
    char sql[4000], column[80];
    char *name = mull_sql(pg, (snprintf(sql, sizeof sql,
                                        "SELECT attname FROM pg_attribute WHERE attrelid = '%s'::regclass AND attnum > "
                                        "0 AND attidentity <> 'a' AND NOT attisdropped ORDER BY attnum LIMIT 1",
                                        table),
                               sql));
    snprintf(column, sizeof column, "%s", name);
    free(name);
    static const char *const verbs[] = {"UPDATE", "DELETE"};
    for (int i = 0; i < 2; i++) {
        char change[400];
        if (i == 0)
            snprintf(change, sizeof change, "UPDATE %s SET \"%s\" = \"%s\"", table, column, column);
        else
            snprintf(change, sizeof change, "DELETE FROM %s", table);
        snprintf(
            sql, sizeof sql,
            AS_TEAM("a") "BEGIN; WITH x AS (%s RETURNING 1) SELECT (SELECT count(*) FROM x) = (SELECT count(*) FROM "
                         "%s) AND EXISTS (SELECT 1 FROM x)",
            change, table);
        if (!may(table, verbs[i])) {
            char plain[600];
            snprintf(plain, sizeof plain, AS_TEAM("a") "%s", change);
            free(mull_sql_error(front, plain));
            continue;
        }
        char *same = mull_sql(front, sql); /* the connection ends without COMMIT */
        if (strcmp(same, "t") != 0) fail_msg("%s of %s goes beyond the team's rows: %s", verbs[i], table, same);
        free(same);
    }
    bool open = !strcmp(table, "app_user") || !strcmp(table, "audit_pending");
    if (open) return;
    /* Every row that a does not see, given back as it is. */
    snprintf(sql, sizeof sql, "SELECT count(*) FROM %s", table);
    long long before = mull_sql_int(pg, sql);
    snprintf(sql, sizeof sql, "SELECT json_agg(x) FROM %s x", table);
    char *text = mull_sql(pg, sql);
    json_t *rows = json_loads(text, 0, NULL), *row;
    size_t k;
    int tried = 0;
    free(text);
    json_array_foreach(rows, k, row) {
        char *one = json_dumps(row, JSON_COMPACT);
        char insert[3000];
        snprintf(
            insert, sizeof insert,
            AS_TEAM("b") "INSERT INTO %s OVERRIDING SYSTEM VALUE SELECT * FROM json_populate_record(NULL::%s, '%s')",
            table, table, one);
        /* Rows of a, and those of b: the latter are doubles, so both fail; why is what tells. */
        char *why = mull_sql_error(front, insert);
        bool refused = strstr(why, "row-level security") || strstr(why, "permission denied"),
             twice = strstr(why, "duplicate key");
        if (!refused && !twice) fail_msg("insert into %s: %s", table, why);
        tried += refused;
        free(why), free(one);
    }
    json_decref(rows);
    if (tried < 1) fail_msg("a row of another team in %s is not refused", table);
    snprintf(sql, sizeof sql, "SELECT count(*) FROM %s", table);
    assert_int_equal(mull_sql_int(pg, sql), before);
}

static void a_team_changes_its_own_rows_only(void **state) {
    (void)state;
    for_each(OF_TEAMS, changes_its_own);
}

/* What team b calls with the number of a's job, and no team named at all. */
static void functions_without_a_team_tell_nothing(void **state) {
    (void)state;
    static const char *const calls[] = {
        "SELECT count(*) FROM (SELECT mull_job_show(id, '') x FROM generate_series(1, 2) id) j WHERE x->>'team' = 'a'",
        "SELECT count(*) FROM mull_job_logs(1, '', 0, 0, 10)",
        "SELECT count(*) FROM mull_job_action(1, 'cancel', 'u', '') WHERE known",
        "SELECT count(*) FROM mull_checkpoint_action(1, 'remove', '', 'u', true) WHERE known",
        "SELECT count(*) FROM mull_file_path('file-a', '')",
        "SELECT coalesce(mull_token_revoke(1, '', 'u'), '') = ''",
        "SELECT mull_cron_rm('a', 'c', 'u')::int",
    };
    assert_int_equal(mull_sql_int(pg, "SELECT id FROM job WHERE team = 'a'"), 1);
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        char sql[400];
        snprintf(sql, sizeof sql, AS_TEAM("b") "%s", calls[i]);
        char *got = mull_sql(front, sql);
        if (strcmp(got, "0") != 0 && strcmp(got, "t") != 0) fail_msg("%s: %s", calls[i], got);
        free(got);
        snprintf(sql, sizeof sql, AS_TEAM("a") "BEGIN; %s", calls[i]);
        got = mull_sql(front, sql); /* and the same finds something for a */
        if (strcmp(got, "0") == 0 || strcmp(got, "t") == 0) fail_msg("%s as the team: %s", calls[i], got);
        free(got);
    }
    assert_int_equal(mull_sql_int(pg, "SELECT count(*) FROM job WHERE state = 'PENDING'"), 2);
}

/* ---- the pool ---- */

static char said[200];
static int answers;
static void on_text(const mull_pg_reply *r, void *arg) {
    (void)arg;
    snprintf(said, sizeof said, "%s", r->status == MULL_PG_OK ? PQgetvalue(r->res, 0, 0) : r->sqlstate);
    answers++;
}

static const char *ask(uv_loop_t *loop, mull_pg *p, const char *team, const char *sql) {
    int before = answers;
    mull_pg_query_as(p, team, "u", sql, 0, NULL, on_text, NULL);
    for (long long until = mull_now_ms() + 10000; answers == before && mull_now_ms() < until; mull_sleep_ms(1))
        uv_run(loop, UV_RUN_NOWAIT);
    assert_int_equal(answers, before + 1);
    return said;
}

static void a_connection_keeps_no_team(void **state) {
    (void)state;
    static const char teams[] = "SELECT string_agg(DISTINCT team, ' ') || ' ' || current_user FROM job";
    uv_loop_t loop;
    uv_loop_init(&loop);
    mull_pg *p = mull_pg_create_for_teams(&loop, front, 1);
    assert_string_equal(ask(&loop, p, "a", teams), "a mull_front");
    assert_string_equal(ask(&loop, p, "b", teams), "b mull_front");
    assert_string_equal(ask(&loop, p, "", "SELECT count(*) FROM job"), "0");
    assert_string_equal(ask(&loop, p, "a", "SELECT 1 / 0"), "22012");
    assert_string_equal(ask(&loop, p, "b", "SELECT string_agg(team, '') FROM job"), "b");
    assert_string_equal(ask(&loop, p, "a' OR true --", "SELECT count(*) FROM job"), "0");
    assert_string_equal(ask(&loop, p, "a", "UPDATE job SET team = 'b'"), "42501");
    assert_string_equal(ask(&loop, p, "a", "DELETE FROM job"), "42501");
    assert_string_equal(ask(&loop, p, "a", "SELECT team FROM job"), "a");
    mull_pg_close(p);
    uv_run(&loop, UV_RUN_DEFAULT);
    mull_pg_destroy(p);
    assert_int_equal(uv_loop_close(&loop), 0);
}

/* An owner as managed servers give it: no superuser, no BYPASSRLS. Forced policies hold for it and let everything
 * through; where mull_front is missing it says what an administrator has to do. */
static void an_owner_without_special_rights(void **state) {
    (void)state;
    char ignored[160], sql[300], plain[200];
    mull_err err = {0};
    free(mull_sql(s.pg, "CREATE ROLE plain LOGIN CREATEROLE"));
    mull_servers_database(&s, ignored);
    snprintf(sql, sizeof sql, "ALTER DATABASE t%d OWNER TO plain", s.databases);
    free(mull_sql(s.pg, sql));
    snprintf(plain, sizeof plain, "host=%s/pg user=plain dbname=t%d", s.dir, s.databases);
    if (mull_migrate(plain, &err) != 0) fail_msg("%s", err.why);
    free(mull_sql(plain, ROWS));
    assert_int_equal(mull_sql_int(plain, "SELECT count(DISTINCT team) FROM job"), 2);
    assert_int_equal(mull_sql_int(plain, AS_TEAM("a") "SELECT count(DISTINCT team) FROM job"), 1);
    /* SECURITY DEFINER runs as this owner. */
    free(mull_sql(plain, AS_TEAM("a") "SELECT mull_job_action(id, 'cancel', 'u', '') FROM job"));
    assert_int_equal(mull_sql_int(plain, "SELECT count(*) FROM webhook_delivery WHERE body LIKE '%job.cancelled%'"), 1);
}

static void without_the_role_migrate_says_what_to_do(void **state) {
    (void)state;
    char sql[300], other[160], poor[200];
    mull_err err = {0};
    mull_servers_database(&s, other);
    free(mull_sql(s.pg, "CREATE ROLE poor LOGIN; REVOKE mull_front FROM mull_scheduler"));
    snprintf(sql, sizeof sql, "ALTER DATABASE t%d OWNER TO poor", s.databases);
    free(mull_sql(s.pg, sql));
    snprintf(poor, sizeof poor, "host=%s/pg user=poor dbname=t%d", s.dir, s.databases);
    assert_int_not_equal(mull_migrate(poor, &err), 0);
    if (!strstr(err.why, "GRANT mull_front TO mull_scheduler")) fail_msg("%s", err.why);
    free(mull_sql(s.pg, "GRANT mull_front TO mull_scheduler"));
    if (mull_migrate(poor, &err) != 0) fail_msg("%s", err.why);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_table_of_teams_is_forced),
        cmocka_unit_test(every_other_table_is_shut),
        cmocka_unit_test(a_team_sees_its_own_rows_only),
        cmocka_unit_test(a_team_changes_its_own_rows_only),
        cmocka_unit_test(functions_without_a_team_tell_nothing),
        cmocka_unit_test(a_connection_keeps_no_team),
        cmocka_unit_test(an_owner_without_special_rights),
        cmocka_unit_test(without_the_role_migrate_says_what_to_do),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
