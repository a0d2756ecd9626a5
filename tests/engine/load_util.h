/* Folders and files for the tests of reading and writing checkpoints. */
#ifndef MULL_TESTS_ENGINE_LOAD_UTIL_H
#define MULL_TESTS_ENGINE_LOAD_UTIL_H

#include "engine/core/buf.h"
#include "engine/model/safetensors.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

/* A new folder in the test's temporary place; the caller frees the path and empties it with load_rmdir. */
static inline char *load_mkdir(void) {
    const char *base = getenv("TMPDIR");
    char *dir = mull_path_join(base && *base ? base : "/tmp", "mull_load_XXXXXX");
    assert_non_null(dir);
    assert_non_null(mkdtemp(dir));
    return dir;
}

/* Removes the folder with the files in it. */
static inline void load_rmdir(char *dir) {
    DIR *d = opendir(dir);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        char *path = mull_path_join(dir, e->d_name);
        assert_int_equal(unlink(path), 0);
        free(path);
    }
    closedir(d);
    assert_int_equal(rmdir(dir), 0);
    free(dir);
}

static inline bool load_has(const char *dir, const char *name) {
    char *path = mull_path_join(dir, name);
    bool has = access(path, F_OK) == 0;
    free(path);
    return has;
}

static inline void load_put(const char *dir, const char *name, const void *data, size_t len) {
    char *path = mull_path_join(dir, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, len, f), len);
    assert_int_equal(fclose(f), 0);
    free(path);
}

static inline mull_buf load_get(const char *dir, const char *name) {
    char *path = mull_path_join(dir, name);
    mull_buf b = {0};
    mull_error err = {0};
    if (mull_read_file(path, 1 << 30, name, &b, &err)) fail_msg("%s: %s", path, err.why);
    free(path);
    return b;
}

/* The bytes of a safetensors file with this header, padded as writers do, and data bytes of 0, 1, 2, .. */
static inline mull_buf load_file(const char *header, size_t data) {
    mull_buf b = {0};
    size_t text = strlen(header), len = (text + 7) & ~(size_t)7;
    for (int i = 0; i < 8; i++) assert_int_equal(mull_buf_add(&b, &(char){(char)(len >> 8 * i)}, 1), 0);
    assert_int_equal(mull_buf_puts(&b, header), 0);
    for (size_t i = text; i < len; i++) assert_int_equal(mull_buf_puts(&b, " "), 0);
    for (size_t i = 0; i < data; i++) assert_int_equal(mull_buf_add(&b, &(char){(char)i}, 1), 0);
    return b;
}

/* An error must be whole: a code and something to read. */
static inline void load_expect(int rc, int code, const mull_error *e, const char *word) {
    assert_int_equal(rc, code);
    assert_int_equal(e->code, code);
    assert_true(e->what[0] && e->why[0]);
    char line[8192];
    mull_error_line(e, line, sizeof line);
    if (!strstr(line, word)) fail_msg("'%s' is not in: %s", word, line);
}

#endif
