/* mull-engine grad: the loss of a training case and every gradient, under the names of the weights. */
#include "engine/cmd/cmd.h"

#include "engine/cmd/cmd_model.h"
#include "engine/train/grad.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>

static const char USAGE[] =
    "usage: mull-engine grad --model DIR --case F.safetensors [--case F2 ..] --loss ce|stage1|grpo --out "
    "O.safetensors\n"
    "                        [--loss-type grpo|dr_grpo|bnpo|dapo] [--beta 0.04] [--epsilon 0.2] [--epsilon-high E]\n"
    "                        [--max-completion-length 64] [--temperature 1] [--reinforce] [--loss-norm sample|token]\n"
    "                        [--train-vision] [--freeze PATTERNS] [--recompute none|attention|layer] [--dtype "
    "f32|bf16] [--threads "
    "N] [--device cpu|cuda]\n\n"
    "Runs a training case forward and backward, the vision tower frozen (or with --train-vision trained), and writes "
    "loss, token_nll or logps and "
    "kl,\n"
    "and grad.NAME of every trained tensor. Several cases are the micro-batches of one accumulation window.\n"
    "A case holds input_ids [T] and its media as for forward, and\n"
    "  ce, stage1: labels [T] (-100 is ignored; not shifted)\n"
    "  stage1:     reasoning_pixel_values [n,1176], reasoning_grid_thw [k,3], one for each <|latent_image|>\n"
    "  grpo:       completion_ids, cu_completions [G+1], advantages [G], ref_logps, optional old_logps (input_ids is\n"
    "              the prompt)\n"
    "--freeze takes comma-separated patterns of tensor names (*, ?). --dtype bf16 rounds the weights that products "
    "see;\n"
    "sums and gradients stay float32. --device cuda: on the first visible GPU, where activations are bf16 too then.\n";

enum { MAX_CASES = 64 };

typedef struct flags {
    const char *model, *out, *cases[MAX_CASES];
    int ncases;
    bool loss;
    mull_grad_opts o;
} flags;

/* The index of text in a NULL-ended list, or usage. */
static int choice(const char *flag, const char *text, const char *const *names, int *out) {
    for (int i = 0; names[i]; i++)
        if (!strcmp(text, names[i])) {
            *out = i;
            return 0;
        }
    return mull_cmd_usage("grad", "%s does not take '%s'", flag, text);
}

static int flag(flags *f, int ch) {
    mull_grad_opts *o = &f->o;
    long long n = 0;
    int i = 0, rc = 0;
    mull_cmd_model load = {0};
    switch (ch) {
    case 'm':
        f->model = optarg;
        return 0;
    case 'o':
        f->out = optarg;
        return 0;
    case 'c':
        if (f->ncases == MAX_CASES) return mull_cmd_usage("grad", "at most %d cases", MAX_CASES);
        f->cases[f->ncases++] = optarg;
        return 0;
    case 'l':
        f->loss = true;
        rc = choice("--loss", optarg, (const char *[]){"ce", "stage1", "grpo", NULL}, &i);
        o->loss = (mull_grad_loss)i;
        return rc;
    case 'y':
        rc = choice("--loss-type", optarg, (const char *[]){"grpo", "dr_grpo", "bnpo", "dapo", NULL}, &i);
        o->grpo.type = (mull_grpo_loss)i;
        return rc;
    case 'n':
        rc = choice("--loss-norm", optarg, (const char *[]){"sample", "token", NULL}, &i);
        o->ce.norm = (mull_loss_norm)i;
        return rc;
    case 'r':
        rc = choice("--recompute", optarg, (const char *[]){"none", "attention", "layer", NULL}, &i);
        o->net.recompute = (mull_recompute)i;
        return rc;
    case 't':
        rc = choice("--dtype", optarg, (const char *[]){"f32", "bf16", NULL}, &i);
        o->params.half = i == 1;
        return rc;
    case 'b':
        return mull_cmd_double("grad", "--beta", optarg, 0, 1e6, &o->grpo.beta);
    case 'e':
        return mull_cmd_double("grad", "--epsilon", optarg, 0, 1, &o->grpo.epsilon);
    case 'E':
        return mull_cmd_double("grad", "--epsilon-high", optarg, 0, 1e6, &o->grpo.epsilon_high);
    case 'T':
        return mull_cmd_double("grad", "--temperature", optarg, 1e-3, 1e3, &o->grpo.temperature);
    case 'M':
        rc = mull_cmd_int("grad", "--max-completion-length", optarg, 1, 1 << 30, &n);
        o->grpo.max_completion_length = n;
        return rc;
    case 'v':
        f->o.params.vision = true;
        return 0;
    case 'R':
        o->grpo.reinforce = true;
        return 0;
    case 'f':
        o->params.freeze = optarg;
        return 0;
    case 'd':
        rc = mull_cmd_device("grad", optarg, &load);
        o->net.backend = mull_cmd_train_backend(&load);
        return rc;
    case 'N':
        rc = mull_cmd_threads("grad", optarg, &load);
        o->threads = load.threads;
        return rc;
    default:
        return MULL_EXIT_USAGE;
    }
}

int mull_cmd_grad(int argc, char **argv) {
    static const struct option LONG[] = {{"model", 1, 0, 'm'},
                                         {"case", 1, 0, 'c'},
                                         {"out", 1, 0, 'o'},
                                         {"loss", 1, 0, 'l'},
                                         {"loss-type", 1, 0, 'y'},
                                         {"loss-norm", 1, 0, 'n'},
                                         {"recompute", 1, 0, 'r'},
                                         {"dtype", 1, 0, 't'},
                                         {"beta", 1, 0, 'b'},
                                         {"epsilon", 1, 0, 'e'},
                                         {"epsilon-high", 1, 0, 'E'},
                                         {"temperature", 1, 0, 'T'},
                                         {"max-completion-length", 1, 0, 'M'},
                                         {"reinforce", 0, 0, 'R'},
                                         {"train-vision", 0, 0, 'v'},
                                         {"freeze", 1, 0, 'f'},
                                         {"device", 1, 0, 'd'},
                                         {"threads", 1, 0, 'N'},
                                         {"help", 0, 0, 'h'},
                                         {0, 0, 0, 0}};
    flags f = {
        .o = {.ce = {.backward = true},
              .grpo = {.beta = 0.04, .epsilon = 0.2, .temperature = 1, .max_completion_length = 64, .backward = true}}};
    int ch;
    optind = 1;
    while ((ch = getopt_long(argc, argv, "", LONG, NULL)) != -1) {
        if (ch == 'h') {
            fputs(USAGE, stdout);
            return MULL_EXIT_OK;
        }
        int rc = ch == '?' ? mull_cmd_unknown("grad", argv) : flag(&f, ch);
        if (rc) return rc;
    }
    if (!f.model || !f.ncases || !f.out || !f.loss || optind < argc)
        return mull_cmd_usage("grad", "it takes --model, --case, --loss and --out");
    f.o.ce.stage1 = f.o.loss == MULL_GRAD_STAGE1;

    mull_error err = {0};
    mull_outputs out = {0};
    double start = mull_cmd_ms();
    int rc = mull_grad_run(f.model, f.cases, f.ncases, &f.o, &out, &err);
    double ms = mull_cmd_ms() - start;
    if (!rc) rc = mull_safetensors_write(f.out, out.tensors, out.n, &err);
    if (!rc)
        mull_cmd_emit(json_pack("{s:s, s:f, s:I, s:f, s:I}", "out", f.out, "loss",
                                (double)*(const float *)mull_outputs_find(&out, "loss")->data, "tensors",
                                (json_int_t)out.n, "ms", ms, "peak_bytes", (json_int_t)mull_cmd_peak_bytes()));
    mull_outputs_fini(&out);
    return rc ? mull_cmd_fail(&err) : MULL_EXIT_OK;
}
