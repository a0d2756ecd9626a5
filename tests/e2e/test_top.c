/* mull top on a real terminal (a pty) over a real queue: it takes the screen, shows what is there, obeys keys and a
 * change of size, and gives the terminal back as it was: at q, at a signal, and while it is stopped. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/support/run.h"
#include "tests/support/servers.h"

#include <errno.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define MULL MULL_BIN_DIR "/mull"
#define TOP MULL " top --delay 1"
#define RUN(...) mull_run_command((const char *const[]){MULL, __VA_ARGS__, NULL}, LIMIT_S)
enum { LIMIT_S = 120, PATIENCE_MS = 60000, SCREEN_MAX = 1 << 20 };

static char *folder, model[512];

static int start(void **state) {
    (void)state;
    folder = mull_temp_folder("top");
    unsetenv("MULL_SERVER");
    setenv("MULL_STATE", folder, 1);
    setenv("TERM", "xterm", 1);
    unsetenv("COLUMNS");
    snprintf(model, sizeof model, "%s/model", folder);
    free(mull_run_ok(
        (const char *const[]){MULL_BIN_DIR "/mull-engine", "init", "--preset", "tiny", "--out", model, NULL}, LIMIT_S));
    free(mull_run_ok((const char *const[]){MULL, "up", "--json", NULL}, LIMIT_S));
    free(mull_run_ok((const char *const[]){MULL, "submit", "generate", "--model", model, "--prompt", "x", "--name",
                                           "held-one", "--hold", NULL},
                     LIMIT_S));
    free(mull_run_ok((const char *const[]){MULL, "submit", "generate", "--model", model, "--prompt", "x", "--name",
                                           "ended-one", "--wait", NULL},
                     LIMIT_S));
    return 0;
}

static int stop(void **state) {
    (void)state;
    mull_run r = RUN("down");
    int status = r.status;
    mull_run_fini(&r);
    mull_tree_remove(folder);
    free(folder);
    return status;
}

/* A program on a terminal of its own, and everything it drew since the last forget. */
typedef struct term {
    pid_t pid;
    int fd;
    size_t len;
    char *text;
} term;

/* script: what a shell with job control runs there. */
static term open_shell(int rows, int columns, const char *script) {
    term t = {.text = malloc(SCREEN_MAX)};
    struct winsize w = {.ws_row = (unsigned short)rows, .ws_col = (unsigned short)columns};
    t.pid = forkpty(&t.fd, NULL, NULL, &w);
    if (t.pid == 0) {
        execl("/bin/sh", "sh", "-mc", script, (char *)NULL);
        _exit(127);
    }
    assert_true(t.pid > 0);
    t.text[0] = 0;
    return t;
}

static void forget(term *t) {
    t->len = 0;
    t->text[0] = 0;
}

/* Reads until the text is there; fails when it never is. */
static void wait_for(term *t, const char *wanted) {
    long long until = mull_now_ms() + PATIENCE_MS;
    while (!strstr(t->text, wanted)) {
        struct pollfd f = {t->fd, POLLIN, 0};
        if (mull_now_ms() > until || t->len + 1 >= SCREEN_MAX) fail_msg("'%s' was never drawn: %s", wanted, t->text);
        if (poll(&f, 1, 100) <= 0) continue;
        ssize_t n = read(t->fd, t->text + t->len, SCREEN_MAX - 1 - t->len);
        if (n <= 0) fail_msg("it ended before '%s' was drawn: %s", wanted, t->text);
        t->len += (size_t)n;
        t->text[t->len] = 0;
    }
}

static bool echoes(const term *t) {
    struct termios now;
    assert_int_equal(tcgetattr(t->fd, &now), 0);
    return (now.c_lflag & (ECHO | ICANON)) == (ECHO | ICANON);
}

static void keys(const term *t, const char *text) {
    assert_int_equal(write(t->fd, text, strlen(text)), (ssize_t)strlen(text));
}

static int end_of(term *t) {
    int status = -1;
    for (long long until = mull_now_ms() + PATIENCE_MS; waitpid(t->pid, &status, WNOHANG) == 0; mull_sleep_ms(10)) {
        char drop[4096];
        struct pollfd f = {t->fd, POLLIN, 0};
        if (poll(&f, 1, 0) > 0 && read(t->fd, drop, sizeof drop) < 0 && errno != EIO) break;
        if (mull_now_ms() > until) kill(t->pid, SIGKILL);
    }
    close(t->fd);
    free(t->text);
    return status;
}

static void shows_obeys_and_gives_back(void **state) {
    (void)state;
    term t = open_shell(30, 100, TOP);
    wait_for(&t, "\033[?1049h");
    wait_for(&t, "held-one");
    wait_for(&t, "q quit");
    assert_non_null(strstr(t.text, "1 pending"));
    assert_null(strstr(t.text, "ended-one"));
    assert_false(echoes(&t));
    keys(&t, "e"); /* every state */
    wait_for(&t, "ended-one");
    forget(&t);
    keys(&t, "r");
    wait_for(&t, "nothing runs");
    struct winsize small = {.ws_row = 8, .ws_col = 40};
    forget(&t);
    assert_int_equal(ioctl(t.fd, TIOCSWINSZ, &small), 0);
    wait_for(&t, "\033[J");
    forget(&t);
    keys(&t, "a");
    wait_for(&t, "\033[J");
    int lines = 1;
    for (const char *p = strstr(t.text, "\033[H"); p && (p = strchr(p, '\n')); p++) lines++;
    forget(&t);
    wait_for(&t, "\033[J"); /* at the next look too */
    keys(&t, "q");
    wait_for(&t, "\033[?1049l");
    assert_true(echoes(&t));
    assert_true(lines <= 16); /* of two pictures of eight at most */
    assert_int_equal(end_of(&t), 0);
}

static void a_signal_leaves_the_terminal_as_it_was(void **state) {
    (void)state;
    term t = open_shell(24, 80, TOP "; echo shell again; read line; fg; echo ended $?");
    wait_for(&t, "held-one");
    assert_false(echoes(&t));
    keys(&t, "\032"); /* Ctrl-Z: stopped, with the terminal given back */
    wait_for(&t, "\033[?1049l");
    wait_for(&t, "shell again");
    assert_true(echoes(&t));
    forget(&t);
    keys(&t, "\n"); /* the shell brings it back */
    wait_for(&t, "\033[?1049h");
    wait_for(&t, "held-one");
    assert_false(echoes(&t));
    pid_t top = mull_find_descendant(t.pid, "--delay");
    assert_true(top > 0);
    kill(top, SIGTERM);
    wait_for(&t, "\033[?1049l");
    wait_for(&t, "ended 0");
    assert_true(echoes(&t));
    assert_int_equal(end_of(&t), 0);
}

static void once_where_it_is_no_terminal(void **state) {
    (void)state;
    mull_run r = RUN("top");
    assert_int_equal(r.status, 0);
    assert_non_null(strstr(r.out, "held-one"));
    assert_null(strchr(r.out, '\033'));
    mull_run_fini(&r);
    json_t *j = mull_run_json((const char *const[]){MULL, "top", "-o", "json", NULL}, LIMIT_S);
    assert_int_equal(json_array_size(json_object_get(j, "jobs")), 1);
    assert_int_equal(json_array_size(json_object_get(j, "nodes")), 1);
    assert_true(json_is_object(json_object_get(j, "queue")));
    json_decref(j);
    r = RUN("top", "-o", "jason");
    assert_int_equal(r.status, 2);
    assert_non_null(strstr(r.err, "did you mean json?"));
    mull_run_fini(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shows_obeys_and_gives_back),
        cmocka_unit_test(a_signal_leaves_the_terminal_as_it_was),
        cmocka_unit_test(once_where_it_is_no_terminal),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
