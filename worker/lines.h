/* Bytes of a pipe into lines, and lines into valid UTF-8. Memory is bounded by the longest line allowed. */
#ifndef MULL_WORKER_LINES_H
#define MULL_WORKER_LINES_H

#include <stdbool.h>
#include <stddef.h>

/* line is NULL for a line that was dropped because it is longer than max; n is then its length. */
typedef void (*mull_line_cb)(void *arg, const char *line, size_t n);

typedef struct mull_lines {
    char *buf;
    size_t len, cap, max, dropped;
    bool cut; /* a line beyond max is passed on in pieces; otherwise it is dropped as a whole */
} mull_lines;

void mull_lines_init(mull_lines *l, size_t max, bool cut);
void mull_lines_fini(mull_lines *l);
/* Calls cb for every line that data completes; the newline and a carriage return before it are left out. 0 or
 * MULL_ERR_NOMEM. */
int mull_lines_feed(mull_lines *l, const char *data, size_t n, mull_line_cb cb, void *arg);
/* The last line, when the pipe ended without a newline. */
void mull_lines_end(mull_lines *l, mull_line_cb cb, void *arg);

/* A copy in which every byte that is not UTF-8, and NUL, is U+FFFD. The caller frees it; NULL without memory. */
char *mull_utf8_repair(const char *s, size_t n, size_t *out_n);

#endif
