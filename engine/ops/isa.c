/* Run-time choice of the instruction set. MULL_ISA=portable|avx2|avx512|vnni|bf16 forces one, for tests and for
 * comparing results between machines; a name that this CPU cannot run falls back to the best it can. */
#include "engine/ops/kernels.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const mull_kernels *chosen = &mull_kernels_portable;
static pthread_once_t once = PTHREAD_ONCE_INIT;

int mull_kernels_list(const mull_kernels *out[MULL_ISAS]) {
    int n = 0;
    out[n++] = &mull_kernels_portable;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        out[n++] = &mull_kernels_avx2;
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
            out[n++] = &mull_kernels_avx512;
            if (__builtin_cpu_supports("avx512vnni")) {
                out[n++] = &mull_kernels_vnni;
                if (__builtin_cpu_supports("avx512bf16")) out[n++] = &mull_kernels_bf16;
            }
        }
    }
#endif
    return n;
}

static void choose(void) {
    const mull_kernels *can[MULL_ISAS];
    int n = mull_kernels_list(can);
    chosen = can[n - 1];
    const char *want = getenv("MULL_ISA");
    if (!want || !*want) return;
    for (int i = 0; i < n; i++)
        if (!strcmp(can[i]->name, want)) {
            chosen = can[i];
            return;
        }
    fprintf(stderr, "warning: MULL_ISA=%s cannot be used on this CPU (portable, avx2, avx512, vnni, bf16); using %s\n",
            want, chosen->name);
}

const mull_kernels *mull_kernels_get(void) {
    pthread_once(&once, choose);
    return chosen;
}

void mull_kernels_force(const mull_kernels *k) {
    pthread_once(&once, choose);
    chosen = k;
}
