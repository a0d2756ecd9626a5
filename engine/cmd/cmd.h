/* The commands of mull-engine. Each cmd_NAME.c holds one: parse the flags, call the engine, print JSON lines on
 * stdout and words on stderr. Exit: 0 good, 1 the work failed, 2 wrong usage, 75 requeue me. */
#ifndef MULL_ENGINE_CMD_CMD_H
#define MULL_ENGINE_CMD_CMD_H

#include "engine/core/error.h"

#include <jansson.h>

/* X(name, symbol, one line) in the order in which help lists them */
#define MULL_COMMANDS(X)                                                                                               \
    X("inspect", inspect, "describe a checkpoint folder as JSON")                                                      \
    X("init", init, "write a checkpoint folder with random weights")                                                   \
    X("tokenize", tokenize, "JSONL {\"text\"} on stdin to {\"ids\"}")                                                  \
    X("detokenize", detokenize, "JSONL {\"ids\"} on stdin to {\"text\"}")                                              \
    X("render", render, "JSONL {\"messages\"} on stdin to the prompt's text and ids")                                  \
    X("preprocess", preprocess, "images and videos to patches and grids")                                              \
    X("plan-media", plan_media, "the resize and frame formulas alone, JSONL on stdin")                                 \
    X("forward", forward, "run a case file, write the oracle's tensors")                                               \
    X("generate", generate, "answer one prompt")                                                                       \
    X("grad", grad, "loss and every gradient of a training case")                                                      \
    X("train", train, "train what a recipe says")                                                                      \
    X("rollouts", rollouts, "show the completions that a GRPO run kept")                                               \
    X("recipe", recipe, "check a training recipe alone")                                                               \
    X("merge", merge, "a LoRA adapter into its base model")                                                            \
    X("reward", reward, "score completions against solutions, JSONL on stdin")                                         \
    X("score", score, "score replies of an evaluation task, JSONL on stdin")                                           \
    X("eval", eval, "evaluate a model on tasks, resumable")                                                            \
    X("data", data, "show the samples that a training recipe makes")                                                   \
    X("compare", compare, "two evaluations of the same rows, with a significance test")                                \
    X("annotate", annotate, "answer a file of prompts")                                                                \
    X("serve", serve, "answer requests over HTTP in OpenAI's shape")                                                   \
    X("puzzles", puzzles, "draw a dataset of spatial puzzles")                                                         \
    X("bench", bench, "measure kernels against this machine's limits")                                                 \
    X("run", run, "run a job spec from stdin, events on fd 3 (what the worker starts)")

#define X(name, symbol, text) int mull_cmd_##symbol(int argc, char **argv);
MULL_COMMANDS(X)
#undef X

/* Prints the error line and gives the exit status for it: usage for MULL_EARG, else failed. */
int mull_cmd_fail(const mull_error *err);
/* Prints "error: WHAT ..." for a wrong command line and returns MULL_EXIT_USAGE. */
int mull_cmd_usage(const char *command, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The same for the flag of argv that getopt has just refused. */
int mull_cmd_unknown(const char *command, char *const *argv);
/* One JSON object as a compact line on stdout; takes the reference. A failed write exits with MULL_EXIT_FAILED. */
void mull_cmd_emit(json_t *obj);
/* Whole numbers and floats from flags; on nonsense prints usage and returns nonzero. */
int mull_cmd_int(const char *command, const char *flag, const char *text, long long lo, long long hi, long long *out);
int mull_cmd_double(const char *command, const char *flag, const char *text, double lo, double hi, double *out);

#endif
