/* A model behind HTTP, as a job through the queue and by hand, spoken to with plain sockets: whole answers and streams
 * that agree, errors in OpenAI's shape, limits, clients that go away, an end in order. */
#include "tests/support/run.h"
#include "tests/support/servers.h"

#include "tests/support/check.h"
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MULL MULL_BIN_DIR "/mull"
#define RUN(...) mull_run_command((const char *const[]){MULL, __VA_ARGS__, NULL}, LIMIT_S)
enum { LIMIT_S = 240 };
static const char CHAT[] = "/v1/chat/completions";

static char *folder, model[300], sock[320], log_path[300];
static pid_t server;

static bool answers(void *path) {
    return mull_http_do(path, "GET", "/healthz", NULL, NULL, NULL) == 200;
}

static pid_t serve(const char *path, const char *more, const char *value) {
    char listen[400];
    snprintf(listen, sizeof listen, "unix:%s", path);
    const char *argv[] = {
        MULL_BIN_DIR "/mull-engine", "serve", "--model", model, "--listen", listen, more, value, NULL};
    pid_t pid = mull_spawn(log_path, argv);
    if (!mull_wait_for(answers, (void *)(uintptr_t)path, 60000)) fail_msg("%s does not answer", path);
    return pid;
}

static int start(void **state) {
    (void)state;
    folder = mull_temp_folder("serve");
    snprintf(model, sizeof model, "%s/tiny", folder);
    snprintf(sock, sizeof sock, "%s/s", folder);
    snprintf(log_path, sizeof log_path, "%s/log", folder);
    free(mull_run_ok(
        (const char *const[]){MULL_BIN_DIR "/mull-engine", "init", "--preset", "tiny", "--out", model, NULL}, LIMIT_S));
    server = serve(sock, "--media-root", MULL_TEST_DATA "/media");
    return 0;
}

static int stop(void **state) {
    (void)state;
    int status = mull_reap(server, SIGTERM);
    bool left = access(sock, F_OK) == 0;
    mull_tree_remove(folder);
    free(folder);
    if (status != 75 || left) print_error("the end: status %d, socket %s\n", status, left ? "left" : "gone");
    return status != 75 || left;
}

/* ---- the words of the tests */

static json_t *ask(const char *body, int want) {
    int status;
    json_t *o = mull_http_json(sock, "POST", CHAT, body, &status);
    if (status != want) fail_msg("%d, not %d: %s", status, want, json_dumps(o, JSON_ENCODE_ANY));
    return o;
}

static const char *text_at(const json_t *o, const char *a, size_t i, const char *b, const char *c) {
    const json_t *x = json_array_get(json_object_get(o, a), i);
    if (b) x = json_object_get(x, b);
    const char *s = json_string_value(json_object_get(x, c));
    return s ? s : "";
}

static void expect_error(const char *body, int status, const char *code) {
    json_t *o = ask(body, status), *e = json_object_get(o, "error");
    assert_string_equal(json_string_value(json_object_get(e, "code")), code);
    assert_true(json_string_length(json_object_get(e, "message")) > 0);
    assert_null(strstr(json_string_value(json_object_get(e, "message")), "the row"));
    assert_non_null(json_object_get(e, "param"));
    assert_string_equal(json_string_value(json_object_get(e, "type")),
                        status == 429 ? "rate_limit_error" : "invalid_request_error");
    json_decref(o);
}

/* A raw request that is answered until the server closes or limit_ms pass. */
static char *raw(const char *path, const char *body, int limit_ms) {
    enum { CAP = 1 << 20 };
    char *request = malloc(strlen(body) + 300), *out = malloc(CAP);
    sprintf(request,
            "POST %s HTTP/1.1\r\nHost: m\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: "
            "%zu\r\n\r\n%s",
            CHAT, strlen(body), body);
    mull_raw(path, request, strlen(request), out, CAP, limit_ms);
    free(request);
    return out;
}

/* The texts of a stream put together; counts its chunks and whether it ended with [DONE]. */
static char *streamed(const char *body, int *chunks, bool *done, json_int_t *usage) {
    char *out = raw(sock, body, 30000), *text = calloc(1, 1 << 16);
    assert_non_null(strstr(out, "text/event-stream"));
    *chunks = 0;
    *done = false;
    *usage = -1;
    for (char *at = out; (at = strstr(at, "data: "));) {
        at += 6;
        char *end = strstr(at, "\n\n");
        assert_non_null(end);
        if (!strncmp(at, "[DONE]", 6)) {
            *done = true;
            break;
        }
        json_t *o = json_loadb(at, (size_t)(end - at), 0, NULL);
        assert_non_null(o);
        assert_string_equal(json_string_value(json_object_get(o, "object")), "chat.completion.chunk");
        strcat(text, text_at(o, "choices", 0, "delta", "content"));
        const json_t *u = json_object_get(o, "usage");
        if (json_is_object(u)) *usage = json_integer_value(json_object_get(u, "completion_tokens"));
        ++*chunks;
        json_decref(o);
        at = end;
    }
    free(out);
    return text;
}

/* ---- the tests */

static void an_answer_whole_and_streamed(void **state) {
    (void)state;
    json_t *o =
        ask("{\"model\":\"tiny\",\"messages\":[{\"role\":\"user\",\"content\":\"Hello\"}],\"max_tokens\":12}", 200);
    assert_string_equal(json_string_value(json_object_get(o, "object")), "chat.completion");
    assert_string_equal(text_at(o, "choices", 0, "message", "role"), "assistant");
    assert_int_equal(json_integer_value(json_object_get(json_object_get(o, "usage"), "completion_tokens")), 12);
    assert_true(json_integer_value(json_object_get(o, "created")) > 1600000000);
    int chunks;
    bool done;
    json_int_t usage;
    char *text = streamed("{\"messages\":[{\"role\":\"user\",\"content\":\"Hello\"}],\"max_tokens\":12,\"stream\":true,"
                          "\"stream_options\":{\"include_usage\":true}}",
                          &chunks, &done, &usage);
    assert_string_equal(text, text_at(o, "choices", 0, "message", "content"));
    assert_true(done);
    assert_true(chunks >= 3);
    assert_int_equal(usage, 12);
    free(text);
    json_decref(o);
}

/* The same prompt as a row of an annotation gives the same text: one engine, one way to ask it. */
static void the_same_as_an_annotation(void **state) {
    (void)state;
    static const char ROW[] = "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{"
                              "\"url\":\"file://" MULL_TEST_DATA
                              "/media/shapes.png\"}},{\"type\":\"text\",\"text\":\"?\"}]}],\"max_tokens\":10,"
                              "\"temperature\":0.7,\"seed\":11}";
    char in[400], out[400], path[500];
    snprintf(in, sizeof in, "%s/row.jsonl", folder);
    snprintf(out, sizeof out, "%s/answers", folder);
    mull_write_file(in, ROW, strlen(ROW));
    free(mull_run_ok((const char *const[]){MULL_BIN_DIR "/mull-engine", "annotate", "--model", model, "--in", in,
                                           "--out", out, "--media-root", MULL_TEST_DATA "/media", NULL},
                     LIMIT_S));
    snprintf(path, sizeof path, "%s/output.jsonl", out);
    char *line = mull_slurp(path, NULL);
    json_t *row = json_loads(line, 0, NULL), *o = ask(ROW, 200);
    const json_t *body = json_object_get(json_object_get(row, "response"), "body");
    assert_true(strlen(text_at(body, "choices", 0, "message", "content")) > 0);
    assert_string_equal(text_at(o, "choices", 0, "message", "content"),
                        text_at(body, "choices", 0, "message", "content"));
    assert_true(json_equal(json_object_get(o, "usage"), json_object_get(body, "usage")));
    json_decref(o);
    json_decref(row);
    free(line);
}

static void errors_in_their_shape(void **state) {
    (void)state;
    expect_error("", 400, "invalid_json");
    expect_error("[]", 400, "invalid_json");
    expect_error("{\"messages\":", 400, "invalid_json");
    expect_error("{}", 400, "invalid_request");
    expect_error("{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"stream\":\"yes\"}", 400, "invalid_request");
    expect_error("{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"stream_options\":{}}", 400,
                 "invalid_request");
    expect_error("{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"n\":1000}", 400, "invalid_request");
    expect_error("{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"tools\":[{}]}", 400, "unsupported");
    /* OpenAI's bounds, and words that mean nothing where something of another kind belongs */
    expect_error("{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"temperature\":2.5}", 400, "invalid_request");
    expect_error("{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"stop\":[\"a\",\"b\",\"c\",\"d\",\"e\"]}", 400,
                 "invalid_request");
    expect_error("{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"frequency_penalty\":\"x\"}", 400,
                 "unsupported");
    json_decref(
        ask("{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"max_tokens\":1,\"temperature\":2,\"stop\":[\"a\","
            "\"b\",\"c\",\"d\"],\"frequency_penalty\":0,\"logit_bias\":{},\"tools\":[],\"logprobs\":false}",
            200));
    expect_error("{\"model\":\"other\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}", 404, "model_not_found");
    expect_error("{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image\",\"image\":\"/etc/passwd\"}]}]}",
                 400, "invalid_media");
    expect_error(
        "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image\",\"image\":\"data:image/png;base64,AA"
        "\"}]}],\"stream\":true}",
        400, "invalid_media");
    size_t n = 400000;
    char *big = malloc(n + 200);
    sprintf(big, "{\"messages\":[{\"role\":\"user\",\"content\":\"");
    size_t at = strlen(big);
    memset(big + at, 'x', n);
    strcpy(big + at + n, "\"}]}");
    expect_error(big, 400, "context_length_exceeded");
    free(big);
    assert_int_equal(mull_http_do(sock, "GET", CHAT, NULL, NULL, NULL), 405);
    assert_int_equal(mull_http_do(sock, "POST", "/v1/models", NULL, "{}", NULL), 405);
    assert_int_equal(mull_http_do(sock, "DELETE", "/v1/models", NULL, NULL, NULL), 404);
    assert_int_equal(mull_http_do(sock, "GET", "/v1/models/tiny", NULL, NULL, NULL), 200);
    assert_int_equal(mull_http_do(sock, "GET", "/v1/models/x", NULL, NULL, NULL), 404);
    assert_int_equal(mull_http_do(sock, "GET", "/nothing", NULL, NULL, NULL), 404);
}

static const char ENDLESS[] =
    "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"max_tokens\":100000,\"ignore_eos\":true,"
    "\"stream\":%s}";

/* One that waits and one that reads go away in the middle: the engine has room again. One place, no queue. */
static void clients_that_go_away(void **state) {
    (void)state;
    char path[330], body[300];
    snprintf(path, sizeof path, "%s/one", folder);
    char listen[400];
    snprintf(listen, sizeof listen, "unix:%s", path);
    const char *argv[] = {MULL_BIN_DIR "/mull-engine",
                          "serve",
                          "--model",
                          model,
                          "--listen",
                          listen,
                          "--max-batch",
                          "1",
                          "--max-queue",
                          "0",
                          NULL};
    pid_t pid = mull_spawn(log_path, argv);
    assert_true(mull_wait_for(answers, path, 60000));
    static const char SHORT[] = "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"max_tokens\":2}";
    for (int i = 0; i < 2; i++) {
        snprintf(body, sizeof body, ENDLESS, i ? "true" : "false");
        char request[700];
        snprintf(request, sizeof request,
                 "POST %s HTTP/1.1\r\nHost: m\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s", CHAT,
                 strlen(body), body);
        int fd = mull_dial(path);
        assert_true(fd >= 0);
        assert_int_equal(send(fd, request, strlen(request), MSG_NOSIGNAL), (ssize_t)strlen(request));
        /* Until the other has its place. */
        int status = 200;
        for (int k = 0; k < 500 && status == 200; k++) status = mull_http_do(path, "POST", CHAT, NULL, SHORT, NULL);
        assert_int_equal(status, 429);
        close(fd);
        for (int k = 0; k < 200 && status != 200; k++) {
            mull_sleep_ms(50);
            status = mull_http_do(path, "POST", CHAT, NULL, SHORT, NULL);
        }
        assert_int_equal(status, 200);
    }
    /* Stopped with a stream under way: it ends all the same, after its grace. */
    snprintf(body, sizeof body, ENDLESS, "true");
    char request[700];
    snprintf(request, sizeof request,
             "POST %s HTTP/1.1\r\nHost: m\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s", CHAT,
             strlen(body), body);
    int fd = mull_dial(path);
    assert_true(fd >= 0);
    send(fd, request, strlen(request), MSG_NOSIGNAL);
    mull_sleep_ms(300);
    assert_int_equal(mull_reap(pid, SIGTERM), 75);
    close(fd);
}

static void keys(void **state) {
    (void)state;
    char path[330], file[330], request[400], out[4000];
    snprintf(path, sizeof path, "%s/keyed", folder);
    snprintf(file, sizeof file, "%s/keys", folder);
    mull_write_file(file, "# mine\nfirst-key\nsecond-key\n", 28);
    pid_t pid = serve(path, "--key-file", file);
    assert_int_equal(mull_http_do(path, "GET", "/v1/models", NULL, NULL, NULL), 401);
    static const char *const SENT[] = {"second-key", "second-ke", "second-key2", "# mine"};
    for (int i = 0; i < 4; i++) {
        snprintf(request, sizeof request,
                 "GET /v1/models HTTP/1.1\r\nHost: m\r\nConnection: close\r\nAuthorization: Bearer %s\r\n\r\n",
                 SENT[i]);
        mull_raw(path, request, strlen(request), out, sizeof out, 5000);
        assert_int_equal(atoi(out + 9), i ? 401 : 200);
    }
    assert_int_equal(mull_reap(pid, SIGTERM), 75);
    /* Others could reach it and there is no key: refused before the model is loaded. */
    mull_run r = mull_run_command(
        (const char *const[]){MULL_BIN_DIR "/mull-engine", "serve", "--model", model, "--listen", "0.0.0.0:0", NULL},
        30);
    assert_int_equal(r.status, 1);
    assert_non_null(strstr(r.err, "key file"));
    mull_run_fini(&r);
    char listen[400];
    snprintf(listen, sizeof listen, "unix:%s", sock);
    r = mull_run_command(
        (const char *const[]){MULL_BIN_DIR "/mull-engine", "serve", "--model", model, "--listen", listen, NULL}, 30);
    assert_int_equal(r.status, 1);
    assert_non_null(strstr(r.err, "another process answers"));
    mull_run_fini(&r);
}

static int free_port(void) {
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof sa;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof sa), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &n), 0);
    close(fd);
    return ntohs(sa.sin_port);
}

/* mull serve: a job that ps shows, that answers, and that mull cancel ends. */
static void as_a_job(void **state) {
    (void)state;
    if (access("/usr/bin/redis-server", X_OK) || access("/usr/lib/postgresql", X_OK)) skip();
    char dir[320], port[16], want[80];
    int number = free_port();
    snprintf(dir, sizeof dir, "%s/state", folder);
    snprintf(port, sizeof port, "%d", number);
    unsetenv("MULL_SERVER");
    setenv("MULL_STATE", dir, 1);
    json_decref(mull_run_json((const char *const[]){MULL, "up", "--devices", "cpu:1", "--json", NULL}, LIMIT_S));
    json_t *o = mull_run_json((const char *const[]){MULL, "serve", model, "--listen", port, "--json", NULL}, LIMIT_S);
    snprintf(want, sizeof want, "http://127.0.0.1:%d/v1", number);
    assert_string_equal(json_string_value(json_object_get(o, "url")), want);
    char id[32];
    snprintf(id, sizeof id, "%s", json_string_value(json_object_get(o, "id")));
    json_decref(o);
    int fd = mull_dial_tcp(number);
    assert_true(fd >= 0);
    static const char GET[] = "GET /v1/models HTTP/1.0\r\nHost: m\r\n\r\n";
    char out[2000] = "";
    send(fd, GET, strlen(GET), MSG_NOSIGNAL);
    for (size_t n = 0; n + 1 < sizeof out;) {
        ssize_t k = recv(fd, out + n, sizeof out - 1 - n, 0);
        if (k <= 0) break;
        n += (size_t)k;
    }
    close(fd);
    assert_non_null(strstr(out, "\"id\":\"tiny\""));
    mull_run r = RUN("cancel", id);
    assert_int_equal(r.status, 0);
    mull_run_fini(&r);
    r = RUN("wait", id, "--quiet");
    assert_int_equal(r.status, 3);
    mull_run_fini(&r);
    r = RUN("down");
    assert_int_equal(r.status, 0);
    mull_run_fini(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_answer_whole_and_streamed),
        cmocka_unit_test(the_same_as_an_annotation),
        cmocka_unit_test(errors_in_their_shape),
        cmocka_unit_test(clients_that_go_away),
        cmocka_unit_test(keys),
        cmocka_unit_test(as_a_job),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
