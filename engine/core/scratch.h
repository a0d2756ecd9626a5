/* Working memory of a thread that stays for the next call, so that a step allocates nothing after its first. */
#ifndef MULL_ENGINE_CORE_SCRATCH_H
#define MULL_ENGINE_CORE_SCRATCH_H

#include <stddef.h>

/* Who uses it: users that may be active at once on one thread have slots of their own. */
typedef enum mull_scratch_slot {
    MULL_SCRATCH_GEMM,
    MULL_SCRATCH_GEMM_RIGHT,
    MULL_SCRATCH_PANELS,
    MULL_SCRATCH_ATTENTION,
    MULL_SCRATCH_SLOTS
} mull_scratch_slot;

/* At least so many floats, aligned to 64 bytes, valid until the thread's next call for the slot and freed when the
 * thread ends. Aborts when there is no memory: no result is better than a wrong one, and the supervisor reports it. */
float *mull_scratch(mull_scratch_slot slot, size_t floats);

#endif
