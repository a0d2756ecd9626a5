/* Team blue, and people without any good token, try every operation that the server describes on what is team red's:
 * nothing of red's is told, nothing of it changes, and who tried a change is in the audit. */
#include "tests/attack/attack.h"

static attack *a;
static char job[24], token_id[24], checkpoint_id[24], file_id[200], batch_id[200];

/* Stands in names, prompts and paths of everything that is red's, and in no request. */
#define SECRET "scarlet"

static const char *member(const json_t *o, const char *key) {
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

static void make_red_things(void) {
    char body[2000], type[80];
    long long id = attack_submit(a, a->red, ",\"name\":\"" SECRET "\"");
    snprintf(job, sizeof job, "%lld", id);
    snprintf(body, sizeof body,
             "{\"schedule\":\"0 0 1 1 *\",\"spec\":{\"kind\":\"generate\",\"model\":\"%s\",\"prompt\":\"" SECRET "\"}}",
             a->model);
    int made = attack_ask(a, a->red, "PUT", "/v1/cron/yearly", NULL, body);
    if (made != 200 && made != 201) fail_msg("%.500s", a->answer);
    snprintf(type, sizeof type, "multipart/form-data; boundary=edge-of-part");
    int kept =
        attack_ask(a, a->red, "POST", "/v1/files", type,
                   "--edge-of-part\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n"
                   "--edge-of-part\r\nContent-Disposition: form-data; name=\"file\"; filename=\"" SECRET ".jsonl\"\r\n"
                   "\r\n{\"custom_id\":\"" SECRET "\",\"method\":\"POST\",\"url\":\"/v1/chat/completions\","
                   "\"body\":{\"model\":\"m\",\"messages\":[]}}\n\r\n--edge-of-part--\r\n");
    if (kept != 200) fail_msg("%.500s", a->answer);
    json_t *j = attack_json(a);
    snprintf(file_id, sizeof file_id, "%s", member(j, "id"));
    json_decref(j);
    snprintf(body, sizeof body,
             "{\"input_file_id\":\"%s\",\"endpoint\":\"/v1/chat/completions\",\"completion_window\":\"24h\","
             "\"model\":\"%s\",\"metadata\":{\"a\":\"" SECRET "\"},\"spec\":{\"hold\":true}}",
             file_id, a->model);
    if (attack_ask(a, a->red, "POST", "/v1/batches", NULL, body) != 200) fail_msg("%.500s", a->answer);
    j = attack_json(a);
    snprintf(batch_id, sizeof batch_id, "%s", member(j, "id"));
    json_decref(j);
    j = attack_own(a, "POST", "/v1/tokens", "{\"user\":\"" SECRET "\",\"team\":\"red\"}", 201);
    snprintf(token_id, sizeof token_id, "%s", member(j, "id"));
    json_decref(j);
    char sql[900];
    snprintf(sql, sizeof sql,
             "INSERT INTO run (job, config) VALUES (%s, '{\"" SECRET "\": 1}');"
             "INSERT INTO checkpoint (job, attempt, path, step, bytes, sha256, files, state) VALUES (%s, 1, '/" SECRET
             "', 1, 1, "
             "'', '[]', 'PUBLISHED');"
             "INSERT INTO job_log (job, attempt, n, at, stream, text) VALUES (%s, 1, 1, now(), 'stdout', '" SECRET "');"
             "INSERT INTO metric (run, job, key, step, value, at) VALUES (1, %s, '" SECRET "', 1, 1, now())",
             job, job, job, job);
    free(mull_sql(a->pg, sql));
    snprintf(checkpoint_id, sizeof checkpoint_id, "%lld", attack_count(a, "SELECT max(id) FROM checkpoint"));
}

/* Everything that is red's, as one text. */
static char *red_things(void) {
    return mull_sql(
        a->pg, "SELECT md5(concat((SELECT string_agg(j::text, '' ORDER BY id) FROM job j WHERE team = 'red'), "
               "(SELECT string_agg(c::text, '') FROM cron c WHERE team = 'red'), "
               "(SELECT string_agg(c::text, '') FROM checkpoint c), (SELECT string_agg(x::text, '') FROM api_file x), "
               "(SELECT string_agg(x::text, '') FROM api_batch x), (SELECT string_agg(t::text, '') FROM token t), "
               "(SELECT string_agg(t::text, '') FROM team t WHERE name = 'red'), "
               "(SELECT string_agg(u::text, '') FROM app_user u WHERE name = '" SECRET "')))");
}

/* The path of an operation with what of red's it can mean. */
static void fill(const char *path, char out[400]) {
    const char *id = !strncmp(path, "/v1/tokens", 10)        ? token_id
                     : !strncmp(path, "/v1/checkpoints", 15) ? checkpoint_id
                                                             : job,
               *name = !strncmp(path, "/v1/files", 9)      ? file_id
                       : !strncmp(path, "/v1/batches", 11) ? batch_id
                       : !strncmp(path, "/v1/cron", 8)     ? "yearly"
                                                           : "red";
    const char *brace = strchr(path, '{');
    if (!brace)
        snprintf(out, 400, "%s", path);
    else
        snprintf(out, 400, "%.*s%s%s", (int)(brace - path), path, !strncmp(brace, "{id}", 4) ? id : name,
                 strchr(brace, '}') + 1);
}

/* Asks every described operation with this token, several times with what may widen it. Calls look after each. */
static int ask_everything(const char *token, void (*look)(const char *method, const char *target, int status)) {
    static const char *const queries[] = {"", "?team=red", "?team=%27%20OR%20team%3D%27red", "?team=&limit=1000"};
    json_t *api = attack_own(a, "GET", "/v1/openapi.json", NULL, 200), *item, *op;
    const char *path, *method;
    char body[1000];
    int n = 0;
    snprintf(body, sizeof body,
             "{\"team\":\"red\",\"kind\":\"generate\",\"model\":\"%s\",\"prompt\":\"x\",\"hold\":true}", a->model);
    json_object_foreach(json_object_get(api, "paths"), path, item) {
        json_object_foreach(item, method, op) {
            char target[500], verb[8];
            snprintf(verb, sizeof verb, "%s", method);
            for (char *c = verb; *c; c++) *c = (char)(*c - 'a' + 'A');
            for (size_t q = 0; q < sizeof queries / sizeof *queries; q++) {
                fill(path, target);
                size_t len = strlen(target);
                snprintf(target + len, sizeof target - len, "%s", queries[q]);
                bool get = !strcmp(verb, "GET");
                look(verb, target, attack_ask(a, token, verb, target, NULL, get ? NULL : q ? body : "{}"));
                n++;
            }
        }
    }
    json_decref(api);
    return n;
}

static void tells_nothing(const char *method, const char *target, int status) {
    if (status == 0 || status >= 500) fail_msg("%s %s: %d %.300s", method, target, status, a->answer);
    if (strstr(attack_body(a), SECRET)) fail_msg("%s %s tells of red: %.600s", method, target, a->answer);
}

static void is_shut(const char *method, const char *target, int status) {
    tells_nothing(method, target, status);
    bool open = !strncmp(target, "/healthz", 8) || !strncmp(target, "/readyz", 7) || target[1] == '?' || !target[1] ||
                !strncmp(target, "/dashboard.", 11) || !strncmp(target, "/v1/openapi.json", 16);
    if (!open && status != 401 && status != 429) fail_msg("%s %s: %d %.400s", method, target, status, a->answer);
}

static long long refusals(const char *user) {
    char sql[200];
    snprintf(sql, sizeof sql, "SELECT count(*) FROM event WHERE kind = 'refused' AND actor = '%s'", user);
    return attack_count(a, sql);
}

static void another_team(void **state) {
    (void)state;
    char *before = red_things();
    assert_true(ask_everything(a->blue, tells_nothing) > 100);
    char *after = red_things();
    assert_string_equal(before, after);
    ask_everything(a->blue_viewer, tells_nothing);
    free(after);
    after = red_things();
    assert_string_equal(before, after);
    free(before);
    free(after);
    mull_sleep_ms(500);
    assert_true(refusals("bob") >= 20);
    assert_true(refusals("bea") >= 20);
    /* What was refused says what was tried. */
    char sql[300];
    snprintf(sql, sizeof sql,
             "SELECT count(*) FROM event WHERE kind = 'refused' AND actor = 'bob' AND detail->>'what' = '%s' AND "
             "detail->>'path' = '/v1/jobs/{id}/cancel' AND detail->>'peer' = '127.0.0.1'",
             job);
    assert_true(attack_count(a, sql) > 0);
    /* The submit that named another team. */
    assert_true(attack_count(a, "SELECT count(*) FROM event WHERE kind = 'refused' AND actor = 'bob' AND "
                                "detail->>'path' = '/v1/jobs' AND detail->>'status' = '403'") > 0);
}

/* The team itself may do all of it: whatever it is told, the database refuses none of its statements. */
static void is_served(const char *method, const char *target, int status) {
    if (status == 0 || status >= 500) fail_msg("%s %s: %d %.400s", method, target, status, a->answer);
}

static void the_team_itself(void **state) {
    (void)state;
    /* This address has used up what it may try of unknown tokens. */
    for (int i = 0; i < 50 && attack_ask(a, a->red, "GET", "/v1/whoami", NULL, NULL) != 200; i++) mull_sleep_ms(200);
    assert_true(ask_everything(a->red, is_served) > 100);
    static const char *const kinds[] = {"cancel", "requeue", "checkpoint_pin", "cron_rm", "file"};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        char sql[200];
        snprintf(sql, sizeof sql, "SELECT count(*) FROM event WHERE actor = 'rita' AND team = 'red' AND kind = '%s'",
                 kinds[i]);
        if (attack_count(a, sql) < 1) fail_msg("nothing came of %s", kinds[i]);
    }
}

/* A viewer of the team sees it and changes nothing. */
static void may_look(const char *method, const char *target, int status) {
    (void)target;
    if (strcmp(method, "GET") != 0 && strncmp(target, "/v1/tokens/", 11) != 0 && status != 403 && status != 401)
        fail_msg("%s %s: %d", method, target, status); /* 401: what wants a token of another kind, a node's say */
}

static void a_viewer_of_the_team(void **state) {
    (void)state;
    char *before = red_things(), target[64];
    ask_everything(a->red_viewer, may_look);
    char *after = red_things();
    assert_string_equal(before, after);
    free(before);
    free(after);
    snprintf(target, sizeof target, "/v1/jobs/%s", job);
    assert_int_equal(attack_ask(a, a->red_viewer, "GET", target, NULL, NULL), 200);
    assert_non_null(strstr(a->answer, SECRET)); /* so the other tests can see it too, if it is there */
}

static void tokens_that_are_none(void **state) {
    (void)state;
    char revoked[TOKEN_MAX], expired[TOKEN_MAX], forged[TOKEN_MAX], path[64];
    attack_token(a, "was", "red", "admin", revoked);
    snprintf(path, sizeof path, "/v1/tokens/%lld", attack_count(a, "SELECT max(id) FROM token"));
    json_decref(attack_own(a, "DELETE", path, NULL, 200));
    attack_token(a, "old", "red", "admin", expired);
    free(mull_sql(a->pg, "UPDATE token SET expires_at = now() - interval '1 second' WHERE \"user\" = 'old'"));
    snprintf(forged, sizeof forged, "%s", a->red);
    forged[20] = forged[20] == '0' ? '1' : '0';
    char long_one[4000];
    memset(long_one, 'a', sizeof long_one - 1);
    long_one[sizeof long_one - 1] = 0;
    const char *const tokens[] = {NULL, revoked, expired, forged, "mull_", "' OR '1'='1", a->red + 5, long_one};
    char *before = red_things();
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++) {
        ask_everything(tokens[i], is_shut);
    }
    char *after = red_things();
    assert_string_equal(before, after);
    free(before);
    free(after);
    mull_sleep_ms(500);
    assert_true(refusals("") > 0);
    assert_int_equal(attack_count(a, "SELECT count(*) FROM event WHERE actor = 'was' AND kind <> 'token_create'"), 0);
}

/* Roles and teams come from the token alone, whatever else a request says. */
static void nothing_but_the_token_says_who_asks(void **state) {
    (void)state;
    static const char *const heads[] = {"X-Forwarded-User: root", "X-Remote-User: root",
                                        "X-Mull-Team: red",       "X-Forwarded-For: 127.0.0.1",
                                        "Cookie: token=root",     "X-HTTP-Method-Override: DELETE"};
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
        char text[600];
        int n = snprintf(text, sizeof text,
                         "GET /v1/jobs/%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s\r\nAuthorization: Bearer "
                         "%s\r\n\r\n",
                         job, heads[i], a->blue);
        attack_raw(a, text, (size_t)n, 5000);
        assert_int_equal(attack_status(a, 0), 404);
    }
    assert_int_equal(attack_ask(a, a->blue, "POST", "/v1/tokens", NULL, "{\"user\":\"bob\",\"role\":\"admin\"}"), 403);
    assert_int_equal(attack_ask(a, a->blue, "PUT", "/v1/teams/blue", NULL, "{\"nominal\":1000}"), 403);
    assert_int_equal(attack_ask(a, a->blue, "POST", "/v1/webhooks", NULL, "{\"url\":\"http://127.0.0.1/\"}"), 403);
    assert_int_equal(attack_ask(a, a->blue, "GET", "/v1/audit", NULL, NULL), 403);
}

static int start(void **state) {
    (void)state;
    a = attack_start();
    make_red_things();
    return 0;
}

static int stop(void **state) {
    (void)state;
    return attack_stop(a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_viewer_of_the_team),
        cmocka_unit_test(another_team),
        cmocka_unit_test(nothing_but_the_token_says_who_asks),
        cmocka_unit_test(tokens_that_are_none),
        cmocka_unit_test(the_team_itself), /* last: little is left of it then */
    };
    return cmocka_run_group_tests(tests, start, stop);
}
