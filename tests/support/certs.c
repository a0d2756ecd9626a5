/* See certs.h. */
#include "tests/support/certs.h"

#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>

static FILE *create(const char *path) {
    FILE *f = fopen(path, "w");
    if (f) return f;
    perror(path);
    abort();
}

EVP_PKEY *mull_new_key(const char *path) {
    EVP_PKEY *key = EVP_EC_gen("P-256");
    FILE *out = create(path);
    if (!key || PEM_write_PrivateKey(out, key, NULL, NULL, 0, NULL, NULL) != 1) abort();
    fclose(out);
    return key;
}

void mull_new_cert(const char *path, EVP_PKEY *key, const char *names, long seconds) {
    X509 *x = X509_new();
    X509_set_version(x, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(x), 1);
    X509_gmtime_adj(X509_getm_notBefore(x), -3600);
    X509_gmtime_adj(X509_getm_notAfter(x), seconds);
    X509_set_pubkey(x, key);
    X509_NAME *name = X509_get_subject_name(x);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"localhost", -1, -1, 0);
    X509_set_issuer_name(x, name);
    X509_EXTENSION *alt = X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, names);
    X509_add_ext(x, alt, -1);
    X509_EXTENSION_free(alt);
    if (X509_sign(x, key, EVP_sha256()) <= 0) abort();
    FILE *out = create(path);
    if (PEM_write_X509(out, x) != 1) abort();
    fclose(out);
    X509_free(x);
}
