/* Job specs as files, for the commands that submit them. */
#ifndef MULL_CLI_SPEC_H
#define MULL_CLI_SPEC_H

#include <jansson.h>
#include <stddef.h>

/* The whole text of a file ("-": standard input), at most 64 MiB, the caller's; NULL with the words said. */
char *mull_read_whole(const char *path, size_t *len);
/* The file's mapping with the lines of its keys, or NULL with the words said and *rc an exit status (else 0). */
json_t *mull_spec_read(const char *path, json_t *lines, int *rc);
/* Relative paths mean the current folder. */
void mull_spec_absolute(json_t *spec);

#endif
