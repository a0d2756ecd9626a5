/* mull-engine eval: a model on evaluation tasks. */
#include "engine/cmd/cmd.h"
#include "engine/cmd/cmd_model.h"
#include "engine/eval/evaluate.h"

#include <getopt.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

static const char USAGE[] =
    "usage: mull-engine eval --model DIR --tasks a,b --data DIR --out DIR [--limit N]\n"
    "  --prompt-style latents|videor1|sft|base|base_reason|default|cot   (latents with Mull tokens, else sft)\n"
    "  --vsibench-options true|false   --circular true|false (sat_real)   --shuffle true|false (vsibench)\n"
    "  --compat release   --max-new-tokens N   --temperature T   --seed N   --bootstrap 1000\n"
    "  --prompt-format mull|chatml|old   --mode mmlatent2|new_wtxt|none   --latents 20\n"
    "  --min-pixels 200704   --max-pixels 12845056   --nframes 32 | --fps F\n"
    "  --dtype auto|f32|bf16|int8   --threads N   --device cpu   --batch 16   --quiet\n\n"
    "DIR of --data holds a folder for each task (its name or the dataset's): JSON lines or parquet as downloaded, "
    "media\n"
    "in the rows or beside them. Writes OUT/results.json (lmms-eval's shape, with confidence intervals) and\n"
    "OUT/samples_TASK.jsonl. Killed at any time it goes on where it was when started again.\n\n"
    "Tasks:";

enum {
    O_MODEL = 256,
    O_TASKS,
    O_DATA,
    O_OUT,
    O_LIMIT,
    O_STYLE,
    O_OPTIONS,
    O_CIRCULAR,
    O_SHUFFLE,
    O_COMPAT,
    O_MAX_NEW,
    O_TEMPERATURE,
    O_SEED,
    O_BOOTSTRAP,
    O_FORMAT,
    O_MODE,
    O_LATENTS,
    O_MIN,
    O_MAX,
    O_NFRAMES,
    O_FPS,
    O_DTYPE,
    O_THREADS,
    O_DEVICE,
    O_BATCH,
    O_QUIET,
    O_HELP
};

static const struct option LONG[] = {{"model", 1, 0, O_MODEL},
                                     {"tasks", 1, 0, O_TASKS},
                                     {"data", 1, 0, O_DATA},
                                     {"out", 1, 0, O_OUT},
                                     {"limit", 1, 0, O_LIMIT},
                                     {"prompt-style", 1, 0, O_STYLE},
                                     {"vsibench-options", 1, 0, O_OPTIONS},
                                     {"circular", 1, 0, O_CIRCULAR},
                                     {"shuffle", 1, 0, O_SHUFFLE},
                                     {"compat", 1, 0, O_COMPAT},
                                     {"max-new-tokens", 1, 0, O_MAX_NEW},
                                     {"temperature", 1, 0, O_TEMPERATURE},
                                     {"seed", 1, 0, O_SEED},
                                     {"bootstrap", 1, 0, O_BOOTSTRAP},
                                     {"prompt-format", 1, 0, O_FORMAT},
                                     {"mode", 1, 0, O_MODE},
                                     {"latents", 1, 0, O_LATENTS},
                                     {"min-pixels", 1, 0, O_MIN},
                                     {"max-pixels", 1, 0, O_MAX},
                                     {"nframes", 1, 0, O_NFRAMES},
                                     {"fps", 1, 0, O_FPS},
                                     {"dtype", 1, 0, O_DTYPE},
                                     {"threads", 1, 0, O_THREADS},
                                     {"device", 1, 0, O_DEVICE},
                                     {"batch", 1, 0, O_BATCH},
                                     {"quiet", 0, 0, O_QUIET},
                                     {"help", 0, 0, O_HELP},
                                     {0, 0, 0, 0}};

typedef struct job {
    mull_eval_opts o;
    mull_job how; /* what a session needs to know */
    const mull_task *tasks[64];
    bool quiet;
    double told_ms;
} job;

static volatile sig_atomic_t asked_to_stop;

static void on_signal(int n) {
    (void)n;
    asked_to_stop = 1;
}

static bool stopped(void *ctx) {
    (void)ctx;
    return asked_to_stop;
}

static void progress(void *ctx, const char *task, int64_t done, int64_t total, int64_t tokens) {
    job *j = ctx;
    double now = mull_cmd_ms();
    if (j->quiet || (done < total && now - j->told_ms < 1000)) return;
    j->told_ms = now;
    fprintf(stderr, "%s: %lld of %lld, %lld tokens\n", task, (long long)done, (long long)total, (long long)tokens);
}

static int parse_tasks(job *j, char *list) {
    char *save = NULL;
    for (char *name = strtok_r(list, ",", &save); name; name = strtok_r(NULL, ",", &save)) {
        const mull_task *t = mull_task_find(name);
        if (!t) return mull_cmd_usage("eval", "there is no task '%s'", name);
        for (size_t i = 0; i < j->o.ntasks; i++)
            if (j->tasks[i] == t) t = NULL;
        if (t && j->o.ntasks == sizeof j->tasks / sizeof *j->tasks) return mull_cmd_usage("eval", "too many tasks");
        if (t) j->tasks[j->o.ntasks++] = t;
    }
    return 0;
}

static int parse_bool(const char *flag, const char *v, bool *out) {
    *out = !strcmp(v, "true");
    return *out || !strcmp(v, "false") ? 0 : mull_cmd_usage("eval", "%s takes true or false, not '%s'", flag, v);
}

static int parse_int(const char *flag, const char *v, long long lo, long long hi, int64_t *out) {
    long long n = 0;
    int rc = mull_cmd_int("eval", flag, v, lo, hi, &n);
    if (!rc) *out = n;
    return rc;
}

static int parse_flag(job *j, int opt, char *v) {
    int64_t n = 0;
    int rc = 0;
    mull_error err = {0};
    switch (opt) {
    case O_MODEL:
        j->how.model = v;
        return 0;
    case O_TASKS:
        return parse_tasks(j, v);
    case O_DATA:
        j->o.data = v;
        return 0;
    case O_OUT:
        j->o.out = v;
        return 0;
    case O_LIMIT:
        return parse_int("--limit", v, 0, INT64_MAX, &j->o.limit);
    case O_STYLE:
        j->o.style_given = true;
        return mull_prompt_style_parse(v, &j->o.prompt.style, &err) ? mull_cmd_fail(&err) : 0;
    case O_OPTIONS:
        return parse_bool("--vsibench-options", v, &j->o.prompt.vsibench_options);
    case O_CIRCULAR:
        return parse_bool("--circular", v, &j->o.circular);
    case O_SHUFFLE:
        return parse_bool("--shuffle", v, &j->o.shuffle);
    case O_COMPAT:
        j->o.compat = MULL_COMPAT_RELEASE;
        return strcmp(v, "release") ? mull_cmd_usage("eval", "--compat takes release, not '%s'", v) : 0;
    case O_MAX_NEW:
        return parse_int("--max-new-tokens", v, 1, 1 << 24, &j->o.max_new_tokens);
    case O_TEMPERATURE:
        return mull_cmd_double("eval", "--temperature", v, 0, 1000, &j->o.temperature);
    case O_SEED:
        rc = parse_int("--seed", v, 0, INT64_MAX, &n);
        j->o.seed = (uint64_t)n;
        return rc;
    case O_BOOTSTRAP:
        rc = parse_int("--bootstrap", v, 0, 1000000, &n);
        j->o.bootstrap = (int)n;
        return rc;
    case O_BATCH:
        rc = parse_int("--batch", v, 1, 64, &n);
        j->o.batch = (int)n;
        return rc;
    default:
        return -1;
    }
}

static int parse_session(job *j, int opt, const char *v) {
    int64_t n = 0;
    int rc;
    switch (opt) {
    case O_FORMAT:
        j->how.prompt_format = v;
        return 0;
    case O_MODE:
        j->how.mode = v;
        return 0;
    case O_DTYPE:
        j->how.dtype = v;
        return 0;
    case O_LATENTS:
        return parse_int("--latents", v, 0, 1 << 16, &j->how.latents);
    case O_MIN:
        return parse_int("--min-pixels", v, 1, INT64_C(1) << 40, &j->how.min_pixels);
    case O_MAX:
        return parse_int("--max-pixels", v, 1, INT64_C(1) << 40, &j->how.max_pixels);
    case O_NFRAMES:
        return parse_int("--nframes", v, 2, 1 << 20, &j->how.nframes);
    case O_FPS:
        j->how.nframes = -1;
        return mull_cmd_double("eval", "--fps", v, 1e-6, 1e6, &j->how.fps);
    case O_THREADS:
        rc = parse_int("--threads", v, 0, 4096, &n);
        j->how.threads = (int)n;
        return rc;
    case O_DEVICE:
        return mull_cmd_device("eval", v);
    default:
        j->quiet = true;
        return 0;
    }
}

static int parse(job *j, int argc, char **argv) {
    int opt, rc = 0;
    optind = 1;
    while (!rc && (opt = getopt_long(argc, argv, "", LONG, NULL)) != -1) {
        if (opt == '?') return MULL_EXIT_USAGE;
        if (opt == O_HELP) {
            fputs(USAGE, stdout);
            for (size_t k = 0; k < mull_task_count(); k++) printf(" %s", mull_task_name(mull_task_at(k)));
            puts("");
            exit(MULL_EXIT_OK);
        }
        rc = parse_flag(j, opt, optarg);
        if (rc < 0) rc = parse_session(j, opt, optarg);
    }
    if (rc) return rc;
    if (optind < argc) return mull_cmd_usage("eval", "unexpected argument '%s'", argv[optind]);
    if (!j->how.model) return mull_cmd_usage("eval", "--model is missing");
    if (!j->o.ntasks) return mull_cmd_usage("eval", "--tasks is missing");
    if (!j->o.data) return mull_cmd_usage("eval", "--data is missing");
    if (!j->o.out) return mull_cmd_usage("eval", "--out is missing");
    return 0;
}

int mull_cmd_eval(int argc, char **argv) {
    job j = {.o = {.prompt = {.vsibench_options = true},
                   .circular = true,
                   .shuffle = true,
                   .temperature = -1,
                   .bootstrap = 1000,
                   .stopped = stopped,
                   .progress = progress},
             .how = {.id = "",
                     .latents = 20,
                     .min_pixels = 256 * 784,
                     .max_pixels = 12845056,
                     .nframes = 32,
                     .fps = NAN,
                     .max_new_tokens = 1024,
                     .top_p = 1,
                     .repetition_penalty = NAN}};
    mull_error err = {0};
    mull_session s;
    json_t *results = NULL;
    int rc = parse(&j, argc, argv);
    if (rc) return rc;
    char *path = realpath(j.how.model, NULL), *name = path ? strrchr(path, '/') : NULL;
    j.o.tasks = j.tasks;
    j.o.model_name = name && name[1] ? name + 1 : j.how.model;
    j.o.model_path = path;
    j.o.ctx = &j;
    struct sigaction act = {.sa_handler = on_signal};
    sigaction(SIGTERM, &act, NULL);
    sigaction(SIGINT, &act, NULL);
    rc = mull_session_open(&j.how, &s, &err);
    if (!rc) {
        rc = mull_evaluate(&j.o, &s, &results, &err);
        mull_session_fini(&s);
    }
    free(path);
    if (!rc) {
        mull_cmd_emit(results);
        return MULL_EXIT_OK;
    }
    mull_cmd_fail(&err);
    return rc == MULL_ECANCELLED ? MULL_EXIT_REQUEUE : rc == MULL_EARG ? MULL_EXIT_USAGE : MULL_EXIT_FAILED;
}
