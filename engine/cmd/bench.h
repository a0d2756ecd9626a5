/* The measurements behind mull-engine bench, one function each; argv[0] is the measurement's name. They print JSON
 * lines and return the exit status. */
#ifndef MULL_ENGINE_CMD_BENCH_H
#define MULL_ENGINE_CMD_BENCH_H

#include "engine/ops/ops.h"

#include <jansson.h>

int mull_bench_gemm(int argc, char **argv);
int mull_bench_attn(int argc, char **argv);
int mull_bench_decode(int argc, char **argv);
int mull_bench_prefill(int argc, char **argv);
int mull_bench_vision(int argc, char **argv);
int mull_bench_train(int argc, char **argv);
int mull_bench_loader(int argc, char **argv);
int mull_bench_checkpoint(int argc, char **argv);
int mull_bench_preprocess(int argc, char **argv);
int mull_bench_score(int argc, char **argv);
int mull_bench_cuda(int argc, char **argv);
int mull_bench_rollout(int argc, char **argv);

/* One measurement's JSON line: {"bench","dtype","threads","isa","achieved","roof","ratio","unit"} and what more holds
 * (an object whose reference is taken, or NULL). */
typedef struct mull_bench_line {
    const char *bench, *dtype, *unit;
    int threads;
    double achieved, roof; /* in unit */
    json_t *more;
} mull_bench_line;

void mull_bench_emit(const mull_bench_line *line);
const char *mull_bench_dtype(mull_weight_type type);
/* The middle of n > 0 values, which it sorts. */
double mull_bench_median(double *v, int n);

#endif
