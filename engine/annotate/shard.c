/* See shard.h. */
#include "engine/annotate/shard.h"

#include "engine/annotate/extsort.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HEAD = 48, SUMMED = 40, READ_BUFFER = 1 << 18 };
static const char *const WHAT = "cannot keep answers";

typedef struct record {
    mull__kind kind;
    int64_t row, prompt_tokens, output_tokens, len; /* len: of the line with its end */
    int64_t at;                                     /* of the line in the file */
} record;

static void file_name(int64_t number, const char *what, char out[48]) {
    snprintf(out, 48, "shard-%08lld.%s", (long long)number, what);
}

/* FNV-1a: it is there against torn writes and bad sectors, not against a forger. */
static uint64_t sum(uint64_t h, const void *p, size_t n) {
    const uint8_t *s = p;
    for (size_t i = 0; i < n; i++) h = (h ^ s[i]) * 0x100000001b3u;
    return h;
}
static const uint64_t SUM0 = 0xcbf29ce484222325u;

static void put_head(const record *r, const char *line, size_t n, uint8_t h[HEAD]) {
    memcpy(h, "MSR1", 4);
    memset(h + 4, 0, 4);
    h[4] = (uint8_t)r->kind;
    mull__put64(h + 8, (uint64_t)r->row);
    mull__put64(h + 16, (uint64_t)r->prompt_tokens);
    mull__put64(h + 24, (uint64_t)r->output_tokens);
    mull__put64(h + 32, (uint64_t)n + 1);
    uint64_t s = sum(sum(SUM0, h, SUMMED), line, n);
    mull__put64(h + 40, sum(s, "\n", 1));
}

/* Reads records from the start. take gets each good one; *end is behind the last. Bytes that are no record end it. */
static int scan(int fd, int64_t first, int64_t rows, void (*take)(void *, const record *), void *ctx, int64_t *end,
                mull_error *err) {
    int again = dup(fd), rc = MULL_OK;
    struct stat st;
    FILE *f = again >= 0 && fstat(fd, &st) == 0 && lseek(again, 0, SEEK_SET) == 0 ? fdopen(again, "r") : NULL;
    char *line = NULL;
    size_t cap = 0;
    uint8_t h[HEAD];
    *end = 0;
    if (!f) {
        if (again >= 0) close(again);
        return mull__io_fail(err, errno, WHAT, "shard");
    }
    setvbuf(f, NULL, _IOFBF, READ_BUFFER);
    while (fread(h, 1, HEAD, f) == HEAD) {
        record r = {.kind = (mull__kind)h[4],
                    .row = (int64_t)mull__get64(h + 8),
                    .prompt_tokens = (int64_t)mull__get64(h + 16),
                    .output_tokens = (int64_t)mull__get64(h + 24),
                    .len = (int64_t)mull__get64(h + 32),
                    .at = *end + HEAD};
        if (memcmp(h, "MSR1", 4) || r.row < first || r.row >= first + rows || r.len < 1 || r.len > (1ll << 40)) break;
        if (r.kind != MULL_KIND_OK && r.kind != MULL_KIND_ERROR) break;
        /* A length that a torn head made up must not become an allocation: never more than the file has. */
        if (r.len > (int64_t)st.st_size - r.at) break;
        if ((size_t)r.len > cap) {
            char *p = realloc(line, (size_t)r.len);
            if (!p) {
                rc = mull_fail(err, MULL_ENOMEM, WHAT, "shard", "", "out of memory");
                break;
            }
            line = p;
            cap = (size_t)r.len;
        }
        if (fread(line, 1, (size_t)r.len, f) != (size_t)r.len || line[r.len - 1] != '\n') break;
        if (sum(sum(SUM0, h, SUMMED), line, (size_t)r.len) != mull__get64(h + 40)) break;
        *end = r.at + r.len;
        take(ctx, &r);
    }
    if (ferror(f)) rc = mull__io_fail(err, EIO, WHAT, "shard");
    fclose(f);
    free(line);
    return rc;
}

int mull__shard_complete(int work, int64_t number, mull__counts *counts, mull_error *err) {
    char name[48];
    mull_buf text = {0};
    file_name(number, "done", name);
    int rc = mull__get_file(work, name, 4096, &text, err);
    if (rc == MULL_EMISSING) return 0;
    json_t *o = rc ? NULL : json_loadb(text.data ? text.data : "", text.len, 0, NULL);
    if (o) {
        counts->rows = json_integer_value(json_object_get(o, "rows"));
        counts->ok = json_integer_value(json_object_get(o, "ok"));
        counts->errors = json_integer_value(json_object_get(o, "errors"));
        counts->prompt_tokens = json_integer_value(json_object_get(o, "prompt_tokens"));
        counts->output_tokens = json_integer_value(json_object_get(o, "output_tokens"));
    }
    mull_buf_fini(&text);
    json_decref(o);
    return rc ? rc : o != NULL; /* a marker that cannot be read: done again */
}

static void count(mull__shard *s, const record *r) {
    int64_t i = r->row - s->first;
    if (mull__shard_has(s, r->row)) return;
    s->done[i >> 3] |= (uint8_t)(1 << (i & 7));
    s->counts.rows++;
    s->counts.ok += r->kind == MULL_KIND_OK;
    s->counts.errors += r->kind == MULL_KIND_ERROR;
    s->counts.prompt_tokens += r->prompt_tokens;
    s->counts.output_tokens += r->output_tokens;
}

static void take_row(void *ctx, const record *r) {
    count(ctx, r);
}

int mull__shard_open(int work, int64_t number, int64_t first, int64_t rows, mull__shard **out, mull_error *err) {
    char name[48];
    file_name(number, "rows", name);
    *out = NULL;
    mull__shard *s = calloc(1, sizeof *s);
    if (!s || !(s->done = calloc((size_t)(rows + 7) / 8, 1))) {
        free(s);
        return mull_fail(err, MULL_ENOMEM, WHAT, name, "", "out of memory");
    }
    s->number = number;
    s->lock = -1;
    s->first = first;
    s->rows = rows;
    s->fd = openat(work, name, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    int rc = s->fd < 0 ? mull__io_fail(err, errno, WHAT, name) : scan(s->fd, first, rows, take_row, s, &s->end, err);
    if (!rc && ftruncate(s->fd, (off_t)s->end)) rc = mull__io_fail(err, errno, WHAT, name);
    if (rc)
        mull__shard_close(s);
    else
        *out = s;
    return rc;
}

int mull__shard_append(mull__shard *s, int64_t row, mull__kind kind, int64_t prompt_tokens, int64_t output_tokens,
                       const char *line, size_t n, mull_error *err) {
    record r = {.kind = kind, .row = row, .prompt_tokens = prompt_tokens, .output_tokens = output_tokens};
    uint8_t h[HEAD];
    mull_buf b = {0};
    put_head(&r, line, n, h);
    if (mull_buf_add(&b, h, HEAD) || mull_buf_add(&b, line, n) || mull_buf_add(&b, "\n", 1)) {
        mull_buf_fini(&b);
        return mull_fail(err, MULL_ENOMEM, WHAT, "shard", "", "out of memory");
    }
    int rc = lseek(s->fd, (off_t)s->end, SEEK_SET) < 0 ? errno : mull__write_all(s->fd, b.data, b.len);
    if (!rc) {
        s->end += (int64_t)b.len;
        s->dirty = true;
        count(s, &r);
    } else if (ftruncate(s->fd, (off_t)s->end)) {
        /* The torn record is cut off when the file is opened again. */
    }
    mull_buf_fini(&b);
    if (!rc) return MULL_OK;
    char name[48];
    file_name(s->number, "rows", name);
    return mull__io_fail(err, rc, WHAT, name);
}

int mull__shard_sync(mull__shard *s, mull_error *err) {
    if (!s->dirty) return MULL_OK;
    s->dirty = false;
    return fdatasync(s->fd) ? mull__io_fail(err, errno, WHAT, "shard") : MULL_OK;
}

int mull__shard_finish(mull__shard *s, int work, mull_error *err) {
    char name[48], text[256];
    const mull__counts *c = &s->counts;
    int rc = mull__shard_sync(s, err);
    if (rc) return rc;
    file_name(s->number, "done", name);
    int n = snprintf(text, sizeof text,
                     "{\"rows\":%lld,\"ok\":%lld,\"errors\":%lld,\"prompt_tokens\":%lld,\"output_tokens\":%lld}\n",
                     (long long)c->rows, (long long)c->ok, (long long)c->errors, (long long)c->prompt_tokens,
                     (long long)c->output_tokens);
    return mull__put_file(work, name, text, (size_t)n, err);
}

void mull__shard_close(mull__shard *s) {
    if (!s) return;
    if (s->fd >= 0) close(s->fd);
    if (s->lock >= 0) close(s->lock);
    free(s->done);
    free(s);
}

int mull__shard_claim(int work, int64_t number, int *lock, mull_error *err) {
    char name[48];
    file_name(number, "lock", name);
    *lock = openat(work, name, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (*lock < 0) return mull__io_fail(err, errno, WHAT, name);
    if (flock(*lock, LOCK_EX | LOCK_NB) == 0) return 1;
    int why = errno;
    close(*lock);
    *lock = -1;
    return why == EWOULDBLOCK || why == EINTR ? 0 : mull__io_fail(err, why, WHAT, name);
}

void mull__shard_remove(int work, int64_t number) {
    char name[48];
    file_name(number, "done", name);
    unlinkat(work, name, 0);
    file_name(number, "rows", name);
    unlinkat(work, name, 0);
    file_name(number, "lock", name);
    unlinkat(work, name, 0);
}

/* ---- merging */
typedef struct place {
    int64_t at, len; /* 0, 0: not there */
    mull__kind kind;
} place;

typedef struct places {
    place *at;
    int64_t first, have;
} places;

static void take_place(void *ctx, const record *r) {
    places *x = ctx;
    place *p = &x->at[r->row - x->first];
    if (p->len) return; /* the first counts, as when it was written */
    *p = (place){r->at, r->len, r->kind};
    x->have++;
}

static int copy(int fd, const place *p, mull__sink *to, char *buf, size_t cap, mull_error *err) {
    for (int64_t done = 0; done < p->len;) {
        size_t n = (uint64_t)(p->len - done) < cap ? (size_t)(p->len - done) : cap;
        ssize_t got = pread(fd, buf, n, (off_t)(p->at + done));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return mull__io_fail(err, got < 0 ? errno : EIO, "cannot merge the answers", "shard");
        int rc = mull__sink_add(to, buf, (size_t)got, err);
        if (rc) return rc;
        done += got;
    }
    return MULL_OK;
}

int mull__shard_merge(int work, int64_t number, int64_t first, int64_t rows, mull__sink *ok, mull__sink *bad,
                      mull_error *err) {
    char name[48];
    file_name(number, "rows", name);
    places x = {.at = calloc((size_t)rows, sizeof *x.at), .first = first};
    char *buf = malloc(READ_BUFFER);
    int64_t end;
    int rc = x.at && buf ? MULL_OK : mull_fail(err, MULL_ENOMEM, "cannot merge the answers", name, "", "out of memory");
    int fd = rc ? -1 : openat(work, name, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) rc = scan(fd, first, rows, take_place, &x, &end, err);
    if (!rc && (fd < 0 || x.have != rows)) {
        char done[48];
        file_name(number, "done", done);
        unlinkat(work, done, 0);
        rc = mull_fail(err, MULL_EFORMAT, "cannot merge the answers", name, "start it again: its rows are redone",
                       "%lld of its %lld rows can be read", (long long)x.have, (long long)rows);
    }
    for (int64_t i = 0; i < rows && !rc; i++)
        rc = copy(fd, &x.at[i], x.at[i].kind == MULL_KIND_OK ? ok : bad, buf, READ_BUFFER, err);
    if (fd >= 0) close(fd);
    free(buf);
    free(x.at);
    return rc;
}
