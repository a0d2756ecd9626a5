/* POST /v1/files and what one does with a file: uploads stream to the disk as they come, downloads from it.
 *
 * An upload is one thing at a time: it waits for who is asking, for a folder and a file to be made, for each full
 * buffer to be written (while the connection is not read), at the end for fsync and rename and for the row in
 * PostgreSQL; only then is it acknowledged. All work on the disk is done by libuv's threads. What breaks off leaves
 * nothing but a temporary file, which is removed. */
#include "scheduler/files.h"

#include "schema/event_line.h"
#include "schema/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PIECE = 256 << 10, FIRST_LINE_MAX = 64 << 20, NAME_BYTES = 256, SLACK = 64 << 10 };

void mull__random_id(const char *prefix, char out[MULL_API_ID]) {
    uint8_t r[12];
    if (getrandom(r, sizeof r, 0) != (ssize_t)sizeof r) abort(); /* never for so few bytes */
    int n = snprintf(out, MULL_API_ID, "%s", prefix);
    for (size_t i = 0; i < sizeof r; i++) n += snprintf(out + n, (size_t)(MULL_API_ID - n), "%02x", r[i]);
}

/* A folder's name for a team: letters, digits, _ and - as they are, other bytes as %XX. */
static void folder_of(const char *team, char *out, size_t cap) {
    size_t n = 0;
    for (; *team && n + 4 < cap; team++)
        n += (size_t)snprintf(out + n, cap - n,
                              strchr("_-", *team) || (*team >= '0' && *team <= '9') || (*team >= 'a' && *team <= 'z') ||
                                      (*team >= 'A' && *team <= 'Z')
                                  ? "%c"
                                  : "%%%02X",
                              (unsigned char)*team);
    out[n] = '\0';
}

/* ---- uploads ---- */

typedef enum step { OPEN, WRITE, FINISH, REMOVE } step;

struct mull_upload {
    mull_front *front;
    mull_req *req; /* NULL: the request is no more */
    uv_work_t work;
    step step;
    bool busy;      /* a thread or the database has it */
    int fd, failed; /* errno */
    char id[MULL_API_ID], dir[1200], path[1400], temp[1420];
    char purpose[64], filename[NAME_BYTES];
    bool has_file;
    char *buf;
    size_t len;
    uint64_t bytes;
    char *model; /* of the first line */
};

static void upload_free(struct mull_upload *u) {
    free(u->buf);
    free(u->model);
    free(u);
}

static int write_all(int fd, const char *p, size_t n) {
    while (n) {
        ssize_t w = write(fd, p, n);
        if (w < 0 && errno == EINTR) continue;
        if (w <= 0) return w < 0 ? errno : ENOSPC;
        p += w;
        n -= (size_t)w;
    }
    return 0;
}

/* The model that the first request of a batch file names; NULL when it is no such file. */
static char *model_of(const char *path) {
    FILE *f = fopen(path, "re");
    char *line = NULL, *out = NULL;
    size_t cap = 0;
    ssize_t n = f ? getline(&line, &cap, f) : -1;
    json_t *o = n > 0 && n <= FIRST_LINE_MAX ? json_loadb(line, (size_t)n, 0, NULL) : NULL;
    const json_t *body = json_object_get(o, "body");
    const char *model = json_string_value(json_object_get(body ? body : o, "model"));
    if (model && strlen(model) < 1000) out = strdup(model);
    json_decref(o);
    free(line);
    if (f) fclose(f);
    return out;
}

static int finish_on_disk(struct mull_upload *u) {
    int rc = write_all(u->fd, u->buf, u->len);
    if (!rc && fsync(u->fd)) rc = errno;
    if (close(u->fd) && !rc) rc = errno;
    u->fd = -1;
    if (!rc && !strcmp(u->purpose, "batch")) u->model = model_of(u->temp);
    if (!rc && rename(u->temp, u->path)) rc = errno;
    int dir = rc ? -1 : open(u->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (!rc && (dir < 0 || fsync(dir))) rc = errno;
    if (dir >= 0) close(dir);
    return rc;
}

static void work(uv_work_t *w) {
    struct mull_upload *u = w->data;
    switch (u->step) {
    case OPEN:
        if (mkdir(u->front->cfg.files, 0700) && errno != EEXIST) u->failed = errno;
        if (!u->failed && mkdir(u->dir, 0700) && errno != EEXIST) u->failed = errno;
        if (!u->failed && (u->fd = open(u->temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600)) < 0) u->failed = errno;
        break;
    case WRITE:
        u->failed = write_all(u->fd, u->buf, u->len);
        break;
    case FINISH:
        u->failed = finish_on_disk(u);
        break;
    case REMOVE:
        if (u->fd >= 0) close(u->fd);
        unlink(u->temp);
        break;
    }
}

static void on_work(uv_work_t *w, int status);

static void start(struct mull_upload *u, step s) {
    u->step = s;
    u->work.data = u;
    u->busy = true;
    uv_queue_work(u->front->cfg.loop, &u->work, work, on_work); /* fails only for a NULL function */
}

static void refuse(struct mull_upload *u) {
    bool full = u->failed == ENOSPC || u->failed == EDQUOT || u->failed == EFBIG;
    if (full)
        mull_reply_error(u->req, 507, "no_space", "the server's disk is full; nothing was kept");
    else
        mull_reply_error(u->req, 500, "internal", "the server cannot keep files: %s", strerror(u->failed));
}

static void on_added(const mull_pg_reply *r, void *arg) {
    struct mull_upload *u = arg;
    u->busy = false;
    if (r->status != MULL_PG_OK) {
        /* Lost in the middle it may have been recorded or not: the file stays, a stray costs only room. */
        if (r->status == MULL_PG_ERROR) unlink(u->path);
        if (u->req) mull__front_failed(u->req, r);
    } else if (u->req) {
        size_t n = (size_t)PQgetlength(r->res, 0, 0);
        char *body = strndup(PQgetvalue(r->res, 0, 0), n);
        if (body)
            mull_reply(u->req, 200, "application/json", body, n);
        else
            mull_reply_error(u->req, 503, "unavailable", "the server is out of memory; try again");
    }
    if (!u->req) upload_free(u);
}

static void add_row(struct mull_upload *u) {
    const mull_identity *who = mull_req_who(u->req);
    char bytes[24];
    snprintf(bytes, sizeof bytes, "%" PRIu64, u->bytes);
    const char *params[] = {
        u->id, who->team[0] ? who->team : "default", who->user, u->purpose, u->filename, bytes, u->path, u->model};
    u->busy = true;
    mull__query(u->front, who, "SELECT mull_file_add($1, $2, $3, $4, $5, $6::bigint, $7, $8)", 8, params, on_added, u);
}

static void on_work(uv_work_t *w, int status) {
    (void)status;
    struct mull_upload *u = w->data;
    u->busy = false;
    if (u->step == REMOVE) {
        upload_free(u);
    } else if (!u->req) {
        start(u, REMOVE);
    } else if (u->step == FINISH && u->failed) {
        refuse(u);
    } else if (u->step == FINISH) {
        add_row(u);
    } else {
        u->len = 0;
        mull_req_go(u->req);
    }
}

/* Authenticated: the body may come. */
static void upload_ready(mull_front *f, mull_req *req) {
    if (!mull__may(req)) return;
    struct mull_upload *u = calloc(1, sizeof *u);
    if (!u || !(u->buf = malloc(PIECE))) {
        free(u);
        mull_reply_error(req, 503, "unavailable", "the server is out of memory; try again");
        return;
    }
    char team[200];
    const mull_identity *who = mull_req_who(req);
    u->front = f;
    u->req = req;
    u->fd = -1;
    mull__random_id("file-", u->id);
    folder_of(who->team[0] ? who->team : "default", team, sizeof team);
    snprintf(u->dir, sizeof u->dir, "%s/%s", f->cfg.files, team);
    snprintf(u->path, sizeof u->path, "%s/%s.jsonl", u->dir, u->id);
    snprintf(u->temp, sizeof u->temp, "%s/.%s.tmp", u->dir, u->id);
    ((mull_ask *)mull_req_user(req))->upload = u;
    start(u, OPEN);
}

static void keep_text(char *to, size_t cap, const char *data, uint64_t offset, size_t n) {
    size_t at = strlen(to);
    if (offset == 0) at = 0;
    if (n > cap - 1 - at) n = cap - 1 - at;
    memcpy(to + at, data, n);
    to[at + n] = '\0';
}

static void on_part(mull_req *req, const char *name, const char *filename, const char *data, uint64_t offset, size_t n,
                    void *front) {
    (void)front;
    struct mull_upload *u = ((mull_ask *)mull_req_user(req))->upload;
    if (!u || u->failed) return;
    if (!strcmp(name, "purpose")) {
        keep_text(u->purpose, sizeof u->purpose, data, offset, n);
    } else if (!strcmp(name, "file")) {
        if (!u->has_file) snprintf(u->filename, sizeof u->filename, "%s", filename && *filename ? filename : u->id);
        u->has_file = true;
        u->bytes += n;
        /* A piece is at most what the server reads at once; the buffer is emptied between pieces, so it fits. */
        if (u->len + n > PIECE) {
            u->failed = EOVERFLOW;
            return;
        }
        memcpy(u->buf + u->len, data, n);
        u->len += n;
    }
}

/* After every piece that the server read: a buffer that is nearly full goes to the disk first. */
static void on_read(mull_req *req) {
    struct mull_upload *u = ((mull_ask *)mull_req_user(req))->upload;
    if (!u || u->failed || u->busy || u->len < PIECE - SLACK) return;
    mull_req_wait(req);
    start(u, WRITE);
}

void mull__upload_begin(mull_front *f, mull_req *req) {
    if (!f->cfg.files) return;
    mull_req_form(req, f->cfg.max_upload + SLACK, on_part, on_read);
    mull_req_wait(req);
    mull__authenticate(f, req, upload_ready);
}

void mull__upload_gone(mull_req *req) {
    struct mull_upload *u = ((mull_ask *)mull_req_user(req))->upload;
    if (!u) return;
    u->req = NULL;
    if (!u->busy) start(u, REMOVE);
}

static bool known_purpose(const char *purpose) {
    static const char *const WORDS[] = {"batch", "user_data", "vision", "evals", "fine-tune", "assistants"};
    for (size_t i = 0; i < sizeof WORDS / sizeof *WORDS; i++)
        if (!strcmp(purpose, WORDS[i])) return true;
    return false;
}

void mull__upload(mull_front *f, mull_req *req) {
    struct mull_upload *u = ((mull_ask *)mull_req_user(req))->upload;
    if (!f->cfg.files)
        mull_reply_error(req, 501, "not_available", "this server keeps no files; start it with --files DIR");
    else if (!u)
        mull_reply_error(req, 503, "unavailable", "the server is out of memory; try again");
    else if (u->failed)
        refuse(u);
    else if (!u->has_file)
        mull_reply_error(req, 400, "missing_file", "the form has no field 'file'");
    else if (!known_purpose(u->purpose))
        mull_reply_error(req, 400, "bad_purpose",
                         "'%.40s' is no purpose; one of batch, user_data, vision, evals, "
                         "fine-tune, assistants",
                         u->purpose);
    else if (u->bytes > f->cfg.max_upload)
        mull_reply_error(req, 413, "too_large", "a file may have %" PRIu64 " bytes", f->cfg.max_upload);
    else if (mull_utf8_check(u->filename) != 0)
        mull_reply_error(req, 400, "bad_name", "the file's name is no UTF-8");
    else
        start(u, FINISH);
}

/* ---- downloads ---- */

typedef struct download {
    mull_front *front;
    mull_req *req;
    mull_stream *stream;
    uv_fs_t fs;
    uv_buf_t buf;
    char path[1500];
    int fd;
    int64_t at;
    bool busy, closed;
    char bytes[64 << 10];
} download;

static void download_free(download *d) {
    if (d->fd >= 0) close(d->fd);
    free(d);
}

static void on_bytes(uv_fs_t *fs) {
    download *d = fs->data;
    ssize_t n = fs->result;
    uv_fs_req_cleanup(fs);
    d->busy = false;
    if (d->closed) {
        download_free(d);
    } else if (n <= 0) {
        if (n < 0) mull_log(MULL_LOG_ERROR, "cannot read %s: %s", d->path, uv_strerror((int)n));
        mull_stream_end(d->stream);
    } else {
        d->at += n;
        mull_stream_write(d->stream, d->bytes, (size_t)n);
    }
}

static void on_idle(mull_stream *s, void *arg) {
    (void)s;
    download *d = arg;
    if (d->busy || d->closed) return;
    d->fs.data = d;
    d->buf = uv_buf_init(d->bytes, sizeof d->bytes);
    d->busy = uv_fs_read(d->front->cfg.loop, &d->fs, d->fd, &d->buf, 1, d->at, on_bytes) == 0;
    if (!d->busy) mull_stream_end(d->stream);
}

static void on_close(mull_stream *s, void *arg) {
    (void)s;
    download *d = arg;
    d->closed = true;
    if (!d->busy) download_free(d);
}

static void on_open(uv_fs_t *fs) {
    download *d = fs->data;
    mull_req *req = d->req;
    d->fd = (int)fs->result;
    uv_fs_req_cleanup(fs);
    if (d->fd < 0) {
        mull_reply_error(req, 410, "gone", "the server no longer has the content: %s", uv_strerror(d->fd));
        d->fd = -1;
        download_free(d);
        return;
    }
    d->stream = mull_reply_stream(req, "application/octet-stream", on_idle, on_close, d);
    if (!d->stream) download_free(d);
}

static void on_path(const mull_pg_reply *r, void *arg) {
    download *d = arg;
    if (mull__front_failed(d->req, r)) {
        free(d);
        return;
    }
    if (PQntuples(r->res) == 0) {
        mull_reply_error(d->req, 404, "not_found", "no file %s", mull_req_route(d->req)->name);
        free(d);
        return;
    }
    snprintf(d->path, sizeof d->path, "%s", PQgetvalue(r->res, 0, 0));
    d->fs.data = d;
    if (uv_fs_open(d->front->cfg.loop, &d->fs, d->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW, 0, on_open) != 0) {
        mull_reply_error(d->req, 503, "unavailable", "the server is out of memory; try again");
        free(d);
    }
}

void mull__file_content(mull_front *f, mull_req *req) {
    download *d = calloc(1, sizeof *d);
    if (!d) {
        mull_reply_error(req, 503, "unavailable", "the server is out of memory; try again");
        return;
    }
    d->front = f;
    d->req = req;
    d->fd = -1;
    const char *params[] = {mull_req_route(req)->name, mull_req_who(req)->team};
    mull__query(f, mull_req_who(req), "SELECT path FROM mull_file_path($1, $2)", 2, params, on_path, d);
}

/* ---- the rest ---- */

typedef struct deletion {
    mull_front *front;
    mull_req *req;
    uv_fs_t fs;
    char id[128];
} deletion;

static void on_unlinked(uv_fs_t *fs) {
    deletion *d = fs->data;
    uv_fs_req_cleanup(fs);
    mull_reply_json(d->req, 200, json_pack("{s:s, s:s, s:b}", "id", d->id, "object", "file", "deleted", 1));
    free(d);
}

static void on_deleted(const mull_pg_reply *r, void *arg) {
    deletion *d = arg;
    if (mull__front_failed(d->req, r)) {
        free(d);
    } else if (PQgetvalue(r->res, 0, 0)[0] != 't') {
        mull_reply_error(d->req, 404, "not_found", "no file %s", d->id);
        free(d);
    } else if (PQgetvalue(r->res, 0, 1)[0] == 't') {
        mull_reply_error(d->req, 409, "in_use", "a batch that has not ended reads %s; cancel it first", d->id);
        free(d);
    } else {
        d->fs.data = d;
        if (uv_fs_unlink(d->front->cfg.loop, &d->fs, PQgetvalue(r->res, 0, 2), on_unlinked) != 0) on_unlinked(&d->fs);
    }
}

void mull__file_delete(mull_front *f, mull_req *req) {
    deletion *d = calloc(1, sizeof *d);
    if (!d) {
        mull_reply_error(req, 503, "unavailable", "the server is out of memory; try again");
        return;
    }
    d->front = f;
    d->req = req;
    snprintf(d->id, sizeof d->id, "%s", mull_req_route(req)->name);
    const char *params[] = {d->id, mull_req_who(req)->team, mull_req_who(req)->user};
    mull__query(f, mull_req_who(req), "SELECT * FROM mull_file_delete($1, $2, $3)", 3, params, on_deleted, d);
}

void mull__file_list(mull_front *f, mull_req *req) {
    const char *purpose = mull_req_query(req, "purpose"), *after = mull_req_query(req, "after"),
               *order = mull_req_query(req, "order");
    int64_t limit;
    char l[24];
    if (mull_query_int(mull_req_query(req, "limit"), 1, 10000, 10000, &limit) != 0 ||
        (order && strcmp(order, "asc") != 0 && strcmp(order, "desc") != 0)) {
        mull_reply_error(req, 400, "bad_query", "limit is a number from 1 to 10000, order is asc or desc");
        return;
    }
    snprintf(l, sizeof l, "%" PRId64, limit);
    const char *params[] = {mull_req_who(req)->team, purpose ? purpose : "", after ? after : "", l,
                            order && !strcmp(order, "asc") ? "t" : "f"};
    mull__answer(f, req, "SELECT mull_file_list($1, $2, $3, $4::int, $5::boolean)", 5, params);
}
