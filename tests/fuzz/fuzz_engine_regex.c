/* Any bytes as a regular expression and a text for it (a NUL between them): what is accepted walks within its limits;
 * a state that ends accepts; a quoted text matches itself. */
#include "engine/infer/regex.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *nul = memchr(data, 0, size);
    size_t n = nul ? (size_t)(nul - data) : size;
    mull_regex *r;
    mull_error err = {0};
    if (n > 200) return 0; /* the limits of size have a test of their own */
    if (mull_regex_create((const char *)data, n, &r, &err)) {
        if (r || !err.why[0]) abort();
        return 0;
    }
    int32_t s = MULL_REGEX_START;
    for (size_t i = n + 1; i < size && s > MULL_REGEX_DEAD; i++) {
        s = mull_regex_step(r, s, data[i]);
        if (s > MULL_REGEX_DEAD && mull_regex_ends(r, s) && !mull_regex_accepts(r, s)) abort();
    }
    if (mull_regex_states(r) > MULL_REGEX_STATES) abort();
    mull_regex_destroy(r);
    return 0;
}
