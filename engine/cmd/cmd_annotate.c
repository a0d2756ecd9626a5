/* mull-engine annotate: what `run` does for a job of kind annotate, from flags, with progress on stderr. */
#include "engine/annotate/annotate.h"
#include "engine/cmd/cmd.h"
#include "engine/cmd/cmd_model.h"
#include "engine/cmd/spec_flags.h"

#include <getopt.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

static const char USAGE[] =
    "usage: mull-engine annotate --model DIR --in F --out DIR\n"
    "  --max-new-tokens 512   --temperature T   --top-p P   --top-k K   --seed N   --repetition-penalty P\n"
    "  --stop TEXT (again for more)   --ignore-eos   --regex REGEX | --choice TEXT (again for more)\n"
    "  --prompt-format mull|chatml|old   --mode mmlatent2|new_wtxt|new_sepprompt|none   --latents 20\n"
    "  --min-pixels N   --max-pixels N   --fps F | --nframes N   --media-root DIR (again for more)\n"
    "  --shard-rows 1000   --batch 32   --output-format jsonl|zstd|parquet   --wait SECONDS   --quiet\n"
    "  --prompt TEXT | --prompts TEXT (again for more)   --image-column NAME   --video-column NAME   --id-column NAME\n"
    "  --dtype auto|f32|bf16|int8   --threads N   --device cpu|cuda\n\n"
    "F: JSON lines, plain or zstd, each OpenAI's Batch request {\"custom_id\",\"method\",\"url\",\"body\"} or\n"
    "{\"messages\":[...]}; or, with a prompt that may name columns as {column}, JSON lines or Parquet of any columns, "
    "or a\n"
    "folder of images and videos. Any number of processes may share one DIR. Writes DIR/output.jsonl and "
    "DIR/errors.jsonl in input order when all rows are\n"
    "answered. Killed at any time it goes on where it was when started again. One JSON line of totals on stdout.\n"
    "Blank lines are skipped. Images and videos are data: URLs or files in the folder of F (or a --media-root).\n";

typedef struct flags {
    json_t *spec, *sampling, *stop, *roots, *prompts, *images, *videos;
    long long threads, batch;
    double wait;
    bool quiet;
} flags;

/* X(flag, kind, key): t text, p path, i whole number, f number; upper case: of sampling */
#define FLAGS(X)                                                                                                       \
    X("model", 'p', "model")                                                                                           \
    X("in", 'p', "input")                                                                                              \
    X("out", 'p', "out")                                                                                               \
    X("output-format", 't', "output_format")                                                                           \
    X("id-column", 't', "id_column")                                                                                   \
    X("prompt", 't', "prompt")                                                                                         \
    X("dtype", 't', "dtype")                                                                                           \
    X("mode", 't', "mode")                                                                                             \
    X("prompt-format", 't', "prompt_format")                                                                           \
    X("latents", 'i', "latents")                                                                                       \
    X("min-pixels", 'i', "min_pixels")                                                                                 \
    X("max-pixels", 'i', "max_pixels")                                                                                 \
    X("nframes", 'i', "nframes")                                                                                       \
    X("shard-rows", 'i', "shard_rows")                                                                                 \
    X("fps", 'f', "fps")                                                                                               \
    X("regex", 'T', "regex")                                                                                           \
    X("max-new-tokens", 'I', "max_new_tokens")                                                                         \
    X("top-k", 'I', "top_k")                                                                                           \
    X("seed", 'I', "seed")                                                                                             \
    X("temperature", 'F', "temperature")                                                                               \
    X("top-p", 'F', "top_p")                                                                                           \
    X("repetition-penalty", 'F', "repetition_penalty")

static const mull_spec_flag TABLE[] = {
#define X(flag, kind, key) {flag, kind, key},
    FLAGS(X)
#undef X
};
enum {
    O_STOP = 256,
    O_EOS,
    O_ROOT,
    O_PROMPTS,
    O_CHOICE,
    O_IMAGES,
    O_VIDEOS,
    O_THREADS,
    O_BATCH,
    O_DEVICE,
    O_WAIT,
    O_QUIET,
    O_HELP
};

static const struct option LONG[] = {
#define X(flag, kind, key) {flag, 1, 0, 1},
    FLAGS(X)
#undef X
        {"stop", 1, 0, O_STOP},
    {"ignore-eos", 0, 0, O_EOS},
    {"media-root", 1, 0, O_ROOT},
    {"prompts", 1, 0, O_PROMPTS},
    {"choice", 1, 0, O_CHOICE},
    {"image-column", 1, 0, O_IMAGES},
    {"video-column", 1, 0, O_VIDEOS},
    {"threads", 1, 0, O_THREADS},
    {"batch", 1, 0, O_BATCH},
    {"device", 1, 0, O_DEVICE},
    {"wait", 1, 0, O_WAIT},
    {"quiet", 0, 0, O_QUIET},
    {"help", 0, 0, O_HELP},
    {0, 0, 0, 0}};

static int take(flags *f, int opt, int index, const char *v) {
    static const char *const C = "annotate";
    switch (opt) {
    case 1:
        return mull_spec_take(C, &TABLE[index], v, f->spec, f->sampling);
    case O_STOP:
        return json_array_append_new(f->stop, json_string(v)) ? mull_cmd_usage(C, "--stop is no UTF-8") : 0;
    case O_ROOT:
        return json_array_append_new(f->roots, mull_spec_path(v)) ? mull_cmd_usage(C, "--media-root is no UTF-8") : 0;
    case O_CHOICE:
        if (!json_object_get(f->sampling, "choices")) json_object_set_new(f->sampling, "choices", json_array());
        return json_array_append_new(json_object_get(f->sampling, "choices"), json_string(v))
                   ? mull_cmd_usage(C, "--choice is no UTF-8")
                   : 0;
    case O_PROMPTS:
        return json_array_append_new(f->prompts, json_string(v)) ? mull_cmd_usage(C, "--prompts is no UTF-8") : 0;
    case O_IMAGES:
        return json_array_append_new(f->images, json_string(v)) ? mull_cmd_usage(C, "--image-column is no UTF-8") : 0;
    case O_VIDEOS:
        return json_array_append_new(f->videos, json_string(v)) ? mull_cmd_usage(C, "--video-column is no UTF-8") : 0;
    case O_EOS:
        json_object_set_new(f->sampling, "ignore_eos", json_true());
        return 0;
    case O_THREADS:
        return mull_cmd_int(C, "--threads", v, 0, 4096, &f->threads);
    case O_BATCH:
        return mull_cmd_int(C, "--batch", v, 1, 1024, &f->batch);
    case O_WAIT:
        return mull_cmd_double(C, "--wait", v, 0, 1e6, &f->wait);
    case O_QUIET:
        f->quiet = true;
        return 0;
    case O_DEVICE:
        return mull_cmd_device_gpus(C, v, f->spec);
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
            exit(MULL_EXIT_OK);
        }
        rc = opt == '?' ? mull_cmd_unknown("annotate", argv) : take(f, opt, index, optarg);
    }
    if (!rc && optind < argc) rc = mull_cmd_usage("annotate", "unexpected argument '%s'", argv[optind]);
    static const char *const NEED[][2] = {{"model", "--model"}, {"input", "--in"}, {"out", "--out"}};
    for (size_t i = 0; i < 3 && !rc; i++)
        if (!json_object_get(f->spec, NEED[i][0])) rc = mull_cmd_usage("annotate", "%s is missing", NEED[i][1]);
    if (!rc && json_object_get(f->spec, "fps") && json_object_get(f->spec, "nframes"))
        rc = mull_cmd_usage("annotate", "--fps and --nframes exclude each other");
    return rc;
}

static int run(const flags *f, json_t *spec) {
    mull_job job;
    mull_events *ev = NULL;
    mull_error err = {0};
    json_t *result = NULL;
    int rc = mull_job_read(spec, &job, &err);
    if (rc) return mull_cmd_fail(&err);
    job.threads = (int)f->threads;
    job.max_batch = f->batch;
    rc = mull_events_create(-1, !f->quiet, &ev, &err);
    if (!rc) rc = mull_annotate(&job, ev, f->wait, &result, &err);
    mull_events_destroy(ev);
    mull_job_fini(&job);
    if (!rc) {
        mull_cmd_emit(result);
        return MULL_EXIT_OK;
    }
    mull_error_print(stderr, &err);
    return rc == MULL_ECANCELLED ? MULL_EXIT_REQUEUE : MULL_EXIT_FAILED;
}

int mull_cmd_annotate(int argc, char **argv) {
    flags f = {.spec = json_pack("{s:s}", "kind", "annotate"),
               .sampling = json_object(),
               .stop = json_array(),
               .roots = json_array(),
               .prompts = json_array(),
               .images = json_array(),
               .videos = json_array(),
               .wait = 10};
    int rc = parse(&f, argc, argv);
    json_object_set(f.sampling, "stop", f.stop);
    json_object_set(f.spec, "sampling", f.sampling);
    json_object_set(f.spec, "media_roots", f.roots);
    if (json_array_size(f.prompts)) json_object_set(f.spec, "prompts", f.prompts);
    if (json_array_size(f.images)) json_object_set(f.spec, "image_columns", f.images);
    if (json_array_size(f.videos)) json_object_set(f.spec, "video_columns", f.videos);
    if (!rc) rc = run(&f, json_incref(f.spec));
    json_decref(f.spec);
    json_decref(f.sampling);
    json_decref(f.stop);
    json_decref(f.roots);
    json_decref(f.prompts);
    json_decref(f.images);
    json_decref(f.videos);
    return rc;
}
