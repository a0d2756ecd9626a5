/* JSON arrays and JSON lines as datasets: whatever the bytes, rows lie inside the data and reading each one ends. */
#include "engine/data/json_rows.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    mull_json_rows *r;
    mull_error err = {0};
    const char *name = size && data[0] & 1 ? "rows.jsonl" : "rows.json";
    if (mull_json_rows_from_bytes(size ? data + 1 : data, size ? size - 1 : 0, name, &r, &err)) return 0;
    for (int64_t i = 0; i < mull_json_rows_count(r); i++) {
        json_t *row = NULL;
        int rc = mull_json_rows_get(r, i, &row, &err);
        if ((rc == 0) != (row != NULL)) abort();
        json_decref(row);
    }
    mull_json_rows_close(r);
    return 0;
}
