/* Small text files that programs are pointed at: certificates, and secrets, which nobody else may read. */
#ifndef MULL_SCHEMA_SECRET_FILE_H
#define MULL_SCHEMA_SECRET_FILE_H

#include "schema/error.h"

#include <stddef.h>

/* A whole file of at most 1 MiB as a malloced text. */
int mull_text_read(const char *path, char **out, mull_err *err);
/* The first line of a file without its newline. A file that group or others may read or write is refused. */
int mull_secret_read(const char *path, char **out, mull_err *err);
/* Writes a file of mode 600, whole or not at all. */
int mull_secret_write(const char *path, const char *text, size_t n, mull_err *err);

#endif
