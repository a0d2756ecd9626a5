/* Finding rows in a JSON array or in JSON lines without parsing them: the scan follows strings and brackets only, in
 * chunks, and notes where each row lies. A row whose inside is wrong therefore costs that row alone. */
#include "engine/data/json_rows.h"

#include "engine/core/buf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

static const char what[] = "cannot read JSON rows";
enum { CHUNK = 256 * 1024, ROW_MAX = 256 * 1024 * 1024 };

struct mull_json_rows {
    char *name;
    int fd; /* -1: data */
    const char *data;
    int64_t size;
    int64_t *at;   /* [n] offset */
    uint32_t *len; /* [n] bytes, ROW_MAX + 1 for anything longer */
    int64_t n, cap;
};

static bool blank(char c) {
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

/* Up to CHUNK bytes from offset; *p points to them (into buf, or into the memory). */
static int fetch(const mull_json_rows *r, int64_t at, size_t want, char *buf, const char **p, size_t *got,
                 mull_error *err) {
    if ((int64_t)want > r->size - at) want = (size_t)(r->size - at);
    *got = want;
    if (r->fd < 0) {
        *p = r->data + at;
        return MULL_OK;
    }
    *p = buf;
    for (size_t n = 0; n < want;) {
        ssize_t k = pread(r->fd, buf + n, want - n, (off_t)(at + (int64_t)n));
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) return mull_fail_errno(err, errno, what, r->name, NULL);
        if (!k) return mull_fail(err, MULL_EFORMAT, what, r->name, "start again", "the file became shorter");
        n += (size_t)k;
    }
    return MULL_OK;
}

/* The line of an offset, by counting; only on errors. */
static long long line_of(const mull_json_rows *r, int64_t offset, char *buf) {
    long long line = 1;
    for (int64_t at = 0; at < offset;) {
        const char *p;
        size_t n, want = (size_t)(offset - at < CHUNK ? offset - at : CHUNK);
        if (fetch(r, at, want, buf, &p, &n, NULL) || !n) break;
        for (const char *q = p; (q = memchr(q, '\n', (size_t)(p + n - q))); q++) line++;
        at += (int64_t)n;
    }
    return line;
}

static int broken(const mull_json_rows *r, int64_t offset, char *buf, const char *why, mull_error *err) {
    char where[512];
    snprintf(where, sizeof where, "%.400s, line %lld", r->name, line_of(r, offset, buf));
    return mull_fail(err, MULL_EFORMAT, what, where, "correct or fetch the file again", "%s", why);
}

static int add(mull_json_rows *r, int64_t at, int64_t end) {
    if (r->n == r->cap) {
        int64_t cap = r->cap ? r->cap * 2 : 1024;
        int64_t *a = realloc(r->at, (size_t)cap * sizeof *a);
        if (!a) return MULL_ENOMEM;
        r->at = a;
        uint32_t *l = realloc(r->len, (size_t)cap * sizeof *l);
        if (!l) return MULL_ENOMEM;
        r->len = l;
        r->cap = cap;
    }
    r->at[r->n] = at;
    r->len[r->n++] = end - at > ROW_MAX ? (uint32_t)ROW_MAX + 1 : (uint32_t)(end - at);
    return MULL_OK;
}

/* Where the scan of an array stands between two bytes. */
typedef struct scan {
    bool string, escape;
    int64_t string_at; /* where the open string began */
    int64_t depth;     /* brackets open, the array's own included; -1 before it, 0 behind it */
    int64_t row;       /* where the row began, -1: between rows */
    int64_t last;      /* behind the row's last byte that is not blank */
    bool comma;        /* a row must follow */
} scan;

/* One byte outside strings at offset o. */
static int step(mull_json_rows *r, scan *s, char c, int64_t o, char *buf, mull_error *err) {
    int rc = MULL_OK;
    if (blank(c)) return MULL_OK;
    if (s->depth < 0) {
        s->depth = 1;
        return c == '[' ? MULL_OK : broken(r, o, buf, "the file does not begin with '['", err);
    }
    if (s->depth == 0) return broken(r, o, buf, "text follows the end of the array", err);
    if (s->depth == 1 && (c == ',' || c == ']')) {
        if (s->row >= 0)
            rc = add(r, s->row, s->last);
        else if (c == ',' || s->comma)
            return broken(r, o, buf, "a value is missing between two commas or before the end", err);
        s->row = -1;
        s->comma = c == ',';
        s->depth -= c == ']';
        return rc ? mull_fail(err, rc, what, r->name, NULL, "out of memory") : MULL_OK;
    }
    if (s->row < 0) s->row = o;
    s->last = o + 1;
    if (c == '"') {
        s->string = true;
        s->string_at = o;
    } else if (c == '[' || c == '{') {
        s->depth++;
    } else if (c == ']' || c == '}') {
        /* A bracket too many inside a row would end the array's own level. */
        if (s->depth == 1) return broken(r, o, buf, "a bracket closes that was not opened", err);
        s->depth--;
    }
    return MULL_OK;
}

static int scan_array(mull_json_rows *r, int64_t from, char *buf, mull_error *err) {
    scan s = {.depth = -1, .row = -1};
    int rc = MULL_OK;
    for (int64_t at = from; !rc && at < r->size;) {
        const char *p;
        size_t n;
        rc = fetch(r, at, CHUNK, buf, &p, &n, err);
        const char *stop = NULL; /* the next quote, from where it was last looked for */
        for (size_t i = 0; !rc && i < n; i++) {
            if (s.string && !s.escape) { /* on to what ends or escapes; most of a file is inside strings */
                if (!stop || stop < p + i) {
                    stop = memchr(p + i, '"', n - i);
                    if (!stop) stop = p + n;
                }
                const char *back = memchr(p + i, '\\', (size_t)(stop - (p + i)));
                i = (size_t)((back ? back : stop) - p);
                if (i == n) break;
            }
            if (!s.string) {
                rc = step(r, &s, p[i], at + (int64_t)i, buf, err);
                if (rc) return rc; /* buf was used for counting lines */
            } else if (s.escape) {
                s.escape = false;
            } else if (p[i] == '\\') {
                s.escape = true;
            } else if (p[i] == '"') {
                s.string = false;
                s.last = at + (int64_t)i + 1;
            }
        }
        at += (int64_t)n;
    }
    if (rc) return rc;
    if (s.string) return broken(r, s.string_at, buf, "a string that begins here never ends", err);
    if (s.depth) return broken(r, r->size, buf, s.depth < 0 ? "the file is empty" : "the array never ends", err);
    return MULL_OK;
}

static int scan_lines(mull_json_rows *r, int64_t from, char *buf, mull_error *err) {
    int64_t row = from;
    bool text = false;
    int rc = MULL_OK;
    for (int64_t at = from; !rc && at < r->size;) {
        const char *p;
        size_t n;
        rc = fetch(r, at, CHUNK, buf, &p, &n, err);
        for (size_t i = 0; !rc && i < n; i++) {
            if (p[i] != '\n') {
                text |= !blank(p[i]);
                continue;
            }
            if (text && add(r, row, at + (int64_t)i))
                rc = mull_fail(err, MULL_ENOMEM, what, r->name, NULL, "out of memory");
            row = at + (int64_t)i + 1;
            text = false;
        }
        at += (int64_t)n;
    }
    if (!rc && text && add(r, row, r->size)) rc = mull_fail(err, MULL_ENOMEM, what, r->name, NULL, "out of memory");
    return rc;
}

static int index_rows(mull_json_rows *r, mull_error *err) {
    char *buf = malloc(CHUNK);
    if (!buf) return mull_fail(err, MULL_ENOMEM, what, r->name, NULL, "out of memory");
    const char *p;
    size_t n;
    int rc = fetch(r, 0, CHUNK, buf, &p, &n, err);
    size_t bom = !rc && n >= 3 && !memcmp(p, "\xef\xbb\xbf", 3) ? 3 : 0, i = bom;
    const char *dot = strrchr(r->name, '.');
    while (!rc && i < n && blank(p[i])) i++;
    bool array = !rc && i < n && p[i] == '[' && !(dot && !strcasecmp(dot, ".jsonl"));
    if (!rc) rc = array ? scan_array(r, (int64_t)bom, buf, err) : scan_lines(r, (int64_t)bom, buf, err);
    free(buf);
    return rc;
}

static int create(const char *name, mull_json_rows **out, mull_error *err) {
    *out = calloc(1, sizeof **out);
    if (*out) (*out)->name = strdup(name);
    if (*out && (*out)->name) {
        (*out)->fd = -1;
        return MULL_OK;
    }
    free(*out);
    *out = NULL;
    return mull_fail(err, MULL_ENOMEM, what, name, NULL, "out of memory");
}

int mull_json_rows_from_bytes(const void *data, size_t len, const char *name, mull_json_rows **out, mull_error *err) {
    int rc = create(name, out, err);
    if (rc) return rc;
    (*out)->data = data;
    (*out)->size = (int64_t)len;
    rc = index_rows(*out, err);
    if (!rc) return MULL_OK;
    mull_json_rows_close(*out);
    *out = NULL;
    return rc;
}

int mull_json_rows_open(const char *path, mull_json_rows **out, mull_error *err) {
    struct stat st;
    int rc = create(path, out, err);
    if (rc) return rc;
    mull_json_rows *r = *out;
    r->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (r->fd < 0 || fstat(r->fd, &st))
        rc = mull_fail_errno(err, errno, what, path, "check the path and its permissions");
    else if (!S_ISREG(st.st_mode))
        rc = mull_fail(err, MULL_EFORMAT, what, path, "give the JSON file itself", "it is not a regular file");
    if (!rc) {
        r->size = (int64_t)st.st_size;
        rc = index_rows(r, err);
    }
    if (!rc) return MULL_OK;
    mull_json_rows_close(r);
    *out = NULL;
    return rc;
}

void mull_json_rows_close(mull_json_rows *r) {
    if (!r) return;
    if (r->fd >= 0) close(r->fd);
    free(r->name);
    free(r->at);
    free(r->len);
    free(r);
}

int64_t mull_json_rows_count(const mull_json_rows *r) {
    return r->n;
}

int mull_json_rows_get(const mull_json_rows *r, int64_t i, json_t **out, mull_error *err) {
    char where[512];
    *out = NULL;
    snprintf(where, sizeof where, "%.400s, row %lld", r->name, (long long)i);
    if (i < 0 || i >= r->n) return mull_fail(err, MULL_EARG, what, where, NULL, "there is no such row");
    if (r->len[i] > ROW_MAX) return mull_fail(err, MULL_ELIMIT, what, where, NULL, "the row is longer than 256 MiB");
    char *buf = r->fd < 0 ? NULL : malloc(r->len[i] + 1u);
    const char *p;
    size_t n;
    if (r->fd >= 0 && !buf) return mull_fail(err, MULL_ENOMEM, what, where, NULL, "out of memory");
    int rc = fetch(r, r->at[i], r->len[i], buf, &p, &n, err);
    json_error_t je;
    if (!rc) *out = json_loadb(p, n, JSON_ALLOW_NUL | JSON_DECODE_ANY, &je);
    free(buf);
    if (!rc && !*out) rc = mull_fail(err, MULL_EFORMAT, what, where, "correct the row", "it is not JSON: %s", je.text);
    return rc;
}
