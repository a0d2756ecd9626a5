/* Lines from workers, for workers and from engines; the first byte says which. What is accepted can be written out and
 * read again, and holds nothing that PostgreSQL's text refuses. */
#include "schema/event_line.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Whether a string in it, keys included, holds a NUL. (The written form cannot say: "\\\\u0000" is no NUL.) */
static bool has_nul(const json_t *v) {
    const char *key;
    size_t i;
    json_t *child;
    if (json_is_string(v)) return memchr(json_string_value(v), 0, json_string_length(v)) != NULL;
    json_array_foreach(v, i, child) {
        if (has_nul(child)) return true;
    }
    json_object_foreach((json_t *)(uintptr_t)v, key, child) {
        if (has_nul(child)) return true;
    }
    return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 1) return 0;
    json_t *(*const parsers[])(const char *, size_t, mull_err *) = {mull_event_parse, mull_inbox_parse,
                                                                    mull_engine_line_parse};
    mull_err err;
    json_t *line = parsers[data[0] % 3]((const char *)data + 1, size - 1, &err);
    if (line) {
        char *text = json_dumps(line, JSON_COMPACT);
        if (!text || has_nul(line) || mull_utf8_check(text) != 0) abort();
        json_t *again = parsers[data[0] % 3](text, strlen(text), &err);
        if (!again && strlen(text) <= MULL_EVENT_MAX) abort();
        json_decref(again);
        free(text);
        json_decref(line);
    } else if (err.code >= 0) {
        abort();
    }
    size_t n;
    char *clean = mull_utf8_clean((const char *)data, size, &n);
    if (clean && !memchr(clean, 0, n) && mull_utf8_check(clean) != 0) abort();
    free(clean);
    return 0;
}
