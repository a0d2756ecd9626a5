/* Any bytes as a safetensors file. A file that is accepted must be usable: every tensor lies inside the input, aligned,
 * apart from the others, and is found under its name. */
#include "engine/model/safetensors.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const mull_safetensors *st, const char *base, size_t size) {
    uintptr_t end = (uintptr_t)base;
    for (size_t i = 0; i < mull_safetensors_count(st); i++) {
        const mull_tensor_info *t = mull_safetensors_at(st, i);
        uintptr_t at = (uintptr_t)t->data, bytes = (uintptr_t)t->count * mull_dtype_size(t->dtype);
        int64_t count = 1;
        for (int d = 0; d < t->ndim; d++) count *= t->shape[d];
        if (count != t->count || at < end || at % mull_dtype_size(t->dtype)) abort();
        end = at + bytes;
        if (end > (uintptr_t)base + size || mull_safetensors_find(st, t->name) != t) abort();
        volatile unsigned char touch = 0; /* the sanitizer sees whether it is really there */
        if (bytes) touch = ((const unsigned char *)t->data)[0] ^ ((const unsigned char *)t->data)[bytes - 1];
        (void)touch;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *copy = aligned_alloc(64, (size + 64) & ~(size_t)63); /* as a map of a file is */
    if (!copy) return 0;
    memcpy(copy, data, size);
    mull_safetensors *st = NULL;
    mull_error e = {0};
    int rc = mull_safetensors_parse(copy, size, "fuzz", &st, &e);
    if (rc && (!e.what[0] || !e.why[0] || st)) abort();
    if (!rc) check(st, copy, size);
    mull_safetensors_close(st);
    free(copy);
    return 0;
}
