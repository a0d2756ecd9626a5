/* Users, their tokens, and the audit. A token is 32 random bytes made here: it is in one answer and nowhere else, only
 * its SHA-256 is kept. Members and viewers see and revoke their own tokens; admins make them and see all. */
#include "scheduler/front.h"

#include <inttypes.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum { SECRET_BYTES = 32, DAYS_MAX = 3650 };

typedef struct call {
    mull_front *front;
    mull_req *req;
    char secret[8 + 2 * SECRET_BYTES];
} call;

static call *call_new(mull_front *f, mull_req *req) {
    call *c = calloc(1, sizeof *c);
    if (c)
        *c = (call){.front = f, .req = req};
    else
        mull_reply_error(req, 503, "unavailable", "the server is out of memory; try again");
    return c;
}

static void on_created(const mull_pg_reply *r, void *arg) {
    call c = *(call *)arg;
    OPENSSL_cleanse(arg, sizeof c);
    free(arg);
    if (!mull__front_failed(c.req, r)) {
        if (!PQgetisnull(r->res, 0, 0))
            mull_reply_error(c.req, 400, "bad_token", "%s", PQgetvalue(r->res, 0, 0));
        else
            mull_reply_json(c.req, 201,
                            json_pack("{s:s, s:s, s:s?}", "id", PQgetvalue(r->res, 0, 1), "token", c.secret,
                                      "expires_at", PQgetisnull(r->res, 0, 2) ? NULL : PQgetvalue(r->res, 0, 2)));
    }
    OPENSSL_cleanse(c.secret, sizeof c.secret);
}

/* A text member of body of at most max bytes, fallback when it is not given; NULL after a reply. */
static const char *text_of(mull_req *req, const json_t *body, const char *key, const char *fallback, size_t max) {
    const json_t *v = json_object_get(body, key);
    if (!v && fallback) return fallback;
    if (!json_is_string(v) || json_string_length(v) > max || (!fallback && json_string_length(v) == 0)) {
        mull_reply_error(req, 400, "bad_token", "%s is a text of %s%zu bytes", key, fallback ? "at most " : "1 to ",
                         max);
        return NULL;
    }
    return json_string_value(v);
}

static void create(mull_front *f, mull_req *req, json_t *body) {
    static const char *const keys[] = {"user", "team", "role", "days", "note"};
    const char *user, *team, *role, *note;
    if (!mull__known_keys(req, body, keys, 5, "bad_token") || !(user = text_of(req, body, "user", NULL, 63)) ||
        !(team = text_of(req, body, "team", "default", 63)) || !(role = text_of(req, body, "role", "member", 63)) ||
        !(note = text_of(req, body, "note", "", 200)))
        return;
    if (strcmp(role, "admin") != 0 && strcmp(role, "member") != 0 && strcmp(role, "viewer") != 0) {
        mull_reply_error(req, 400, "bad_token", "role is admin, member or viewer, not %.60s", role);
        return;
    }
    const json_t *d = json_object_get(body, "days");
    if (d && (!json_is_integer(d) || json_integer_value(d) < 0 || json_integer_value(d) > DAYS_MAX)) {
        mull_reply_error(req, 400, "bad_token", "days is a whole number from 0 (no end) to %d", DAYS_MAX);
        return;
    }
    unsigned char random[SECRET_BYTES];
    char hash[65], days[16];
    call *c = call_new(f, req);
    if (!c) return;
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random) abort(); /* never for so few bytes */
    memcpy(c->secret, "mull_", 5);
    mull__hex(random, sizeof random, c->secret + 5);
    if (!mull__secret_sum(c->secret, hash)) {
        free(c);
        mull_reply_error(req, 503, "unavailable", "the server is out of memory; try again");
        return;
    }
    snprintf(days, sizeof days, "%d", d ? (int)json_integer_value(d) : 0);
    const char *params[] = {hash, user, team, role, days, note, mull_req_who(req)->user};
    mull__query(f, mull_req_who(req), "SELECT * FROM mull_token_create($1, $2, $3, $4, $5::int, $6, $7)", 7, params,
                on_created, c);
}

void mull__token_create(mull_front *f, mull_req *req) {
    json_t *body = mull__body(req);
    if (body) create(f, req, body);
    json_decref(body);
}

/* Whose tokens the asker may see and revoke: "" for everybody's. */
static const char *whose(mull_req *req) {
    return mull_req_who(req)->role == MULL_ROLE_ADMIN ? "" : mull_req_who(req)->user;
}

void mull__tokens(mull_front *f, mull_req *req) {
    const char *params[] = {whose(req)};
    mull__answer(f, req, "SELECT mull_tokens($1)", 1, params);
}

static void on_revoked(const mull_pg_reply *r, void *arg) {
    mull_call c = *(mull_call *)arg;
    free(arg);
    if (mull__front_failed(c.req, r)) return;
    long long id = mull_req_route(c.req)->job;
    if (PQgetisnull(r->res, 0, 0)) {
        mull_reply_error(c.req, 404, "not_found", "you have no token %lld", id);
        return;
    }
    mull__tokens_forget(c.front->tokens);
    char text[24];
    snprintf(text, sizeof text, "%lld", id);
    mull_reply_json(c.req, 200,
                    json_pack("{s:s, s:s, s:s}", "id", text, "user", PQgetvalue(r->res, 0, 0), "state", "revoked"));
}

void mull__token_revoke(mull_front *f, mull_req *req) {
    char id[24];
    snprintf(id, sizeof id, "%lld", (long long)mull_req_route(req)->job);
    const char *params[] = {id, whose(req), mull_req_who(req)->user};
    mull_call *c = mull__call_new(f, req);
    if (c) mull__query(f, mull_req_who(req), "SELECT mull_token_revoke($1::bigint, $2, $3)", 3, params, on_revoked, c);
}

void mull__whoami(mull_req *req) {
    static const char *const roles[] = {"none", "viewer", "member", "admin"};
    const mull_identity *who = mull_req_who(req);
    mull_reply_json(req, 200,
                    json_pack("{s:s, s:s, s:s}", "user", who->user, "team", who->team, "role", roles[who->role]));
}

void mull__audit(mull_front *f, mull_req *req) {
    mull_page p;
    if (!mull__page(req, &p)) return;
    const char *params[] = {p.cursor, p.limit};
    mull__answer(f, req, "SELECT mull_audit($1::bigint, $2::int)", 2, params);
}

void mull__audit_verify(mull_front *f, mull_req *req) {
    enum { MOST = 10000 };
    int64_t after, limit;
    char a[24], l[24];
    if (mull_query_int(mull_req_query(req, "after"), 0, INT64_MAX, 0, &after) != 0 ||
        mull_query_int(mull_req_query(req, "limit"), 1, MOST, MOST, &limit) != 0) {
        mull_reply_error(req, 400, "bad_query", "after and limit are numbers, limit from 1 to %d", MOST);
        return;
    }
    snprintf(a, sizeof a, "%" PRId64, after);
    snprintf(l, sizeof l, "%" PRId64, limit);
    mull__answer(f, req, "SELECT mull_audit_verify($1::bigint, $2::int)", 2, (const char *[]){a, l});
}

void mull__audit_seal(mull_front *f) {
    enum { EVERY_MS = 2000 };
    uint64_t now = uv_now(f->cfg.loop);
    if (now - f->sealed_ms < EVERY_MS) return;
    f->sealed_ms = now;
    mull_pg_query(f->cfg.pg, "SELECT mull_audit_seal(20000)", 0, NULL, NULL, NULL);
}
