/* Workers of other hosts come in: tokens to join with, joining, and throwing a node out again.
 *
 * A token is made for a short time and few uses. Who brings one gets, for the node's name, a user of its own in Redis
 * that can write events and read inboxes whose names it knows (they are secrets, keys.h) and nothing else, and a secret
 * for what the front door does for nodes. Events name the node they speak of and are not signed: a node that joined is
 * trusted as all workers together are. Redis is told SHA-256 of the password and so is PostgreSQL, from where the
 * leader makes the users again in a Redis that has forgotten them (redis_users.c). Revoking deletes the user, which
 * ends its connections; its engines end with their leases. */
#include "scheduler/front.h"
#include "scheduler/redis_users.h"

#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>

enum { SECRET_BYTES = 32, MINUTES = 60, MINUTES_MAX = 7 * 24 * 60, USES_MAX = 100000, NODE_MAX = 127 };

typedef struct call {
    mull_front *front;
    mull_req *req;
    char node[NODE_MAX + 1];
    char password[2 * SECRET_BYTES + 1], secret[2 * SECRET_BYTES + 8], sum[65];
} call;

static call *call_new(mull_front *f, mull_req *req) {
    call *c = calloc(1, sizeof *c);
    if (c)
        *c = (call){.front = f, .req = req};
    else
        mull_reply_error(req, 503, "unavailable", "the server is out of memory; try again");
    return c;
}

static void call_free(call *c) {
    OPENSSL_cleanse(c, sizeof *c);
    free(c);
}

static void make_secret(char out[2 * SECRET_BYTES + 1]) {
    unsigned char random[SECRET_BYTES];
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random) abort(); /* never for so few bytes */
    mull__hex(random, sizeof random, out);
    OPENSSL_cleanse(random, sizeof random);
}

/* Letters, digits, '.', '-', '_', as the worker has it. */
static bool name_ok(const char *s) {
    size_t n = strlen(s);
    return n > 0 && n <= NODE_MAX &&
           strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") == n;
}

static bool number_of(mull_req *req, const json_t *body, const char *key, int low, int high, int otherwise, int *out) {
    const json_t *v = json_object_get(body, key);
    *out = otherwise;
    if (!v) return true;
    if (json_is_integer(v) && json_integer_value(v) >= low && json_integer_value(v) <= high) {
        *out = (int)json_integer_value(v);
        return true;
    }
    mull_reply_error(req, 400, "bad_token", "%s is a whole number from %d to %d", key, low, high);
    return false;
}

/* ---- tokens ---- */

static void on_created(const mull_pg_reply *r, void *arg) {
    call *c = arg;
    if (!mull__front_failed(c->req, r)) {
        const char *pin = c->front->cfg.tls_pin;
        char token[200];
        /* The pin lets a new host know this server without having its certificate. */
        snprintf(token, sizeof token, "%s%s%s", c->secret, pin ? "." : "", pin ? pin : "");
        mull_reply_json(c->req, 201,
                        json_pack("{s:s, s:s, s:s}", "id", PQgetvalue(r->res, 0, 0), "token", token, "expires_at",
                                  PQgetvalue(r->res, 0, 1)));
        OPENSSL_cleanse(token, sizeof token);
    }
    call_free(c);
}

static void create(mull_front *f, mull_req *req, json_t *body) {
    static const char *const keys[] = {"node", "minutes", "uses", "note"};
    const json_t *n = json_object_get(body, "node"), *note = json_object_get(body, "note");
    int minutes, uses;
    if (!mull__known_keys(req, body, keys, 4, "bad_token") ||
        !number_of(req, body, "minutes", 1, MINUTES_MAX, MINUTES, &minutes) ||
        !number_of(req, body, "uses", 0, USES_MAX, 1, &uses))
        return;
    if ((n && !json_is_null(n) && (!json_is_string(n) || !name_ok(json_string_value(n)))) ||
        (note && (!json_is_string(note) || json_string_length(note) > 200))) {
        mull_reply_error(req, 400, "bad_token",
                         "node is a name of letters, digits, '.', '-' and '_'; note is a text of at most 200 bytes");
        return;
    }
    if (!f->cfg.worker_redis) {
        mull_reply_error(req, 409, "not_open",
                         "no worker of another host can join: this server was started without --worker-redis (mull "
                         "up: --workers)");
        return;
    }
    call *c = call_new(f, req);
    if (!c) return;
    char number[2][16];
    snprintf(number[0], sizeof number[0], "%d", minutes);
    snprintf(number[1], sizeof number[1], "%d", uses);
    strcpy(c->secret, "mullj_");
    make_secret(c->secret + 6);
    if (!mull__secret_sum(c->secret, c->sum)) {
        mull_reply_error(req, 503, "unavailable", "the server is out of memory; try again");
        call_free(c);
        return;
    }
    const char *params[] = {c->sum,    json_is_string(n) ? json_string_value(n) : "", number[0],
                            number[1], note ? json_string_value(note) : "",           mull_req_who(req)->user};
    mull_pg_query(f->cfg.pg, "SELECT * FROM mull_node_token_create($1, $2, $3::int, $4::int, $5, $6)", 6, params,
                  on_created, c);
}

void mull__node_token_create(mull_front *f, mull_req *req) {
    json_t *body = mull__body(req);
    if (body) create(f, req, body);
    json_decref(body);
}

static void on_token_revoked(const mull_pg_reply *r, void *arg) {
    mull_call c = *(mull_call *)arg;
    free(arg);
    if (mull__front_failed(c.req, r)) return;
    char id[24];
    snprintf(id, sizeof id, "%lld", (long long)mull_req_route(c.req)->job);
    if (PQgetvalue(r->res, 0, 0)[0] != 't')
        mull_reply_error(c.req, 404, "not_found", "there is no token %s for nodes", id);
    else
        mull_reply_json(c.req, 200, json_pack("{s:s, s:s}", "id", id, "state", "revoked"));
}

void mull__node_token_revoke(mull_front *f, mull_req *req) {
    char id[24];
    snprintf(id, sizeof id, "%lld", (long long)mull_req_route(req)->job);
    const char *params[] = {id, mull_req_who(req)->user};
    mull_call *c = mull__call_new(f, req);
    if (c) mull_pg_query(f->cfg.pg, "SELECT mull_node_token_revoke($1::bigint, $2)", 2, params, on_token_revoked, c);
}

/* ---- joining ---- */

/* Where this node finds Redis: '*' in the address stands for the host by which it found us. */
static void redis_address(const call *c, char *out, size_t cap) {
    const char *given = c->front->cfg.worker_redis, *rest = strstr(given, "://") + 3, *star = strchr(rest, '*');
    const char *host = mull_req_header(c->req, "Host");
    char own[300] = "localhost";
    if (host && *host && strlen(host) < sizeof own) {
        const char *end = *host == '[' ? strchr(host, ']') : strchr(host, ':');
        size_t n = end ? (size_t)(end - host) + (*host == '[') : strlen(host);
        snprintf(own, sizeof own, "%.*s", (int)n, host);
    }
    int scheme = (int)(rest - given);
    if (star)
        snprintf(out, cap, "%.*snode-%s@%.*s%s%s", scheme, given, c->node, (int)(star - rest), rest, own, star + 1);
    else
        snprintf(out, cap, "%.*snode-%s@%s", scheme, given, c->node, rest);
}

static void on_user_made(const redisReply *reply, void *arg) {
    call *c = arg;
    char address[1200];
    if (!reply || reply->type == REDIS_REPLY_ERROR) {
        mull_reply_error(c->req, 503, "unavailable", "Redis did not take the node's user%s%s; join again",
                         reply ? ": " : "", reply ? reply->str : "");
    } else {
        redis_address(c, address, sizeof address);
        mull_reply_json(c->req, 201,
                        json_pack("{s:s, s:s, s:s, s:s?, s:s, s:s?}", "node", c->node, "redis", address,
                                  "redis_password", c->password, "redis_ca", c->front->cfg.worker_ca, "secret",
                                  c->secret, "ca", c->front->cfg.tls_ca));
    }
    call_free(c);
}

static void on_joined(const mull_pg_reply *r, void *arg) {
    call *c = arg;
    if (mull__front_failed(c->req, r)) {
        call_free(c);
        return;
    }
    if (!PQgetisnull(r->res, 0, 0)) {
        mull_reply_error(c->req, 403, "forbidden", "%s", PQgetvalue(r->res, 0, 0));
        call_free(c);
        return;
    }
    mull__redis_user_drop(c->front->cfg.redis, c->node, NULL, NULL); /* and what still speaks as it */
    mull__redis_user_make(c->front->cfg.redis, c->node, c->sum, on_user_made, c);
}

static void join(mull_front *f, mull_req *req, const char *token, json_t *body) {
    static const char *const keys[] = {"node"};
    const char *node = json_string_value(json_object_get(body, "node"));
    char token_sum[65], secret_sum[65], bare[200];
    if (!mull__known_keys(req, body, keys, 1, "bad_node")) return;
    if (!node || !name_ok(node)) {
        mull_reply_error(req, 400, "bad_node", "node is a name of 1 to %d letters, digits, '.', '-' and '_'", NODE_MAX);
        return;
    }
    if (!f->cfg.worker_redis) {
        mull_reply_error(req, 409, "not_open", "this server was started without --worker-redis: no worker can join");
        return;
    }
    if (!mull_redis_connected(f->cfg.redis)) { /* before the token is used and what the node had is void */
        mull_reply_error(req, 503, "unavailable", "Redis cannot be reached, where the node's user is made; join again");
        return;
    }
    snprintf(bare, sizeof bare, "%.*s", (int)strcspn(token, "."), token); /* without the pin */
    call *c = call_new(f, req);
    if (!c) return;
    snprintf(c->node, sizeof c->node, "%s", node);
    make_secret(c->password);
    strcpy(c->secret, "mulln_");
    make_secret(c->secret + 6);
    if (!mull__secret_sum(bare, token_sum) || !mull__secret_sum(c->password, c->sum) ||
        !mull__secret_sum(c->secret, secret_sum)) {
        mull_reply_error(req, 503, "unavailable", "the server is out of memory; try again");
        call_free(c);
        return;
    }
    const char *params[] = {token_sum, node, c->sum, secret_sum};
    mull_pg_query(f->cfg.pg, "SELECT mull_node_join($1, $2, $3, $4)", 4, params, on_joined, c);
}

void mull__node_join(mull_front *f, mull_req *req) {
    const char *header = mull_req_header(req, "Authorization");
    if (!header || strncasecmp(header, "Bearer ", 7) != 0 || strncmp(header + 7, "mullj_", 6) != 0) {
        mull_reply_error(req, 401, "unauthorized", "a worker joins with a token of mull node token");
        return;
    }
    json_t *body = mull__body(req);
    if (body) join(f, req, header + 7, body);
    json_decref(body);
}

/* ---- throwing out ---- */

static void on_user_dropped(const redisReply *reply, void *arg) {
    call *c = arg;
    /* Without Redis the leader does it when it is back. */
    mull_reply_json(c->req, 200,
                    json_pack("{s:s, s:s, s:b}", "name", c->node, "state", "revoked", "cut_off",
                              reply && reply->type == REDIS_REPLY_INTEGER));
    call_free(c);
}

static void on_revoked(const mull_pg_reply *r, void *arg) {
    call *c = arg;
    if (mull__front_failed(c->req, r)) {
        call_free(c);
    } else if (PQgetvalue(r->res, 0, 0)[0] != 't') {
        mull_reply_error(c->req, 404, "not_found", "no node %s has joined with a token", c->node);
        call_free(c);
    } else {
        mull__tokens_forget(c->front->tokens);
        mull__redis_user_drop(c->front->cfg.redis, c->node, on_user_dropped, c);
    }
}

void mull__node_revoke(mull_front *f, mull_req *req) {
    call *c = call_new(f, req);
    if (!c) return;
    snprintf(c->node, sizeof c->node, "%s", mull_req_route(req)->name);
    const char *params[] = {c->node, mull_req_who(req)->user};
    mull_pg_query(f->cfg.pg, "SELECT mull_node_revoke($1, $2)", 2, params, on_revoked, c);
}
