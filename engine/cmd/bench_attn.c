/* mull-engine bench attn: attention in the three shapes a model meets: full inside windows and whole images (vision
 * tower), causal over a prompt (prefill), and one new token over a long cache (decode). The first two are compared
 * with multiply-adds on registers alone, decode with the rate at which memory can be read: it reads each key and value
 * once for all query heads of a group. */
#include "engine/cmd/bench.h"
#include "engine/cmd/cmd.h"
#include "engine/cmd/cmd_model.h"
#include "engine/ops/roof.h"

#include <getopt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static const char USAGE[] =
    "usage: mull-engine bench attn [--threads N] [--repeat 9] [--case vision|window|prefill|decode]\n"
    "  vision, window: 1024 patches, 8 heads of 80, whole or in windows of 64\n"
    "  prefill: 512 tokens, 8 query and 2 key heads of 128; decode: 8 sequences of 4096 tokens\n";

enum { REPEAT_MAX = 1000, PAGE = 32 };

typedef struct attn_bench {
    mull_pool *pool;
    int repeat;
    double times[REPEAT_MAX];
} attn_bench;

typedef struct attn_case {
    const char *name;
    bool paged, memory_bound;
    int rows, heads, kv_heads, hd, window; /* rows of each sequence; window: keys of a segment, 0 all */
    int seqs, context;                     /* keys of each sequence, rows included */
} attn_case;

static const attn_case CASES[] = {
    {.name = "vision", .rows = 1024, .heads = 8, .kv_heads = 8, .hd = 80, .window = 1024, .seqs = 1},
    {.name = "window", .rows = 1024, .heads = 8, .kv_heads = 8, .hd = 80, .window = 64, .seqs = 1},
    {.name = "prefill", .paged = true, .rows = 512, .heads = 8, .kv_heads = 2, .hd = 128, .seqs = 1, .context = 512},
    {.name = "decode",
     .paged = true,
     .memory_bound = true,
     .rows = 1,
     .heads = 8,
     .kv_heads = 2,
     .hd = 128,
     .seqs = 8,
     .context = 4096},
};

static void emit(attn_bench *b, const attn_case *c, double before, double after, double work) {
    double sec = mull_bench_median(b->times, b->repeat);
    mull_bench_emit(&(mull_bench_line){.bench = "attn",
                                       .dtype = "f32",
                                       .unit = c->memory_bound ? "bytes/s" : "FLOP/s",
                                       .threads = mull_pool_threads(b->pool),
                                       .achieved = work / sec,
                                       .roof = after > before ? after : before,
                                       .more = json_pack("{s:s, s:f}", "case", c->name, "ms", sec * 1e3)});
}

static double roof(const attn_bench *b, const attn_case *c) {
    return c->memory_bound ? mull_roof_read(b->pool) : mull_roof_flops(b->pool, MULL_WEIGHT_F32);
}

static int no_memory(mull_error *err) {
    return mull_fail(err, MULL_ENOMEM, "cannot measure", "attn", NULL, "out of memory");
}

static int varlen(attn_bench *b, const attn_case *c, mull_error *err) {
    int segments = c->rows / c->window, ld = 3 * c->heads * c->hd;
    float *qkv = malloc((size_t)c->rows * (size_t)ld * sizeof *qkv);
    float *out = malloc((size_t)c->rows * (size_t)(c->heads * c->hd) * sizeof *out);
    int32_t *cu = malloc(((size_t)segments + 1) * sizeof *cu);
    int rc = qkv && out && cu ? MULL_OK : no_memory(err);
    if (rc) goto out;
    for (int64_t i = 0; i < (int64_t)c->rows * ld; i++) qkv[i] = (float)(i % 97) * 0.01f - 0.5f;
    for (int s = 0; s <= segments; s++) cu[s] = s * c->window;
    double before = roof(b, c);
    for (int i = -1; i < b->repeat; i++) {
        double t = mull_cmd_ms();
        mull_attention_varlen(b->pool, qkv, qkv + c->heads * c->hd, qkv + 2 * c->heads * c->hd, ld, cu, segments,
                              c->heads, c->hd, 1 / sqrtf((float)c->hd), out, c->heads * c->hd);
        if (i >= 0) b->times[i] = (mull_cmd_ms() - t) * 1e-3;
    }
    emit(b, c, before, roof(b, c), 4.0 * c->rows * c->window * c->heads * c->hd);
out:
    free(qkv);
    free(out);
    free(cu);
    return rc;
}

static int paged(attn_bench *b, const attn_case *c, mull_error *err) {
    int pages = c->context / PAGE * c->seqs, rows = c->rows * c->seqs;
    int64_t page_floats = (int64_t)c->kv_heads * PAGE * c->hd, width = (int64_t)c->heads * c->hd;
    size_t cache_floats = (size_t)(2 * pages * page_floats) + 32;
    float *cache = mmap(NULL, cache_floats * sizeof *cache, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (cache == MAP_FAILED) return no_memory(err);
    madvise(cache, cache_floats * sizeof *cache, MADV_HUGEPAGE); /* as the engine's cache lies */
    float *q = malloc((size_t)(rows * width) * sizeof *q), *out = malloc((size_t)(rows * width) * sizeof *out);
    int32_t *table = malloc((size_t)pages * sizeof *table);
    mull_attn_seq *seqs = malloc((size_t)c->seqs * sizeof *seqs);
    int rc = q && out && table && seqs ? MULL_OK : no_memory(err);
    if (rc) goto out;
    for (size_t i = 0; i < cache_floats; i++) cache[i] = (float)(i % 101) * 0.01f - 0.5f;
    for (int64_t i = 0; i < rows * width; i++) q[i] = (float)(i % 89) * 0.01f - 0.5f;
    for (int i = 0; i < pages; i++) table[i] = i;
    for (int s = 0; s < c->seqs; s++)
        seqs[s] = (mull_attn_seq){.row0 = s * c->rows,
                                  .rows = c->rows,
                                  .pos0 = c->context - c->rows,
                                  .pages = table + s * (c->context / PAGE)};
    mull_kv_view kv = {.k = cache,
                       .v = cache + page_floats,
                       .page_stride = 2 * page_floats,
                       .page_tokens = PAGE,
                       .kv_heads = c->kv_heads,
                       .hd = c->hd};
    double before = roof(b, c);
    for (int i = -1; i < b->repeat; i++) {
        double t = mull_cmd_ms();
        mull_attention_paged(b->pool, &kv, seqs, c->seqs, q, width, c->heads, 1 / sqrtf((float)c->hd), out, width);
        if (i >= 0) b->times[i] = (mull_cmd_ms() - t) * 1e-3;
    }
    double keys = (double)c->rows * (c->context - c->rows) + (double)c->rows * (c->rows + 1) / 2;
    emit(b, c, before, roof(b, c),
         c->memory_bound ? 2.0 * pages * (double)page_floats * sizeof(float) : 4.0 * c->seqs * keys * (double)width);
out:
    munmap(cache, cache_floats * sizeof *cache);
    free(q);
    free(out);
    free(table);
    free(seqs);
    return rc;
}

int mull_bench_attn(int argc, char **argv) {
    static const struct option LONG[] = {
        {"threads", 1, 0, 'n'}, {"repeat", 1, 0, 'r'}, {"case", 1, 0, 'c'}, {"help", 0, 0, 'h'}, {0, 0, 0, 0}};
    static const char cmd[] = "bench attn";
    enum { N = sizeof CASES / sizeof *CASES };
    mull_cmd_model flags = {0};
    long long repeat = 9;
    int opt, rc = 0, only = -1;
    optind = 1;
    while (!rc && (opt = getopt_long(argc, argv, "h", LONG, NULL)) != -1) {
        switch (opt) {
        case 'n':
            rc = mull_cmd_threads(cmd, optarg, &flags);
            break;
        case 'r':
            rc = mull_cmd_int(cmd, "--repeat", optarg, 1, REPEAT_MAX, &repeat);
            break;
        case 'c':
            for (int i = 0; i < N; i++)
                if (!strcmp(optarg, CASES[i].name)) only = i;
            if (only < 0) return mull_cmd_usage(cmd, "there is no case '%s'", optarg);
            break;
        case 'h':
            fputs(USAGE, stdout);
            return MULL_EXIT_OK;
        default:
            return mull_cmd_unknown("bench attn", argv);
        }
    }
    if (rc) return rc;
    if (optind < argc) return mull_cmd_usage(cmd, "it takes flags only, not '%s'", argv[optind]);

    mull_error err = {0};
    attn_bench b = {.pool = mull_pool_create(flags.threads), .repeat = (int)repeat};
    if (!b.pool) rc = mull_fail(&err, MULL_ENOMEM, "cannot measure", "attn", NULL, "no thread pool");
    for (int i = 0; i < N && !rc; i++)
        if (only < 0 || only == i) rc = CASES[i].paged ? paged(&b, &CASES[i], &err) : varlen(&b, &CASES[i], &err);
    mull_pool_destroy(b.pool);
    return rc ? mull_cmd_fail(&err) : MULL_EXIT_OK;
}
