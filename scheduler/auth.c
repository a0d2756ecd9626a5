/* Who is asking. On the unix socket the kernel says it (SO_PEERCRED): the server's own user and root are let in. Over
 * TCP a bearer token is needed; only its SHA-256 is known here and in the database. A token found good is remembered
 * for a few seconds, so that a busy client costs no extra statement and a revoked token dies soon.
 *
 * Over TCP a token has its rate of requests, and an address has one for what needs no token and a much lower one for
 * tokens that are not known, so that nobody can try many, or keep the database busy with them. A token that is
 * remembered is not held up by others at its address who try. */
#include "scheduler/front.h"

#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

enum { REMEMBER_MS = 5000, SLOTS = 256, UNKNOWN_RATE = 1, UNKNOWN_BURST = 20 };

typedef struct remembered {
    char hash[65];
    uint64_t until;
    mull_identity who;
} remembered;

struct mull_tokens {
    char own_name[64];
    mull_limit *unknown; /* by address: tokens to be looked up that may turn out to be none */
    remembered slots[SLOTS];
};

typedef struct auth_call {
    mull_front *front;
    mull_req *req;
    void (*next)(mull_front *, mull_req *);
    char hash[65];
    bool charged; /* to the address, as a token that may be none */
} auth_call;

struct mull_tokens *mull__tokens_create(void) {
    struct mull_tokens *t = calloc(1, sizeof *t);
    if (!t || !(t->unknown = mull_limit_create(UNKNOWN_RATE, UNKNOWN_BURST))) {
        free(t);
        return NULL;
    }
    /* Looked up once: the name service may block. */
    struct passwd *pw = getpwuid(geteuid());
    if (pw)
        snprintf(t->own_name, sizeof t->own_name, "%s", pw->pw_name);
    else
        snprintf(t->own_name, sizeof t->own_name, "uid%u", (unsigned)geteuid());
    return t;
}

void mull__tokens_forget(struct mull_tokens *t) {
    memset(t->slots, 0, sizeof t->slots);
}

void mull__tokens_destroy(struct mull_tokens *t) {
    if (t) mull_limit_destroy(t->unknown);
    free(t);
}

static void unix_peer(mull_front *f, mull_req *req, void (*next)(mull_front *, mull_req *)) {
    uid_t uid;
    if (mull_req_peer_uid(req, &uid) != 0 || (uid != geteuid() && uid != 0)) {
        mull_reply_error(req, 403, "forbidden", "this socket serves its owner (%s) and root only", f->tokens->own_name);
        return;
    }
    mull_identity *who = mull_req_who(req);
    snprintf(who->user, sizeof who->user, "%s", uid == 0 ? "root" : f->tokens->own_name);
    who->role = MULL_ROLE_ADMIN;
    next(f, req);
}

static void unauthorized(mull_front *f, mull_req *req, const char *why) {
    f->unauthorized++;
    mull_reply_error(req, 401, "unauthorized", "%s", why);
}

static bool within(mull_front *f, mull_req *req, mull_limit *limit, const char *key, const char *whose) {
    if (mull_limit_take(limit, key, uv_hrtime() / 1000) == 0) return true;
    f->limited++;
    mull_reply_error(req, 429, "rate_limited", "too many requests %s; wait a second, then go on more slowly", whose);
    return false;
}

bool mull__may_ask(mull_front *f, mull_req *req) {
    char peer[MULL_HTTP_PEER];
    return mull_req_is_unix(req) || within(f, req, f->limit, mull_req_peer(req, peer), "from this address");
}

static mull_role role_of(const char *name) {
    if (strcmp(name, "admin") == 0) return MULL_ROLE_ADMIN;
    if (strcmp(name, "member") == 0) return MULL_ROLE_MEMBER;
    return strcmp(name, "viewer") == 0 ? MULL_ROLE_VIEWER : MULL_ROLE_NONE;
}

static remembered *slot_of(mull_front *f, const char *hash) {
    unsigned long h = strtoul((char[]){hash[0], hash[1], hash[2], hash[3], 0}, NULL, 16);
    return &f->tokens->slots[h % SLOTS];
}

static void remember(auth_call *c) {
    remembered *slot = slot_of(c->front, c->hash);
    memcpy(slot->hash, c->hash, sizeof slot->hash);
    slot->until = uv_now(c->front->cfg.loop) + REMEMBER_MS;
    slot->who = *mull_req_who(c->req);
}

/* It is none of those that may be none: its address gets back what was charged for the asking. */
static void known(const auth_call *c) {
    char peer[MULL_HTTP_PEER];
    if (c->charged) mull_limit_give(c->front->tokens->unknown, mull_req_peer(c->req, peer));
}

static void on_node(const mull_pg_reply *r, void *arg) {
    auth_call c = *(auth_call *)arg;
    free(arg);
    if (mull__front_failed(c.req, r)) return;
    if (PQntuples(r->res) != 1 || PQgetisnull(r->res, 0, 0)) {
        unauthorized(c.front, c.req, "the node is unknown or revoked");
        return;
    }
    known(&c);
    snprintf(mull_req_who(c.req)->node, sizeof mull_req_who(c.req)->node, "%s", PQgetvalue(r->res, 0, 0));
    remember(&c);
    if (within(c.front, c.req, c.front->limit, c.hash, "as this node")) c.next(c.front, c.req);
}

static void on_token(const mull_pg_reply *r, void *arg) {
    auth_call c = *(auth_call *)arg;
    free(arg);
    if (mull__front_failed(c.req, r)) return;
    mull_role role = PQntuples(r->res) == 1 ? role_of(PQgetvalue(r->res, 0, 2)) : MULL_ROLE_NONE;
    remembered *slot = slot_of(c.front, c.hash);
    if (role == MULL_ROLE_NONE) {
        if (strcmp(slot->hash, c.hash) == 0) slot->hash[0] = 0;
        unauthorized(c.front, c.req, "the token is unknown, expired or revoked");
        return;
    }
    known(&c);
    mull_identity *who = mull_req_who(c.req);
    snprintf(who->user, sizeof who->user, "%s", PQgetvalue(r->res, 0, 0));
    snprintf(who->team, sizeof who->team, "%s", PQgetvalue(r->res, 0, 1));
    who->role = role;
    remember(&c);
    if (within(c.front, c.req, c.front->limit, c.hash, "with this token")) c.next(c.front, c.req);
}

void mull__authenticate(mull_front *f, mull_req *req, void (*next)(mull_front *, mull_req *)) {
    if (mull_req_is_unix(req)) {
        unix_peer(f, req, next);
        return;
    }
    const char *header = mull_req_header(req, "Authorization");
    if (!header || strncasecmp(header, "Bearer ", 7) != 0 || !header[7]) {
        if (mull__may_ask(f, req)) unauthorized(f, req, "send Authorization: Bearer TOKEN");
        return;
    }
    auth_call *c = calloc(1, sizeof *c);
    if (!c || !mull__secret_sum(header + 7, c->hash)) {
        free(c);
        mull_reply_error(req, 503, "unavailable", "the server is out of memory; try again");
        return;
    }
    c->front = f;
    c->req = req;
    c->next = next;
    remembered *slot = slot_of(f, c->hash);
    if (slot->until > uv_now(f->cfg.loop) && strcmp(slot->hash, c->hash) == 0) {
        bool ok = within(f, req, f->limit, c->hash, "with this token");
        *mull_req_who(req) = slot->who;
        free(c);
        if (ok) next(f, req);
        return;
    }
    char peer[MULL_HTTP_PEER];
    /* One that was good until a moment ago is not among those that may be none: many clients may come with it at once.
     */
    c->charged = strcmp(slot->hash, c->hash) != 0;
    if (c->charged && !within(f, req, f->tokens->unknown, mull_req_peer(req, peer),
                              "from this address with tokens that are not known")) {
        free(c);
        return;
    }
    const char *params[] = {c->hash};
    if (!strncmp(header + 7, "mulln_", 6)) {
        mull_pg_query(f->cfg.pg, "SELECT mull_node_auth($1)", 1, params, on_node, c);
        return;
    }
    mull_pg_query(f->cfg.pg, "SELECT * FROM mull_auth($1)", 1, params, on_token, c);
}
