/* Text to a JSON value with the line of every key and element. */
#ifndef MULL_SCHEMA_SPEC_TEXT_H
#define MULL_SCHEMA_SPEC_TEXT_H

#include "schema/jobspec.h"

/* lines: an object "path" -> line, paths as in mull_diag ("sampling.stop[0]"). Returns the value or NULL with diags. */
json_t *mull__yaml_read(const char *text, size_t len, json_t *lines, mull_diags *diags);
json_t *mull__json_read(const char *text, size_t len, json_t *lines, mull_diags *diags);
void mull__diag(mull_diags *d, const char *path, int line, const char *did_you_mean, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));

#endif
