/* The certificate of the front door. */
#ifndef MULL_SCHEDULER_TLS_H
#define MULL_SCHEDULER_TLS_H

#include "schema/error.h"
#include "schema/http/http.h"

/* Reads both PEM files and checks that they belong together and that the certificate has not ended, which the library
 * that serves would not say in words. 0 or negative; mull_tls_free in either case. */
int mull_tls_load(const char *cert, const char *key, mull_http_tls *tls, mull_err *err);
/* SHA-256 of the certificate's public key as base64url, by which a client that has no certificate to trust can know
 * this server. */
enum { MULL_TLS_PIN = 48 };
int mull_tls_pin(const mull_http_tls *tls, char pin[MULL_TLS_PIN], mull_err *err);
void mull_tls_free(mull_http_tls *tls);

#endif
