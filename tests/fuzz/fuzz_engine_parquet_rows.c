/* Rows of parquet datasets as JSON: whatever the bytes, opening and reading end with rows or with an error. A build
 * without Arrow only says that it has none. */
#include "engine/eval/source_internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    enum { ROWS_MAX = 64 };
    char path[40];
    mull_error err = {0};
    int fd = memfd_create("rows", MFD_CLOEXEC);
    if (fd < 0 || (size && write(fd, data, size) != (ssize_t)size)) abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    mull__part p = {.path = path};
    int rc = mull__parquet_open(&p, &err);
    for (int64_t i = 0; !rc && i < p.rows && i < ROWS_MAX; i++) {
        json_t *row = NULL;
        int bad = mull__parquet_get(&p, i, &row, &err);
        if ((bad == 0) != (row != NULL) || (bad && !err.why[0])) abort();
        if (!bad && !json_is_object(row)) abort();
        json_decref(row);
    }
    if (rc && !err.why[0]) abort();
    if (!rc) mull__parquet_close(&p);
    close(fd);
    return 0;
}
