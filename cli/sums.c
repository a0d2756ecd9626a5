/* See sums.h. */
#include "cli/sums.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CHUNK = 1 << 20, PATH_CAP = 8192 };

static int say(char *why, size_t cap, const char *what) {
    snprintf(why, cap, "%s: %s", what, strerror(errno));
    return -1;
}

int mull_sums_check(const char *dir, const char *name, long long bytes, const char *sha256, char *why, size_t cap) {
    char path[PATH_CAP], hex[65];
    struct stat st;
    if (!*name || strchr(name, '/') || snprintf(path, sizeof path, "%s/%s", dir, name) >= (int)sizeof path) {
        snprintf(why, cap, "the record has no usable name for it");
        return -1;
    }
    int fd = open(path, O_RDONLY | O_CLOEXEC), rc = 0;
    if (fd < 0 || fstat(fd, &st)) {
        rc = say(why, cap, "it cannot be read");
        if (fd >= 0) close(fd);
        return rc;
    }
    unsigned char md[EVP_MAX_MD_SIZE], *buf = malloc(CHUNK);
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    if (!buf || !c || EVP_DigestInit_ex(c, EVP_sha256(), NULL) != 1) {
        snprintf(why, cap, "out of memory");
        rc = -1;
    } else if (bytes >= 0 && (long long)st.st_size != bytes) {
        snprintf(why, cap, "it has %lld bytes, not %lld", (long long)st.st_size, bytes);
        rc = -1;
    }
    for (ssize_t n = 1; !rc && n != 0;) {
        n = read(fd, buf, CHUNK);
        if (n < 0 && errno != EINTR) rc = say(why, cap, "it cannot be read");
        if (n > 0) EVP_DigestUpdate(c, buf, (size_t)n);
    }
    if (!rc) {
        EVP_DigestFinal_ex(c, md, NULL);
        for (int i = 0; i < 32; i++) snprintf(hex + 2 * i, 3, "%02x", md[i]);
        if (strcmp(hex, sha256) != 0) {
            snprintf(why, cap, "its content has changed: sha256 %s, not %.64s", hex, sha256);
            rc = -1;
        }
    }
    EVP_MD_CTX_free(c);
    free(buf);
    close(fd);
    return rc;
}

/* Everything in it, then the folder. */
static int empty_out(const char *dir, char *why, size_t cap) {
    DIR *d = opendir(dir);
    if (!d) return say(why, cap, "the folder cannot be opened");
    int rc = 0;
    for (struct dirent *e; !rc && (e = readdir(d));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        if (unlinkat(dirfd(d), e->d_name, 0)) rc = say(why, cap, e->d_name);
    }
    closedir(d);
    if (!rc && rmdir(dir)) rc = say(why, cap, "the folder cannot be removed");
    return rc;
}

/* 0 when nothing in it is a folder and it has a run's state. */
static int looks_right(const char *dir, char *why, size_t cap) {
    DIR *d = opendir(dir);
    if (!d) return say(why, cap, "the folder cannot be opened");
    int state = 0, folders = 0;
    for (struct dirent *e; (e = readdir(d));) {
        struct stat st;
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        state += !strcmp(e->d_name, "trainer_state.json");
        folders += fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode);
    }
    closedir(d);
    if (state && !folders) return 0;
    snprintf(why, cap, folders ? "there are folders in it" : "it has no trainer_state.json, so it is no checkpoint");
    return -1;
}

int mull_checkpoint_erase(const char *path, char *why, size_t cap) {
    char aside[PATH_CAP];
    struct stat st;
    const char *slash = strrchr(path, '/'), *digits = slash && !strncmp(slash + 1, "checkpoint-", 11) ? slash + 12 : "";
    if (path[0] != '/' || !*digits || digits[strspn(digits, "0123456789")] ||
        snprintf(aside, sizeof aside, "%.*s/.checkpoint-%s.removed", (int)(slash - path), path, digits) >=
            (int)sizeof aside) {
        snprintf(why, cap, "it is not named checkpoint-N");
        return -1;
    }
    if (lstat(path, &st)) {
        if (errno != ENOENT && errno != ENOTDIR) return say(why, cap, "it cannot be looked at");
        if (lstat(aside, &st) || !S_ISDIR(st.st_mode)) return 1;
        return empty_out(aside, why, cap);
    }
    if (!S_ISDIR(st.st_mode)) {
        snprintf(why, cap, "it is no folder");
        return -1;
    }
    if (looks_right(path, why, cap)) return -1;
    if (lstat(aside, &st) == 0 && empty_out(aside, why, cap)) return -1;
    if (rename(path, aside)) return say(why, cap, "it cannot be renamed");
    return empty_out(aside, why, cap);
}
