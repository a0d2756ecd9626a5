/* See spool.h. A record is its length and a checksum, 4 bytes each, and its bytes. */
#include "worker/spool.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { RECORD_MAX = 4 << 20, PUNCH_BYTES = 16 << 20 };

typedef struct header {
    uint32_t len, sum;
} header;

/* FNV-1a: finds torn and overwritten records, which is all that is asked of it. */
static uint32_t checksum(const char *s, size_t n) {
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < n; i++) h = (h ^ (unsigned char)s[i]) * 16777619u;
    return h;
}

int mull_spool_open(mull_spool *s, const char *path, uint64_t limit, mull_err *err) {
    *s = (mull_spool){.fd = -1, .limit = limit};
    snprintf(s->path, sizeof s->path, "%s", path);
    s->fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    return s->fd >= 0 ? 0 : mull_fail_errno(err, errno, "cannot open the event spool", path, "check the state folder");
}

void mull_spool_close(mull_spool *s) {
    if (s->fd < 0) return;
    close(s->fd);
    unlink(s->path);
    s->fd = -1;
}

static void empty(mull_spool *s) {
    s->begin = s->end = s->count = 0;
    if (ftruncate(s->fd, 0) != 0) return; /* the old bytes are overwritten */
}

int mull_spool_put(mull_spool *s, const char *data, size_t n, mull_err *err) {
    static const char what[] = "cannot spool an event", todo[] = "free some space";
    header h = {(uint32_t)n, checksum(data, n)};
    if (n > RECORD_MAX) return mull_fail(err, MULL_ERR_LIMIT, what, s->path, NULL, "it has %zu bytes", n);
    if (s->end - s->begin + sizeof h + n > s->limit)
        return mull_fail(err, MULL_ERR_NOSPACE, what, s->path, "bring Redis or the scheduler back",
                         "the spool has reached its limit of %llu bytes", (unsigned long long)s->limit);
    struct iovec iov[2] = {{&h, sizeof h}, {(void *)(uintptr_t)data, n}};
    ssize_t done = pwritev(s->fd, iov, 2, (off_t)s->end);
    if (done != (ssize_t)(sizeof h + n)) {
        int why = done < 0 ? errno : ENOSPC;
        if (ftruncate(s->fd, (off_t)s->end) != 0 && why == 0) why = errno;
        mull_fail_errno(err, why, what, s->path, todo);
        return MULL_ERR_NOSPACE;
    }
    s->end += sizeof h + n;
    s->count++;
    return 0;
}

static int read_all(int fd, void *out, size_t n, uint64_t at) {
    for (size_t got = 0; got < n;) {
        ssize_t k = pread(fd, (char *)out + got, n - got, (off_t)(at + got));
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) return -1;
        got += (size_t)k;
    }
    return 0;
}

int mull_spool_get(mull_spool *s, char **data, size_t *n, uint64_t *lost, mull_err *err) {
    header h;
    *lost = 0;
    if (s->count == 0) return MULL_ERR_MISSING;
    char *text = NULL;
    if (read_all(s->fd, &h, sizeof h, s->begin) != 0 || h.len > RECORD_MAX || s->begin + sizeof h + h.len > s->end)
        goto broken;
    text = malloc((size_t)h.len + 1);
    if (!text) return mull_fail(err, MULL_ERR_NOMEM, "cannot read the event spool", s->path, NULL, "no memory");
    if (read_all(s->fd, text, h.len, s->begin + sizeof h) != 0 || checksum(text, h.len) != h.sum) goto broken;
    text[h.len] = 0;
    s->begin += sizeof h + h.len;
    if (--s->count == 0)
        empty(s);
    else if (s->begin % PUNCH_BYTES < sizeof h + h.len) /* give back what has been read, now and then */
        (void)!fallocate(s->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)s->begin);
    *data = text;
    *n = h.len;
    return 0;
broken:
    free(text);
    *lost = s->count;
    empty(s);
    return mull_fail(err, MULL_ERR_FORMAT, "cannot read the event spool", s->path, "check the disk",
                     "a record is damaged; %llu events are lost", (unsigned long long)*lost);
}
