/* Records of processes, ends of logs, paths of sockets, connection texts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cli/local.h"
#include "cli/paths.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static char folder[64], file[128];

static int make(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/mull-test-local-XXXXXX");
    if (!mkdtemp(folder)) return -1;
    snprintf(file, sizeof file, "%s/file", folder);
    return 0;
}

static int clear(void **state) {
    (void)state;
    unlink(file);
    return rmdir(folder);
}

static void write_text(const char *text) {
    FILE *f = fopen(file, "w");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

static void a_record_is_of_one_process(void **state) {
    (void)state;
    mull_proc p, other;
    pid_t child = fork();
    if (child == 0) {
        if (mull_proc_record(file)) _exit(1);
        for (;;) pause();
    }
    for (int i = 0; i < 5000 && !mull_proc_recorded(file, &p); i++) usleep(1000);
    assert_int_equal(p.pid, child);
    assert_true(mull_proc_alive(&p));
    other = p;
    other.start++; /* the same number, another process */
    assert_false(mull_proc_alive(&other));
    assert_int_equal(mull_proc_signal(&other, SIGKILL), -1);
    assert_true(mull_proc_alive(&p));
    assert_int_equal(mull_proc_signal(&p, SIGKILL), 0);
    siginfo_t info;
    assert_int_equal(waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT), 0);
    assert_false(mull_proc_alive(&p)); /* a zombie */
    assert_int_equal(waitpid(child, NULL, 0), child);
    assert_false(mull_proc_recorded(file, &p));
    assert_int_equal(p.pid, 0);
}

static void broken_records_name_nobody(void **state) {
    (void)state;
    static const char *const texts[] = {
        "", "1", "1 2", "x y z", "-1 5 b", "0 0 0", "99999999999 1 b", "1 1 another-boot"};
    mull_proc p;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        write_text(texts[i]);
        assert_false(mull_proc_recorded(file, &p));
    }
    unlink(file);
    assert_false(mull_proc_recorded(file, &p));
    write_text("");
}

static void the_line_that_matters(void **state) {
    (void)state;
    char out[200];
    write_text("start\n2026 LOG:  x\n2026 FATAL:  the reason\n2026 LOG:  database system is shut down\n\n");
    mull_log_last(file, 0, out, sizeof out);
    assert_string_equal(out, "FATAL:  the reason");
    mull_log_last(file, mull_log_size(file), out, sizeof out);
    assert_string_equal(out, "");
    mull_log_last(file, 6, out, 12);
    assert_string_equal(out, "FATAL:  the");
    write_text("one\n  two\n");
    mull_log_last(file, 0, out, sizeof out);
    assert_string_equal(out, "two");
    mull_log_last("/nowhere/at/all", 0, out, sizeof out);
    assert_string_equal(out, "");
}

static void socket_paths(void **state) {
    (void)state;
    char path[300];
    memset(path, 'a', sizeof path);
    path[0] = '/';
    path[90] = 0; /* + /pg/.s.PGSQL.5432 = 107 */
    assert_true(mull_paths_fit(path));
    path[90] = 'a';
    path[91] = 0;
    assert_false(mull_paths_fit(path));
    assert_false(mull_paths_fit("/a,b"));
    write_text("");
}

static void connection_text_is_quoted(void **state) {
    (void)state;
    static mull_local l;
    char out[200];
    snprintf(l.dir.pg_socket, sizeof l.dir.pg_socket, "/it's a\\b/pg");
    mull_postgres_conninfo(&l, "role", out, sizeof out);
    assert_string_equal(out, "dbname=mull port=5432 user=role host='/it\\'s a\\\\b/pg'");
    write_text("");
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, make, clear)
    const struct CMUnitTest tests[] = {TEST(a_record_is_of_one_process), TEST(broken_records_name_nobody),
                                       TEST(the_line_that_matters), TEST(socket_paths),
                                       TEST(connection_text_is_quoted)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
