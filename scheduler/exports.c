/* See exports.h. */
#include "scheduler/exports.h"

#include "schema/event_line.h"
#include "schema/remove_tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char PART[] = ".mull-part"; /* behind the name of a file that is being sent */

int mull_exports_add(mull_exports *x, char *text, mull_err *err) {
    static const char what[] = "cannot export a folder";
    char *path = text[0] == '/' ? text : strchr(text, '=');
    if (x->count == MULL_MAX_EXPORTS)
        return mull_fail(err, MULL_ERR_LIMIT, what, text, NULL, "there are more than %d", MULL_MAX_EXPORTS);
    if (path && path != text) *path++ = 0;
    if (!path || path[0] != '/' || !path[1])
        return mull_fail(err, MULL_ERR_ARG, what, text, "give --export DIR or --export TEAM=DIR",
                         "it is no absolute path below /");
    for (size_t n = strlen(path); path[n - 1] == '/'; n--) path[n - 1] = 0;
    int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return mull_fail_errno(err, errno, what, path, "make the folder first");
    x->at[x->count++] = (mull_export){path, path == text ? NULL : text, fd};
    return 0;
}

static bool plain(const char *path) {
    if (path[0] != '/' || !path[1]) return false;
    for (const char *p = path; *p;) {
        size_t n = strcspn(++p, "/");
        if (n == 0 || (n == 1 && p[0] == '.') || (n == 2 && p[0] == '.' && p[1] == '.')) return false;
        p += n;
    }
    return true;
}

/* The export that a path is in, and what is left of it below ("" for the folder itself); NULL with errno. */
static const mull_export *find(const mull_exports *x, const char *team, const char *path, const char **rest) {
    errno = EACCES;
    if (!plain(path)) return NULL;
    for (size_t i = 0; i < x->count; i++) {
        const mull_export *e = &x->at[i];
        size_t n = strlen(e->path);
        if (strncmp(path, e->path, n) != 0 || (path[n] && path[n] != '/') || (e->team && strcmp(e->team, team) != 0))
            continue;
        *rest = path[n] ? path + n + 1 : "";
        return e;
    }
    return NULL;
}

bool mull_exports_has(const mull_exports *x, const char *team, const char *path) {
    const char *rest;
    return find(x, team, path, &rest) != NULL;
}

static int open_below(int dir, const char *name, int flags, mode_t mode) {
    if (!(flags & O_PATH)) flags |= O_NOCTTY | O_NONBLOCK; /* a pipe or a terminal is refused later, and holds nobody */
    struct open_how how = {
        .flags = (uint64_t)(flags | O_CLOEXEC), .mode = mode, .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS};
    for (int tries = 0;; tries++) { /* EAGAIN: somebody renamed on the way */
        int fd = (int)syscall(SYS_openat2, dir, *name ? name : ".", &how, sizeof how);
        if (fd >= 0 || errno != EAGAIN || tries == 10) return fd;
    }
}

static int open_path(const mull_exports *x, const char *team, const char *path, int flags) {
    const char *rest;
    const mull_export *e = find(x, team, path, &rest);
    return e ? open_below(e->fd, rest, flags, 0) : -1;
}

/* ---- sums ---- */

static bool sum_of(int fd, char hex[65]) {
    enum { PIECE = 1 << 18 };
    unsigned char md[EVP_MAX_MD_SIZE];
    char *buf = malloc(PIECE);
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    unsigned n = 0;
    int64_t at = 0;
    ssize_t got = -1;
    bool ok = buf && c && EVP_DigestInit_ex(c, EVP_sha256(), NULL) == 1;
    while (ok && (got = pread(fd, buf, PIECE, at)) > 0) {
        EVP_DigestUpdate(c, buf, (size_t)got);
        at += got;
    }
    ok = ok && got == 0 && EVP_DigestFinal_ex(c, md, &n) == 1;
    for (unsigned i = 0; ok && i < 32; i++) snprintf(hex + 2 * i, 3, "%02x", md[i]);
    EVP_MD_CTX_free(c);
    free(buf);
    return ok;
}

/* ---- trees ---- */

typedef struct walk {
    json_t *files, *left_out;
    bool failed;
    char name[4096];
} walk;

static void leave_out(walk *w) {
    if (json_array_size(w->left_out) < 100) json_array_append_new(w->left_out, json_string(w->name));
}

static void add_file(walk *w, int fd, const struct stat *st) {
    char sum[65];
    if (!sum_of(fd, sum) || json_array_size(w->files) == MULL_TREE_FILES_MAX) {
        if (json_array_size(w->files) == MULL_TREE_FILES_MAX) errno = E2BIG;
        w->failed = true;
        return;
    }
    json_array_append_new(
        w->files, json_pack("{s:s, s:I, s:s}", "name", w->name, "bytes", (json_int_t)st->st_size, "sha256", sum));
}

/* root: where links may lead to at most. Takes fd. */
static void add_folder(walk *w, int root, const char *base, int fd, int depth) {
    DIR *d = fdopendir(fd);
    size_t len = strlen(w->name);
    if (!d) {
        close(fd);
        w->failed = true;
        return;
    }
    for (const struct dirent *e; !w->failed && (e = readdir(d));) {
        char path[8300];
        struct stat st, own;
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        size_t n = strlen(e->d_name);
        if (n > sizeof PART && !strcmp(e->d_name + n - (sizeof PART - 1), PART)) continue;
        if (len + n + 2 > sizeof w->name || mull_utf8_check(e->d_name) != 0) continue;
        snprintf(w->name + len, sizeof w->name - len, "%s%s", len ? "/" : "", e->d_name);
        snprintf(path, sizeof path, "%s%s%s", base, *base ? "/" : "", w->name);
        int at = open_below(root, path, O_RDONLY, 0);
        bool known = at >= 0 && fstat(at, &st) == 0 && fstatat(fd, e->d_name, &own, AT_SYMLINK_NOFOLLOW) == 0;
        /* Links to files are files (as in a cache of models); links to folders could go round in circles. */
        if (!known || (S_ISLNK(own.st_mode) && S_ISDIR(st.st_mode))) {
            leave_out(w);
            if (at >= 0) close(at);
        } else if (S_ISDIR(st.st_mode)) {
            if (depth < MULL_TREE_DEPTH_MAX)
                add_folder(w, root, base, at, depth + 1); /* takes it */
            else
                close(at);
        } else {
            if (S_ISREG(st.st_mode))
                add_file(w, at, &st);
            else
                leave_out(w);
            close(at);
        }
        w->name[len] = 0;
    }
    int why = errno;
    closedir(d);
    errno = why;
}

json_t *mull_exports_tree(const mull_exports *x, const char *team, const char *path) {
    const char *rest;
    struct stat st;
    const mull_export *e = find(x, team, path, &rest);
    int fd = e ? open_below(e->fd, rest, O_RDONLY, 0) : -1;
    if (fd < 0) return NULL;
    walk *w = calloc(1, sizeof *w);
    if (!w || fstat(fd, &st) != 0 || !(S_ISDIR(st.st_mode) || S_ISREG(st.st_mode))) {
        close(fd);
        free(w);
        errno = EINVAL;
        return NULL;
    }
    w->files = json_array();
    w->left_out = json_array();
    bool folder = S_ISDIR(st.st_mode);
    if (folder) {
        add_folder(w, e->fd, rest, fd, 0);
    } else {
        add_file(w, fd, &st);
        close(fd);
    }
    json_t *out = NULL;
    int why = errno;
    if (w->failed) {
        json_decref(w->files);
        json_decref(w->left_out);
    } else {
        out = json_pack("{s:s, s:b, s:o, s:o}", "path", path, "folder", folder, "files", w->files, "left_out",
                        w->left_out);
    }
    free(w);
    errno = why;
    return out;
}

int64_t mull_exports_read(const mull_exports *x, const char *team, const char *path, uint64_t offset, char *to,
                          size_t n) {
    int fd = open_path(x, team, path, O_RDONLY);
    struct stat st;
    size_t have = 0;
    if (fd < 0) return -1;
    bool ok = fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
    if (!ok) errno = EINVAL;
    while (ok && have < n) {
        ssize_t k = pread(fd, to + have, n - have, (off_t)(offset + have));
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) ok = false;
        if (k <= 0) break;
        have += (size_t)k;
    }
    int why = errno;
    close(fd);
    errno = why;
    return ok ? (int64_t)have : -1;
}

/* ---- coming in ---- */

/* The folder that a new file goes into, made as far as need be; its name and the name of its part. -1 with errno. */
static int open_parent(const mull_exports *x, const char *team, const char *path, bool make, char name[256],
                       char part[280]) {
    const char *rest;
    const mull_export *e = find(x, team, path, &rest);
    if (!e) return -1;
    const char *last = strrchr(rest, '/');
    last = last ? last + 1 : rest;
    if (!*last || strlen(last) >= 240) {
        errno = *last ? ENAMETOOLONG : EISDIR;
        return -1;
    }
    snprintf(name, 256, "%s", last);
    snprintf(part, 280, "%s%s", last, PART);
    int dir = open_below(e->fd, "", O_PATH | O_DIRECTORY, 0);
    for (const char *at = rest; dir >= 0 && at < last;) {
        char one[256];
        size_t n = strcspn(at, "/");
        if (n >= sizeof one) {
            close(dir);
            errno = ENAMETOOLONG;
            return -1;
        }
        snprintf(one, sizeof one, "%.*s", (int)n, at);
        if (make && mkdirat(dir, one, 0777) != 0 && errno != EEXIST) {
            int why = errno;
            close(dir);
            errno = why;
            return -1;
        }
        /* No link on the way in: one of the folder's own could lead to another team's. */
        int next = openat(dir, one, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), why = errno;
        close(dir);
        errno = why;
        dir = next;
        at += n + 1;
    }
    return dir;
}

int64_t mull_exports_part(const mull_exports *x, const char *team, const char *path) {
    char name[256], part[280];
    struct stat st;
    int dir = open_parent(x, team, path, false, name, part);
    if (dir < 0) return errno == ENOENT ? 0 : -1;
    int64_t have = fstatat(dir, part, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) ? st.st_size : 0;
    close(dir);
    return have;
}

int mull_exports_write(const mull_exports *x, const char *team, const char *path, uint64_t offset, const char *from,
                       size_t n) {
    char name[256], part[280];
    struct stat st;
    int dir = open_parent(x, team, path, true, name, part), why = 0;
    if (dir < 0) return errno;
    int fd = openat(dir, part, O_WRONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | (offset ? 0 : O_TRUNC), 0666);
    if (fd < 0 || fstat(fd, &st) != 0)
        why = errno;
    else if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != offset)
        why = EINVAL;
    for (size_t done = 0; !why && done < n;) {
        ssize_t k = pwrite(fd, from + done, n - done, (off_t)(offset + done));
        if (k < 0 && errno != EINTR) why = errno;
        if (k == 0) why = ENOSPC;
        if (k > 0) done += (size_t)k;
    }
    if (fd >= 0 && close(fd) != 0 && !why) why = errno;
    close(dir);
    return why;
}

int mull_exports_commit(const mull_exports *x, const char *team, const char *path, const char *sha256) {
    char name[256], part[280], sum[65];
    int dir = open_parent(x, team, path, false, name, part), why = 0;
    if (dir < 0) return errno;
    int fd = openat(dir, part, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    /* Asked again after an answer that was lost: it has its name already. */
    bool again = fd < 0 && errno == ENOENT;
    if (again) fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        why = again ? ENOENT : errno;
    else if (!sum_of(fd, sum))
        why = again ? ENOENT : errno ? errno : EIO; /* a folder of that name, say */
    else if (strcmp(sum, sha256) != 0)
        why = again ? ENOENT : EBADMSG;
    if (!why && (fsync(fd) != 0 || (!again && renameat(dir, part, dir, name) != 0))) why = errno;
    if (why == EBADMSG) unlinkat(dir, part, 0);
    int sync = why ? -1 : openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (!why && (sync < 0 || fsync(sync) != 0)) why = errno;
    if (sync >= 0) close(sync);
    if (fd >= 0) close(fd);
    close(dir);
    return why;
}

int mull_exports_remove(const mull_exports *x, const char *team, const char *path) {
    char name[256], part[280];
    int dir = open_parent(x, team, path, false, name, part);
    if (dir < 0) return errno == ENOENT ? 0 : errno;
    int why = mull_remove_at(dir, name);
    close(dir);
    return why;
}
