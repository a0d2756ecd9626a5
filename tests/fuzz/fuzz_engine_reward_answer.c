/* Any bytes as what a reward command answered: scores are finite, or the error says which line. */
#include "engine/train/reward_command.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    enum { N = 3 };
    double scores[N] = {NAN, NAN, NAN};
    mull_error err = {0};
    int rc = mull_reward_command_parse("x", (const char *)data, size, scores, N, NULL, &err);
    for (int i = 0; !rc && i < N; i++)
        if (!isfinite(scores[i])) abort();
    if (rc && !*err.why) abort();
    return 0;
}
