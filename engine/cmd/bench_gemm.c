/* mull-engine bench gemm: mull_matmul over shapes of the 340M-parameter model of ops/bench. With few rows a product
 * reads every weight once and is compared with the rate at which memory can be read; the weights then are large enough
 * to come from memory each time. With many rows it is compared with multiply-adds on registers alone. */
#include "engine/cmd/bench.h"
#include "engine/cmd/cmd.h"
#include "engine/cmd/cmd_model.h"
#include "engine/ops/roof.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>

static const char USAGE[] =
    "usage: mull-engine bench gemm [--dtype f32|bf16|bf16-dot|int8] [--threads N] [--repeat 9] [--shape MxNxK]\n"
    "  Without --dtype all of them. Without --shape: a matrix-vector product, a batch of 8, and prefill shapes.\n"
    "  Up to 16 rows are compared in bytes/s of weights read, more rows in FLOP/s.\n";

enum { FEW_ROWS = 16, REPEAT_MAX = 1000 };

typedef struct shape {
    long long m, n, k;
} shape;

static const shape SHAPES[] = {{1, 131072, 1024}, {8, 131072, 1024}, {64, 5632, 1024},
                               {512, 1536, 1024}, {512, 5632, 1024}, {512, 1024, 2816}};

typedef struct gemm_bench {
    mull_pool *pool;
    mull_weight_type type;
    int repeat;
    double *times; /* [repeat] */
} gemm_bench;

static double roof(const gemm_bench *b, const shape *s) {
    return s->m <= FEW_ROWS ? mull_roof_read(b->pool) : mull_roof_flops(b->pool, b->type);
}

static int measure(const gemm_bench *b, const shape *s, mull_error *err) {
    mull_matrix *w = NULL;
    float *x = malloc((size_t)(s->m * s->k) * sizeof *x), *y = malloc((size_t)(s->m * s->n) * sizeof *y);
    int rc = x && y ? MULL_OK
                    : mull_fail(err, MULL_ENOMEM, "cannot measure", "gemm", "use a smaller shape", "out of memory");
    if (!rc) rc = mull_matrix_create(s->n, s->k, b->type, &w, err);
    if (rc) goto out;
    for (int64_t i = 0; i < s->m * s->k; i++) x[i] = (float)(i % 31) * 0.02f - 0.3f;
    for (int64_t i = 0; i < s->n; i++) mull_matrix_set_rows(w, i, 1, x + i % s->m * s->k, MULL_F32);
    double limit = roof(b, s);
    for (int i = -1; i < b->repeat; i++) {
        double t = mull_cmd_ms();
        mull_matmul(b->pool, x, s->m, s->k, w, NULL, y, s->n, false);
        if (i >= 0) b->times[i] = (mull_cmd_ms() - t) * 1e-3;
    }
    double after = roof(b, s), sec = mull_bench_median(b->times, b->repeat);
    double work = s->m <= FEW_ROWS ? (double)mull_matrix_bytes(w) : 2.0 * (double)s->m * (double)s->n * (double)s->k;
    mull_bench_emit(&(mull_bench_line){.bench = "gemm",
                                       .dtype = mull_bench_dtype(b->type),
                                       .unit = s->m <= FEW_ROWS ? "bytes/s" : "FLOP/s",
                                       .threads = mull_pool_threads(b->pool),
                                       .achieved = work / sec,
                                       .roof = after > limit ? after : limit,
                                       .more = json_pack("{s:I, s:I, s:I, s:f}", "m", (json_int_t)s->m, "n",
                                                         (json_int_t)s->n, "k", (json_int_t)s->k, "ms", sec * 1e3)});
out:
    mull_matrix_destroy(w);
    free(x);
    free(y);
    return rc;
}

int mull_bench_gemm(int argc, char **argv) {
    static const struct option LONG[] = {{"dtype", 1, 0, 't'}, {"threads", 1, 0, 'n'}, {"repeat", 1, 0, 'r'},
                                         {"shape", 1, 0, 's'}, {"help", 0, 0, 'h'},    {0, 0, 0, 0}};
    static const char cmd[] = "bench gemm";
    mull_cmd_model flags = {0};
    long long repeat = 9;
    shape one = {0};
    int opt, rc = 0;
    char end;
    optind = 1;
    while (!rc && (opt = getopt_long(argc, argv, "h", LONG, NULL)) != -1) {
        switch (opt) {
        case 't':
            rc = mull_cmd_dtype(cmd, optarg, &flags);
            break;
        case 'n':
            rc = mull_cmd_threads(cmd, optarg, &flags);
            break;
        case 'r':
            rc = mull_cmd_int(cmd, "--repeat", optarg, 1, REPEAT_MAX, &repeat);
            break;
        case 's':
            if (sscanf(optarg, "%lldx%lldx%lld%c", &one.m, &one.n, &one.k, &end) != 3 || one.m < 1 || one.n < 1 ||
                one.k < 1 || one.m > 1 << 20 || one.n > 1 << 20 || one.k > 1 << 16)
                return mull_cmd_usage(cmd, "--shape takes MxNxK, up to 1048576x1048576x65536, not '%s'", optarg);
            break;
        case 'h':
            fputs(USAGE, stdout);
            return MULL_EXIT_OK;
        default:
            return mull_cmd_unknown("bench gemm", argv);
        }
    }
    if (rc) return rc;
    if (optind < argc) return mull_cmd_usage(cmd, "it takes flags only, not '%s'", argv[optind]);

    mull_error err = {0};
    double times[REPEAT_MAX];
    gemm_bench b = {.pool = mull_pool_create(flags.threads), .repeat = (int)repeat, .times = times};
    if (!b.pool) rc = mull_fail(&err, MULL_ENOMEM, "cannot measure", "gemm", NULL, "no thread pool");
    for (int t = MULL_WEIGHT_F32; t <= MULL_WEIGHT_BF16_DOT && !rc; t++) {
        if (flags.typed && (int)flags.weights != t) continue;
        b.type = (mull_weight_type)t;
        if (one.m) rc = measure(&b, &one, &err);
        for (size_t i = 0; i < sizeof SHAPES / sizeof *SHAPES && !one.m && !rc; i++) rc = measure(&b, &SHAPES[i], &err);
    }
    mull_pool_destroy(b.pool);
    return rc ? mull_cmd_fail(&err) : MULL_EXIT_OK;
}
