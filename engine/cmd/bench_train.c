/* mull-engine bench train: whole training steps (forward, backward, AdamW) on random tokens, with the language model
 * trained and the vision tower frozen, as all recipes do it. The roof is what the cores can do on registers alone. */
#include "engine/cmd/bench.h"
#include "engine/cmd/cmd.h"
#include "engine/cmd/cmd_model.h"
#include "engine/core/rng.h"
#include "engine/ops/roof.h"
#include "engine/train/trainer.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>

static const char USAGE[] =
    "usage: mull-engine bench train --model DIR [--tokens 384] [--sequences 1] [--steps 5] [--dtype f32|bf16]\n"
    "                               [--recompute none|attention|layer] [--lora-rank 0] [--threads N]\n"
    "                               [--device cpu|cuda]\n"
    "  One JSON line: tokens a second of the median step after the first, FLOP/s against the roof, peak memory.\n";

enum { STEPS_MAX = 1000 };

typedef struct train_bench {
    mull_batch batch;
    double ms[STEPS_MAX], flops, roof; /* roof: what the step measured against */
    int n;
} train_bench;

static int next(void *ctx, mull_batch *out, mull_error *err) {
    (void)err;
    *out = ((train_bench *)ctx)->batch;
    return MULL_OK;
}
static void release(void *ctx, mull_batch *b) {
    (void)ctx, (void)b;
}
static mull_position position(void *ctx) {
    (void)ctx;
    return (mull_position){0};
}
static void step(void *ctx, const mull_step *s) {
    train_bench *b = ctx;
    b->flops = s->flops;
    if (s->mfu > 0 && s->seconds > 0) b->roof = s->flops / s->seconds / s->mfu;
    if (s->step > 1) b->ms[b->n++] = s->seconds * 1e3;
}

static int fill(train_bench *b, const mull_config *c, long long tokens, long long sequences) {
    b->batch = (mull_batch){.rows = tokens, .nseq = (int)sequences, .last = true};
    b->batch.ids = malloc((size_t)tokens * sizeof *b->batch.ids);
    b->batch.labels = malloc((size_t)tokens * sizeof *b->batch.labels);
    b->batch.cu = malloc((size_t)(sequences + 1) * sizeof *b->batch.cu);
    if (!b->batch.ids || !b->batch.labels || !b->batch.cu) return MULL_ENOMEM;
    for (long long i = 0; i < tokens; i++) {
        int32_t id = (int32_t)(mull_uniform(1, 0, (uint64_t)i) * c->vocab);
        if (id == c->image_token || id == c->video_token) id = 0;
        b->batch.ids[i] = b->batch.labels[i] = id;
    }
    for (long long s = 0; s <= sequences; s++) b->batch.cu[s] = (int32_t)(tokens * s / sequences);
    return MULL_OK;
}

int mull_bench_train(int argc, char **argv) {
    static const struct option LONG[] = {{"model", 1, 0, 'm'},
                                         {"tokens", 1, 0, 'n'},
                                         {"sequences", 1, 0, 's'},
                                         {"steps", 1, 0, 'k'},
                                         {"dtype", 1, 0, 'd'},
                                         {"recompute", 1, 0, 'r'},
                                         {"lora-rank", 1, 0, 'l'},
                                         {"threads", 1, 0, 't'},
                                         {"device", 1, 0, 'D'},
                                         {"help", 0, 0, 'h'},
                                         {0, 0, 0, 0}};
    char *model = NULL;
    long long tokens = 384, sequences = 1, steps = 5, rank = 0;
    mull_cmd_model load = {0};
    mull_recipe r = {.kind = MULL_SFT,
                     .freeze_vision = true,
                     .learning_rate = 1e-6,
                     .adam_beta1 = 0.9,
                     .adam_beta2 = 0.999,
                     .adam_epsilon = 1e-8,
                     .max_grad_norm = 5,
                     .lora_alpha = 16};
    int ch;
    optind = 1;
    while ((ch = getopt_long(argc, argv, "", LONG, NULL)) != -1) {
        int rc = 0;
        switch (ch) {
        case 'm':
            model = optarg;
            break;
        case 'n':
            rc = mull_cmd_int("bench train", "--tokens", optarg, 2, 1 << 20, &tokens);
            break;
        case 's':
            rc = mull_cmd_int("bench train", "--sequences", optarg, 1, 1 << 16, &sequences);
            break;
        case 'k':
            rc = mull_cmd_int("bench train", "--steps", optarg, 2, STEPS_MAX, &steps);
            break;
        case 'd':
            rc = mull_cmd_dtype("bench train", optarg, &load);
            r.bf16 = load.weights == MULL_WEIGHT_BF16;
            break;
        case 'r':
            r.recompute = !strcmp(optarg, "layer")       ? MULL_RECOMPUTE_LAYER
                          : !strcmp(optarg, "attention") ? MULL_RECOMPUTE_ATTENTION
                                                         : MULL_RECOMPUTE_NONE;
            if (r.recompute == MULL_RECOMPUTE_NONE && strcmp(optarg, "none"))
                rc = mull_cmd_usage("bench train", "--recompute takes none, attention or layer");
            break;
        case 'l':
            rc = mull_cmd_int("bench train", "--lora-rank", optarg, 0, 4096, &rank);
            break;
        case 't':
            rc = mull_cmd_threads("bench train", optarg, &load);
            break;
        case 'D':
            rc = mull_cmd_device("bench train", optarg, &load);
            break;
        case 'h':
            fputs(USAGE, stdout);
            return MULL_EXIT_OK;
        default:
            return mull_cmd_unknown("bench train", argv);
        }
        if (rc) return rc;
    }
    if (!model || optind < argc || sequences * 2 > tokens) return mull_cmd_usage("bench train", "it takes --model");
    r.model_path = model;
    r.lora_rank = rank;
    mull_error err = {0};
    mull_trainer *t = NULL;
    train_bench b = {0};
    mull_pool *pool = mull_pool_create(load.threads);
    const mull_train_backend *backend = mull_cmd_train_backend(&load);
    int rc = mull_trainer_create(
        &(mull_trainer_opts){.recipe = &r, .threads = load.threads, .steps = steps, .backend = backend}, &t, &err);
    if (!rc && fill(&b, mull_trainer_config(t), tokens, sequences))
        rc = mull_fail(&err, MULL_ENOMEM, "cannot measure", "train", "use fewer tokens", "out of memory");
    mull_train_source src = {next, release, position, &b};
    mull_train_hooks hooks = {.step = step, .ctx = &b};
    double roof = backend ? 0 : mull_roof_flops(pool, MULL_WEIGHT_F32);
    if (!rc) rc = mull_trainer_run(t, steps, &src, &hooks, &err);
    double after = backend ? b.roof : mull_roof_flops(pool, MULL_WEIGHT_F32);
    if (!rc) {
        double ms = mull_bench_median(b.ms, b.n);
        mull_bench_emit(&(mull_bench_line){
            .bench = "train",
            .dtype = r.bf16 ? "bf16" : "f32",
            .unit = "FLOP/s",
            .threads = mull_pool_threads(pool),
            .achieved = b.flops / ms * 1e3,
            .roof = after > roof ? after : roof,
            .more = json_pack("{s:s, s:I, s:I, s:f, s:f, s:I}", "on", backend ? backend->name : "cpu", "tokens",
                              (json_int_t)tokens, "sequences", (json_int_t)sequences, "step_ms", ms, "tok_s",
                              (double)tokens / ms * 1e3, "peak_bytes", (json_int_t)mull_cmd_peak_bytes())});
    }
    mull_trainer_destroy(t);
    mull_pool_destroy(pool);
    free(b.batch.ids);
    free(b.batch.labels);
    free(b.batch.cu);
    return rc ? mull_cmd_fail(&err) : MULL_EXIT_OK;
}
