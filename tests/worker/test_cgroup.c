/* cgroups for engines: what is written, whose share is what, and where the kernel lets us that a group holds, kills and
 * goes. What this machine cannot show is skipped, loudly. */
#include "schema/cgroup.h"
#include "tests/support/check.h"
#include "tests/support/run.h"
#include "tests/support/servers.h"
#include "worker/cgroup.h"
#include "worker/supervise.h"

#include <fcntl.h>

#include <linux/magic.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

static char *slurp(const char *folder, const char *file) {
    char path[MULL_CGROUP_PATH + 100], *text = calloc(1, 4096);
    snprintf(path, sizeof path, "%s/%s", folder, file);
    FILE *f = fopen(path, "r");
    if (!f) fail_msg("%s is not there", path);
    size_t n = fread(text, 1, 4095, f);
    text[n] = 0;
    fclose(f);
    return text;
}

static void holds(const char *folder, const char *file, const char *want) {
    char *text = slurp(folder, file);
    if (strcmp(text, want) != 0) fail_msg("%s/%s: '%s', not '%s'", folder, file, text, want);
    free(text);
}

static void what_is_written(void **state) {
    (void)state;
    char *folder = mull_temp_folder("cgroup"), path[MULL_CGROUP_PATH];
    mull_err err;
    const mull_cgroup_limits limits = {.memory_bytes = 1 << 20, .cpu_weight = 300, .pids = 4096};
    assert_int_equal(mull_cgroup_make(folder, "17", &limits, path, &err), 0);
    assert_non_null(strstr(path, "/mull-attempt-17"));
    holds(path, "memory.max", "1048576");
    holds(path, "memory.oom.group", "1");
    holds(path, "pids.max", "4096");
    holds(path, "cpu.weight", "300");
    assert_int_equal(mull_cgroup_enter(path), 0);
    holds(path, "cgroup.procs", "0");
    assert_int_equal(mull_cgroup_end(path), -1); /* a plain folder with files does not go */
    holds(path, "cgroup.kill", "1");
    /* A part that cannot be written is said, with its file. */
    char missing[MULL_CGROUP_PATH];
    snprintf(missing, sizeof missing, "%s/not/there", folder);
    assert_int_not_equal(mull_cgroup_make(missing, "1", &limits, path, &err), 0);
    assert_non_null(strstr(err.where, "not/there"));
    mull_tree_remove(folder);
    free(folder);
}

static void shares(void **state) {
    (void)state;
    char *folder = mull_temp_folder("cgroup"), path[4200];
    snprintf(path, sizeof path, "%s/memory.max", folder);
    FILE *f = fopen(path, "w");
    fprintf(f, "%d\n", 64 << 20);
    fclose(f);
    mull_cgroup_limits a = mull_cgroup_share(folder, 1, 4, 1), b = mull_cgroup_share(folder, 3, 4, 6),
                       all = mull_cgroup_share(folder, 9, 4, 1), none = mull_cgroup_share(folder, 0, 0, 0);
    assert_int_equal(a.memory_bytes, 16 << 20);
    assert_int_equal(a.cpu_weight, 100);
    assert_int_equal(a.pids, 4096);
    assert_int_equal(b.memory_bytes, 48 << 20);
    assert_int_equal(b.cpu_weight, 300);
    assert_int_equal(b.pids, 6 * 4096);
    assert_int_equal(all.memory_bytes, 64 << 20);
    assert_int_equal(none.memory_bytes, 64 << 20);
    assert_int_equal(mull_cgroup_share(folder, 200, 256, 1).cpu_weight, 10000);
    /* "max", or more than there is: the machine's. */
    f = fopen(path, "w");
    fputs("max\n", f);
    fclose(f);
    uint64_t machine = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    assert_true(mull_cgroup_share(folder, 1, 1, 1).memory_bytes == machine);
    mull_tree_remove(folder);
    free(folder);
}

static void a_folder_that_is_no_group(void **state) {
    (void)state;
    char parent[MULL_CGROUP_PATH];
    mull_err err;
    assert_int_not_equal(mull_cgroup_open("/tmp", parent, &err), 0);
    assert_non_null(strstr(err.why, "no group of cgroups version 2"));
    assert_int_not_equal(mull_cgroup_open("/no/such/folder", parent, &err), 0);
}

/* Any group of version 2 will do for entering, killing and removing: they need no controller. */
static void make_group(char group[MULL_CGROUP_PATH], const char *name) {
    static const char *const mounts[] = {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"};
    struct statfs fs;
    group[0] = 0;
    for (size_t i = 0; i < 2 && !group[0]; i++)
        if (statfs(mounts[i], &fs) == 0 && fs.f_type == CGROUP2_SUPER_MAGIC)
            snprintf(group, MULL_CGROUP_PATH, "%s/mull-test-%s-%d", mounts[i], name, (int)getpid());
    if (group[0] && mkdir(group, 0755) == 0) return;
    print_message("SKIPPED: no cgroups version 2 here in which a group may be made; nothing is said of entering one\n");
    skip();
}

/* As the worker starts it: the supervisor stays outside, the engine is inside before it is anything. */
static void an_engine_is_in_its_group(void **state) {
    (void)state;
    char group[MULL_CGROUP_PATH], said[4096];
    int out[2], control[2], status;
    make_group(group, "engine");
    assert_int_equal(pipe(out), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, control), 0);
    pid_t child = fork();
    if (child == 0) {
        int high = fcntl(control[1], F_DUPFD, 20), pipe_end = fcntl(out[1], F_DUPFD, 21);
        dup2(pipe_end, 1);
        dup2(pipe_end, 3);
        dup2(high, MULL_SUPERVISE_CONTROL);
        setenv(MULL_CGROUP_ENV, group, 1);
        char shell[] = "/bin/sh", flag[] = "-c", text[] = "cat /proc/self/cgroup; echo group=$" MULL_CGROUP_ENV;
        _exit(mull_supervise((char *[]){shell, flag, text, NULL}));
    }
    close(out[1]);
    close(control[1]);
    size_t n = 0;
    for (ssize_t k; n + 1 < sizeof said && (k = read(out[0], said + n, sizeof said - 1 - n)) > 0;) n += (size_t)k;
    said[n] = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    close(out[0]);
    close(control[0]);
    for (int i = 0; mull_cgroup_end(group) != 0 && i < 500; i++) mull_sleep_ms(10);
    const char *own = strstr(said, "0::/");
    if (!own || !strstr(own, strrchr(group, '/'))) fail_msg("the engine is not in %s: %s", group, said);
    assert_non_null(strstr(said, "group=\n")); /* and is not told of it */
}

static void a_group_kills_and_goes(void **state) {
    (void)state;
    char group[MULL_CGROUP_PATH], pid_text[32];
    make_group(group, "kill");
    pid_t child = fork();
    if (child == 0) {
        if (mull_cgroup_enter(group) != 0) _exit(1);
        pid_t grandchild = fork(); /* what escapes its session is still in the group */
        if (grandchild == 0) setsid();
        for (;;) pause();
    }
    char *procs = NULL;
    for (int i = 0; i < 500; i++, mull_sleep_ms(10)) {
        free(procs);
        procs = slurp(group, "cgroup.procs");
        if (strchr(procs, '\n') != strrchr(procs, '\n')) break;
    }
    snprintf(pid_text, sizeof pid_text, "%d\n", (int)child);
    assert_non_null(strstr(procs, pid_text));
    assert_ptr_not_equal(strchr(procs, '\n'), strrchr(procs, '\n')); /* both */
    free(procs);
    char kill_file[MULL_CGROUP_PATH + 20];
    snprintf(kill_file, sizeof kill_file, "%s/cgroup.kill", group);
    bool can_kill = access(kill_file, W_OK) == 0;
    int left = mull_cgroup_end(group), status;
    if (!can_kill) {
        print_message("SKIPPED: this kernel has no cgroup.kill (Linux 5.14)\n");
        kill(child, SIGKILL);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    for (int i = 0; can_kill && left && i < 500; i++, mull_sleep_ms(10)) left = mull_cgroup_end(group);
    if (can_kill) assert_int_equal(left, 0);
    if (can_kill) assert_int_not_equal(access(group, F_OK), 0);
}

/* With the controllers: who takes more than his memory is killed, nobody else. */
static void memory_ends(void **state) {
    (void)state;
    char own[MULL_CGROUP_PATH], parent[MULL_CGROUP_PATH], path[MULL_CGROUP_PATH];
    mull_err err;
    int rc = mull_cgroup_own(own, sizeof own, &err);
    if (rc == 0) rc = mull_cgroup_open(NULL, parent, &err);
    if (rc != 0) {
        print_message("SKIPPED: %s (%s): %s; memory, processes and weights were written to a plain folder only\n",
                      err.what, err.where, err.why);
        skip();
    }
    const mull_cgroup_limits limits = {.memory_bytes = 64 << 20, .cpu_weight = 100, .pids = 100};
    if (mull_cgroup_make(parent, "test", &limits, path, &err) != 0) fail_msg("%s: %s", err.where, err.why);
    pid_t child = fork();
    if (child == 0) {
        if (mull_cgroup_enter(path) != 0) _exit(1);
        volatile char *room = malloc(256 << 20);
        for (size_t i = 0; room && i < (size_t)256 << 20; i += 4096) room[i] = 1;
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    for (int i = 0; mull_cgroup_end(path) != 0 && i < 500; i++) mull_sleep_ms(10);
    assert_int_not_equal(access(path, F_OK), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written),           cmocka_unit_test(shares),
        cmocka_unit_test(a_folder_that_is_no_group), cmocka_unit_test(an_engine_is_in_its_group),
        cmocka_unit_test(a_group_kills_and_goes),    cmocka_unit_test(memory_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
