/* Views, classes and searches of text.h. */
#include "engine/eval/text.h"

#include "engine/text/utf8.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

struct mull__arena_block {
    struct mull__arena_block *next;
    size_t used, size;
    _Alignas(16) unsigned char data[];
};

void *mull__alloc(mull__arena *a, size_t bytes) {
    if (bytes > SIZE_MAX / 4) {
        a->failed = true;
        return NULL;
    }
    bytes = bytes ? (bytes + 15) & ~(size_t)15 : 16;
    struct mull__arena_block *b = a->blocks;
    if (!b || b->size - b->used < bytes) {
        size_t size = bytes > 16384 ? bytes : 16384;
        b = malloc(sizeof *b + size);
        if (!b) {
            a->failed = true;
            return NULL;
        }
        *b = (struct mull__arena_block){.next = a->blocks, .size = size};
        a->blocks = b;
    }
    void *p = b->data + b->used;
    b->used += bytes;
    return p;
}

void mull__arena_fini(mull__arena *a) {
    for (struct mull__arena_block *b = a->blocks, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    *a = (mull__arena){0};
}

mull__text mull__decode(mull__arena *a, const char *s, size_t n) {
    uint32_t *out = mull__alloc(a, n > SIZE_MAX / 8 ? SIZE_MAX : n * sizeof *out);
    size_t k = 0;
    if (!out) return (mull__text){0};
    for (size_t i = 0; i < n;) {
        const unsigned char *p = (const unsigned char *)s + i;
        if (*p < 0x80) {
            out[k++] = *p;
            i++;
            continue;
        }
        bool ok = false;
        int w = mull_utf8_next(s + i, n - i, &ok);
        if (w <= 0) w = (int)(n - i); /* an unfinished tail */
        if (!ok)
            out[k++] = 0xfffd;
        else if (w == 2)
            out[k++] = (uint32_t)(p[0] & 0x1f) << 6 | (p[1] & 0x3f);
        else if (w == 3)
            out[k++] = (uint32_t)(p[0] & 0x0f) << 12 | (uint32_t)(p[1] & 0x3f) << 6 | (p[2] & 0x3f);
        else
            out[k++] = (uint32_t)(p[0] & 0x07) << 18 | (uint32_t)(p[1] & 0x3f) << 12 | (uint32_t)(p[2] & 0x3f) << 6 |
                       (p[3] & 0x3f);
        i += (size_t)w;
    }
    return (mull__text){out, k};
}

mull__text mull__decode_json(mull__arena *a, const json_t *string) {
    if (!json_is_string(string)) return (mull__text){0};
    return mull__decode(a, json_string_value(string), json_string_length(string));
}

int mull__text_utf8(mull__text t, mull_buf *out) {
    int rc = mull_buf_reserve(out, t.n);
    for (size_t i = 0; i < t.n && !rc; i++) {
        if (t.c[i] < 0x80 && out->cap - out->len > 1) {
            out->data[out->len++] = (char)t.c[i];
            continue;
        }
        utf8proc_uint8_t four[4];
        utf8proc_ssize_t w = utf8proc_encode_char((utf8proc_int32_t)t.c[i], four);
        rc = mull_buf_add(out, four, (size_t)w);
    }
    if (!rc) out->data[out->len] = 0;
    return rc;
}

json_t *mull__text_json(mull__text t) {
    mull_buf b = {0};
    json_t *s = mull__text_utf8(t, &b) ? NULL : json_stringn(b.data ? b.data : "", b.len);
    mull_buf_fini(&b);
    return s;
}

bool mull__is_space(uint32_t c) {
    if (c <= 0x20) return c == 0x20 || (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x1f);
    if (c < 0x1680) return c == 0x85 || c == 0xa0;
    return c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
           c == 0x3000;
}

bool mull__is_word(uint32_t c) {
    if (c < 0x80) return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
        return true;
    default:
        return false;
    }
}

/* The zeros of all decimal digits (category Nd, Unicode 14); each is followed by its 1 to 9. */
static const uint32_t ZEROS[] = {
    0x660,   0x6f0,   0x7c0,   0x966,   0x9e6,   0xa66,   0xae6,   0xb66,   0xbe6,   0xc66,   0xce6,
    0xd66,   0xde6,   0xe50,   0xed0,   0xf20,   0x1040,  0x1090,  0x17e0,  0x1810,  0x1946,  0x19d0,
    0x1a80,  0x1a90,  0x1b50,  0x1bb0,  0x1c40,  0x1c50,  0xa620,  0xa8d0,  0xa900,  0xa9d0,  0xa9f0,
    0xaa50,  0xabf0,  0xff10,  0x104a0, 0x10d30, 0x11066, 0x110f0, 0x11136, 0x111d0, 0x112f0, 0x11450,
    0x114d0, 0x11650, 0x116c0, 0x11730, 0x118e0, 0x11950, 0x11c50, 0x11d50, 0x11da0, 0x16a60, 0x16ac0,
    0x16b50, 0x1d7ce, 0x1d7d8, 0x1d7e2, 0x1d7ec, 0x1d7f6, 0x1e140, 0x1e2f0, 0x1e950, 0x1fbf0};

int mull__digit(uint32_t c) {
    if (c < 0x80) return c >= '0' && c <= '9' ? (int)(c - '0') : MULL__NONE;
    size_t lo = 0, hi = sizeof ZEROS / sizeof *ZEROS;
    while (lo < hi) { /* the last zero that is <= c */
        size_t mid = (lo + hi) / 2;
        if (ZEROS[mid] <= c)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo && c - ZEROS[lo - 1] < 10 ? (int)(c - ZEROS[lo - 1]) : MULL__NONE;
}

uint32_t mull__fold_other(uint32_t c) {
    if (c == 0x130 || c == 0x131) return 'i';
    if (c == 0x17f) return 's';
    return c == 0x212a ? 'k' : c;
}

mull__text mull__strip(mull__text t) {
    size_t from = 0, to = t.n;
    while (from < to && mull__is_space(t.c[from])) from++;
    while (to > from && mull__is_space(t.c[to - 1])) to--;
    return mull__sub(t, from, to);
}

static bool in_set(uint32_t c, const char *ascii) {
    return c && c < 0x80 && strchr(ascii, (int)c);
}

mull__text mull__strip_set(mull__text t, const char *ascii) {
    size_t from = 0, to = t.n;
    while (from < to && in_set(t.c[from], ascii)) from++;
    while (to > from && in_set(t.c[to - 1], ascii)) to--;
    return mull__sub(t, from, to);
}

mull__text mull__replace(mull__arena *a, mull__text t, uint32_t from, uint32_t to) {
    size_t at = 0;
    while (at < t.n && t.c[at] != from) at++;
    if (at == t.n) return t;
    uint32_t *out = mull__alloc(a, t.n * sizeof *out);
    size_t k = 0;
    if (!out) return (mull__text){0};
    for (size_t i = 0; i < t.n; i++)
        if (t.c[i] != from)
            out[k++] = t.c[i];
        else if (to)
            out[k++] = to;
    return (mull__text){out, k};
}

bool mull__eq(mull__text a, mull__text b) {
    return a.n == b.n && (!a.n || !memcmp(a.c, b.c, a.n * sizeof *a.c));
}

bool mull__starts(mull__text t, size_t at, const char *ascii) {
    for (; *ascii; ascii++, at++)
        if (at >= t.n || t.c[at] != (unsigned char)*ascii) return false;
    return true;
}

bool mull__starts_fold(mull__text t, size_t at, const char *lower) {
    for (; *lower; lower++, at++)
        if (at >= t.n || mull__fold(t.c[at]) != (unsigned char)*lower) return false;
    return true;
}

bool mull__eq_ascii(mull__text a, const char *b) {
    return a.n == strlen(b) && mull__starts(a, 0, b);
}

/* Knuth-Morris-Pratt, so that no pair of texts costs more than their lengths: the first or the last occurrence. */
static size_t find_long(mull__text t, size_t from, mull__text needle, bool last) {
    mull__arena a = {0};
    size_t *fail = mull__alloc(&a, needle.n * sizeof *fail), k = 0, at = MULL__NPOS;
    if (!fail) return MULL__NPOS;
    fail[0] = 0;
    for (size_t i = 1; i < needle.n; i++) {
        while (k && needle.c[i] != needle.c[k]) k = fail[k - 1];
        if (needle.c[i] == needle.c[k]) k++;
        fail[i] = k;
    }
    k = 0;
    for (size_t i = from; i < t.n && (last || at == MULL__NPOS); i++) {
        while (k && t.c[i] != needle.c[k]) k = fail[k - 1];
        if (t.c[i] == needle.c[k]) k++;
        if (k == needle.n) {
            at = i + 1 - k;
            k = fail[k - 1];
        }
    }
    mull__arena_fini(&a);
    return at;
}

enum { SHORT_NEEDLE = 64 }; /* tried at every place */

size_t mull__find(mull__text t, size_t from, mull__text needle) {
    if (from > t.n || needle.n > t.n - from) return MULL__NPOS;
    if (!needle.n) return from;
    if (needle.n > SHORT_NEEDLE) return find_long(t, from, needle, false);
    for (size_t i = from; i + needle.n <= t.n; i++)
        if (t.c[i] == needle.c[0] && !memcmp(t.c + i, needle.c, needle.n * sizeof *needle.c)) return i;
    return MULL__NPOS;
}

size_t mull__rfind(mull__text t, mull__text needle) {
    if (needle.n > t.n) return MULL__NPOS;
    if (!needle.n) return t.n;
    if (needle.n > SHORT_NEEDLE) return find_long(t, 0, needle, true);
    for (size_t i = t.n - needle.n + 1; i-- > 0;)
        if (t.c[i] == needle.c[0] && !memcmp(t.c + i, needle.c, needle.n * sizeof *needle.c)) return i;
    return MULL__NPOS;
}

size_t mull__find_ascii(mull__text t, size_t from, const char *needle) {
    for (size_t i = from; i < t.n; i++)
        if (t.c[i] == (unsigned char)*needle && mull__starts(t, i, needle)) return i;
    return MULL__NPOS;
}

size_t mull__rfind_ascii(mull__text t, const char *needle) {
    for (size_t i = t.n; i-- > 0;)
        if (t.c[i] == (unsigned char)*needle && mull__starts(t, i, needle)) return i;
    return MULL__NPOS;
}

bool mull__next_word(mull__text *rest, mull__text *word) {
    size_t from = 0;
    while (from < rest->n && mull__is_space(rest->c[from])) from++;
    size_t to = from;
    while (to < rest->n && !mull__is_space(rest->c[to])) to++;
    *word = mull__sub(*rest, from, to);
    *rest = mull__sub(*rest, to, rest->n);
    return to > from;
}
