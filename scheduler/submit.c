/* POST /v1/jobs: validate, look that the named files exist, and commit in groups.
 *
 * Submits that arrive while a batch is being committed wait for the next one, so that one fsync of PostgreSQL serves
 * all of them: throughput grows with load while a lone submit waits for nobody. Nobody is answered before the COMMIT
 * that holds his job. When PostgreSQL refuses a whole batch, its members are tried one by one, so that one strange
 * job cannot fail its neighbours. */
#include "scheduler/front.h"

#include "schema/jobspec.h"
#include "schema/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_BATCH = 256, MAX_BATCH_BYTES = 16 << 20, MAX_IN_FLIGHT = 2 };

typedef struct submit {
    struct submit *next;
    mull_front *front;
    mull_req *req;
    json_t *item; /* what mull_submit takes */
    json_t *spec; /* owns the texts of paths */
    size_t bytes;
    /* looking at files */
    uv_fs_t fs;
    const char *paths[2], *keys[2];
    int path_at, path_count;
} submit;

struct mull_submits {
    submit *head, **tail;
    int in_flight;
};

typedef struct batch {
    mull_front *front;
    size_t n;
    submit *list[MAX_BATCH];
} batch;

static void submit_free(submit *s) {
    json_decref(s->item);
    json_decref(s->spec);
    free(s);
}

/* ---- group commit ---- */

static void flush(mull_front *f);

static void answer_row(mull_front *f, submit *s, const PGresult *res, int row) {
    if (!PQgetisnull(res, row, 4)) {
        json_t *detail = json_pack("[{s:s, s:n, s:s, s:n}]", "path", "after", "line", "message",
                                   PQgetvalue(res, row, 4), "did_you_mean");
        mull_reply_json(s->req, 400, mull_error_json("bad_spec", PQgetvalue(res, row, 4), detail));
        return;
    }
    bool created = PQgetvalue(res, row, 3)[0] == 't';
    json_t *body = json_pack("{s:s, s:s}", "id", PQgetvalue(res, row, 1), "state", PQgetvalue(res, row, 2));
    mull_reply_json(s->req, created ? 201 : 200, body);
    if (!created) return;
    f->submitted++;
    mull__poke(f, "job", strtoll(PQgetvalue(res, row, 1), NULL, 10));
}

static void commit(mull_front *f, batch *b);

static void on_committed(const mull_pg_reply *r, void *arg) {
    batch *b = arg;
    mull_front *f = b->front;
    f->submits->in_flight--;
    if (r->status == MULL_PG_OK && PQntuples(r->res) == (int)b->n) {
        for (size_t i = 0; i < b->n; i++) answer_row(f, b->list[i], r->res, (int)i);
    } else if (r->status == MULL_PG_ERROR && b->n > 1) {
        mull_log(MULL_LOG_WARN, "a batch of %zu submits was refused (%s); trying them one by one", b->n, r->message);
        for (size_t i = 0; i < b->n; i++) {
            batch *one = calloc(1, sizeof *one);
            if (one) {
                *one = (batch){.front = f, .n = 1, .list = {b->list[i]}};
                commit(f, one);
            } else {
                mull__front_failed(b->list[i]->req, r);
                submit_free(b->list[i]);
            }
        }
        free(b);
        return;
    } else {
        for (size_t i = 0; i < b->n; i++) mull__front_failed(b->list[i]->req, r);
    }
    for (size_t i = 0; i < b->n; i++) submit_free(b->list[i]);
    free(b);
    flush(f);
}

static void commit(mull_front *f, batch *b) {
    json_t *items = json_array();
    for (size_t i = 0; i < b->n; i++) json_array_append(items, b->list[i]->item);
    char *text = json_dumps(items, JSON_COMPACT);
    json_decref(items);
    const char *params[] = {text ? text : "[]"};
    f->submits->in_flight++;
    f->submit_batches++;
    mull_pg_query(f->cfg.pg, "SELECT * FROM mull_submit($1::jsonb)", 1, params, on_committed, b);
    free(text);
}

static void flush(mull_front *f) {
    struct mull_submits *q = f->submits;
    while (q->head && q->in_flight < MAX_IN_FLIGHT) {
        batch *b = calloc(1, sizeof *b);
        if (!b) return; /* the next completion tries again */
        b->front = f;
        for (size_t bytes = 0; q->head && b->n < MAX_BATCH && bytes < MAX_BATCH_BYTES;) {
            submit *s = q->head;
            bytes += s->bytes;
            b->list[b->n++] = s;
            q->head = s->next;
        }
        if (!q->head) q->tail = &q->head;
        commit(f, b);
    }
}

static void enqueue(submit *s) {
    struct mull_submits *q = s->front->submits;
    s->next = NULL;
    *q->tail = s;
    q->tail = &s->next;
    flush(s->front);
}

/* ---- the files a spec names ---- */

static void check_next(submit *s);

static void on_stat(uv_fs_t *fs) {
    submit *s = fs->data;
    int rc = (int)fs->result;
    uv_fs_req_cleanup(fs);
    if (rc == UV_ENOENT || rc == UV_ENOTDIR) {
        char text[1100];
        const char *key = s->keys[s->path_at];
        snprintf(text, sizeof text, "%s: there is no %.1000s", key, s->paths[s->path_at]);
        json_t *detail = json_pack("[{s:s, s:n, s:s, s:n}]", "path", key, "line", "message", text, "did_you_mean");
        mull_reply_json(s->req, 400, mull_error_json("bad_spec", text, detail));
        submit_free(s);
        return;
    }
    s->path_at++;
    check_next(s);
}

static void check_next(submit *s) {
    if (s->path_at >= s->path_count) {
        enqueue(s);
        return;
    }
    s->fs.data = s;
    if (uv_fs_stat(s->front->cfg.loop, &s->fs, s->paths[s->path_at], on_stat) != 0) enqueue(s);
}

static void add_path(submit *s, const json_t *spec, const char *key) {
    const char *path = json_string_value(json_object_get(spec, key));
    if (!path || path[0] != '/') return;
    s->paths[s->path_count] = path;
    s->keys[s->path_count++] = key;
}

/* ---- the request ---- */

/* {"error":…} with one detail for each diagnostic of the parser. */
static json_t *spec_error(json_t *details) {
    size_t n = json_array_size(details);
    char text[1100];
    const char *first = n ? json_string_value(json_object_get(json_array_get(details, 0), "message")) : NULL;
    if (n > 1)
        snprintf(text, sizeof text, "the job spec has %zu errors, the first: %.1000s", n, first ? first : "?");
    else
        snprintf(text, sizeof text, "the job spec is wrong: %.1000s", first ? first : "?");
    return mull_error_json("bad_spec", text, details);
}

struct mull_submits *mull__submits_create(void) {
    struct mull_submits *q = calloc(1, sizeof *q);
    if (q) q->tail = &q->head;
    return q;
}

void mull__submits_destroy(struct mull_submits *q) {
    while (q && q->head) {
        submit *s = q->head;
        q->head = s->next;
        submit_free(s);
    }
    free(q);
}

static json_t *text_or_null(const char *text) {
    return text && *text ? json_string(text) : json_null();
}

/* What mull_submit takes, from a validated spec. The spec is stored as the user meant it, defaults filled in. */
static json_t *item_of(const json_t *spec, const char *user) {
    char *text = json_dumps(spec, JSON_COMPACT);
    if (!text) return NULL;
    const char *kind = json_string_value(json_object_get(spec, "kind"));
    const char *name = json_string_value(json_object_get(spec, "name"));
    const char *team = json_string_value(json_object_get(spec, "team"));
    const char *after = json_string_value(json_object_get(spec, "after"));
    json_t *limit = json_object_get(spec, "time_limit_s"), *begin = json_object_get(spec, "begin_ms");
    json_t *item = json_pack(
        "{s:s, s:s, s:s, s:s, s:I, s:I, s:O?, s:O?, s:b, s:o, s:s, s:s}", "user", user, "team", team ? team : "default",
        "name", name ? name : kind, "kind", kind, "priority", json_integer_value(json_object_get(spec, "priority")),
        "gpus", json_integer_value(json_object_get(spec, "gpus")), "time_limit_s", limit, "begin_ms", begin, "hold",
        json_is_true(json_object_get(spec, "hold")), "key",
        text_or_null(json_string_value(json_object_get(spec, "key"))), "depends", after ? after : "", "spec", text);
    free(text);
    return item;
}

/* {"spec": {…}} or {"spec_text": "…", "format": "yaml" or "json"}. */
static json_t *read_spec(const json_t *body, mull_diags *diags) {
    const json_t *spec = json_object_get(body, "spec"), *text = json_object_get(body, "spec_text");
    const char *format = json_string_value(json_object_get(body, "format"));
    if (spec) return mull_jobspec_check(spec, diags);
    if (json_is_string(text) && (!format || !strcmp(format, "yaml") || !strcmp(format, "json")))
        return mull_jobspec_parse(json_string_value(text), json_string_length(text),
                                  format && !strcmp(format, "json") ? MULL_SPEC_JSON : MULL_SPEC_YAML, diags);
    diags->n = 1;
    snprintf(diags->at[0].message, sizeof diags->at[0].message,
             "send {\"spec\": {...}} or {\"spec_text\": \"...\", \"format\": \"yaml\" or \"json\"}");
    return NULL;
}

void mull__submit(mull_front *f, mull_req *req) {
    size_t len;
    const char *body = mull_req_body(req, &len);
    int status;
    char why[256];
    json_t *json = mull_body_parse(body, len, &status, why, sizeof why);
    if (!json) {
        mull_reply_error(req, status, status == 413 ? "too_large" : "bad_json", "%s", why);
        return;
    }
    mull_diags diags = {0};
    json_t *spec = read_spec(json, &diags);
    json_decref(json);
    if (!spec) {
        mull_reply_json(req, 400, spec_error(mull_diags_json(&diags)));
        return;
    }
    submit *s = calloc(1, sizeof *s);
    if (s) s->item = item_of(spec, mull_req_who(req)->user);
    if (s && s->item) {
        s->spec = json_incref(spec);
        add_path(s, spec, "model");
        add_path(s, spec, "input");
    }
    json_decref(spec);
    if (!s || !s->item) {
        free(s);
        mull_reply_error(req, 503, "unavailable", "the server is out of memory; try again");
        return;
    }
    s->front = f;
    s->req = req;
    s->bytes = len;
    check_next(s);
}
