/* mull-engine serve: what `run` does for a job of kind serve, from flags, with words on stderr. */
#include "engine/cmd/cmd.h"
#include "engine/cmd/cmd_model.h"
#include "engine/cmd/spec_flags.h"
#include "engine/serve/serve.h"

#include <getopt.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

static const char USAGE[] =
    "usage: mull-engine serve --model DIR [--listen 127.0.0.1:8000]\n"
    "  --listen HOST:PORT | PORT | unix:PATH   --key-file FILE (a key a line; needed for other machines)\n"
    "  --served-name NAME   --max-batch 32   --max-queue 256   --media-root DIR (again for more; without: data: URLs "
    "only)\n"
    "  --max-new-tokens 512   --temperature T   --top-p P   --repetition-penalty P   (where a request says nothing)\n"
    "  --prompt-format mull|chatml|old   --mode mmlatent2|new_wtxt|none   --latents 20\n"
    "  --min-pixels N   --max-pixels N   --fps F | --nframes N   --dtype auto|f32|bf16|int8   --threads N\n"
    "  --device cpu|cuda\n\n"
    "POST /v1/chat/completions, GET /v1/models and /healthz, as OpenAI's clients expect. SIGTERM: what is under way "
    "gets\n"
    "5 s, then it ends with status 75.\n";

/* X(flag, kind, key): t text, p path, i whole number, f number; upper case: of sampling */
#define FLAGS(X)                                                                                                       \
    X("model", 'p', "model")                                                                                           \
    X("listen", 't', "listen")                                                                                         \
    X("key-file", 'p', "key_file")                                                                                     \
    X("served-name", 't', "served_name")                                                                               \
    X("max-batch", 'i', "max_batch")                                                                                   \
    X("max-queue", 'i', "max_queue")                                                                                   \
    X("dtype", 't', "dtype")                                                                                           \
    X("mode", 't', "mode")                                                                                             \
    X("prompt-format", 't', "prompt_format")                                                                           \
    X("latents", 'i', "latents")                                                                                       \
    X("min-pixels", 'i', "min_pixels")                                                                                 \
    X("max-pixels", 'i', "max_pixels")                                                                                 \
    X("nframes", 'i', "nframes")                                                                                       \
    X("fps", 'f', "fps")                                                                                               \
    X("max-new-tokens", 'I', "max_new_tokens")                                                                         \
    X("temperature", 'F', "temperature")                                                                               \
    X("top-p", 'F', "top_p")                                                                                           \
    X("repetition-penalty", 'F', "repetition_penalty")

static const mull_spec_flag TABLE[] = {
#define X(flag, kind, key) {flag, kind, key},
    FLAGS(X)
#undef X
};
enum { O_ROOT = 256, O_THREADS, O_DEVICE, O_HELP };

static const struct option LONG[] = {
#define X(flag, kind, key) {flag, 1, 0, 1},
    FLAGS(X)
#undef X
        {"media-root", 1, 0, O_ROOT},
    {"threads", 1, 0, O_THREADS},
    {"device", 1, 0, O_DEVICE},
    {"help", 0, 0, O_HELP},
    {0, 0, 0, 0}};

static int serve(json_t *spec, int threads) {
    mull_job job;
    mull_events *ev = NULL;
    mull_error err = {0};
    json_t *result = NULL;
    int rc = mull_job_read(spec, &job, &err);
    if (rc) return mull_cmd_fail(&err);
    job.threads = threads;
    rc = mull_events_create(-1, true, &ev, &err);
#if MULL_HAVE_SERVE
    if (!rc) rc = mull_serve_job(&job, ev, &result, &err);
#else
    if (!rc)
        rc = mull_fail(&err, MULL_EUNSUPPORTED, "cannot serve", "mull-engine", "build without MULL_ENGINE_ONLY",
                       "this build of the engine has no HTTP server");
#endif
    mull_events_destroy(ev);
    mull_job_fini(&job);
    json_decref(result);
    mull_error_print(stderr, &err);
    return rc == MULL_ECANCELLED ? MULL_EXIT_REQUEUE : MULL_EXIT_FAILED;
}

int mull_cmd_serve(int argc, char **argv) {
    json_t *spec = json_pack("{s:s}", "kind", "serve"), *sampling = json_object(), *roots = json_array();
    long long threads = 0;
    int opt, index = 0, rc = 0;
    optind = 1;
    while (!rc && (opt = getopt_long(argc, argv, "", LONG, &index)) != -1) {
        if (opt == O_HELP)
            fputs(USAGE, stdout);
        else if (opt == 1)
            rc = mull_spec_take("serve", &TABLE[index], optarg, spec, sampling);
        else if (opt == O_THREADS)
            rc = mull_cmd_int("serve", "--threads", optarg, 0, 4096, &threads);
        else if (opt == O_DEVICE)
            rc = mull_cmd_device_gpus("serve", optarg, spec);
        else if (opt == O_ROOT)
            rc = json_array_append_new(roots, mull_spec_path(optarg))
                     ? mull_cmd_usage("serve", "--media-root is no UTF-8")
                     : 0;
        else
            rc = mull_cmd_unknown("serve", argv);
        if (opt == O_HELP) break;
    }
    bool help = opt == O_HELP;
    if (!rc && !help && optind < argc) rc = mull_cmd_usage("serve", "unexpected argument '%s'", argv[optind]);
    if (!rc && !help && !json_object_get(spec, "model")) rc = mull_cmd_usage("serve", "--model is missing");
    json_object_set(spec, "sampling", sampling);
    json_object_set(spec, "media_roots", roots);
    if (!rc && !help) rc = serve(json_incref(spec), (int)threads);
    json_decref(spec);
    json_decref(sampling);
    json_decref(roots);
    return rc;
}
