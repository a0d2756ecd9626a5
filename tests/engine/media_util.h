/* Shared by the media tests: JSON Lines rows, sha256, files. Header only, so that each test stays one program. */
#ifndef MULL_TESTS_MEDIA_UTIL_H
#define MULL_TESTS_MEDIA_UTIL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/core/buf.h"

#include <jansson.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static inline void sha_hex(const void *p, size_t n, char hex[65]) {
    unsigned char md[SHA256_DIGEST_LENGTH];
    SHA256(p, n, md);
    for (int i = 0; i < SHA256_DIGEST_LENGTH; i++) snprintf(hex + 2 * i, 3, "%02x", md[i]);
}

static inline const char *text_at(const json_t *o, const char *key) {
    return json_string_value(json_object_get(o, key));
}
static inline int64_t int_at(const json_t *o, const char *key) {
    return json_integer_value(json_object_get(o, key));
}
static inline double num_at(const json_t *o, const char *key, double none) {
    const json_t *v = json_object_get(o, key);
    return json_is_number(v) ? json_number_value(v) : none;
}

/* Calls fn for each row of dir/name; returns the rows seen. Fails the test if the file is not there. */
static inline int each_row(const char *dir, const char *name, void (*fn)(const json_t *row, void *ctx), void *ctx) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "r");
    if (!f) fail_msg("cannot open %s", path);
    char *line = NULL;
    size_t cap = 0;
    int rows = 0;
    while (getline(&line, &cap, f) > 0) {
        json_error_t e;
        json_t *row = json_loads(line, 0, &e);
        if (!row) fail_msg("%s: %s", path, e.text);
        fn(row, ctx);
        json_decref(row);
        rows++;
    }
    free(line);
    fclose(f);
    return rows;
}

/* A test that sees hundreds of rows names every bad one and fails at the end. */
__attribute__((unused)) static int bad_rows;
#define BAD(...)                                                                                                       \
    do {                                                                                                               \
        bad_rows++;                                                                                                    \
        fprintf(stderr, "  wrong: " __VA_ARGS__);                                                                      \
        fputc('\n', stderr);                                                                                           \
    } while (0)

static inline mull_buf slurp(const char *path) {
    mull_buf b;
    mull_error e = {0};
    if (mull_read_file(path, (size_t)1 << 30, "test file", &b, &e)) fail_msg("%s: %s", path, e.why);
    return b;
}

#endif
