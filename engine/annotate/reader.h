/* Rows of a JSONL file one after another, plain or zstd, told by content. Memory: one row and a chunk, whatever the
 * file's size. Lines that hold only spaces are counted but are no rows; a byte order mark at the start, CR before LF
 * and a missing last LF are accepted. */
#ifndef MULL_ENGINE_ANNOTATE_READER_H
#define MULL_ENGINE_ANNOTATE_READER_H

#include "engine/annotate/fileio.h"

enum { MULL_ROW_BYTES_MAX = 64 << 20 };

typedef struct mull__reader mull__reader;

typedef struct mull__line {
    const char *data; /* until the next call; without its end of line */
    size_t len;
    const char *problem; /* NULL from a reader; see source.h */
    bool too_long;       /* over MULL_ROW_BYTES_MAX: data is its beginning */
    int64_t number;      /* from 1 */
    int64_t offset;      /* of its first byte in the (decompressed) text, for mull__reader_seek */
} mull__line;

/* Only regular files; name is used in errors. sha (may be NULL) gets every byte of the file as it is read. */
int mull__reader_open(const char *path, mull__sha *sha, mull__reader **out, mull_error *err);
/* The same from memory, for the fuzzer; the bytes are borrowed. */
int mull__reader_open_bytes(const void *data, size_t n, mull__reader **out, mull_error *err);
void mull__reader_close(mull__reader *r);
/* 1: a row, 0: the end, negative: the file cannot be read on (I/O, broken zstd). */
int mull__reader_next(mull__reader *r, mull__line *line, mull_error *err);
/* Goes on at a line seen before. Forward only when compressed. */
int mull__reader_seek(mull__reader *r, int64_t offset, int64_t number, mull_error *err);
/* False when the file was written to since it was opened. */
bool mull__reader_unchanged(const mull__reader *r);
int64_t mull__reader_file_bytes(const mull__reader *r);

#endif
