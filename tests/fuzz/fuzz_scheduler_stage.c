/* Metric points on their way to COPY: from any event that the parser lets pass come whole rows of four fields, within
 * their bounds, and no line but one with points keeps the recorder's own word. */
#include "schema/event_line.h"
#include "scheduler/stage.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static uint32_t be(const unsigned char *p, int n) {
    uint32_t v = 0;
    for (int i = 0; i < n; i++) v = v << 8 | p[i];
    return v;
}

static void check_rows(const unsigned char *p, size_t len, size_t rows) {
    size_t at = 19;
    if (len < 21 || memcmp(p, "PGCOPY\n\377\r\n\0", 11)) abort();
    for (size_t r = 0; r < rows; r++) {
        if (at + 2 > len || be(p + at, 2) != 4) abort();
        at += 2;
        for (int f = 0; f < 4; f++) {
            if (at + 4 > len) abort();
            uint32_t n = be(p + at, 4), want = f == 0 ? 4 : 8;
            if (f == 1 ? n > MULL_STAGE_KEY_MAX : n != want) abort();
            at += 4 + n;
        }
    }
    if (at + 2 != len || be(p + at, 2) != 0xffff) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    mull_err err;
    json_t *e = mull_event_parse((const char *)data, size, &err);
    if (!e) return 0;
    mull_stage s = {0};
    mull_stage_event(&s, e, 7);
    json_t *line = json_object_get(e, "line"), *staged = json_object_get(line, "staged");
    const char *type = json_string_value(json_object_get(e, "type"));
    if (type && !strcmp(type, "engine") && (s.rows > 0) != (staged != NULL)) abort();
    if (s.rows && json_integer_value(staged) != 7) abort();
    size_t rows = s.rows, len = 0;
    char *bytes = mull_stage_take(&s, &len);
    if (rows) check_rows((const unsigned char *)bytes, len, rows);
    free(bytes);
    mull_stage_fini(&s);
    json_decref(e);
    return 0;
}
