/* The client of file transfer against a server played by hand: one that lies about names or content leaves nothing
 * behind, what broke off goes on where it was, and a server that is away for a moment is waited for. (Against the real
 * one: tests/scheduler/test_joining.c and ops/hosts.) */
#include "schema/transfer/transfer.h"
#include "tests/support/check.h"
#include "tests/support/run.h"
#include "tests/support/servers.h"

#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static char *folder;
static int listener, port;

/* What the server says next: to requests for bytes, and to all others. */
static struct {
    const char *tree, *bytes;
    int away;               /* so many requests are answered with 503 first */
    long long first_offset; /* of the first request for bytes; -1: none came */
    /* A file that comes in: how much of it is there, and how many answers to come about it are lost after they were
     * acted on. */
    long long have;
    int lost, puts, gets, stall_ms;
    bool committed;
} script;

static void answer(int fd, int status, const char *body, size_t n) {
    char head[200];
    int len =
        snprintf(head, sizeof head, "HTTP/1.1 %d X\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n", status, n);
    (void)!send(fd, head, (size_t)len, MSG_NOSIGNAL);
    (void)!send(fd, body, n, MSG_NOSIGNAL);
}

/* As the front door does it: a piece must begin where the part ends, except that one at 0 begins anew. */
static void take(int fd, const char *request, size_t n, long long offset) {
    const char *length = strstr(request, "Content-Length:"), *end = strstr(request, "\r\n\r\n");
    long long left = (length ? atoll(length + 15) : 0) - (long long)(n - (size_t)(end + 4 - request)), all;
    static char buf[1 << 16];
    for (ssize_t k; left > 0 && (k = recv(fd, buf, sizeof buf, 0)) > 0;) left -= k;
    all = length ? atoll(length + 15) : 0;
    char text[100];
    bool fits = offset == 0 || offset == script.have;
    script.puts++;
    if (fits) script.have = offset + all;
    if (script.lost > 0) {
        script.lost--;
        return;
    }
    if (fits)
        answer(fd, 200, text, (size_t)snprintf(text, sizeof text, "{\"have\":%lld}", script.have));
    else
        answer(fd, 409, text,
               (size_t)snprintf(text, sizeof text, "{\"error\":{\"code\":\"bad_offset\",\"message\":\"elsewhere\"}}"));
}

static void *serve(void *arg) {
    (void)arg;
    for (int fd; (fd = accept(listener, NULL, NULL)) >= 0; close(fd)) {
        char request[4000];
        size_t n = 0;
        for (ssize_t k; n + 1 < sizeof request && (k = recv(fd, request + n, sizeof request - 1 - n, 0)) > 0;) {
            request[n += (size_t)k] = 0;
            if (strstr(request, "\r\n\r\n")) break;
        }
        request[n] = 0;
        const char *at = strstr(request, "offset=");
        if (script.away > 0) {
            script.away--;
            answer(fd, 503, "{}", 2);
        } else if (!strncmp(request, "PUT ", 4)) {
            take(fd, request, n, at ? atoll(at + 7) : 0);
        } else if (strstr(request, "/files/part")) {
            char text[40];
            answer(fd, 200, text, (size_t)snprintf(text, sizeof text, "{\"have\":%lld}", script.have));
        } else if (strstr(request, "/files/commit")) {
            script.committed = true;
            answer(fd, 200, "{}", 2);
        } else if (strstr(request, "/files/bytes")) {
            script.gets++;
            usleep((useconds_t)script.stall_ms * 1000);
            script.stall_ms = 0;
            long long offset = at ? atoll(at + 7) : 0;
            if (script.first_offset < 0) script.first_offset = offset;
            size_t have = strlen(script.bytes), from = (size_t)offset < have ? (size_t)offset : have;
            answer(fd, 200, script.bytes + from, have - from);
        } else {
            answer(fd, 200, script.tree, strlen(script.tree));
        }
    }
    return NULL;
}

static int setup(void **state) {
    (void)state;
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof sa;
    pthread_t thread;
    folder = mull_temp_folder("transfer");
    listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&sa, sizeof sa) || listen(listener, 8) ||
        getsockname(listener, (struct sockaddr *)&sa, &len))
        return -1;
    port = ntohs(sa.sin_port);
    return pthread_create(&thread, NULL, serve, NULL);
}

static int teardown(void **state) {
    (void)state;
    mull_tree_remove(folder);
    free(folder);
    return 0;
}

static int pull(const char *tree, const char *bytes, const char *local, mull_err *err) {
    char server[64], path[300];
    mull_transfer_counts n = {0};
    snprintf(server, sizeof server, "http://127.0.0.1:%d/", port);
    snprintf(path, sizeof path, "%s/%s", folder, local);
    script.tree = tree;
    script.bytes = bytes;
    script.first_offset = -1;
    mull_transfer_opts o = {.server = server, .job = "1"};
    mull_transfer *t = mull_transfer_open(&o, err);
    assert_non_null(t);
    int rc = mull_transfer_pull(t, NULL, path, true, &n, err);
    mull_transfer_close(t);
    return rc;
}

#define HELLO "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
#define TREE(name)                                                                                                     \
    "{\"path\":\"/r\",\"folder\":true,\"files\":[{\"name\":\"" name "\",\"bytes\":5,\"sha256\":\"" HELLO "\"}]}"

static void names_that_lead_out_are_refused(void **state) {
    (void)state;
    static const char *const trees[] = {TREE("../x"), TREE("/etc/x"), TREE("a/../../x"), TREE(""), TREE("a//b"),
                                        "{}",         "[]",           "no JSON"};
    mull_err err;
    for (size_t i = 0; i < sizeof trees / sizeof *trees; i++)
        assert_int_equal(pull(trees[i], "hello", "bad/in", &err), MULL_ERR_FORMAT);
    char path[300];
    snprintf(path, sizeof path, "%s/bad/x", folder);
    assert_int_equal(access(path, F_OK), -1);
    snprintf(path, sizeof path, "%s/x", folder);
    assert_int_equal(access(path, F_OK), -1);
}

static void damaged_content_gets_no_name(void **state) {
    (void)state;
    mull_err err;
    char path[300];
    snprintf(path, sizeof path, "%s/d/a", folder);
    assert_int_equal(pull(TREE("a"), "jello", "d", &err), MULL_ERR_FORMAT);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(pull(TREE("a"), "hel", "d", &err), MULL_ERR_FORMAT); /* it ends too soon */
    assert_int_equal(access(path, F_OK), -1);
    script.away = 2;
    assert_int_equal(pull(TREE("a"), "hello", "d", &err), 0);
    assert_int_equal(script.away, 0);
    assert_int_equal(script.first_offset, 3); /* the three bytes that were there were kept */
    char *text = mull_slurp(path, NULL);
    assert_string_equal(text, "hello");
    free(text);
    assert_int_equal(pull(TREE("a"), "hello", "d", &err), 0); /* there already: nothing is asked for */
    assert_int_equal(script.first_offset, -1);
    /* exact: what the server does not name goes, links among it, and what they lead to stays. */
    char other[300], link[300];
    snprintf(other, sizeof other, "%s/kept", folder);
    snprintf(link, sizeof link, "%s/d/link", folder);
    mull_write_file(other, "k", 1);
    assert_int_equal(symlink(other, link), 0);
    assert_int_equal(pull(TREE("a"), "hello", "d", &err), 0);
    assert_int_equal(access(link, F_OK), -1);
    assert_int_equal(access(other, F_OK), 0);
    assert_int_equal(access(path, F_OK), 0);
}

/* A folder may be named with slashes at its end. */
static void slashes_at_the_end(void **state) {
    (void)state;
    mull_err err;
    char other[300];
    assert_int_equal(pull(TREE("a"), "hello", "s/", &err), 0);
    snprintf(other, sizeof other, "%s/s/other", folder);
    mull_write_file(other, "o", 1);
    assert_int_equal(pull(TREE("a"), "hello", "s//", &err), 0);
    assert_int_equal(script.first_offset, -1); /* what was fetched has stayed, and is not fetched again */
    assert_int_equal(access(other, F_OK), -1);
    snprintf(other, sizeof other, "%s/s/a", folder);
    assert_int_equal(access(other, F_OK), 0);
}

static void on_alive(void *arg) {
    ++*(int *)arg;
}

/* Answers to pieces are lost: their bytes are there, and the client goes on from there. */
static void lost_answers(void **state) {
    (void)state;
    enum { BYTES = (8 << 20) + 5 };
    mull_err err;
    mull_transfer_counts n = {0};
    char server[64], path[300];
    int alive = 0;
    char *text = calloc(1, BYTES);
    snprintf(path, sizeof path, "%s/up", folder);
    mkdir(path, 0755);
    snprintf(path, sizeof path, "%s/up/", folder);
    char file[400];
    snprintf(file, sizeof file, "%sbig", path);
    mull_write_file(file, text, BYTES);
    free(text);
    script.tree = "{\"path\":\"/r\",\"folder\":true,\"files\":[]}";
    snprintf(server, sizeof server, "http://127.0.0.1:%d", port);
    mull_transfer_opts o = {.server = server, .job = "1", .alive = on_alive, .arg = &alive};
    for (script.lost = 0; script.lost < 3;) {
        int lost = script.lost;
        script.have = script.puts = 0;
        script.committed = false;
        mull_transfer *t = mull_transfer_open(&o, &err);
        int rc = mull_transfer_push(t, path, "/r", &n, &err);
        if (rc) print_message("%s: %s\n", err.what, err.why);
        assert_int_equal(rc, 0);
        mull_transfer_close(t);
        assert_true(script.committed);
        assert_int_equal(script.have, BYTES);
        assert_true(script.puts >= 3 + lost);
        assert_int_equal(script.lost, 0);
        script.lost = lost + 1;
    }
    script.lost = 0;
    assert_int_equal(n.files, 3);
    assert_true(alive > 3);
}

/* A connection on which nothing moves is given up; the next one brings the file. */
static void quiet_connections_are_given_up(void **state) {
    (void)state;
    mull_err err;
    mull_transfer_counts n = {0};
    char server[64], path[300];
    snprintf(server, sizeof server, "http://127.0.0.1:%d", port);
    snprintf(path, sizeof path, "%s/q", folder);
    script.tree = TREE("a");
    script.bytes = "hello";
    script.stall_ms = 4000;
    script.gets = 0;
    mull_transfer_opts o = {.server = server, .job = "1", .quiet_s = 1};
    mull_transfer *t = mull_transfer_open(&o, &err);
    assert_int_equal(mull_transfer_pull(t, NULL, path, false, &n, &err), 0);
    mull_transfer_close(t);
    assert_true(script.gets >= 2); /* more where others ran into the same silence */
    assert_int_equal(n.files, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(names_that_lead_out_are_refused),
                                       cmocka_unit_test(damaged_content_gets_no_name),
                                       cmocka_unit_test(slashes_at_the_end), cmocka_unit_test(lost_answers),
                                       cmocka_unit_test(quiet_connections_are_given_up)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
