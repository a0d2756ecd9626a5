/* A byte stream to a server on a libuv loop: a unix socket, TCP, or TLS over TCP with the server's name verified.
 *
 * TLS runs over OpenSSL's memory BIOs between libuv's stream and the caller, so there is one reading and writing path.
 * (Debian 12's hiredis is older than hiredis_ssl, and its async context owns the socket.) What is sent during one turn
 * of the loop leaves in one write. Names are looked up by libuv's threads; each address of a name is tried. */
#ifndef MULL_SCHEMA_STORE_WIRE_H
#define MULL_SCHEMA_STORE_WIRE_H

#include <openssl/ssl.h>
#include <stddef.h>
#include <uv.h>

typedef struct mull_wire mull_wire;

/* Called from the loop, never from inside mull__wire_open or mull__wire_send. Each may close the wire. */
typedef struct mull_wire_events {
    void (*open)(void *arg);
    void (*bytes)(const char *data, size_t n, void *arg);
    void (*lost)(const char *why, void *arg); /* once; the wire is closed then, and must not be touched */
} mull_wire_events;

/* port 0: host is the path of a unix socket. tls NULL: plain. The strings are copied; events and tls must outlive the
 * wire. NULL without memory. There is no limit of time: the caller closes what takes too long. */
mull_wire *mull__wire_open(uv_loop_t *loop, const char *host, int port, SSL_CTX *tls, const mull_wire_events *events,
                           void *arg);
/* Queues a copy; after open only. */
void mull__wire_send(mull_wire *w, const char *data, size_t n);
/* No callback comes any more; the memory goes when the loop has closed the handles. */
void mull__wire_close(mull_wire *w);

#endif
