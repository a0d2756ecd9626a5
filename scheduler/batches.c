/* /v1/batches: a batch is an annotate job whose input is an uploaded file and whose folder lies beside it. State and
 * counts are the job's (mull__batch_json). */
#include "scheduler/files.h"

#include "scheduler/file_check.h"
#include "schema/jobspec.h"
#include "schema/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { METADATA_MAX = 16, KEY_MAX = 64, VALUE_MAX = 512, EXPIRE_EVERY_MS = 60000, HOURS_MAX = 24 * 30 };

typedef struct creation {
    mull_front *front;
    mull_req *req;
    json_t *body, *item;
    mull_file_check *files;
    char id[MULL_API_ID];
    int hours;
} creation;

static void creation_free(creation *c) {
    json_decref(c->body);
    json_decref(c->item);
    mull_file_check_free(c->files);
    free(c);
}

static void out_of_memory(mull_req *req) {
    mull_reply_error(req, 503, "unavailable", "the server is out of memory; try again");
}

/* ---- answers with a job to look at */

static void answer_batch(mull_front *f, mull_req *req, const mull_pg_reply *r, const char *op) {
    if (PQntuples(r->res) == 0) {
        mull_reply_error(req, 404, "not_found", "no batch %s", mull_req_route(req)->name);
        return;
    }
    mull__poke(f, op, strtoll(PQgetvalue(r->res, 0, 0), NULL, 10));
    char *body = strdup(PQgetvalue(r->res, 0, 1));
    if (body)
        mull_reply(req, 200, "application/json", body, strlen(body));
    else
        out_of_memory(req);
}

static void on_added(const mull_pg_reply *r, void *arg) {
    creation *c = arg;
    if (!mull__front_failed(c->req, r)) answer_batch(c->front, c->req, r, "job");
    creation_free(c);
}

static void on_checked(const mull_diags *diags, void *arg) {
    creation *c = arg;
    if (diags->n) {
        mull_reply_error(c->req, 400, "bad_batch", "%s: %s", diags->at[0].path, diags->at[0].message);
        creation_free(c);
        return;
    }
    char hours[16], *item = json_dumps(c->item, JSON_COMPACT);
    const json_t *metadata = json_object_get(c->body, "metadata");
    char *meta = json_object_size(metadata) ? json_dumps(metadata, JSON_COMPACT) : NULL;
    const char *window = json_string_value(json_object_get(c->body, "completion_window"));
    snprintf(hours, sizeof hours, "%d", c->hours);
    const char *params[] = {item ? item : "{}",
                            c->id,
                            json_string_value(json_object_get(c->body, "endpoint")),
                            window ? window : "24h",
                            hours,
                            json_string_value(json_object_get(c->body, "input_file_id")),
                            meta};
    mull__query(c->front, mull_req_who(c->req),
                "SELECT * FROM mull_batch_add($1::jsonb, $2, $3, $4, $5::int, $6, $7::jsonb)", 7, params, on_added, c);
    free(item);
    free(meta);
}

/* ---- from the request to a job's spec */

/* A name becomes a folder of --models; an absolute path is one. False: none such can be. */
static bool model_folder(const mull_front *f, const char *name, char *out, size_t cap) {
    if (name[0] == '/') return (size_t)snprintf(out, cap, "%s", name) < cap;
    if (!f->cfg.models || !*name || name[0] == '.' || strchr(name, '/')) return false;
    return (size_t)snprintf(out, cap, "%s/%s", f->cfg.models, name) < cap;
}

static json_t *spec_of(creation *c, const char *model, const char *input, const char *team) {
    json_t *spec = json_object();
    char out[1600];
    const char *slash = strrchr(input, '/');
    json_object_update(spec, json_object_get(c->body, "spec"));
    snprintf(out, sizeof out, "%.*s/%s", (int)(slash - input), input, c->id);
    json_object_del(spec, "output_format"); /* a batch's files are JSON lines */
    json_object_set_new(spec, "kind", json_string("annotate"));
    json_object_set_new(spec, "model", json_string(model));
    json_object_set_new(spec, "input", json_string(input));
    json_object_set_new(spec, "out", json_string(out));
    json_object_set_new(spec, "team", json_string(team));
    if (!json_object_get(spec, "name")) json_object_set_new(spec, "name", json_string(c->id));
    return spec;
}

static void make_job(creation *c, const mull_pg_reply *r) {
    const char *asked = json_string_value(json_object_get(c->body, "model")), *first = PQgetvalue(r->res, 0, 3);
    if (!asked) asked = json_string_value(json_object_get(json_object_get(c->body, "metadata"), "model"));
    const char *name = asked ? asked : first;
    char model[2000];
    if (!*name || !model_folder(c->front, name, model, sizeof model)) {
        mull_reply_error(c->req, 400, "model_not_found",
                         "%s%.200s%s; name a checkpoint folder by its absolute path%s, in the requests or as model in "
                         "metadata",
                         *name ? "there is no model '" : "the first request names no model", name, *name ? "'" : "",
                         c->front->cfg.models ? " or by its name in the server's folder of models" : "");
        creation_free(c);
        return;
    }
    mull_diags diags;
    json_t *given = spec_of(c, model, PQgetvalue(r->res, 0, 0), PQgetvalue(r->res, 0, 4));
    /* What a batch says of its job is what one job says. */
    bool many = json_object_get(given, "array") || json_integer_value(json_object_get(given, "shards")) > 1;
    json_t *spec = many ? NULL : mull_jobspec_check(given, &diags);
    json_decref(given);
    if (many) {
        mull_reply_error(c->req, 400, "bad_spec", "a batch is one job; leave array and shards out");
        creation_free(c);
        return;
    }
    if (spec) c->item = mull__submit_item(spec, mull_req_who(c->req), NULL);
    if (!spec) {
        mull_reply_error(c->req, 400, "bad_spec", "%s: %s", diags.at[0].path, diags.at[0].message);
        creation_free(c);
    } else if (!c->item || !(c->files = mull_file_check_start(c->front->cfg.loop, spec, NULL, on_checked, c))) {
        out_of_memory(c->req);
        creation_free(c);
    }
    json_decref(spec);
}

static void on_file(const mull_pg_reply *r, void *arg) {
    creation *c = arg;
    const char *id = json_string_value(json_object_get(c->body, "input_file_id"));
    if (mull__front_failed(c->req, r)) {
        creation_free(c);
    } else if (PQntuples(r->res) == 0) {
        mull_reply_error(c->req, 400, "no_file", "there is no file %.100s", id);
        creation_free(c);
    } else if (strcmp(PQgetvalue(r->res, 0, 2), "batch") != 0) {
        mull_reply_error(c->req, 400, "wrong_purpose", "file %.100s has the purpose %.60s, not batch", id,
                         PQgetvalue(r->res, 0, 2));
        creation_free(c);
    } else {
        make_job(c, r);
    }
}

/* What is wrong with the body, or NULL. */
static const char *wrong(creation *c) {
    const json_t *file = json_object_get(c->body, "input_file_id"), *meta = json_object_get(c->body, "metadata"),
                 *spec = json_object_get(c->body, "spec");
    const char *endpoint = json_string_value(json_object_get(c->body, "endpoint")),
               *window = json_string_value(json_object_get(c->body, "completion_window"));
    if (!json_is_string(file)) return "input_file_id is missing";
    if (!endpoint || strcmp(endpoint, "/v1/chat/completions") != 0) return "endpoint must be /v1/chat/completions";
    c->hours = 24;
    if (window) {
        char unit = 0, more = 0;
        if (sscanf(window, "%4d%c%c", &c->hours, &unit, &more) != 2 || (unit != 'h' && unit != 'd'))
            return "completion_window is a time such as 24h";
        c->hours *= unit == 'd' ? 24 : 1;
        if (c->hours < 1 || c->hours > HOURS_MAX) return "completion_window is from 1h to 30d";
    } else if (json_object_get(c->body, "completion_window")) {
        return "completion_window is a time such as 24h";
    }
    if (spec && !json_is_null(spec) && !json_is_object(spec)) return "spec is an object of a job's keys";
    if (!meta || json_is_null(meta)) return NULL;
    const char *key;
    json_t *v;
    if (!json_is_object(meta) || json_object_size(meta) > METADATA_MAX)
        return "metadata is an object of at most 16 keys";
    json_object_foreach((json_t *)(uintptr_t)meta, key, v) {
        if (strlen(key) > KEY_MAX || !json_is_string(v) || json_string_length(v) > VALUE_MAX)
            return "metadata has keys of at most 64 bytes and texts of at most 512";
    }
    return NULL;
}

void mull__batch_create(mull_front *f, mull_req *req) {
    if (!f->cfg.files) {
        mull_reply_error(req, 501, "not_available", "this server keeps no files; start it with --files DIR");
        return;
    }
    json_t *body = mull__body(req);
    if (!body) return;
    creation *c = calloc(1, sizeof *c);
    if (!c) {
        json_decref(body);
        out_of_memory(req);
        return;
    }
    *c = (creation){.front = f, .req = req, .body = body};
    const char *problem = wrong(c);
    if (problem) {
        mull_reply_error(req, 400, "bad_batch", "%s", problem);
        creation_free(c);
        return;
    }
    mull__random_id("batch_", c->id);
    const char *params[] = {json_string_value(json_object_get(body, "input_file_id")), mull_req_who(req)->team};
    mull__query(f, mull_req_who(req), "SELECT * FROM mull_file_path($1, $2)", 2, params, on_file, c);
}

/* ---- list, cancel, expire */

void mull__batch_list(mull_front *f, mull_req *req) {
    const char *after = mull_req_query(req, "after");
    int64_t limit;
    char l[24];
    if (mull_query_int(mull_req_query(req, "limit"), 1, 100, 20, &limit) != 0) {
        mull_reply_error(req, 400, "bad_query", "limit is a number from 1 to 100");
        return;
    }
    snprintf(l, sizeof l, "%" PRId64, limit);
    const char *params[] = {mull_req_who(req)->team, after ? after : "", l};
    mull__answer(f, req, "SELECT mull_batch_list($1, $2, $3::int)", 3, params);
}

typedef struct cancelling {
    mull_front *front;
    mull_req *req;
} cancelling;

static void on_cancelled(const mull_pg_reply *r, void *arg) {
    cancelling c = *(cancelling *)arg;
    free(arg);
    if (!mull__front_failed(c.req, r)) answer_batch(c.front, c.req, r, "cancel");
}

void mull__batch_cancel(mull_front *f, mull_req *req) {
    cancelling *c = malloc(sizeof *c);
    if (!c) {
        out_of_memory(req);
        return;
    }
    *c = (cancelling){f, req};
    const char *params[] = {mull_req_route(req)->name, mull_req_who(req)->team, mull_req_who(req)->user};
    mull__query(f, mull_req_who(req), "SELECT * FROM mull_batch_cancel($1, $2, $3)", 3, params, on_cancelled, c);
}

static void on_expired(const mull_pg_reply *r, void *arg) {
    if (r->status != MULL_PG_OK) return; /* the next round asks again */
    for (int i = 0; i < PQntuples(r->res); i++) mull__poke(arg, "cancel", strtoll(PQgetvalue(r->res, i, 0), NULL, 10));
}

void mull__batches_expire(mull_front *f) {
    uint64_t now = uv_now(f->cfg.loop);
    if (f->expired_ms && now - f->expired_ms < EXPIRE_EVERY_MS) return;
    f->expired_ms = now ? now : 1;
    if (f->cfg.files) mull_pg_query(f->cfg.pg, "SELECT mull_batches_expire()", 0, NULL, on_expired, f);
}
