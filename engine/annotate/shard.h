/* A shard: the answers of rows [first, first + rows) in one file, in the order in which they came, and beside it a
 * marker once all are there.
 *
 * A record is 48 bytes (magic, kind, row, tokens, length, checksum) and a line of JSON. Each is written in one go after
 * its row is answered, so killing the process loses at most rows that were being computed; fsync in groups bounds what
 * a power cut can take. What does not check out at the end of the file is cut off when it is opened again. */
#ifndef MULL_ENGINE_ANNOTATE_SHARD_H
#define MULL_ENGINE_ANNOTATE_SHARD_H

#include "engine/annotate/fileio.h"

typedef struct mull__counts {
    int64_t rows, ok, errors, prompt_tokens, output_tokens;
} mull__counts;

typedef struct mull__shard {
    int64_t number, first, rows;
    int fd;
    int64_t end;   /* of the last whole record */
    uint8_t *done; /* [rows] bits */
    mull__counts counts;
    bool dirty;
    int lock; /* of mull__shard_claim, -1: none; closed with the shard */
    struct mull__shard *next;
} mull__shard;

typedef enum mull__kind { MULL_KIND_OK = 'o', MULL_KIND_ERROR = 'e' } mull__kind;

/* 1: nobody else works on the shard as long as *lock is open (the kernel closes it for who dies); 0: somebody does.
 * Between hosts it holds where the file system passes locks on (NFSv4 and the parallel file systems do). */
int mull__shard_claim(int work, int64_t number, int *lock, mull_error *err);

/* 1 and *counts when the shard's marker is there, 0 when not. */
int mull__shard_complete(int work, int64_t number, mull__counts *counts, mull_error *err);
/* Opens or makes the file, reads what is in it and cuts a torn end. */
int mull__shard_open(int work, int64_t number, int64_t first, int64_t rows, mull__shard **out, mull_error *err);
static inline bool mull__shard_has(const mull__shard *s, int64_t row) {
    return s->done[(row - s->first) >> 3] >> ((row - s->first) & 7) & 1;
}
/* line without its end. After a failure the file is as before. */
int mull__shard_append(mull__shard *s, int64_t row, mull__kind kind, int64_t prompt_tokens, int64_t output_tokens,
                       const char *line, size_t n, mull_error *err);
int mull__shard_sync(mull__shard *s, mull_error *err);
/* All rows are there: syncs and writes the marker. */
int mull__shard_finish(mull__shard *s, int work, mull_error *err);
void mull__shard_close(mull__shard *s);

/* Writes the lines in row order, answers to ok and errors to bad. MULL_EFORMAT, and the marker is gone, when the file
 * is not what the marker says: its rows have to be done again. */
int mull__shard_merge(int work, int64_t number, int64_t first, int64_t rows, mull__sink *ok, mull__sink *bad,
                      mull_error *err);
/* Removes file and marker. */
void mull__shard_remove(int work, int64_t number);

#endif
