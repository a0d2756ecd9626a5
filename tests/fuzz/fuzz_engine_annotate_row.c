/* Any bytes as an annotation's input: lines are found, rows are parsed; what is accepted has messages and sane
 * sampling, what is refused says why. */
#include "engine/annotate/reader.h"
#include "engine/annotate/row.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void one_row(const mull__line *l) {
    static const mull_sampling base = {.max_new_tokens = 16, .top_p = 1, .repetition_penalty = 1};
    mull_row row;
    mull_row_code code;
    mull_error err = {0};
    int rc = mull_row_parse(l->data, l->len, &base, &row, &code, &err);
    if (rc && (code == MULL_ROW_OK || !err.why[0])) abort();
    if (!rc && (!row.messages || row.choices < 1 || row.sampling.max_new_tokens < 1 || !(row.sampling.top_p > 0)))
        abort();
    mull_row_fini(&row);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    mull__reader *r;
    mull__line l;
    mull_error err = {0};
    if (mull__reader_open_bytes(data, size, &r, &err)) return 0;
    int64_t last = 0;
    for (int n = 0; n < 1000 && mull__reader_next(r, &l, &err) > 0; n++) {
        if (l.number <= last) abort();
        last = l.number;
        one_row(&l);
    }
    mull__reader_close(r);
    return 0;
}
