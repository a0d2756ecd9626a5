/* tokenizer.json from foreign bytes; what loads must encode and decode without a crash. */
#include "engine/text/tokenizer.h"

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char text[] = "it's 12 <|im_end|> caf\xc3\xa9 e\xcc\x81\n\n x";
    mull_tokenizer *t = NULL;
    mull_error err = {0};
    if (mull_tokenizer_parse((const char *)data, size, "fuzz", &t, &err)) return 0;
    mull_ids ids = {0};
    mull_buf out = {0};
    for (int special = 0; special < 2; special++)
        if (!mull_tokenizer_encode(t, text, sizeof text - 1, special, &ids, &err))
            (void)mull_tokenizer_decode(t, ids.data, ids.len, special, &out, &err);
    mull_ids_fini(&ids);
    mull_buf_fini(&out);
    mull_tokenizer_destroy(t);
    return 0;
}
