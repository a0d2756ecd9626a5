/* See roots.h. */
#include "engine/annotate/roots.h"

#include "engine/core/buf.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

static const char *const WHAT = "cannot load a medium";

int mull__roots_init(mull__roots *r, const json_t *list, const char *base, mull_error *err) {
    size_t n = json_array_size(list);
    *r = (mull__roots){.roots = calloc(n + 1, sizeof *r->roots), .base = realpath(base, NULL)};
    int rc = MULL_OK;
    if (!r->roots)
        rc = mull_fail(err, MULL_ENOMEM, WHAT, "", "", "out of memory");
    else if (!r->base)
        rc = mull_fail_errno(err, errno, "cannot use the folder of the input", base, "");
    for (size_t i = 0; !rc && i < n; i++) {
        const char *path = json_string_value(json_array_get(list, i));
        if (!(r->roots[r->n] = realpath(path, NULL)))
            rc = mull_fail_errno(err, errno, "cannot allow media from a folder", path, "name a folder that exists");
        else
            r->n++;
    }
    if (!rc && n == 0) {
        r->roots[0] = strdup(r->base);
        r->n = r->roots[0] != NULL;
        if (!r->n) rc = mull_fail(err, MULL_ENOMEM, WHAT, "", "", "out of memory");
    }
    if (rc) mull__roots_fini(r);
    return rc;
}

void mull__roots_fini(mull__roots *r) {
    for (size_t i = 0; i < r->n; i++) free(r->roots[i]);
    free(r->roots);
    free(r->base);
    *r = (mull__roots){0};
}

static bool inside(const mull__roots *r, const char *path) {
    for (size_t i = 0; i < r->n; i++) {
        size_t n = strlen(r->roots[i]);
        if (n == 1) return true; /* "/" */
        if (!strncmp(path, r->roots[i], n) && path[n] == '/') return true;
    }
    return false;
}

static int refuse(const char *url, const char *why, mull_error *err) {
    return mull_fail(err, MULL_EARG, WHAT, url, "", "%s", why);
}

static int outside(const char *url, mull_error *err) {
    return mull_fail(err, MULL_EARG, WHAT, url, "put it beside the input or add its folder to media_roots",
                     "it is outside the folders that this job may read");
}

/* Whether an open descriptor is a plain file inside a root. */
static int check_fd(const mull__roots *r, int fd, const char *url, mull_error *err) {
    struct stat st;
    struct statfs fs;
    char link[40], path[PATH_MAX + 1];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0 || fstat(fd, &st) || fstatfs(fd, &fs)) return mull_fail_errno(err, errno, WHAT, url, "");
    path[n] = 0;
    if (!inside(r, path)) return outside(url, err);
    if (S_ISDIR(st.st_mode)) return refuse(url, "it is a folder", err);
    if (!S_ISREG(st.st_mode)) return refuse(url, "it is no regular file", err);
    if (fs.f_type == PROC_SUPER_MAGIC || fs.f_type == SYSFS_MAGIC)
        return refuse(url, "files of the kernel are no media", err);
    return MULL_OK;
}

/* Opens what url names, inside the roots. */
static int open_inside(const mull__roots *r, const char *url, int *fd, mull_error *err) {
    char *path = mull_media_ref_path(url), *whole = path;
    struct stat st;
    *fd = -1;
    int rc = MULL_OK;
    if (path && path[0] != '/' && (whole = mull_path_join(r->base, path)) != NULL) {
        free(path);
        path = whole;
    }
    if (!path || !whole) {
        free(path);
        return mull_fail(err, MULL_ENOMEM, WHAT, url, "", "out of memory");
    }
    /* Before the open, which has side effects on devices; what holds is the check after it. */
    char *real = realpath(path, NULL);
    if (!real || stat(real, &st))
        rc = mull_fail_errno(err, errno, WHAT, url, "");
    else if (!inside(r, real))
        rc = outside(url, err);
    else if (S_ISDIR(st.st_mode))
        rc = refuse(url, "it is a folder", err);
    else if (!S_ISREG(st.st_mode))
        rc = refuse(url, "it is no regular file", err);
    else if ((*fd = open(real, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW | O_NOCTTY)) < 0)
        rc = mull_fail_errno(err, errno, WHAT, url, "");
    else
        rc = check_fd(r, *fd, url, err);
    free(real);
    free(path);
    if (rc && *fd >= 0) {
        close(*fd);
        *fd = -1;
    }
    return rc;
}

int mull__roots_check(const mull__roots *r, const mull_media_ref *ref, mull_error *err) {
    int fd;
    if (!strncasecmp(ref->url, "data:", 5)) return MULL_OK;
    if (mull_media_ref_remote(ref->url, err)) return err->code;
    int rc = open_inside(r, ref->url, &fd, err);
    if (!rc) close(fd);
    return rc;
}

int mull__roots_identify(const mull__roots *r, const mull_media_ref *ref, int64_t out[5], mull_error *err) {
    struct stat st;
    int fd;
    memset(out, 0, 5 * sizeof *out);
    if (!strncasecmp(ref->url, "data:", 5)) return MULL_OK;
    if (mull_media_ref_remote(ref->url, err)) return err->code;
    int rc = open_inside(r, ref->url, &fd, err);
    if (rc) return rc;
    if (fstat(fd, &st)) rc = mull_fail_errno(err, errno, WHAT, ref->url, "");
    close(fd);
    if (rc) return rc;
    out[0] = (int64_t)st.st_dev;
    out[1] = (int64_t)st.st_ino;
    out[2] = (int64_t)st.st_size;
    out[3] = (int64_t)st.st_mtim.tv_sec;
    out[4] = (int64_t)st.st_mtim.tv_nsec;
    return MULL_OK;
}

int mull__roots_load(const mull__roots *r, const mull_media_ref *ref, const mull_media_limits *limits, mull_media *out,
                     mull_error *err) {
    *out = (mull_media){0};
    if (!strncasecmp(ref->url, "data:", 5)) return mull_media_ref_load(ref, limits, out, err);
    if (mull_media_ref_remote(ref->url, err)) return err->code;
    int fd, rc = open_inside(r, ref->url, &fd, err);
    if (rc) return rc;
    char path[40];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    mull_media_ref through = {.video = ref->video, .url = path, .part = ref->part};
    rc = mull_media_ref_load(&through, limits, out, err);
    close(fd);
    /* The number of the descriptor differs from run to run; the record must not. */
    if (rc && !strncmp(err->where, "/proc/self/fd/", 14)) snprintf(err->where, sizeof err->where, "%s", ref->url);
    return rc;
}
