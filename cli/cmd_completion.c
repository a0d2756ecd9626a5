/* mull completion, complete: shells ask `mull complete WORDS...` for what may come next, so their scripts stay small
 * and never differ from what this binary knows. */
#include "cli/args.h"
#include "cli/jobs.h"

#include "schema/jobspec.h"
#include "schema/states.h"

#include <stdlib.h>
#include <string.h>

static const mull_opt no_opts[] = {{0}};

static const char bash_script[] =
    "_mull() {\n"
    "    local cur=${COMP_WORDS[COMP_CWORD]}\n"
    "    COMPREPLY=($(compgen -W \"$(mull complete -- \"${COMP_WORDS[@]:1:COMP_CWORD}\" 2>/dev/null)\" -- \"$cur\"))\n"
    "}\n"
    "complete -o default -F _mull mull\n";
static const char zsh_script[] =
    "#compdef mull\n"
    "_mull() {\n"
    "    local -a words_=(${(f)\"$(mull complete -- \"${(@)words[2,CURRENT]}\" 2>/dev/null)\"})\n"
    "    if (( ${#words_} )); then compadd -a words_; else _files; fi\n"
    "}\n"
    "compdef _mull mull\n";
static const char fish_script[] =
    "complete -c mull -a '(mull complete -- (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null)'\n";

static int run_completion(const mull_cmd *cmd, int argc, char **argv) {
    static const char *const shells[] = {"bash", "zsh", "fish"};
    static const char *const scripts[] = {bash_script, zsh_script, fish_script};
    int words;
    MULL_PARSE(cmd, argc, argv, NULL, &words);
    if (words != 1) return mull_usage(cmd->name, "for which shell? bash, zsh or fish");
    for (int i = 0; i < 3; i++)
        if (!strcmp(argv[1], shells[i])) {
            fputs(scripts[i], stdout);
            return MULL_EXIT_OK;
        }
    const char *near = mull_nearest(argv[1], shells, 3);
    return mull_usage(cmd->name, "unknown shell '%s'%s%s%s", argv[1], near ? "; did you mean " : "", near ? near : "",
                      near ? "?" : "");
}

const mull_cmd mull_cmd_completion = {
    "completion",
    "bash|zsh|fish",
    "print a completion script for your shell",
    "examples:\n  source <(mull completion bash)\n  mull completion zsh >~/.zfunc/_mull\n"
    "  mull completion fish >~/.config/fish/completions/mull.fish\n",
    no_opts,
    run_completion};

/* Ids of the newest jobs; a queue that does not answer offers none. */
static void offer_ids(void) {
    mull_err err;
    mull_reply r;
    mull_client *c = mull_client_open(&err);
    if (c && !mull_client_call(c, "GET", "/v1/jobs?limit=50", NULL, &r, &err)) {
        size_t i;
        const json_t *j;
        json_array_foreach(json_object_get(r.json, "jobs"), i, j) puts(mull_text(j, "id"));
        json_decref(r.json);
    }
    mull_client_close(c);
}

static int run_complete(const mull_cmd *self, int argc, char **argv) {
    (void)self;
    char **word = argv + 1;
    int n = argc - 1;
    if (n && !strcmp(word[0], "--")) word++, n--;
    if (n <= 1) {
        for (int i = 0; mull_commands[i]; i++) puts(mull_commands[i]->name);
        return MULL_EXIT_OK;
    }
    const mull_cmd *cmd = NULL;
    for (int i = 0; mull_commands[i]; i++)
        if (!strcmp(mull_commands[i]->name, word[0])) cmd = mull_commands[i];
    if (!cmd) return MULL_EXIT_OK;
    const char *last = word[n - 1], *before = word[n - 2];
    if (last[0] == '-') {
        puts("--help");
        for (const mull_opt *o = cmd->opts; o && o->type != MULL_OPT_END; o++) puts(o->name);
    } else if (!strcmp(before, "--state") && !strcmp(cmd->name, "ps")) {
#define X(name, terminal, meaning) puts(#name);
        MULL_JOB_STATES(X)
#undef X
    } else if (!strcmp(cmd->name, "submit") && n == 2) {
        puts("generate\nannotate");
    } else if (!strcmp(cmd->name, "completion")) {
        puts("bash\nzsh\nfish");
    } else if (!strcmp(cmd->name, "ckpt") && n == 2) {
        puts("ls\nshow\nverify\nrm\npin\nunpin\nprune");
    } else if (!strcmp(cmd->name, "node")) {
        puts("ls\ndrain\nresume");
    } else if (!strcmp(cmd->name, "team")) {
        puts("ls\nadd\nset");
    } else if (strstr(cmd->args, "ID")) {
        offer_ids();
    }
    return MULL_EXIT_OK;
}

const mull_cmd mull_cmd_complete = {"complete", "-- WORDS...", "candidates for shell completion, one a line",
                                    NULL,       no_opts,       run_complete};
