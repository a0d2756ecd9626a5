/* Command lines from tables. A command is one mull_cmd: its words for help, its options, its function. The same tables
 * parse, print --help, suggest the nearest name for a wrong one, and feed shell completion, so these cannot disagree.
 */
#ifndef MULL_CLI_ARGS_H
#define MULL_CLI_ARGS_H

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

enum { MULL_EXIT_OK = 0, MULL_EXIT_FAILED = 1, MULL_EXIT_USAGE = 2 };

typedef enum mull_opt_type {
    MULL_OPT_END,
    MULL_OPT_FLAG,      /* bool */
    MULL_OPT_TEXT,      /* const char * */
    MULL_OPT_INT,       /* long */
    MULL_OPT_SPEC_FLAG, /* these write into a job spec (json_t *): at says where, "sampling.top_p" */
    MULL_OPT_SPEC_TEXT,
    MULL_OPT_SPEC_PATH, /* made absolute */
    MULL_OPT_SPEC_INT,
    MULL_OPT_SPEC_NUMBER,
    MULL_OPT_SPEC_TEXTS, /* may be given again */
    MULL_OPT_SPEC_PATHS  /* may be given again, and takes every following word up to the next option */
} mull_opt_type;

typedef struct mull_opt {
    const char *name; /* "--follow" */
    char letter;      /* 'f', or 0 */
    mull_opt_type type;
    size_t offset;    /* of the member in the command's options struct */
    const char *at;   /* MULL_OPT_SPEC_*: key in the spec */
    const char *word; /* what stands for the value in help: "DIR" */
    const char *help;
} mull_opt;

typedef struct mull_cmd mull_cmd;
struct mull_cmd {
    const char *name;
    const char *args;                                       /* "[-f] ID" */
    const char *summary;                                    /* one line */
    const char *examples;                                   /* lines for help, may be NULL */
    const mull_opt *opts;                                   /* ends with MULL_OPT_END */
    int (*run)(const mull_cmd *cmd, int argc, char **argv); /* argv[0] is the command's name */
};

/* Reads argv[1..] into the struct at out (zeroed or preset by the caller) and moves the other words, in order, to
 * argv[1..]; *words is their number. 0; MULL_EXIT_USAGE + 1 after printing (usage error); -1 when --help was answered.
 * Use MULL_PARSE. */
int mull_args_parse(const mull_cmd *cmd, int argc, char **argv, void *out, int *words);
/* Parses or returns from the calling command. */
#define MULL_PARSE(cmd, argc, argv, out, words)                                                                        \
    do {                                                                                                               \
        int mull_parse_rc = mull_args_parse(cmd, argc, argv, out, words);                                              \
        if (mull_parse_rc) return mull_parse_rc < 0 ? MULL_EXIT_OK : MULL_EXIT_USAGE;                                  \
    } while (0)

/* Option i of a command, NULL behind the last. A command with --json also takes -o, --output table|wide|json, without
 * having it in its table: json is --json, wide is a table of which nothing is cut. */
const mull_opt *mull_args_opt(const mull_cmd *cmd, size_t i);

/* error: wrong usage (mull CMD): …; see mull CMD --help. Returns MULL_EXIT_USAGE. */
int mull_usage(const char *cmd, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* error: WHAT (WHERE): WHY; TODO on stderr. Returns MULL_EXIT_FAILED. where may be NULL. */
int mull_complain(const char *what, const char *where, const char *todo, const char *why_fmt, ...)
    __attribute__((format(printf, 4, 5)));

void mull_cmd_help(const mull_cmd *cmd);
/* PATH if absolute, else below the current folder, "." and ".." and double slashes taken out without asking the file
 * system (the file may not be there yet). malloc'ed; NULL on no memory or no current folder. */
char *mull_absolute(const char *path);
/* Sets a value at a dotted path of one or two names; takes v. 0 or -1. */
int mull_spec_set(json_t *spec, const char *at, json_t *v);

/* Every command, in the order of help; ends with NULL. */
extern const mull_cmd *const mull_commands[];

#endif
