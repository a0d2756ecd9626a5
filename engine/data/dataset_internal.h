/* Between the datasets (set_*.c), what they share (dataset.c, compose.c) and their parquet tables (table.c). */
#ifndef MULL_ENGINE_DATA_DATASET_INTERNAL_H
#define MULL_ENGINE_DATA_DATASET_INTERNAL_H

#include "engine/data/dataset.h"
#include "engine/data/json_rows.h"
#include "engine/data/parquet.h"

/* ---- parquet files behind each other as one table (table.c) */
typedef struct mull__table mull__table;
/* paths are copied. columns as in mull_parquet_open. */
int mull__table_open(char *const *paths, size_t npaths, const char *const *columns, size_t ncolumns, mull__table **out,
                     mull_error *err);
void mull__table_close(mull__table *t);
int64_t mull__table_rows(const mull__table *t);
/* Thread-safe: readers wait for nobody, each thread works on an open file of its own. */
int mull__table_read(mull__table *t, int64_t i, mull_row *out, mull_error *err);
/* Names of regular files in dir that begin with prefix and end with suffix, as full paths, sorted. *out and its texts
 * are malloc'ed (mull__paths_fini). A folder that is not there gives none. */
int mull__paths(const char *dir, const char *prefix, const char *suffix, char ***out, size_t *n, mull_error *err);
void mull__paths_fini(char **paths, size_t n);

/* ---- a dataset */
struct mull_dataset {
    const mull_recipe *r;
    mull_set set;
    char *root; /* folder that media paths are relative to */
    int64_t rows;
    mull_json_rows *json;
    mull__table *table;
    struct mull__subset {
        char *name, *root;
        mull__table *table;
        int64_t first; /* row of the dataset */
    } * subsets;
    size_t nsubsets;
};

/* One of each a dataset. open fills the members; get fills *e, whose set, index and row are there. */
#define MULL__SET_FUNCTIONS(name)                                                                                      \
    int mull__##name##_open(mull_dataset *d, mull_error *err);                                                         \
    int mull__##name##_get(mull_dataset *d, int64_t i, uint64_t key, mull_example *e, mull_error *err);
MULL__SET_FUNCTIONS(sat)
MULL__SET_FUNCTIONS(videor1)
MULL__SET_FUNCTIONS(zebra)
MULL__SET_FUNCTIONS(sims)
MULL__SET_FUNCTIONS(messages)

/* A row that cannot be used, with its place; returns MULL_EFORMAT. */
int mull__bad_row(const mull_dataset *d, const mull_example *e, mull_error *err, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
int mull__skip(const mull_dataset *d, const mull_example *e, mull_error *err, const char *why);
int mull__no_memory(const mull_dataset *d, mull_error *err);
/* Sets root: location itself when it is a folder, else its folder. */
int mull__set_root(mull_dataset *d, const char *location, bool *is_folder, mull_error *err);
/* path under root, or path itself when absolute. NULL on no memory. */
char *mull__resolve(const char *root, const char *path);

/* ---- media */
/* Room for one more medium; NULL on no memory. */
mull_source *mull__add_media(mull_source **list, size_t *n);
/* From a parquet cell: bytes, a path below root, or a struct {bytes, path} as Hugging Face stores images. 0, or a text
 * that says why not. */
const char *mull__source_from_cell(const mull_cell *c, const char *root, mull_source *out);

/* ---- texts (compose.c); these return MULL_OK or MULL_ENOMEM */
int mull__text_add(mull_text *t, const char *s, size_t n);
int mull__text_puts(mull_text *t, const char *s);
int mull__text_special(mull_text *t, const char *token, int64_t times);
int mull__text_append(mull_text *t, const mull_text *other);
void mull__text_fini(mull_text *t);
/* All that is not from within s[n] of what, as Python's str.replace(what, ""). out is appended to. */
int mull__without(const char *s, size_t n, const char *what, mull_buf *out);

/* What a dataset knows of a row; everything borrowed. */
typedef struct mull__row_text {
    const char *problem;
    size_t problem_len;
    const mull_buf *options; /* noptions whole lines without newline; NULL: none are listed */
    size_t noptions;
    const mull_text *process;
    const char *solution;
    size_t solution_len;
} mull__row_text;

/* problem_type of the release's spelling to the static one, NULL when it is none. */
const char *mull__problem_type(const char *s);
/* Question and answer of *e by the recipe's modes; e->problem_type is set. */
int mull__compose(const mull_recipe *r, const mull__row_text *t, mull_example *e);

#endif
