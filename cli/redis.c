/* Redis of a state folder: alone on a unix socket, or also open to the workers of other hosts (mull up --workers): then
 * over TLS with the front door's certificate, and with a password for everybody, since Redis's default user is the same
 * on every socket. The password stays in a file of ours; Redis is told its SHA-256, and workers get users of their own.
 */
#include "cli/local.h"
#include "cli/probe.h"
#include "schema/secret_file.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

enum { RANDOM_BYTES = 24 };

static void hex(const unsigned char *bytes, size_t n, char *out) {
    for (size_t i = 0; i < n; i++) snprintf(out + 2 * i, 3, "%02x", bytes[i]);
}

/* The password, made when there is none yet, as its SHA-256. */
static int password_sum(const mull_local *l, char sum[65], mull_err *err) {
    const char *path = mull_local_path(l, "redis", "password");
    unsigned char bytes[RANDOM_BYTES], md[EVP_MAX_MD_SIZE];
    char made[2 * RANDOM_BYTES + 1], *text;
    if (access(path, F_OK) != 0) {
        if (getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes) abort(); /* never for so few bytes */
        hex(bytes, sizeof bytes, made);
        int rc = mull_secret_write(path, made, strlen(made), err);
        if (rc != 0) return rc;
    }
    int rc = mull_secret_read(path, &text, err);
    if (rc != 0) return rc;
    unsigned n = 0;
    bool ok = EVP_Digest(text, strlen(text), md, &n, EVP_sha256(), NULL) == 1 && n == 32;
    free(text);
    if (!ok) return mull_fail(err, MULL_ERR_INTERNAL, "cannot start Redis", path, NULL, "no SHA-256");
    hex(md, 32, sum);
    return 0;
}

/* What must not stand on a command line, and what belongs to it. */
static int write_conf(const mull_local *l, const char *path, mull_err *err) {
    char sum[65], text[9200];
    const char *colon = strrchr(l->workers, ':');
    int rc = password_sum(l, sum, err);
    if (rc != 0) return rc;
    int n = snprintf(text, sizeof text,
                     "bind %.*s\ntls-port %s\ntls-cert-file \"%s\"\ntls-key-file \"%s\"\ntls-auth-clients no\n"
                     "tls-protocols \"TLSv1.2 TLSv1.3\"\nuser default on #%s ~* &* +@all\n",
                     (int)(colon - l->workers), l->workers, colon + 1, l->tls_cert, l->tls_key, sum);
    if (n >= (int)sizeof text || strpbrk(l->tls_cert, "\"\n\\") || strpbrk(l->tls_key, "\"\n\\"))
        return mull_fail(err, MULL_ERR_ARG, "cannot start Redis", l->tls_cert, "choose a plain path",
                         "the path of the certificate or its key is too long, or has a quote in it");
    return mull_secret_write(path, text, (size_t)n, err);
}

int mull_local_redis_start(const mull_local *l, mull_err *err) {
    /* A server that nobody has a record of would share its files with a second one. */
    if (mull_probe_redis(l->dir.redis))
        return mull_fail(err, MULL_ERR_BUSY, "cannot start Redis", l->dir.redis, "stop that one first",
                         "a server that mull has not started answers on this socket");
    char conf[4096];
    snprintf(conf, sizeof conf, "%s", mull_local_path(l, "redis", "workers.conf"));
    int rc = l->workers[0] ? write_conf(l, conf, err) : 0;
    if (rc != 0) return rc;
    const char *argv[32] = {l->redis_bin}, **more = argv + 1;
    if (l->workers[0]) *more++ = conf;
    const char *words[] = {"--port",
                           "0",
                           "--unixsocket",
                           l->dir.redis,
                           "--unixsocketperm",
                           "600",
                           "--dir",
                           mull_local_path(l, "redis", ""),
                           "--appendonly",
                           "yes",
                           "--appendfsync",
                           "everysec",
                           "--save",
                           "",
                           "--maxmemory-policy",
                           "noeviction",
                           "--daemonize",
                           "no",
                           "--logfile",
                           ""};
    memcpy(more, words, sizeof words);
    mull_spawn s = {.argv = argv, .log = mull_local_log(l, "redis"), .record = mull_local_record(l, "redis")};
    return mull_spawn_start(&s, err);
}
