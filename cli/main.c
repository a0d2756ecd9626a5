/* mull: the user's hand. One table of commands; everything else is in the file of each. */
#include "cli/args.h"
#include "cli/jobs.h"

#include "schema/jobspec.h"

#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

extern const mull_cmd mull_cmd_complete, mull_cmd_man; /* hidden: for completion scripts and the build */

static void help(FILE *f) {
    fprintf(f,
            "mull %s: train, evaluate and serve Qwen2.5-VL with Mull tokens, through a queue\n\nusage: mull COMMAND "
            "[flags]\n\n",
            MULL_VERSION);
    for (int i = 0; mull_commands[i]; i++)
        fprintf(f, "  %-11s %s\n", mull_commands[i]->name, mull_commands[i]->summary);
    fprintf(f, "\nmull COMMAND --help says more.\n\n"
               "examples:\n"
               "  mull up                      start everything on this machine\n"
               "  mull submit generate --model ckpt --image a.jpg --prompt 'What is this?' --wait\n"
               "  mull ps; mull show 1; mull logs -f 1\n"
               "  mull down\n\n"
               "environment: MULL_STATE (state folder), MULL_SERVER, MULL_TOKEN and MULL_CACERT (a\n"
               "  queue elsewhere, and whom to trust about it), NO_COLOR\n"
               "exit status: 0 good, 1 the work failed, 2 wrong usage; mull wait --help lists those of jobs\n");
}

static int unknown(const char *word) {
    const char *names[64];
    size_t n = 0;
    for (int i = 0; mull_commands[i] && n < 60; i++) names[n++] = mull_commands[i]->name;
    names[n++] = "help";
    names[n++] = "version";
    const char *near = mull_nearest(word, names, n);
    const char *what = word[0] == '-' ? "flag" : "command";
    if (near) return mull_usage("", "unknown %s '%s'; did you mean %s?", what, word, near);
    return mull_usage("", "unknown %s '%s'", what, word);
}

/* Output that could not be written is a failure, whatever the command thought. */
static int written(int rc) {
    if (fflush(stdout) == 0 && !ferror(stdout)) return rc;
    int failed = mull_output_failed();
    return rc ? rc : failed;
}

int main(int argc, char **argv) {
    setlocale(LC_CTYPE, "C.UTF-8"); /* widths of characters; everything else stays in the C locale */
    signal(SIGPIPE, SIG_IGN);
    if (argc < 2) {
        help(stderr);
        return MULL_EXIT_USAGE;
    }
    const char *word = argv[1];
    if (!strcmp(word, "version") || !strcmp(word, "--version") || !strcmp(word, "-V")) {
        printf("mull %s\n", MULL_VERSION);
        return MULL_EXIT_OK;
    }
    bool wants_help = !strcmp(word, "help") || !strcmp(word, "--help") || !strcmp(word, "-h");
    if (wants_help && argc < 3) {
        help(stdout);
        return MULL_EXIT_OK;
    }
    const char *name = wants_help ? argv[2] : word;
    if (!strcmp(name, mull_cmd_complete.name)) return mull_cmd_complete.run(&mull_cmd_complete, argc - 1, argv + 1);
    if (!strcmp(name, mull_cmd_man.name)) return written(mull_cmd_man.run(&mull_cmd_man, argc - 1, argv + 1));
    for (int i = 0; mull_commands[i]; i++) {
        if (strcmp(name, mull_commands[i]->name) != 0) continue;
        if (wants_help) {
            mull_cmd_help(mull_commands[i]);
            return MULL_EXIT_OK;
        }
        return written(mull_commands[i]->run(mull_commands[i], argc - 1, argv + 1));
    }
    return unknown(name);
}
