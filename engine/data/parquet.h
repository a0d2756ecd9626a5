/* Rows of parquet files for C. The only file that touches Arrow is parquet.cc; a build without Arrow has the same
 * functions, which then say what is missing. Any codec and encoding that Arrow knows is read. Memory stays at a few
 * rows whatever the size of a row group: rows are decoded in small steps from where the last read ended. */
#ifndef MULL_ENGINE_DATA_PARQUET_H
#define MULL_ENGINE_DATA_PARQUET_H

#ifdef __cplusplus
extern "C" {
#endif

#include "engine/core/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum mull_cell_kind {
    MULL_CELL_NULL,
    MULL_CELL_BOOL,
    MULL_CELL_INT,
    MULL_CELL_REAL,
    MULL_CELL_TEXT, /* UTF-8 by its type, not checked */
    MULL_CELL_BYTES,
    MULL_CELL_LIST,
    MULL_CELL_STRUCT /* items carry names */
} mull_cell_kind;

typedef struct mull_cell {
    mull_cell_kind kind;
    const char *name; /* column or field; NULL in a list */
    int64_t i;        /* BOOL, INT */
    double real;
    const char *data; /* TEXT, BYTES: len bytes and a NUL that is not counted */
    size_t len;
    struct mull_cell *items; /* LIST, STRUCT */
    size_t n;
} mull_cell;

/* A row is a struct cell of the columns asked for; everything it points to belongs to it. */
typedef struct mull_row {
    mull_cell top;
    void *memory;
} mull_row;

typedef struct mull_parquet mull_parquet;

/* False in a build without Arrow. */
bool mull_parquet_available(void);
/* columns: the ncolumns top-level columns to read, those the file lacks are left out; NULL: all. */
int mull_parquet_open(const char *path, const char *const *columns, size_t ncolumns, mull_parquet **out,
                      mull_error *err);
void mull_parquet_close(mull_parquet *p);
int64_t mull_parquet_rows(const mull_parquet *p);
/* Top-level columns of the file (not only those asked for). */
int mull_parquet_columns(const mull_parquet *p);
const char *mull_parquet_column_name(const mull_parquet *p, int i);
/* Row i; cheap when i follows the last one read. Not thread-safe for one p. Damaged pages are MULL_EFORMAT. */
int mull_parquet_read(mull_parquet *p, int64_t i, mull_row *out, mull_error *err);

/* These two are plain C (row.c). NULL when there is no such item. */
const mull_cell *mull_cell_find(const mull_cell *c, const char *name);
void mull_row_free(mull_row *r);

#ifdef __cplusplus
}
#endif
#endif
