/* The front door over TLS: certificates and keys that do not fit are refused in words, and one that does is served to a
 * client that checks it, by a scheduler of its own. */
#include "scheduler/tls.h"
#include "tests/scheduler/flow.h"
#include "tests/support/certs.h"

#include <openssl/ssl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static flow f;

static void refused(const char *cert, const char *key, const char *words) {
    mull_http_tls tls;
    mull_err err = {0};
    char line[2048] = "";
    assert_true(mull_tls_load(cert, key, &tls, &err) < 0);
    FILE *m = fmemopen(line, sizeof line - 1, "w");
    mull_err_print(m, &err);
    fclose(m);
    if (!strstr(line, words)) fail_msg("'%s' is not in: %s", words, line);
    mull_tls_free(&tls);
}

static void what_does_not_fit_is_refused_in_words(void **state) {
    (void)state;
    char cert[128], key[128], other[128], old[128], junk[128];
    snprintf(cert, sizeof cert, "%s/cert.pem", f.s.dir);
    snprintf(key, sizeof key, "%s/key.pem", f.s.dir);
    snprintf(other, sizeof other, "%s/other.pem", f.s.dir);
    snprintf(old, sizeof old, "%s/old.pem", f.s.dir);
    snprintf(junk, sizeof junk, "%s/junk.pem", f.s.dir);
    EVP_PKEY *a = mull_new_key(key), *b = mull_new_key(other);
    mull_new_cert(cert, a, "DNS:localhost", 86400);
    mull_new_cert(old, a, "DNS:localhost", -60);
    FILE *out = fopen(junk, "w");
    fputs("-----BEGIN CERTIFICATE-----\nAAAA\n", out);
    fclose(out);
    refused("/nonexistent.pem", key, "No such file");
    refused(junk, key, "holds no certificate");
    refused(key, key, "holds no certificate");
    refused(cert, junk, "holds no key");
    refused(cert, other, "is not the key of");
    refused(old, key, "has ended");
    mull_http_tls tls;
    mull_err err = {0};
    assert_int_equal(mull_tls_load(cert, key, &tls, &err), 0);
    mull_tls_free(&tls);
    EVP_PKEY_free(a);
    EVP_PKEY_free(b);
}

/* The first bytes of the answer to a request over TLS; "" when the handshake fails. */
static void ask(int port, const char *ca, int max_version, const char *request, char *out, size_t cap) {
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    if (ca) assert_int_equal(SSL_CTX_load_verify_locations(ctx, ca, NULL), 1);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
    if (max_version) {
        SSL_CTX_set_security_level(ctx, 0);
        SSL_CTX_set_min_proto_version(ctx, TLS1_VERSION);
        SSL_CTX_set_max_proto_version(ctx, max_version);
    }
    SSL *ssl = SSL_new(ctx);
    SSL_set1_host(ssl, "localhost");
    int fd = mull_dial_tcp(port);
    assert_true(fd >= 0);
    SSL_set_fd(ssl, fd);
    size_t n = 0;
    if (SSL_connect(ssl) == 1) {
        SSL_write(ssl, request, (int)strlen(request));
        for (int k; n + 1 < cap && (k = SSL_read(ssl, out + n, (int)(cap - 1 - n))) > 0;) n += (size_t)k;
    }
    out[n] = 0;
    SSL_free(ssl);
    SSL_CTX_free(ctx);
    close(fd);
}

static void a_client_that_checks_is_served(void **state) {
    (void)state;
    char cert[128], key[128], log[128], line[500] = "", out[70000];
    snprintf(cert, sizeof cert, "%s/c.pem", f.s.dir);
    snprintf(key, sizeof key, "%s/k.pem", f.s.dir);
    snprintf(log, sizeof log, "%s/tls.log", f.s.dir);
    EVP_PKEY *k = mull_new_key(key);
    mull_new_cert(cert, k, "DNS:localhost", 86400);
    EVP_PKEY_free(k);
    free(mull_sql(f.pg, "INSERT INTO team (name) VALUES ('red') ON CONFLICT DO NOTHING"));
    free(mull_sql(f.pg, "INSERT INTO app_user (name) VALUES ('ann') ON CONFLICT DO NOTHING"));
    free(mull_sql(f.pg, "INSERT INTO token (hash, \"user\", team, role) VALUES "
                        "(encode(sha256('member'), 'hex'), 'ann', 'red', 'member')"));
    const char *argv[] = {MULL_BIN_DIR "/mull-scheduler",
                          "serve",
                          "--pg",
                          f.pg,
                          "--redis",
                          f.s.redis_addr,
                          "--listen",
                          "tls:127.0.0.1:0",
                          "--tls-cert",
                          cert,
                          "--tls-key",
                          key,
                          "--name",
                          "tls",
                          NULL};
    pid_t pid = mull_spawn(log, argv);
    int port = 0;
    for (int i = 0; i < 500 && !port; i++) {
        FILE *in = fopen(log, "r");
        while (in && fgets(line, sizeof line, in))
            if (strstr(line, "tls:127.0.0.1:")) sscanf(strstr(line, "tls:127.0.0.1:"), "tls:127.0.0.1:%d", &port);
        if (in) fclose(in);
        mull_sleep_ms(10);
    }
    assert_true(port > 0);
    static const char jobs[] = "GET /v1/jobs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    static const char mine[] = "GET /v1/whoami HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                               "Authorization: Bearer member\r\n\r\n";
    static const char page[] = "GET /dashboard.js HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    ask(port, cert, 0, jobs, out, sizeof out);
    assert_int_equal(strncmp(out, "HTTP/1.1 401", 12), 0);
    ask(port, cert, 0, mine, out, sizeof out);
    assert_int_equal(strncmp(out, "HTTP/1.1 200", 12), 0);
    assert_non_null(strstr(out, "\"ann\""));
    ask(port, cert, 0, page, out, sizeof out); /* more than one TLS record */
    assert_int_equal(strncmp(out, "HTTP/1.1 200", 12), 0);
    assert_true(strlen(out) > 17000);
    assert_non_null(strstr(out + strlen(out) - 20, "})();"));
    ask(port, NULL, 0, mine, out, sizeof out); /* an authority that is not trusted */
    assert_string_equal(out, "");
    ask(port, cert, TLS1_1_VERSION, mine, out, sizeof out);
    assert_string_equal(out, "");
    int fd = mull_dial_tcp(port); /* no TLS at all */
    send(fd, mine, strlen(mine), MSG_NOSIGNAL);
    ssize_t n = recv(fd, out, sizeof out - 1, 0);
    out[n > 0 ? n : 0] = 0;
    assert_null(strstr(out, "HTTP/1.1 200"));
    close(fd);
    assert_int_equal(mull_reap(pid, SIGTERM), 0);
}

static int setup(void **state) {
    (void)state;
    flow_start(&f, 0);
    return 0;
}
static int teardown(void **state) {
    (void)state;
    flow_stop(&f);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_does_not_fit_is_refused_in_words),
        cmocka_unit_test(a_client_that_checks_is_served),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
