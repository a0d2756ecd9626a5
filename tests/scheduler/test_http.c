/* The front door through raw sockets: every route of /v1/openapi.json, the form of every error, and requests that no
 * honest client sends. */
#include "tests/scheduler/flow.h"

#include <fcntl.h>
#include <sys/socket.h>

static flow f;
enum { BIG = 9 << 20 };

static int setup(void **state) {
    (void)state;
    flow_start(&f, 0);
    return 0;
}
static int teardown(void **state) {
    (void)state;
    flow_stop(&f);
    return 0;
}

/* The status of an answer to raw bytes, 0 when the connection was closed without one. */
static int status_of(const char *bytes, size_t len) {
    char out[20000];
    int status = 0;
    mull_raw(f.sock, bytes, len, out, sizeof out, 15000);
    if (sscanf(out, "HTTP/1.%*d %d", &status) != 1) return 0;
    return status;
}
static int status_text(const char *text) {
    return status_of(text, strlen(text));
}

static json_t *error_of(json_t *j, const char *code) {
    json_t *e = json_object_get(j, "error");
    assert_non_null(e);
    if (strcmp(text_of(e, "code"), code) != 0)
        fail_msg("%s instead of %s: %s", text_of(e, "code"), code, text_of(e, "message"));
    assert_true(*text_of(e, "message"));
    assert_true(json_is_array(json_object_get(e, "details")));
    return e;
}

static void expect_error(const char *method, const char *target, const char *body, int want, const char *code) {
    int status;
    json_t *j = mull_http_json(f.sock, method, target, body, &status);
    if (status != want) print_error("%s %s: %d\n", method, target, status);
    assert_int_equal(status, want);
    error_of(j, code);
    json_decref(j);
}

static void errors_have_one_form(void **state) {
    (void)state;
    expect_error("GET", "/nothing", NULL, 404, "not_found");
    expect_error("GET", "/v1/jobs/7777777", NULL, 404, "not_found");
    expect_error("GET", "/v1/jobs/7777777/logs", NULL, 404, "not_found");
    expect_error("GET", "/v1/jobs/7777777/logs?follow=1", NULL, 404, "not_found");
    expect_error("GET", "/v1/jobs/7777777/metrics", NULL, 404, "not_found");
    expect_error("GET", "/v1/jobs/7777777/why", NULL, 404, "not_found");
    expect_error("POST", "/v1/jobs/7777777/cancel", NULL, 404, "not_found");
    expect_error("GET", "/v1/jobs/x", NULL, 400, "bad_id");
    expect_error("GET", "/v1/jobs/-1", NULL, 400, "bad_id");
    expect_error("GET", "/v1/jobs/99999999999999999999", NULL, 400, "bad_id");
    expect_error("GET", "/v1/jobs/1%00", NULL, 400, "bad_id");
    expect_error("DELETE", "/v1/jobs/1", NULL, 405, "method_not_allowed");
    expect_error("PUT", "/v1/jobs", "{}", 405, "method_not_allowed");
    expect_error("GET", "/v1/jobs?limit=0", NULL, 400, "bad_query");
    expect_error("GET", "/v1/jobs?limit=x", NULL, 400, "bad_query");
    expect_error("GET", "/v1/jobs?cursor='%20OR%201=1", NULL, 400, "bad_query");
    expect_error("GET", "/v1/jobs?state=RUNING", NULL, 400, "bad_query");
    expect_error("GET", "/v1/jobs/1/logs?follow=7", NULL, 400, "bad_query");
    expect_error("GET", "/v1/jobs/1/metrics?limit=0", NULL, 400, "bad_query");
    expect_error("POST", "/v1/jobs", "", 400, "bad_json");
    expect_error("POST", "/v1/jobs", "{", 400, "bad_json");
    expect_error("POST", "/v1/jobs", "[]", 400, "bad_json");
    expect_error("POST", "/v1/jobs", "{\"a\":1,\"a\":2}", 400, "bad_json");
    expect_error("POST", "/v1/jobs", "{\"spec\":{\"kind\":\"\\u0000\"}}", 400, "bad_json");
    expect_error("POST", "/v1/jobs", "{\"spec_text\":7}", 400, "bad_spec");
    expect_error("POST", "/v1/jobs", "{\"spec\":[]}", 400, "bad_spec");
    expect_error("POST", "/v1/batches", "{}", 501, "not_available");
    expect_error("POST", "/v1/files", "{}", 501, "not_available");
    expect_error("GET", "/v1/batches/batch_1", NULL, 404, "not_found");
    expect_error("GET", "/v1/files/file-1", NULL, 404, "not_found");
    expect_error("DELETE", "/v1/files/file-1", NULL, 404, "not_found");
    expect_error("GET", "/v1/runs?kind=trian", NULL, 400, "bad_query");
    expect_error("GET", "/v1/runs/7", NULL, 404, "not_found");
    expect_error("GET", "/v1/checkpoints?state=GONE", NULL, 400, "bad_query");
    expect_error("POST", "/v1/checkpoints/7/remove", NULL, 404, "not_found");
    expect_error("POST", "/v1/tokens", "{}", 400, "bad_token");
    expect_error("POST", "/v1/tokens", "{\"usr\":\"a\"}", 400, "bad_token");
    expect_error("POST", "/v1/tokens", "{\"user\":\"a\",\"role\":\"boss\"}", 400, "bad_token");
    expect_error("POST", "/v1/tokens", "{\"user\":\"a\",\"team\":\"nobody's\"}", 400, "bad_token");
    expect_error("POST", "/v1/tokens", "{\"user\":\"a\",\"days\":-1}", 400, "bad_token");
    expect_error("DELETE", "/v1/tokens/77", NULL, 404, "not_found");
    expect_error("GET", "/v1/audit?limit=0", NULL, 400, "bad_query");
    char deep[400] = "{\"spec\":";
    memset(deep + 8, '[', 200);
    expect_error("POST", "/v1/jobs", deep, 400, "bad_json");
}

static const json_t *detail(const json_t *e, const char *path) {
    size_t i;
    json_t *d;
    json_array_foreach(json_object_get(e, "details"), i, d) {
        if (strcmp(text_of(d, "path"), path) == 0) return d;
    }
    fail_msg("no detail for %s", path);
    return NULL;
}

static void every_error_of_a_spec_at_once_with_its_line(void **state) {
    (void)state;
    char *text;
    int status = mull_http_do(f.sock, "POST", "/v1/jobs", "application/yaml",
                              "kind: generate\nmodle: /m\nprompt: hi\nsampling:\n  temprature: 1\n  top_p: 7\n", &text);
    assert_int_equal(status, 400);
    json_t *j = json_loads(text, 0, NULL), *e = error_of(j, "bad_spec");
    free(text);
    assert_int_equal(json_integer_value(json_object_get(detail(e, "modle"), "line")), 2);
    assert_string_equal(text_of(detail(e, "modle"), "did_you_mean"), "model");
    assert_int_equal(json_integer_value(json_object_get(detail(e, "sampling.temprature"), "line")), 5);
    assert_string_equal(text_of(detail(e, "sampling.temprature"), "did_you_mean"), "temperature");
    assert_int_equal(json_integer_value(json_object_get(detail(e, "sampling.top_p"), "line")), 6);
    detail(e, "model"); /* is missing */
    json_decref(j);
}

static void files_are_looked_for_at_submit(void **state) {
    (void)state;
    char body[1000], path[128];
    snprintf(path, sizeof path, "%s/rows.jsonl", f.s.dir);
    fclose(fopen(path, "w"));
    snprintf(body, sizeof body, "kind: annotate\nmodel: %s\ninput: %s/rwos.jsonl\nout: %s/x\n", f.s.dir, f.s.dir, path);
    char *text;
    assert_int_equal(mull_http_do(f.sock, "POST", "/v1/jobs", "text/yaml; charset=utf-8", body, &text), 400);
    json_t *j = json_loads(text, 0, NULL), *e = error_of(j, "bad_spec");
    free(text);
    assert_non_null(strstr(text_of(detail(e, "model"), "message"), "config.json"));
    assert_int_equal(json_integer_value(json_object_get(detail(e, "model"), "line")), 2);
    assert_string_equal(text_of(detail(e, "input"), "did_you_mean"), "rows.jsonl");
    assert_non_null(strstr(text_of(detail(e, "out"), "message"), "folder"));
    json_decref(j);
    snprintf(body, sizeof body, "kind: annotate\nmodel: %s\ninput: %s\nout: %s/new/folder\nhold: true\n", f.model, path,
             f.s.dir);
    assert_int_equal(mull_http_do(f.sock, "POST", "/v1/jobs", "application/yaml", body, NULL), 201);
    snprintf(body, sizeof body,
             "{\"kind\":\"generate\",\"model\":\"%s\",\"prompt\":\"p\",\"images\":[\"%s\",\"/no/such\"]}", f.model,
             path);
    int status;
    j = mull_http_json(f.sock, "POST", "/v1/jobs", body, &status);
    assert_int_equal(status, 400);
    detail(error_of(j, "bad_spec"), "images[1]");
    json_decref(j);
}

static void the_same_key_is_the_same_job(void **state) {
    (void)state;
    char body[400];
    int status;
    snprintf(body, sizeof body,
             "{\"kind\":\"generate\",\"model\":\"%s\",\"prompt\":\"p\",\"key\":\"once\",\"hold\":true}", f.model);
    json_t *a = mull_http_json(f.sock, "POST", "/v1/jobs", body, &status);
    assert_int_equal(status, 201);
    json_t *b = mull_http_json(f.sock, "POST", "/v1/jobs", body, &status);
    assert_int_equal(status, 200);
    assert_string_equal(text_of(a, "id"), text_of(b, "id"));
    json_decref(a);
    json_decref(b);
    /* The header is the same thing. */
    char request[1000], out[4000];
    snprintf(body, sizeof body, "{\"kind\":\"generate\",\"model\":\"%s\",\"prompt\":\"p\",\"hold\":true}", f.model);
    snprintf(request, sizeof request,
             "POST /v1/jobs HTTP/1.1\r\nHost: x\r\nConnection: close\r\nIdempotency-Key: once\r\nContent-Length: "
             "%zu\r\n\r\n%s",
             strlen(body), body);
    mull_raw(f.sock, request, strlen(request), out, sizeof out, 10000);
    assert_non_null(strstr(out, "HTTP/1.1 200"));
}

static void pages_hold_every_job_once(void **state) {
    (void)state;
    long long first = flow_submit(&f, ",\"hold\":true,\"team\":\"pages\"");
    for (int i = 1; i < 25; i++) flow_submit(&f, ",\"hold\":true,\"team\":\"pages\"");
    char target[100] = "/v1/jobs?team=pages&limit=10";
    long long last = INT64_MAX;
    int n = 0, pages = 0;
    for (;;) {
        json_t *j = flow_get(&f, target), *job;
        size_t i;
        json_array_foreach(json_object_get(j, "jobs"), i, job) {
            long long id = atoll(text_of(job, "id"));
            assert_true(id < last); /* newest first, none twice */
            last = id;
            n++;
        }
        pages++;
        snprintf(target, sizeof target, "/v1/jobs?team=pages&limit=10&cursor=%s", text_of(j, "next_cursor"));
        bool more = json_is_string(json_object_get(j, "next_cursor"));
        json_decref(j);
        if (!more) break;
    }
    assert_int_equal(n, 25);
    assert_int_equal(pages, 3);
    assert_true(last == first);
    json_t *j = flow_get(&f, "/v1/jobs?state=RUNNING&team=pages");
    assert_int_equal(json_array_size(json_object_get(j, "jobs")), 0);
    json_decref(j);
}

/* Answers what the description says: each operation is asked for, its status must be one that is described. */
static void the_description_is_true(void **state) {
    (void)state;
    json_t *api = flow_get(&f, "/v1/openapi.json");
    long long id = flow_submit(&f, ",\"hold\":true");
    const char *path, *method;
    json_t *item, *op;
    int n = 0;
    json_object_foreach(json_object_get(api, "paths"), path, item) {
        json_object_foreach(item, method, op) {
            char target[200], want[8] = "";
            const char *brace = strstr(path, "{id}");
            snprintf(target, sizeof target, "%.*s", brace ? (int)(brace - path) : 100, path);
            if (brace) sprintf(target + strlen(target), "%lld%s", id, brace + 4);
            const char *status;
            json_t *r;
            json_object_foreach(json_object_get(op, "responses"), status, r) {
                if (strcmp(status, "default") != 0) snprintf(want, sizeof want, "%s", status);
            }
            if (strstr(path, "{name}") || strstr(path, "{id}/files")) continue; /* those have tests of their own */
            if (strstr(target, "release") || strstr(target, "requeue") || strcmp(method, "get") != 0) continue;
            char *text;
            int got = mull_http_do(f.sock, "GET", target, NULL, NULL, &text);
            if (got != atoi(want) && got != 404) print_error("GET %s: %d, described as %s\n", target, got, want);
            bool none = !strncmp(target, "/v1/runs/", 9) || !strncmp(target, "/v1/checkpoints/", 16) ||
                        !strncmp(target, "/v1/webhooks/", 13);
            assert_int_equal(got, none ? 404 : atoi(want)); /* a held job has none; they have tests of their own */
            free(text);
            n++;
        }
    }
    assert_true(n >= 10);
    json_decref(api);
    assert_int_equal(flow_act(&f, id, "release"), 200);
    assert_int_equal(flow_act(&f, id, "hold"), 200);
    assert_int_equal(flow_act(&f, id, "cancel"), 200);
    assert_int_equal(flow_act(&f, id, "requeue"), 200);
    assert_int_equal(flow_act(&f, id, "cancel"), 200);
    assert_int_equal(flow_act(&f, id, "cancel"), 200); /* again does no harm */
    assert_int_equal(flow_act(&f, id, "hold"), 409);
}

static void openmetrics_form(void **state) {
    (void)state;
    char *text;
    assert_int_equal(mull_http_do(f.sock, "GET", "/metrics", NULL, NULL, &text), 200);
    size_t len = strlen(text);
    assert_true(len > 6 && strcmp(text + len - 6, "# EOF\n") == 0);
    for (char *save, *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        if (line[0] == '#') continue;
        char name[100], rest[100];
        double v;
        assert_int_equal(sscanf(line, "%99[a-z_]%99[^ ] %lf", name, rest, &v) >= 2 ||
                             sscanf(line, "%99[a-z_] %lf", name, &v) == 2,
                         1);
        assert_true(strncmp(name, "mull_", 5) == 0);
    }
    free(text);
}

static void malformed_requests_are_refused_and_hurt_nobody(void **state) {
    (void)state;
    /* A refusal is a 4xx or a closed connection; the next request is served. */
    static const char *const bad[] = {
        "\r\n\r\n",
        "GET\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "GET /healthz HTTP/1.1\r\n\r\n", /* without Host */
        "POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        "POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        "POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n",
        "POST /v1/jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "POST /v1/jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        "\x16\x03\x01\x02\x01\x01\xfc\x03\x03",
        "GET /%zz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        "get /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        "GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        "GET /v1/jobs/1/../2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char out[4000];
        int status = 0;
        int fd = mull_dial(f.sock);
        assert_true(fd >= 0);
        close(fd);
        mull_raw(f.sock, bad[i], strlen(bad[i]), out, sizeof out, 300);
        sscanf(out, "HTTP/1.%*d %d", &status);
        if (status != 0 && (status < 400 || status > 499) && status != 505) fail_msg("%s: %d", bad[i], status);
        assert_int_equal(mull_http_do(f.sock, "GET", "/healthz", NULL, NULL, NULL), 200);
    }
}

static void sizes_are_limited(void **state) {
    (void)state;
    char *big = malloc(BIG + 1000);
    /* A declared length over the limit, before a byte of it is sent. */
    assert_int_equal(
        status_text("POST /v1/jobs HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 8388609\r\n\r\n"), 413);
    /* The same without a declaration. */
    int n = sprintf(
        big, "POST /v1/jobs HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n", BIG);
    memset(big + n, 'x', BIG);
    strcpy(big + n + BIG, "\r\n0\r\n\r\n");
    assert_int_equal(status_of(big, (size_t)n + BIG + 7), 413);
    /* Headers. */
    n = sprintf(big, "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Long: ");
    memset(big + n, 'h', 18000);
    strcpy(big + n + 18000, "\r\n\r\n");
    int status = status_text(big);
    assert_true(status == 431 || status == 413 || status == 414);
    n = sprintf(big, "GET /");
    memset(big + n, 'u', 60000);
    strcpy(big + n + 60000, " HTTP/1.1\r\nHost: x\r\n\r\n");
    status = status_text(big);
    assert_true(status == 414 || status == 431 || status == 413);
    /* A spec over 4 MiB inside a body within the limit. */
    n = sprintf(big, "{\"spec_text\":\"prompt: ");
    memset(big + n, 'p', 5 << 20);
    strcpy(big + n + (5 << 20), "\"}");
    int got;
    json_t *j = mull_http_json(f.sock, "POST", "/v1/jobs", big, &got);
    assert_int_equal(got, 400);
    error_of(j, "bad_spec");
    json_decref(j);
    free(big);
    assert_int_equal(mull_http_do(f.sock, "GET", "/healthz", NULL, NULL, NULL), 200);
}

static void bytes_that_trickle_and_requests_that_follow_each_other(void **state) {
    (void)state;
    /* One byte at a time. */
    const char *r = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    int fd = mull_dial(f.sock);
    for (const char *p = r; *p; p++) {
        assert_int_equal(send(fd, p, 1, MSG_NOSIGNAL), 1);
        mull_sleep_ms(1);
    }
    char out[4000];
    ssize_t k = recv(fd, out, sizeof out - 1, 0);
    assert_true(k > 12 && memcmp(out, "HTTP/1.1 200", 12) == 0);
    close(fd);
    /* Three in one packet: three answers, in order. */
    const char *three = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /v1/jobs?limit=1 HTTP/1.1\r\nHost: x\r\n\r\n"
                        "GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    mull_raw(f.sock, three, strlen(three), out, sizeof out, 5000);
    char *a = strstr(out, "HTTP/1.1 200"), *b = a ? strstr(a + 5, "HTTP/1.1 200") : NULL;
    assert_non_null(b);
    assert_non_null(strstr(b + 5, "HTTP/1.1 404"));
    /* Half a request and gone, many times. */
    const char *half = "POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{\"spec\"";
    for (int i = 0; i < 200; i++) {
        fd = mull_dial(f.sock);
        assert_true(fd >= 0);
        send(fd, half, strlen(half), MSG_NOSIGNAL);
        close(fd);
    }
    /* A whole submit and gone before the answer: it is committed or not, but nobody is hurt. */
    for (int i = 0; i < 50; i++) {
        char body[300], request[500];
        snprintf(body, sizeof body, "{\"kind\":\"generate\",\"model\":\"%s\",\"prompt\":\"p\",\"hold\":true}", f.model);
        snprintf(request, sizeof request, "POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n%s",
                 strlen(body), body);
        fd = mull_dial(f.sock);
        send(fd, request, strlen(request), MSG_NOSIGNAL);
        close(fd);
    }
    assert_int_equal(mull_http_do(f.sock, "GET", "/healthz", NULL, NULL, NULL), 200);
}

static void logs_are_followed_to_the_end(void **state) {
    (void)state;
    by_hand w;
    worker_hello(&w, &f, "n1", "boot-sse", 1);
    long long id = flow_submit(&f, "");
    attempt a = begin_next(&w);
    assert_int_equal(a.job, id);
    say_of(&w, &a, "log", "\"rank\":0,\"stream\":\"stdout\",\"lines\":[\"early\"]");
    char request[200], out[20000];
    snprintf(request, sizeof request, "GET /v1/jobs/%lld/logs?follow=1 HTTP/1.1\r\nHost: x\r\n\r\n", id);
    int fd = mull_dial(f.sock), gone = mull_dial(f.sock);
    assert_true(send(fd, request, strlen(request), MSG_NOSIGNAL) > 0);
    assert_true(send(gone, request, strlen(request), MSG_NOSIGNAL) > 0);
    mull_sleep_ms(300);
    close(gone); /* a follower that leaves does not matter to the other */
    say_of(&w, &a, "log", "\"rank\":0,\"stream\":\"stdout\",\"lines\":[\"late\\nwith a newline\"]");
    mull_sleep_ms(100);
    end_attempt(&w, &a, "ok", 0);
    size_t n = 0;
    for (ssize_t k; (k = recv(fd, out + n, sizeof out - 1 - n, 0)) > 0;) {
        n += (size_t)k;
        out[n] = 0;
        if (strstr(out, "event: end")) break;
    }
    close(fd);
    assert_non_null(strstr(out, "text/event-stream"));
    char *early = strstr(out, "\"early\""), *late = strstr(out, "late\\nwith a newline"),
         *end = strstr(out, "event: end");
    assert_true(early && late && end && early < late && late < end);
    assert_non_null(strstr(end, "\"COMPLETED\""));
}

static void a_token_is_needed_over_tcp_and_speaks_for_its_team(void **state) {
    (void)state;
    /* sha256("secret-a") and so on, as the database stores them. */
    free(mull_sql(f.pg, "INSERT INTO team (name) VALUES ('red'), ('blue') ON CONFLICT DO NOTHING"));
    free(mull_sql(f.pg, "INSERT INTO app_user (name) VALUES ('ann') ON CONFLICT DO NOTHING"));
    free(mull_sql(f.pg, "INSERT INTO token (hash, \"user\", team, role, expires_at, revoked_at) VALUES "
                        "(encode(sha256('member'), 'hex'), 'ann', 'red', 'member', NULL, NULL), "
                        "(encode(sha256('viewer'), 'hex'), 'ann', 'red', 'viewer', NULL, NULL), "
                        "(encode(sha256('expired'), 'hex'), 'ann', 'red', 'member', now() - interval '1 s', NULL), "
                        "(encode(sha256('revoked'), 'hex'), 'ann', 'red', 'member', NULL, now())"));
    /* A second scheduler on TCP, on any free port; its log says which. */
    char log[128], line[500] = "", request[1000], out[20000];
    int port = 0;
    snprintf(log, sizeof log, "%s/tcp.log", f.s.dir);
    const char *argv[] = {MULL_BIN_DIR "/mull-scheduler",
                          "serve",
                          "--pg",
                          f.pg,
                          "--redis",
                          f.s.redis_addr,
                          "--listen",
                          "tcp:127.0.0.1:0",
                          "--name",
                          "tcp",
                          NULL};
    pid_t pid = mull_spawn(log, argv);
    for (int i = 0; i < 500 && !port; i++) {
        FILE *in = fopen(log, "r");
        while (in && fgets(line, sizeof line, in))
            if (strstr(line, "tcp:127.0.0.1:")) sscanf(strstr(line, "tcp:127.0.0.1:"), "tcp:127.0.0.1:%d", &port);
        if (in) fclose(in);
        mull_sleep_ms(10);
    }
    assert_true(port > 0);
    /* One made through the socket is good, and no longer after its revocation. */
    int made;
    json_t *t = mull_http_json(f.sock, "POST", "/v1/tokens",
                               "{\"user\":\"eve\",\"team\":\"red\",\"role\":\"admin\",\"days\":1}", &made);
    assert_int_equal(made, 201);
    char eve[100], path[64];
    snprintf(eve, sizeof eve, "%s", text_of(t, "token"));
    snprintf(path, sizeof path, "/v1/tokens/%s", text_of(t, "id"));
    json_decref(t);
    assert_int_equal(strncmp(eve, "mull_", 5), 0);
    char *kept = mull_sql(f.pg, "SELECT string_agg(hash || note, '') FROM token");
    assert_null(strstr(kept, eve + 5));
    free(kept);
    struct {
        const char *token, *method, *target, *body;
        int status;
    } cases[] = {
        {NULL, "GET", "/healthz", NULL, 200},
        {NULL, "GET", "/v1/jobs", NULL, 401},
        {"nobody", "GET", "/v1/jobs", NULL, 401},
        {"expired", "GET", "/v1/jobs", NULL, 401},
        {"revoked", "GET", "/v1/jobs", NULL, 401},
        {"viewer", "GET", "/v1/jobs", NULL, 200},
        {"viewer", "POST", "/v1/jobs", "", 403},
        {"viewer", "GET", "/v1/jobs?team=blue", NULL, 403},
        {"member", "POST", "/v1/jobs", ",\"team\":\"blue\"", 403},
        {"member", "POST", "/v1/jobs", ",\"after\":\"afterok:1\"", 400}, /* job 1 is another team's */
        {"member", "POST", "/v1/jobs", "", 201},
        {NULL, "GET", "/", NULL, 200},
        {NULL, "GET", "/dashboard.js", NULL, 200},
        {NULL, "GET", "/v1/whoami", NULL, 401},
        {eve, "GET", "/v1/whoami", NULL, 200},
        {eve, "GET", "/v1/jobs?team=blue", NULL, 200}, /* an admin's is for every team */
        {"member", "GET", "/v1/users", NULL, 403},
        {"member", "GET", "/v1/audit", NULL, 403},
        {"viewer", "DELETE", path, NULL, 404}, /* somebody else's */
        {eve, "DELETE", path, NULL, 200},
        {eve, "GET", "/v1/whoami", NULL, 401},
        {"member", "GET", "/v1/jobs/1", NULL, 404},
        {"member", "POST", "/v1/jobs/1/cancel", NULL, 404},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char body[400] = "", auth[100] = "";
        if (cases[i].token) snprintf(auth, sizeof auth, "Authorization: Bearer %s\r\n", cases[i].token);
        if (cases[i].body)
            snprintf(body, sizeof body, "{\"kind\":\"generate\",\"model\":\"%s\",\"prompt\":\"p\",\"hold\":true%s}",
                     f.model, cases[i].body);
        snprintf(request, sizeof request,
                 "%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%sContent-Length: %zu\r\n\r\n%s", cases[i].method,
                 cases[i].target, auth, strlen(body), body);
        int fd = mull_dial_tcp(port), status = 0;
        assert_true(fd >= 0);
        send(fd, request, strlen(request), MSG_NOSIGNAL);
        size_t n = 0;
        for (ssize_t k; n < sizeof out - 1 && (k = recv(fd, out + n, sizeof out - 1 - n, 0)) > 0;) n += (size_t)k;
        out[n] = 0;
        close(fd);
        sscanf(out, "HTTP/1.%*d %d", &status);
        if (status != cases[i].status)
            print_error("%s %s %s: %s\n", cases[i].token, cases[i].method, cases[i].target, out);
        assert_int_equal(status, cases[i].status);
    }
    assert_int_equal(mull_sql_int(f.pg, "SELECT count(*) FROM job WHERE team = 'red' AND \"user\" = 'ann'"), 1);
    assert_int_equal(mull_reap(pid, SIGTERM), 0);
}

static void a_second_scheduler_on_the_same_socket_is_refused(void **state) {
    (void)state;
    assert_int_equal(mull_reap(flow_serve_as(&f, f.sock, "other"), 0), 1);
    assert_int_equal(mull_http_do(f.sock, "GET", "/healthz", NULL, NULL, NULL), 200);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors_have_one_form),
        cmocka_unit_test(every_error_of_a_spec_at_once_with_its_line),
        cmocka_unit_test(files_are_looked_for_at_submit),
        cmocka_unit_test(the_same_key_is_the_same_job),
        cmocka_unit_test(pages_hold_every_job_once),
        cmocka_unit_test(the_description_is_true),
        cmocka_unit_test(openmetrics_form),
        cmocka_unit_test(malformed_requests_are_refused_and_hurt_nobody),
        cmocka_unit_test(sizes_are_limited),
        cmocka_unit_test(bytes_that_trickle_and_requests_that_follow_each_other),
        cmocka_unit_test(logs_are_followed_to_the_end),
        cmocka_unit_test(a_token_is_needed_over_tcp_and_speaks_for_its_team),
        cmocka_unit_test(a_second_scheduler_on_the_same_socket_is_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
