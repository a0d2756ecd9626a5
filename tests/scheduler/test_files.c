/* Files and batches in OpenAI's shapes, with real servers and a worker played by hand: uploads of any size and cut into
 * any pieces, what is refused, states and counts of a batch through its life, downloads, and who sees what. */
#include "tests/scheduler/flow.h"

#include <dirent.h>
#include <sys/socket.h>

enum { MIB = 1 << 20 };

static flow f;
static char files[96], models[96];

static void serve(void) {
    char listen[128];
    snprintf(listen, sizeof listen, "unix:%s", f.sock);
    const char *argv[] = {MULL_BIN_DIR "/mull-scheduler",
                          "serve",
                          "--pg",
                          f.pg,
                          "--redis",
                          f.s.redis_addr,
                          "--listen",
                          listen,
                          "--name",
                          "one",
                          "--files",
                          files,
                          "--max-upload",
                          "2",
                          "--models",
                          models,
                          NULL};
    f.scheduler = mull_spawn(f.log, argv);
    assert_true(mull_wait_for(flow_ready, f.sock, 20000));
}

static int start(void **state) {
    (void)state;
    char path[300];
    flow_prepare(&f, 0);
    snprintf(files, sizeof files, "%s/files", f.s.dir);
    snprintf(models, sizeof models, "%s/models", f.s.dir);
    mkdir(models, 0755);
    snprintf(path, sizeof path, "%s/small", models);
    assert_int_equal(symlink(f.model, path), 0);
    serve();
    return 0;
}

static int stop(void **state) {
    (void)state;
    flow_stop(&f);
    return 0;
}

/* ---- the words of the tests */

static const char BOUNDARY[] = "xYzZY";

/* A form with purpose and one file of n bytes; malloc'ed, its length in *len. */
static char *form(const char *purpose, const char *name, const char *data, size_t n, size_t *len) {
    char *b = malloc(n + 1000);
    int k =
        sprintf(b,
                "--%s\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\n%s\r\n--%s\r\nContent-Disposition: "
                "form-data; name=\"file\"; filename=\"%s\"\r\nContent-Type: application/octet-stream\r\n\r\n",
                BOUNDARY, purpose, BOUNDARY, name);
    memcpy(b + k, data, n);
    k += (int)n;
    k += sprintf(b + k, "\r\n--%s--\r\n", BOUNDARY);
    *len = (size_t)k;
    return b;
}

/* Sends head and body with pauses between pieces (0: in one go); the status, the body's JSON in *out. */
static int post(const char *head, const char *body, size_t len, size_t piece, json_t **out) {
    int fd = mull_dial(f.sock), status = 0;
    char reply[65536];
    size_t n = 0;
    assert_true(fd >= 0);
    assert_int_equal(send(fd, head, strlen(head), MSG_NOSIGNAL), (ssize_t)strlen(head));
    for (size_t at = 0; at < len;) {
        size_t k = piece && piece < len - at ? piece : len - at;
        ssize_t w = send(fd, body + at, k, MSG_NOSIGNAL);
        if (w <= 0) break; /* refused in the middle */
        at += (size_t)w;
        if (piece) mull_sleep_ms(1);
    }
    for (ssize_t r; n + 1 < sizeof reply && (r = recv(fd, reply + n, sizeof reply - 1 - n, 0)) > 0;) n += (size_t)r;
    reply[n] = 0;
    close(fd);
    if (sscanf(reply, "HTTP/1.%*d %d", &status) != 1) status = 0;
    char *text = strstr(reply, "\r\n\r\n");
    if (out) *out = text ? json_loads(text + 4, 0, NULL) : NULL;
    return status;
}

static int upload(const char *purpose, const char *name, const char *data, size_t n, size_t piece, json_t **out) {
    char head[400];
    size_t len;
    char *b = form(purpose, name, data, n, &len);
    snprintf(head, sizeof head,
             "POST /v1/files HTTP/1.1\r\nHost: mull\r\nConnection: close\r\nContent-Type: multipart/form-data; "
             "boundary=%s\r\nContent-Length: %zu\r\n\r\n",
             BOUNDARY, len);
    int status = post(head, b, len, piece, out);
    free(b);
    return status;
}

static char *upload_ok(const char *data, size_t n, size_t piece) {
    json_t *o;
    int status = upload("batch", "rows.jsonl", data, n, piece, &o);
    if (status != 200) fail_msg("upload: %d", status);
    assert_string_equal(text_of(o, "object"), "file");
    assert_string_equal(text_of(o, "purpose"), "batch");
    assert_string_equal(text_of(o, "filename"), "rows.jsonl");
    assert_string_equal(text_of(o, "status"), "processed");
    assert_int_equal(json_integer_value(json_object_get(o, "bytes")), n);
    char *id = strdup(text_of(o, "id"));
    assert_int_equal(strncmp(id, "file-", 5), 0);
    json_decref(o);
    return id;
}

/* The bytes that a file's content holds. */
static char *content(const char *id, size_t *len) {
    enum { CAP = 4 * MIB };
    char request[200], *out = malloc(CAP);
    snprintf(request, sizeof request, "GET /v1/files/%s/content HTTP/1.0\r\nHost: mull\r\n\r\n", id);
    size_t n = mull_raw(f.sock, request, strlen(request), out, CAP, 20000);
    char *text = strstr(out, "\r\n\r\n");
    assert_non_null(text);
    assert_int_equal(strncmp(out + 9, "200", 3), 0);
    *len = n - (size_t)(text + 4 - out);
    memmove(out, text + 4, *len + 1);
    return out;
}

static size_t temporaries(void) {
    char path[200];
    snprintf(path, sizeof path, "%s/default", files);
    DIR *d = opendir(path);
    size_t n = 0;
    for (struct dirent *e; d && (e = readdir(d));) n += strstr(e->d_name, ".tmp") != NULL;
    if (d) closedir(d);
    return n;
}
static bool no_temporaries(void *arg) {
    (void)arg;
    return temporaries() == 0;
}

static int act(const char *method, const char *path, const char *id, const char *more) {
    char target[200];
    snprintf(target, sizeof target, "%s%s%s", path, id, more);
    return mull_http_do(f.sock, method, target, NULL, NULL, NULL);
}

/* ---- uploads */

static void sizes_and_pieces(void **state) {
    (void)state;
    static const size_t SIZES[] = {0, 1, 4095, 100000, 262144, 700001, 2 * MIB};
    for (size_t i = 0; i < sizeof SIZES / sizeof *SIZES; i++) {
        char *data = malloc(SIZES[i] + 1);
        size_t len;
        for (size_t k = 0; k < SIZES[i]; k++) data[k] = (char)(k * 2654435761u >> 13); /* NUL, CR, LF, dashes too */
        char *id = upload_ok(data, SIZES[i], i % 2 ? 7777 : 0), *back = content(id, &len);
        assert_int_equal(len, SIZES[i]);
        assert_memory_equal(back, data, len);
        assert_int_equal(act("DELETE", "/v1/files/", id, ""), 200);
        assert_int_equal(act("GET", "/v1/files/", id, "/content"), 404);
        assert_int_equal(act("DELETE", "/v1/files/", id, ""), 404);
        free(back);
        free(id);
        free(data);
    }
}

static void what_is_refused(void **state) {
    (void)state;
    json_t *o;
    char *big = calloc(1, 3 * MIB);
    assert_int_equal(upload("batch", "x", big, 3 * MIB, 0, &o), 413);
    json_decref(o);
    assert_int_equal(upload("nonsense", "x", "a", 1, 0, &o), 400);
    assert_string_equal(text_of(json_object_get(o, "error"), "code"), "bad_purpose");
    assert_string_equal(text_of(json_object_get(o, "error"), "type"), "invalid_request_error");
    json_decref(o);
    const char none[] = "--xYzZY\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--xYzZY--\r\n";
    char head[300];
    snprintf(head, sizeof head,
             "POST /v1/files HTTP/1.1\r\nHost: m\r\nConnection: close\r\nContent-Type: multipart/form-data; "
             "boundary=xYzZY\r\nContent-Length: %zu\r\n\r\n",
             strlen(none));
    assert_int_equal(post(head, none, strlen(none), 0, &o), 400);
    assert_string_equal(text_of(json_object_get(o, "error"), "code"), "missing_file");
    json_decref(o);
    assert_int_equal(mull_http_do(f.sock, "POST", "/v1/files", "application/json", "{}", NULL), 400);
    assert_int_equal(mull_http_do(f.sock, "GET", "/v1/files/file-0", NULL, NULL, NULL), 404);
    assert_int_equal(mull_http_do(f.sock, "GET", "/v1/files/..%2f..%2fetc/content", NULL, NULL, NULL), 404);
    free(big);
    assert_true(mull_wait_for(no_temporaries, NULL, 5000));
}

/* The sender goes away in the middle: nothing of it stays. */
static void broken_off(void **state) {
    (void)state;
    size_t len;
    char head[300], *data = calloc(1, MIB), *b = form("batch", "x", data, MIB, &len);
    snprintf(head, sizeof head,
             "POST /v1/files HTTP/1.1\r\nHost: m\r\nContent-Type: multipart/form-data; boundary=xYzZY\r\n"
             "Content-Length: %zu\r\n\r\n",
             len);
    for (int i = 0; i < 8; i++) {
        int fd = mull_dial(f.sock);
        assert_true(fd >= 0);
        send(fd, head, strlen(head), MSG_NOSIGNAL);
        for (size_t at = 0, to = len * (size_t)i / 8; at < to;) {
            ssize_t w = send(fd, b + at, to - at, MSG_NOSIGNAL);
            if (w <= 0) break;
            at += (size_t)w;
        }
        close(fd);
    }
    assert_true(mull_wait_for(no_temporaries, NULL, 5000));
    json_t *list = flow_get(&f, "/v1/files");
    assert_int_equal(json_array_size(json_object_get(list, "data")), 0);
    json_decref(list);
    free(b);
    free(data);
}

static void lists(void **state) {
    (void)state;
    char *ids[5];
    for (int i = 0; i < 5; i++) ids[i] = upload_ok("{}\n", 3, 0);
    json_t *o = flow_get(&f, "/v1/files?limit=2&order=asc");
    assert_int_equal(json_array_size(json_object_get(o, "data")), 2);
    assert_true(json_is_true(json_object_get(o, "has_more")));
    assert_string_equal(text_of(o, "first_id"), ids[0]);
    char target[200];
    snprintf(target, sizeof target, "/v1/files?limit=9&order=asc&purpose=batch&after=%s", text_of(o, "last_id"));
    json_decref(o);
    o = flow_get(&f, target);
    assert_int_equal(json_array_size(json_object_get(o, "data")), 3);
    assert_false(json_is_true(json_object_get(o, "has_more")));
    assert_string_equal(text_of(o, "first_id"), ids[2]);
    json_decref(o);
    o = flow_get(&f, "/v1/files?purpose=vision");
    assert_int_equal(json_array_size(json_object_get(o, "data")), 0);
    json_decref(o);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(act("DELETE", "/v1/files/", ids[i], ""), 200);
        free(ids[i]);
    }
}

/* ---- batches */

static json_t *create(const char *file, const char *more, int want) {
    char body[1000];
    int status;
    snprintf(body, sizeof body,
             "{\"input_file_id\":\"%s\",\"endpoint\":\"/v1/chat/completions\",\"completion_window\":\"24h\"%s}", file,
             more);
    json_t *o = mull_http_json(f.sock, "POST", "/v1/batches", body, &status);
    if (status != want) fail_msg("%d, not %d: %s", status, want, json_dumps(o, JSON_ENCODE_ANY));
    return o;
}

static json_t *batch(const char *id) {
    char target[200];
    snprintf(target, sizeof target, "/v1/batches/%s", id);
    return flow_get(&f, target);
}

typedef struct status_wait {
    const char *id, *status;
} status_wait;
static bool status_is(void *arg) {
    const status_wait *w = arg;
    json_t *o = batch(w->id);
    bool yes = !strcmp(text_of(o, "status"), w->status);
    json_decref(o);
    return yes;
}
static void expect_status(const char *id, const char *status) {
    status_wait w = {id, status};
    if (!mull_wait_for(status_is, &w, 10000)) fail_msg("%s is not %s but %s", id, status, text_of(batch(id), "status"));
}

static json_int_t count_of(const char *id, const char *key) {
    json_t *o = batch(id);
    json_int_t n = json_integer_value(json_object_get(json_object_get(o, "request_counts"), key));
    json_decref(o);
    return n;
}

typedef struct count_wait {
    const char *id, *key;
    json_int_t n;
} count_wait;

static bool count_is(void *arg) {
    const count_wait *w = arg;
    return count_of(w->id, w->key) == w->n;
}

static const char ROWS[] =
    "{\"custom_id\":\"a\",\"method\":\"POST\",\"url\":\"/v1/chat/completions\",\"body\":{\"model\":"
    "\"small\",\"messages\":[]}}\n";

static void a_batch_through_its_life(void **state) {
    (void)state;
    by_hand w;
    char members[600], out[300], *file = upload_ok(ROWS, strlen(ROWS), 0);
    json_t *o = create(file, ",\"metadata\":{\"who\":\"me\"}", 200);
    char *id = strdup(text_of(o, "id"));
    assert_int_equal(strncmp(id, "batch_", 6), 0);
    assert_string_equal(text_of(o, "object"), "batch");
    assert_string_equal(text_of(o, "status"), "validating");
    assert_string_equal(text_of(o, "input_file_id"), file);
    assert_string_equal(text_of(json_object_get(o, "metadata"), "who"), "me");
    assert_true(json_is_null(json_object_get(o, "output_file_id")));
    assert_int_equal(json_integer_value(json_object_get(o, "expires_at")),
                     json_integer_value(json_object_get(o, "created_at")) + 86400);
    json_decref(o);
    assert_int_equal(act("DELETE", "/v1/files/", file, ""), 409); /* it is being read */
    worker_hello(&w, &f, "hand", "b1", 1);
    attempt a = begin_next(&w);
    o = flow_show(&f, a.job);
    const json_t *spec = json_object_get(o, "spec");
    assert_string_equal(text_of(spec, "kind"), "annotate");
    snprintf(out, sizeof out, "%s", text_of(spec, "out"));
    assert_int_equal(strncmp(text_of(spec, "model"), models, strlen(models)), 0);
    json_decref(o);
    say_of(&w, &a, "engine", "\"rank\":0,\"line\":{\"ev\":\"progress\",\"done\":3,\"total\":10,\"unit\":\"rows\"}");
    expect_status(id, "in_progress");
    assert_int_equal(count_of(id, "total"), 10);
    assert_int_equal(count_of(id, "completed"), 3); /* an engine that does not count errors as it goes */
    say_of(&w, &a, "engine",
           "\"rank\":0,\"line\":{\"ev\":\"progress\",\"done\":5,\"total\":10,\"errors\":1,\"unit\":\"rows\"}");
    count_wait failed = {id, "failed", 1};
    assert_true(mull_wait_for(count_is, &failed, 10000));
    assert_int_equal(count_of(id, "completed"), 4);
    say_of(&w, &a, "engine", "\"rank\":0,\"line\":{\"ev\":\"progress\",\"done\":10,\"total\":10,\"unit\":\"rows\"}");
    expect_status(id, "finalizing");
    mkdir(out, 0755);
    static const char *const NAMES[] = {"output.jsonl", "errors.jsonl"};
    for (int i = 0; i < 2; i++) {
        char path[400];
        snprintf(path, sizeof path, "%s/%s", out, NAMES[i]);
        FILE *g = fopen(path, "w");
        assert_non_null(g);
        fputs(NAMES[i], g);
        fclose(g);
        snprintf(members, sizeof members, "\"rank\":0,\"line\":{\"ev\":\"artifact\",\"path\":\"%s\",\"bytes\":12}",
                 path);
        say_of(&w, &a, "engine", members);
    }
    say_of(&w, &a, "engine",
           "\"rank\":0,\"line\":{\"ev\":\"result\",\"result\":{\"rows\":10,\"ok\":8,\"errors\":2,"
           "\"prompt_tokens\":1234,\"output_tokens\":56}}");
    end_attempt(&w, &a, "ok", 0);
    expect_status(id, "completed");
    assert_int_equal(count_of(id, "completed"), 8);
    assert_int_equal(count_of(id, "failed"), 2);
    o = batch(id);
    for (int i = 0; i < 2; i++) {
        size_t len;
        char *text = content(text_of(o, i ? "error_file_id" : "output_file_id"), &len);
        assert_string_equal(text, NAMES[i]);
        free(text);
    }
    json_t *list = flow_get(&f, "/v1/files?purpose=batch_output");
    assert_int_equal(json_array_size(json_object_get(list, "data")), 2);
    json_decref(list);
    json_decref(o);
    json_t *use = flow_get(&f, "/v1/usage?days=7"), *mine = json_array_get(json_object_get(use, "teams"), 0);
    assert_string_equal(text_of(mine, "team"), "default");
    assert_int_equal(json_integer_value(json_object_get(mine, "prompt_tokens")), 1234);
    assert_int_equal(json_integer_value(json_object_get(mine, "output_tokens")), 56);
    assert_int_equal(json_integer_value(json_object_get(mine, "jobs")), 1);
    json_decref(use);
    assert_int_equal(mull_http_do(f.sock, "GET", "/v1/usage?days=0", NULL, NULL, NULL), 400);
    assert_int_equal(act("POST", "/v1/batches/", id, "/cancel"), 200); /* nothing to do is no error */
    expect_status(id, "completed");
    assert_int_equal(act("DELETE", "/v1/files/", file, ""), 200);
    free(id);
    free(file);
}

static void cancelled_and_failed(void **state) {
    (void)state;
    by_hand w;
    char *file = upload_ok(ROWS, strlen(ROWS), 0);
    worker_hello(&w, &f, "hand", "b2", 1);
    json_t *o = create(file, "", 200);
    char *id = strdup(text_of(o, "id"));
    json_decref(o);
    attempt a = begin_next(&w);
    say_of(&w, &a, "engine", "\"rank\":0,\"line\":{\"ev\":\"progress\",\"done\":3,\"total\":10,\"unit\":\"rows\"}");
    expect_status(id, "in_progress");
    assert_int_equal(act("POST", "/v1/batches/", id, "/cancel"), 200);
    expect_status(id, "cancelling");
    o = hear(&w, "cancel", 10000);
    assert_non_null(o);
    json_decref(o);
    end_attempt(&w, &a, "cancelled", 75);
    expect_status(id, "cancelled");
    assert_int_equal(count_of(id, "completed"), 3);
    free(id);
    o = create(file, "", 200);
    id = strdup(text_of(o, "id"));
    json_decref(o);
    a = begin_next(&w);
    end_attempt(&w, &a, "user", 1);
    expect_status(id, "failed");
    o = batch(id);
    const json_t *e = json_array_get(json_object_get(json_object_get(o, "errors"), "data"), 0);
    assert_string_equal(text_of(e, "message"), "it ended");
    json_decref(o);
    free(id);
    /* Past its window: cancelled by the server. */
    o = create(file, "", 200);
    id = strdup(text_of(o, "id"));
    json_decref(o);
    free(mull_sql(f.pg, "UPDATE api_batch SET expires_at = now() - interval '1 s'"));
    mull_sql_int(f.pg, "SELECT count(*) FROM mull_batches_expire()");
    a = begin_next(&w);
    o = hear(&w, "cancel", 10000);
    assert_non_null(o);
    json_decref(o);
    end_attempt(&w, &a, "cancelled", 75);
    expect_status(id, "expired");
    free(id);
    o = flow_get(&f, "/v1/batches?limit=2");
    assert_int_equal(json_array_size(json_object_get(o, "data")), 2);
    assert_true(json_is_true(json_object_get(o, "has_more")));
    json_decref(o);
    free(file);
}

static void batches_that_are_refused(void **state) {
    (void)state;
    char *file = upload_ok("{\"custom_id\":\"a\",\"body\":{\"model\":\"../small\"}}\n", 45, 0);
    json_decref(create("file-none", "", 400));
    json_decref(create(file, "", 400)); /* no name of a model */
    json_decref(create(file, ",\"model\":\"nowhere\"", 400));
    json_decref(create(file, ",\"metadata\":[]", 400));
    json_decref(create(file, ",\"spec\":{\"kind\":\"train\",\"latent\":3},\"model\":\"small\"", 400));
    int status;
    json_decref(mull_http_json(f.sock, "POST", "/v1/batches", "{\"endpoint\":\"/v1/embeddings\"}", &status));
    assert_int_equal(status, 400);
    assert_int_equal(mull_http_do(f.sock, "GET", "/v1/batches/batch_0", NULL, NULL, NULL), 404);
    assert_int_equal(mull_http_do(f.sock, "POST", "/v1/batches/batch_0/cancel", NULL, NULL, NULL), 404);
    free(file);
}

/* The server stops while an upload waits for its disk: it ends in order, and the next one serves. */
static void a_stop_in_the_middle(void **state) {
    (void)state;
    size_t len;
    char head[300], *data = calloc(1, MIB), *b = form("batch", "x", data, MIB, &len);
    int fd = mull_dial(f.sock);
    assert_true(fd >= 0);
    snprintf(head, sizeof head,
             "POST /v1/files HTTP/1.1\r\nHost: m\r\nContent-Type: multipart/form-data; boundary=xYzZY\r\n"
             "Content-Length: %zu\r\n\r\n",
             len);
    send(fd, head, strlen(head), MSG_NOSIGNAL);
    send(fd, b, len / 2, MSG_NOSIGNAL);
    assert_int_equal(mull_reap(f.scheduler, SIGTERM), 0);
    close(fd);
    free(b);
    free(data);
    serve();
    assert_int_equal(temporaries(), 0);
    free(upload_ok("x", 1, 0));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_and_pieces),
        cmocka_unit_test(what_is_refused),
        cmocka_unit_test(broken_off),
        cmocka_unit_test(lists),
        cmocka_unit_test(a_batch_through_its_life),
        cmocka_unit_test(cancelled_and_failed),
        cmocka_unit_test(batches_that_are_refused),
        cmocka_unit_test(a_stop_in_the_middle),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
