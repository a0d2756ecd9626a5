/* POST /v1/jobs: validate, look that the named files exist, and commit in groups.
 *
 * Submits that arrive while a batch is being committed wait for the next one, so that one fsync of PostgreSQL serves
 * all of them: throughput grows with load while a lone submit waits for nobody. Nobody is answered before the COMMIT
 * that holds his job. What admins submit and what people of teams submit are batches of two kinds: the latter run with
 * the rights of each member's team, one after the other in one transaction. When PostgreSQL refuses a whole batch, its
 * members are tried one by one, so that one strange job cannot fail its neighbours. */
#include "scheduler/front.h"

#include "scheduler/file_check.h"
#include "schema/array_range.h"
#include "schema/event_line.h"
#include "schema/jobspec.h"
#include "schema/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { MAX_BATCH = 256, MAX_BATCH_BYTES = 16 << 20, MAX_IN_FLIGHT = 2 };

typedef struct submit {
    struct submit *next;
    mull_front *front;
    mull_req *req;
    json_t *item;  /* what mull_submit takes */
    char team[64]; /* whose rights it has; "": every team's */
    size_t bytes;
    mull_file_check *files;
    mull__spec_next then; /* NULL: into the queue */
} submit;

typedef struct lane {
    submit *head, **tail;
    int in_flight;
} lane;

struct mull_submits {
    lane cluster, teams;
};

typedef struct batch {
    mull_front *front;
    lane *lane;
    size_t n;
    submit *list[MAX_BATCH]; /* by team */
} batch;

static void submit_free(submit *s) {
    json_decref(s->item);
    mull_file_check_free(s->files);
    free(s);
}

/* ---- group commit ---- */

static void flush(mull_front *f, lane *q);

static void answer_row(mull_front *f, submit *s, const PGresult *res, int row) {
    if (!PQgetisnull(res, row, 4)) {
        if (mull__refuse_quota(s->req, PQgetvalue(res, row, 4))) return;
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
    b->lane->in_flight--;
    if (r->status == MULL_PG_OK && PQntuples(r->res) == (int)b->n) {
        for (size_t i = 0; i < b->n; i++) answer_row(f, b->list[i], r->res, (int)i);
    } else if (r->status == MULL_PG_ERROR && b->n > 1) {
        mull_log(MULL_LOG_WARN, "a batch of %zu submits was refused (%s); trying them one by one", b->n, r->message);
        for (size_t i = 0; i < b->n; i++) {
            batch *one = calloc(1, sizeof *one);
            if (one) {
                *one = (batch){.front = f, .lane = b->lane, .n = 1, .list = {b->list[i]}};
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
    lane *q = b->lane;
    free(b);
    flush(f, q);
}

/* [item, …] of a batch, or [{"team", "items"}, …]. */
static json_t *batch_json(const batch *b, bool by_team) {
    json_t *all = json_array(), *items = all;
    for (size_t i = 0; i < b->n; i++) {
        if (by_team && (i == 0 || strcmp(b->list[i]->team, b->list[i - 1]->team) != 0)) {
            items = json_array();
            json_array_append_new(all, json_pack("{s:s, s:o}", "team", b->list[i]->team, "items", items));
        }
        json_array_append(items, b->list[i]->item);
    }
    return all;
}

static void commit(mull_front *f, batch *b) {
    bool by_team = b->lane == &f->submits->teams;
    json_t *json = batch_json(b, by_team);
    char *text = json_dumps(json, JSON_COMPACT);
    json_decref(json);
    const char *params[] = {text ? text : "[]"};
    b->lane->in_flight++;
    f->submit_batches++;
    if (by_team)
        mull_pg_query_as(f->cfg.teams_pg, "", "", "SELECT * FROM mull_submit_teams($1::jsonb)", 1, params, on_committed,
                         b);
    else
        mull_pg_query(f->cfg.pg, "SELECT * FROM mull_submit($1::jsonb)", 1, params, on_committed, b);
    free(text);
}

/* Behind those of its team, so that these stay in their order. */
static void add(batch *b, submit *s) {
    size_t at = b->n;
    while (at > 0 && strcmp(b->list[at - 1]->team, s->team) > 0) at--;
    memmove(b->list + at + 1, b->list + at, (b->n - at) * sizeof *b->list);
    b->list[at] = s;
    b->n++;
}

static void flush(mull_front *f, lane *q) {
    while (q->head && q->in_flight < MAX_IN_FLIGHT) {
        batch *b = calloc(1, sizeof *b);
        if (!b) return; /* the next completion tries again */
        b->front = f;
        b->lane = q;
        for (size_t bytes = 0; q->head && b->n < MAX_BATCH && bytes < MAX_BATCH_BYTES;) {
            submit *s = q->head;
            bytes += s->bytes;
            q->head = s->next;
            add(b, s);
        }
        if (!q->head) q->tail = &q->head;
        commit(f, b);
    }
}

static void enqueue(submit *s) {
    struct mull_submits *all = s->front->submits;
    lane *q = s->team[0] ? &all->teams : &all->cluster;
    s->next = NULL;
    *q->tail = s;
    q->tail = &s->next;
    flush(s->front, q);
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
    struct mull_submits *all = calloc(1, sizeof *all);
    if (!all) return NULL;
    all->cluster.tail = &all->cluster.head;
    all->teams.tail = &all->teams.head;
    return all;
}

static void lane_empty(lane *q) {
    while (q->head) {
        submit *s = q->head;
        q->head = s->next;
        submit_free(s);
    }
}

void mull__submits_destroy(struct mull_submits *all) {
    if (!all) return;
    lane_empty(&all->cluster);
    lane_empty(&all->teams);
    free(all);
}

static json_t *text_or_null(const char *text) {
    return text && *text ? json_string(text) : json_null();
}

/* {"source", "every"} of checkpoint:ID:every or checkpoint:ID:N, NULL of anything else. */
static json_t *follow_of(const char *after) {
    if (!after || strncmp(after, "checkpoint:", 11) != 0) return NULL;
    char *end;
    long long id = strtoll(after + 11, &end, 10), every = strcmp(end, ":every") ? strtoll(end + 1, NULL, 10) : 1;
    return json_pack("{s:I, s:I}", "source", (json_int_t)id, "every", (json_int_t)every);
}

/* What mull_submit takes, from a validated spec. The spec is stored as the user meant it, defaults filled in. */
json_t *mull__submit_item(const json_t *spec, const mull_identity *who, const char *key) {
    char *text = json_dumps(spec, JSON_COMPACT);
    if (!text) return NULL;
    const char *kind = json_string_value(json_object_get(spec, "kind"));
    const char *name = json_string_value(json_object_get(spec, "name"));
    const char *after = json_string_value(json_object_get(spec, "after"));
    const char *own_key = json_string_value(json_object_get(spec, "key"));
    const char *range = json_string_value(json_object_get(spec, "array"));
    char why[160];
    json_t *array = range ? mull_array_parse(range, why, sizeof why) : json_null();
    json_t *follow = follow_of(after);
    json_t *limit = json_object_get(spec, "time_limit_s"), *begin = json_object_get(spec, "begin_ms");
    json_t *item = json_pack(
        "{s:s, s:s, s:s, s:s, s:I, s:I, s:O?, s:O?, s:b, s:o, s:s, s:b, s:s, s:O?, s:O?, s:o, s:O?, s:O?, s:o*}",
        "user", who->user, "team", json_string_value(json_object_get(spec, "team")), "name",
        name && *name ? name : kind, "kind", kind, "priority", json_integer_value(json_object_get(spec, "priority")),
        "gpus", json_integer_value(json_object_get(spec, "gpus")), "time_limit_s", limit, "begin_ms", begin, "hold",
        json_is_true(json_object_get(spec, "hold")), "key", text_or_null(own_key && *own_key ? own_key : key),
        "depends", after && !follow ? after : "", "any_team", !who->team[0], "spec", text, "preemptible",
        json_object_get(spec, "preemptible"), "min_run_s", json_object_get(spec, "min_run"), "array", array, "slots",
        json_object_get(spec, "slots"), "labels", json_object_get(spec, "labels"), "follow", follow);
    free(text);
    return item;
}

static bool is_yaml(const char *type) {
    static const char *const types[] = {"application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml"};
    for (size_t i = 0; type && i < sizeof types / sizeof *types; i++) {
        size_t n = strlen(types[i]);
        if (!strncasecmp(type, types[i], n) && strchr("; ", type[n])) return true;
    }
    return false;
}

/* The spec of a request body: YAML by its content type, or JSON: the spec itself, {"spec": {...}}, or {"spec_text":
 * "...", "format": "yaml" or "json"}. NULL when it was refused, which has then been replied. */
static json_t *read_spec(mull_req *req, json_t **lines) {
    size_t len;
    const char *body = mull_req_body(req, &len);
    mull_diags diags = {0};
    json_t *spec = NULL;
    if (is_yaml(mull_req_header(req, "Content-Type"))) {
        spec = mull_jobspec_parse_lines(body, len, MULL_SPEC_YAML, &diags, lines);
    } else {
        json_t *json = mull__body(req);
        if (!json) return NULL;
        const json_t *given = json_object_get(json, "spec"), *text = json_object_get(json, "spec_text");
        const char *format = json_string_value(json_object_get(json, "format"));
        if (given) {
            spec = mull_jobspec_check(given, &diags);
        } else if (json_is_string(text) && (!format || !strcmp(format, "yaml") || !strcmp(format, "json"))) {
            spec = mull_jobspec_parse_lines(json_string_value(text), json_string_length(text),
                                            format && !strcmp(format, "json") ? MULL_SPEC_JSON : MULL_SPEC_YAML, &diags,
                                            lines);
        } else if (text || format) {
            diags.n = 1;
            snprintf(diags.at[0].message, sizeof diags.at[0].message,
                     "send the spec, {\"spec\": {...}} or {\"spec_text\": \"...\", \"format\": \"yaml\" or \"json\"}");
        } else {
            spec = mull_jobspec_parse_lines(body, len, MULL_SPEC_JSON, &diags, lines);
        }
        json_decref(json);
    }
    if (!spec) mull_reply_json(req, 400, spec_error(mull_diags_json(&diags)));
    return spec;
}

/* A token speaks for one team: the default becomes that team, any other is refused. */
static bool settle_team(mull_req *req, json_t *spec) {
    const char *own = mull_req_who(req)->team, *asked = json_string_value(json_object_get(spec, "team"));
    if (!own[0] || (asked && !strcmp(asked, own))) return true;
    if (asked && *asked && strcmp(asked, "default") != 0) {
        mull_reply_error(req, 403, "forbidden", "this token is for team %s; leave team out of the spec", own);
        return false;
    }
    json_object_set_new(spec, "team", json_string(own));
    return true;
}

static void on_files(const mull_diags *diags, void *arg) {
    submit *s = arg;
    if (diags->n == 0 && !s->then) {
        enqueue(s);
        return;
    }
    if (diags->n == 0)
        s->then(s->front, s->req, s->item);
    else
        mull_reply_json(s->req, 400, spec_error(mull_diags_json(diags)));
    submit_free(s);
}

void mull__submit(mull_front *f, mull_req *req) {
    mull__spec_of(f, req, NULL);
}

void mull__spec_of(mull_front *f, mull_req *req, mull__spec_next next) {
    json_t *lines = NULL, *spec = read_spec(req, &lines);
    const char *key = mull_req_header(req, "Idempotency-Key");
    submit *s = NULL;
    if (!spec) goto out;
    if (key && (strlen(key) > 200 || mull_utf8_check(key) != 0)) {
        mull_reply_error(req, 400, "bad_header", "Idempotency-Key is a text of at most 200 bytes");
        goto out;
    }
    if (!settle_team(req, spec)) goto out;
    s = calloc(1, sizeof *s);
    if (s) {
        s->item = mull__submit_item(spec, mull_req_who(req), key);
        s->front = f;
        s->req = req;
        s->then = next;
        memcpy(s->team, mull_req_who(req)->team, sizeof s->team);
        mull_req_body(req, &s->bytes);
    }
    if (s && s->item) s->files = mull_file_check_start(f->cfg.loop, spec, lines, on_files, s);
    if (!s || !s->item || !s->files) {
        if (s) submit_free(s);
        mull_reply_error(req, 503, "unavailable", "the server is out of memory; try again");
    }
out:
    json_decref(spec);
    json_decref(lines);
}
