/* The JSON that travels through Redis and the engine's pipe, checked before anybody uses it. README.md has the fields.
 */
#ifndef MULL_SCHEMA_EVENT_LINE_H
#define MULL_SCHEMA_EVENT_LINE_H

#include "schema/error.h"

#include <jansson.h>

enum { MULL_EVENT_MAX = 1 << 20, MULL_LINE_DEPTH = 64 };

/* An entry of mull:events: every field that its type needs is there and of the right type. A new reference, or NULL. */
json_t *mull_event_parse(const char *text, size_t len, mull_err *err);
/* An entry of mull:inbox:BOOT. */
json_t *mull_inbox_parse(const char *text, size_t len, mull_err *err);
/* A line that the engine wrote on fd 3. */
json_t *mull_engine_line_parse(const char *text, size_t len, mull_err *err);

#endif
