/* mull up, down, doctor with real servers: starting, starting again, what dies comes back, what is down stays down and
 * nothing is lost; as the user who runs the tests, and as root also as an ordinary user. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/support/run.h"

#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MULL MULL_BIN_DIR "/mull"
enum { LIMIT_S = 120 };
static const char *const SERVICES[] = {"redis", "postgres", "scheduler", "worker"};

static char *folder;

static int make_folder(void **state) {
    (void)state;
    folder = mull_temp_folder("up");
    unsetenv("MULL_SERVER");
    return setenv("MULL_STATE", folder, 1);
}

static int remove_folder(void **state) {
    (void)state;
    mull_run r = mull_run_command((const char *const[]){MULL, "down", NULL}, LIMIT_S);
    mull_run_fini(&r);
    mull_tree_remove(folder);
    free(folder);
    return 0;
}

static json_t *up(void) {
    return mull_run_json((const char *const[]){MULL, "up", "--json", NULL}, LIMIT_S);
}

static pid_t pid_of(const json_t *report, const char *service) {
    return (pid_t)json_integer_value(json_object_get(json_object_get(report, "pids"), service));
}

static int status_of(const char *a, const char *b) {
    mull_run r = mull_run_command((const char *const[]){MULL, a, b, NULL}, LIMIT_S);
    int status = r.status;
    mull_run_fini(&r);
    return status;
}

static void all_alive(const json_t *report) {
    assert_int_equal(json_object_size(json_object_get(report, "pids")), 4);
    for (size_t i = 0; i < 4; i++) assert_true(mull_pid_alive(pid_of(report, SERVICES[i])));
}

static void same_pids(const json_t *a, const json_t *b, const char *but) {
    for (size_t i = 0; i < 4; i++) {
        bool changed = pid_of(a, SERVICES[i]) != pid_of(b, SERVICES[i]);
        assert_int_equal(changed, but && !strcmp(but, SERVICES[i]));
    }
}

static void starts_once_and_stops(void **state) {
    (void)state;
    json_t *first = up();
    assert_string_equal(json_string_value(json_object_get(first, "state_dir")), folder);
    assert_int_equal(strncmp(json_string_value(json_object_get(first, "server")), "unix:/", 6), 0);
    all_alive(first);
    assert_int_equal(status_of("doctor", "--json"), 0);
    assert_int_equal(status_of("ps", "--json"), 0);
    json_t *again = up();
    same_pids(first, again, NULL);
    assert_int_equal(status_of("down", NULL), 0);
    for (size_t i = 0; i < 4; i++) assert_false(mull_pid_alive(pid_of(first, SERVICES[i])));
    assert_int_equal(status_of("down", NULL), 0);
    assert_int_equal(status_of("ps", NULL), 1);
    assert_int_equal(status_of("doctor", NULL), 1);
    json_decref(first);
    json_decref(again);
}

/* The folder named on the command line alone, also when the same command comes again and when something has died. */
static void the_folder_may_be_a_flag(void **state) {
    (void)state;
    unsetenv("MULL_STATE");
    const char *const flagged[] = {MULL, "up", "--state", folder, "--devices", "cpu:2", "--json", NULL};
    json_t *first = mull_run_json(flagged, LIMIT_S);
    assert_string_equal(json_string_value(json_object_get(first, "state_dir")), folder);
    all_alive(first);
    json_t *again = mull_run_json(flagged, LIMIT_S);
    assert_string_equal(json_string_value(json_object_get(again, "state_dir")), folder);
    same_pids(first, again, NULL);
    pid_t supervisor = (pid_t)json_integer_value(json_object_get(again, "supervisor"));
    assert_true(supervisor > 1);
    kill(supervisor, SIGKILL);
    kill(pid_of(again, "worker"), SIGKILL);
    json_decref(again);
    again = mull_run_json(flagged, LIMIT_S);
    all_alive(again);
    assert_string_equal(json_string_value(json_object_get(again, "state_dir")), folder);
    setenv("MULL_STATE", folder, 1); /* for down */
    json_decref(first);
    json_decref(again);
}

static void whatever_is_killed_comes_back(void **state) {
    (void)state;
    json_t *before = up();
    for (size_t i = 0; i < 4; i++) {
        kill(pid_of(before, SERVICES[i]), SIGKILL);
        json_t *after = up();
        all_alive(after);
        same_pids(before, after, SERVICES[i]);
        json_decref(before);
        before = after;
    }
    json_decref(before);
}

/* Nobody is left to restart what died, so up does; what lives is taken over and not started twice. */
static void a_killed_supervisor_is_replaced(void **state) {
    (void)state;
    json_t *before = up();
    pid_t supervisor = (pid_t)json_integer_value(json_object_get(before, "supervisor"));
    assert_true(supervisor > 0);
    kill(supervisor, SIGKILL);
    kill(pid_of(before, "redis"), SIGKILL);
    json_t *after = up();
    all_alive(after);
    same_pids(before, after, "redis");
    kill((pid_t)json_integer_value(json_object_get(after, "supervisor")), SIGKILL);
    assert_int_equal(status_of("down", NULL), 0);
    for (size_t i = 0; i < 4; i++) assert_false(mull_pid_alive(pid_of(after, SERVICES[i])));
    json_decref(before);
    json_decref(after);
}

/* A record that names a living stranger (a process id used again) must neither be believed nor killed. */
static void a_stranger_with_an_old_number_lives(void **state) {
    (void)state;
    json_t *before = up();
    assert_int_equal(status_of("down", NULL), 0);
    pid_t stranger = fork();
    if (stranger == 0) {
        for (;;) pause();
    }
    char path[512], text[128];
    for (size_t i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s/pid/%s", folder, SERVICES[i]);
        snprintf(text, sizeof text, "%d 1 nothing\n", (int)stranger);
        mull_write_file(path, text, strlen(text));
    }
    snprintf(path, sizeof path, "%s/postgres/postmaster.pid", folder);
    snprintf(text, sizeof text, "%d\n/nowhere\n1\n5432\n\n\n\n", (int)stranger);
    mull_write_file(path, text, strlen(text));
    assert_int_equal(status_of("down", NULL), 0);
    assert_true(mull_pid_alive(stranger));
    json_t *after = up();
    all_alive(after);
    assert_int_equal(status_of("down", NULL), 0);
    assert_true(mull_pid_alive(stranger));
    kill(stranger, SIGKILL);
    json_decref(before);
    json_decref(after);
}

/* Jobs are there again after down and up. */
static void state_survives(void **state) {
    (void)state;
    char model[512];
    snprintf(model, sizeof model, "%s/model", folder);
    free(mull_run_ok(
        (const char *const[]){MULL_BIN_DIR "/mull-engine", "init", "--preset", "tiny", "--out", model, NULL}, LIMIT_S));
    json_decref(up());
    json_t *job = mull_run_json((const char *const[]){MULL, "submit", "generate", "--model", model, "--prompt", "hello",
                                                      "--max-new-tokens", "4", "--hold", "--json", NULL},
                                LIMIT_S);
    const char *id = json_string_value(json_object_get(job, "id"));
    assert_non_null(id);
    assert_int_equal(status_of("down", NULL), 0);
    json_decref(up());
    assert_int_equal(status_of("show", id), 0);
    assert_int_equal(status_of("release", id), 0);
    mull_run r = mull_run_command((const char *const[]){MULL, "wait", id, "--quiet", NULL}, LIMIT_S);
    assert_int_equal(r.status, 0);
    mull_run_fini(&r);
    json_decref(job);
}

/* Two at once: one owner, and both report the same processes. */
static void two_ups_at_once(void **state) {
    (void)state;
    pid_t other = fork();
    if (other == 0) {
        FILE *quiet = freopen("/dev/null", "w", stdout);
        execl(MULL, MULL, "up", "--json", (char *)NULL);
        _exit(quiet ? 126 : 127);
    }
    json_t *mine = up();
    int status = -1;
    for (int i = 0; i < LIMIT_S * 50 && mull_pid_alive(other); i++)
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    waitpid(other, &status, WNOHANG);
    assert_int_equal(status, 0);
    json_t *then = up();
    same_pids(mine, then, NULL);
    json_decref(mine);
    json_decref(then);
}

/* A path far too long for a socket's address, with characters that shells and libpq treat specially. */
static void long_and_odd_paths(void **state) {
    (void)state;
    char path[600];
    snprintf(path, sizeof path, "%s/it's, a 'long' \\ path/%0150d", folder, 7);
    setenv("MULL_STATE", path, 1);
    json_t *report = up();
    all_alive(report);
    assert_int_equal(status_of("ps", NULL), 0);
    assert_int_equal(status_of("doctor", NULL), 0);
    char run[700], target[256] = "";
    snprintf(run, sizeof run, "%s/run", path);
    assert_true(readlink(run, target, sizeof target - 1) > 0);
    assert_int_equal(status_of("down", NULL), 0);
    mull_tree_remove(target);
    setenv("MULL_STATE", folder, 1);
    json_decref(report);
}

static void wrong_words_and_folders(void **state) {
    (void)state;
    char file[512];
    assert_int_equal(status_of("up", "--devices=gpu:1"), 2);
    assert_int_equal(status_of("up", "more"), 2);
    assert_int_equal(status_of("down", "--timeout=x"), 2);
    snprintf(file, sizeof file, "%s/file", folder);
    mull_write_file(file, "", 0);
    setenv("MULL_STATE", file, 1);
    mull_run r = mull_run_command((const char *const[]){MULL, "up", NULL}, LIMIT_S);
    assert_int_equal(r.status, 1);
    assert_int_equal(strncmp(r.err, "error: ", 7), 0);
    assert_ptr_equal(strchr(r.err, '\n'), r.err + strlen(r.err) - 1); /* one line */
    mull_run_fini(&r);
    setenv("MULL_STATE", folder, 1);
}

/* Root can see whether an ordinary user needs anything that root has. The programs are copied: the checkout may lie
 * where only root can go. */
static void as_an_ordinary_user(void **state) {
    (void)state;
    struct passwd *pw = getpwnam("nobody");
    if (geteuid() != 0 || !pw || access("/usr/bin/setpriv", X_OK)) skip();
    char bin[512], mull[600];
    snprintf(bin, sizeof bin, "%s/bin", folder);
    snprintf(mull, sizeof mull, "%s/mull", bin);
    free(mull_run_ok((const char *const[]){"cp", "-r", MULL_BIN_DIR, bin, NULL}, LIMIT_S));
    assert_int_equal(chown(folder, pw->pw_uid, pw->pw_gid), 0);
    const char *const words[][2] = {{"up", "--json"}, {"ps", "--json"}, {"doctor", "--json"}, {"down", "--json"}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        free(mull_run_ok((const char *const[]){"/usr/bin/setpriv", "--reuid=nobody", "--regid=nogroup",
                                               "--clear-groups", mull, words[i][0], words[i][1], NULL},
                         LIMIT_S));
}

int main(void) {
    if (access("/usr/bin/redis-server", X_OK) || access("/usr/lib/postgresql", X_OK)) {
        fprintf(stderr, "skipped: redis-server and PostgreSQL are not installed (ops/deps)\n");
        return 77;
    }
#define TEST(f) cmocka_unit_test_setup_teardown(f, make_folder, remove_folder)
    const struct CMUnitTest tests[] = {
        TEST(starts_once_and_stops),
        TEST(the_folder_may_be_a_flag),
        TEST(whatever_is_killed_comes_back),
        TEST(a_killed_supervisor_is_replaced),
        TEST(a_stranger_with_an_old_number_lives),
        TEST(state_survives),
        TEST(two_ups_at_once),
        TEST(long_and_odd_paths),
        TEST(wrong_words_and_folders),
        TEST(as_an_ordinary_user),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
