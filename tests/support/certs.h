/* Certificates made for a test, signed by themselves. */
#ifndef MULL_TESTS_SUPPORT_CERTS_H
#define MULL_TESTS_SUPPORT_CERTS_H

#include <openssl/evp.h>

/* A new P-256 key, also written as PEM; the caller frees. */
EVP_PKEY *mull_new_key(const char *path);
/* names: "DNS:localhost,IP:127.0.0.1"; good until seconds from now. */
void mull_new_cert(const char *path, EVP_PKEY *key, const char *names, long seconds);

#endif
