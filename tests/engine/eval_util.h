/* Rows of JSON lines files, plain or zstd, for the tests of rewards and scorers. */
#ifndef MULL_TESTS_ENGINE_EVAL_UTIL_H
#define MULL_TESTS_ENGINE_EVAL_UTIL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>

typedef void (*eval_row_fn)(const json_t *row, long line);

static inline bool eval_oracle_present(void) {
    return access(MULL_ORACLE_DIR "/reward/rouge.jsonl", R_OK) == 0;
}

static inline const char *eval_text(const json_t *row, const char *key) {
    const char *s = json_string_value(json_object_get(row, key));
    assert_non_null(s);
    return s;
}

/* The whole file, unpacked; the caller frees it. */
static inline char *eval_read(const char *path, size_t *len) {
    FILE *f = fopen(path, "rb");
    if (!f) fail_msg("%s cannot be read", path);
    size_t cap = 1 << 20, n = 0;
    char *p = malloc(cap);
    assert_non_null(p);
    for (size_t k; (k = fread(p + n, 1, cap - n, f)) > 0;) {
        n += k;
        if (n == cap) assert_non_null(p = realloc(p, cap *= 2));
    }
    fclose(f);
    *len = n;
    if (strcmp(path + strlen(path) - 4, ".zst")) return p;
    ZSTD_DStream *d = ZSTD_createDStream();
    ZSTD_inBuffer in = {p, n, 0};
    size_t room = 1 << 20;
    ZSTD_outBuffer out = {malloc(room), room, 0};
    assert_non_null(d);
    assert_non_null(out.dst);
    for (size_t left = 1; left && (in.pos < in.size || out.pos == out.size);) {
        if (out.pos == out.size) {
            out.size = room *= 2;
            assert_non_null(out.dst = realloc(out.dst, room));
        }
        left = ZSTD_decompressStream(d, &out, &in);
        assert_false(ZSTD_isError(left));
    }
    ZSTD_freeDStream(d);
    free(p);
    *len = out.pos;
    return out.dst;
}

/* Rows of MULL_ORACLE_DIR/name; lines end at \n only. */
static inline void eval_each_row(const char *name, long at_least, eval_row_fn fn) {
    char path[1024];
    size_t len;
    long line = 0;
    snprintf(path, sizeof path, MULL_ORACLE_DIR "/%s", name);
    char *text = eval_read(path, &len), *end = text + len;
    for (char *at = text, *next; at < end; at = next) {
        char *stop = memchr(at, '\n', (size_t)(end - at));
        next = stop ? stop + 1 : end;
        if (next - at < 2) continue;
        json_t *row = json_loadb(at, (size_t)(next - at), JSON_ALLOW_NUL, NULL);
        if (!row) fail_msg("%s, line %ld is no JSON", name, line + 1);
        fn(row, ++line);
        json_decref(row);
    }
    assert_true(line >= at_least);
    free(text);
}

static inline void eval_bytes_equal(const char *got, size_t n, const json_t *want, const char *what, long line) {
    if (n != json_string_length(want) || (n && memcmp(got, json_string_value(want), n)))
        fail_msg("%s, row %ld: '%.*s', not '%s'", what, line, (int)n, got ? got : "", json_string_value(want));
}

/* Equal but for numbers, which may differ by bound; NaN never is equal. */
static inline bool eval_json_close(const json_t *a, const json_t *b, double bound) {
    if (json_is_number(a) && json_is_number(b)) return fabs(json_number_value(a) - json_number_value(b)) <= bound;
    if (json_is_object(a) && json_is_object(b)) {
        const char *key;
        json_t *v;
        if (json_object_size(a) != json_object_size(b)) return false;
        json_object_foreach((json_t *)(uintptr_t)a, key, v) {
            const json_t *other = json_object_get(b, key);
            if (!other || !eval_json_close(v, other, bound)) return false;
        }
        return true;
    }
    if (json_is_array(a) && json_is_array(b)) {
        if (json_array_size(a) != json_array_size(b)) return false;
        for (size_t i = 0; i < json_array_size(a); i++)
            if (!eval_json_close(json_array_get(a, i), json_array_get(b, i), bound)) return false;
        return true;
    }
    return json_equal(a, b);
}

#endif
