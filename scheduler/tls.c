/* See tls.h. */
#include "scheduler/tls.h"

#include <errno.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PEM_MAX = 1 << 20 };
static const char WHAT[] = "cannot serve over TLS";

static char *read_pem(const char *path, mull_err *err) {
    FILE *f = fopen(path, "re");
    char *text = f ? malloc(PEM_MAX) : NULL;
    size_t n = text ? fread(text, 1, PEM_MAX, f) : 0;
    if (!f || ferror(f) || n == 0 || n == PEM_MAX) {
        mull_fail(err, MULL_ERR_IO, WHAT, path, "give a PEM file that this user may read", "%s",
                  !f             ? strerror(errno)
                  : n == 0       ? "nothing can be read of it"
                  : n == PEM_MAX ? "it is too large to be a certificate"
                                 : "it cannot be read");
        free(text);
        text = NULL;
    } else {
        text[n] = 0;
    }
    if (f) fclose(f);
    return text;
}

int mull_tls_load(const char *cert, const char *key, mull_http_tls *tls, mull_err *err) {
    *tls = (mull_http_tls){0};
    if (!(tls->cert = read_pem(cert, err)) || !(tls->key = read_pem(key, err))) return MULL_ERR_IO;
    BIO *c = BIO_new_mem_buf(tls->cert, -1), *k = BIO_new_mem_buf(tls->key, -1);
    /* An empty password: a key that needs one is refused, not asked for on a terminal. */
    X509 *x = c ? PEM_read_bio_X509(c, NULL, NULL, (void *)(uintptr_t) "") : NULL;
    EVP_PKEY *p = k ? PEM_read_bio_PrivateKey(k, NULL, NULL, (void *)(uintptr_t) "") : NULL;
    int rc = 0;
    if (!x)
        rc =
            mull_fail(err, MULL_ERR_FORMAT, WHAT, cert, "give a certificate (chain) as PEM", "it holds no certificate");
    else if (!p)
        rc = mull_fail(err, MULL_ERR_FORMAT, WHAT, key, "give a private key as PEM, without a password",
                       "it holds no key that can be read");
    else if (X509_check_private_key(x, p) != 1)
        rc = mull_fail(err, MULL_ERR_ARG, WHAT, key, "give the key of this certificate", "it is not the key of %s",
                       cert);
    else if (X509_cmp_current_time(X509_get0_notAfter(x)) <= 0)
        rc = mull_fail(err, MULL_ERR_ARG, WHAT, cert, "renew it", "the certificate has ended");
    X509_free(x);
    EVP_PKEY_free(p);
    BIO_free(c);
    BIO_free(k);
    return rc;
}

int mull_tls_pin(const mull_http_tls *tls, char pin[MULL_TLS_PIN], mull_err *err) {
    BIO *c = BIO_new_mem_buf(tls->cert, -1);
    X509 *x = c ? PEM_read_bio_X509(c, NULL, NULL, (void *)(uintptr_t) "") : NULL;
    unsigned char *der = NULL, sum[EVP_MAX_MD_SIZE], text[64];
    int n = x ? i2d_X509_PUBKEY(X509_get_X509_PUBKEY(x), &der) : -1;
    unsigned len = 0;
    bool ok = n > 0 && EVP_Digest(der, (size_t)n, sum, &len, EVP_sha256(), NULL) == 1 && len == 32;
    if (ok) {
        EVP_EncodeBlock(text, sum, 32); /* 44 characters, the last '=' */
        for (int i = 0; i < 43; i++) pin[i] = (char)(text[i] == '+' ? '-' : text[i] == '/' ? '_' : text[i]);
        pin[43] = 0;
    }
    OPENSSL_free(der);
    X509_free(x);
    BIO_free(c);
    return ok ? 0 : mull_fail(err, MULL_ERR_INTERNAL, WHAT, "certificate", NULL, "its public key cannot be read");
}

void mull_tls_free(mull_http_tls *tls) {
    free((void *)(uintptr_t)tls->cert);
    if (tls->key) OPENSSL_cleanse((void *)(uintptr_t)tls->key, strlen(tls->key));
    free((void *)(uintptr_t)tls->key);
    *tls = (mull_http_tls){0};
}
