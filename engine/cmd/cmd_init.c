/* mull-engine init: a checkpoint folder with random weights. */
#include "engine/cmd/cmd.h"
#include "engine/model/init.h"

#include <string.h>

static void help(FILE *f) {
    fprintf(f, "usage: mull-engine init --preset NAME --out DIR [--seed N] [--tokenizer DIR]\n\n"
               "Writes a Hugging Face folder with random bf16 weights; random weights write noise.\n\n");
    for (const mull_preset_name *p = mull_preset_names; p->name; p++)
        fprintf(f, "  --preset %-10s %s\n", p->name, p->text);
    fprintf(f, "  --seed N            the same seed gives the same bytes (default 0)\n"
               "  --tokenizer DIR     copy this tokenizer instead of writing a byte-level one\n");
}

int mull_cmd_init(int argc, char **argv) {
    const char *preset = NULL, *out = NULL, *tokenizer = NULL;
    long long seed = 0;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--help")) {
            help(stdout);
            return MULL_EXIT_OK;
        }
        const char **to = !strcmp(argv[i], "--preset")      ? &preset
                          : !strcmp(argv[i], "--out")       ? &out
                          : !strcmp(argv[i], "--tokenizer") ? &tokenizer
                                                            : NULL;
        if (!to && strcmp(argv[i], "--seed")) return mull_cmd_usage("init", "unknown argument '%s'", argv[i]);
        if (++i == argc) return mull_cmd_usage("init", "%s needs a value", argv[i - 1]);
        if (to)
            *to = argv[i];
        else if (mull_cmd_int("init", "--seed", argv[i], 0, INT64_MAX, &seed))
            return MULL_EXIT_USAGE;
    }
    if (!preset || !out) return mull_cmd_usage("init", "--preset and --out are needed");
    mull_error err = {0};
    if (mull_init_checkpoint(preset, out, (uint64_t)seed, tokenizer, &err)) return mull_cmd_fail(&err);
    mull_cmd_emit(json_pack("{s:s,s:s,s:I}", "out", out, "preset", preset, "seed", (json_int_t)seed));
    return MULL_EXIT_OK;
}
