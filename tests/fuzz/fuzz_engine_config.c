/* Any bytes as config.json, or up to a zero byte as config.json and behind it generation_config.json. What is accepted
 * must have a list of tensors whose sizes can be computed. */
#include "engine/model/config.h"
#include "engine/model/weights.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *text = (const char *)data, *zero = size ? memchr(text, 0, size) : NULL;
    size_t len = zero ? (size_t)(zero - text) : size;
    mull_config c;
    mull_error e = {0};
    int rc = mull_config_parse(text, len, zero ? zero + 1 : NULL, zero ? size - len - 1 : 0, "fuzz", &c, &e);
    if (rc) {
        if (!e.what[0] || !e.why[0]) abort();
        return 0;
    }
    mull_weight_spec *w = NULL;
    size_t n = 0;
    if (mull_weights_list(&c, &w, &n, &e) || n < 20) abort();
    for (size_t i = 0; i < n; i++) {
        int64_t bytes = 4;
        for (int d = 0; d < w[i].ndim; d++)
            if (w[i].shape[d] < 1 || __builtin_mul_overflow(bytes, w[i].shape[d], &bytes)) abort();
    }
    if (c.heads % c.kv_heads || c.head_dim < 2 || c.neos < 0 || c.neos > 8) abort();
    free(w);
    mull_config_fini(&c);
    return 0;
}
