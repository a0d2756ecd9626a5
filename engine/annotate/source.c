/* See source.h. A request is written anew each time it is asked for, so that reading twice gives the same bytes. */
#include "engine/annotate/source.h"

#include "engine/annotate/template.h"
#include "engine/data/parquet.h"
#include "engine/job/events.h"

#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct mull__source {
    mull__reader *in; /* or */
    mull_parquet *parquet;
    struct stat st;             /* of the Parquet file */
    int fd;                     /* of it, to see changes; -1 */
    int64_t next;               /* its next row */
    mull__templates *templates; /* NULL: rows are requests */
    size_t turn;                /* of the templates, for the row that was read last */
    json_t *columns;            /* that row, NULL: it is no object */
    mull__line row;
    char *text; /* the request that was handed out */
    char problem[400];
};

static int memory(mull_error *err) {
    return mull_fail(err, MULL_ENOMEM, "cannot read the input", "", "", "out of memory");
}

/* ---- Parquet to JSON */

static json_t *cell_json(const mull_cell *c, bool medium);

static json_t *list_json(const mull_cell *c, bool medium) {
    json_t *o = json_array();
    for (size_t i = 0; o && i < c->n; i++)
        if (json_array_append_new(o, cell_json(&c->items[i], medium))) {
            json_decref(o);
            return NULL;
        }
    return o;
}

/* Fields that are null are left out: a list of structs has every field in every item. */
static json_t *struct_json(const mull_cell *c) {
    json_t *o = json_object();
    for (size_t i = 0; o && i < c->n; i++) {
        if (c->items[i].kind == MULL_CELL_NULL) continue;
        if (json_object_set_new(o, c->items[i].name, cell_json(&c->items[i], true))) {
            json_decref(o);
            return NULL;
        }
    }
    return o;
}

static json_t *cell_json(const mull_cell *c, bool medium) {
    switch (c->kind) {
    case MULL_CELL_BOOL:
        return json_boolean(c->i);
    case MULL_CELL_INT:
        return json_integer((json_int_t)c->i);
    case MULL_CELL_REAL:
        return isfinite(c->real) ? json_real(c->real) : json_null(); /* NaN is no JSON */
    case MULL_CELL_TEXT:
        return mull_json_text(c->data, c->len);
    case MULL_CELL_BYTES:
        return medium ? mull__data_url(c->data, c->len) : json_null();
    case MULL_CELL_LIST:
        return list_json(c, medium);
    case MULL_CELL_STRUCT:
        return struct_json(c);
    default:
        return json_null();
    }
}

static int read_parquet(mull__source *s, mull_error *err) {
    mull_row row = {0};
    if (s->next >= mull_parquet_rows(s->parquet)) return 0;
    int rc = mull_parquet_read(s->parquet, s->next, &row, err);
    if (rc) return rc;
    json_decref(s->columns);
    s->columns = json_object();
    for (size_t i = 0; s->columns && i < row.top.n; i++) {
        const mull_cell *c = &row.top.items[i];
        if (json_object_set_new(s->columns, c->name, cell_json(c, true))) {
            json_decref(s->columns);
            s->columns = NULL;
        }
    }
    mull_row_free(&row);
    if (!s->columns) return memory(err);
    s->row = (mull__line){.offset = s->next, .number = s->next + 1};
    s->next++;
    return 1;
}

/* ---- opening */

static bool is_parquet(const char *path) {
    char magic[4] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    bool yes = fd >= 0 && read(fd, magic, 4) == 4 && !memcmp(magic, "PAR1", 4);
    if (fd >= 0) close(fd);
    return yes;
}

static int open_parquet(mull__source *s, const char *path, mull_error *err) {
    const char *names[MULL__TEMPLATE_COLUMNS];
    size_t n = s->templates ? mull__templates_columns(s->templates, names) : 0;
    s->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (s->fd < 0 || fstat(s->fd, &s->st))
        return mull_fail(err, MULL_EIO, "cannot read the input", path, "check the path", "it cannot be opened");
    return mull_parquet_open(path, n ? names : NULL, n, &s->parquet, err);
}

int mull__source_open(const char *path, const mull_job *job, mull__sha *sha, mull__source **out, mull_error *err) {
    mull__source *s = *out = calloc(1, sizeof *s);
    if (!s) return memory(err);
    s->fd = -1;
    int rc = mull__templates_create(job, &s->templates, err);
    if (!rc) {
        if (mull_parquet_available() && is_parquet(path))
            rc = open_parquet(s, path, err);
        else
            rc = mull__reader_open(path, sha, &s->in, err);
    }
    if (!rc) return MULL_OK;
    mull__source_close(s);
    *out = NULL;
    return rc;
}

void mull__source_close(mull__source *s) {
    if (!s) return;
    mull__reader_close(s->in);
    mull_parquet_close(s->parquet);
    if (s->fd >= 0) close(s->fd);
    mull__templates_destroy(s->templates);
    json_decref(s->columns);
    free(s->text);
    free(s);
}

bool mull__source_hashes(const mull__source *s) {
    return s->in != NULL;
}

/* ---- requests */

/* 1: s->row (and, for templates and Parquet, s->columns) is the next row. */
static int read_row(mull__source *s, mull_error *err) {
    if (s->parquet) return read_parquet(s, err);
    int rc = mull__reader_next(s->in, &s->row, err);
    if (rc <= 0 || !s->templates) return rc;
    json_decref(s->columns);
    json_error_t why;
    s->columns = s->row.too_long ? NULL : json_loadb(s->row.data, s->row.len, JSON_ALLOW_NUL, &why);
    if (!json_is_object(s->columns)) {
        json_decref(s->columns);
        s->columns = NULL;
    }
    return rc;
}

int mull__source_next(mull__source *s, mull__line *line, mull_error *err) {
    if (s->turn == 0) {
        int rc = read_row(s, err);
        if (rc <= 0) return rc;
    }
    *line = s->row;
    if (s->templates) {
        size_t turn = s->turn;
        s->turn = (turn + 1) % mull__templates_count(s->templates);
        if (!s->columns) return 1; /* no object: what reads requests says what it is instead */
        free(s->text);
        int rc = mull__templates_render(s->templates, turn, s->columns, &s->text, s->problem, sizeof s->problem, err);
        if (rc < 0) return rc;
        if (rc == 0) line->problem = s->problem;
    } else if (s->parquet) {
        free(s->text);
        s->text = json_dumps(s->columns, JSON_COMPACT);
    } else {
        return 1;
    }
    if (!s->text) return memory(err);
    line->data = s->text;
    line->len = strlen(s->text);
    return 1;
}

int mull__source_seek(mull__source *s, int64_t row, int64_t offset, int64_t number, mull_error *err) {
    size_t turn = s->templates ? (size_t)(row % (int64_t)mull__templates_count(s->templates)) : 0;
    int rc = MULL_OK;
    s->turn = 0;
    if (s->parquet)
        s->next = offset;
    else
        rc = mull__reader_seek(s->in, offset, number, err);
    if (rc || turn == 0) return rc;
    rc = read_row(s, err);
    if (rc == 0)
        return mull_fail(err, MULL_EINTERNAL, "cannot read the input", "", "", "row %lld is not there", (long long)row);
    s->turn = turn;
    return rc < 0 ? rc : MULL_OK;
}

bool mull__source_unchanged(const mull__source *s) {
    struct stat st;
    if (s->in) return mull__reader_unchanged(s->in);
    return fstat(s->fd, &st) == 0 && st.st_size == s->st.st_size && st.st_mtim.tv_sec == s->st.st_mtim.tv_sec &&
           st.st_mtim.tv_nsec == s->st.st_mtim.tv_nsec;
}
