/* See remove_tree.h. A folder takes a descriptor for each level that it goes down; what lies deeper than DEPTH is moved
 * to the top first, so that nobody can build something that is too deep to be removed. */
#include "schema/remove_tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DEPTH = 32, NAMES = 1000 };

typedef struct removal {
    int top;   /* the folder that is removed */
    int moved; /* how many folders were moved into it since it was read */
    int why;   /* errno of the first failure */
} removal;

static void failed(removal *r, int why) {
    if (!r->why) r->why = why;
}

/* A name that nothing in the top has may be taken by what was moved before, or by the owner on purpose. */
static bool move_up(removal *r, int dir, const char *name) {
    char other[40];
    for (int i = 0; i < NAMES; i++) {
        snprintf(other, sizeof other, ".mull-removed-%d-%d", r->moved, i);
        if (renameat2(dir, name, r->top, other, RENAME_NOREPLACE) == 0) {
            r->moved++;
            return true;
        }
        if (errno != EEXIST) return false;
    }
    return false;
}

static void remove_in(removal *r, int dir, const char *name, int depth) {
    if (unlinkat(dir, name, 0) == 0 || errno == ENOENT) return;
    if (errno != EISDIR && errno != EPERM) {
        failed(r, errno);
        return;
    }
    if (depth == DEPTH && move_up(r, dir, name)) return;
    int fd = depth == DEPTH ? -1 : openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    if (!d) {
        failed(r, errno);
        if (fd >= 0) close(fd);
        return;
    }
    if (depth == 0) r->top = fd;
    do { /* what was moved to the top may have come behind the place where it is read */
        if (depth == 0) r->moved = 0;
        rewinddir(d);
        for (const struct dirent *e; (e = readdir(d));)
            if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) remove_in(r, fd, e->d_name, depth + 1);
    } while (depth == 0 && r->moved > 0);
    closedir(d);
    if (unlinkat(dir, name, AT_REMOVEDIR) != 0 && errno != ENOENT && (errno != ENOTEMPTY || r->moved == 0))
        failed(r, errno);
}

int mull_remove_at(int dir, const char *name) {
    removal r = {.top = -1};
    remove_in(&r, dir, name, 0);
    return r.why;
}

int mull_remove_tree(const char *path) {
    char folder[8600];
    if ((size_t)snprintf(folder, sizeof folder, "%s", path) >= sizeof folder) return ENAMETOOLONG;
    for (size_t n = strlen(folder); n > 1 && folder[n - 1] == '/';) folder[--n] = 0;
    char *last = strrchr(folder, '/');
    if (!last || !last[1]) return EINVAL;
    *last++ = 0;
    int dir = open(*folder ? folder : "/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0) return errno == ENOENT ? 0 : errno;
    int why = mull_remove_at(dir, last);
    close(dir);
    return why;
}
