/* The JSON that travels through Redis and the engine's pipe, checked before anybody uses it. README.md has the fields.
 */
#ifndef MULL_SCHEMA_EVENT_LINE_H
#define MULL_SCHEMA_EVENT_LINE_H

#include "schema/error.h"

#include <jansson.h>
#include <stdbool.h>

enum { MULL_EVENT_MAX = 1 << 20, MULL_LINE_DEPTH = 64 };

/* All three replace what PostgreSQL cannot store (U+0000 in texts, bytes that are no UTF-8) by U+FFFD. */
/* An entry of mull:events: every field that its type needs is there and of the right type. A new reference, or NULL. */
json_t *mull_event_parse(const char *text, size_t len, mull_err *err);
/* An entry of mull:inbox:BOOT. */
json_t *mull_inbox_parse(const char *text, size_t len, mull_err *err);
/* A line that the engine wrote on fd 3. */
json_t *mull_engine_line_parse(const char *text, size_t len, mull_err *err);

/* Nesting of brackets is at most MULL_LINE_DEPTH; false protects the parser, which recurses. */
bool mull_line_depth_ok(const char *text, size_t len);
/* A copy in which each byte that is not part of valid UTF-8 is U+FFFD, NUL-ended, its length in *out_len; the caller
 * frees. NULL without memory. */
char *mull_utf8_clean(const char *text, size_t len, size_t *out_len);

/* 0 when the text is valid UTF-8, else -1. */
int mull_utf8_check(const char *text);

#endif
