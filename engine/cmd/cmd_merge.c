/* mull-engine merge: a LoRA adapter into its base, as a model folder of its own. */
#include "engine/cmd/cmd.h"

#include "engine/train/lora.h"

#include <getopt.h>
#include <string.h>

static const char USAGE[] =
    "usage: mull-engine merge --model DIR --adapter DIR --out DIR [--dtype bf16|f32]\n\n"
    "Writes the base model with a LoRA adapter (PEFT's layout, what mull-engine train saves with\n"
    "lora_rank) merged into its weights. Without --dtype: bf16.\n";

int mull_cmd_merge(int argc, char **argv) {
    static const struct option LONG[] = {{"model", 1, 0, 'm'}, {"adapter", 1, 0, 'a'}, {"out", 1, 0, 'o'},
                                         {"dtype", 1, 0, 'd'}, {"help", 0, 0, 'h'},    {0, 0, 0, 0}};
    const char *model = NULL, *adapter = NULL, *out = NULL;
    bool half = true;
    int ch;
    optind = 1;
    while ((ch = getopt_long(argc, argv, "", LONG, NULL)) != -1) {
        switch (ch) {
        case 'm':
            model = optarg;
            break;
        case 'a':
            adapter = optarg;
            break;
        case 'o':
            out = optarg;
            break;
        case 'd':
            if (strcmp(optarg, "bf16") && strcmp(optarg, "f32"))
                return mull_cmd_usage("merge", "--dtype takes bf16 or f32, not '%s'", optarg);
            half = !strcmp(optarg, "bf16");
            break;
        case 'h':
            fputs(USAGE, stdout);
            return MULL_EXIT_OK;
        default:
            return mull_cmd_unknown("merge", argv);
        }
    }
    if (!model || !adapter || !out || optind < argc)
        return mull_cmd_usage("merge", "it takes --model, --adapter and --out");
    mull_error err = {0};
    int rc = mull_lora_merge_folder(model, adapter, out, half, &err);
    if (!rc) mull_cmd_emit(json_pack("{s:s}", "out", out));
    return rc ? mull_cmd_fail(&err) : MULL_EXIT_OK;
}
