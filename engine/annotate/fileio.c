/* See fileio.h. */
#include "engine/annotate/fileio.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

enum { SINK_BUFFER = 1 << 18 };

int mull__io_fail(mull_error *err, int errnum, const char *what, const char *where) {
    if (errnum == ENOSPC || errnum == EDQUOT || errnum == EFBIG)
        return mull_fail(err, MULL_ENOSPACE, what, where, "make room and start it again: what is done is kept", "%s",
                         strerror(errnum));
    return mull_fail_errno(err, errnum, what, where, "check the folder, then start it again: what is done is kept");
}

int mull__make_folders(const char *path, const char *what, mull_error *err) {
    char *copy = strdup(path);
    if (!copy) return mull_fail(err, MULL_ENOMEM, what, path, "", "out of memory");
    int rc = MULL_OK;
    for (char *p = copy + 1; *copy && !rc; p++) {
        if (*p != '/' && *p) continue;
        char c = *p;
        *p = 0;
        if (mkdir(copy, 0777) && errno != EEXIST) rc = mull__io_fail(err, errno, what, copy);
        *p = c;
        if (!c) break;
    }
    free(copy);
    return rc;
}

int mull__write_all(int fd, const void *p, size_t n) {
    const char *s = p;
    while (n) {
        ssize_t w = write(fd, s, n);
        if (w < 0 && errno == EINTR) continue;
        if (w < 0) return errno;
        if (w == 0) return ENOSPC;
        s += w;
        n -= (size_t)w;
    }
    return 0;
}

int mull__put_file(int dir, const char *name, const void *data, size_t n, mull_error *err) {
    char temp[80];
    snprintf(temp, sizeof temp, "%.70s.tmp", name);
    int fd = openat(dir, temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666), rc = 0;
    if (fd < 0) return mull__io_fail(err, errno, "cannot write", name);
    rc = mull__write_all(fd, data, n);
    if (!rc && fsync(fd)) rc = errno;
    if (close(fd) && !rc) rc = errno;
    if (!rc && (renameat(dir, temp, dir, name) || fsync(dir))) rc = errno;
    if (!rc) return MULL_OK;
    unlinkat(dir, temp, 0);
    return mull__io_fail(err, rc, "cannot write", name);
}

int mull__get_file(int dir, const char *name, size_t max, mull_buf *out, mull_error *err) {
    int fd = openat(dir, name, O_RDONLY | O_CLOEXEC), rc = 0;
    if (fd < 0) return mull_fail_errno(err, errno, "cannot read", name, "");
    char chunk[16384];
    ssize_t n;
    while (!rc && (n = read(fd, chunk, sizeof chunk)) != 0) {
        if (n < 0 && errno == EINTR) continue;
        if (n < 0)
            rc = mull__io_fail(err, errno, "cannot read", name);
        else if (out->len + (size_t)n > max)
            rc = mull_fail(err, MULL_ELIMIT, "cannot read", name, "", "it has more than %zu bytes", max);
        else if (mull_buf_add(out, chunk, (size_t)n))
            rc = mull_fail(err, MULL_ENOMEM, "cannot read", name, "", "out of memory");
    }
    close(fd);
    return rc;
}

int mull__sink_open(mull__sink *s, int dir, const char *name, mull_error *err) {
    *s = (mull__sink){.dir = dir, .fd = -1, .name = name, .sha = mull__sha_create()};
    if (!s->sha) return mull_fail(err, MULL_ENOMEM, "cannot write", name, "", "out of memory");
    snprintf(s->temp, sizeof s->temp, ".%.60s.tmp", name);
    s->fd = openat(dir, s->temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    return s->fd < 0 ? mull__io_fail(err, errno, "cannot write", name) : MULL_OK;
}

static int sink_flush(mull__sink *s, mull_error *err) {
    int rc = mull__write_all(s->fd, s->buf.data, s->buf.len);
    s->buf.len = 0;
    return rc ? mull__io_fail(err, rc, "cannot write", s->name) : MULL_OK;
}

int mull__sink_pack(mull__sink *s, mull_error *err) {
    s->zstd = ZSTD_createCCtx();
    return s->zstd ? MULL_OK : mull_fail(err, MULL_ENOMEM, "cannot write", s->name, "", "out of memory");
}

/* Bytes as they are in the file. */
static int sink_raw(mull__sink *s, const void *p, size_t n, mull_error *err) {
    if (mull_buf_add(&s->buf, p, n)) return mull_fail(err, MULL_ENOMEM, "cannot write", s->name, "", "out of memory");
    mull__sha_add(s->sha, p, n);
    s->bytes += (int64_t)n;
    return s->buf.len >= SINK_BUFFER ? sink_flush(s, err) : MULL_OK;
}

static int sink_packed(mull__sink *s, const void *p, size_t n, ZSTD_EndDirective how, mull_error *err) {
    char chunk[16384];
    ZSTD_inBuffer in = {p, n, 0};
    for (size_t left = 1; in.pos < in.size || (how == ZSTD_e_end && left);) {
        ZSTD_outBuffer out = {chunk, sizeof chunk, 0};
        left = ZSTD_compressStream2(s->zstd, &out, &in, how);
        if (ZSTD_isError(left))
            return mull_fail(err, MULL_EINTERNAL, "cannot write", s->name, "", "zstd: %s", ZSTD_getErrorName(left));
        int rc = out.pos ? sink_raw(s, chunk, out.pos, err) : MULL_OK;
        if (rc) return rc;
    }
    return MULL_OK;
}

int mull__sink_add(mull__sink *s, const void *p, size_t n, mull_error *err) {
    return s->zstd ? sink_packed(s, p, n, ZSTD_e_continue, err) : sink_raw(s, p, n, err);
}

int mull__sink_commit(mull__sink *s, char hex[65], mull_error *err) {
    uint8_t md[32];
    int rc = s->zstd ? sink_packed(s, NULL, 0, ZSTD_e_end, err) : MULL_OK;
    if (!rc) rc = sink_flush(s, err);
    if (rc) return rc;
    mull__sha_done(s->sha, md);
    mull__hex(md, 32, hex);
    if (fsync(s->fd) || renameat(s->dir, s->temp, s->dir, s->name))
        return mull__io_fail(err, errno, "cannot write", s->name);
    s->temp[0] = 0;
    return MULL_OK;
}

void mull__sink_fini(mull__sink *s) {
    if (s->fd > 0) close(s->fd);
    if (s->fd > 0 && s->temp[0]) unlinkat(s->dir, s->temp, 0);
    mull__sha_destroy(s->sha);
    mull_buf_fini(&s->buf);
    ZSTD_freeCCtx(s->zstd);
    *s = (mull__sink){.fd = -1};
}
