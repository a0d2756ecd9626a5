/* SHA256SUMS of a checkpoint; see checkpoint.h. The files are read back from the page cache right after they were
 * written: what is summed is what a reader gets, and the writers of the formats need not know of it. */
#include "engine/core/buf.h"
#include "engine/core/digest.h"
#include "engine/train/checkpoint_internal.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { SUMS_MAX = 16 << 20 };
static const char *const WHAT = "cannot sum the checkpoint";

static int summed(const struct dirent *e) {
    return e->d_name[0] != '.' && strcmp(e->d_name, MULL__SUMS);
}
static int by_bytes(const struct dirent **a, const struct dirent **b) {
    return strcmp((*a)->d_name, (*b)->d_name);
}

int mull__checkpoint_sums(const char *dir, mull_error *err) {
    struct dirent **list = NULL;
    int n = scandir(dir, &list, summed, by_bytes), rc = MULL_OK;
    if (n < 0) return mull_fail_errno(err, errno, WHAT, dir, "check the folder");
    mull_buf text = {0};
    for (int i = 0; i < n; i++) {
        char *path = rc ? NULL : mull_path_join(dir, list[i]->d_name), hex[65];
        if (!rc && !path) rc = mull_fail(err, MULL_ENOMEM, WHAT, dir, NULL, "out of memory");
        if (!rc) rc = mull_sha256_file(path, hex, err);
        if (!rc && mull_buf_printf(&text, "%s  %s\n", hex, list[i]->d_name))
            rc = mull_fail(err, MULL_ENOMEM, WHAT, dir, NULL, "out of memory");
        free(path);
        free(list[i]);
    }
    free(list);
    if (!rc) rc = mull__checkpoint_put(dir, MULL__SUMS, text.data ? text.data : "", text.len, err);
    mull_buf_fini(&text);
    return rc;
}

json_t *mull_checkpoint_summary(const char *dir, mull_error *err) {
    char *path = mull_path_join(dir, MULL__SUMS), hex[65];
    mull_buf text = {0};
    json_t *files = json_array();
    int64_t total = 0;
    int rc = path && files ? MULL_OK : mull_fail(err, MULL_ENOMEM, WHAT, dir, NULL, "out of memory");
    if (!rc) rc = mull_read_file(path, SUMS_MAX, "list of sums", &text, err);
    if (!rc) rc = mull_sha256_file(path, hex, err);
    size_t own = text.len;
    char *save = NULL;
    for (char *line = rc ? NULL : strtok_r(text.data ? text.data : (char[]){""}, "\n", &save); line && !rc;
         line = strtok_r(NULL, "\n", &save)) {
        struct stat st;
        char *file = NULL;
        if (strlen(line) < 67 || strspn(line, "0123456789abcdef") != 64 || strchr(line + 66, '/'))
            rc = mull_fail(err, MULL_EFORMAT, WHAT, path, NULL, "a line is not what sha256sum writes");
        else if (!(file = mull_path_join(dir, line + 66)))
            rc = mull_fail(err, MULL_ENOMEM, WHAT, dir, NULL, "out of memory");
        else if (stat(file, &st))
            rc = mull_fail_errno(err, errno, WHAT, file, NULL);
        if (!rc) {
            total += st.st_size;
            json_array_append_new(files, json_pack("{s:s,s:I,s:s%}", "name", line + 66, "bytes", (json_int_t)st.st_size,
                                                   "sha256", line, (size_t)64));
        }
        free(file);
    }
    json_t *out =
        rc ? NULL
           : json_pack("{s:I,s:s,s:O}", "bytes", (json_int_t)total + (json_int_t)own, "sha256", hex, "files", files);
    json_decref(files);
    mull_buf_fini(&text);
    free(path);
    return out;
}
