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
} script;

static void answer(int fd, int status, const char *body, size_t n) {
    char head[200];
    int len =
        snprintf(head, sizeof head, "HTTP/1.1 %d X\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n", status, n);
    (void)!send(fd, head, (size_t)len, MSG_NOSIGNAL);
    (void)!send(fd, body, n, MSG_NOSIGNAL);
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
        } else if (strstr(request, "/files/bytes")) {
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

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(names_that_lead_out_are_refused),
                                       cmocka_unit_test(damaged_content_gets_no_name)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
