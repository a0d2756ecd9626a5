/* What an engine can reach: its paths, its kernel's calls, its user. */
#include "tests/worker/play.h"
#include "worker/sandbox.h"
#include "worker/engine_user.h"
#include "worker/seccomp.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <pwd.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
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
    if (mull_sandbox_enter(&(mull_sandbox){.read = "/usr:/lib:/lib64:/bin:/etc:/proc", .write = mine}) != 0) return 1;
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

/* Runs check in a child; 0, or the number that it gave. */
static int in_child(int (*check)(void)) {
    pid_t pid = fork();
    int status;
    if (pid == 0) _exit(check());
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void nothing_leads_out(void **state) {
    (void)state;
    mull_err err;
    if (!mull_sandbox_possible(&err)) {
        print_message("NOTE: not tested: this kernel has no Landlock\n");
        skip();
    }
    assert_int_equal(in_child(confined), 0);
    assert_int_equal(access(at("theirs/file"), F_OK), 0);
}

static void *nothing(void *arg) {
    return arg;
}

/* errno of a socket of this family, 0 when it could be made. */
static int try_socket(int family) {
    int fd = socket(family, SOCK_DGRAM, 0);
    if (fd < 0) return errno;
    close(fd);
    return 0;
}

static int kept_from_the_kernel(void) {
    pthread_t t;
    if (mull_sandbox_enter(&(mull_sandbox){0}) != 0) return 1;
#if !defined(__SANITIZE_ADDRESS__)
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0 || errno != EPERM) return 2;
#endif
    if (mount("none", dir, "tmpfs", 0, NULL) == 0 || errno != EPERM) return 3;
    if (syscall(SYS_bpf, 0, NULL, 0) == 0 || errno != EPERM) return 4;
    if (syscall(SYS_keyctl, 0, 0, 0, 0, 0) == 0 || errno != EPERM) return 5;
    if (syscall(SYS_userfaultfd, 0) >= 0 || errno != EPERM) return 6;
    if (syscall(SYS_kexec_load, 0, 0, NULL, 0) == 0 || errno != EPERM) return 7;
    if (syscall(SYS_io_uring_setup, 1, NULL) >= 0 || errno != EPERM) return 8;
    if (unshare(CLONE_NEWNS) == 0 || errno != EPERM) return 9;
    if (syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, NULL, NULL, NULL, NULL) >= 0 || errno != EPERM) return 10;
    if (try_socket(AF_INET) != EPERM || try_socket(AF_INET6) != EPERM || try_socket(AF_NETLINK) != EPERM) return 11;
    if (try_socket(AF_UNIX) != 0) return 12;
    if (pthread_create(&t, NULL, nothing, NULL) != 0 || pthread_join(t, NULL) != 0) return 13;
    if (system("exec true") != 0) return 14;                                 // NOLINT(cert-env33-c): a fixed text
    if (system("exec mount -t tmpfs none /mnt 2>/dev/null") == 0) return 15; // NOLINT(cert-env33-c)
    if (unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0 && errno != EPERM && errno != ENOSPC) return 16;
    return 0;
}

static int on_the_network(void) {
    if (mull_sandbox_enter(&(mull_sandbox){.network = true}) != 0) return 1;
    if (try_socket(AF_INET) != 0) return 2;
    if (try_socket(AF_PACKET) != EPERM || try_socket(AF_VSOCK) != EPERM || try_socket(AF_ALG) != EPERM) return 3;
    return 0;
}

static void dangerous_calls_are_refused(void **state) {
    (void)state;
    if (!mull_seccomp_possible()) {
        print_message("NOTE: not tested: this kernel has no seccomp filters\n");
        skip();
    }
    assert_int_equal(in_child(kept_from_the_kernel), 0);
    assert_int_equal(in_child(on_the_network), 0);
}

static int as_nobody(void) {
    mull_engine_user u;
    mull_err err;
    if (mull_engine_user_find("nobody", &u, &err) != 0) return 1;
    if (mull_sandbox_enter(&(mull_sandbox){.uid = u.uid, .gid = u.gid}) != 0) return 2;
    if (getuid() != u.uid || geteuid() != u.uid || getgid() != u.gid || getgroups(0, NULL) != 0) return 3;
    if (setuid(0) == 0) return 4;
    if (try_open(at("mine/file"), O_RDONLY) != EACCES) return 5; /* the folder is root's, 0700 */
    if (kill(getppid(), 0) == 0 || errno != EPERM) return 6;
    return 0;
}

static void root_gives_engines_a_user(void **state) {
    (void)state;
    mull_engine_user u;
    mull_err err;
    if (geteuid() != 0) {
        assert_true(mull_engine_user_find("nobody", &u, &err) < 0);
        print_message("NOTE: not tested further: only root can change users\n");
        skip();
    }
    assert_int_equal(in_child(as_nobody), 0);
    assert_true(mull_engine_user_find("root", &u, &err) < 0);
    assert_true(mull_engine_user_find("no such user", &u, &err) < 0);
    assert_int_equal(mull_engine_user_find("nobody", &u, &err), 0);
    char own[256];
    snprintf(own, sizeof own, "%s", at("mine"));
    assert_true(mull_engine_user_reach(&u, own, own, &err) < 0); /* mkdtemp's folder is not the worker's to open */
    assert_int_equal(chmod(dir, 0711), 0);
    assert_int_equal(mull_engine_user_reach(&u, own, own, &err), 0);
    struct stat st;
    assert_int_equal(stat(own, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0711);
    assert_int_equal(stat(at("theirs"), &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
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
        cmocka_unit_test(dangerous_calls_are_refused),
        cmocka_unit_test(root_gives_engines_a_user),
        cmocka_unit_test(roots_are_read_by_team),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
