/* See tensorboard.h. */
#include "engine/train/tensorboard.h"

#include "engine/core/buf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { FLUSH_BYTES = 1 << 16 };
static const double FLUSH_S = 1;
static const char *const WHAT = "cannot write TensorBoard's file";

struct mull_tb {
    int fd; /* -1: given up */
    char *path;
    mull_buf pending;
    double flushed;
};

static double seconds(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

uint32_t mull_crc32c(const void *p, size_t n) {
    const unsigned char *s = p;
    uint32_t c = ~UINT32_C(0);
    for (size_t i = 0; i < n; i++) {
        c ^= s[i];
        for (int k = 0; k < 8; k++) c = c >> 1 ^ (UINT32_C(0x82f63b78) & -(c & 1));
    }
    return ~c;
}

uint32_t mull_crc32c_masked(const void *p, size_t n) {
    uint32_t c = mull_crc32c(p, n);
    return (c >> 15 | c << 17) + UINT32_C(0xa282ead8);
}

/* ---- protobuf: these return 0 or MULL_ENOMEM ---- */

static int put_le(mull_buf *b, uint64_t v, int bytes) {
    unsigned char s[8];
    for (int i = 0; i < bytes; i++) s[i] = (unsigned char)(v >> 8 * i);
    return mull_buf_add(b, s, (size_t)bytes);
}

static int put_varint(mull_buf *b, uint64_t v) {
    unsigned char s[10];
    size_t n = 0;
    do {
        s[n++] = (unsigned char)((v & 127) | (v > 127 ? 128 : 0));
        v >>= 7;
    } while (v);
    return mull_buf_add(b, s, n);
}

/* wire: 0 varint, 1 eight bytes, 2 bytes with their length, 5 four bytes */
static int put_tag(mull_buf *b, unsigned field, unsigned wire) {
    return put_varint(b, field << 3 | wire);
}

static int put_bytes(mull_buf *b, unsigned field, const void *p, size_t n) {
    int rc = put_tag(b, field, 2);
    if (!rc) rc = put_varint(b, n);
    return rc ? rc : mull_buf_add(b, p, n);
}

static int put_event_head(mull_buf *b, int64_t step) {
    double now = seconds(CLOCK_REALTIME);
    uint64_t bits;
    memcpy(&bits, &now, 8);
    int rc = put_tag(b, 1, 1); /* Event.wall_time */
    if (!rc) rc = put_le(b, bits, 8);
    if (!rc) rc = put_tag(b, 2, 0); /* Event.step */
    return rc ? rc : put_varint(b, (uint64_t)step);
}

static int put_record(mull_tb *t, const mull_buf *event) {
    unsigned char len[8];
    for (int i = 0; i < 8; i++) len[i] = (unsigned char)((uint64_t)event->len >> 8 * i);
    int rc = mull_buf_add(&t->pending, len, 8);
    if (!rc) rc = put_le(&t->pending, mull_crc32c_masked(len, 8), 4);
    if (!rc) rc = mull_buf_add(&t->pending, event->data, event->len);
    return rc ? rc : put_le(&t->pending, mull_crc32c_masked(event->data, event->len), 4);
}

/* ---- the file ---- */

static void give_up(mull_tb *t) {
    if (t->fd >= 0) close(t->fd);
    t->fd = -1;
    t->pending.len = 0;
}

static int flush(mull_tb *t, mull_error *err) {
    for (size_t at = 0; t->fd >= 0 && at < t->pending.len;) {
        ssize_t n = write(t->fd, t->pending.data + at, t->pending.len - at);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            int rc = mull_fail_errno(err, errno, WHAT, t->path, "free space, or set tensorboard: false");
            give_up(t);
            return rc;
        }
        at += (size_t)n;
    }
    t->pending.len = 0;
    t->flushed = seconds(CLOCK_MONOTONIC);
    return MULL_OK;
}

static int finish(mull_tb *t, int rc, mull_error *err) {
    if (rc) {
        give_up(t);
        return mull_fail(err, MULL_ENOMEM, WHAT, t->path, NULL, "out of memory");
    }
    bool due = t->pending.len >= FLUSH_BYTES || seconds(CLOCK_MONOTONIC) - t->flushed >= FLUSH_S;
    return due ? flush(t, err) : MULL_OK;
}

static int put_start(mull_tb *t, int64_t step) {
    static const char VERSION[] = "brain.Event:2";
    static const unsigned char START[] = {1 << 3 | 0, 1}; /* SessionLog.status = START */
    mull_buf e = {0};
    int rc = put_event_head(&e, 0);
    if (!rc) rc = put_bytes(&e, 3, VERSION, sizeof VERSION - 1); /* Event.file_version */
    if (!rc) rc = put_record(t, &e);
    e.len = 0;
    if (!rc && step > 1) {
        rc = put_event_head(&e, step);
        if (!rc) rc = put_bytes(&e, 7, START, sizeof START); /* Event.session_log */
        if (!rc) rc = put_record(t, &e);
    }
    mull_buf_fini(&e);
    return rc;
}

int mull_tb_open(const char *dir, int64_t step, mull_tb **out, mull_error *err) {
    char host[256] = "host";
    mull_tb *t = calloc(1, sizeof *t);
    *out = NULL;
    if (!t) return mull_fail(err, MULL_ENOMEM, WHAT, dir, NULL, "out of memory");
    t->fd = -1;
    if (gethostname(host, sizeof host - 1)) snprintf(host, sizeof host, "host");
    for (char *p = host; *p; p++)
        if (*p == '/') *p = '_';
    int rc = asprintf(&t->path, "%s/events.out.tfevents.%010lld.%.200s.%ld", dir, (long long)time(NULL), host,
                      (long)getpid()) < 0
                 ? mull_fail(err, MULL_ENOMEM, WHAT, dir, NULL, "out of memory")
                 : MULL_OK;
    if (rc) t->path = NULL;
    if (!rc && mkdir(dir, 0777) && errno != EEXIST) rc = mull_fail_errno(err, errno, WHAT, dir, "check the folder");
    if (!rc && (t->fd = open(t->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666)) < 0)
        rc = mull_fail_errno(err, errno, WHAT, t->path, "check the folder");
    if (!rc && put_start(t, step)) rc = mull_fail(err, MULL_ENOMEM, WHAT, t->path, NULL, "out of memory");
    if (!rc) rc = flush(t, err);
    if (rc)
        mull_tb_close(t);
    else
        *out = t;
    return rc;
}

int mull_tb_scalars(mull_tb *t, int64_t step, const json_t *values, mull_error *err) {
    mull_buf summary = {0}, value = {0}, event = {0};
    const char *key;
    json_t *v;
    int rc = 0;
    if (t->fd < 0) return MULL_OK;
    json_object_foreach((json_t *)(uintptr_t)values, key, v) {
        if (rc || !json_is_number(v)) continue;
        float x = (float)json_number_value(v);
        uint32_t bits;
        memcpy(&bits, &x, 4);
        value.len = 0;
        rc = put_bytes(&value, 1, key, strlen(key)); /* Summary.Value.tag */
        if (!rc) rc = put_tag(&value, 2, 5);         /* .simple_value */
        if (!rc) rc = put_le(&value, bits, 4);
        if (!rc) rc = put_bytes(&summary, 1, value.data, value.len); /* Summary.value */
    }
    if (!rc && summary.len) {
        rc = put_event_head(&event, step);
        if (!rc) rc = put_bytes(&event, 5, summary.data, summary.len); /* Event.summary */
        if (!rc) rc = put_record(t, &event);
    }
    mull_buf_fini(&summary);
    mull_buf_fini(&value);
    mull_buf_fini(&event);
    return finish(t, rc, err);
}

void mull_tb_close(mull_tb *t) {
    if (!t) return;
    flush(t, NULL);
    give_up(t);
    mull_buf_fini(&t->pending);
    free(t->path);
    free(t);
}
