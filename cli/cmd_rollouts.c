/* mull rollouts: the completions that a GRPO job kept. The engine reads them: it becomes this process. */
#include "cli/args.h"
#include "cli/jobs.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct opts {
    bool json;
    const char *step, *type, *lo, *hi, *limit;
} opts;

static const mull_opt rollouts_opts[] = {
    {"--step", 's', MULL_OPT_TEXT, offsetof(opts, step), NULL, "N", "only of this step of the data, -1: the last"},
    {"--type", 0, MULL_OPT_TEXT, offsetof(opts, type), NULL, "TYPE", "only of this problem type"},
    {"--min-reward", 0, MULL_OPT_TEXT, offsetof(opts, lo), NULL, "X", "only with at least this reward"},
    {"--max-reward", 0, MULL_OPT_TEXT, offsetof(opts, hi), NULL, "X", "only with at most this reward"},
    {"--limit", 'n', MULL_OPT_TEXT, offsetof(opts, limit), NULL, "N", "at most N completions (default 20, 0: all)"},
    {"--json", 0, MULL_OPT_FLAG, offsetof(opts, json), NULL, NULL, "JSON lines with token ids and log-probs"},
    {0}};

static int run_rollouts(const mull_cmd *cmd, int argc, char **argv) {
    opts o = {0};
    int words, n = 0;
    MULL_PARSE(cmd, argc, argv, &o, &words);
    if (words != 1) return mull_usage(cmd->name, words ? "one job at a time" : "which job? give its id");
    if (mull_id_check(cmd->name, argv[1])) return MULL_EXIT_USAGE;
    char exe[4096], *folder = mull_train_folder(argv[1], "cannot show completions");
    if (!folder) return MULL_EXIT_FAILED;
    const char *args[16] = {"mull-engine", "rollouts", folder};
    const struct {
        const char *flag, *value;
    } with[] = {
        {"--step", o.step}, {"--type", o.type}, {"--min-reward", o.lo}, {"--max-reward", o.hi}, {"--limit", o.limit}};
    n = 3;
    for (size_t i = 0; i < sizeof with / sizeof *with; i++)
        if (with[i].value) {
            args[n++] = with[i].flag;
            args[n++] = with[i].value;
        }
    if (o.json) args[n++] = "--json";
    ssize_t len = readlink("/proc/self/exe", exe, sizeof exe - 16);
    char *slash = len > 0 ? (exe[len] = 0, strrchr(exe, '/')) : NULL;
    if (slash) {
        strcpy(slash + 1, "mull-engine");
        execv(exe, (char *const *)(uintptr_t)args);
    }
    mull_complain("cannot show completions", slash ? exe : "mull-engine", "build or install mull-engine beside mull",
                  "it cannot be started");
    free(folder);
    return MULL_EXIT_FAILED;
}

const mull_cmd mull_cmd_rollouts = {
    "rollouts",
    "ID [flags]",
    "what a GRPO job's model answered, with rewards",
    "examples:\n  mull rollouts 17 --step -1\n  mull rollouts 17 --max-reward 0.5 --json\n",
    rollouts_opts,
    run_rollouts};
