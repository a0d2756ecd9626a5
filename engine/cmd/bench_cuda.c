/* mull-engine bench cuda: what the GPU reaches, each figure beside the roof that the same process measured: its copy
 * bandwidth for what is bound by memory, its rate of one large product for what computes. Times are of the wall clock
 * around many queued calls and one wait, so a launch's cost shows only where it is not hidden. Matrices that are
 * streamed take turns over more memory than the L2 holds. */
#include "engine/cmd/bench.h"
#include "engine/cmd/cmd.h"
#include "engine/cmd/cmd_model.h"

#if !MULL_HAVE_CUDA
int mull_bench_cuda(int argc, char **argv) {
    (void)argc, (void)argv;
    mull_cmd_model load = {0};
    return mull_cmd_device("bench cuda", "cuda", &load); /* refuses */
}
#else
#include "engine/cmd/bench_cuda.h"
#include "engine/core/rng.h"
#include "engine/infer/infer.h"
#include "engine/model/model_internal.h"
#include "engine/model/vision.h"
#include "engine/ops/cuda_ops.h"

#include <getopt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char USAGE[] =
    "usage: mull-engine bench cuda [--model DIR] [--dtype bf16|int8|f32] [--batch 64] [--prompt 512] [--tokens 128]\n"
    "                              [--prefill 4096] [--grid 1x78x138]\n\n"
    "Measures copies, products and attention; with --model also decoding of one sequence and of --batch, prefill, the\n"
    "vision tower and the time to the first token after one picture. JSON lines on stdout.\n";

void mull__bench_cuda_emit(const mull_cuda_bench *b, const char *name, double achieved, double roof, const char *unit,
                           json_t *more) {
    json_t *o = json_pack("{s:s, s:s, s:f, s:f, s:f, s:s}", "bench", name, "device", mull_cuda_get_info(b->c)->name,
                          "achieved", achieved, "roof", roof, "ratio", roof > 0 ? achieved / roof : 0, "unit", unit);
    if (o && more) json_object_update(o, more);
    json_decref(more);
    mull_cmd_emit(o);
}

/* Milliseconds of one call of queue(ctx, i), from enough calls to fill a tenth of a second. */
int mull__bench_cuda_per_call(mull_cuda_bench *b, void (*queue)(void *ctx, int i), void *ctx, double *ms) {
    int n = 3, rc;
    for (;;) {
        if ((rc = mull_cuda_sync(b->c, b->err))) return rc;
        double start = mull_cmd_ms();
        for (int i = 0; i < n; i++) queue(ctx, i);
        if ((rc = mull_cuda_sync(b->c, b->err))) return rc;
        double t = mull_cmd_ms() - start;
        if (t >= 100 || n >= 1 << 16) {
            *ms = t / n;
            return MULL_OK;
        }
        n = t < 10 ? n * 8 : (int)(n * 130 / t) + 1;
    }
}

static void queue_copy(void *ctx, int i) {
    mull_cuda_bench *b = ctx;
    (void)i;
    mull_cuda_move(b->c, b->memory, b->memory + b->bytes / 2, b->bytes / 2);
}

typedef struct product {
    mull_cuda_bench *b;
    mull_cuda_matrix w;
    void *x, *y;
    int64_t m;
    int copies; /* of w, one behind the other */
    bool few;
} product;

static void queue_product(void *ctx, int i) {
    product *p = ctx;
    mull_cuda_matrix w = p->w;
    size_t each = (size_t)(w.n * w.k) * mull_dtype_size(w.type);
    w.data = (char *)w.data + (size_t)(i % p->copies) * each;
    (p->few ? mull_cuda_gemv : mull_cuda_gemm)(p->b->c, p->x, p->m, w.k, &w, NULL, p->y, w.type, w.n, false);
}

/* Numbers that are no zeros: the clock drops with what the tensor cores have to switch. */
static int fill(mull_cuda_bench *b) {
    uint16_t *x = mull_cuda_stage(b->c);
    size_t n = MULL_CUDA_STAGE;
    for (size_t i = 0; i < n / 2; i++) x[i] = mull_f32_to_bf16((float)(mull_uniform(1, 0, i) - 0.5) * 0.25f);
    mull_cuda_send(b->c, b->memory, n);
    for (size_t at = n; at < b->bytes; at *= 2)
        mull_cuda_move(b->c, b->memory + at, b->memory, at < b->bytes - at ? at : b->bytes - at);
    return mull_cuda_sync(b->c, b->err);
}

static int products(mull_cuda_bench *b) {
    double ms;
    int rc;
    const int64_t big = 8192;
    product p = {.b = b,
                 .w = {.data = b->memory, .n = big, .k = big, .type = MULL_BF16},
                 .x = b->memory + ((size_t)1 << 28),
                 .y = b->memory + ((size_t)1 << 29),
                 .m = big,
                 .copies = 1};
    if ((rc = mull__bench_cuda_per_call(b, queue_product, &p, &ms))) return rc;
    b->product = 2.0 * (double)(big * big * big) / ms * 1e3;
    mull__bench_cuda_emit(b, "gemm", b->product, b->product, "FLOP/s",
                          json_pack("{s:s}", "shape", "8192 x 8192 x 8192 bf16"));
    /* The products of one decoded token of a 7B model. */
    const int64_t shapes[][2] = {{4608, 3584}, {3584, 3584}, {37888, 3584}, {3584, 18944}, {152064, 3584}};
    for (int64_t m = 1; m <= 8; m *= 8)
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            size_t each = (size_t)(shapes[i][0] * shapes[i][1]) * 2, room = b->bytes - ((size_t)1 << 26);
            p = (product){.b = b,
                          .w = {.data = b->memory, .n = shapes[i][0], .k = shapes[i][1], .type = MULL_BF16},
                          .x = b->memory + room,
                          .y = b->memory + room + ((size_t)1 << 24),
                          .m = m,
                          .copies = (int)(room / each < 64 ? room / each : 64),
                          .few = true};
            if ((rc = mull__bench_cuda_per_call(b, queue_product, &p, &ms))) return rc;
            mull__bench_cuda_emit(b, "gemv", (double)each / ms * 1e3, b->copy, "bytes/s",
                                  json_pack("{s:I, s:I, s:I, s:f}", "m", (json_int_t)m, "n", (json_int_t)shapes[i][0],
                                            "k", (json_int_t)shapes[i][1], "us", ms * 1e3));
        }
    return MULL_OK;
}

typedef struct attention {
    mull_cuda_bench *b;
    mull_cuda_attention a;
} attention;

static void queue_attention(void *ctx, int i) {
    attention *a = ctx;
    (void)i;
    mull_cuda_attend(a->b->c, &a->a);
}

/* nseq sequences of rows queries behind pos0 keys; paged and causal, or one full segment each. */
static int one_attention(mull_cuda_bench *b, const char *name, int heads, int kv_heads, int hd, int nseq, int32_t rows,
                         int32_t pos0, bool causal) {
    int rc = MULL_OK;
    int64_t keys = (int64_t)pos0 + rows, pages = (keys + MULL_CUDA_PAGE - 1) / MULL_CUDA_PAGE;
    int64_t page = 2ll * kv_heads * hd * MULL_CUDA_PAGE, q = (int64_t)heads * hd, ld = causal ? q : 3 * q;
    mull_cuda_seq *seqs = calloc((size_t)nseq, sizeof *seqs);
    int32_t *table = malloc((size_t)(nseq * pages) * sizeof *table);
    mull_cuda_work *work = NULL;
    mull_cuda_join *joins = NULL;
    char *meta = NULL;
    if (!seqs || !table) goto nomem;
    for (int s = 0; s < nseq; s++) seqs[s] = (mull_cuda_seq){s * rows, rows, pos0, (int32_t)(s * pages)};
    for (int64_t p = 0; p < nseq * pages; p++) table[p] = (int32_t)p;
    mull_cuda_kv kv = {.k = b->memory, .v = b->memory + page, .page_stride = page, .kv_heads = kv_heads, .hd = hd};
    char *at = b->memory + (causal ? (size_t)(nseq * pages * page) * 2 : 0);
    attention a = {.b = b,
                   .a = {.t = MULL_BF16,
                         .q = at,
                         .ldq = ld,
                         .kv = causal ? &kv : NULL,
                         .k = at + q * 2,
                         .v = at + 4 * q,
                         .ldkv = ld,
                         .heads = heads,
                         .hd = hd,
                         .causal = causal,
                         .scale = 1.0f / sqrtf((float)hd),
                         .out = at + (size_t)(nseq * rows * ld) * 2,
                         .ldo = q}};
    mull_cuda_plan_attention(seqs, nseq, heads / kv_heads, causal, &a.a.plan, NULL, NULL);
    size_t nw = (size_t)(a.a.plan.wide + a.a.plan.few), nj = (size_t)a.a.plan.joins;
    work = calloc(nw + 1, sizeof *work);
    joins = calloc(nj + 1, sizeof *joins);
    if (!work || !joins) goto nomem;
    mull_cuda_plan_attention(seqs, nseq, heads / kv_heads, causal, &a.a.plan, work, joins);
    size_t parts[] = {(size_t)nseq * sizeof *seqs, (size_t)(nseq * pages) * sizeof *table, nw * sizeof *work,
                      nj * sizeof *joins};
    const void *from[] = {seqs, table, work, joins};
    size_t offsets[4], used = 0;
    for (int i = 0; i < 4; i++) {
        offsets[i] = used;
        used += (parts[i] + 255) & ~(size_t)255;
    }
    void *p;
    rc = mull_cuda_alloc(b->c, used, "a plan", &p, b->err);
    if (!rc)
        rc = mull_cuda_reserve(b->c, MULL_CUDA_ATTENTION, mull_cuda_attention_scratch(a.a.plan.parts, kv_heads, hd),
                               b->err);
    if (rc) goto out;
    meta = p;
    for (int i = 0; i < 4; i++) mull_cuda_put(b->c, meta + offsets[i], from[i], parts[i]);
    a.a.seqs = (void *)meta;
    a.a.pages = (void *)(meta + offsets[1]);
    a.a.work = (void *)(meta + offsets[2]);
    a.a.joins = (void *)(meta + offsets[3]);
    double ms;
    if ((rc = mull__bench_cuda_per_call(b, queue_attention, &a, &ms))) goto out;
    double seen = causal ? (double)rows * pos0 + (double)rows * (rows + 1) / 2 : (double)rows * rows;
    double flop = 4.0 * seen * hd * heads * nseq, bytes = 4.0 * (double)keys * kv_heads * hd * nseq;
    bool memory = rows == 1;
    mull__bench_cuda_emit(b, name, (memory ? bytes : flop) / ms * 1e3, memory ? b->copy : b->product,
                          memory ? "bytes/s" : "FLOP/s",
                          json_pack("{s:i, s:i, s:i, s:i, s:I, s:f}", "heads", heads, "kv_heads", kv_heads, "hd", hd,
                                    "sequences", nseq, "keys", (json_int_t)keys, "us", ms * 1e3));
    goto out;
nomem:
    rc = mull_fail(b->err, MULL_ENOMEM, "cannot measure", name, "", "out of memory");
out:
    mull_cuda_release(b->c, meta);
    free(seqs);
    free(table);
    free(work);
    free(joins);
    return rc;
}

static int ops(mull_cuda_bench *b) {
    double ms;
    void *p;
    b->bytes = (size_t)2 << 30;
    int rc = mull_cuda_open(0, &b->c, b->err);
    if (!rc) rc = mull_cuda_alloc(b->c, b->bytes, "measuring", &p, b->err);
    if (rc) return rc;
    b->memory = p;
    const mull_cuda_info *i = mull_cuda_get_info(b->c);
    mull_cmd_emit(json_pack("{s:s, s:s, s:i, s:i, s:i, s:I, s:i, s:i}", "bench", "device", "device", i->name, "major",
                            i->major, "minor", i->minor, "sms", i->sms, "memory", (json_int_t)i->total, "driver",
                            i->driver, "runtime", i->runtime));
    rc = fill(b);
    if (!rc) rc = mull__bench_cuda_per_call(b, queue_copy, b, &ms);
    if (rc) return rc;
    b->copy = (double)b->bytes / ms * 1e3; /* half read, half written */
    mull__bench_cuda_emit(b, "copy", b->copy, b->copy, "bytes/s", NULL);
    rc = products(b);
    if (!rc) rc = one_attention(b, "attention prefill d128", 28, 4, 128, 1, 8192, 0, true);
    if (!rc) rc = one_attention(b, "attention vision d80", 16, 16, 80, 1, 8192, 0, false);
    if (!rc) rc = one_attention(b, "attention windows d80", 16, 16, 80, 128, 64, 0, false);
    if (!rc) rc = one_attention(b, "attention decode d128", 28, 4, 128, 1, 1, 8191, true);
    if (!rc) rc = one_attention(b, "attention decode d128", 28, 4, 128, 64, 1, 2047, true);
    if (!rc) rc = mull__bench_cuda_train(b);
    return rc;
}

/* ---- with a model */
typedef struct outcome {
    double decode_ms, prefill_ms, vision_ms;
    int64_t tokens;
    bool failed;
} outcome;

static void on_done(void *ctx, const mull_result *r) {
    outcome *o = ctx;
    o->decode_ms = fmax(o->decode_ms, r->decode_ms);
    o->prefill_ms = fmax(o->prefill_ms, r->prefill_ms);
    o->vision_ms += r->vision_ms;
    o->tokens += (int64_t)r->n;
    o->failed |= r->finish == MULL_FINISH_ERROR;
}

static int generate(mull_model *m, int batch, int64_t prompt, int tokens, const mull_media *media, outcome *o,
                    mull_error *err) {
    *o = (outcome){0};
    const mull_config *c = mull_model_config(m);
    mull_infer_opts opts = {.cache_tokens = batch * (prompt + tokens + 64),
                            .max_batch = batch,
                            .prefill_chunk = 2048,
                            .no_prefix_cache = true,
                            .raw = true};
    mull_infer *f = NULL;
    int32_t *ids = malloc((size_t)prompt * sizeof *ids);
    if (!ids) return mull_fail(err, MULL_ENOMEM, "cannot measure", "", "", "out of memory");
    int rc = mull_infer_create(m, NULL, &opts, &(mull_infer_callbacks){.ctx = o, .on_done = on_done}, &f, err);
    for (int q = 0; q < batch && !rc; q++) {
        for (int64_t i = 0; i < prompt; i++) {
            ids[i] = (int32_t)((uint64_t)(i * 7919 + q * 104729) % (uint64_t)c->vocab);
            while (ids[i] == c->image_token || ids[i] == c->video_token) ids[i]--;
        }
        for (int64_t i = 0; media && i < media->tokens; i++) ids[1 + i] = c->image_token;
        mull_request r = {
            .id = (uint64_t)q,
            .ids = ids,
            .n = (size_t)prompt,
            .media = &media,
            .nmedia = media != NULL,
            .sampling = {.max_new_tokens = tokens, .top_p = 1, .repetition_penalty = 1, .ignore_eos = true}};
        rc = mull_infer_submit(f, &r, err);
    }
    while (!rc && (rc = mull_infer_step(f, err)) > 0) rc = 0;
    mull_infer_destroy(f);
    free(ids);
    if (!rc && o->failed) rc = mull_fail(err, MULL_EINTERNAL, "cannot measure", "", "", "a request failed");
    return rc;
}

static double layer_elements(const mull_config *c) {
    double h = c->hidden, q = (double)c->heads * c->head_dim, kv = (double)c->kv_heads * c->head_dim;
    return c->layers * (h * (q + 2 * kv) + q * h + 3 * h * c->intermediate);
}

static int decode(mull_cuda_bench *b, mull_model *m, const char *dir, int batch, int64_t prompt, int tokens,
                  double weight) {
    outcome o;
    int rc = generate(m, batch, prompt, tokens, NULL, &o, b->err); /* warm: algorithms, scratch */
    if (!rc) rc = generate(m, batch, prompt, tokens, NULL, &o, b->err);
    if (rc) return rc;
    const mull_config *c = mull_model_config(m);
    double step = o.decode_ms / (tokens - 1),
           kv = 2.0 * c->layers * c->kv_heads * c->head_dim * (double)mull_model_kv_element(m);
    double bytes =
        (layer_elements(c) + (double)c->vocab * c->hidden) * weight + kv * batch * ((double)prompt + tokens / 2.0);
    mull__bench_cuda_emit(b, "decode", bytes / step * 1e3, b->copy, "bytes/s",
                          json_pack("{s:s, s:s, s:i, s:I, s:i, s:f, s:f}", "model", dir, "dtype",
                                    mull_bench_dtype(m->type), "batch", batch, "prompt", (json_int_t)prompt, "tokens",
                                    tokens, "step_ms", step, "tok_s", batch / step * 1e3));
    return MULL_OK;
}

static int prefill(mull_cuda_bench *b, mull_model *m, const char *dir, int64_t prompt) {
    outcome o;
    int rc = generate(m, 1, prompt, 1, NULL, &o, b->err);
    if (!rc) rc = generate(m, 1, prompt, 1, NULL, &o, b->err);
    if (rc) return rc;
    const mull_config *c = mull_model_config(m);
    double flop = 2 * layer_elements(c) * (double)prompt +
                  2.0 * c->layers * c->heads * c->head_dim * (double)prompt * (double)prompt;
    mull__bench_cuda_emit(b, "prefill", flop / o.prefill_ms * 1e3, b->product, "FLOP/s",
                          json_pack("{s:s, s:s, s:I, s:f, s:f}", "model", dir, "dtype", mull_bench_dtype(m->type),
                                    "prompt", (json_int_t)prompt, "ms", o.prefill_ms, "tok_s",
                                    (double)prompt / o.prefill_ms * 1e3));
    return MULL_OK;
}

static int picture(mull_cuda_bench *b, mull_model *m, const char *dir, const int64_t grid[3]) {
    const mull_vision_config *v = &mull_model_config(m)->vision;
    int64_t n = grid[0] * grid[1] * grid[2], in = mull_vision_patch_floats(v);
    mull_media media = {
        .kind = MULL_MEDIA_IMAGE, .grid = {grid[0], grid[1], grid[2]}, .tokens = n / v->merge / v->merge};
    media.patches = malloc((size_t)(n * in) * sizeof *media.patches);
    if (!media.patches) return mull_fail(b->err, MULL_ENOMEM, "cannot measure", "picture", "", "out of memory");
    for (int64_t i = 0; i < n * in; i++) media.patches[i] = (float)((i * 2654435761) % 1009) / 504.5f - 1;
    outcome o;
    int rc = generate(m, 1, media.tokens + 64, 2, &media, &o, b->err);
    if (!rc) rc = generate(m, 1, media.tokens + 64, 2, &media, &o, b->err);
    free(media.patches);
    if (rc) return rc;
    double e = v->hidden, full = 0, flop;
    for (int i = 0; i < v->depth; i++) full += v->full_attention[i] ? 4 * e * (double)(grid[1] * grid[2]) : 4 * e * 64;
    flop = 2.0 * (double)n * (v->depth * (4 * e * e + 3 * e * v->intermediate) + (double)in * e) + full * (double)n;
    mull__bench_cuda_emit(b, "picture", flop / o.vision_ms * 1e3, b->product, "FLOP/s",
                          json_pack("{s:s, s:I, s:I, s:f, s:f, s:f}", "model", dir, "patches", (json_int_t)n, "tokens",
                                    (json_int_t)media.tokens, "vision_ms", o.vision_ms, "prefill_ms", o.prefill_ms,
                                    "first_token_ms", o.vision_ms + o.prefill_ms));
    return MULL_OK;
}

int mull_bench_cuda(int argc, char **argv) {
    static const struct option LONG[] = {{"model", 1, 0, 'm'},  {"dtype", 1, 0, 't'},  {"batch", 1, 0, 'b'},
                                         {"prompt", 1, 0, 'p'}, {"tokens", 1, 0, 'n'}, {"prefill", 1, 0, 'f'},
                                         {"grid", 1, 0, 'g'},   {"help", 0, 0, 'h'},   {0, 0, 0, 0}};
    const char *dir = NULL;
    mull_cmd_model load = {.typed = true, .weights = MULL_WEIGHT_BF16};
    long long batch = 64, prompt = 512, tokens = 128, long_prompt = 4096, g[3] = {1, 78, 138};
    int ch, rc;
    optind = 1;
    while ((ch = getopt_long(argc, argv, "", LONG, NULL)) != -1) {
        rc = 0;
        if (ch == 'm')
            dir = optarg;
        else if (ch == 't')
            rc = mull_cmd_dtype("bench cuda", optarg, &load);
        else if (ch == 'b')
            rc = mull_cmd_int("bench cuda", "--batch", optarg, 1, 4096, &batch);
        else if (ch == 'p')
            rc = mull_cmd_int("bench cuda", "--prompt", optarg, 1, 1 << 20, &prompt);
        else if (ch == 'n')
            rc = mull_cmd_int("bench cuda", "--tokens", optarg, 2, 1 << 20, &tokens);
        else if (ch == 'f')
            rc = mull_cmd_int("bench cuda", "--prefill", optarg, 2, 1 << 20, &long_prompt);
        else if (ch == 'g' && sscanf(optarg, "%lldx%lldx%lld", &g[0], &g[1], &g[2]) != 3)
            rc = mull_cmd_usage("bench cuda", "--grid takes TxHxW, not '%s'", optarg);
        else if (ch == 'h') {
            fputs(USAGE, stdout);
            return MULL_EXIT_OK;
        } else if (ch == '?')
            rc = mull_cmd_unknown("bench cuda", argv);
        if (rc) return rc;
    }
    mull_error err = {0};
    mull_cuda_bench b = {.err = &err};
    mull_model *m = NULL;
    double load_ms;
    rc = ops(&b);
    mull_cuda_release(b.c, b.memory);
    if (!rc && dir && !(rc = mull_cmd_device("bench cuda", "cuda", &load)))
        rc = mull_cmd_load(dir, &load, &m, &load_ms, &err);
    if (!rc && m) {
        mull__bench_cuda_emit(
            &b, "load", (double)mull_model_bytes(m) / load_ms * 1e3, 0, "bytes/s",
            json_pack("{s:s, s:f, s:I}", "model", dir, "ms", load_ms, "bytes", (json_int_t)mull_model_bytes(m)));
        double weight = load.weights == MULL_WEIGHT_INT8 ? 1 : load.weights == MULL_WEIGHT_F32 ? 4 : 2;
        rc = decode(&b, m, dir, 1, prompt, (int)tokens, weight);
        if (!rc) rc = decode(&b, m, dir, (int)batch, prompt, (int)tokens, weight);
        if (!rc) rc = prefill(&b, m, dir, long_prompt);
        if (!rc) rc = picture(&b, m, dir, (int64_t[]){g[0], g[1], g[2]});
    }
    mull_model_destroy(m);
    mull_cuda_close(b.c);
    return rc ? mull_cmd_fail(&err) : MULL_EXIT_OK;
}
#endif
