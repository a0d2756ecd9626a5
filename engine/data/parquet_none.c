/* parquet.h in a build without Arrow: every call says what is missing. */
#include "engine/data/parquet.h"
#include "engine/data/parquet_write.h"

#if !MULL_HAVE_PARQUET
bool mull_parquet_available(void) {
    return false;
}

int mull_parquet_open(const char *path, const char *const *columns, size_t ncolumns, mull_parquet **out,
                      mull_error *err) {
    (void)columns, (void)ncolumns;
    *out = NULL;
    return mull_fail(
        err, MULL_EUNSUPPORTED, "cannot read parquet", path,
        "run ops/deps and build again (cmake finds the library then), or pass -DMULL_WITH_PARQUET=ON to see "
        "why it was not found",
        "this build has no parquet reader");
}

void mull_parquet_close(mull_parquet *p) {
    (void)p;
}
int64_t mull_parquet_rows(const mull_parquet *p) {
    (void)p;
    return 0;
}
int mull_parquet_columns(const mull_parquet *p) {
    (void)p;
    return 0;
}
const char *mull_parquet_column_name(const mull_parquet *p, int i) {
    (void)p, (void)i;
    return "";
}
int mull_parquet_read(mull_parquet *p, int64_t i, mull_row *out, mull_error *err) {
    (void)p, (void)i;
    *out = (mull_row){0};
    return mull_fail(err, MULL_EUNSUPPORTED, "cannot read parquet", NULL, NULL, "this build has no parquet reader");
}
int mull_parquet_write(const char *path, const mull_cell *rows, size_t n, mull_error *err) {
    (void)rows, (void)n;
    return mull_fail(err, MULL_EUNSUPPORTED, "cannot write parquet", path, "run ops/deps and build again",
                     "this build has no parquet writer");
}
int mull_parquet_writer_open(const char *path, const mull_cell *like, mull_parquet_writer **out, mull_error *err) {
    *out = NULL;
    return mull_parquet_write(path, like, 1, err);
}
int mull_parquet_writer_add(mull_parquet_writer *w, const mull_cell *row, mull_error *err) {
    (void)w;
    return mull_parquet_write("", row, 1, err);
}
int mull_parquet_writer_close(mull_parquet_writer *w, bool finish, mull_error *err) {
    (void)w, (void)finish, (void)err;
    return MULL_OK;
}
#else
typedef int mull_parquet_is_in_parquet_cc; /* ISO C wants something in a file */
#endif
