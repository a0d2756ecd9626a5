/* Where Redis is and as whom one speaks to it: an address, a user and password that stay out of the command line, and
 * the certificates that TLS trusts. */
#ifndef MULL_SCHEMA_STORE_REDIS_SERVER_H
#define MULL_SCHEMA_STORE_REDIS_SERVER_H

#include "schema/error.h"

#include <openssl/ssl.h>
#include <stdbool.h>

enum { MULL_REDIS_HOSTS = 8 };

typedef struct mull_redis_server {
    char text[1024]; /* the address, for messages; there is no secret in it */
    struct {
        char host[256]; /* or the path of a unix socket */
        int port;       /* 0: a unix socket */
    } at[MULL_REDIS_HOSTS];
    int count;
    bool is_unix;
    char user[128];       /* "" with a password: the user "default" */
    const char *password; /* NULL: none is asked for. Owned. */
    SSL_CTX *tls;         /* NULL: plain */
} mull_redis_server;

/* addr is one of
 *   unix:PATH
 *   tcp:HOST:PORT                                  plain
 *   redis://[USER@]HOST[:PORT][,HOST[:PORT]...]    plain
 *   rediss://[USER@]HOST[:PORT][,HOST[:PORT]...]   TLS, the server's name and certificate verified
 * with IPv6 in brackets and port 6379 by default. Of several hosts the one that is the primary (ROLE) is used, so a
 * replica that was promoted, by hand or by Sentinel, is found by itself. password: the text, or NULL. ca: PEM text of
 * the certificates to trust; NULL: the system's. Copies what it is given; fini frees it. */
int mull_redis_server_init(mull_redis_server *s, const char *addr, const char *password, const char *ca, mull_err *err);
/* The same for a program's options: password_file and ca_file are paths or NULL; then MULL_REDIS_PASSWORD and
 * MULL_REDIS_CACERT (a path) in the environment count, and of the first nothing is left there. A password file that
 * others may read is refused. */
int mull_redis_server_open(mull_redis_server *s, const char *addr, const char *password_file, const char *ca_file,
                           mull_err *err);
void mull_redis_server_fini(mull_redis_server *s);

#endif
