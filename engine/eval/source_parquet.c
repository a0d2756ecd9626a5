/* Parquet rows as JSON: text as text, bytes as data URLs, lists and structs as such. */
#include "engine/eval/source_internal.h"

#include <string.h>

#if defined(MULL_HAVE_PARQUET) && MULL_HAVE_PARQUET

#include "engine/data/parquet.h"

#include <openssl/evp.h>

static json_t *bytes_json(const mull_cell *c) {
    static const char HEAD[] = "data:application/octet-stream;base64,";
    mull_buf b = {0};
    json_t *out = NULL;
    size_t need = 4 * ((c->len + 2) / 3) + 1;
    if (c->len < (size_t)INT32_MAX && !mull_buf_puts(&b, HEAD) && !mull_buf_reserve(&b, need)) {
        int n = EVP_EncodeBlock((unsigned char *)b.data + b.len, (const unsigned char *)c->data, (int)c->len);
        out = json_stringn_nocheck(b.data, b.len + (size_t)n);
    }
    mull_buf_fini(&b);
    return out;
}

static json_t *cell_json(const mull_cell *c) {
    json_t *out = NULL;
    switch (c->kind) {
    case MULL_CELL_BOOL:
        return json_boolean(c->i != 0);
    case MULL_CELL_INT:
        return json_integer(c->i);
    case MULL_CELL_REAL:
        return c->real - c->real == 0 ? json_real(c->real) : json_null();
    case MULL_CELL_TEXT:
        out = json_stringn(c->data, c->len);
        return out ? out : bytes_json(c);
    case MULL_CELL_BYTES:
        return bytes_json(c);
    case MULL_CELL_LIST:
        out = json_array();
        for (size_t i = 0; i < c->n; i++) json_array_append_new(out, cell_json(&c->items[i]));
        return out;
    case MULL_CELL_STRUCT:
        out = json_object();
        for (size_t i = 0; i < c->n; i++) json_object_set_new(out, c->items[i].name, cell_json(&c->items[i]));
        return out;
    default:
        return json_null();
    }
}

int mull__parquet_open(mull__part *p, mull_error *err) {
    mull_parquet *file = NULL;
    int rc = mull_parquet_open(p->path, NULL, 0, &file, err);
    if (rc) return rc;
    p->parquet = file;
    p->rows = mull_parquet_rows(file);
    return MULL_OK;
}

int mull__parquet_get(mull__part *p, int64_t row, json_t **out, mull_error *err) {
    mull_row r = {0};
    int rc = mull_parquet_read(p->parquet, row, &r, err);
    if (rc) return rc;
    *out = cell_json(&r.top);
    mull_row_free(&r);
    return *out ? MULL_OK : mull_fail(err, MULL_ENOMEM, "cannot read the dataset", p->path, NULL, "out of memory");
}

void mull__parquet_close(mull__part *p) {
    mull_parquet_close(p->parquet);
}

#else

int mull__parquet_open(mull__part *p, mull_error *err) {
    return mull_fail(err, MULL_EUNSUPPORTED, "cannot read the dataset", p->path,
                     "put a .jsonl file with the same columns into the folder, images as paths",
                     "this build has no parquet reader");
}

int mull__parquet_get(mull__part *p, int64_t row, json_t **out, mull_error *err) {
    (void)row;
    *out = NULL;
    return mull__parquet_open(p, err);
}

void mull__parquet_close(mull__part *p) {
    (void)p;
}

#endif
