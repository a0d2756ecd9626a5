/* UTF-8 by maximal subparts (Unicode 15, section 3.9, "U+FFFD substitution of maximal subparts"), as Rust's
 * from_utf8_lossy and Python's errors="replace" do it. */
#ifndef MULL_ENGINE_TEXT_UTF8_H
#define MULL_ENGINE_TEXT_UTF8_H

#include "engine/core/buf.h"

#include <stdbool.h>

/* Looks at the start of s[n], n > 0. Returns the length of a whole character (*ok true), or of a broken subpart (*ok
 * false). 0: what is there is the beginning of a character and more bytes are needed. */
int mull_utf8_next(const char *s, size_t n, bool *ok);
/* Appends s[n] with U+FFFD for what is broken. An unfinished tail is broken too when last, else it is left: *used says
 * how far it got (NULL when last). */
int mull_utf8_lossy(const char *s, size_t n, bool last, size_t *used, mull_buf *out);
bool mull_utf8_valid(const char *s, size_t n);

#endif
