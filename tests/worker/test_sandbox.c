/* What an engine can reach: the confinement alone, then a whole worker with --root. */
#include "tests/worker/play.h"
#include "worker/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>

static char dir[64];

static const char *at(const char *name) {
    static char path[4][256];
    static int i;
    char *p = path[i++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", dir, name);
    return p;
}

/* errno of an open, 0 when it went well. */
static int try_open(const char *path, int flags) {
    int fd = open(path, flags | O_CLOEXEC, 0600);
    if (fd < 0) return errno;
    close(fd);
    return 0;
}

/* In the confined child: the number of the first check that failed, 0 for none. */
static int confined(void) {
    const char *mine = at("mine");
    if (mull_sandbox_enter("/usr:/lib:/lib64:/bin:/etc:/proc", mine) != 0) return 1;
    if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1) return 2;
    if (try_open(at("mine/file"), O_RDWR) != 0) return 3;
    if (try_open(at("mine/new"), O_WRONLY | O_CREAT) != 0) return 4;
    if (try_open(at("theirs/file"), O_RDONLY) != EACCES) return 5;
    if (try_open(at("theirs/new"), O_WRONLY | O_CREAT) != EACCES) return 6;
    if (try_open(at("mine/link"), O_RDONLY) != EACCES) return 7;
    if (try_open(at("mine/../theirs/file"), O_RDONLY) != EACCES) return 8;
    char root[300];
    snprintf(root, sizeof root, "/proc/self/root%s", at("theirs/file"));
    if (try_open(root, O_RDONLY) != EACCES) return 9;
    if (rename(at("mine/file"), at("theirs/stolen")) == 0) return 10;
    if (link(at("theirs/file"), at("mine/hard")) == 0) return 11;
    if (unlink(at("theirs/file")) == 0) return 12;
    if (try_open("/etc/passwd", O_RDONLY) != 0) return 13;
    if (try_open("/etc/mull-test", O_WRONLY | O_CREAT) != EACCES) return 14;
    if (try_open("/dev/null", O_RDWR) != 0) return 15;
    char command[300]; /* what it starts is confined too */
    snprintf(command, sizeof command, "cat %s >%s 2>&1", at("theirs/file"), at("mine/out"));
    if (system(command) == 0) return 16; // NOLINT(cert-env33-c): a fixed text
    return 0;
}

static void nothing_leads_out(void **state) {
    (void)state;
    mull_err err;
    if (!mull_sandbox_possible(&err)) {
        print_message("NOTE: not tested: this kernel has no Landlock\n");
        skip();
    }
    pid_t pid = fork();
    if (pid == 0) _exit(confined());
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    assert_int_equal(access(at("theirs/file"), F_OK), 0);
}

static void roots_are_read_by_team(void **state) {
    (void)state;
    mull_root r[3];
    mull_err err;
    char text[300], both[300], mine[300];
    snprintf(both, sizeof both, "%s", at("theirs"));
    snprintf(mine, sizeof mine, "red=%s", at("mine"));
    assert_int_equal(mull_root_parse(both, &r[0], &err), 0);
    assert_int_equal(mull_root_parse(mine, &r[1], &err), 0);
    assert_string_equal(r[1].team, "red");
    assert_int_equal(mull_sandbox_paths(r, 2, "red", "/own", text, sizeof text), 0);
    assert_non_null(strstr(text, at("mine")));
    assert_int_equal(mull_sandbox_paths(r, 2, "blue", "/own", text, sizeof text), 0);
    assert_null(strstr(text, at("mine")));
    assert_non_null(strstr(text, at("theirs")));
    assert_int_equal(mull_sandbox_paths(r, 2, NULL, "/own", text, 10), -1);
    assert_int_equal(mull_sandbox_paths(r, 0, "red", "/own", text, sizeof text), 0);
    assert_string_equal(text, "");
    static const char *const bad[] = {"relative", "red=relative", "/nonexistent/folder", "/etc/passwd", "/a:/b", "=/",
                                      ""};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_true(mull_root_parse(bad[i], &r[2], &err) < 0);
    free((char *)(uintptr_t)r[1].team);
}

static int setup(void **state) {
    (void)state;
    strcpy(dir, "/tmp/mull-sandbox-XXXXXX");
    assert_non_null(mkdtemp(dir));
    assert_int_equal(mkdir(at("mine"), 0700), 0);
    assert_int_equal(mkdir(at("theirs"), 0700), 0);
    play_write(at("mine/file"), "a");
    play_write(at("theirs/file"), "b");
    assert_int_equal(symlink(at("theirs/file"), at("mine/link")), 0);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    static const char *const files[] = {"mine/file", "mine/new", "mine/link", "mine/out", "theirs/file"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) unlink(at(files[i]));
    rmdir(at("mine"));
    rmdir(at("theirs"));
    return rmdir(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_leads_out),
        cmocka_unit_test(roots_are_read_by_team),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
