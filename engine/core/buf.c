/* Growing buffers and whole-file reading; see buf.h. */
#include "engine/core/buf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int mull_buf_reserve(mull_buf *b, size_t extra) {
    if (extra > SIZE_MAX / 2 - b->len - 1) return MULL_ENOMEM;
    size_t need = b->len + extra + 1;
    if (need <= b->cap) return MULL_OK;
    size_t cap = b->cap ? b->cap : 64;
    while (cap < need) cap *= 2;
    char *p = realloc(b->data, cap);
    if (!p) return MULL_ENOMEM;
    b->data = p;
    b->cap = cap;
    return MULL_OK;
}

int mull_buf_add(mull_buf *b, const void *p, size_t n) {
    int rc = mull_buf_reserve(b, n);
    if (rc) return rc;
    if (n) memcpy(b->data + b->len, p, n);
    b->len += n;
    b->data[b->len] = 0;
    return MULL_OK;
}

int mull_buf_puts(mull_buf *b, const char *s) { return mull_buf_add(b, s, strlen(s)); }

int mull_buf_printf(mull_buf *b, const char *fmt, ...) {
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    int rc = n < 0 ? MULL_EINTERNAL : mull_buf_reserve(b, (size_t)n);
    if (!rc) {
        vsnprintf(b->data + b->len, (size_t)n + 1, fmt, again);
        b->len += (size_t)n;
    }
    va_end(again);
    return rc;
}

void mull_buf_fini(mull_buf *b) {
    free(b->data);
    memset(b, 0, sizeof *b);
}

int mull_ids_append(mull_ids *v, const int32_t *ids, size_t n) {
    if (v->len + n > v->cap) {
        size_t cap = v->cap ? v->cap : 32;
        while (cap < v->len + n) cap *= 2;
        int32_t *p = realloc(v->data, cap * sizeof *p);
        if (!p) return MULL_ENOMEM;
        v->data = p;
        v->cap = cap;
    }
    if (n) memcpy(v->data + v->len, ids, n * sizeof *ids);
    v->len += n;
    return MULL_OK;
}

int mull_ids_add(mull_ids *v, int32_t id) { return mull_ids_append(v, &id, 1); }

void mull_ids_fini(mull_ids *v) {
    free(v->data);
    memset(v, 0, sizeof *v);
}

int mull_read_file(const char *path, size_t max, const char *what, mull_buf *out, mull_error *err) {
    char head[96];
    snprintf(head, sizeof head, "cannot read %s", what);
    memset(out, 0, sizeof *out);
    /* O_NONBLOCK so that a FIFO given by mistake is refused below and does not hang the open. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return mull_fail_errno(err, errno, head, path, "check the path and its permissions");
    int rc = MULL_OK;
    struct stat st;
    if (fstat(fd, &st) != 0) {
        rc = mull_fail_errno(err, errno, head, path, NULL);
    } else if (!S_ISREG(st.st_mode)) {
        rc = mull_fail(err, MULL_EFORMAT, head, path, "give a regular file", "it is not a regular file");
    } else if ((uint64_t)st.st_size > max) {
        rc = mull_fail(err, MULL_ELIMIT, head, path, "give a smaller file", "it has %lld bytes, the limit is %zu",
                       (long long)st.st_size, max);
    }
    for (;;) {
        if (rc) break;
        rc = mull_buf_reserve(out, 1 << 16);
        if (rc) {
            mull_fail(err, rc, head, path, NULL, "out of memory");
            break;
        }
        ssize_t n = read(fd, out->data + out->len, out->cap - out->len - 1);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) rc = mull_fail_errno(err, errno, head, path, NULL);
        if (n <= 0) break;
        out->len += (size_t)n;
        out->data[out->len] = 0;
        if (out->len > max) rc = mull_fail(err, MULL_ELIMIT, head, path, NULL, "it grew past %zu bytes", max);
    }
    close(fd);
    if (!rc && !out->data) rc = mull_buf_reserve(out, 0);
    if (!rc) out->data[out->len] = 0;
    if (rc) mull_buf_fini(out);
    return rc;
}

char *mull_path_join(const char *dir, const char *name) {
    size_t a = strlen(dir), b = strlen(name);
    char *p = malloc(a + b + 2);
    if (!p) return NULL;
    memcpy(p, dir, a);
    if (a && dir[a - 1] != '/') p[a++] = '/';
    memcpy(p + a, name, b + 1);
    return p;
}
