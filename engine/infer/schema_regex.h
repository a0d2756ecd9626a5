/* JSON schemas as regular expressions (regex.h), for answers that must be JSON of a given form.
 *
 * What is understood: type (one or a list of string, integer, number, boolean, null, object, array), enum, const,
 * properties (every one is written, in the schema's order, required or not), items with minItems and maxItems,
 * minLength and maxLength, anyOf, $ref into #/$defs or #/definitions that does not come back to itself. Words that say
 * nothing about the form (title, description, default, …) are passed over; any other is refused, never silently
 * dropped. Answers have no space but one that may follow a colon or a comma. */
#ifndef MULL_ENGINE_INFER_SCHEMA_REGEX_H
#define MULL_ENGINE_INFER_SCHEMA_REGEX_H

#include "engine/core/buf.h"

#include <jansson.h>

/* Appends the expression. Errors name the place in the schema. */
int mull_schema_regex(const json_t *schema, mull_buf *out, mull_error *err);
/* Any JSON object, nested at most four deep. */
int mull_json_regex(mull_buf *out, mull_error *err);

#endif
