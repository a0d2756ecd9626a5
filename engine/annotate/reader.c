/* Reading rows; see reader.h. The text goes chunk by chunk; a line inside one chunk is handed out where it lies, one
 * that straddles chunks is put together in a buffer. */
#include "engine/annotate/reader.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

enum { CHUNK = 1 << 18 };
static const char *const WHAT = "cannot read the input";

struct mull__reader {
    int fd;             /* -1: from memory */
    const char *memory; /* what is left of it */
    size_t memory_left;
    char name[400];
    struct stat st;
    mull__sha *sha;
    ZSTD_DStream *zstd; /* NULL: plain */
    char *raw;          /* compressed bytes */
    ZSTD_inBuffer in;
    size_t want; /* what the last call of zstd returned: 0 at a frame's end */
    bool raw_end, end;
    char *chunk; /* text */
    size_t len, pos;
    int64_t base; /* offset of chunk[0] in the text */
    int64_t line;
    mull_buf joined;
};

/* Bytes of the file; 0 at its end. */
static ssize_t read_raw(mull__reader *r, char *p, size_t n) {
    ssize_t got;
    if (r->fd < 0) {
        got = (ssize_t)(n < r->memory_left ? n : r->memory_left);
        memcpy(p, r->memory, (size_t)got);
        r->memory += got;
        r->memory_left -= (size_t)got;
        return got;
    }
    do got = read(r->fd, p, n);
    while (got < 0 && errno == EINTR);
    if (got > 0 && r->sha) mull__sha_add(r->sha, p, (size_t)got);
    return got;
}

static int io_error(const mull__reader *r, mull_error *err) {
    return mull_fail_errno(err, errno, WHAT, r->name, "check the file and its disk");
}

static int fill_zstd(mull__reader *r, mull_error *err) {
    ZSTD_outBuffer out = {r->chunk, CHUNK, 0};
    while (out.pos == 0) {
        if (r->in.pos == r->in.size && !r->raw_end) {
            ssize_t got = read_raw(r, r->raw, CHUNK);
            if (got < 0) return io_error(r, err);
            r->raw_end = got == 0;
            r->in = (ZSTD_inBuffer){r->raw, (size_t)got, 0};
        }
        if (r->raw_end && r->want == 0) break;
        size_t before = r->in.pos;
        r->want = ZSTD_decompressStream(r->zstd, &out, &r->in);
        if (ZSTD_isError(r->want))
            return mull_fail(err, MULL_EFORMAT, WHAT, r->name, "make the file again, nothing was annotated twice",
                             "its zstd data is broken: %s", ZSTD_getErrorName(r->want));
        if (r->raw_end && out.pos == 0 && r->in.pos == before)
            return mull_fail(err, MULL_EFORMAT, WHAT, r->name, "copy or make the file again",
                             "its zstd data ends too early");
    }
    r->len = out.pos;
    r->end = out.pos == 0;
    return MULL_OK;
}

static int fill(mull__reader *r, mull_error *err) {
    r->base += (int64_t)r->len;
    r->len = r->pos = 0;
    if (r->zstd) return fill_zstd(r, err);
    ssize_t got = read_raw(r, r->chunk, CHUNK);
    if (got < 0) return io_error(r, err);
    r->len = (size_t)got;
    r->end = got == 0;
    return MULL_OK;
}

/* What the first bytes say; the rest of a file of another kind would be a million errors. */
static int check_kind(mull__reader *r, mull_error *err) {
    const unsigned char *p = (const unsigned char *)r->chunk;
    if (r->len >= 4 && (!memcmp(p, "PAR1", 4)))
        return mull_fail(err, MULL_EUNSUPPORTED, WHAT, r->name, "convert it to JSON lines",
                         "this build does not read Parquet");
    if (r->len >= 2 && p[0] == 0x1f && p[1] == 0x8b)
        return mull_fail(err, MULL_EUNSUPPORTED, WHAT, r->name, "unpack it, or pack it with zstd",
                         "gzip is not supported");
    if (r->len >= 2 && ((p[0] == 0xff && p[1] == 0xfe) || (p[0] == 0xfe && p[1] == 0xff)))
        return mull_fail(err, MULL_EFORMAT, WHAT, r->name, "save it as UTF-8", "it is UTF-16");
    if (r->len >= 3 && !memcmp(p, "\xef\xbb\xbf", 3)) r->pos = 3;
    size_t i = r->pos;
    while (i < r->len && strchr(" \t\r\n", p[i])) i++;
    bool list = i < r->len && p[i] == '[';
    for (i++; list && i < r->len && strchr(" \t\r", p[i]); i++) {
    }
    if (list && i < r->len && p[i] == '\n')
        return mull_fail(err, MULL_EFORMAT, WHAT, r->name, "write one JSON object a line",
                         "it is a JSON list, not JSON lines");
    return MULL_OK;
}

static int begin(mull__reader *r, mull_error *err) {
    r->raw = malloc(CHUNK);
    r->chunk = malloc(CHUNK);
    if (!r->raw || !r->chunk) return mull_fail(err, MULL_ENOMEM, WHAT, r->name, "", "out of memory");
    size_t have = 0;
    for (ssize_t got = 1; have < 4 && got > 0; have += (size_t)got)
        if ((got = read_raw(r, r->raw + have, CHUNK - have)) < 0) return io_error(r, err);
    if (have >= 4 && !memcmp(r->raw, "\x28\xb5\x2f\xfd", 4)) {
        r->zstd = ZSTD_createDStream();
        if (!r->zstd) return mull_fail(err, MULL_ENOMEM, WHAT, r->name, "", "out of memory");
        r->in = (ZSTD_inBuffer){r->raw, have, 0};
        r->want = 1;
        int rc = fill_zstd(r, err);
        if (rc) return rc;
    } else {
        char *t = r->chunk;
        r->chunk = r->raw;
        r->raw = t;
        r->len = have;
        r->end = have == 0;
    }
    return check_kind(r, err);
}

static int start(mull__reader *r, mull__reader **out, mull_error *err) {
    int rc = begin(r, err);
    if (rc)
        mull__reader_close(r);
    else
        *out = r;
    return rc;
}

int mull__reader_open(const char *path, mull__sha *sha, mull__reader **out, mull_error *err) {
    mull__reader *r = calloc(1, sizeof *r);
    *out = NULL;
    if (!r) return mull_fail(err, MULL_ENOMEM, WHAT, path, "", "out of memory");
    snprintf(r->name, sizeof r->name, "%s", path);
    r->sha = sha;
    r->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    int rc = MULL_OK;
    if (r->fd < 0 || fstat(r->fd, &r->st))
        rc = mull_fail_errno(err, errno, WHAT, path, "check the path and its permissions");
    else if (!S_ISREG(r->st.st_mode))
        rc = mull_fail(err, MULL_EARG, WHAT, path, "write the rows to a file: they are read more than once",
                       "it is no regular file");
    if (!rc) return start(r, out, err);
    mull__reader_close(r);
    return rc;
}

int mull__reader_open_bytes(const void *data, size_t n, mull__reader **out, mull_error *err) {
    mull__reader *r = calloc(1, sizeof *r);
    *out = NULL;
    if (!r) return mull_fail(err, MULL_ENOMEM, WHAT, "memory", "", "out of memory");
    r->fd = -1;
    r->memory = data;
    r->memory_left = n;
    return start(r, out, err);
}

void mull__reader_close(mull__reader *r) {
    if (!r) return;
    if (r->fd >= 0) close(r->fd);
    ZSTD_freeDStream(r->zstd);
    free(r->raw);
    free(r->chunk);
    mull_buf_fini(&r->joined);
    free(r);
}

static bool blank(const char *s, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (s[i] != ' ' && s[i] != '\t' && s[i] != '\r') return false;
    return true;
}

/* Adds to the line that straddles chunks, as far as it is kept. */
static int join(mull__reader *r, const char *s, size_t n, mull__line *line, mull_error *err) {
    size_t room = (size_t)MULL_ROW_BYTES_MAX - r->joined.len;
    if (n > room) {
        n = room;
        line->too_long = true;
    }
    return mull_buf_add(&r->joined, s, n) ? mull_fail(err, MULL_ENOMEM, WHAT, r->name, "", "out of memory") : MULL_OK;
}

/* One line, blank or not. */
static int next_line(mull__reader *r, mull__line *line, mull_error *err) {
    int rc;
    if (r->joined.cap > 4 * CHUNK) mull_buf_fini(&r->joined); /* one long row does not hold its memory for good */
    r->joined.len = 0;
    if (r->pos == r->len && !r->end && (rc = fill(r, err))) return rc;
    if (r->end) return 0;
    *line = (mull__line){.number = ++r->line, .offset = r->base + (int64_t)r->pos};
    for (bool straddles = false;; straddles = true) {
        char *s = r->chunk + r->pos, *lf = memchr(s, '\n', r->len - r->pos);
        size_t n = lf ? (size_t)(lf - s) : r->len - r->pos;
        if (lf && !straddles) {
            line->data = s;
            line->len = n;
        } else if ((rc = join(r, s, n, line, err))) {
            return rc;
        }
        r->pos += n + (lf != NULL);
        if (lf && !straddles) break;
        if (!lf && (rc = fill(r, err))) return rc;
        if (lf || r->end) {
            line->data = r->joined.data ? r->joined.data : "";
            line->len = r->joined.len;
            break;
        }
    }
    if (line->len && line->data[line->len - 1] == '\r') line->len--;
    return 1;
}

int mull__reader_next(mull__reader *r, mull__line *line, mull_error *err) {
    int rc;
    while ((rc = next_line(r, line, err)) > 0)
        if (!blank(line->data, line->len)) return 1;
    return rc;
}

int mull__reader_seek(mull__reader *r, int64_t offset, int64_t number, mull_error *err) {
    r->line = number - 1;
    if (!r->zstd && r->fd >= 0) {
        if (lseek(r->fd, (off_t)offset, SEEK_SET) < 0) return io_error(r, err);
        r->base = offset;
        r->len = r->pos = 0;
        r->end = false;
        return MULL_OK;
    }
    while (!r->end && offset > r->base + (int64_t)r->len) {
        int rc = fill(r, err);
        if (rc) return rc;
    }
    if (offset < r->base || offset > r->base + (int64_t)r->len)
        return mull_fail(err, MULL_EINTERNAL, WHAT, r->name, "", "row %lld is not where it was", (long long)number);
    r->pos = (size_t)(offset - r->base);
    return MULL_OK;
}

bool mull__reader_unchanged(const mull__reader *r) {
    struct stat st;
    return r->fd < 0 || (fstat(r->fd, &st) == 0 && st.st_size == r->st.st_size &&
                         st.st_mtim.tv_sec == r->st.st_mtim.tv_sec && st.st_mtim.tv_nsec == r->st.st_mtim.tv_nsec);
}

int64_t mull__reader_file_bytes(const mull__reader *r) {
    return (int64_t)r->st.st_size;
}
