/* mull-engine bench decode | prefill | vision: a loaded model against this machine's limits, measured in the same run
 * on the same threads. Decoding is compared with the rate at which memory can be read (every weight is read once a
 * step), prefill and the vision tower with the best rate of one large matrix product of the same weight type. Medians,
 * since other work on the machine moves a mean. */
#include "engine/cmd/bench.h"
#include "engine/cmd/cmd.h"
#include "engine/cmd/cmd_model.h"
#include "engine/infer/infer.h"
#include "engine/model/model_internal.h"
#include "engine/model/vision.h"
#include "engine/ops/roof.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>

static const char USAGE[] = "usage: mull-engine bench decode|prefill|vision --model DIR [--dtype "
                            "f32|bf16|bf16-dot|int8] [--threads N] [--repeat 5]\n"
                            "  decode:  --tokens 64 (produced)   --context 128 (prompt before them)   --batch 1\n"
                            "  prefill: --tokens 512             --batch 1\n"
                            "  vision:  --grid 1x32x32 (patches of one medium)\n";

typedef struct bench {
    const char *what, *dir;
    mull_cmd_model load;
    long long repeat, tokens, context, batch, grid[3];
    mull_model *m;
    double *times; /* [repeat] */
    int64_t peak;  /* bytes, before the limits' own buffers came */
} bench;

static const char *type_name(const bench *b) {
    return mull_bench_dtype(b->m->type);
}

/* ---- what the model needs */

static double matrix_elements(const mull_matrix *w) {
    return (double)mull_matrix_rows(w) * (double)mull_matrix_cols(w);
}

/* Bytes of weights that one decode step reads. */
static double decode_bytes(const mull_model *m) {
    double n = (double)mull_matrix_bytes(m->weights.head);
    for (int i = 0; i < m->config.layers; i++) {
        const mull_lm_layer *l = &m->weights.layers[i];
        n += (double)(mull_matrix_bytes(l->qkv) + mull_matrix_bytes(l->o) + mull_matrix_bytes(l->gate_up) +
                      mull_matrix_bytes(l->down));
    }
    return n;
}

/* FLOP of the layers for n tokens of one sequence from its start: products, and causal attention. */
static double prefill_flop(const mull_model *m, double n) {
    double w = 0;
    for (int i = 0; i < m->config.layers; i++) {
        const mull_lm_layer *l = &m->weights.layers[i];
        w += matrix_elements(l->qkv) + matrix_elements(l->o) + matrix_elements(l->gate_up) + matrix_elements(l->down);
    }
    double attention = 4.0 * m->config.layers * m->config.heads * m->config.head_dim * n * (n + 1) / 2;
    return 2 * w * n + attention + 2 * matrix_elements(m->weights.head);
}

static double vision_flop(const mull_model *m, const long long grid[3]) {
    const mull_vision_config *v = &m->config.vision;
    double n = (double)(grid[0] * grid[1] * grid[2]), step = (double)(grid[1] * grid[2]), w = 0, attention = 0;
    double window = (double)(v->window / v->patch) * (v->window / v->patch);
    for (int i = 0; i < v->depth; i++) {
        const mull_vision_block *b = &m->weights.vision.blocks[i];
        w +=
            matrix_elements(b->qkv) + matrix_elements(b->proj) + matrix_elements(b->gate_up) + matrix_elements(b->down);
        attention += 4.0 * v->hidden * n * (v->full_attention[i] || step < window ? step : window);
    }
    double merged = matrix_elements(m->weights.vision.merge0) + matrix_elements(m->weights.vision.merge2);
    return 2 * (w + matrix_elements(m->weights.vision.patch_embed)) * n + attention +
           2 * merged * n / (v->merge * v->merge);
}

/* ---- measurements */

typedef struct outcome {
    double prefill_ms, decode_ms; /* largest over the requests: they run together */
    int64_t tokens;
    int failed;
} outcome;

static void on_done(void *ctx, const mull_result *r) {
    outcome *o = ctx;
    if (r->prefill_ms > o->prefill_ms) o->prefill_ms = r->prefill_ms;
    if (r->decode_ms > o->decode_ms) o->decode_ms = r->decode_ms;
    o->tokens += (int64_t)r->n;
    o->failed += r->finish == MULL_FINISH_ERROR;
}

/* batch requests of prompt random ids that produce tokens each; no page is shared. */
static int run_requests(const bench *b, long long prompt, long long tokens, outcome *o, double *step_ms,
                        mull_error *err) {
    *o = (outcome){0};
    int32_t *ids = malloc((size_t)prompt * sizeof *ids);
    if (!ids) return mull_fail(err, MULL_ENOMEM, "cannot measure", b->what, "", "out of memory");
    mull_infer *f = NULL;
    mull_infer_opts opts = {.cache_tokens = b->batch * (prompt + tokens + 64),
                            .max_batch = (int)b->batch,
                            .no_prefix_cache = true,
                            .raw = true};
    int rc = mull_infer_create(b->m, NULL, &opts, &(mull_infer_callbacks){.ctx = o, .on_done = on_done}, &f, err);
    const mull_config *c = &b->m->config;
    for (long long q = 0; q < b->batch && !rc; q++) {
        for (long long i = 0; i < prompt; i++) {
            ids[i] = (int32_t)((uint64_t)(i * 7919 + q * 104729) % (uint64_t)c->vocab);
            while (ids[i] == c->image_token || ids[i] == c->video_token) ids[i]--;
        }
        mull_request r = {
            .id = (uint64_t)q,
            .ids = ids,
            .n = (size_t)prompt,
            .sampling = {.max_new_tokens = (int)tokens, .top_p = 1, .repetition_penalty = 1, .ignore_eos = true}};
        rc = mull_infer_submit(f, &r, err);
    }
    while (!rc && (rc = mull_infer_step(f, err)) > 0) rc = 0;
    mull_infer_stats stats = {0};
    if (f) mull_infer_get_stats(f, &stats);
    *step_ms = stats.step_ms;
    mull_infer_destroy(f);
    free(ids);
    return rc;
}

static json_t *head(const bench *b) {
    return json_pack("{s:s, s:s, s:s, s:i}", "bench", b->what, "model", b->dir, "dtype", type_name(b), "threads",
                     mull_pool_threads(b->m->pool));
}

static void finish(const bench *b, json_t *out, double achieved, double roof, const char *unit) {
    json_object_update_new(out,
                           json_pack("{s:f, s:f, s:f, s:s, s:I}", "achieved", achieved, "roof", roof, "ratio",
                                     roof > 0 ? achieved / roof : 0, "unit", unit, "peak_bytes", (json_int_t)b->peak));
    mull_cmd_emit(out);
}

static int bench_decode(bench *b, mull_error *err) {
    double roof = 0, step_ms;
    for (long long i = -1; i < b->repeat; i++) {
        outcome o;
        int rc = run_requests(b, b->context, b->tokens, &o, &step_ms, err);
        if (rc) return rc;
        if (i >= 0) b->times[i] = o.decode_ms / (double)(b->tokens - 1);
        if (i < 0) b->peak = mull_cmd_peak_bytes();
        double rate = mull_roof_read(b->m->pool);
        roof = rate > roof ? rate : roof;
    }
    double step = mull_bench_median(b->times, (int)b->repeat),
           kv = 2.0 * b->m->config.layers * b->m->config.kv_heads * b->m->config.head_dim * 4;
    double bytes = decode_bytes(b->m) + kv * (double)b->batch * ((double)b->context + (double)b->tokens / 2);
    json_t *out = head(b);
    json_object_update_new(out, json_pack("{s:I, s:I, s:f, s:f, s:f}", "batch", (json_int_t)b->batch, "context",
                                          (json_int_t)b->context, "tok_s", (double)b->batch / step * 1e3, "step_ms",
                                          step, "bytes_per_step", bytes));
    finish(b, out, bytes / step * 1e3, roof, "bytes/s");
    return MULL_OK;
}

static int bench_prefill(bench *b, mull_error *err) {
    double roof = 0;
    for (long long i = -1; i < b->repeat; i++) {
        outcome o;
        double step_ms;
        int rc = run_requests(b, b->tokens, 1, &o, &step_ms, err);
        if (rc) return rc;
        if (i >= 0) b->times[i] = step_ms;
        if (i < 0) b->peak = mull_cmd_peak_bytes();
        double rate = mull_roof_gemm(b->m->pool, b->m->type);
        roof = rate > roof ? rate : roof;
    }
    double ms = mull_bench_median(b->times, (int)b->repeat),
           flop = (double)b->batch * prefill_flop(b->m, (double)b->tokens);
    json_t *out = head(b);
    json_object_update_new(out, json_pack("{s:I, s:I, s:f, s:f}", "batch", (json_int_t)b->batch, "tokens",
                                          (json_int_t)b->tokens, "tok_s", (double)(b->batch * b->tokens) / ms * 1e3,
                                          "ms", ms));
    finish(b, out, flop / ms * 1e3, roof, "FLOP/s");
    return MULL_OK;
}

static int bench_vision(bench *b, mull_error *err) {
    const mull_vision_config *v = &b->m->config.vision;
    int64_t grid[3] = {b->grid[0], b->grid[1], b->grid[2]}, n = grid[0] * grid[1] * grid[2];
    int64_t in = mull_vision_patch_floats(v);
    if (grid[1] % v->merge || grid[2] % v->merge)
        return mull_fail(err, MULL_EARG, "wrong grid", "--grid", "", "its sides must be multiples of %d", v->merge);
    float *patches = malloc((size_t)(n * in) * sizeof *patches);
    float *features = malloc((size_t)(n / v->merge / v->merge * b->m->config.hidden) * sizeof *features);
    int rc =
        patches && features ? MULL_OK : mull_fail(err, MULL_ENOMEM, "cannot measure", b->what, "", "out of memory");
    for (int64_t i = 0; !rc && i < n * in; i++) patches[i] = (float)((i * 2654435761) % 1009) / 504.5f - 1;
    double roof = 0;
    for (long long i = -1; !rc && i < b->repeat; i++) {
        double t = mull_cmd_ms();
        rc = mull_vision_encode(b->m, patches, grid, features, NULL, err);
        if (i >= 0) b->times[i] = mull_cmd_ms() - t;
        if (i < 0) b->peak = mull_cmd_peak_bytes();
        double rate = mull_roof_gemm(b->m->pool, mull_matrix_type(b->m->weights.vision.merge0));
        roof = rate > roof ? rate : roof;
    }
    free(patches);
    free(features);
    if (rc) return rc;
    double ms = mull_bench_median(b->times, (int)b->repeat);
    json_t *out = head(b);
    json_object_update_new(out, json_pack("{s:[I,I,I], s:f, s:f}", "grid", (json_int_t)grid[0], (json_int_t)grid[1],
                                          (json_int_t)grid[2], "patches_s", (double)n / ms * 1e3, "ms", ms));
    finish(b, out, vision_flop(b->m, b->grid) / ms * 1e3, roof, "FLOP/s");
    return MULL_OK;
}

static int parse(bench *b, int argc, char **argv) {
    static const struct option LONG[] = {{"model", 1, 0, 'm'},  {"dtype", 1, 0, 't'},  {"threads", 1, 0, 'n'},
                                         {"repeat", 1, 0, 'r'}, {"tokens", 1, 0, 'k'}, {"context", 1, 0, 'c'},
                                         {"batch", 1, 0, 'b'},  {"grid", 1, 0, 'g'},   {"help", 0, 0, 'h'},
                                         {0, 0, 0, 0}};
    int opt, rc = 0;
    char cmd[32], end;
    snprintf(cmd, sizeof cmd, "bench %s", b->what);
    optind = 1;
    while (!rc && (opt = getopt_long(argc, argv, "", LONG, NULL)) != -1) {
        switch (opt) {
        case 'm':
            b->dir = optarg;
            break;
        case 't':
            rc = mull_cmd_dtype(cmd, optarg, &b->load);
            break;
        case 'n':
            rc = mull_cmd_threads(cmd, optarg, &b->load);
            break;
        case 'r':
            rc = mull_cmd_int(cmd, "--repeat", optarg, 1, 1000, &b->repeat);
            break;
        case 'k':
            rc = mull_cmd_int(cmd, "--tokens", optarg, 2, 1 << 20, &b->tokens);
            break;
        case 'c':
            rc = mull_cmd_int(cmd, "--context", optarg, 1, 1 << 20, &b->context);
            break;
        case 'b':
            rc = mull_cmd_int(cmd, "--batch", optarg, 1, 4096, &b->batch);
            break;
        case 'g':
            if (sscanf(optarg, "%lldx%lldx%lld%c", &b->grid[0], &b->grid[1], &b->grid[2], &end) != 3 ||
                b->grid[0] < 1 || b->grid[1] < 2 || b->grid[2] < 2 || b->grid[0] > 4096 || b->grid[1] > 4096 ||
                b->grid[2] > 4096)
                return mull_cmd_usage(cmd, "--grid takes TxHxW in patches, not '%s'", optarg);
            break;
        case 'h':
            fputs(USAGE, stdout);
            exit(MULL_EXIT_OK);
        default:
            return mull_cmd_unknown("bench", argv);
        }
    }
    if (!rc && (!b->dir || optind < argc)) return mull_cmd_usage(cmd, "it takes --model and flags");
    return rc;
}

static int run(const char *what, long long tokens, int (*measure)(bench *, mull_error *), int argc, char **argv) {
    bench b = {.what = what, .repeat = 5, .tokens = tokens, .context = 128, .batch = 1, .grid = {1, 32, 32}};
    mull_error err = {0};
    double load_ms;
    int rc = parse(&b, argc, argv);
    if (rc) return rc;
    b.times = malloc((size_t)b.repeat * sizeof *b.times);
    rc = b.times ? mull_cmd_load(b.dir, &b.load, &b.m, &load_ms, &err)
                 : mull_fail(&err, MULL_ENOMEM, "cannot measure", what, "", "out of memory");
    if (!rc) rc = measure(&b, &err);
    mull_model_destroy(b.m);
    free(b.times);
    return rc ? mull_cmd_fail(&err) : MULL_EXIT_OK;
}

int mull_bench_decode(int argc, char **argv) {
    return run("decode", 64, bench_decode, argc, argv);
}

int mull_bench_prefill(int argc, char **argv) {
    return run("prefill", 512, bench_prefill, argc, argv);
}

int mull_bench_vision(int argc, char **argv) {
    return run("vision", 2, bench_vision, argc, argv);
}
