/* Running groups of tests of the CUDA backend: on a GPU, or on the emulation (tests/cuda), whose own functions are
 * declared here. */
#ifndef MULL_TESTS_ENGINE_CUDA_GROUP_H
#define MULL_TESTS_ENGINE_CUDA_GROUP_H

#include "engine/core/cuda.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#ifdef MULL_CUDA_EMULATED
enum { MULL_EMU_SHUFFLED = 2 };
void mull_emu_set_order(int order); /* of threads */
void mull_emu_fail_launch(long n);  /* the n-th from now; 0: none */
void mull_emu_fail_alloc(long n);
void mull_emu_fail_capture(long n);
size_t mull_emu_live_bytes(void);
long mull_emu_launches(void);
long mull_emu_replays(void);
#endif

/* Without a device: says that what was not run, and the test's status is 77. */
static inline bool cuda_missing(const char *what) {
    if (mull_cuda_devices() > 0) return false;
    printf("SKIPPED: no CUDA device. %s NOT run on a GPU.\n", what);
    return true;
}

/* Runs tests that open the device themselves; on the emulation with threads in a shuffled order. */
static inline int cuda_group_main(const struct CMUnitTest *tests, size_t n, const char *what) {
    if (cuda_missing(what)) return 77;
#ifdef MULL_CUDA_EMULATED
    mull_emu_set_order(MULL_EMU_SHUFFLED);
#endif
    return _cmocka_run_group_tests(what, tests, n, NULL, NULL);
}

#endif
