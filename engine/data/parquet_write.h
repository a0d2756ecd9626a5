/* Writing parquet: tables of our own making, whole or row by row. The other direction, and what cells are, is parquet.h. */
#ifndef MULL_ENGINE_DATA_PARQUET_WRITE_H
#define MULL_ENGINE_DATA_PARQUET_WRITE_H

#include "engine/data/parquet.h"

#ifdef __cplusplus
extern "C" {
#endif

/* rows[n], n > 0: struct cells whose items are the columns, all of them as in the first row, where no value may be NULL
 * and no list empty (it says what the columns hold). Replaces the file (zstd); a failure may leave a part of it.
 * MULL_EUNSUPPORTED in builds without Arrow. */
int mull_parquet_write(const char *path, const mull_cell *rows, size_t n, mull_error *err);

/* The same row by row; memory holds a few thousand of them. like: as the first row of mull_parquet_write. */
typedef struct mull_parquet_writer mull_parquet_writer;
int mull_parquet_writer_open(const char *path, const mull_cell *like, mull_parquet_writer **out, mull_error *err);
int mull_parquet_writer_add(mull_parquet_writer *w, const mull_cell *row, mull_error *err);
/* Writes what is held and the file's end. w is freed in any case; without finish the file is no parquet. */
int mull_parquet_writer_close(mull_parquet_writer *w, bool finish, mull_error *err);

#ifdef __cplusplus
}
#endif
#endif
