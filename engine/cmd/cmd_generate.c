/* mull-engine generate: answers one prompt (or each sequence of a case file), by the same engine that serves batches.
 * A case is a comparison with a reference: its ids go in as they are and nothing is kept from being produced. */
#include "engine/cmd/cmd.h"

#include "engine/cmd/cmd_model.h"
#include "engine/infer/infer.h"
#include "engine/infer/media_ref.h"
#include "engine/model/forward_case.h"
#include "engine/text/chat.h"

#include <getopt.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char USAGE[] =
    "usage: mull-engine generate --model DIR (--case F | --messages F.json | [--image F]... [--video F]... --prompt "
    "T)\n"
    "  --max-new-tokens 512   --temperature T   --top-p P   --top-k K   --seed N   --repetition-penalty P\n"
    "  --stop TEXT (again for more)   --ignore-eos\n"
    "  --prompt-format mull|chatml|old   --mode mmlatent2|new_wtxt|new_sepprompt|none   --latents 20\n"
    "  --min-pixels N   --max-pixels N   --fps F | --nframes N\n"
    "  --device cpu|cuda   --dtype f32|bf16|int8   --threads N   --prefill-chunk N   --json\n\n"
    "Without a flag the checkpoint's generation_config.json decides. --case takes a case file as `forward` does and\n"
    "suppresses no token. Text goes to stdout as it comes; --json prints one object a sequence instead.\n";

typedef struct answer {
    mull_result r; /* its pointers are copies, owned */
    bool done;
} answer;

typedef struct job {
    const char *model, *case_path, *messages_path, *prompt;
    json_t *content; /* media parts from --image and --video */
    const char *stop[64];
    int nstop;
    mull_cmd_model load;
    mull_sampling how;
    double temperature, top_p, penalty; /* NAN: not given */
    long long top_k, max_new, seed, chunk;
    bool ignore_eos, json;
    mull_render_opts render;
    bool format_given, mode_given;
    mull_media_limits limits;

    mull_model *m;
    mull_tokenizer *tok; /* NULL with a case whose folder has none */
    mull_case file;
    mull_media *media;
    size_t nmedia;
    mull_ids ids;
    mull_infer *engine;
    answer *answers;
    int nanswers;
    double load_ms;
} job;

static volatile sig_atomic_t interrupted;

static void on_signal(int sig) {
    (void)sig;
    interrupted = 1;
}

static void on_text(void *ctx, uint64_t id, const char *piece, size_t len) {
    const job *j = ctx;
    if (j->json || j->nanswers > 1) return;
    (void)id;
    fwrite(piece, 1, len, stdout);
    fflush(stdout);
}

static void *copy(const void *p, size_t n) {
    void *q = malloc(n + 1);
    if (!q) {
        fprintf(stderr, "error: out of memory (generate): cannot keep the answer\n");
        exit(MULL_EXIT_FAILED);
    }
    if (n) memcpy(q, p, n);
    ((char *)q)[n] = 0;
    return q;
}

static void on_done(void *ctx, const mull_result *r) {
    job *j = ctx;
    answer *a = &j->answers[r->id];
    a->r = *r;
    a->r.ids = copy(r->ids, r->n * sizeof *r->ids);
    a->r.text = copy(r->text, r->text_len);
    a->r.logprobs = NULL;
    a->done = true;
}

static int submit(job *j, uint64_t id, const int32_t *ids, size_t n, const mull_media *media, size_t nmedia,
                  mull_error *err) {
    const mull_media **list = calloc(nmedia + 1, sizeof *list);
    if (!list) return mull_fail(err, MULL_ENOMEM, "cannot submit the prompt", "", "", "out of memory");
    for (size_t i = 0; i < nmedia; i++) list[i] = &media[i];
    mull_request r = {.id = id, .ids = ids, .n = n, .media = list, .nmedia = nmedia, .sampling = j->how};
    int rc = mull_infer_submit(j->engine, &r, err);
    free(list);
    return rc;
}

/* The engine with just the cache that this work needs. */
static int make_engine(job *j, int sequences, int64_t tokens, mull_error *err) {
    mull_infer_opts opts = {.max_batch = sequences, .prefill_chunk = (int)j->chunk, .raw = j->case_path != NULL};
    int64_t longest = mull_model_config(j->m)->max_positions,
            each = tokens + (int64_t)sequences * j->how.max_new_tokens;
    opts.cache_tokens = each < longest * sequences ? each + 32ll * sequences : longest * sequences;
    j->answers = calloc((size_t)sequences, sizeof *j->answers);
    if (!j->answers) return mull_fail(err, MULL_ENOMEM, "cannot start", "", "", "out of memory");
    j->nanswers = sequences;
    mull_infer_callbacks cb = {.ctx = j, .on_text = on_text, .on_done = on_done};
    return mull_infer_create(j->m, j->tok, &opts, &cb, &j->engine, err);
}

/* The media of a case are views into the file. */
static int submit_case(job *j, mull_error *err) {
    const mull_config *c = mull_model_config(j->m);
    const mull_case *k = &j->file;
    int rc = make_engine(j, k->nseq, k->rows, err);
    if (rc) return rc;
    j->media = calloc(k->nmedia + 1, sizeof *j->media);
    if (!j->media) return mull_fail(err, MULL_ENOMEM, "cannot run the case", "", "", "out of memory");
    for (size_t i = 0; i < k->nmedia; i++) {
        const mull_grid *g = &k->media[i];
        j->media[i] = (mull_media){.kind = g->video ? MULL_MEDIA_VIDEO : MULL_MEDIA_IMAGE,
                                   .grid = {g->t, g->h, g->w},
                                   .tokens = mull_grid_tokens(c, g),
                                   .second_per_grid = (double)g->second_per_grid,
                                   .patches = (float *)(uintptr_t)k->patches[i]};
    }
    for (int s = 0; s < k->nseq && !rc; s++)
        rc = submit(j, (uint64_t)s, k->ids + k->cu[s], (size_t)(k->cu[s + 1] - k->cu[s]), j->media + k->media_cu[s],
                    k->media_cu[s + 1] - k->media_cu[s], err);
    return rc;
}

static json_t *read_messages(job *j, mull_error *err) {
    if (!j->messages_path) {
        if (json_array_append_new(j->content, json_pack("{s:s, s:s}", "type", "text", "text", j->prompt))) return NULL;
        return json_pack("[{s:s, s:O}]", "role", "user", "content", j->content);
    }
    json_error_t why;
    json_t *v = json_load_file(j->messages_path, JSON_REJECT_DUPLICATES, &why);
    if (!v) {
        mull_fail(err, MULL_EFORMAT, "cannot read the messages", j->messages_path, "write a JSON list of messages",
                  "line %d: %s", why.line, why.text);
        return NULL;
    }
    /* A request body is accepted as well as the bare list. */
    json_t *list = json_object_get(v, "messages");
    if (list) {
        json_incref(list);
        json_decref(v);
        v = list;
    }
    return v;
}

static int submit_messages(job *j, mull_error *err) {
    mull_media_ref *refs = NULL;
    size_t n = 0;
    int64_t *tokens = NULL;
    json_t *messages = read_messages(j, err);
    int rc = messages ? mull_chat_media(messages, &refs, &n, err) : err->code ? err->code : MULL_EARG;
    if (!rc) rc = mull_media_limits_from_model(j->model, &j->limits, err);
    if (!rc) {
        tokens = calloc(n + 1, sizeof *tokens);
        j->media = calloc(n + 1, sizeof *j->media);
        if (!tokens || !j->media) rc = mull_fail(err, MULL_ENOMEM, "cannot load the media", "", "", "out of memory");
    }
    for (size_t i = 0; !rc && i < n; i++) {
        rc = mull_media_ref_load(&refs[i], &j->limits, &j->media[i], err);
        if (rc) break;
        j->nmedia = i + 1;
        tokens[i] = j->media[i].tokens;
    }
    if (!rc) rc = mull_chat_render(j->tok, messages, tokens, n, &j->render, NULL, &j->ids, err);
    if (!rc) rc = make_engine(j, 1, (int64_t)j->ids.len, err);
    if (!rc) rc = submit(j, 0, j->ids.data, j->ids.len, j->media, n, err);
    free(refs);
    free(tokens);
    json_decref(messages);
    return rc;
}

static const char *finish_name(mull_finish f) {
    static const char *const NAMES[] = {"stop", "length", "error", "cancelled"};
    return NAMES[f];
}

static double rate(double tokens, double ms) {
    return ms > 0 ? tokens / ms * 1e3 : 0;
}

static json_t *answer_json(const job *j, const answer *a) {
    const mull_result *r = &a->r;
    json_t *ids = json_array();
    for (size_t i = 0; i < r->n; i++) json_array_append_new(ids, json_integer(r->ids[i]));
    json_t *text = j->tok ? json_stringn(r->text, r->text_len) : json_null();
    json_int_t n = (json_int_t)r->n, prompt = r->prompt_tokens;
    return json_pack("{s:o, s:o, s:s, s:{s:I, s:I, s:I, s:I}, s:{s:f, s:f, s:f, s:f, s:f, s:f, s:I}}", "ids", ids,
                     "text", text, "finish_reason", finish_name(r->finish), "usage", "prompt_tokens", prompt,
                     "completion_tokens", n, "total_tokens", prompt + n, "cached_tokens", (json_int_t)r->cached_tokens,
                     "timings", "load_ms", j->load_ms, "vision_ms", r->vision_ms, "prefill_ms", r->prefill_ms,
                     "decode_ms", r->decode_ms, "prefill_tok_s",
                     rate((double)(r->prompt_tokens - r->cached_tokens), r->prefill_ms), "decode_tok_s",
                     rate((double)r->n - 1, r->decode_ms), "peak_bytes", (json_int_t)mull_cmd_peak_bytes());
}

static int print_answers(job *j, mull_error *err) {
    int rc = MULL_OK;
    for (int i = 0; i < j->nanswers; i++) {
        const answer *a = &j->answers[i];
        if (!a->done) continue;
        if (a->r.finish == MULL_FINISH_ERROR) {
            *err = a->r.error;
            rc = err->code;
            continue;
        }
        if (j->json) {
            mull_cmd_emit(answer_json(j, a));
        } else if (!j->tok) {
            for (size_t k = 0; k < a->r.n; k++) printf("%d%c", a->r.ids[k], k + 1 < a->r.n ? ' ' : '\n');
        } else {
            if (j->nanswers > 1) fwrite(a->r.text, 1, a->r.text_len, stdout);
            putchar('\n');
        }
        if (a->r.finish == MULL_FINISH_CANCELLED)
            rc = mull_fail(err, MULL_ECANCELLED, "stopped", "generate", "", "an interrupt came after %zu tokens",
                           a->r.n);
    }
    return rc;
}

static int load(job *j, mull_error *err) {
    int rc = mull_cmd_load(j->model, &j->load, &j->m, &j->load_ms, err);
    if (!rc && (rc = mull_tokenizer_load(j->model, &j->tok, err)) == MULL_EMISSING && j->case_path) {
        *err = (mull_error){0};
        rc = MULL_OK;
    }
    if (rc) return rc;
    bool latents = j->tok && mull_tokenizer_special(j->tok, "<|latent_pad|>") >= 0;
    if (!j->format_given) j->render.format = latents ? MULL_PROMPT_MULL : MULL_PROMPT_CHATML;
    if (!j->mode_given) j->render.mode = latents ? MULL_MODE_MMLATENT2 : MULL_MODE_NONE;
    mull_sampling_defaults(j->m, &j->how);
    j->how.max_new_tokens = (int)j->max_new;
    j->how.seed = (uint64_t)j->seed;
    j->how.ignore_eos = j->ignore_eos;
    if (!isnan(j->temperature)) j->how.temperature = j->temperature;
    if (!isnan(j->top_p)) j->how.top_p = j->top_p;
    if (!isnan(j->penalty)) j->how.repetition_penalty = j->penalty;
    if (j->top_k >= 0) j->how.top_k = (int)j->top_k;
    j->how.stop = j->stop;
    j->how.nstop = j->nstop;
    return j->case_path ? mull_case_open(j->case_path, mull_model_config(j->m), &j->file, err) : MULL_OK;
}

static int run(job *j, mull_error *err) {
    int rc = load(j, err);
    if (!rc) rc = j->case_path ? submit_case(j, err) : submit_messages(j, err);
    if (rc) return rc;
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    while ((rc = mull_infer_step(j->engine, err)) > 0)
        for (int i = 0; interrupted && i < j->nanswers; i++) mull_infer_cancel(j->engine, (uint64_t)i);
    return rc < 0 ? rc : print_answers(j, err);
}

static void fini(job *j) {
    for (int i = 0; i < j->nanswers; i++) {
        free((void *)(uintptr_t)j->answers[i].r.ids);
        free((void *)(uintptr_t)j->answers[i].r.text);
    }
    free(j->answers);
    mull_infer_destroy(j->engine);
    for (size_t i = 0; i < j->nmedia; i++) mull_media_fini(&j->media[i]);
    free(j->media);
    mull_ids_fini(&j->ids);
    mull_case_fini(&j->file);
    mull_tokenizer_destroy(j->tok);
    mull_model_destroy(j->m);
    json_decref(j->content);
}

static int add_medium(job *j, const char *kind, const char *path) {
    return json_array_append_new(j->content, json_pack("{s:s, s:s}", "type", kind, kind, path)) ? MULL_EXIT_FAILED : 0;
}

enum {
    OPT_FIRST = 256,
    O_MODEL,
    O_CASE,
    O_MESSAGES,
    O_IMAGE,
    O_VIDEO,
    O_PROMPT,
    O_MAX_NEW,
    O_TEMPERATURE,
    O_TOP_P,
    O_TOP_K,
    O_SEED,
    O_PENALTY,
    O_STOP,
    O_IGNORE_EOS,
    O_FORMAT,
    O_MODE,
    O_LATENTS,
    O_MIN_PIXELS,
    O_MAX_PIXELS,
    O_FPS,
    O_NFRAMES,
    O_DEVICE,
    O_DTYPE,
    O_THREADS,
    O_CHUNK,
    O_JSON,
    O_HELP
};

static const struct option LONG[] = {{"model", 1, 0, O_MODEL},
                                     {"case", 1, 0, O_CASE},
                                     {"messages", 1, 0, O_MESSAGES},
                                     {"image", 1, 0, O_IMAGE},
                                     {"video", 1, 0, O_VIDEO},
                                     {"prompt", 1, 0, O_PROMPT},
                                     {"max-new-tokens", 1, 0, O_MAX_NEW},
                                     {"temperature", 1, 0, O_TEMPERATURE},
                                     {"top-p", 1, 0, O_TOP_P},
                                     {"top-k", 1, 0, O_TOP_K},
                                     {"seed", 1, 0, O_SEED},
                                     {"repetition-penalty", 1, 0, O_PENALTY},
                                     {"stop", 1, 0, O_STOP},
                                     {"ignore-eos", 0, 0, O_IGNORE_EOS},
                                     {"prompt-format", 1, 0, O_FORMAT},
                                     {"mode", 1, 0, O_MODE},
                                     {"latents", 1, 0, O_LATENTS},
                                     {"min-pixels", 1, 0, O_MIN_PIXELS},
                                     {"max-pixels", 1, 0, O_MAX_PIXELS},
                                     {"fps", 1, 0, O_FPS},
                                     {"nframes", 1, 0, O_NFRAMES},
                                     {"device", 1, 0, O_DEVICE},
                                     {"dtype", 1, 0, O_DTYPE},
                                     {"threads", 1, 0, O_THREADS},
                                     {"prefill-chunk", 1, 0, O_CHUNK},
                                     {"json", 0, 0, O_JSON},
                                     {"help", 0, 0, O_HELP},
                                     {0, 0, 0, 0}};

static int parse_sampling(job *j, int opt, const char *v) {
    static const char *const C = "generate";
    switch (opt) {
    case O_MAX_NEW:
        return mull_cmd_int(C, "--max-new-tokens", v, 1, 1 << 24, &j->max_new);
    case O_TEMPERATURE:
        return mull_cmd_double(C, "--temperature", v, 0, 1000, &j->temperature);
    case O_TOP_P:
        return mull_cmd_double(C, "--top-p", v, 1e-9, 1, &j->top_p);
    case O_TOP_K:
        return mull_cmd_int(C, "--top-k", v, 0, 1 << 24, &j->top_k);
    case O_SEED:
        return mull_cmd_int(C, "--seed", v, 0, INT64_MAX, &j->seed);
    case O_PENALTY:
        return mull_cmd_double(C, "--repetition-penalty", v, 1e-3, 1000, &j->penalty);
    case O_IGNORE_EOS:
        j->ignore_eos = true;
        return 0;
    default:
        if (j->nstop == (int)(sizeof j->stop / sizeof *j->stop)) return mull_cmd_usage(C, "too many --stop");
        j->stop[j->nstop++] = v;
        return 0;
    }
}

static int parse_media(job *j, int opt, const char *v) {
    static const char *const C = "generate";
    long long n = 0;
    int rc = 0;
    switch (opt) {
    case O_IMAGE:
        return add_medium(j, "image", v);
    case O_VIDEO:
        return add_medium(j, "video", v);
    case O_MIN_PIXELS:
        if (!(rc = mull_cmd_int(C, "--min-pixels", v, 1, INT64_C(1) << 40, &n))) j->limits.min_pixels = n;
        return rc;
    case O_MAX_PIXELS:
        if (!(rc = mull_cmd_int(C, "--max-pixels", v, 1, INT64_C(1) << 40, &n))) j->limits.max_pixels = n;
        return rc;
    case O_FPS:
        return mull_cmd_double(C, "--fps", v, 1e-6, 1e6, &j->limits.fps);
    default:
        if (!(rc = mull_cmd_int(C, "--nframes", v, 1, 1 << 20, &n))) j->limits.nframes = (int)n;
        return rc;
    }
}

static int parse_render(job *j, int opt, const char *v) {
    mull_error err = {0};
    long long n;
    if (opt == O_LATENTS) {
        int rc = mull_cmd_int("generate", "--latents", v, 0, 1 << 16, &n);
        if (!rc) j->render.latents = (int)n;
        return rc;
    }
    bool format = opt == O_FORMAT;
    *(format ? &j->format_given : &j->mode_given) = true;
    int rc = format ? mull_prompt_format_parse(v, &j->render.format, &err)
                    : mull_prompt_mode_parse(v, &j->render.mode, &err);
    return rc ? mull_cmd_fail(&err) : 0;
}

static int parse(job *j, int argc, char **argv) {
    int opt, rc = 0;
    optind = 1;
    while (!rc && (opt = getopt_long(argc, argv, "", LONG, NULL)) != -1) {
        switch (opt) {
        case O_MODEL:
            j->model = optarg;
            break;
        case O_CASE:
            j->case_path = optarg;
            break;
        case O_MESSAGES:
            j->messages_path = optarg;
            break;
        case O_PROMPT:
            j->prompt = optarg;
            break;
        case O_JSON:
            j->json = true;
            break;
        case O_CHUNK:
            rc = mull_cmd_int("generate", "--prefill-chunk", optarg, 1, 1 << 20, &j->chunk);
            break;
        case O_DEVICE:
            rc = mull_cmd_device("generate", optarg, &j->load);
            break;
        case O_DTYPE:
            rc = mull_cmd_dtype("generate", optarg, &j->load);
            break;
        case O_THREADS:
            rc = mull_cmd_threads("generate", optarg, &j->load);
            break;
        case O_FORMAT:
        case O_MODE:
        case O_LATENTS:
            rc = parse_render(j, opt, optarg);
            break;
        case O_IMAGE:
        case O_VIDEO:
        case O_MIN_PIXELS:
        case O_MAX_PIXELS:
        case O_FPS:
        case O_NFRAMES:
            rc = parse_media(j, opt, optarg);
            break;
        case O_HELP:
            fputs(USAGE, stdout);
            exit(MULL_EXIT_OK);
        case '?':
            return mull_cmd_unknown("generate", argv);
        default:
            rc = parse_sampling(j, opt, optarg);
            break;
        }
    }
    if (rc) return rc;
    if (optind < argc) return mull_cmd_usage("generate", "unexpected argument '%s'", argv[optind]);
    if (!j->model) return mull_cmd_usage("generate", "--model is missing");
    bool media = json_array_size(j->content) > 0;
    if ((j->case_path != NULL) + (j->messages_path != NULL) + (j->prompt != NULL) != 1)
        return mull_cmd_usage("generate", "give one of --case, --messages and --prompt");
    if (media && !j->prompt) return mull_cmd_usage("generate", "--image and --video go with --prompt");
    if (j->limits.fps > 0 && j->limits.nframes)
        return mull_cmd_usage("generate", "--fps and --nframes exclude each other");
    return 0;
}

int mull_cmd_generate(int argc, char **argv) {
    job j = {.temperature = NAN,
             .top_p = NAN,
             .penalty = NAN,
             .top_k = -1,
             .max_new = 512,
             .render = {.latents = 20},
             .content = json_array()};
    mull_error err = {0};
    int rc = parse(&j, argc, argv);
    if (!rc && run(&j, &err)) rc = mull_cmd_fail(&err);
    fini(&j);
    return rc;
}
