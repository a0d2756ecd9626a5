/* Media of rows, only from allowed folders. A row is a stranger's text: a path is resolved, opened, and what was opened
 * is checked (regular file, real path inside a root, no pseudo file system), then read through that descriptor, so that
 * neither "..", nor a symbolic link, nor a swap between check and use leads outside. */
#ifndef MULL_ENGINE_ANNOTATE_ROOTS_H
#define MULL_ENGINE_ANNOTATE_ROOTS_H

#include "engine/infer/media_ref.h"

typedef struct mull__roots {
    char **roots; /* real paths */
    size_t n;
    char *base; /* what relative paths start from */
} mull__roots;

/* list: absolute paths, NULL or empty: base alone. A root that does not exist is an error. */
int mull__roots_init(mull__roots *r, const json_t *list, const char *base, mull_error *err);
void mull__roots_fini(mull__roots *r);

/* As mull_media_ref_load, with the check. Errors name the medium as the row does. */
int mull__roots_load(const mull__roots *r, const mull_media_ref *ref, const mull_media_limits *limits, mull_media *out,
                     mull_error *err);
/* What tells a file's content from another's without reading it: device, inode, size, seconds and nanoseconds of its
 * last change; zeros for a data URL. With the check. */
int mull__roots_identify(const mull__roots *r, const mull_media_ref *ref, int64_t out[5], mull_error *err);
/* The check alone: a data URL passes, a path must lead to a file that may be read. */
int mull__roots_check(const mull__roots *r, const mull_media_ref *ref, mull_error *err);

#endif
