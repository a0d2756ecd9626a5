/* The tasks of an array as people write them: "0-99", "0-99:5", "1,4,10-20", each with "%8" behind it for at most eight
 * tasks at once. Ranges ascend and do not touch, so a position names an index without a list of a million numbers. */
#ifndef MULL_SCHEMA_ARRAY_RANGE_H
#define MULL_SCHEMA_ARRAY_RANGE_H

#include <jansson.h>
#include <stddef.h>

enum { MULL_ARRAY_TASKS_MAX = 1000000, MULL_ARRAY_INDEX_MAX = 1000000000, MULL_ARRAY_RANGES_MAX = 256 };

/* Stands for the index in every text of an array's spec. */
#define MULL_ARRAY_WORD "{array_index}"

/* {"range","los","steps","starts","total","lim"} as mull_submit takes it: starts[i] is the position of the first index
 * of range i, lim is null without a limit. A new reference; NULL with why filled. */
json_t *mull_array_parse(const char *text, char *why, size_t why_cap);

#endif
