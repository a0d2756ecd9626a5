/* mull-engine train: a recipe to a trained checkpoint, one JSON line a step. */
#include "engine/cmd/cmd.h"

#include "engine/cmd/cmd_model.h"
#include "engine/cmd/train_ranks.h"
#include "engine/train/grpo.h"
#include "engine/train/session.h"

#include <getopt.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

static const char USAGE[] =
    "usage: mull-engine train CONFIG.yaml --out DIR [--set key=value ..] [--max-steps N] [--dry-run] [--threads N]\n"
    "                         [--ranks N] [--device cpu|cuda]\n\n"
    "Trains what the recipe says and writes one JSON line a step; checkpoints appear whole as DIR/checkpoint-N: "
    "Hugging\n"
    "Face folders with the optimiser's state beside the weights. --set resume_from_checkpoint=true goes on from the\n"
    "newest one, bit for bit. --dry-run prints the resolved plan: parameters, memory by part, steps.\n"
    "SIGTERM or SIGINT: a checkpoint is saved and the exit status is 75.\n"
    "--ranks N: so many processes on this machine share the work, each with its own samples and its part of what the\n"
    "recipe's zero_stage splits; --threads is each one's. A step takes N times as many samples. The run goes on from "
    "a\n"
    "checkpoint of any number of ranks; with the same number bit for bit.\n"
    "--device cuda: on the first visible GPU; with bf16: true products read bf16, else float32. Not yet there:\n"
    "rollout_mode: disaggregated, several ranks.\n";

static volatile sig_atomic_t stopped;

static void on_signal(int sig) {
    (void)sig;
    stopped = 1;
}

static bool stop(void *ctx) {
    (void)ctx;
    return stopped != 0;
}

static json_t *real(double x) {
    return isfinite(x) ? json_real(x) : json_null();
}

static void step(void *ctx, const mull_step *s) {
    (void)ctx;
    json_t *j =
        json_pack("{s:I,s:o,s:o,s:o,s:o,s:f,s:I,s:f,s:f,s:I}", "step", (json_int_t)s->step, "loss", real(s->loss), "ce",
                  real(s->ce), "cos", real(s->cos), "grad_norm", real(s->grad_norm), "lr", s->lr, "tokens",
                  (json_int_t)s->tokens, "tok_s", s->seconds > 0 ? (double)s->tokens / s->seconds : 0.0, "mfu", s->mfu,
                  "peak_bytes", (json_int_t)mull_cmd_peak_bytes());
    if (s->grpo) mull_grpo_figures_json(s->grpo, j);
    if (s->skipped) {
        json_object_set_new(j, "skipped", json_integer((json_int_t)s->skipped_so_far));
        fprintf(stderr, "warning: step %lld was skipped: its gradient is not finite (%lld so far)\n",
                (long long)s->step, (long long)s->skipped_so_far);
    }
    if (s->spike) {
        json_object_set_new(j, "spike", json_true());
        fprintf(stderr, "warning: loss spike at step %lld: %g\n", (long long)s->step, s->loss);
    }
    mull_cmd_emit(j);
}

static void checkpoint(void *ctx, int64_t n, const char *path) {
    (void)ctx;
    fprintf(stderr, "checkpoint of step %lld: %s\n", (long long)n, path);
}

static void note(void *ctx, const char *level, const char *text) {
    (void)ctx;
    fprintf(stderr, "%s: %s\n", level, text);
}

static void nothing(void *ctx, const json_t *plan) {
    (void)ctx, (void)plan;
}

/* What every rank would stumble over is told once, before there are several. */
static int start_ranks(mull_train_session_opts o, int ranks, int argc, char **argv) {
    mull_train_session_hooks h = {.run = {.ctx = &o.dry_run}, .note = note, .start = nothing};
    mull_error err = {0};
    o.dry_run = true;
    o.ranks = ranks;
    int rc = mull_train_session(&o, &h, &err);
    return rc ? mull_cmd_fail(&err) : mull_cmd_train_ranks(ranks, argc, argv);
}

static void start(void *ctx, const json_t *plan) {
    const json_t *total = json_object_get(json_object_get(plan, "memory"), "total");
    if (*(const bool *)ctx)
        mull_cmd_emit(json_deep_copy(plan));
    else
        fprintf(stderr, "training %lld of %lld parameters for %lld steps, about %.2f GB\n",
                (long long)json_integer_value(json_object_get(plan, "trainable")),
                (long long)json_integer_value(json_object_get(plan, "parameters")),
                (long long)json_integer_value(json_object_get(plan, "steps")), (double)json_integer_value(total) / 1e9);
}

int mull_cmd_train(int argc, char **argv) {
    enum { MAX_SETS = 256 };
    static const struct option LONG[] = {{"out", 1, 0, 'o'},     {"set", 1, 0, 's'},     {"max-steps", 1, 0, 'n'},
                                         {"dry-run", 0, 0, 'd'}, {"threads", 1, 0, 't'}, {"device", 1, 0, 'D'},
                                         {"help", 0, 0, 'h'},    {"ranks", 1, 0, 'r'},   {0, 0, 0, 0}};
    const char *sets[MAX_SETS];
    mull_train_session_opts o = {.sets = sets};
    mull_cmd_model load = {0};
    long long n = 0, ranks = 1;
    int ch;
    optind = 1;
    while ((ch = getopt_long(argc, argv, "", LONG, NULL)) != -1) {
        int rc = 0;
        switch (ch) {
        case 'o':
            o.out = optarg;
            break;
        case 's':
            if (o.nsets == MAX_SETS) return mull_cmd_usage("train", "at most %d --set", MAX_SETS);
            sets[o.nsets++] = optarg;
            break;
        case 'n':
            rc = mull_cmd_int("train", "--max-steps", optarg, 1, 1LL << 40, &n);
            o.max_steps = n;
            break;
        case 'd':
            o.dry_run = true;
            break;
        case 't':
            rc = mull_cmd_threads("train", optarg, &load);
            o.threads = load.threads;
            break;
        case 'D':
            rc = mull_cmd_device("train", optarg, &load);
            o.backend = mull_cmd_train_backend(&load);
            break;
        case 'r':
            rc = mull_cmd_int("train", "--ranks", optarg, 1, MULL_WORLD_MAX, &ranks);
            break;
        case 'h':
            fputs(USAGE, stdout);
            return MULL_EXIT_OK;
        default:
            return mull_cmd_unknown("train", argv);
        }
        if (rc) return rc;
    }
    if (optind + 1 != argc || (!o.out && !o.dry_run)) return mull_cmd_usage("train", "it takes CONFIG.yaml and --out");
    o.config = argv[optind];
    if (!o.out) o.out = ".";
    o.ranks = (int)ranks;
    if (ranks > 1 && o.backend)
        return mull_cmd_usage("train", "--ranks is for --device cpu: several ranks train on the CPU only");
    if (ranks > 1 && !o.dry_run && !getenv("MULL_WORLD_SIZE")) return start_ranks(o, (int)ranks, argc, argv);
    struct sigaction sa = {.sa_handler = on_signal};
    sigaction(SIGTERM, &sa, NULL);
    sigaction(SIGINT, &sa, NULL);
    mull_train_session_hooks h = {.run = {step, checkpoint, stop, &o.dry_run}, .note = note, .start = start};
    mull_error err = {0};
    int rc = mull_train_session(&o, &h, &err);
    if (rc == MULL_ECANCELLED) {
        mull_error_print(stderr, &err);
        return MULL_EXIT_REQUEUE;
    }
    return rc ? mull_cmd_fail(&err) : MULL_EXIT_OK;
}
