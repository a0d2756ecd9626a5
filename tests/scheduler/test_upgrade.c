/* An upgrade while clients submit without a pause: the tables are brought up to date under a running scheduler, then it
 * is started again. Every submit that was acknowledged is there once, and what was refused meanwhile was safe to send
 * again. And retention: what is old goes, what is not stays. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "schema/migrate.h"
#include "tests/scheduler/flow.h"

#include <signal.h>

static flow f;

static int start(void **state) {
    (void)state;
    flow_prepare(&f, 0);
    return 0;
}

static int stop(void **state) {
    (void)state;
    flow_stop(&f);
    return 0;
}

/* A client of its own process: submits key after key, each until it is acknowledged, and writes "KEY ID" for each. */
static pid_t client(int number, const char *acknowledged) {
    fflush(NULL);
    pid_t pid = fork();
    if (pid) return pid;
    FILE *out = fopen(acknowledged, "a");
    for (int i = 0; out; i++) {
        char body[1000], key[40];
        snprintf(key, sizeof key, "c%d-%d", number, i);
        snprintf(body, sizeof body,
                 "{\"spec\":{\"kind\":\"generate\",\"model\":\"%s\",\"prompt\":\"hi\",\"hold\":true,\"key\":\"%s\"}}",
                 f.model, key);
        for (int tries = 0;; tries++) {
            char *reply = NULL;
            int status = mull_http_do(f.sock, "POST", "/v1/jobs", NULL, body, &reply);
            json_t *j = reply ? json_loads(reply, 0, NULL) : NULL;
            if (status == 200 || status == 201)
                fprintf(out, "%s %s\n", key, json_string_value(json_object_get(j, "id")));
            else if (status != 0 && status != 503)
                fprintf(out, "%s refused-with-%d\n", key, status);
            fflush(out);
            json_decref(j);
            free(reply);
            if (status == 200 || status == 201 || (status != 0 && status != 503)) break;
            mull_sleep_ms(20); /* not acknowledged: the same key again */
            if (tries > 3000) _exit(1);
        }
    }
    _exit(1);
}

static void no_submit_is_lost_in_an_upgrade(void **state) {
    (void)state;
    enum { CLIENTS = 4 };
    char file[CLIENTS][160], line[200];
    pid_t pids[CLIENTS];
    flow_serve(&f);
    for (int i = 0; i < CLIENTS; i++) {
        snprintf(file[i], sizeof file[i], "%s/acknowledged-%d", f.s.dir, i);
        pids[i] = client(i, file[i]);
    }
    /* As another build left it: every function is dropped and made again, under the running scheduler. */
    for (int round = 0; round < 5; round++) {
        mull_sleep_ms(400);
        free(mull_sql(f.pg, "UPDATE schema_functions SET hash = ''"));
        flow_migrate(&f);
    }
    for (int round = 0; round < 3; round++) {
        assert_int_equal(mull_reap(f.scheduler, SIGTERM), 0);
        free(mull_sql(f.pg, "UPDATE schema_functions SET hash = ''"));
        flow_migrate(&f);
        flow_serve(&f);
        mull_sleep_ms(500);
    }
    for (int i = 0; i < CLIENTS; i++) {
        kill(pids[i], SIGKILL);
        mull_reap(pids[i], 0);
    }
    int n = 0;
    for (int i = 0; i < CLIENTS; i++) {
        FILE *in = fopen(file[i], "r");
        assert_non_null(in);
        while (fgets(line, sizeof line, in)) {
            char key[40], id[60], sql[300];
            if (sscanf(line, "%39s %59s", key, id) != 2) continue;
            snprintf(sql, sizeof sql, "SELECT string_agg(id::text, ',') FROM job WHERE client_key = '%s'", key);
            char *there = mull_sql(f.pg, sql);
            if (strcmp(there, id) != 0) fail_msg("%s was acknowledged as %s, and is '%s'", key, id, there);
            free(there);
            n++;
        }
        fclose(in);
    }
    print_message("%d submits acknowledged\n", n);
    assert_true(n > 100);
    assert_int_equal(mull_sql_int(f.pg, "SELECT max(version) FROM schema_migration"), mull_migrate_latest());
}

static int retain(const char *kind, const char *days, bool dry) {
    const char *argv[] = {MULL_BIN_DIR "/mull-scheduler", "retain", "--pg", f.pg, kind, days,
                          dry ? "--dry-run" : NULL,       NULL};
    return mull_reap(mull_spawn(f.log, argv), 0);
}

static void what_is_old_goes(void **state) {
    (void)state;
    long long old = flow_submit(&f, ""), recent = flow_submit(&f, ""), open = flow_submit(&f, ",\"hold\":true");
    char sql[600];
    for (int k = 0; k < 3; k++) {
        long long job = k == 0 ? old : k == 1 ? recent : open;
        snprintf(sql, sizeof sql,
                 "INSERT INTO job_log (job, attempt, n, at, stream, text) SELECT %lld, 1, g, now(), 'stdout', 'x' FROM "
                 "generate_series(1, 12000) g",
                 job);
        free(mull_sql(f.pg, sql));
        snprintf(
            sql, sizeof sql,
            "WITH r AS (INSERT INTO run (job) VALUES (%lld) RETURNING id) INSERT INTO metric (run, job, key, step, "
            "value, at) SELECT id, %lld, 'loss', g, 1, now() FROM r, generate_series(1, 50) g",
            job, job);
        free(mull_sql(f.pg, sql));
    }
    snprintf(
        sql, sizeof sql,
        "UPDATE job SET state = 'COMPLETED', reason = '', ended_at = now() - CASE id WHEN %lld THEN interval '40 days' "
        "ELSE interval '5 days' END WHERE id IN (%lld, %lld)",
        old, old, recent);
    free(mull_sql(f.pg, sql));
    assert_int_equal(retain("--logs", "30", true), 0);
    assert_int_equal(mull_sql_int(f.pg, "SELECT count(*) FROM job_log"), 36000);
    assert_int_equal(retain("--logs", "30", false), 0);
    assert_int_equal(retain("--metrics", "30", false), 0);
    assert_int_equal(mull_sql_int(f.pg, "SELECT count(*) FROM job_log"), 24000);
    assert_int_equal(mull_sql_int(f.pg, "SELECT count(*) FROM metric"), 100);
    snprintf(sql, sizeof sql, "SELECT count(*) FROM job_log WHERE job = %lld", old);
    assert_int_equal(mull_sql_int(f.pg, sql), 0);
    assert_int_equal(retain("--logs", "1", false), 0);
    assert_int_equal(mull_sql_int(f.pg, "SELECT count(*) FROM job_log"),
                     12000); /* of what has not ended nothing goes */
    assert_int_equal(mull_sql_int(f.pg, "SELECT count(*) FROM job WHERE state = 'COMPLETED'"), 2);
    assert_int_equal(retain("--logs", "0", false), 2);
    assert_int_equal(retain("--logs", "1x", false), 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_submit_is_lost_in_an_upgrade),
        cmocka_unit_test(what_is_old_goes),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
