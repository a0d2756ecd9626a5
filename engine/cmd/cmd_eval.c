/* mull-engine eval: what `run` does for a job of kind eval, from flags, with progress on stderr. */
#include "engine/cmd/cmd.h"
#include "engine/cmd/cmd_model.h"
#include "engine/eval/task.h"
#include "engine/job/eval.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>

static const char USAGE[] =
    "usage: mull-engine eval --model DIR --tasks a,b --data DIR --out DIR [--limit N]\n"
    "  --prompt-style latents|videor1|sft|base|base_reason|default|cot   (latents with Mull tokens, else sft)\n"
    "  --vsibench-options true|false   --circular true|false (sat_real)   --shuffle true|false (vsibench)\n"
    "  --replies COLUMN   score the texts of this column of the rows instead of asking a model (no --model)\n"
    "  --compat release   --max-new-tokens N   --temperature T   --seed N   --bootstrap 1000\n"
    "  --prompt-format mull|chatml|old   --mode mmlatent2|new_wtxt|new_sepprompt|none   --latents 20\n"
    "  --min-pixels 200704   --max-pixels 12845056   --nframes 32 | --fps F\n"
    "  --dtype auto|f32|bf16|int8   --threads N   --device cpu|cuda   --batch 16   --wait SECONDS   --quiet\n\n"
    "DIR of --data holds a folder for each task (its name or the dataset's): JSON lines or parquet as downloaded, "
    "media\n"
    "in the rows or beside them. Writes OUT/results.json (lmms-eval's shape, with confidence intervals),\n"
    "OUT/samples_TASK.jsonl, errors_TASK.jsonl and timings_TASK.jsonl. Killed at any time it goes on where it was "
    "when\n"
    "started again.\n\n"
    "Tasks:";

/* X(flag, kind, key): t text, p path, i whole number, f number, b true or false, l list with commas; upper case: of
 * sampling */
#define FLAGS(X)                                                                                                       \
    X("model", 'p', "model")                                                                                           \
    X("tasks", 'l', "tasks")                                                                                           \
    X("data", 'p', "data")                                                                                             \
    X("out", 'p', "out")                                                                                               \
    X("limit", 'i', "limit")                                                                                           \
    X("prompt-style", 't', "prompt_style")                                                                             \
    X("vsibench-options", 'b', "vsibench_options")                                                                     \
    X("circular", 'b', "circular")                                                                                     \
    X("shuffle", 'b', "shuffle")                                                                                       \
    X("replies", 't', "replies")                                                                                       \
    X("compat", 't', "compat")                                                                                         \
    X("bootstrap", 'i', "bootstrap")                                                                                   \
    X("prompt-format", 't', "prompt_format")                                                                           \
    X("mode", 't', "mode")                                                                                             \
    X("latents", 'i', "latents")                                                                                       \
    X("min-pixels", 'i', "min_pixels")                                                                                 \
    X("max-pixels", 'i', "max_pixels")                                                                                 \
    X("nframes", 'i', "nframes")                                                                                       \
    X("fps", 'f', "fps")                                                                                               \
    X("dtype", 't', "dtype")                                                                                           \
    X("max-new-tokens", 'I', "max_new_tokens")                                                                         \
    X("seed", 'I', "seed")                                                                                             \
    X("temperature", 'F', "temperature")

static const struct {
    const char *flag;
    char kind;
    const char *key;
} TABLE[] = {
#define X(flag, kind, key) {flag, kind, key},
    FLAGS(X)
#undef X
};
enum { NTABLE = sizeof TABLE / sizeof *TABLE, O_THREADS = 256, O_BATCH, O_DEVICE, O_WAIT, O_QUIET, O_HELP };

static const struct option LONG[] = {
#define X(flag, kind, key) {flag, 1, 0, 1},
    FLAGS(X)
#undef X
        {"threads", 1, 0, O_THREADS},
    {"batch", 1, 0, O_BATCH},
    {"device", 1, 0, O_DEVICE},
    {"wait", 1, 0, O_WAIT},
    {"quiet", 0, 0, O_QUIET},
    {"help", 0, 0, O_HELP},
    {0, 0, 0, 0}};

typedef struct flags {
    json_t *spec, *sampling;
    long long threads, batch;
    double wait;
    bool quiet;
} flags;

/* An unknown task is wrong usage here, before anything is loaded. */
static int take_list(const char *v, json_t **out) {
    char *copy = strdup(v), *save = NULL;
    int rc = copy ? 0 : MULL_EXIT_FAILED;
    *out = json_array();
    for (char *name = copy ? strtok_r(copy, ",", &save) : NULL; name && !rc; name = strtok_r(NULL, ",", &save)) {
        if (!mull_task_find(name)) rc = mull_cmd_usage("eval", "there is no task '%s'", name);
        if (!rc) json_array_append_new(*out, json_string(name));
    }
    free(copy);
    return rc;
}

static int take_table(flags *f, int i, const char *v) {
    json_t *o = TABLE[i].kind < 'a' ? f->sampling : f->spec, *value = NULL;
    char flag[40], *path;
    long long n;
    double x;
    int rc = 0;
    snprintf(flag, sizeof flag, "--%s", TABLE[i].flag);
    switch (TABLE[i].kind | 32) {
    case 'i':
        if (!(rc = mull_cmd_int("eval", flag, v, 0, INT64_MAX, &n))) value = json_integer(n);
        break;
    case 'f':
        if (!(rc = mull_cmd_double("eval", flag, v, 0, 1e12, &x))) value = json_real(x);
        break;
    case 'b':
        if (strcmp(v, "true") && strcmp(v, "false"))
            return mull_cmd_usage("eval", "%s takes true or false, not '%s'", flag, v);
        value = json_boolean(v[0] == 't');
        break;
    case 'l':
        rc = take_list(v, &value);
        break;
    case 'p':
        path = realpath(v, NULL);
        value = json_string(path ? path : v);
        free(path);
        break;
    default:
        value = json_string(v);
        break;
    }
    if (!rc && !value) rc = mull_cmd_usage("eval", "%s is no UTF-8", flag);
    if (!rc)
        json_object_set_new(o, TABLE[i].key, value);
    else
        json_decref(value);
    return rc;
}

static int take(flags *f, int opt, int index, const char *v) {
    switch (opt) {
    case 1:
        return take_table(f, index, v);
    case O_THREADS:
        return mull_cmd_int("eval", "--threads", v, 0, 4096, &f->threads);
    case O_BATCH:
        return mull_cmd_int("eval", "--batch", v, 1, 64, &f->batch);
    case O_WAIT:
        return mull_cmd_double("eval", "--wait", v, 0, 1e6, &f->wait);
    case O_DEVICE:
        return mull_cmd_device_gpus("eval", v, f->spec);
    case O_QUIET:
        f->quiet = true;
        return 0;
    default:
        return MULL_EXIT_USAGE;
    }
}

static int parse(flags *f, int argc, char **argv) {
    int opt, index = 0, rc = 0;
    optind = 1;
    while (!rc && (opt = getopt_long(argc, argv, "", LONG, &index)) != -1) {
        if (opt == O_HELP) {
            fputs(USAGE, stdout);
            for (size_t k = 0; k < mull_task_count(); k++) printf(" %s", mull_task_name(mull_task_at(k)));
            puts("");
            exit(MULL_EXIT_OK);
        }
        rc = opt == '?' ? mull_cmd_unknown("eval", argv) : take(f, opt, index, optarg);
    }
    if (!rc && optind < argc) rc = mull_cmd_usage("eval", "unexpected argument '%s'", argv[optind]);
    static const char *const NEED[] = {"model", "tasks", "data", "out"};
    for (size_t i = json_object_get(f->spec, "replies") != NULL; i < 4 && !rc; i++)
        if (!json_object_get(f->spec, NEED[i])) rc = mull_cmd_usage("eval", "--%s is missing", NEED[i]);
    return rc;
}

static int run(const flags *f, json_t *spec) {
    mull_job job;
    mull_events *ev = NULL;
    mull_error err = {0};
    json_t *result = NULL, *results = NULL;
    int rc = mull_job_read(spec, &job, &err);
    if (!rc) {
        job.threads = (int)f->threads;
        job.max_batch = (int)f->batch;
        rc = mull_events_create(-1, !f->quiet, &ev, &err);
        if (!rc) rc = mull_eval_job_results(&job, ev, f->wait, &result, &results, &err);
        mull_events_destroy(ev);
        mull_job_fini(&job);
    }
    json_decref(result);
    if (!rc) {
        mull_cmd_emit(results);
        return MULL_EXIT_OK;
    }
    mull_error_print(stderr, &err);
    return rc == MULL_ECANCELLED ? MULL_EXIT_REQUEUE : rc == MULL_EARG ? MULL_EXIT_USAGE : MULL_EXIT_FAILED;
}

int mull_cmd_eval(int argc, char **argv) {
    flags f = {.spec = json_pack("{s:s}", "kind", "eval"), .sampling = json_object(), .wait = 10};
    int rc = parse(&f, argc, argv);
    json_object_set(f.spec, "sampling", f.sampling);
    if (!rc) rc = run(&f, json_incref(f.spec));
    json_decref(f.spec);
    json_decref(f.sampling);
    return rc;
}
