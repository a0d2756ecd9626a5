/* What engines write, cut anywhere: pipes into lines, lines into engine events and log text. The same bytes must give
 * the same lines however they are cut. */
#include "schema/event_line.h"
#include "worker/lines.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { MAX = 256 };

typedef struct sum {
    uint64_t hash;
    bool cut;
} sum;

static void mix(sum *s, const char *p, size_t n) {
    for (size_t i = 0; i < n; i++) s->hash = (s->hash ^ (unsigned char)p[i]) * 1099511628211u;
    s->hash = (s->hash ^ (n + 257)) * 1099511628211u;
}

static void on_line(void *arg, const char *line, size_t n) {
    sum *s = arg;
    mull_err err;
    size_t len;
    if (!line) {
        if (s->cut || n <= MAX) abort(); /* only what is too long is dropped, and only when it may not be cut */
        mix(s, "", 0);
        return;
    }
    if (n > MAX || memchr(line, '\n', n)) abort();
    mix(s, line, n);
    char *clean = mull_utf8_repair(line, n, &len);
    if (!clean || strlen(clean) != len || mull_utf8_check(clean) != 0) abort();
    free(clean);
    json_decref(mull_engine_line_parse(line, n, &err));
}

static uint64_t read_as(const uint8_t *data, size_t size, bool cut, size_t step) {
    mull_lines l;
    sum s = {14695981039346656037u, cut};
    mull_lines_init(&l, MAX, cut);
    for (size_t at = 0; at < size; at += step)
        if (mull_lines_feed(&l, (const char *)data + at, size - at < step ? size - at : step, on_line, &s) != 0)
            abort();
    mull_lines_end(&l, on_line, &s);
    mull_lines_fini(&l);
    return s.hash;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!size) return 0;
    size_t step = 1 + data[0] % 64;
    for (int cut = 0; cut < 2; cut++)
        if (read_as(data + 1, size - 1, cut, step) != read_as(data + 1, size - 1, cut, size)) abort();
    return 0;
}
