/* See screen.h. ANSI sequences that every terminal of today knows; nothing here needs terminfo. */
#include "cli/screen.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

static struct termios before;
static volatile sig_atomic_t taken, ending, resized;

/* Only write and tcsetattr: this runs in signal handlers too. */
static void give_back(void) {
    static const char text[] = "\033[?25h\033[?1049l";
    if (!taken) return;
    taken = 0;
    ssize_t n = write(STDOUT_FILENO, text, sizeof text - 1);
    (void)n;
    tcsetattr(STDIN_FILENO, TCSANOW, &before);
}

static void take(void) {
    static const char text[] = "\033[?1049h\033[?25l\033[2J";
    struct termios raw = before;
    raw.c_lflag &= ~(tcflag_t)(ECHO | ICANON);
    raw.c_cc[VMIN] = 0;
    raw.c_cc[VTIME] = 0;
    tcsetattr(STDIN_FILENO, TCSANOW, &raw);
    ssize_t n = write(STDOUT_FILENO, text, sizeof text - 1);
    (void)n;
    taken = 1;
}

static void on_end(int sig) {
    ending = sig;
}

static void on_resize(int sig) {
    (void)sig;
    resized = 1;
}

static void on_stop(int sig) {
    int saved = errno;
    give_back();
    signal(sig, SIG_DFL);
    raise(sig);
    errno = saved;
}

static void on_continue(int sig) {
    (void)sig;
    int saved = errno;
    signal(SIGTSTP, on_stop);
    if (!taken) take();
    resized = 1;
    errno = saved;
}

int mull_screen_open(void) {
    if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO) || tcgetattr(STDIN_FILENO, &before)) return -1;
    static const struct {
        int sig;
        void (*handler)(int);
    } handlers[] = {{SIGINT, on_end},      {SIGTERM, on_end},  {SIGHUP, on_end},
                    {SIGWINCH, on_resize}, {SIGTSTP, on_stop}, {SIGCONT, on_continue}};
    for (size_t i = 0; i < sizeof handlers / sizeof *handlers; i++) {
        struct sigaction sa = {.sa_handler = handlers[i].handler};
        sigaction(handlers[i].sig, &sa, NULL);
    }
    take();
    return 0;
}

void mull_screen_close(void) {
    give_back();
}

void mull_screen_size(int *rows, int *columns) {
    struct winsize w;
    *rows = 24;
    *columns = 80;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_row > 0 && w.ws_col > 0) {
        *rows = w.ws_row;
        *columns = w.ws_col;
    }
}

void mull_screen_draw(char *const *lines, int n) {
    fputs("\033[H", stdout);
    for (int i = 0; i < n; i++) printf("%s%s\033[K", i ? "\r\n" : "", lines[i]);
    fputs("\033[J", stdout);
    fflush(stdout);
}

/* The letter of an arrow or page key's sequence, ESC [ A or ESC [ 5 ~. */
static int sequence(void) {
    char c[4] = {0};
    struct pollfd f = {STDIN_FILENO, POLLIN, 0};
    for (int i = 0; i < 3; i++) {
        if (poll(&f, 1, 20) <= 0 || read(STDIN_FILENO, c + i, 1) != 1) break;
        if (i && (c[i] == '~' || (c[i] >= 'A' && c[i] <= 'Z'))) break;
    }
    if (c[0] != '[' && c[0] != 'O') return 27;
    return c[1] == 'A'   ? MULL_KEY_UP
           : c[1] == 'B' ? MULL_KEY_DOWN
           : c[1] == '5' ? MULL_KEY_PAGE_UP
           : c[1] == '6' ? MULL_KEY_PAGE_DOWN
                         : MULL_KEY_NONE;
}

int mull_screen_key(double seconds) {
    struct pollfd f = {STDIN_FILENO, POLLIN, 0};
    int k = poll(&f, 1, (int)(seconds * 1e3));
    if (ending || ferror(stdout)) return -1;
    if (resized) {
        resized = 0;
        return MULL_KEY_RESIZE;
    }
    if (k <= 0) return MULL_KEY_NONE;
    unsigned char c;
    if (read(STDIN_FILENO, &c, 1) != 1) return -1;
    return c == 27 ? sequence() : c;
}
