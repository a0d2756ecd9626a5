/* See digest.h. */
#include "engine/core/digest.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { WHOLE = 16 << 20, SAMPLES = 64, SAMPLE = 1 << 16, HEAD = 1 << 20 };

struct mull__sha {
    EVP_MD_CTX *c;
};

mull__sha *mull__sha_create(void) {
    mull__sha *s = calloc(1, sizeof *s);
    if (s && (s->c = EVP_MD_CTX_new()) && EVP_DigestInit_ex(s->c, EVP_sha256(), NULL) == 1) return s;
    mull__sha_destroy(s);
    return NULL;
}

void mull__sha_add(mull__sha *s, const void *p, size_t n) {
    EVP_DigestUpdate(s->c, p, n);
}

void mull__sha_done(mull__sha *s, uint8_t out[32]) {
    unsigned char md[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    EVP_DigestFinal_ex(s->c, md, &n);
    memcpy(out, md, 32);
    EVP_DigestInit_ex(s->c, EVP_sha256(), NULL);
}

void mull__sha_destroy(mull__sha *s) {
    if (!s) return;
    EVP_MD_CTX_free(s->c);
    free(s);
}

void mull__hex(const uint8_t *p, size_t n, char *out) {
    for (size_t i = 0; i < n; i++) snprintf(out + 2 * i, 3, "%02x", p[i]);
}

static int add_range(mull__sha *s, int fd, int64_t at, size_t n, char *buf) {
    for (size_t have = 0; have < n;) {
        ssize_t got = pread(fd, buf + have, n - have, (off_t)at + (off_t)have);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return got < 0 ? errno : EIO;
        have += (size_t)got;
    }
    mull__sha_add(s, buf, n);
    return 0;
}

int mull_digest_file(mull__sha *s, int dir, const char *name, const char *what, mull_error *err) {
    struct stat st;
    uint8_t size[8];
    const char *slash = strrchr(name, '/'), *last = slash ? slash + 1 : name;
    char *buf = malloc(HEAD);
    if (!buf) return mull_fail(err, MULL_ENOMEM, what, name, "", "out of memory");
    int fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK), rc = fd < 0 || fstat(fd, &st) ? errno : 0;
    if (!rc) {
        for (int i = 0; i < 8; i++) size[i] = (uint8_t)((uint64_t)st.st_size >> (56 - 8 * i));
        mull__sha_add(s, last, strlen(last) + 1);
        mull__sha_add(s, size, 8);
        if (st.st_size <= WHOLE) {
            for (int64_t at = 0; at < st.st_size && !rc; at += HEAD)
                rc = add_range(s, fd, at, st.st_size - at < HEAD ? (size_t)(st.st_size - at) : HEAD, buf);
        } else {
            rc = add_range(s, fd, 0, HEAD, buf);
            for (int i = 0; i < SAMPLES && !rc; i++)
                rc = add_range(s, fd, HEAD + (st.st_size - HEAD - SAMPLE) / (SAMPLES - 1) * i, SAMPLE, buf);
        }
    }
    if (fd >= 0) close(fd);
    free(buf);
    return rc ? mull_fail_errno(err, rc, what, name, "check its folder") : MULL_OK;
}

static int counts_for_answers(const struct dirent *e) {
    static const char *const NAMES[] = {"config.json", "generation_config.json", "preprocessor_config.json",
                                        "tokenizer.json", "tokenizer_config.json"};
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++)
        if (!strcmp(e->d_name, NAMES[i])) return 1;
    size_t n = strlen(e->d_name);
    return n > 12 && !strcmp(e->d_name + n - 12, ".safetensors");
}

static int by_bytes(const struct dirent **a, const struct dirent **b) {
    return strcmp((*a)->d_name, (*b)->d_name);
}

int mull_digest_model(const char *path, char hex[65], mull_error *err) {
    static const char *const WHAT = "cannot read the checkpoint";
    struct dirent **list = NULL;
    uint8_t md[32];
    int n = scandir(path, &list, counts_for_answers, by_bytes), rc = MULL_OK;
    if (n < 0) return mull_fail_errno(err, errno, WHAT, path, "check the path");
    int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    mull__sha *s = mull__sha_create();
    if (dir < 0)
        rc = mull_fail_errno(err, errno, WHAT, path, "check the path");
    else if (!s)
        rc = mull_fail(err, MULL_ENOMEM, WHAT, path, "", "out of memory");
    for (int i = 0; i < n; i++) {
        if (!rc) rc = mull_digest_file(s, dir, list[i]->d_name, WHAT, err);
        free(list[i]);
    }
    free(list);
    if (!rc) {
        mull__sha_done(s, md);
        mull__hex(md, 32, hex);
    }
    mull__sha_destroy(s);
    if (dir >= 0) close(dir);
    return rc;
}
