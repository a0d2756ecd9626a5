/* Writing safetensors: header and data to PATH.tmp, fsync, rename, fsync of the folder. A reader never sees half a
 * file, and after a crash either the old file or the whole new one is there. */
#include "engine/core/behind.h"
#include "engine/core/buf.h"
#include "engine/model/safetensors.h"
#include "engine/model/safetensors_write.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const WHAT = "cannot write safetensors";

struct mull_safetensors_writer {
    int fd;
    char *path, *tmp;
    mull_behind behind;
    size_t left; /* bytes that the header promises and add has not brought */
};

static int header_text(const mull_tensor_info *t, size_t n, mull_buf *out, size_t *data_bytes) {
    json_t *root = json_object(), *meta = json_pack("{s:s}", "format", "pt");
    size_t pos = 0;
    int rc = !root || json_object_set_new(root, "__metadata__", meta);
    for (size_t i = 0; i < n && !rc; i++) {
        json_t *shape = json_array();
        for (int d = 0; d < t[i].ndim; d++) json_array_append_new(shape, json_integer(t[i].shape[d]));
        size_t bytes = (size_t)t[i].count * mull_dtype_size(t[i].dtype);
        rc = json_object_set_new(root, t[i].name,
                                 json_pack("{s:s,s:o,s:[I,I]}", "dtype", mull_dtype_name(t[i].dtype), "shape", shape,
                                           "data_offsets", (json_int_t)pos, (json_int_t)(pos + bytes)));
        pos += bytes;
    }
    *data_bytes = pos;
    char *s = rc ? NULL : json_dumps(root, JSON_COMPACT);
    json_decref(root);
    if (!s) return MULL_ENOMEM;
    rc = mull_buf_puts(out, s);
    free(s);
    while (!rc && (out->len + 8) % 64) rc = mull_buf_add(out, " ", 1); /* aligned data */
    return rc;
}

static int write_all(mull_safetensors_writer *w, const void *data, size_t len, mull_error *err) {
    const char *p = data;
    while (len) {
        ssize_t k = write(w->fd, p, len < (1u << 30) ? len : 1u << 30);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) return mull_fail_errno(err, errno, WHAT, w->tmp, "free space or choose another folder");
        mull_behind_wrote(&w->behind, w->fd, (size_t)k);
        p += k;
        len -= (size_t)k;
    }
    return MULL_OK;
}

int mull_safetensors_writer_open(const char *path, const mull_tensor_info *tensors, size_t n,
                                 mull_safetensors_writer **out, mull_error *err) {
    mull_safetensors_writer *w = calloc(1, sizeof *w);
    mull_buf head = {0};
    int rc = MULL_OK;
    size_t len = strlen(path) + 8;
    if (w) {
        w->fd = -1;
        w->path = strdup(path);
        w->tmp = malloc(len);
    }
    if (!w || !w->path || !w->tmp || header_text(tensors, n, &head, &w->left)) {
        rc = mull_fail(err, MULL_ENOMEM, WHAT, path, NULL, "out of memory");
        goto out;
    }
    /* A rename would put a file in the place of a device or a pipe, /dev/null for one. */
    struct stat st;
    if (!stat(path, &st) && !S_ISREG(st.st_mode)) {
        rc = mull_fail(err, MULL_EIO, WHAT, path, "name a file", "it is there and not a regular file");
        goto out;
    }
    snprintf(w->tmp, len, "%s.tmp", path);
    w->fd = open(w->tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (w->fd < 0) {
        rc = mull_fail_errno(err, errno, WHAT, w->tmp, "check the folder");
        goto out;
    }
    unsigned char size[8];
    for (int i = 0; i < 8; i++) size[i] = (unsigned char)((uint64_t)head.len >> (8 * i));
    rc = write_all(w, size, 8, err);
    if (!rc) rc = write_all(w, head.data, head.len, err);
out:
    mull_buf_fini(&head);
    if (rc) /* removes the file begun */
        mull_safetensors_writer_abort(w);
    else
        *out = w;
    return rc;
}

int mull_safetensors_writer_add(mull_safetensors_writer *w, const void *data, size_t len, mull_error *err) {
    if (len > w->left)
        return mull_fail(err, MULL_EINTERNAL, WHAT, w->path, "report this", "%zu bytes more than the header says",
                         len - w->left);
    w->left -= len;
    return write_all(w, data, len, err);
}

void mull_safetensors_writer_abort(mull_safetensors_writer *w) {
    if (!w) return;
    if (w->fd >= 0) {
        close(w->fd);
        unlink(w->tmp);
    }
    free(w->path);
    free(w->tmp);
    free(w);
}

int mull_safetensors_writer_commit(mull_safetensors_writer *w, mull_error *err) {
    int rc = MULL_OK;
    if (w->left)
        rc = mull_fail(err, MULL_EINTERNAL, WHAT, w->path, "report this", "%zu bytes are missing", w->left);
    else if (fsync(w->fd))
        rc = mull_fail_errno(err, errno, WHAT, w->tmp, "free space or choose another folder");
    if (!rc && rename(w->tmp, w->path)) rc = mull_fail_errno(err, errno, WHAT, w->path, "check the folder");
    if (rc) {
        mull_safetensors_writer_abort(w);
        return rc;
    }
    close(w->fd);
    w->fd = -1;
    char *slash = strrchr(w->path, '/');
    if (slash) *slash = 0;
    int dir = open(slash ? (*w->path ? w->path : "/") : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir >= 0) {
        fsync(dir);
        close(dir);
    }
    mull_safetensors_writer_abort(w);
    return rc;
}

/* Larger element types first, else the given order: the header ends on a multiple of 64, so every tensor is aligned. */
static mull_tensor_info *aligned_order(const mull_tensor_info *t, size_t n) {
    mull_tensor_info *out = calloc(n + 1, sizeof *out);
    size_t at = 0;
    for (size_t size = 8; out && size; size /= 2)
        for (size_t i = 0; i < n; i++)
            if (mull_dtype_size(t[i].dtype) == size) out[at++] = t[i];
    return out;
}

int mull_safetensors_write(const char *path, const mull_tensor_info *tensors, size_t n, mull_error *err) {
    mull_safetensors_writer *w = NULL;
    mull_tensor_info *t = aligned_order(tensors, n);
    if (!t) return mull_fail(err, MULL_ENOMEM, WHAT, path, NULL, "out of memory");
    int rc = mull_safetensors_writer_open(path, t, n, &w, err);
    for (size_t i = 0; i < n && !rc; i++)
        rc = mull_safetensors_writer_add(w, t[i].data, (size_t)t[i].count * mull_dtype_size(t[i].dtype), err);
    free(t);
    if (!rc) return mull_safetensors_writer_commit(w, err);
    mull_safetensors_writer_abort(w);
    return rc;
}
