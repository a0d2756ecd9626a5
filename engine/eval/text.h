/* Text as the reference scorers see it: Python strings. A view is code points, so that positions, classes and case
 * follow str and re of Python 3 (Unicode \s, \d, \b, IGNORECASE), not those of a C library or of PCRE2, which differ:
 * U+001C..1F are spaces, U+180E is none, the long s matches s, the Kelvin sign k, both Turkish i's match i.
 * Source: Python's documentation of str and re, Unicode 14.
 *
 * Everything made along the way lives in an arena that is freed at once; when memory runs out the arena remembers it
 * and the functions return empty views, so callers check once, at the end. All searches are linear in the text. */
#ifndef MULL_ENGINE_EVAL_TEXT_H
#define MULL_ENGINE_EVAL_TEXT_H

#include "engine/core/buf.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct mull__arena {
    struct mull__arena_block *blocks;
    bool failed;
} mull__arena;

void *mull__alloc(mull__arena *a, size_t bytes); /* 16-aligned, NULL (and failed) on no memory */
void mull__arena_fini(mull__arena *a);

typedef struct mull__text {
    const uint32_t *c;
    size_t n;
} mull__text;

enum { MULL__NONE = -1 };
#define MULL__NPOS SIZE_MAX

/* UTF-8 in; what is broken becomes U+FFFD. */
mull__text mull__decode(mull__arena *a, const char *s, size_t n);
mull__text mull__decode_json(mull__arena *a, const json_t *string); /* not a string: empty */
json_t *mull__text_json(mull__text t);                              /* NULL on no memory */
int mull__text_utf8(mull__text t, mull_buf *out);                   /* appended */

bool mull__is_space(uint32_t c);
bool mull__is_word(uint32_t c); /* \w */
int mull__digit(uint32_t c);    /* value of a \d, or MULL__NONE */
static inline bool mull__is_capital(uint32_t c) {
    return c >= 'A' && c <= 'Z';
}
/* c as the pattern letter it matches under IGNORECASE when that is an ASCII one, else c. */
uint32_t mull__fold_other(uint32_t c);
static inline uint32_t mull__fold(uint32_t c) {
    return c < 0x80 ? (c - 'A' < 26 ? c + 32 : c) : mull__fold_other(c);
}

static inline mull__text mull__sub(mull__text t, size_t from, size_t to) {
    return (mull__text){t.c ? t.c + from : NULL, to - from};
}
mull__text mull__strip(mull__text t);
mull__text mull__strip_set(mull__text t, const char *ascii); /* str.strip("...") */
mull__text mull__lower(mull__arena *a, mull__text t);
mull__text mull__upper(mull__arena *a, mull__text t);
/* str.replace of one code point; to = 0 removes it. */
mull__text mull__replace(mull__arena *a, mull__text t, uint32_t from, uint32_t to);

bool mull__eq(mull__text a, mull__text b);
bool mull__eq_ascii(mull__text a, const char *b);
bool mull__starts(mull__text t, size_t at, const char *ascii);      /* t[at:] starts with it */
bool mull__starts_fold(mull__text t, size_t at, const char *lower); /* the same under IGNORECASE */
/* str.find and str.rfind; MULL__NPOS when there is none. An empty needle is found at from (rfind: at the end). */
size_t mull__find(mull__text t, size_t from, mull__text needle);
size_t mull__rfind(mull__text t, mull__text needle);
size_t mull__find_ascii(mull__text t, size_t from, const char *needle);
size_t mull__rfind_ascii(mull__text t, const char *needle);
/* str.split(): the next word of *rest, which moves behind it; false when there is none. */
bool mull__next_word(mull__text *rest, mull__text *word);

#endif
