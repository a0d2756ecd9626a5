/* mull doctor. */
#include "cli/args.h"

static const mull_opt opts[] = {{0}};
static int run(const mull_cmd *cmd, int argc, char **argv) {
    (void)argc;
    (void)argv;
    return mull_usage(cmd->name, "not in this build yet");
}

const mull_cmd mull_cmd_doctor = {"doctor", "", "not in this build yet", 0, opts, run};
