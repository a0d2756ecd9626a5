/* mull man: the manual page mull(1) in man(7) format, from the same tables that parse and print --help, so that it says
 * nothing the binary does not do. Hidden from help; the build writes mull.1 with it. */
#include "cli/args.h"

#include <stdio.h>
#include <string.h>

static const mull_opt no_opts[] = {{0}};

/* Text as roff: no line of it is a request, hyphens and backslashes are what they look like. */
static void put(const char *s) {
    for (bool fresh = true; *s; s++) {
        if (fresh && (*s == '.' || *s == '\'')) fputs("\\&", stdout);
        fresh = *s == '\n';
        if (*s == '\\')
            fputs("\\e", stdout);
        else if (*s == '-')
            fputs("\\-", stdout);
        else if (*s == '\'')
            fputs("\\(aq", stdout);
        else if (*s == '`')
            fputs("\\(ga", stdout);
        else
            putchar(*s);
    }
}

static void put_in(const char *before, const char *s, const char *behind) {
    fputs(before, stdout);
    put(s);
    fputs(behind, stdout);
}

static void put_option(const mull_opt *o) {
    char letter[3] = {'-', o->letter, 0};
    fputs(".TP\n", stdout);
    if (o->letter) put_in("\\fB", letter, "\\fR, ");
    put_in("\\fB", o->name, "\\fR");
    if (o->word) put_in(" \\fI", o->word, "\\fR");
    put_in("\n", o->help, "\n");
}

static void put_command(const mull_cmd *cmd) {
    const mull_opt *o;
    put_in(".SS mull ", cmd->name, "\n");
    put_in("\\fBmull ", cmd->name, "\\fR");
    if (*cmd->args) put_in(" ", cmd->args, "");
    put_in("\n.PP\n", cmd->summary, ".\n");
    for (size_t i = 0; (o = mull_args_opt(cmd, i)); i++) put_option(o);
    if (!cmd->examples) return;
    size_t n = strlen(cmd->examples);
    put_in(".PP\n.EX\n", cmd->examples, n && cmd->examples[n - 1] == '\n' ? ".EE\n" : "\n.EE\n");
}

static int run_man(const mull_cmd *cmd, int argc, char **argv) {
    int words;
    MULL_PARSE(cmd, argc, argv, NULL, &words);
    if (words) return mull_usage(cmd->name, "'%s' is one word too many", argv[1]);
    printf(
        ".TH MULL 1 \"" MULL_RELEASED "\" \"mull %s\" \"User Commands\"\n"
        ".SH NAME\nmull \\- train, evaluate and serve Qwen2.5\\-VL with Mull tokens, through a queue\n"
        ".SH SYNOPSIS\n\\fBmull\\fR \\fICOMMAND\\fR [flags] [words]\n"
        ".SH DESCRIPTION\n"
        "Jobs are submitted to a scheduler, which starts them on workers; this command is the hand of who submits,\n"
        "looks and administers. It talks to the scheduler alone: over the socket in the state folder of\n"
        "\\fBmull up\\fR, or at \\fBMULL_SERVER\\fR.\n"
        "Tables are for people; with \\fB\\-\\-json\\fR each object is a line of JSON on standard output, and words\n"
        "are on standard error. Each command answers \\fB\\-\\-help\\fR.\n"
        ".SH COMMANDS\n",
        MULL_VERSION);
    for (int i = 0; mull_commands[i]; i++) put_command(mull_commands[i]);
    fputs(".SH ENVIRONMENT\n"
          ".TP\n\\fBMULL_STATE\\fR\nThe state folder; see FILES.\n"
          ".TP\n\\fBMULL_SERVER\\fR\nA queue elsewhere: https://HOST:PORT, http://HOST:PORT, tcp:HOST:PORT or "
          "unix:PATH.\n"
          ".TP\n\\fBMULL_TOKEN\\fR\nThe token that is shown to it.\n"
          ".TP\n\\fBMULL_CACERT\\fR\nA PEM file with the authorities that its certificate is checked against.\n"
          ".TP\n\\fBNO_COLOR\\fR\nSet to anything: no colours.\n"
          ".SH FILES\n"
          ".TP\n\\fI/var/lib/mull\\fR\nThe state folder of root.\n"
          ".TP\n\\fI~/.local/state/mull\\fR\nThat of others, or \\fI$XDG_STATE_HOME/mull\\fR.\n"
          ".SH EXIT STATUS\n"
          "0 good, 1 the work failed, 2 wrong usage. \\fBmull wait\\fR and \\fB\\-\\-wait\\fR give the job\\(aqs own.\n"
          ".SH SEE ALSO\n"
          "\\fBmull\\-engine\\fR(1), \\fBmull\\-scheduler\\fR(8), \\fBmull\\-worker\\fR(8)\n",
          stdout);
    return MULL_EXIT_OK;
}

const mull_cmd mull_cmd_man = {"man", "", "print mull(1) in man format", NULL, no_opts, run_man};
