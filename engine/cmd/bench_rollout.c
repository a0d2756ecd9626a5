/* bench rollout: a group of completions of one prompt, with the prompt computed once and with every completion
 * computing it again, in turns on one model. What GRPO's rollouts gain from the shared beginning. */
#include "engine/cmd/bench.h"
#include "engine/cmd/cmd.h"
#include "engine/cmd/cmd_model.h"
#include "engine/infer/infer.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>

static const char USAGE[] =
    "usage: mull-engine bench rollout --model DIR [--group G] [--prompt N] [--tokens N] [--dtype T] [--threads N]\n"
    "                                 [--repeat N]\n\n"
    "Generated tokens a second of G completions (default 8) of one prompt of N tokens (default 1024), each of "
    "--tokens\n"
    "(default 64), prefill included: with the prompt shared and without. The first turn of each is not counted.\n";

typedef struct rollout {
    mull_model *m;
    long long group, prompt, tokens, repeat;
    int64_t made;
} rollout;

static void done(void *ctx, const mull_result *r) {
    ((rollout *)ctx)->made += (int64_t)r->n;
}

/* Seconds of one group on an engine of its own; *rows: tokens that went through the model. */
static int turn(rollout *b, bool share, double *seconds, int64_t *rows, mull_error *err) {
    mull_infer_opts o = {.cache_tokens = (b->prompt + b->tokens + 64) * b->group,
                         .max_batch = (int)b->group,
                         .no_prefix_cache = !share,
                         .raw = true};
    mull_infer_callbacks cb = {.ctx = b, .on_done = done};
    mull_infer *f = NULL;
    int32_t *ids = malloc((size_t)b->prompt * sizeof *ids);
    int rc = ids ? mull_infer_create(b->m, NULL, &o, &cb, &f, err)
                 : mull_fail(err, MULL_ENOMEM, "cannot measure", "rollout", NULL, "out of memory");
    /* Text alone: low ids, none of them special. */
    for (long long i = 0; !rc && i < b->prompt; i++) ids[i] = (int32_t)(33 + i * 7919 % 200);
    double start = mull_cmd_ms();
    b->made = 0;
    for (long long k = 0; !rc && k < b->group; k++) {
        mull_request r = {.id = (uint64_t)k,
                          .ids = ids,
                          .n = (size_t)b->prompt,
                          .sampling = {.max_new_tokens = (int)b->tokens,
                                       .temperature = 1,
                                       .top_p = 1,
                                       .repetition_penalty = 1,
                                       .seed = (uint64_t)k,
                                       .ignore_eos = true,
                                       .logprobs = 1}};
        rc = mull_infer_submit(f, &r, err);
    }
    while (!rc && mull_infer_pending(f))
        if (mull_infer_step(f, err) < 0) rc = err->code;
    *seconds = (mull_cmd_ms() - start) / 1e3;
    mull_infer_stats stats;
    if (f) mull_infer_get_stats(f, &stats);
    *rows = f ? stats.rows : 0;
    mull_infer_destroy(f);
    free(ids);
    return rc;
}

int mull_bench_rollout(int argc, char **argv) {
    static const struct option LONG[] = {{"model", 1, 0, 'm'},  {"dtype", 1, 0, 't'},  {"threads", 1, 0, 'n'},
                                         {"repeat", 1, 0, 'r'}, {"tokens", 1, 0, 'k'}, {"prompt", 1, 0, 'p'},
                                         {"group", 1, 0, 'g'},  {"help", 0, 0, 'h'},   {0, 0, 0, 0}};
    rollout b = {.group = 8, .prompt = 1024, .tokens = 64, .repeat = 3};
    mull_cmd_model load = {0};
    const char *dir = NULL, *cmd = "bench rollout";
    int opt, rc = 0;
    optind = 1;
    while (!rc && (opt = getopt_long(argc, argv, "", LONG, NULL)) != -1) {
        switch (opt) {
        case 'm':
            dir = optarg;
            break;
        case 't':
            rc = mull_cmd_dtype(cmd, optarg, &load);
            break;
        case 'n':
            rc = mull_cmd_threads(cmd, optarg, &load);
            break;
        case 'r':
            rc = mull_cmd_int(cmd, "--repeat", optarg, 1, 1000, &b.repeat);
            break;
        case 'k':
            rc = mull_cmd_int(cmd, "--tokens", optarg, 1, 1 << 20, &b.tokens);
            break;
        case 'p':
            rc = mull_cmd_int(cmd, "--prompt", optarg, 1, 1 << 20, &b.prompt);
            break;
        case 'g':
            rc = mull_cmd_int(cmd, "--group", optarg, 1, 4096, &b.group);
            break;
        case 'h':
            fputs(USAGE, stdout);
            return MULL_EXIT_OK;
        default:
            return mull_cmd_unknown("bench", argv);
        }
    }
    if (!rc && (!dir || optind < argc)) return mull_cmd_usage(cmd, "it takes --model and flags");
    if (rc) return rc;
    mull_error err = {0};
    double load_ms,
        *seconds[2] = {malloc((size_t)b.repeat * sizeof(double)), malloc((size_t)b.repeat * sizeof(double))};
    int64_t rows[2] = {0};
    rc = seconds[0] && seconds[1] ? mull_cmd_load(dir, &load, &b.m, &load_ms, &err)
                                  : mull_fail(&err, MULL_ENOMEM, "cannot measure", cmd, NULL, "out of memory");
    for (long long i = -1; !rc && i < b.repeat; i++)
        for (int share = 0; !rc && share < 2; share++) {
            double s;
            rc = turn(&b, share, &s, &rows[share], &err);
            if (!rc && i >= 0) seconds[share][i] = s;
        }
    if (!rc) {
        double without = mull_bench_median(seconds[0], (int)b.repeat),
               with = mull_bench_median(seconds[1], (int)b.repeat);
        double made = (double)b.group * (double)b.tokens;
        mull_cmd_emit(json_pack("{s:s,s:i,s:I,s:I,s:I,s:f,s:f,s:f,s:I,s:I}", "bench", "rollout", "threads",
                                mull_pool_threads(mull_model_pool(b.m)), "group", (json_int_t)b.group, "prompt",
                                (json_int_t)b.prompt, "tokens", (json_int_t)b.tokens, "tok_s", made / with,
                                "tok_s_without_sharing", made / without, "speedup", without / with, "rows",
                                (json_int_t)rows[1], "rows_without_sharing", (json_int_t)rows[0]));
    }
    mull_model_destroy(b.m);
    free(seconds[0]);
    free(seconds[1]);
    return rc ? mull_cmd_fail(&err) : MULL_EXIT_OK;
}
