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
/* As a file _mull in fpath it is the body of the function itself; sourced, it defines and registers it. */
static const char zsh_script[] =
    "#compdef mull\n"
    "_mull() {\n"
    "    local -a words_=(${(f)\"$(mull complete -- \"${(@)words[2,CURRENT]}\" 2>/dev/null)\"})\n"
    "    if (( ${#words_} )); then compadd -a words_; else _files; fi\n"
    "}\n"
    "if [ \"${funcstack[1]}\" = _mull ]; then _mull \"$@\"; else compdef _mull mull; fi\n";
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

/* The words in lower case that a command's usage line has: its actions, kinds, shells. Capitals stand for something
 * else, and what is in brackets is a flag or its value. False when there are none. */
static bool offer_words(const char *args) {
    bool any = false;
    int depth = 0;
    while (*args) {
        size_t n = strspn(args, "abcdefghijklmnopqrstuvwxyz-");
        size_t m = strcspn(args, " |[]");
        if (n && n == m && !depth) {
            printf("%.*s\n", (int)n, args);
            any = true;
        }
        args += m;
        for (; *args && strchr(" |[]", *args); args++) depth += (*args == '[') - (*args == ']');
    }
    return any;
}

static bool offer_values(const mull_cmd *cmd, const char *option) {
    const mull_opt *o;
    for (size_t i = 0; (o = mull_args_opt(cmd, i)); i++)
        if (o->word && (!strcmp(o->name, option) || (option[0] == '-' && option[1] == o->letter && !option[2]))) break;
    if (o && !strcmp(o->word, "STATE")) {
#define X(name, terminal, meaning) puts(#name);
        MULL_JOB_STATES(X)
#undef X
        return true;
    }
    return o && offer_words(o->word); /* table|wide|json; of DIR and the like the shell knows more */
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
        const mull_opt *o;
        puts("--help");
        for (size_t i = 0; (o = mull_args_opt(cmd, i)); i++) puts(o->name);
        return MULL_EXIT_OK;
    }
    if (before[0] == '-' && offer_values(cmd, before)) return MULL_EXIT_OK;
    if (n == 2 && offer_words(cmd->args)) return MULL_EXIT_OK;
    if (strstr(cmd->args, "ID") || (!strcmp(cmd->name, "submit") && !strcmp(before, "rollout"))) offer_ids();
    return MULL_EXIT_OK;
}

const mull_cmd mull_cmd_complete = {"complete", "-- WORDS...", "candidates for shell completion, one a line",
                                    NULL,       no_opts,       run_complete};
