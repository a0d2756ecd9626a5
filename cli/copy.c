/* A checkpoint's files copied to a folder of the user's, checked against the recorded sums on the way; see sums.h. The
 * folder appears whole or not at all: it is DIR.part until every file is there, right and on the disk. */
#include "cli/sums.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CHUNK = 1 << 20, PATH_CAP = 8192 };

static int say(char *why, size_t cap, const char *what, const char *name) {
    snprintf(why, cap, "%s %.200s: %s", what, name, strerror(errno));
    return -1;
}

static int copy_bytes(int in, int out, const char *name, char *why, size_t cap) {
    char *buf = malloc(CHUNK);
    int rc = buf ? 0 : -1;
    if (!buf) snprintf(why, cap, "out of memory");
    while (!rc) {
        ssize_t n = read(in, buf, CHUNK);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) rc = say(why, cap, "cannot read", name);
        if (n <= 0) break;
        for (ssize_t done = 0; done < n && !rc;) {
            ssize_t k = write(out, buf + done, (size_t)(n - done));
            if (k > 0) done += k;
            if (k < 0 && errno != EINTR) rc = say(why, cap, "cannot write", name);
        }
    }
    if (!rc && fsync(out)) rc = say(why, cap, "cannot write", name);
    free(buf);
    return rc;
}

static int copy_file(const char *from, const char *to, const char *name, char *why, size_t cap) {
    char a[PATH_CAP], b[PATH_CAP];
    if (!*name || strchr(name, '/') || snprintf(a, sizeof a, "%s/%s", from, name) >= (int)sizeof a ||
        snprintf(b, sizeof b, "%s/%s", to, name) >= (int)sizeof b) {
        snprintf(why, cap, "the record has no usable name for a file");
        return -1;
    }
    int in = open(a, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (in < 0) return say(why, cap, "cannot read", name);
    int out = open(b, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644), rc;
    rc = out < 0 ? say(why, cap, "cannot write", name) : copy_bytes(in, out, name, why, cap);
    close(in);
    if (out >= 0) close(out);
    return rc;
}

int mull_checkpoint_copy(const char *from, const json_t *files, const char *sums_sha256, const char *dir, char *why,
                         size_t cap) {
    char part[PATH_CAP];
    size_t i;
    const json_t *f;
    int rc = 0;
    if (snprintf(part, sizeof part, "%s.part", dir) >= (int)sizeof part) {
        snprintf(why, cap, "the path is too long");
        return -1;
    }
    if (access(dir, F_OK) == 0) {
        snprintf(why, cap, "%s is there already", dir);
        return -1;
    }
    if (mkdir(part, 0755) && errno != EEXIST) return say(why, cap, "cannot make", part);
    json_array_foreach(files, i, f) {
        const char *name = json_string_value(json_object_get(f, "name"));
        const char *sha = json_string_value(json_object_get(f, "sha256"));
        char bad[400];
        if (!name || !sha) continue;
        rc = copy_file(from, part, name, why, cap);
        if (!rc && mull_sums_check(part, name, json_integer_value(json_object_get(f, "bytes")), sha, bad, sizeof bad)) {
            snprintf(why, cap, "%.100s: %.300s", name, bad);
            rc = -1;
        }
        if (rc) return rc;
    }
    rc = copy_file(from, part, "SHA256SUMS", why, cap);
    char bad[400];
    if (!rc && *sums_sha256 && mull_sums_check(part, "SHA256SUMS", -1, sums_sha256, bad, sizeof bad)) {
        snprintf(why, cap, "SHA256SUMS: %.300s", bad);
        rc = -1;
    }
    if (!rc && rename(part, dir)) rc = say(why, cap, "cannot rename to", dir);
    return rc;
}
