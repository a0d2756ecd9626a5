/* A team that asks for more than its quotas: refused with one error that says which, how much is used and who can raise
 * it, also when many ask at once; logs are cut with a line that says so; all of it is in the audit. */
#include "tests/attack/attack.h"

#include <sys/wait.h>

static attack *a;

static void set_quota(const char *json) {
    json_decref(attack_own(a, "PUT", "/v1/teams/red", json, 200));
}

static int submit(const char *more) {
    char body[30000];
    snprintf(body, sizeof body, "{\"kind\":\"generate\",\"model\":\"%s\",\"prompt\":\"x\",\"hold\":true%s}", a->model,
             more);
    return attack_ask(a, a->red, "POST", "/v1/jobs", NULL, body);
}

static void says(const char *const words[], size_t n) {
    json_t *j = attack_json(a), *e = json_object_get(j, "error");
    const char *code = json_string_value(json_object_get(e, "code")),
               *message = json_string_value(json_object_get(e, "message"));
    if (!message) message = "";
    assert_string_equal(code ? code : "", "quota");
    for (size_t i = 0; i < n; i++)
        if (!strstr(message, words[i])) fail_msg("'%s' is not in: %s", words[i], message);
    json_decref(j);
}
#define SAYS(...) says((const char *const[]){__VA_ARGS__}, sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *))

static long long refusals(const char *quota) {
    char sql[200];
    mull_sleep_ms(300); /* it is written after the answer */
    snprintf(sql, sizeof sql,
             "SELECT count(*) FROM event WHERE kind = 'refused' AND actor = 'rita' AND detail->>'quota' = '%s'", quota);
    return attack_count(a, sql);
}

static void jobs_that_wait(void **state) {
    (void)state;
    set_quota("{\"max_pending\":3}");
    assert_int_equal(submit(",\"key\":\"first\""), 201);
    assert_int_equal(submit(""), 201);
    assert_int_equal(submit(",\"array\":\"0-1\""), 403);
    SAYS("team red has 2 jobs pending and asks for 2 more", "quota is 3", "admin", "mull quota set red --pending");
    assert_int_equal(submit(",\"array\":\"0-0\""), 201);
    assert_int_equal(submit(""), 403);
    SAYS("has 3 jobs pending", "its quota is 3");
    /* What is there already is told again, and other teams have nothing to do with it. */
    assert_int_equal(submit(",\"key\":\"first\""), 200);
    attack_submit(a, a->blue, "");
    assert_true(refusals("pending") >= 2);
    /* An admin's job for the team counts as any. */
    char body[900];
    snprintf(body, sizeof body,
             "{\"kind\":\"generate\",\"model\":\"%s\",\"prompt\":\"x\",\"hold\":true,\"team\":\"red\"}", a->model);
    json_decref(attack_own(a, "POST", "/v1/jobs", body, 403));
    set_quota("{\"max_pending\":4}");
    assert_int_equal(submit(""), 201);
    set_quota("{\"max_pending\":null}");
    assert_int_equal(submit(""), 201);
    assert_int_equal(attack_count(a, "SELECT count(*) FROM event WHERE kind = 'team_set' AND detail->>'max_pending' = "
                                     "'3' AND detail->>'team' = 'red'"),
                     1);
}

/* Many at once, through two group commits: exactly as many as there is room for. */
static void many_at_once(void **state) {
    (void)state;
    enum { CLIENTS = 8, EACH = 10, ROOM = 25 };
    char json[80];
    long long before = attack_count(a, "SELECT count(*) FROM job WHERE team = 'red' AND state = 'PENDING'");
    snprintf(json, sizeof json, "{\"max_pending\":%lld}", before + ROOM);
    set_quota(json);
    pid_t pids[CLIENTS];
    for (int i = 0; i < CLIENTS; i++) {
        pids[i] = fork();
        if (pids[i] != 0) continue;
        int in = 0;
        for (int k = 0; k < EACH; k++) in += submit("") == 201;
        _exit(in);
    }
    int in = 0;
    for (int i = 0; i < CLIENTS; i++) {
        int status;
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        assert_true(WIFEXITED(status));
        in += WEXITSTATUS(status);
    }
    assert_int_equal(in, ROOM);
    assert_int_equal(attack_count(a, "SELECT count(*) FROM job WHERE team = 'red' AND state = 'PENDING'"),
                     before + ROOM);
    set_quota("{\"max_pending\":null}");
}

static void specs(void **state) {
    (void)state;
    char spec[20000];
    set_quota("{\"max_spec_bytes\":8000}");
    assert_int_equal(submit(""), 201);
    snprintf(spec, sizeof spec, ",\"sampling\":{\"stop\":[\"%09000d\"]}", 1);
    assert_int_equal(submit(spec), 403);
    SAYS("team red sends a spec of 9", "its quota is 8000", "make it shorter", "mull quota set red --spec");
    assert_true(refusals("spec") >= 1);
    set_quota("{\"max_spec_bytes\":null}");
    assert_int_equal(submit(spec), 201);
}

static int upload(const char *content) {
    char body[3000];
    snprintf(
        body, sizeof body,
        "--edge\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--edge\r\nContent-Disposition: "
        "form-data; name=\"file\"; filename=\"f.jsonl\"\r\n\r\n%s\r\n--edge--\r\n",
        content);
    return attack_ask(a, a->red, "POST", "/v1/files", "multipart/form-data; boundary=edge", body);
}

static long long files_there(void) {
    char command[900], *out;
    snprintf(command, sizeof command, "find %s/files -type f | wc -l", a->state);
    out = mull_run_ok((const char *const[]){"/bin/sh", "-c", command, NULL}, LIMIT_S);
    long long n = atoll(out);
    free(out);
    return n;
}

static void room(void **state) {
    (void)state;
    set_quota("{\"max_stored_bytes\":100}");
    char row[120];
    memset(row, 'r', 59);
    row[59] = '\n', row[60] = 0;
    assert_int_equal(upload(row), 200);
    long long files = files_there();
    assert_int_equal(upload(row), 403);
    SAYS("team red keeps 60 bytes and sends 60 more", "its quota is 100", "mull quota set red --stored");
    assert_int_equal(files_there(), files); /* nothing is left of it */
    assert_int_equal(submit(""), 201);
    /* A checkpoint counts, and while there is no room no more jobs come in. */
    long long id = attack_submit(a, a->red, "");
    char sql[300];
    snprintf(sql, sizeof sql, "INSERT INTO checkpoint (job, attempt, path, step, bytes) VALUES (%lld, 1, '/c', 1, 40)",
             id);
    free(mull_sql(a->pg, sql));
    assert_int_equal(submit(""), 403);
    SAYS("keeps 100 bytes", "remove checkpoints (mull ckpt rm) or files");
    assert_true(refusals("stored") >= 2);
    json_t *j = attack_own(a, "GET", "/v1/teams", NULL, 200), *team;
    size_t i;
    json_array_foreach(json_object_get(j, "teams"), i, team) {
        bool red = !strcmp(json_string_value(json_object_get(team, "name")), "red");
        assert_int_equal(json_integer_value(json_object_get(team, "stored_bytes")), red ? 100 : 0);
        if (red) assert_int_equal(json_integer_value(json_object_get(team, "max_stored_bytes")), 100);
    }
    json_decref(j);
    free(mull_sql(a->pg, "UPDATE checkpoint SET state = 'REMOVED'"));
    assert_int_equal(submit(""), 201);
    set_quota("{\"max_stored_bytes\":null}");
}

static void logs(void **state) {
    (void)state;
    long long id = attack_submit(a, a->red, "");
    char sql[600], target[80];
    set_quota("{\"max_log_bytes\":10}");
    snprintf(sql, sizeof sql,
             "INSERT INTO attempt (job, attempt, fence, node, boot, state, term) VALUES (%lld, 1, 900001, 'n', 'b', "
             "'RUNNING', 1)",
             id);
    free(mull_sql(a->pg, sql));
    static const char *const batches[] = {"[\"1234\", \"5678\", \"9abc\", \"beyond\"]", "[\"beyond\"]"};
    for (int i = 0; i < 2; i++) {
        snprintf(sql, sizeof sql, "SELECT mull__apply_log(%lld, 1, now(), 'stdout', '%s')", id, batches[i]);
        free(mull_sql(a->pg, sql));
    }
    snprintf(target, sizeof target, "/v1/jobs/%lld/logs", id);
    assert_int_equal(attack_ask(a, a->red, "GET", target, NULL, NULL), 200);
    assert_non_null(strstr(a->answer, "9abc"));
    assert_null(strstr(a->answer, "beyond"));
    assert_non_null(strstr(a->answer,
                           "the log of this attempt is full: team red keeps 10 bytes of each, an admin may raise "
                           "it (mull quota set red --log SIZE); what follows is dropped"));
    snprintf(sql, sizeof sql,
             "SELECT count(*) FROM event WHERE kind = 'log_cut' AND job = %lld AND detail->>'quota' = '10'", id);
    assert_int_equal(attack_count(a, sql), 1);
    set_quota("{\"max_log_bytes\":null}");
}

static void who_may_set_them(void **state) {
    (void)state;
    assert_int_equal(attack_ask(a, a->red, "PUT", "/v1/teams/red", NULL, "{\"max_pending\":1000}"), 403);
    assert_int_equal(attack_ask(a, a->admin, "PUT", "/v1/teams/red", NULL, "{\"max_pending\":-1}"), 400);
    assert_int_equal(attack_ask(a, a->admin, "PUT", "/v1/teams/red", NULL, "{\"max_pendin\":1}"), 400);
    assert_non_null(strstr(a->answer, "did you mean max_pending"));
    mull_run r = mull_run_command(
        (const char *const[]){MULL, "quota", "set", "red", "--stored", "2T", "--log", "1.5M", "--pending", "7", NULL},
        LIMIT_S);
    assert_int_equal(r.status, 0);
    mull_run_fini(&r);
    char *out = mull_run_ok((const char *const[]){MULL, "quota", "--json", NULL}, LIMIT_S);
    assert_non_null(strstr(out, "\"max_stored_bytes\":2199023255552"));
    assert_non_null(strstr(out, "\"max_log_bytes\":1572864"));
    free(out);
    out = mull_run_ok((const char *const[]){MULL, "quota", NULL}, LIMIT_S);
    assert_non_null(strstr(out, "/7 "));
    free(out);
    r = mull_run_command((const char *const[]){MULL, "quota", "set", "red", "--pending", "many", NULL}, LIMIT_S);
    assert_int_equal(r.status, 2);
    mull_run_fini(&r);
    free(mull_run_ok((const char *const[]){MULL, "quota", "set", "red", "--stored", "none", "--log", "none",
                                           "--pending", "none", NULL},
                     LIMIT_S));
}

static int start(void **state) {
    (void)state;
    a = attack_start();
    return 0;
}
static int stop(void **state) {
    (void)state;
    return attack_stop(a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(jobs_that_wait), cmocka_unit_test(many_at_once), cmocka_unit_test(specs),
        cmocka_unit_test(room),           cmocka_unit_test(logs),         cmocka_unit_test(who_may_set_them),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
