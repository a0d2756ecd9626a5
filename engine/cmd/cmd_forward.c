/* mull-engine forward: one pass over a case file, written under the names of the reference vectors. */
#include "engine/cmd/cmd.h"

#include "engine/cmd/cmd_model.h"
#include "engine/model/forward.h"

#include <getopt.h>
#include <string.h>

static const char USAGE[] =
    "usage: mull-engine forward --model DIR --case F.safetensors --out O.safetensors\n"
    "                           [--device cpu|cuda] [--dtype f32|bf16|int8] [--threads N] [--all]\n\n"
    "Runs a case (token ids of one or more packed sequences, with their media) and writes position_ids, rope_delta,\n"
    "vision_out, inputs_embeds, hidden_final, logits_last, logsumexp, argmax, top8_ids, top8_logits, next_logprob.\n"
    "--all adds hidden.I of every decoder layer and media.K.vision.* of every medium.\n"
    "--dtype says how the weights are kept; without it, as the checkpoint stores them. Sums are always float32.\n";

int mull_cmd_forward(int argc, char **argv) {
    static const struct option LONG[] = {{"model", 1, 0, 'm'},  {"case", 1, 0, 'c'},    {"out", 1, 0, 'o'},
                                         {"device", 1, 0, 'd'}, {"dtype", 1, 0, 't'},   {"all", 0, 0, 'a'},
                                         {"help", 0, 0, 'h'},   {"threads", 1, 0, 'n'}, {0, 0, 0, 0}};
    const char *model = NULL, *case_path = NULL, *out_path = NULL;
    mull_cmd_model load = {0};
    mull_forward_opts opts = {0};
    int ch;
    optind = 1;
    while ((ch = getopt_long(argc, argv, "", LONG, NULL)) != -1) {
        int rc = 0;
        switch (ch) {
        case 'm':
            model = optarg;
            break;
        case 'c':
            case_path = optarg;
            break;
        case 'o':
            out_path = optarg;
            break;
        case 'd':
            rc = mull_cmd_device("forward", optarg, &load);
            break;
        case 't':
            rc = mull_cmd_dtype("forward", optarg, &load);
            break;
        case 'n':
            rc = mull_cmd_threads("forward", optarg, &load);
            break;
        case 'a':
            opts.all = true;
            break;
        case 'h':
            fputs(USAGE, stdout);
            return MULL_EXIT_OK;
        default:
            return mull_cmd_unknown("forward", argv);
        }
        if (rc) return rc;
    }
    if (!model || !case_path || !out_path || optind < argc)
        return mull_cmd_usage("forward", "it takes --model, --case and --out");

    mull_error err = {0};
    mull_model *m = NULL;
    mull_case k = {0};
    mull_outputs out = {0};
    double load_ms, forward_ms = 0;
    int rc = mull_cmd_load(model, &load, &m, &load_ms, &err);
    if (!rc) rc = mull_case_open(case_path, mull_model_config(m), &k, &err);
    double start = mull_cmd_ms();
    if (!rc) rc = mull_forward(m, &k, &opts, &out, &err);
    forward_ms = mull_cmd_ms() - start;
    if (!rc) rc = mull_safetensors_write(out_path, out.tensors, out.n, &err);
    if (!rc)
        mull_cmd_emit(json_pack("{s:s, s:I, s:i, s:I, s:I, s:{s:f, s:f, s:I}}", "out", out_path, "tokens",
                                (json_int_t)k.rows, "sequences", k.nseq, "media", (json_int_t)k.nmedia, "tensors",
                                (json_int_t)out.n, "timings", "load_ms", load_ms, "forward_ms", forward_ms,
                                "peak_bytes", (json_int_t)mull_cmd_peak_bytes()));
    mull_outputs_fini(&out);
    mull_case_fini(&k);
    mull_model_destroy(m);
    return rc ? mull_cmd_fail(&err) : MULL_EXIT_OK;
}
