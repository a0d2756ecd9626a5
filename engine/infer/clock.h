/* Monotonic time in milliseconds, for the figures of requests. */
#ifndef MULL_ENGINE_INFER_CLOCK_H
#define MULL_ENGINE_INFER_CLOCK_H

#include <time.h>

static inline double mull_clock_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

#endif
