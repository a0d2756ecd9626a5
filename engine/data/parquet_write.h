/* Writing parquet: small tables of our own making. The other direction, and what cells are, is parquet.h. */
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

#ifdef __cplusplus
}
#endif
#endif
