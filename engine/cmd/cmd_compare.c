/* mull-engine compare: two evaluations of the same rows. */
#include "engine/cmd/cmd.h"
#include "engine/eval/compare.h"

#include <string.h>

static const char USAGE[] = "usage: mull-engine compare --eval A B [--rounds 2000]\n\n"
                            "A, B: folders that mull-engine eval wrote. One JSON object: for each task in both the "
                            "means, their difference with\n"
                            "a 95 % interval (paired bootstrap) and the p-value of McNemar's exact test, or of sign "
                            "flips where scores are not\n"
                            "0 or 1. Rows are paired by doc_id.\n";

int mull_cmd_compare(int argc, char **argv) {
    const char *dirs[2] = {NULL, NULL};
    long long rounds = 2000;
    int n = 0, rc;
    mull_error err = {0};
    json_t *out = NULL;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--help")) {
            fputs(USAGE, stdout);
            return MULL_EXIT_OK;
        }
        if (!strcmp(argv[i], "--eval")) continue;
        if (!strcmp(argv[i], "--rounds") && i + 1 < argc) {
            if ((rc = mull_cmd_int("compare", "--rounds", argv[++i], 2, 1000000, &rounds))) return rc;
        } else if (argv[i][0] != '-' && n < 2)
            dirs[n++] = argv[i];
        else
            return mull_cmd_usage("compare", "unexpected argument '%s'", argv[i]);
    }
    if (n < 2) return mull_cmd_usage("compare", "two folders of evaluations are needed");
    if (mull_compare_evals(dirs[0], dirs[1], (int)rounds, &out, &err)) return mull_cmd_fail(&err);
    mull_cmd_emit(out);
    return MULL_EXIT_OK;
}
