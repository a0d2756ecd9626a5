/* Any bytes as the body of a chat request: what is accepted has messages and a sane count of choices, what is refused
 * has a status, a code and a message that are valid JSON. */
#include "engine/serve/ask.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const mull__ask_rules rules = {.model = "tiny",
                                          .sampling = {.max_new_tokens = 16, .top_p = 1, .repetition_penalty = 1}};
    mull__ask a = {0};
    int rc = mull__ask_parse(&rules, (const char *)data, size, &a);
    if (rc && (a.status < 400 || a.status > 599 || !a.code || !a.err.why[0])) abort();
    if (!rc && (a.status || !a.row.messages || a.row.choices < 1 || a.row.sampling.max_new_tokens < 1)) abort();
    if (rc) {
        json_t *o = mull__ask_error(&a);
        char *text = json_dumps(o, 0);
        if (!text || !strstr(text, "\"error\"")) abort();
        free(text);
        json_decref(o);
    } else {
        mull_buf b = {0};
        if (mull__ask_chunk_text(&a, "tiny", 0, (const char *)data, size, &b) || !b.len) abort();
        mull_buf_fini(&b);
    }
    mull__ask_fini(&a);
    return 0;
}
