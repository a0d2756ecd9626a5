/* mull-engine recipe: checks a training recipe alone, without its data or model. What mull submit train asks before a
 * job is queued. */
#include "engine/cmd/cmd.h"
#include "engine/data/recipe.h"

#include <string.h>

static void help(FILE *f) {
    fprintf(f,
            "usage: mull-engine recipe CONFIG.yaml [--set key=value ..]\n\n"
            "Reads the recipe and prints every key resolved, as one JSON object; notes and every error, with its line\n"
            "and the nearest known key, on standard error. Exit 2 when something is wrong.\n");
}

int mull_cmd_recipe(int argc, char **argv) {
    enum { MAX_SETS = 256 };
    const char *sets[MAX_SETS], *config = NULL;
    size_t n = 0;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--help")) {
            help(stdout);
            return MULL_EXIT_OK;
        }
        if (!strcmp(argv[i], "--set")) {
            if (i + 1 == argc || n == MAX_SETS)
                return mull_cmd_usage("recipe", n == MAX_SETS ? "at most 256 --set" : "--set needs key=value");
            sets[n++] = argv[++i];
        } else if (argv[i][0] == '-' || config) {
            return mull_cmd_usage("recipe", "unexpected argument '%s'", argv[i]);
        } else {
            config = argv[i];
        }
    }
    if (!config) return mull_cmd_usage("recipe", "it takes CONFIG.yaml");
    mull_recipe r;
    mull_recipe_report report = {0};
    mull_error err = {0};
    int rc = mull_recipe_load(config, sets, n, &r, &report, &err);
    for (size_t i = 0; i < report.n; i++) {
        const mull_recipe_note *note = &report.notes[i];
        if (!note->error) fprintf(stderr, "note: %s%s%s\n", note->key, *note->key ? ": " : "", note->message);
    }
    mull_recipe_report_fini(&report);
    if (rc) return mull_cmd_fail(&err);
    mull_cmd_emit(mull_recipe_json(&r));
    mull_recipe_fini(&r);
    return MULL_EXIT_OK;
}
