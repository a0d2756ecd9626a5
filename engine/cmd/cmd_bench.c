/* mull-engine bench: picks the measurement, and what all of them share. A figure means little without what the machine
 * could do, so every line carries a roof measured in the same process just before and after. */
#include "engine/cmd/bench.h"
#include "engine/cmd/cmd.h"
#include "engine/ops/kernels.h"

#include <stdlib.h>
#include <string.h>

static const char USAGE[] = "usage: mull-engine bench [NAME] [flags]\n\n"
                            "  gemm        matrix products and matrix-vector products with packed weights\n"
                            "  attn        attention: the vision tower's, prefill, decode\n"
                            "  decode      tokens a second of a model, against the memory's read rate\n"
                            "  prefill     prompt tokens a second of a model, against the rate of one large product\n"
                            "  vision      the vision tower, likewise\n"
                            "  train       a training step of a model, against multiply-adds on registers alone\n"
                            "  loader      a recipe's batches without training on them\n"
                            "  checkpoint  a training checkpoint, against plain bytes to the same folder\n"
                            "  preprocess  decoding and resizing of images and videos\n"
                            "  score       an evaluation task's scorer\n"
                            "  cuda        a GPU: copies, products, attention, and with --model a model\n"
                            "  rollout     a group of completions of one prompt, the prompt shared or not\n\n"
                            "Without NAME: gemm, then attn. bench NAME --help says more.\n";

static const struct {
    const char *name;
    int (*fn)(int, char **);
} benches[] = {{"gemm", mull_bench_gemm},
               {"attn", mull_bench_attn},
               {"decode", mull_bench_decode},
               {"prefill", mull_bench_prefill},
               {"vision", mull_bench_vision},
               {"train", mull_bench_train},
               {"loader", mull_bench_loader},
               {"checkpoint", mull_bench_checkpoint},
               {"preprocess", mull_bench_preprocess},
               {"score", mull_bench_score},
               {"cuda", mull_bench_cuda},
               {"rollout", mull_bench_rollout}};

void mull_bench_emit(const mull_bench_line *line) {
    json_t *out =
        json_pack("{s:s, s:s, s:i, s:s, s:f, s:f, s:f, s:s}", "bench", line->bench, "dtype", line->dtype, "threads",
                  line->threads, "isa", mull_kernels_get()->name, "achieved", line->achieved, "roof", line->roof,
                  "ratio", line->roof > 0 ? line->achieved / line->roof : 0, "unit", line->unit);
    if (out && line->more) json_object_update(out, line->more);
    json_decref(line->more);
    mull_cmd_emit(out);
}

const char *mull_bench_dtype(mull_weight_type type) {
    static const char *const names[] = {[MULL_WEIGHT_F32] = "f32",
                                        [MULL_WEIGHT_BF16] = "bf16",
                                        [MULL_WEIGHT_INT8] = "int8",
                                        [MULL_WEIGHT_BF16_DOT] = "bf16-dot"};
    return names[type];
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double mull_bench_median(double *v, int n) {
    qsort(v, (size_t)n, sizeof *v, by_value);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

int mull_cmd_bench(int argc, char **argv) {
    if (argc > 1 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
        fputs(USAGE, stdout);
        return MULL_EXIT_OK;
    }
    if (argc < 2) {
        int rc = mull_bench_gemm(argc, argv);
        return rc ? rc : mull_bench_attn(argc, argv);
    }
    for (size_t i = 0; i < sizeof benches / sizeof *benches; i++)
        if (!strcmp(argv[1], benches[i].name)) return benches[i].fn(argc - 1, argv + 1);
    return mull_cmd_usage("bench", "there is no measurement '%s'", argv[1]);
}
