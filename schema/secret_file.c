/* See secret_file.h. */
#include "schema/secret_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char WHAT[] = "cannot read a file";
enum { MOST = 1 << 20 };

static int read_file(const char *path, mode_t forbidden, char **out, mull_err *err) {
    struct stat st;
    *out = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return mull_fail_errno(err, errno, WHAT, path, "check the path");
    char *text =
        fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size <= MOST ? malloc((size_t)st.st_size + 1) : NULL;
    ssize_t n = text ? read(fd, text, (size_t)st.st_size) : -1;
    close(fd);
    int rc = 0;
    if (n < 0)
        rc = mull_fail(err, MULL_ERR_FORMAT, WHAT, path, NULL, "it is no file of at most %d bytes", MOST);
    else if (st.st_mode & forbidden)
        rc = mull_fail(err, MULL_ERR_ARG, WHAT, path, "chmod 600 it",
                       "others may read it (mode %03o), and there is a secret in it", (unsigned)(st.st_mode & 0777));
    if (rc != 0) {
        free(text);
        return rc;
    }
    text[n] = 0;
    *out = text;
    return 0;
}

int mull_text_read(const char *path, char **out, mull_err *err) {
    return read_file(path, 0, out, err);
}

int mull_secret_read(const char *path, char **out, mull_err *err) {
    int rc = read_file(path, 077, out, err);
    if (rc != 0) return rc;
    (*out)[strcspn(*out, "\r\n")] = 0;
    if (**out) return 0;
    free(*out);
    *out = NULL;
    return mull_fail(err, MULL_ERR_FORMAT, WHAT, path, "write the secret into its first line", "it is empty");
}

int mull_secret_write(const char *path, const char *text, size_t n, mull_err *err) {
    static const char what[] = "cannot keep a secret";
    char temp[4200];
    if (snprintf(temp, sizeof temp, "%s.new", path) >= (int)sizeof temp)
        return mull_fail(err, MULL_ERR_LIMIT, what, path, "choose a shorter path", "the path is too long");
    unlink(temp);
    int fd = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600), e = 0;
    if (fd < 0) return mull_fail_errno(err, errno, what, temp, "check the folder");
    if (write(fd, text, n) != (ssize_t)n || fsync(fd) != 0) e = errno ? errno : ENOSPC;
    close(fd);
    if (!e && rename(temp, path) != 0) e = errno;
    if (!e) return 0;
    unlink(temp);
    return mull_fail_errno(err, e, what, path, "check the folder");
}
