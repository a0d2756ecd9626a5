/* Digests of one whole file and of a folder of tables; see digest.h. */
#include "engine/core/buf.h"
#include "engine/core/digest.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CHUNK = 1 << 20, DEPTH = 4 };
static const char *const DATA = "cannot identify the data set";

static void finish(mull__sha *s, char hex[65]) {
    uint8_t md[32];
    mull__sha_done(s, md);
    mull__hex(md, 32, hex);
}

int mull_sha256_file(const char *path, char hex[65], mull_error *err) {
    static const char *const WHAT = "cannot sum a file";
    int fd = open(path, O_RDONLY | O_CLOEXEC), rc = MULL_OK;
    if (fd < 0) return mull_fail_errno(err, errno, WHAT, path, "check the path");
    mull__sha *s = mull__sha_create();
    char *buf = malloc(CHUNK);
    if (!s || !buf) rc = mull_fail(err, MULL_ENOMEM, WHAT, path, NULL, "out of memory");
    for (ssize_t n = 1; !rc && n != 0;) {
        n = read(fd, buf, CHUNK);
        if (n < 0 && errno != EINTR) rc = mull_fail_errno(err, errno, WHAT, path, "check its disk");
        if (n > 0) mull__sha_add(s, buf, (size_t)n);
    }
    if (!rc) finish(s, hex);
    mull__sha_destroy(s);
    free(buf);
    close(fd);
    return rc;
}

static bool ends(const char *s, const char *end) {
    size_t n = strlen(s), m = strlen(end);
    return n > m && !strcmp(s + n - m, end);
}

static int not_hidden(const struct dirent *e) {
    return e->d_name[0] != '.';
}

static int by_bytes(const struct dirent **a, const struct dirent **b) {
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int add_folder(mull__sha *s, const char *dir, const char *prefix, int depth, mull_error *err);

/* An entry of a folder: a table, a folder to go into, or nothing that counts. shown: its name below the data set. */
static int add_entry(mull__sha *s, const char *path, const char *shown, bool maybe_folder, int depth, mull_error *err) {
    struct stat st;
    bool table = ends(shown, ".parquet") || ends(shown, ".json") || ends(shown, ".jsonl");
    if ((!table && !maybe_folder) || stat(path, &st)) return MULL_OK;
    if (table && S_ISREG(st.st_mode)) {
        mull__sha_add(s, shown, strlen(shown) + 1);
        return mull_digest_file(s, AT_FDCWD, path, DATA, err);
    }
    char *below = NULL;
    if (!S_ISDIR(st.st_mode) || depth == 0) return MULL_OK;
    if (asprintf(&below, "%s/", shown) < 0) return mull_fail(err, MULL_ENOMEM, DATA, path, NULL, "out of memory");
    int rc = add_folder(s, path, below, depth - 1, err);
    free(below);
    return rc;
}

static int add_folder(mull__sha *s, const char *dir, const char *prefix, int depth, mull_error *err) {
    struct dirent **list = NULL;
    int n = scandir(dir, &list, not_hidden, by_bytes), rc = MULL_OK;
    if (n < 0) return mull_fail_errno(err, errno, DATA, dir, "check the path and its permissions");
    for (int i = 0; i < n; i++) {
        char *path = rc ? NULL : mull_path_join(dir, list[i]->d_name), *shown = NULL;
        if (!rc && (!path || asprintf(&shown, "%s%s", prefix, list[i]->d_name) < 0))
            rc = mull_fail(err, MULL_ENOMEM, DATA, dir, NULL, "out of memory");
        if (!rc) rc = add_entry(s, path, shown, list[i]->d_type != DT_REG, depth, err);
        free(shown);
        free(path);
        free(list[i]);
    }
    free(list);
    return rc;
}

int mull_digest_dataset(const char *location, char hex[65], mull_error *err) {
    mull__sha *s = mull__sha_create();
    struct stat st;
    if (!s) return mull_fail(err, MULL_ENOMEM, DATA, location, NULL, "out of memory");
    int rc = stat(location, &st) ? mull_fail_errno(err, errno, DATA, location, "check the path") : MULL_OK;
    if (!rc && S_ISDIR(st.st_mode))
        rc = add_folder(s, location, "", DEPTH, err);
    else if (!rc)
        rc = mull_digest_file(s, AT_FDCWD, location, DATA, err);
    if (!rc) finish(s, hex);
    mull__sha_destroy(s);
    return rc;
}
