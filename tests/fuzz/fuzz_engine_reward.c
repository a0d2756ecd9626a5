/* Any bytes as a completion and its solution (split at the first NUL): rewards stay in range in both modes. */
#include "engine/eval/reward.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const TYPES[] = {"multiple choice", "numerical", "OCR", "free-form", "regression", "else"};
    const char *s = (const char *)data, *cut = size ? memchr(s, 0, size) : NULL;
    size_t n = cut ? (size_t)(cut - s) : size, m = cut ? size - n - 1 : 0;
    for (int compat = 0; compat < 2; compat++)
        for (size_t t = 0; t < sizeof TYPES / sizeof *TYPES; t++) {
            mull_reward r;
            mull_error err = {0};
            int rc = mull_reward_score(s, n, cut ? cut + 1 : "", m, TYPES[t], (mull_compat)compat, &r, &err);
            if (!rc && (!(r.accuracy >= 0 && r.accuracy <= 1) || (r.format != 0 && r.format != 0.5))) abort();
            mull_reward_fini(&r);
        }
    return 0;
}
