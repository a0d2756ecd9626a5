/* See stage.h. A row: int16 number of fields, then each as int32 length and bytes, all big endian (PostgreSQL's
 * documentation of COPY, binary format). */
#include "scheduler/stage.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static void put(mull_stage *s, const void *p, size_t n) {
    if (s->failed) return;
    if (s->len + n > s->cap) {
        size_t cap = s->cap ? s->cap * 2 : 1 << 16;
        while (cap < s->len + n) cap *= 2;
        char *more = realloc(s->data, cap);
        if (!more) {
            s->failed = true;
            return;
        }
        s->data = more;
        s->cap = cap;
    }
    memcpy(s->data + s->len, p, n);
    s->len += n;
}

static void put_int(mull_stage *s, uint64_t v, int bytes) {
    unsigned char b[8];
    for (int i = 0; i < bytes; i++) b[i] = (unsigned char)(v >> 8 * (bytes - 1 - i));
    put(s, b, (size_t)bytes);
}

static void put_row(mull_stage *s, int i, const char *key, size_t key_len, int64_t step, double value) {
    uint64_t bits;
    memcpy(&bits, &value, 8);
    if (!s->rows++) {
        put(s, "PGCOPY\n\377\r\n\0", 11);
        put_int(s, 0, 8); /* no flags, no extension */
    }
    put_int(s, 4, 2);
    put_int(s, 4, 4), put_int(s, (uint32_t)i, 4);
    put_int(s, key_len, 4), put(s, key, key_len);
    put_int(s, 8, 4), put_int(s, (uint64_t)step, 8);
    put_int(s, 8, 4), put_int(s, bits, 8);
}

void mull_stage_event(mull_stage *s, json_t *e, int i) {
    json_t *line = json_object_get(e, "line");
    const char *type = json_string_value(json_object_get(e, "type")),
               *ev = json_string_value(json_object_get(line, "ev"));
    if (!type || strcmp(type, "engine") != 0) return;
    json_object_del(line, "staged"); /* a word of ours alone: another's would name points that are not its own */
    if (!ev || strcmp(ev, "metrics") != 0) return;
    size_t before = s->rows;
    const json_t *keys = json_object_get(line, "keys"), *steps = json_object_get(line, "steps"),
                 *values = json_object_get(line, "values");
    for (size_t r = 0; r < json_array_size(steps); r++) {
        const json_t *step = json_array_get(steps, r), *row = json_array_get(values, r);
        if (!json_is_integer(step)) continue;
        for (size_t k = 0; k < json_array_size(keys); k++) {
            const json_t *key = json_array_get(keys, k), *v = json_array_get(row, k);
            double x = json_number_value(v);
            if (!json_is_string(key) || !json_is_number(v) || !isfinite(x) ||
                json_string_length(key) > MULL_STAGE_KEY_MAX)
                continue;
            put_row(s, i, json_string_value(key), json_string_length(key), json_integer_value(step), x);
        }
    }
    json_t *left = json_pack("{s:s}", "ev", "metrics");
    if (s->rows > before) json_object_set_new(left, "staged", json_integer(i));
    json_object_set_new(e, "line", left);
}

char *mull_stage_take(mull_stage *s, size_t *len) {
    if (!s->rows) return NULL;
    put_int(s, 0xffff, 2);
    char *data = s->data;
    *len = s->len;
    *s = (mull_stage){.failed = s->failed};
    return data;
}

void mull_stage_fini(mull_stage *s) {
    free(s->data);
    *s = (mull_stage){0};
}
