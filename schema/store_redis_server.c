/* See store_redis_server.h. */
#include "schema/store_redis_server.h"

#include "schema/secret_file.h"

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_PORT = 6379 };

static const char WHAT[] = "wrong address of Redis";
static const char TODO[] =
    "give unix:PATH, tcp:HOST:PORT, redis://[USER@]HOST:PORT[,HOST:PORT] or rediss://... for TLS";

/* HOST, HOST:PORT, [V6] or [V6]:PORT of n bytes. */
static int put_host(mull_redis_server *s, const char *text, size_t n, bool port_needed, mull_err *err) {
    char one[300], *host = one, *port = NULL;
    if (n == 0 || n >= sizeof one) return mull_fail(err, MULL_ERR_ARG, WHAT, s->text, TODO, "a host is missing");
    if (s->count == MULL_REDIS_HOSTS)
        return mull_fail(err, MULL_ERR_LIMIT, WHAT, s->text, NULL, "there are more than %d hosts", MULL_REDIS_HOSTS);
    memcpy(one, text, n);
    one[n] = 0;
    if (*one == '[') {
        char *end = strchr(one, ']');
        if (!end || (end[1] && end[1] != ':')) return mull_fail(err, MULL_ERR_ARG, WHAT, s->text, TODO, "no closing ]");
        host = one + 1;
        *end = 0;
        if (end[1]) port = end + 2;
    } else if ((port = strrchr(one, ':'))) {
        *port++ = 0;
    }
    long number = DEFAULT_PORT;
    if (port) number = strspn(port, "0123456789") == strlen(port) && *port && strlen(port) < 6 ? atol(port) : 0;
    if (number < 1 || number > 65535 || (!port && port_needed) || !*host || strlen(host) >= sizeof s->at[0].host)
        return mull_fail(err, MULL_ERR_ARG, WHAT, s->text, TODO, "'%.100s' is not HOST:PORT", one);
    snprintf(s->at[s->count].host, sizeof s->at[0].host, "%s", host);
    s->at[s->count++].port = (int)number;
    return 0;
}

static int put_hosts(mull_redis_server *s, const char *list, bool port_needed, mull_err *err) {
    for (int rc;;) {
        size_t n = strcspn(list, ",");
        if ((rc = put_host(s, list, n, port_needed, err)) != 0 || !list[n]) return rc;
        list += n + 1;
    }
}

static int put_user(mull_redis_server *s, const char **rest, mull_err *err) {
    const char *at = strrchr(*rest, '@');
    if (!at) return 0;
    size_t n = (size_t)(at - *rest);
    if (memchr(*rest, ':', n)) {
        snprintf(s->text, sizeof s->text, "redis");
        return mull_fail(err, MULL_ERR_ARG, WHAT, s->text, "keep it in a file, or in MULL_REDIS_PASSWORD",
                         "there is a password in it, where every user of this machine can read it");
    }
    if (n == 0 || n >= sizeof s->user) return mull_fail(err, MULL_ERR_ARG, WHAT, s->text, TODO, "no user before the @");
    snprintf(s->user, sizeof s->user, "%.*s", (int)n, *rest);
    *rest = at + 1;
    return 0;
}

/* ---- TLS ---- */

static int trust(SSL_CTX *c, const char *ca, mull_err *err) {
    static const char what[] = "cannot trust a certificate";
    BIO *in = BIO_new_mem_buf(ca, -1);
    X509_STORE *store = SSL_CTX_get_cert_store(c);
    int n = 0;
    for (X509 *x; in && (x = PEM_read_bio_X509(in, NULL, NULL, NULL)); X509_free(x)) n += X509_STORE_add_cert(store, x);
    BIO_free(in);
    ERR_clear_error(); /* the end of the text is an error too */
    if (n > 0) return 0;
    return mull_fail(err, MULL_ERR_FORMAT, what, "Redis", "give the PEM file of the authority that signed the server's",
                     "there is no certificate in it");
}

static int make_tls(mull_redis_server *s, const char *ca, mull_err *err) {
    s->tls = SSL_CTX_new(TLS_client_method());
    if (!s->tls || SSL_CTX_set_min_proto_version(s->tls, TLS1_2_VERSION) != 1)
        return mull_fail(err, MULL_ERR_NOMEM, "cannot use TLS", s->text, NULL, "OpenSSL refuses");
    SSL_CTX_set_verify(s->tls, SSL_VERIFY_PEER, NULL);
    /* A certificate that was given may be the server's own, whoever signed it. */
    X509_VERIFY_PARAM_set_flags(SSL_CTX_get0_param(s->tls), X509_V_FLAG_PARTIAL_CHAIN);
    if (ca) return trust(s->tls, ca, err);
    if (SSL_CTX_set_default_verify_paths(s->tls) == 1) return 0;
    return mull_fail(err, MULL_ERR_MISSING, "cannot use TLS", s->text, "name the authority's certificate",
                     "the system's certificates cannot be read");
}

/* ---- */

int mull_redis_server_init(mull_redis_server *s, const char *addr, const char *password, const char *ca,
                           mull_err *err) {
    *s = (mull_redis_server){0};
    int rc = 0;
    bool tls = !strncmp(addr, "rediss://", 9);
    if (snprintf(s->text, sizeof s->text, "%s", addr) >= (int)sizeof s->text)
        return mull_fail(err, MULL_ERR_LIMIT, WHAT, "", TODO, "it has more than %zu bytes", sizeof s->text - 1);
    if (!strncmp(addr, "unix:", 5)) {
        if (!addr[5] || strlen(addr + 5) > 107)
            return mull_fail(err, MULL_ERR_ARG, WHAT, s->text, TODO, "a unix socket's path has 1 to 107 bytes");
        snprintf(s->at[0].host, sizeof s->at[0].host, "%s", addr + 5);
        s->count = 1;
        s->is_unix = true;
    } else if (!strncmp(addr, "tcp:", 4)) {
        rc = put_hosts(s, addr + 4, true, err);
    } else if (tls || !strncmp(addr, "redis://", 8)) {
        const char *rest = strstr(addr, "://") + 3;
        rc = put_user(s, &rest, err);
        if (rc == 0) rc = put_hosts(s, rest, false, err);
    } else {
        rc = mull_fail(err, MULL_ERR_ARG, WHAT, s->text, TODO, "'%.100s' is none", addr);
    }
    if (rc == 0 && tls) rc = make_tls(s, ca, err);
    if (rc == 0 && password && !(s->password = strdup(password)))
        rc = mull_fail(err, MULL_ERR_NOMEM, "cannot start", s->text, NULL, "out of memory");
    if (rc == 0 && s->user[0] && !password)
        rc = mull_fail(err, MULL_ERR_ARG, "no password for Redis", s->text,
                       "name a file with --redis-password-file, or set MULL_REDIS_PASSWORD", "user %s needs one",
                       s->user);
    if (rc != 0) mull_redis_server_fini(s);
    return rc;
}

int mull_redis_server_open(mull_redis_server *s, const char *addr, const char *password_file, const char *ca_file,
                           mull_err *err) {
    const char *from_env = getenv("MULL_REDIS_PASSWORD");
    char *password = NULL, *ca = NULL;
    int rc = 0;
    *s = (mull_redis_server){0};
    if (!ca_file) ca_file = getenv("MULL_REDIS_CACERT");
    if (password_file)
        rc = mull_secret_read(password_file, &password, err);
    else if (from_env && *from_env && !(password = strdup(from_env)))
        rc = mull_fail(err, MULL_ERR_NOMEM, "cannot start", addr, NULL, "out of memory");
    if (rc == 0 && ca_file && *ca_file) rc = mull_text_read(ca_file, &ca, err);
    if (rc == 0) rc = mull_redis_server_init(s, addr, password, ca, err);
    if (from_env) {
        OPENSSL_cleanse((char *)(uintptr_t)from_env, strlen(from_env));
        unsetenv("MULL_REDIS_PASSWORD");
    }
    if (password) OPENSSL_cleanse(password, strlen(password));
    free(password);
    free(ca);
    return rc;
}

void mull_redis_server_fini(mull_redis_server *s) {
    char *password = (char *)(uintptr_t)s->password;
    if (password) OPENSSL_cleanse(password, strlen(password));
    free(password);
    s->password = NULL;
    SSL_CTX_free(s->tls);
    s->tls = NULL;
}
