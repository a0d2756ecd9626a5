/* An engine whose files travel (mull-worker --transfer), with the stager run by hand against a front door played here:
 * ranks that fetch nothing wait for the one that does and go its way, and whoever waits for files shows signs of life.
 */
#include "tests/support/check.h"
#include "tests/support/run.h"
#include "tests/support/servers.h"
#include "worker/stage.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define HELLO "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
#define TREE "{\"path\":\"/model\",\"folder\":false,\"files\":[{\"name\":\"\",\"bytes\":5,\"sha256\":\"" HELLO "\"}]}"

static char *folder;
static int listener, port;
static atomic_int hold_ms; /* how long the answer about a tree takes */
static atomic_bool missing;

static void answer(int fd, int status, const char *body) {
    char text[600];
    int n = snprintf(text, sizeof text, "HTTP/1.1 %d X\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s", status,
                     strlen(body), body);
    (void)!send(fd, text, (size_t)n, MSG_NOSIGNAL);
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
        if (strstr(request, "/files/bytes")) {
            answer(fd, 200, "hello");
        } else {
            usleep((useconds_t)atomic_load(&hold_ms) * 1000);
            answer(fd, atomic_load(&missing) ? 404 : 200, atomic_load(&missing) ? "{}" : TREE);
        }
    }
    return NULL;
}

static char *at(const char *name) {
    static char ring[8][400];
    static int next;
    char *out = ring[next++ % 8];
    snprintf(out, 400, "%s/%s", folder, name);
    return out;
}

static int setup(void **state) {
    (void)state;
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof sa;
    pthread_t thread;
    char join[300];
    folder = mull_temp_folder("stage");
    listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&sa, sizeof sa) || listen(listener, 8) ||
        getsockname(listener, (struct sockaddr *)&sa, &len))
        return -1;
    port = ntohs(sa.sin_port);
    snprintf(join, sizeof join,
             "{\"node\":\"n\",\"server\":\"http://127.0.0.1:%d\",\"secret\":\"s\",\"redis\":\"tcp:127.0.0.1:1\"}",
             port);
    mull_write_file(at("join.json"), join, strlen(join));
    chmod(at("join.json"), 0600);
    /* It says whether what its spec names is there. */
    static const char engine[] = "#!/bin/sh\nread -r spec\nf=${spec#*'\"model\":\"'}\nf=${f%%'\"'*}\n"
                                 "if [ -s \"$f\" ]; then echo '{\"ev\":\"hello\"}' >&3; else exit 9; fi\n";
    mull_write_file(at("engine"), engine, strlen(engine));
    chmod(at("engine"), 0755);
    return pthread_create(&thread, NULL, serve, NULL);
}

static int teardown(void **state) {
    (void)state;
    mull_tree_remove(folder);
    free(folder);
    return 0;
}

typedef struct rank {
    pid_t pid;
    int events;
} rank;

static rank start(const char *number, const char *ready) {
    static const char spec[] = "{\"job\":\"1\",\"fence\":7,\"model\":\"/model\"}";
    int in[2], events[2];
    assert_int_equal(pipe2(in, O_CLOEXEC), 0);
    assert_int_equal(pipe2(events, O_CLOEXEC), 0);
    rank r = {fork(), events[0]};
    assert_true(r.pid >= 0);
    if (r.pid == 0) {
        dup2(in[0], 0);
        dup2(events[1], 3);
        setenv(MULL_STAGE_ENV, folder, 1);
        setenv("MULL_LOCAL_RANK", number, 1);
        if (ready) setenv(MULL_STAGE_READY_ENV, ready, 1);
        execl(MULL_BIN_DIR "/mull-worker", "mull-worker", "__stage", at("engine"), "run", (char *)NULL);
        _exit(99);
    }
    assert_int_equal(write(in[1], spec, sizeof spec - 1), (ssize_t)sizeof spec - 1);
    close(in[0]);
    close(in[1]);
    close(events[1]);
    return r;
}

/* All that it said; its exit status. */
static int finish(rank *r, char *said, size_t cap) {
    size_t n = 0;
    int status = -1;
    for (ssize_t k; n + 1 < cap && (k = read(r->events, said + n, cap - 1 - n)) > 0;) n += (size_t)k;
    said[n] = 0;
    close(r->events);
    assert_int_equal(waitpid(r->pid, &status, 0), r->pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static bool silent(const rank *r, int ms) {
    struct pollfd p = {.fd = r->events, .events = POLLIN};
    return poll(&p, 1, ms) == 0;
}

static void ranks_wait_for_the_first(void **state) {
    (void)state;
    char said[4000];
    mull_tree_remove(at("stage"));
    rank one = start("1", at("ready"));
    assert_true(silent(&one, 500)); /* its engine would have found no model */
    atomic_store(&hold_ms, 700);
    rank zero = start("0", at("ready"));
    assert_int_equal(finish(&zero, said, sizeof said), 0);
    assert_non_null(strstr(said, "fetched"));
    assert_int_equal(finish(&one, said, sizeof said), 0);
    assert_non_null(strstr(said, "hello"));
    assert_null(strstr(said, "fetched"));
    atomic_store(&hold_ms, 0);
    unlink(at("ready"));
}

static void they_fail_with_the_first(void **state) {
    (void)state;
    char said[4000];
    mull_tree_remove(at("stage"));
    atomic_store(&missing, true);
    rank one = start("1", at("ready2")), zero = start("0", at("ready2"));
    assert_int_equal(finish(&zero, said, sizeof said), 1);
    assert_int_equal(finish(&one, said, sizeof said), 1);
    assert_non_null(strstr(said, "\"class\":\"user\"")); /* as the first one: it is no fault of this node */
    atomic_store(&missing, false);
    unlink(at("ready2"));
}

/* The first rank is killed amid its fetching: the others do not wait for it for ever. */
static void they_do_not_outlive_the_first(void **state) {
    (void)state;
    char said[4000];
    mull_tree_remove(at("stage"));
    atomic_store(&hold_ms, 3000);
    rank zero = start("0", at("ready3"));
    for (int i = 0; i < 200 && access(at("ready3"), F_OK) != 0; i++) usleep(20000);
    rank one = start("1", at("ready3"));
    assert_true(silent(&one, 300));
    kill(zero.pid, SIGKILL);
    assert_int_equal(finish(&zero, said, sizeof said), 128 + SIGKILL);
    atomic_store(&hold_ms, 0);
    assert_int_equal(finish(&one, said, sizeof said), 1);
    assert_non_null(strstr(said, "\"class\":\"infra\""));
}

static void fetching_is_a_sign_of_life(void **state) {
    (void)state;
    char said[4000];
    mull_tree_remove(at("stage"));
    atomic_store(&hold_ms, 3500);
    rank zero = start("0", NULL);
    assert_int_equal(finish(&zero, said, sizeof said), 0);
    atomic_store(&hold_ms, 0);
    const char *beat = strstr(said, "\"heartbeat\"");
    assert_non_null(beat);
    assert_true(beat < strstr(said, "fetched"));
}

/* So is waiting for another job that fetches. */
static void waiting_is_a_sign_of_life(void **state) {
    (void)state;
    char said[4000];
    mkdir(at("stage"), 0700);
    int lock = open(at("stage/lock"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(flock(lock, LOCK_EX), 0);
    rank zero = start("0", NULL);
    assert_false(silent(&zero, 20000));
    close(lock);
    assert_int_equal(finish(&zero, said, sizeof said), 0);
    assert_non_null(strstr(said, "heartbeat"));
    assert_non_null(strstr(said, "hello"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_wait_for_the_first), cmocka_unit_test(they_fail_with_the_first),
        cmocka_unit_test(they_do_not_outlive_the_first), cmocka_unit_test(fetching_is_a_sign_of_life),
        cmocka_unit_test(waiting_is_a_sign_of_life)};
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, setup, teardown);
}
