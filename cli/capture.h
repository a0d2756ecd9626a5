/* A program run to its end for what it prints. */
#ifndef MULL_CLI_CAPTURE_H
#define MULL_CLI_CAPTURE_H

#include <stdbool.h>
#include <stddef.h>

/* Runs argv (argv[0] is its path) with empty input in a process group of its own and reads its standard output, with
 * errors its standard error too, into out (NUL-ended, cut at cap). Its exit status; 127: it could not be started; -1: a
 * signal ended it, or ours did because seconds had passed. */
int mull_capture(const char *const *argv, bool errors, double seconds, char *out, size_t cap);

#endif
