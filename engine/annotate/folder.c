/* See folder.h. */
#include "engine/annotate/folder.h"

#include "engine/media/image.h"
#include "engine/text/utf8.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DEPTH_MAX = 32 };
static const char *const WHAT = "cannot read the folder";

typedef struct names {
    char **at;
    size_t n, cap;
} names;

static int add_name(names *v, char *name, mull_error *err) {
    if (name && v->n == v->cap) {
        size_t cap = v->cap ? v->cap * 2 : 256;
        char **p = realloc(v->at, cap * sizeof *p);
        if (p) {
            v->at = p;
            v->cap = cap;
        } else {
            free(name);
            name = NULL;
        }
    }
    if (!name) return mull_fail(err, MULL_ENOMEM, WHAT, "", "", "out of memory");
    v->at[v->n++] = name;
    return MULL_OK;
}

/* Takes fd. prefix is the folder's path below the root, with its slash. */
static int walk(int fd, const char *prefix, int depth, names *v, mull_error *err) {
    DIR *d = fdopendir(fd);
    if (!d) {
        int rc = mull_fail_errno(err, errno, WHAT, prefix, "check its permissions");
        close(fd);
        return rc;
    }
    int rc = MULL_OK;
    struct dirent *e;
    while (!rc && (errno = 0, e = readdir(d)) != NULL) {
        struct stat st;
        if (e->d_name[0] == '.' || fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW)) continue;
        if (!S_ISDIR(st.st_mode) && !S_ISREG(st.st_mode)) continue;
        mull_buf name = {0};
        if (mull_buf_printf(&name, "%s%s%s", prefix, e->d_name, S_ISDIR(st.st_mode) ? "/" : "")) {
            rc = mull_fail(err, MULL_ENOMEM, WHAT, "", "", "out of memory");
        } else if (S_ISREG(st.st_mode)) {
            rc = add_name(v, name.data, err);
            name.data = NULL;
        } else if (depth >= DEPTH_MAX) {
            rc = mull_fail(err, MULL_ELIMIT, WHAT, name.data, "", "folders are nested deeper than %d", DEPTH_MAX);
        } else {
            int sub = openat(dirfd(d), e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
            rc = sub < 0 ? mull_fail_errno(err, errno, WHAT, name.data, "check its permissions")
                         : walk(sub, name.data, depth + 1, v, err);
        }
        mull_buf_fini(&name);
    }
    if (!rc && errno) rc = mull_fail_errno(err, errno, WHAT, prefix, "");
    closedir(d);
    return rc;
}

static bool is_video(const unsigned char *p, size_t n) {
    static const char PS[] = "\x00\x00\x01\xba", ES[] = "\x00\x00\x01\xb3", MKV[] = "\x1a\x45\xdf\xa3";
    return n >= 12 &&
           (!memcmp(p + 4, "ftyp", 4) || !memcmp(p + 4, "moov", 4) || !memcmp(p, MKV, 4) ||
            (!memcmp(p, "RIFF", 4) && !memcmp(p + 8, "AVI ", 4)) || !memcmp(p, "OggS", 4) || !memcmp(p, "FLV\x01", 4) ||
            !memcmp(p, PS, 4) || !memcmp(p, ES, 4) || (p[0] == 0x47 && n > 188 && p[188] == 0x47));
}

/* "image", "video" or NULL. */
static const char *kind_of(int root, const char *name, struct stat *st) {
    unsigned char head[256];
    int fd = openat(root, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    ssize_t n = fd < 0 || fstat(fd, st) || !S_ISREG(st->st_mode) ? -1 : read(fd, head, sizeof head);
    if (fd >= 0) close(fd);
    if (n <= 0) return NULL;
    if (is_video(head, (size_t)n)) return "video";
    return mull_image_sniff(head, (size_t)n) != MULL_FORMAT_UNKNOWN ? "image" : NULL;
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int write_row(const char *root, const char *name, const char *kind, mull__sink *to, mull_error *err) {
    char *path = mull_path_join(root, name);
    json_t *o = path ? json_pack("{s:s, s:s}", "custom_id", name, kind, path) : NULL;
    char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
    int rc = text ? mull__sink_add(to, text, strlen(text), err)
                  : mull_fail(err, MULL_EARG, WHAT, name, "", "its path is no UTF-8");
    if (!rc) rc = mull__sink_add(to, "\n", 1, err);
    free(text);
    json_decref(o);
    free(path);
    return rc;
}

int mull__folder_rows(const char *path, int work, mull__sha *sha, int64_t *others, mull_error *err) {
    names v = {0};
    mull__sink to = {.fd = -1};
    char hex[65], *real = realpath(path, NULL);
    *others = 0;
    int root = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc = MULL_OK;
    if (root < 0 || !real) rc = mull_fail_errno(err, errno, WHAT, path, "check the path and its permissions");
    if (!rc) rc = walk(dup(root), "", 0, &v, err);
    if (!rc && v.n) qsort(v.at, v.n, sizeof *v.at, by_name);
    if (!rc) rc = mull__sink_open(&to, work, "folder.jsonl", err);
    for (size_t i = 0; i < v.n && !rc; i++) {
        struct stat st;
        const char *kind = mull_utf8_valid(v.at[i], strlen(v.at[i])) ? kind_of(root, v.at[i], &st) : NULL;
        if (!kind) {
            ++*others;
            continue;
        }
        int64_t facts[] = {(int64_t)st.st_size, (int64_t)st.st_mtim.tv_sec, (int64_t)st.st_mtim.tv_nsec};
        mull__sha_add(sha, v.at[i], strlen(v.at[i]) + 1);
        mull__sha_add(sha, facts, sizeof facts);
        rc = write_row(real, v.at[i], kind, &to, err);
    }
    if (!rc) rc = mull__sink_commit(&to, hex, err);
    if (to.name) mull__sink_fini(&to);
    for (size_t i = 0; i < v.n; i++) free(v.at[i]);
    free(v.at);
    free(real);
    if (root >= 0) close(root);
    return rc;
}
