/* mull-engine run. */
#include "engine/cmd/cmd.h"

int mull_cmd_run(int argc, char **argv) {
    (void)argc;
    (void)argv;
    return mull_cmd_usage("run", "not in this build yet");
}
