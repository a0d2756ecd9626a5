/* Random access to the rows of a JSON array or of JSON lines, without ever holding the file: one pass finds where each
 * row begins and ends, a read then takes that row alone. 12 bytes a row are kept. */
#ifndef MULL_ENGINE_DATA_JSON_ROWS_H
#define MULL_ENGINE_DATA_JSON_ROWS_H

#include "engine/core/error.h"

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

typedef struct mull_json_rows mull_json_rows;

/* A file that begins with '[' is an array of any values, anything else is lines (empty lines do not count). What breaks
 * the structure (an unclosed string or bracket, text after the array) is MULL_EFORMAT with its line; a row that is
 * wrong inside is found when it is read. */
int mull_json_rows_open(const char *path, mull_json_rows **out, mull_error *err);
/* The same from memory, which stays the caller's; name stands in errors (for the fuzzer). */
int mull_json_rows_from_bytes(const void *data, size_t len, const char *name, mull_json_rows **out, mull_error *err);
void mull_json_rows_close(mull_json_rows *r);
int64_t mull_json_rows_count(const mull_json_rows *r);
/* Row i, a new reference. Thread-safe. */
int mull_json_rows_get(const mull_json_rows *r, int64_t i, json_t **out, mull_error *err);

#endif
