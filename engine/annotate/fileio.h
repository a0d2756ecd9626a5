/* Files of an annotation's folder: whole writes, atomic small files, a buffered writer that hashes. Every name is
 * relative to an open directory, so that a folder that is moved or replaced meanwhile cannot mix two of them. */
#ifndef MULL_ENGINE_ANNOTATE_FILEIO_H
#define MULL_ENGINE_ANNOTATE_FILEIO_H

#include "engine/core/buf.h"
#include "engine/core/digest.h"

#include <stdbool.h>

/* As mull_fail_errno; a full disk, an exceeded quota and a file size limit say that nothing is lost. */
int mull__io_fail(mull_error *err, int errnum, const char *what, const char *where);
/* The folder and those above it, where they are missing. */
int mull__make_folders(const char *path, const char *what, mull_error *err);
/* 0 or an errno. */
int mull__write_all(int fd, const void *p, size_t n);
/* Temporary name, fsync, rename, fsync of the folder. */
int mull__put_file(int dir, const char *name, const void *data, size_t n, mull_error *err);
/* MULL_EMISSING when there is none. The caller frees out. */
int mull__get_file(int dir, const char *name, size_t max, mull_buf *out, mull_error *err);

/* A new file that appears under its name only when it is whole. */
typedef struct mull__sink {
    int dir, fd;
    const char *name;
    char temp[80];
    mull__sha *sha;
    mull_buf buf;
    int64_t bytes;
    struct ZSTD_CCtx_s *zstd; /* NULL: as it is */
} mull__sink;

int mull__sink_open(mull__sink *s, int dir, const char *name, mull_error *err);
/* From here on, and before the first byte, what is added is packed with zstd. */
int mull__sink_pack(mull__sink *s, mull_error *err);
int mull__sink_add(mull__sink *s, const void *p, size_t n, mull_error *err);
/* fsync and rename; hex gets the digest. The folder itself is not synced. */
int mull__sink_commit(mull__sink *s, char hex[65], mull_error *err);
/* Removes what was not committed. */
void mull__sink_fini(mull__sink *s);

#endif
