/* A growing byte buffer, a growing id list, and whole-file reading: the small things every folder needs. */
#ifndef MULL_ENGINE_CORE_BUF_H
#define MULL_ENGINE_CORE_BUF_H

#include "engine/core/error.h"

#include <stddef.h>
#include <stdint.h>

/* data is always NUL-terminated after a write (the NUL is not counted in len). Zero-initialise. */
typedef struct mull_buf {
    char *data;
    size_t len, cap;
} mull_buf;

/* These return MULL_OK or MULL_ENOMEM and leave the buffer as it was on failure. */
int mull_buf_reserve(mull_buf *b, size_t extra);
int mull_buf_add(mull_buf *b, const void *p, size_t n);
int mull_buf_puts(mull_buf *b, const char *s);
int mull_buf_printf(mull_buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void mull_buf_fini(mull_buf *b);

typedef struct mull_ids {
    int32_t *data;
    size_t len, cap;
} mull_ids;

int mull_ids_add(mull_ids *v, int32_t id);
int mull_ids_append(mull_ids *v, const int32_t *ids, size_t n);
void mull_ids_fini(mull_ids *v);

/* Reads a whole regular file of at most max bytes; caller frees out with mull_buf_fini.
 * what names the thing in errors ("tokenizer"). */
int mull_read_file(const char *path, size_t max, const char *what, mull_buf *out, mull_error *err);
/* path/name in malloc'ed memory, NULL on no memory. */
char *mull_path_join(const char *dir, const char *name);

#endif
