/* A scheduler that allows little: tokens and addresses that ask too fast are told to wait, those who try tokens are
 * stopped before the database is asked, others are not held up, and the command line waits by itself. */
#include "tests/attack/attack.h"
#include "tests/scheduler/flow.h"

enum { RATE = 5, BURST = 10 };

static flow f;
static attack *a; /* port and answer only */
static char ann[TOKEN_MAX], bob[TOKEN_MAX];
static pid_t pid;

static void make_token(const char *user, char out[TOKEN_MAX]) {
    char body[100];
    int status;
    snprintf(body, sizeof body, "{\"user\":\"%s\",\"role\":\"viewer\"}", user);
    json_t *j = mull_http_json(f.sock, "POST", "/v1/tokens", body, &status);
    assert_int_equal(status, 201);
    snprintf(out, TOKEN_MAX, "%s", text_of(j, "token"));
    json_decref(j);
}

static bool answers(void *arg) {
    return attack_ask(arg, NULL, "GET", "/healthz", NULL, NULL) == 200;
}

static int start(void **state) {
    (void)state;
    flow_start(&f, 0);
    a = calloc(1, sizeof *a);
    a->port = mull_free_port();
    char listen[40], log[128];
    snprintf(listen, sizeof listen, "tcp:127.0.0.1:%d", a->port);
    snprintf(log, sizeof log, "%s/tcp.log", f.s.dir);
    const char *argv[] = {MULL_BIN_DIR "/mull-scheduler",
                          "serve",
                          "--pg",
                          f.pg,
                          "--redis",
                          f.s.redis_addr,
                          "--listen",
                          listen,
                          "--rate",
                          "5:10",
                          NULL};
    pid = mull_spawn(log, argv);
    make_token("ann", ann);
    make_token("bob", bob);
    return mull_wait_for(answers, a, 20000) ? 0 : -1;
}

static int stop(void **state) {
    (void)state;
    int status = mull_reap(pid, SIGTERM);
    flow_stop(&f);
    free(a);
    return status;
}

/* Asks n times as fast as it goes; how many were answered with status. */
static int count(const char *token, const char *target, int n, int status) {
    int got = 0;
    for (int i = 0; i < n; i++) got += attack_ask(a, token, "GET", target, NULL, NULL) == status;
    return got;
}

static void a_token_is_told_to_wait(void **state) {
    (void)state;
    long long began = mull_now_ms();
    int good = count(ann, "/v1/whoami", 100, 200);
    long long most = BURST + RATE * ((mull_now_ms() - began) / 1000 + 1);
    assert_in_range(good, BURST, most);
    while (attack_ask(a, ann, "GET", "/v1/whoami", NULL, NULL) != 429) continue;
    assert_non_null(strstr(a->answer, "Retry-After: 1\r\n"));
    json_t *j = attack_json(a);
    assert_string_equal(text_of(json_object_get(j, "error"), "code"), "rate_limited");
    json_decref(j);
    assert_int_equal(attack_ask(a, bob, "GET", "/v1/whoami", NULL, NULL), 200); /* another's bucket is its own */
    mull_sleep_ms(1000);
    assert_int_equal(attack_ask(a, ann, "GET", "/v1/whoami", NULL, NULL), 200);
}

static void who_tries_tokens_is_stopped(void **state) {
    (void)state;
    assert_int_equal(attack_ask(a, bob, "GET", "/v1/whoami", NULL, NULL), 200); /* remembered from here on */
    char token[TOKEN_MAX];
    int unknown = 0, stopped = 0;
    long long began = mull_now_ms();
    for (int i = 0; i < 200; i++) {
        snprintf(token, sizeof token, "mull_%064d", i);
        int status = attack_ask(a, token, "GET", "/v1/whoami", NULL, NULL);
        unknown += status == 401;
        stopped += status == 429;
    }
    assert_int_equal(unknown + stopped, 200);
    assert_in_range(unknown, 20, 20 + (mull_now_ms() - began) / 1000 + 1);
    /* Whoever was known before goes on, from the same address. */
    if (mull_now_ms() - began < 4000) assert_int_equal(attack_ask(a, bob, "GET", "/v1/whoami", NULL, NULL), 200);
}

static void an_address_is_told_to_wait(void **state) {
    (void)state;
    assert_true(count(NULL, "/healthz", 60, 429) > 0);
    assert_true(count(NULL, "/v1/whoami", 60, 429) > 0);
    assert_int_equal(mull_http_do(f.sock, "GET", "/healthz", NULL, NULL, NULL), 200);
    mull_sleep_ms(1000);
    assert_int_equal(attack_ask(a, ann, "GET", "/metrics", NULL, NULL), 200);
    const char *n = strstr(a->answer, "\nmull_rate_limited_total ");
    assert_non_null(n);
    assert_true(atoi(n + 25) > 100);
    n = strstr(a->answer, "\nmull_unauthorized_total ");
    assert_non_null(n);
    assert_true(atoi(n + 25) >= 20);
}

static void the_command_line_waits(void **state) {
    (void)state;
    char server[64];
    snprintf(server, sizeof server, "tcp:127.0.0.1:%d", a->port);
    setenv("MULL_SERVER", server, 1);
    setenv("MULL_TOKEN", ann, 1);
    count(ann, "/v1/whoami", BURST + 5, 200);
    for (int i = 0; i < 10; i++) {
        mull_run r = mull_run_command((const char *const[]){MULL, "ps", NULL}, LIMIT_S);
        if (r.status) fail_msg("ps: %s", r.err);
        mull_run_fini(&r);
    }
    unsetenv("MULL_SERVER");
    unsetenv("MULL_TOKEN");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_token_is_told_to_wait),
        cmocka_unit_test(who_tries_tokens_is_stopped),
        cmocka_unit_test(an_address_is_told_to_wait),
        cmocka_unit_test(the_command_line_waits),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
