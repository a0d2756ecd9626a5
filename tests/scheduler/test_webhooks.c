/* Webhooks from a job's change of state to a receiver that checks the signature with a library of its own, over real
 * servers: retries, filters, receivers that hang or answer without end, addresses that are refused, and a scheduler
 * killed again and again under way. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "scheduler/deliver.h"
#include "scheduler/http_out.h"
#include "tests/scheduler/flow.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/wait.h>

enum { PATIENCE_MS = 60000 };

static flow f;
static char secrets[160], received[160];
static int port;
static pid_t receiver;

static void start_receiver(void) {
    char out[200];
    snprintf(secrets, sizeof secrets, "%s/secrets", f.s.dir);
    snprintf(received, sizeof received, "%s/received", f.s.dir);
    snprintf(out, sizeof out, "%s/receiver.out", f.s.dir);
    fclose(fopen(secrets, "w"));
    fclose(fopen(received, "w"));
    const char *argv[] = {"/usr/bin/env", "python3", MULL_SOURCE_DIR "/tests/scheduler/webhook_receiver.py",
                          secrets,        received,  NULL};
    receiver = mull_spawn(out, argv);
    for (long long until = mull_now_ms() + PATIENCE_MS; port == 0; mull_sleep_ms(20)) {
        FILE *in = fopen(out, "r");
        if (in && fscanf(in, "%d", &port) != 1) port = 0;
        if (in) fclose(in);
        if (mull_now_ms() > until) fail_msg("the receiver does not start");
    }
}

static int start(void **state) {
    (void)state;
    setenv("MULL_WEBHOOK_ALLOW", "127.0.0.0/8", 1);
    flow_start(&f, 0);
    start_receiver();
    return 0;
}

static int stop(void **state) {
    (void)state;
    mull_reap(receiver, SIGKILL);
    flow_stop(&f);
    return 0;
}

/* Adds a webhook to a path of the receiver; more: ", \"states\": […]" or "". Its number. */
static long long hook(const char *path, const char *more) {
    char body[600];
    int status;
    snprintf(body, sizeof body, "{\"url\":\"http://127.0.0.1:%d%s\"%s}", port, path, more);
    json_t *j = mull_http_json(f.sock, "POST", "/v1/webhooks", body, &status);
    assert_int_equal(status, 201);
    FILE *out = fopen(secrets, "a");
    fprintf(out, "%s %s\n", path, json_string_value(json_object_get(j, "secret")));
    fclose(out);
    long long id = atoll(json_string_value(json_object_get(j, "id")));
    json_decref(j);
    return id;
}

static void unhook(long long id) {
    char path[64];
    snprintf(path, sizeof path, "/v1/webhooks/%lld", id);
    assert_int_equal(mull_http_do(f.sock, "DELETE", path, NULL, NULL, NULL), 200);
}

/* How often the receiver got, at path, type of job (0: any) with that status and a good signature. One with a bad
 * signature fails the test. */
static int count(const char *path, const char *type, long long job, int status) {
    char line[8192], id[24];
    int n = 0;
    FILE *in = fopen(received, "r");
    snprintf(id, sizeof id, "%lld", job);
    while (in && fgets(line, sizeof line, in)) {
        json_t *j = json_loads(line, 0, NULL);
        if (!j) continue; /* being written */
        if (!json_is_true(json_object_get(j, "good"))) fail_msg("a bad signature: %s", line);
        const json_t *body = json_object_get(j, "body");
        const char *of = json_string_value(json_object_get(json_object_get(body, "data"), "id"));
        n += !strcmp(json_string_value(json_object_get(j, "path")), path) &&
             (!type || !strcmp(json_string_value(json_object_get(body, "type")), type)) &&
             (!job || (of && !strcmp(of, id))) && json_integer_value(json_object_get(j, "status")) == status;
        json_decref(j);
    }
    if (in) fclose(in);
    return n;
}

static void wait_count(const char *path, const char *type, long long job, int status, int least) {
    long long until = mull_now_ms() + PATIENCE_MS;
    while (count(path, type, job, status) < least) {
        if (mull_now_ms() > until)
            fail_msg("%s got %s of job %lld %d times, not %d", path, type ? type : "any", job,
                     count(path, type, job, status), least);
        mull_sleep_ms(50);
    }
}

/* A member of the newest delivery of a webhook as text ("" for null). */
static void newest(long long id, const char *key, char *out, size_t cap) {
    char path[80];
    snprintf(path, sizeof path, "/v1/webhooks/%lld/deliveries?limit=1", id);
    json_t *j = flow_get(&f, path);
    const json_t *v = json_object_get(json_array_get(json_object_get(j, "deliveries"), 0), key);
    if (json_is_integer(v))
        snprintf(out, cap, "%lld", (long long)json_integer_value(v));
    else
        snprintf(out, cap, "%s", json_is_string(v) ? json_string_value(v) : "");
    json_decref(j);
}

static void signs_as_the_standard_has_it(void **state) {
    (void)state;
    char out[MULL_WEBHOOK_SIGNATURE_CAP], secret[MULL_WEBHOOK_SECRET_CAP];
    static const char body[] = "{\"test\": 2432232314}";
    assert_int_equal(mull_webhook_sign("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek",
                                       1614265330, body, strlen(body), out),
                     0);
    assert_string_equal(out, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    mull_webhook_secret(secret);
    assert_int_equal(strlen(secret), 6 + 44);
    assert_int_equal(mull_webhook_sign(secret, "msg_1", 1, body, strlen(body), out), 0);
    assert_int_equal(mull_webhook_sign("MfKQ", "msg_1", 1, body, strlen(body), out), -1);
    assert_int_equal(mull_webhook_sign("whsec_", "msg_1", 1, body, strlen(body), out), -1);
    assert_int_equal(mull_webhook_sign("whsec_M*KQ", "msg_1", 1, body, strlen(body), out), -1);
}

static bool permits(const mull_net_guard *g, const char *address) {
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
    if (inet_pton(AF_INET, address, &v4.sin_addr) == 1)
        return mull_net_guard_permits(g, (const struct sockaddr *)(const void *)&v4);
    assert_int_equal(inet_pton(AF_INET6, address, &v6.sin6_addr), 1);
    return mull_net_guard_permits(g, (const struct sockaddr *)(const void *)&v6);
}

static void only_public_addresses(void **state) {
    (void)state;
    static const char *const never[] = {
        "127.0.0.1",       "127.9.9.9",       "0.0.0.0",         "10.1.2.3",    "172.16.0.1",
        "172.31.255.255",  "192.168.1.1",     "169.254.169.254", "100.64.0.1",  "224.0.0.1",
        "255.255.255.255", "192.0.2.1",       "198.18.0.1",      "::",          "::1",
        "fe80::1",         "fc00::1",         "fd12::1",         "ff02::1",     "::ffff:127.0.0.1",
        "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::",   "2001:db8::1", "2001::1",
        "::127.0.0.1"};
    static const char *const open[] = {"1.1.1.1", "172.15.0.1",      "172.32.0.1",   "100.128.0.1",
                                       "8.8.8.8", "2606:4700::1111", "2a00:1450::1", "::ffff:8.8.8.8"};
    mull_net_guard g = {.count = 0};
    mull_err err;
    for (size_t i = 0; i < sizeof never / sizeof *never; i++)
        if (permits(&g, never[i])) fail_msg("%s is permitted", never[i]);
    for (size_t i = 0; i < sizeof open / sizeof *open; i++)
        if (!permits(&g, open[i])) fail_msg("%s is not permitted", open[i]);
    assert_int_equal(mull_net_guard_allow(&g, "10.0.0.0/8, fd00::/8,127.0.0.1", &err), 0);
    assert_true(permits(&g, "10.1.2.3"));
    assert_true(permits(&g, "::ffff:10.1.2.3"));
    assert_true(permits(&g, "fd12::1"));
    assert_true(permits(&g, "127.0.0.1"));
    assert_false(permits(&g, "127.0.0.2"));
    assert_false(permits(&g, "11.0.0.0") && permits(&g, "192.168.0.1"));
    static const char *const wrong[] = {"10.0.0.0/33", "10.0.0/8", "x",         "10.0.0.0/",
                                        "10.0.0.0/-1", "::/129",   "1.1.1.1/8x"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        if (mull_net_guard_allow(&g, wrong[i], &err) == 0) fail_msg("taken: %s", wrong[i]);
    struct sockaddr_storage unix_like = {.ss_family = AF_UNIX};
    assert_false(mull_net_guard_permits(&g, (const struct sockaddr *)(const void *)&unix_like));
}

static void urls(void **state) {
    (void)state;
    assert_null(mull_http_out_url_problem("https://ci.example/mull?x=1"));
    assert_null(mull_http_out_url_problem("http://[2606:4700::1111]:8080/"));
    static const char *const wrong[] = {"",          "ci.example/x",          "file:///etc/passwd", "gopher://x/",
                                        "https://",  "https://u:p@example/x", "https://u@example/", "unix:/run/x",
                                        "ftp://x/y", "javascript:alert(1)"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        if (!mull_http_out_url_problem(wrong[i])) fail_msg("taken: %s", wrong[i]);
    static const char *const bodies[] = {"{\"url\":\"http://127.0.0.1/\",\"states\":[\"DONE\"]}",
                                         "{\"url\":\"file:///x\"}", "{\"url\":\"http://x/\",\"team\":\"nobody\"}",
                                         "{\"url\":\"http://x/\",\"secret\":\"a\"}", "{\"url\":5}"};
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++)
        assert_int_equal(mull_http_do(f.sock, "POST", "/v1/webhooks", NULL, bodies[i], NULL), 400);
    assert_int_equal(mull_http_do(f.sock, "DELETE", "/v1/webhooks/999", NULL, NULL, NULL), 404);
    assert_int_equal(mull_http_do(f.sock, "POST", "/v1/webhooks/999/test", NULL, NULL, NULL), 404);
    assert_int_equal(mull_http_do(f.sock, "GET", "/v1/webhooks/999/deliveries", NULL, NULL, NULL), 404);
}

static void told_filtered_and_tried_again(void **state) {
    (void)state;
    char text[600];
    free(mull_sql(f.pg, "INSERT INTO team (name) VALUES ('vision') ON CONFLICT DO NOTHING"));
    long long all = hook("/good", ""), ends = hook("/good-ends", ",\"states\":[\"COMPLETED\",\"FAILED\"]"),
              other = hook("/good-vision", ",\"team\":\"vision\""), flaky = hook("/flaky", ",\"team\":\"default\"");
    long long job = flow_submit(&f, ""), theirs = flow_submit(&f, ",\"team\":\"vision\"");
    assert_int_equal(flow_act(&f, job, "cancel"), 200);
    assert_int_equal(flow_act(&f, theirs, "cancel"), 200);
    wait_count("/good", "job.cancelled", job, 200, 1);
    wait_count("/good", "job.cancelled", theirs, 200, 1);
    wait_count("/good-vision", "job.cancelled", theirs, 200, 1);
    wait_count("/flaky", "job.cancelled", job, 500, 1);
    assert_int_equal(count("/good-vision", NULL, job, 200), 0);
    assert_int_equal(count("/good-ends", NULL, 0, 200), 0);
    assert_int_equal(count("/flaky", NULL, theirs, 500), 0);
    /* The pauses are not waited for here: time is moved for the outbox. */
    for (int i = 0; i < 2; i++) {
        wait_count("/flaky", "job.cancelled", job, 500, i + 1);
        for (newest(flaky, "status", text, sizeof text); strcmp(text, "500") != 0; mull_sleep_ms(20))
            newest(flaky, "status", text, sizeof text);
        newest(flaky, "next_at", text, sizeof text);
        assert_true(*text);
        mull_sleep_ms(200);
        free(mull_sql(f.pg,
                      "UPDATE webhook_delivery SET next_at = now() WHERE delivered_at IS NULL AND last_status = 500"));
    }
    wait_count("/flaky", "job.cancelled", job, 200, 1);
    for (newest(flaky, "delivered_at", text, sizeof text); !*text; mull_sleep_ms(20))
        newest(flaky, "delivered_at", text, sizeof text);
    newest(flaky, "attempts", text, sizeof text);
    assert_string_equal(text, "3");
    snprintf(text, sizeof text, "/v1/webhooks/%lld/test", ends);
    assert_int_equal(mull_http_do(f.sock, "POST", text, NULL, NULL, NULL), 202);
    wait_count("/good-ends", "webhook.test", 0, 200, 1);
    char *listed = NULL;
    assert_int_equal(mull_http_do(f.sock, "GET", "/v1/webhooks", NULL, NULL, &listed), 200);
    assert_null(strstr(listed, "whsec_")); /* shown once */
    free(listed);
    unhook(all);
    unhook(ends);
    unhook(other);
    unhook(flaky);
}

static void gone_redirects_and_endless_answers(void **state) {
    (void)state;
    char text[600];
    long long gone = hook("/gone", ""), away = hook("/away", ""), longer = hook("/long", "");
    long long job = flow_submit(&f, "");
    assert_int_equal(flow_act(&f, job, "cancel"), 200);
    wait_count("/gone", NULL, job, 410, 1);
    wait_count("/away", NULL, job, 302, 1);
    for (newest(away, "status", text, sizeof text); strcmp(text, "302") != 0; mull_sleep_ms(20))
        newest(away, "status", text, sizeof text);
    assert_int_equal(count("/good-away", NULL, 0, 200), 0); /* not followed */
    for (newest(longer, "delivered_at", text, sizeof text); !*text; mull_sleep_ms(20))
        newest(longer, "delivered_at", text, sizeof text);
    for (newest(gone, "given_up_at", text, sizeof text); !*text; mull_sleep_ms(20))
        newest(gone, "given_up_at", text, sizeof text);
    assert_int_equal(mull_sql_int(f.pg, "SELECT count(*) FROM webhook WHERE disabled_at IS NOT NULL"), 1);
    int before = count("/gone", NULL, 0, 410);
    job = flow_submit(&f, "");
    assert_int_equal(flow_act(&f, job, "cancel"), 200);
    wait_count("/away", NULL, job, 302, 1);
    assert_int_equal(count("/gone", NULL, 0, 410), before); /* off */
    unhook(gone);
    unhook(away);
    unhook(longer);
}

static void one_that_hangs_holds_up_nobody(void **state) {
    (void)state;
    enum { JOBS = 20 };
    long long hang = hook("/hang", ""), good = hook("/good-beside", ""), jobs[JOBS], slowest = 0;
    for (int i = 0; i < JOBS; i++) {
        jobs[i] = flow_submit(&f, "");
        assert_int_equal(flow_act(&f, jobs[i], "cancel"), 200);
    }
    wait_count("/hang", NULL, 0, 200, 1);
    for (int i = 0; i < JOBS; i++) wait_count("/good-beside", "job.cancelled", jobs[i], 200, 1);
    for (int i = 0; i < 50; i++) {
        long long at = mull_now_ms();
        assert_int_equal(mull_http_do(f.sock, "GET", "/healthz", NULL, NULL, NULL), 200);
        if (mull_now_ms() - at > slowest) slowest = mull_now_ms() - at;
    }
    assert_true(slowest < 5000); /* the loop never waited for the receiver, which takes a minute */
    assert_true(count("/hang", NULL, 0, 200) <= 4);
    unhook(hang);
    unhook(good);
}

static void killed_again_and_again_loses_none(void **state) {
    (void)state;
    enum { JOBS = 60, KILLS = 6 };
    long long id = hook("/good-killed", ",\"states\":[\"CANCELLED\"]"), jobs[JOBS];
    for (int k = 0; k < KILLS; k++) {
        for (int i = k * JOBS / KILLS; i < (k + 1) * JOBS / KILLS; i++) {
            jobs[i] = flow_submit(&f, "");
            assert_int_equal(flow_act(&f, jobs[i], "cancel"), 200);
        }
        if (k > 0) wait_count("/good-killed", NULL, 0, 200, 1 + 5 * (k - 1)); /* some are under way */
        mull_reap(f.scheduler, SIGKILL);
        flow_serve(&f);
    }
    for (int i = 0; i < JOBS; i++) wait_count("/good-killed", "job.cancelled", jobs[i], 200, 1);
    unhook(id);
}

static void a_private_address_is_refused(void **state) {
    (void)state;
    char text[600];
    assert_int_equal(mull_reap(f.scheduler, SIGTERM), 0);
    unsetenv("MULL_WEBHOOK_ALLOW");
    flow_serve(&f);
    int before = count("/good-private", NULL, 0, 200);
    long long id = hook("/good-private", ""), job = flow_submit(&f, "");
    assert_int_equal(flow_act(&f, job, "cancel"), 200);
    for (newest(id, "error", text, sizeof text); !*text; mull_sleep_ms(20)) newest(id, "error", text, sizeof text);
    assert_non_null(strstr(text, "not one of the public Internet"));
    assert_int_equal(count("/good-private", NULL, 0, 200), before);
    unhook(id);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(signs_as_the_standard_has_it),
        cmocka_unit_test(only_public_addresses),
        cmocka_unit_test(urls),
        cmocka_unit_test(told_filtered_and_tried_again),
        cmocka_unit_test(gone_redirects_and_endless_answers),
        cmocka_unit_test(one_that_hangs_holds_up_nobody),
        cmocka_unit_test(killed_again_and_again_loses_none),
        cmocka_unit_test(a_private_address_is_refused),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
