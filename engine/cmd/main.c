/* mull-engine: one executable, one command a call; see cmd.h. */
#include "engine/cmd/cmd.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    int (*fn)(int, char **);
    const char *text;
} commands[] = {
#define X(name, symbol, text) {name, mull_cmd_##symbol, text},
    MULL_COMMANDS(X)
#undef X
};
enum { NCOMMANDS = sizeof commands / sizeof *commands };

int mull_cmd_fail(const mull_error *err) {
    mull_error_print(stderr, err);
    return err->code == MULL_EARG ? MULL_EXIT_USAGE : MULL_EXIT_FAILED;
}

int mull_cmd_usage(const char *command, const char *fmt, ...) {
    fprintf(stderr, "error: wrong usage (mull-engine %s): ", command);
    va_list ap;
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fprintf(stderr, "; see mull-engine %s --help\n", command);
    return MULL_EXIT_USAGE;
}

int mull_cmd_unknown(const char *command, char *const *argv) {
    return mull_cmd_usage(command, "unknown flag or missing value: '%s'", argv[optind - 1]);
}

void mull_cmd_emit(json_t *obj) {
    if (!obj || json_dumpf(obj, stdout, JSON_COMPACT | JSON_REAL_PRECISION(17)) != 0 || fputc('\n', stdout) == EOF ||
        fflush(stdout) != 0) {
        fprintf(stderr, "error: cannot write output (stdout): %s; nothing more was written\n", strerror(errno));
        exit(MULL_EXIT_FAILED);
    }
    json_decref(obj);
}

int mull_cmd_int(const char *command, const char *flag, const char *text, long long lo, long long hi, long long *out) {
    char *end;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (errno || end == text || *end || v < lo || v > hi)
        return mull_cmd_usage(command, "%s takes a whole number from %lld to %lld, not '%s'", flag, lo, hi, text);
    *out = v;
    return 0;
}

int mull_cmd_double(const char *command, const char *flag, const char *text, double lo, double hi, double *out) {
    char *end;
    errno = 0;
    double v = strtod(text, &end);
    if (errno || end == text || *end || !(v >= lo && v <= hi))
        return mull_cmd_usage(command, "%s takes a number from %g to %g, not '%s'", flag, lo, hi, text);
    *out = v;
    return 0;
}

static void help(FILE *f) {
    fprintf(f, "mull-engine %s: the model and everything that computes\n\nusage: mull-engine COMMAND [flags]\n\n",
            MULL_VERSION);
    for (int i = 0; i < NCOMMANDS; i++) fprintf(f, "  %-12s %s\n", commands[i].name, commands[i].text);
    fprintf(f, "\nmull-engine COMMAND --help says more. JSON on stdout, words on stderr.\n"
               "Exit: 0 good, 1 the work failed, 2 wrong usage, 75 requeue me.\n");
}

int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a limit on files is an error of the write, as a full disk is */
    opterr = 0;               /* the commands say it in our form */
    if (argc < 2) {
        help(stderr);
        return MULL_EXIT_USAGE;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
        help(stdout);
        return MULL_EXIT_OK;
    }
    if (!strcmp(argv[1], "--version")) {
        printf("mull-engine %s\n", MULL_VERSION);
        return MULL_EXIT_OK;
    }
    for (int i = 0; i < NCOMMANDS; i++)
        if (!strcmp(argv[1], commands[i].name)) return commands[i].fn(argc - 1, argv + 1);
    fprintf(stderr, "error: unknown command (%s): mull-engine has no such command; mull-engine --help lists them\n",
            argv[1]);
    return MULL_EXIT_USAGE;
}
