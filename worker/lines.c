/* See lines.h. */
#include "worker/lines.h"

#include "schema/error.h"

#include <stdlib.h>
#include <string.h>

void mull_lines_init(mull_lines *l, size_t max, bool cut) {
    *l = (mull_lines){.max = max, .cut = cut};
}

void mull_lines_fini(mull_lines *l) {
    free(l->buf);
    l->buf = NULL;
    l->len = l->cap = 0;
}

static int append(mull_lines *l, const char *data, size_t n) {
    if (l->len + n > l->cap) {
        size_t cap = l->cap ? l->cap : 256;
        while (cap < l->len + n) cap *= 2;
        char *p = realloc(l->buf, cap);
        if (!p) return MULL_ERR_NOMEM;
        l->buf = p;
        l->cap = cap;
    }
    memcpy(l->buf + l->len, data, n);
    l->len += n;
    return 0;
}

static void emit(mull_lines *l, mull_line_cb cb, void *arg) {
    if (l->dropped) {
        cb(arg, NULL, l->dropped);
    } else {
        size_t n = l->len;
        if (n > 0 && l->buf[n - 1] == '\r') n--;
        cb(arg, n ? l->buf : "", n);
    }
    l->len = l->dropped = 0;
}

/* Where a full buffer may be cut without cutting a character: at most three bytes before its end. */
static size_t cut_at(const char *s, size_t n) {
    for (size_t back = 1; back <= 3 && back < n; back++) {
        unsigned char c = (unsigned char)s[n - back];
        if (c >= 0xc0) return n - back;
        if (c < 0x80) break;
    }
    return n;
}

/* Part of one line, without its newline. */
static int grow(mull_lines *l, const char *data, size_t n, mull_line_cb cb, void *arg) {
    while (n > 0) {
        if (l->dropped) {
            l->dropped += n;
            return 0;
        }
        size_t room = l->max - l->len, take = n < room ? n : room;
        if (append(l, data, take) != 0) return MULL_ERR_NOMEM;
        data += take;
        n -= take;
        if (n == 0) return 0;
        if (!l->cut) {
            l->dropped = l->len;
            continue;
        }
        size_t at = cut_at(l->buf, l->len), rest = l->len - at;
        cb(arg, l->buf, at);
        memmove(l->buf, l->buf + at, rest);
        l->len = rest;
    }
    return 0;
}

int mull_lines_feed(mull_lines *l, const char *data, size_t n, mull_line_cb cb, void *arg) {
    while (n > 0) {
        const char *nl = memchr(data, '\n', n);
        size_t part = nl ? (size_t)(nl - data) : n;
        int rc = grow(l, data, part, cb, arg);
        if (rc != 0) return rc;
        if (!nl) return 0;
        emit(l, cb, arg);
        data += part + 1;
        n -= part + 1;
    }
    return 0;
}

void mull_lines_end(mull_lines *l, mull_line_cb cb, void *arg) {
    if (l->len || l->dropped) emit(l, cb, arg);
}

/* Length of the well-formed sequence at s (Unicode 15, table 3-7), 0 if there is none. */
static size_t sequence(const unsigned char *s, size_t n) {
    if (s[0] == 0) return 0;
    if (s[0] < 0x80) return 1;
    size_t len = s[0] >= 0xc2 && s[0] <= 0xdf   ? 2
                 : s[0] >= 0xe0 && s[0] <= 0xef ? 3
                 : s[0] >= 0xf0 && s[0] <= 0xf4 ? 4
                                                : 0;
    if (len == 0 || len > n) return 0;
    unsigned char low = s[0] == 0xe0 ? 0xa0 : s[0] == 0xf0 ? 0x90 : 0x80;
    unsigned char high = s[0] == 0xed ? 0x9f : s[0] == 0xf4 ? 0x8f : 0xbf;
    if (s[1] < low || s[1] > high) return 0;
    for (size_t i = 2; i < len; i++)
        if (s[i] < 0x80 || s[i] > 0xbf) return 0;
    return len;
}

char *mull_utf8_repair(const char *s, size_t n, size_t *out_n) {
    const unsigned char *u = (const unsigned char *)s;
    char *out = malloc(n * 3 + 1);
    size_t len = 0;
    if (!out) return NULL;
    for (size_t i = 0; i < n;) {
        size_t k = sequence(u + i, n - i);
        if (k > 0) {
            memcpy(out + len, s + i, k);
            len += k;
            i += k;
        } else {
            memcpy(out + len, "\xef\xbf\xbd", 3);
            len += 3;
            i++;
        }
    }
    out[len] = 0;
    *out_n = len;
    return out;
}
