/* Files of jobs for hosts that share no folder with this one: a node that runs an attempt fetches what the job reads
 * and brings what it writes, and a user fetches what it wrote.
 *
 * A node may read in all folders that are exported to the job's team, as it could if they were mounted there, and write
 * below the job's `out`, each time only while the attempt whose fence it names runs on it: who was given up is refused.
 * A user reads below `out` of a job of the own team. Files travel in pieces of at most 4 MiB, each a request of its
 * own, so that what breaks off goes on where it was, and take their names only when their SHA-256 is right. */
#include "scheduler/exports.h"
#include "scheduler/front.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum what { TREE, READ, PART, WRITE, COMMIT, REMOVE } what;

typedef struct transfer {
    mull_front *front;
    mull_req *req;
    uv_work_t work;
    what what;
    char *path, *team;
    char sum[65];
    uint64_t offset;
    const char *body; /* the request's */
    size_t len;       /* of body, or of what is wanted */
    json_t *tree;
    char *bytes;
    int64_t got;
    int failed; /* errno */
} transfer;

static void transfer_free(transfer *t) {
    json_decref(t->tree);
    free(t->bytes);
    free(t->path);
    free(t->team);
    free(t);
}

static void work(uv_work_t *w) {
    transfer *t = w->data;
    const mull_exports *x = t->front->cfg.exports;
    switch (t->what) {
    case TREE:
        if (!(t->tree = mull_exports_tree(x, t->team, t->path))) t->failed = errno;
        break;
    case READ:
        if (!(t->bytes = malloc(t->len + 1)))
            t->failed = ENOMEM;
        else if ((t->got = mull_exports_read(x, t->team, t->path, t->offset, t->bytes, t->len)) < 0)
            t->failed = errno;
        break;
    case PART:
        if ((t->got = mull_exports_part(x, t->team, t->path)) < 0) t->failed = errno;
        break;
    case WRITE:
        t->failed = mull_exports_write(x, t->team, t->path, t->offset, t->body, t->len);
        t->got = (int64_t)(t->offset + t->len);
        break;
    case COMMIT:
        t->failed = mull_exports_commit(x, t->team, t->path, t->sum);
        break;
    case REMOVE:
        t->failed = mull_exports_remove(x, t->team, t->path);
        break;
    }
}

static void refuse(const transfer *t) {
    switch (t->failed) {
    case ENOENT:
    case ENOTDIR:
        mull_reply_error(t->req, 404, "not_found", "there is no %.400s", t->path);
        break;
    case EXDEV:
    case EACCES:
    case EPERM:
    case ELOOP:
        mull_reply_error(t->req, 403, "forbidden", "%.400s may not be used, or leads out of its folder", t->path);
        break;
    case ENOSPC:
    case EDQUOT:
        mull_reply_error(t->req, 507, "no_space", "the server's disk is full; nothing was kept");
        break;
    case EBADMSG:
        mull_reply_error(t->req, 409, "bad_sum", "what arrived of %.400s is damaged; send it again", t->path);
        break;
    case EINVAL:
        mull_reply_error(t->req, 409, "bad_offset", "%.400s is no plain file, or its part ends elsewhere", t->path);
        break;
    case E2BIG:
        mull_reply_error(t->req, 413, "too_large", "there are more than %d files in %.400s", MULL_TREE_FILES_MAX,
                         t->path);
        break;
    default:
        mull_reply_error(t->req, 500, "internal", "%.400s: %s", t->path, strerror(t->failed));
    }
}

static void on_done(uv_work_t *w, int status) {
    transfer *t = w->data;
    (void)status;
    if (t->failed) {
        refuse(t);
    } else if (t->what == READ) {
        mull_reply(t->req, 200, "application/octet-stream", t->bytes, (size_t)t->got);
        t->bytes = NULL;
    } else if (t->what == TREE) {
        mull_reply_json(t->req, 200, json_incref(t->tree));
    } else {
        mull_reply_json(t->req, 200, json_pack("{s:s, s:I}", "path", t->path, "have", (json_int_t)t->got));
    }
    transfer_free(t);
}

/* path is the folder out or lies below it. */
static bool below(const char *path, const char *out) {
    size_t n = strlen(out);
    return n > 1 && strncmp(path, out, n) == 0 && (!path[n] || path[n] == '/');
}

static void on_access(const mull_pg_reply *r, void *arg) {
    transfer *t = arg;
    const mull_identity *who = mull_req_who(t->req);
    if (mull__front_failed(t->req, r)) {
        transfer_free(t);
        return;
    }
    if (PQntuples(r->res) == 0) {
        if (who->node[0])
            mull_reply_error(t->req, 409, "stale", "that attempt does not run on %s (any more)", who->node);
        else
            mull_reply_error(t->req, 404, "not_found", "no job %" PRId64, mull_req_route(t->req)->job);
        transfer_free(t);
        return;
    }
    t->team = strdup(PQgetvalue(r->res, 0, 0));
    json_t *spec = json_loads(PQgetvalue(r->res, 0, 1), 0, NULL);
    const char *out = json_string_value(json_object_get(spec, "out"));
    bool reads = t->what == TREE || t->what == READ;
    if (!t->path && out) t->path = strdup(out); /* of a job, what it wrote */
    bool may = t->path && t->team && (reads && who->node[0] ? true : out && below(t->path, out));
    may = may && mull_exports_has(t->front->cfg.exports, t->team, t->path);
    if (!t->path)
        mull_reply_error(t->req, 404, "no_out", "the job writes no folder; its result is in mull show");
    else if (!may)
        mull_reply_error(t->req, 403, "forbidden",
                         "%.400s is not in a folder that this server exports%s (mull-scheduler --export)", t->path,
                         out && below(t->path, out) ? "" : ", or not below the job's out");
    json_decref(spec);
    if (!may) {
        transfer_free(t);
        return;
    }
    t->work.data = t;
    uv_queue_work(t->front->cfg.loop, &t->work, work, on_done); /* fails only for a NULL function */
}

/* The request's query; false: replied. */
static bool read_query(mull_req *req, transfer *t, int64_t *fence) {
    const char *path = mull_req_query(req, "path"), *sum = mull_req_query(req, "sha256");
    int64_t offset, limit;
    if (mull_query_int(mull_req_query(req, "fence"), 0, INT64_MAX, 0, fence) != 0 ||
        mull_query_int(mull_req_query(req, "offset"), 0, INT64_MAX, 0, &offset) != 0 ||
        mull_query_int(mull_req_query(req, "limit"), 1, MULL_PIECE_MAX, MULL_PIECE_MAX, &limit) != 0) {
        mull_reply_error(req, 400, "bad_query", "fence, offset and limit (to %d) are numbers", MULL_PIECE_MAX);
        return false;
    }
    if (t->what == COMMIT && (!sum || strlen(sum) != 64 || strspn(sum, "0123456789abcdef") != 64)) {
        mull_reply_error(req, 400, "bad_query", "sha256 is 64 hexadecimal digits");
        return false;
    }
    if ((!path || !*path) && t->what != TREE) {
        mull_reply_error(req, 400, "bad_query", "path is missing");
        return false;
    }
    if (path && *path && (strlen(path) > 4000 || !(t->path = strdup(path)))) {
        mull_reply_error(req, 400, "bad_query", "path is too long");
        return false;
    }
    if (t->what == COMMIT) memcpy(t->sum, sum, sizeof t->sum);
    t->offset = (uint64_t)offset;
    t->len = (size_t)limit;
    if (t->what == WRITE) {
        t->body = mull_req_body(req, &t->len);
        if (t->len > MULL_PIECE_MAX) {
            mull_reply_error(req, 413, "too_large", "a piece has at most %d bytes", MULL_PIECE_MAX);
            return false;
        }
    }
    return true;
}

void mull__transfer(mull_front *f, mull_req *req) {
    static const what whats[] = {[MULL_ROUTE_FILES_TREE - MULL_ROUTE_FILES_TREE] = TREE,
                                 [MULL_ROUTE_FILES_READ - MULL_ROUTE_FILES_TREE] = READ,
                                 [MULL_ROUTE_FILES_PART - MULL_ROUTE_FILES_TREE] = PART,
                                 [MULL_ROUTE_FILES_WRITE - MULL_ROUTE_FILES_TREE] = WRITE,
                                 [MULL_ROUTE_FILES_COMMIT - MULL_ROUTE_FILES_TREE] = COMMIT,
                                 [MULL_ROUTE_FILES_REMOVE - MULL_ROUTE_FILES_TREE] = REMOVE};
    int64_t fence;
    const mull_identity *who = mull_req_who(req);
    if (!f->cfg.exports || f->cfg.exports->count == 0) {
        mull_reply_error(req, 409, "not_exported",
                         "this server hands out no files: it was started without --export (mull up: --export)");
        return;
    }
    transfer *t = calloc(1, sizeof *t);
    if (!t) {
        mull_reply_error(req, 503, "unavailable", "the server is out of memory; try again");
        return;
    }
    t->front = f;
    t->req = req;
    t->what = whats[mull_req_route(req)->id - MULL_ROUTE_FILES_TREE];
    if (!read_query(req, t, &fence)) {
        transfer_free(t);
        return;
    }
    char job[24], number[24];
    snprintf(job, sizeof job, "%" PRId64, mull_req_route(req)->job);
    snprintf(number, sizeof number, "%" PRId64, fence);
    const char *params[] = {job, who->team, who->node, number};
    mull__query(f, who, "SELECT * FROM mull_transfer_access($1::bigint, $2, $3, $4::bigint)", 4, params, on_access, t);
}
