/* Workers that join by token: what a token is good for and for how long, what a node may do in Redis and what not, how
 * it is thrown out, and whose files it may move, at the front door and against real servers. */
#include "tests/scheduler/flow.h"
#include "tests/support/run.h"

#include <hiredis/hiredis.h>
#include <sys/socket.h>

static flow f;
static int port, redis_port;
static char shared[128];

static void serve(void) {
    char line[500] = "", words[64];
    const char *argv[] = {MULL_BIN_DIR "/mull-scheduler",
                          "serve",
                          "--pg",
                          f.pg,
                          "--redis",
                          f.s.redis_addr,
                          "--listen",
                          NULL,
                          "--listen",
                          "tcp:127.0.0.1:0",
                          "--name",
                          "one",
                          "--worker-redis",
                          words,
                          "--export",
                          shared,
                          NULL};
    char listen[128];
    snprintf(listen, sizeof listen, "unix:%s", f.sock);
    argv[7] = listen;
    snprintf(words, sizeof words, "redis://*:%d", redis_port);
    f.scheduler = mull_spawn(f.log, argv);
    assert_true(mull_wait_for(flow_ready, f.sock, 20000));
    FILE *in = fopen(f.log, "r");
    while (in && fgets(line, sizeof line, in))
        if (strstr(line, "tcp:127.0.0.1:")) sscanf(strstr(line, "tcp:127.0.0.1:"), "tcp:127.0.0.1:%d", &port);
    if (in) fclose(in);
    assert_true(port > 0);
}

static void open_redis_port(void) {
    char words[64];
    snprintf(words, sizeof words, "CONFIG SET port %d", redis_port);
    json_decref(mull_redis_do(&f.s, words));
}

static int setup(void **state) {
    (void)state;
    flow_prepare(&f, 0);
    redis_port = mull_free_port();
    open_redis_port();
    snprintf(shared, sizeof shared, "%s/shared", f.s.dir);
    mkdir(shared, 0755);
    serve();
    return 0;
}
static int teardown(void **state) {
    (void)state;
    flow_stop(&f);
    return 0;
}

/* One request over TCP; the status and, when it is JSON, the answer (else NULL); raw gets the body. */
static int ask(const char *method, const char *target, const char *bearer, const char *body, json_t **answer) {
    static char request[20000], out[200000];
    size_t n = 0, len = body ? strlen(body) : 0;
    snprintf(request, sizeof request,
             "%s %s HTTP/1.1\r\nHost: queue.example:8443\r\nConnection: close\r\nAuthorization: Bearer %s\r\n"
             "Content-Length: %zu\r\n\r\n%s",
             method, target, bearer, len, body ? body : "");
    int fd = mull_dial_tcp(port), status = 0;
    assert_true(fd >= 0);
    assert_int_equal(send(fd, request, strlen(request), MSG_NOSIGNAL), (ssize_t)strlen(request));
    for (ssize_t k; (k = recv(fd, out + n, sizeof out - 1 - n, 0)) > 0;) n += (size_t)k;
    out[n] = 0;
    close(fd);
    sscanf(out, "HTTP/1.%*d %d", &status);
    const char *start = strstr(out, "\r\n\r\n");
    json_t *j = start ? json_loads(start + 4, 0, NULL) : NULL;
    if (answer)
        *answer = j;
    else
        json_decref(j);
    return status;
}

static char *new_token(const char *body) {
    int status;
    json_t *j = mull_http_json(f.sock, "POST", "/v1/nodes/tokens", body, &status);
    assert_int_equal(status, 201);
    char *token = strdup(text_of(j, "token"));
    assert_int_equal(strncmp(token, "mullj_", 6), 0);
    json_decref(j);
    return token;
}

static json_t *join(const char *token, const char *node, int want) {
    char body[100];
    json_t *j;
    snprintf(body, sizeof body, "{\"node\":\"%s\"}", node);
    int status = ask("POST", "/v1/nodes/join", token, body, &j);
    if (status != want) {
        char *text = json_dumps(j, 0);
        fail_msg("joining as %s: %d, not %d: %s", node, status, want, text ? text : "");
    }
    return j;
}

static void refused(const char *token, const char *node, int status, const char *words) {
    json_t *j = join(token, node, status);
    const char *why = text_of(json_object_get(j, "error"), "message");
    if (!strstr(why, words)) fail_msg("'%s' is not in '%s'", words, why);
    json_decref(j);
}

/* A connection as a node; NULL when Redis refuses. */
static redisContext *as_node(const json_t *joined) {
    char user[100];
    redisContext *c = redisConnect("127.0.0.1", redis_port);
    assert_true(c && !c->err);
    assert_int_equal(sscanf(text_of(joined, "redis"), "redis://%99[^@]@", user), 1);
    redisReply *r = redisCommand(c, "AUTH %s %s", user, text_of(joined, "redis_password"));
    bool ok = r && r->type == REDIS_REPLY_STATUS;
    if (r) freeReplyObject(r);
    if (ok) return c;
    redisFree(c);
    return NULL;
}

static bool may(redisContext *c, const char *words) {
    redisReply *r = redisCommand(c, words);
    bool ok = r && (r->type != REDIS_REPLY_ERROR || strncmp(r->str, "NOPERM", 6) != 0);
    if (r) freeReplyObject(r);
    return ok;
}

static void what_a_token_is_good_for(void **state) {
    (void)state;
    char *once = new_token("{}"), *named = new_token("{\"node\":\"n7\",\"uses\":0}"), *old = new_token("{\"uses\":0}"),
         *dead = new_token("{\"uses\":0}"), with_pin[200];
    refused("mullj_0", "n1", 403, "unknown");
    refused("mull_0", "n1", 401, "mull node token");
    snprintf(with_pin, sizeof with_pin, "%s.AAAA", once); /* what stands behind the dot is the client's affair */
    json_t *j = join(with_pin, "n1", 201);
    char want[80];
    snprintf(want, sizeof want, "redis://node-n1@queue.example:%d", redis_port);
    assert_string_equal(text_of(j, "redis"), want);
    assert_int_equal(strlen(text_of(j, "redis_password")), 64);
    json_decref(j);
    refused(once, "n2", 403, "used up");
    refused(named, "n2", 403, "for the node n7");
    json_decref(join(named, "n7", 201));
    json_decref(join(named, "n7", 201)); /* again: a new password */
    refused(named, "no/name", 400, "letters, digits");
    refused(old, "", 400, "letters, digits");
    free(mull_sql(f.pg, "UPDATE node_token SET expires_at = now() - interval '1 s' WHERE id = 3"));
    refused(old, "n3", 403, "expired");
    assert_int_equal(mull_http_do(f.sock, "DELETE", "/v1/nodes/tokens/4", NULL, NULL, NULL), 200);
    refused(dead, "n3", 403, "revoked");
    assert_int_equal(mull_http_do(f.sock, "DELETE", "/v1/nodes/tokens/99", NULL, NULL, NULL), 404);
    assert_int_equal(mull_http_do(f.sock, "POST", "/v1/nodes/tokens", NULL, "{\"minutes\":0}", NULL), 400);
    assert_int_equal(mull_http_do(f.sock, "POST", "/v1/nodes/tokens", NULL, "{\"minute\":5}", NULL), 400);
    /* No secret is kept. */
    char *kept = mull_sql(f.pg, "SELECT string_agg(t::text, '') FROM (SELECT hash FROM node_token UNION ALL "
                                "SELECT redis_sum || secret_sum FROM node_credential) t");
    assert_null(strstr(kept, once + 6));
    free(kept);
    json_t *list = flow_get(&f, "/v1/nodes/tokens");
    assert_int_equal(json_array_size(json_object_get(list, "tokens")), 4);
    assert_string_equal(text_of(json_array_get(json_object_get(list, "tokens"), 3), "state"), "used");
    json_decref(list);
    free(once);
    free(named);
    free(old);
    free(dead);
}

static void what_a_node_may_do_in_redis(void **state) {
    (void)state;
    char *token = new_token("{\"uses\":0}");
    json_t *j = join(token, "r1", 201);
    redisContext *c = as_node(j);
    assert_non_null(c);
    assert_true(may(c, "PING"));
    assert_true(may(c, "ROLE"));
    assert_true(may(c, "XADD mull:events MAXLEN ~ 200000 * m {}"));
    assert_true(may(c, "XREAD COUNT 1 STREAMS mull:inbox:0123 0-0"));
    assert_true(may(c, "XINFO STREAM mull:inbox:0123"));
    assert_true(may(c, "EXPIRE mull:inbox:0123 100"));
    /* Neither others' events, nor names of inboxes, nor anything that ends them. */
    static const char *const no[] = {"XRANGE mull:events - +",
                                     "XREAD STREAMS mull:events 0-0",
                                     "KEYS *",
                                     "SCAN 0",
                                     "DEL mull:events",
                                     "XTRIM mull:events MAXLEN 0",
                                     "FLUSHALL",
                                     "CONFIG GET *",
                                     "ACL LIST",
                                     "SHUTDOWN",
                                     "XADD mull:ready * m {}",
                                     "SET x 1",
                                     "EVAL return 0",
                                     "MONITOR",
                                     "CLIENT LIST",
                                     "SUBSCRIBE x",
                                     "REPLICAOF NO ONE"};
    for (size_t i = 0; i < sizeof no / sizeof *no; i++)
        if (may(c, no[i])) fail_msg("a node may: %s", no[i]);
    json_t *again = join(token, "r1", 201);
    assert_null(as_node(j)); /* the old password is void */
    redisContext *d = as_node(again);
    assert_non_null(d);
    redisReply *r = redisCommand(c, "PING");
    assert_null(r); /* and its connections are cut */
    redisFree(c);
    redisFree(d);
    json_decref(again);
    json_decref(j);
    free(token);
}

static bool can_enter(void *joined) {
    redisContext *c = as_node(joined);
    if (c) redisFree(c);
    return c != NULL;
}

static void redis_that_forgot_them_is_told_again(void **state) {
    (void)state;
    char *token = new_token("{\"uses\":0}");
    json_t *j = join(token, "s1", 201);
    mull_servers_kill_redis(&f.s);
    mull_servers_redis(&f.s);
    json_decref(mull_redis_do(&f.s, "ACL SETUSER node-ghost on nopass +ping")); /* one that PostgreSQL does not know */
    open_redis_port();
    assert_true(mull_wait_for(can_enter, j, 20000));
    json_t *users = mull_redis_do(&f.s, "ACL USERS"), *u;
    size_t i;
    for (int k = 0; k < 100; k++) {
        bool ghost = false;
        json_array_foreach(users, i, u) ghost |= !strcmp(json_string_value(u), "node-ghost");
        if (!ghost) break;
        assert_int_not_equal(k, 99);
        mull_sleep_ms(50);
        json_decref(users);
        users = mull_redis_do(&f.s, "ACL USERS");
    }
    json_decref(users);
    json_decref(j);
    free(token);
}

static void a_revoked_node_is_outside(void **state) {
    (void)state;
    char *before = new_token("{\"uses\":0}");
    json_t *j = join(before, "v1", 201), *k;
    redisContext *c = as_node(j);
    assert_non_null(c);
    int status;
    k = mull_http_json(f.sock, "POST", "/v1/nodes/v1/revoke", NULL, &status);
    assert_int_equal(status, 200);
    assert_true(json_is_true(json_object_get(k, "cut_off")));
    json_decref(k);
    redisReply *r = redisCommand(c, "PING");
    assert_null(r);
    redisFree(c);
    assert_null(as_node(j));
    assert_int_equal(ask("GET", "/v1/jobs/1/files?path=/x&fence=1", text_of(j, "secret"), NULL, NULL), 401);
    refused(before, "v1", 403, "revoked after this token was made");
    char *after = new_token("{}");
    json_decref(join(after, "v1", 201));
    assert_int_equal(mull_http_do(f.sock, "POST", "/v1/nodes/nobody/revoke", NULL, NULL, NULL), 404);
    /* Only admins. */
    free(mull_sql(f.pg, "INSERT INTO team (name) VALUES ('red') ON CONFLICT DO NOTHING"));
    free(mull_sql(f.pg, "INSERT INTO app_user (name) VALUES ('ann') ON CONFLICT DO NOTHING"));
    free(mull_sql(f.pg, "INSERT INTO token (hash, \"user\", team, role) VALUES "
                        "(encode(sha256('member'), 'hex'), 'ann', 'red', 'member')"));
    assert_int_equal(ask("POST", "/v1/nodes/v1/revoke", "member", NULL, NULL), 403);
    assert_int_equal(ask("POST", "/v1/nodes/tokens", "member", "{}", NULL), 403);
    assert_int_equal(ask("GET", "/v1/nodes/tokens", "member", NULL, NULL), 403);
    json_decref(j);
    free(before);
    free(after);
}

static int files(const char *method, long long job, const char *below, const char *path, long long fence,
                 const char *more, const char *bearer, const char *body) {
    char target[600];
    snprintf(target, sizeof target, "/v1/jobs/%lld/files%s?path=%s&fence=%lld%s", job, below, path, fence, more);
    return ask(method, target, bearer, body, NULL);
}

static void whose_files(void **state) {
    (void)state;
    char *token = new_token("{\"uses\":0}");
    json_t *a = join(token, "t1", 201), *b = join(token, "t2", 201);
    const char *mine = text_of(a, "secret"), *other = text_of(b, "secret");
    char path[200], out[200], inside[220], target[300], spec[900];
    snprintf(path, sizeof path, "%s/in.jsonl", shared);
    FILE *in = fopen(path, "w");
    fputs("{\"messages\":[]}\n", in);
    fclose(in);
    snprintf(out, sizeof out, "%s/out", shared);
    snprintf(inside, sizeof inside, "%s/out/x", shared);
    snprintf(spec, sizeof spec, "{\"spec\":{\"kind\":\"annotate\",\"model\":\"%s\",\"input\":\"%s\",\"out\":\"%s\"}}",
             f.model, path, out);
    int status;
    json_t *j = mull_http_json(f.sock, "POST", "/v1/jobs", spec, &status);
    assert_int_equal(status, 201);
    long long job = atoll(text_of(j, "id"));
    json_decref(j);
    by_hand w;
    worker_hello(&w, &f, "t1", "boot-t1", 1);
    attempt run = begin_next(&w);
    assert_int_equal(run.job, job);
    long long fence = run.fence;
    /* Reads where it is exported, while it runs there. */
    assert_int_equal(files("GET", job, "", path, fence, "", mine, NULL), 200);
    assert_int_equal(files("GET", job, "/bytes", path, fence, "&offset=0&limit=5", mine, NULL), 200);
    assert_int_equal(files("GET", job, "", path, fence, "", other, NULL), 409);
    assert_int_equal(files("GET", job, "", path, fence + 1, "", mine, NULL), 409);
    assert_int_equal(files("GET", job, "", "/etc/passwd", fence, "", mine, NULL), 403);
    snprintf(target, sizeof target, "%s/../mull.sock", shared);
    assert_int_equal(files("GET", job, "", target, fence, "", mine, NULL), 403);
    /* Writes below out only. */
    assert_int_equal(files("PUT", job, "/bytes", inside, fence, "&offset=0", mine, "hello"), 200);
    assert_int_equal(files("PUT", job, "/bytes", path, fence, "&offset=0", mine, "hello"), 403);
    assert_int_equal(files("PUT", job, "/bytes", inside, fence, "&offset=0", other, "hello"), 409);
    assert_int_equal(files("PUT", job, "/bytes", inside, fence, "&offset=0", "member", "hello"), 403);
    assert_int_equal(files("POST", job, "/commit", inside, fence, "&sha256=0", mine, ""), 400);
    assert_int_equal(files("POST", job, "/commit", inside, fence,
                           "&sha256=2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824", mine, ""),
                     200);
    assert_int_equal(access(inside, F_OK), 0);
    /* A node may do nothing else. */
    assert_int_equal(ask("GET", "/v1/jobs", mine, NULL, NULL), 403);
    assert_int_equal(ask("POST", "/v1/jobs", mine, spec, NULL), 403);
    assert_int_equal(ask("POST", "/v1/nodes/tokens", mine, "{}", NULL), 403);
    /* A user sees what the job of the own team wrote. */
    assert_int_equal(ask("GET", "/v1/jobs/999/files", "member", NULL, NULL), 404);
    snprintf(target, sizeof target, "/v1/jobs/%lld/files", job);
    assert_int_equal(ask("GET", target, "member", NULL, NULL), 404); /* another team's */
    json_t *tree = flow_get(&f, target);
    assert_int_equal(json_array_size(json_object_get(tree, "files")), 1);
    json_decref(tree);
    snprintf(target, sizeof target, "/v1/jobs/%lld/files?path=%s", job, path);
    assert_int_equal(mull_http_do(f.sock, "GET", target, NULL, NULL, NULL), 403);
    /* Over: nothing more of it. */
    end_attempt(&w, &run, "ok", 0);
    flow_expect(&f, job, "COMPLETED", 20000);
    assert_int_equal(files("PUT", job, "/bytes", inside, fence, "&offset=0", mine, "late!"), 409);
    assert_int_equal(files("DELETE", job, "", inside, fence, "", mine, NULL), 409);
    assert_int_equal(access(inside, F_OK), 0);
    json_decref(a);
    json_decref(b);
    free(token);
}

/* Each of many nodes of one address is asked about once: none of them is one that tries secrets out. */
static void good_secrets_are_not_guesses(void **state) {
    (void)state;
    free(mull_sql(f.pg, "INSERT INTO node_credential (node, redis_sum, secret_sum, token) SELECT 'many' || i, '0', "
                        "encode(sha256(('mulln_many' || i)::bytea), 'hex'), 1 FROM generate_series(1, 60) i"));
    for (int i = 1; i <= 60; i++) {
        char secret[40];
        snprintf(secret, sizeof secret, "mulln_many%d", i);
        assert_int_equal(ask("GET", "/v1/jobs", secret, NULL, NULL), 403); /* known, and no user */
    }
    int refusals = 0;
    for (int i = 0; i < 60; i++) refusals += ask("GET", "/v1/jobs", "mulln_guess", NULL, NULL) == 429;
    assert_true(refusals > 0);
}

static int join_status(const char *token) {
    return ask("POST", "/v1/nodes/join", token, "{\"node\":\"lost\"}", NULL);
}

static bool redis_is_missed(void *token) {
    return join_status(token) == 503;
}

static bool may_join(void *token) {
    return join_status(token) == 201;
}

static void a_token_outlives_what_fails(void **state) {
    (void)state;
    char *once = new_token("{\"node\":\"lost\"}"), url[64], file[200];
    /* The worker: no folder to keep the answer in; a server that cannot be the token's, asked in clear. */
    snprintf(url, sizeof url, "http://127.0.0.1:%d", port);
    snprintf(file, sizeof file, "%s/once", f.s.dir);
    mull_write_file(file, once, strcspn(once, "."));
    chmod(file, 0600);
    const char *const nowhere[] = {MULL_BIN_DIR "/mull-worker",
                                   "join",
                                   url,
                                   "--token-file",
                                   file,
                                   "--state",
                                   "/dev/null/state",
                                   "--node",
                                   "lost",
                                   NULL};
    mull_run r = mull_run_command(nowhere, 30);
    if (r.status != 1 || !strstr(r.err, "/dev/null/state")) fail_msg("%d: %s", r.status, r.err);
    mull_run_fini(&r);
    char pinned[400], folder[200];
    snprintf(pinned, sizeof pinned, "%.*s.%043d", (int)strcspn(once, "."), once, 0);
    mull_write_file(file, pinned, strlen(pinned));
    snprintf(folder, sizeof folder, "%s/joined", f.s.dir);
    const char *const clear[] = {
        MULL_BIN_DIR "/mull-worker", "join", url, "--token-file", file, "--state", folder, "--node", "lost", NULL};
    r = mull_run_command(clear, 30);
    if (r.status != 1 || !strstr(r.err, "https://")) fail_msg("%d: %s", r.status, r.err);
    mull_run_fini(&r);
    /* The server: no Redis to make the node's user in. */
    mull_servers_kill_redis(&f.s);
    assert_true(mull_wait_for(redis_is_missed, once, 20000));
    mull_servers_redis(&f.s);
    open_redis_port();
    assert_true(mull_wait_for(may_join, once, 20000));
    refused(once, "lost", 403, "used up");
    free(once);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_a_token_is_good_for),
        cmocka_unit_test(what_a_node_may_do_in_redis),
        cmocka_unit_test(redis_that_forgot_them_is_told_again),
        cmocka_unit_test(a_revoked_node_is_outside),
        cmocka_unit_test(whose_files),
        cmocka_unit_test(a_token_outlives_what_fails),
        cmocka_unit_test(good_secrets_are_not_guesses),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
