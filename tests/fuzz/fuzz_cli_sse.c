/* The CLI's decoder of event streams and its cleaning of text, fed anything, cut anywhere. */
#include "cli/client.h"
#include "cli/term.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static int on_event(const char *event, const json_t *data, void *arg) {
    (void)arg;
    char out[64];
    const char *text = json_string_value(json_object_get(data, "text"));
    mull_text_clean(event, 10, out, sizeof out);
    if (text) mull_text_clean(text, 20, out, sizeof out);
    for (const char *p = out; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f) abort();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!size) return 0;
    mull_sse s = {.cb = on_event};
    size_t step = 1 + data[0] % 32;
    for (size_t at = 1; at < size; at += step)
        mull_sse_feed(&s, (const char *)data + at, size - at < step ? size - at : step);
    mull_sse_fini(&s);
    return 0;
}
