/* The measurements behind mull-engine bench, one function each; argv[0] is the measurement's name. They print JSON
 * lines and return the exit status. */
#ifndef MULL_ENGINE_CMD_BENCH_H
#define MULL_ENGINE_CMD_BENCH_H

int mull_bench_preprocess(int argc, char **argv);
int mull_bench_decode(int argc, char **argv);
int mull_bench_prefill(int argc, char **argv);
int mull_bench_vision(int argc, char **argv);

#endif
