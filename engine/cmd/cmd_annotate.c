/* mull-engine annotate. */
#include "engine/cmd/cmd.h"

int mull_cmd_annotate(int argc, char **argv) {
    (void)argc;
    (void)argv;
    return mull_cmd_usage("annotate", "not in this build yet");
}
