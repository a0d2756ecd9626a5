/* The folders whose files the front door hands out and takes in (mull-scheduler --export [TEAM=]DIR), all or a team's
 * own. The kernel sees to it that a path stays below its folder (openat2 with RESOLVE_BENEATH): neither `..` nor a link
 * leads out of it, whoever changes names meanwhile. All calls block and belong into a thread. */
#ifndef MULL_SCHEDULER_EXPORTS_H
#define MULL_SCHEDULER_EXPORTS_H

#include "schema/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MULL_MAX_EXPORTS = 64, MULL_TREE_FILES_MAX = 100000, MULL_TREE_DEPTH_MAX = 32, MULL_PIECE_MAX = 4 << 20 };

typedef struct mull_export {
    const char *path; /* absolute, without a slash at its end */
    const char *team; /* NULL: all teams */
    int fd;
} mull_export;

typedef struct mull_exports {
    mull_export at[MULL_MAX_EXPORTS];
    size_t count;
} mull_exports;

/* [TEAM=]DIR; the text stays the caller's and must last. */
int mull_exports_add(mull_exports *x, char *text, mull_err *err);
/* Whether path is absolute, plain (no empty part, `.` or `..`) and in a folder that this team may use. */
bool mull_exports_has(const mull_exports *x, const char *team, const char *path);

/* All regular files below path (or path itself, name ""), as {"path","folder","files":[{"name","bytes","sha256"}]};
 * NULL with errno. Names that are no UTF-8, devices, pipes and links out of the folder are left out and listed in
 * "left_out". */
json_t *mull_exports_tree(const mull_exports *x, const char *team, const char *path);
/* Up to n bytes at offset; how many, or -1 with errno. */
int64_t mull_exports_read(const mull_exports *x, const char *team, const char *path, uint64_t offset, char *to,
                          size_t n);
/* How much of a file that is being sent is there; 0 when nothing is. */
int64_t mull_exports_part(const mull_exports *x, const char *team, const char *path);
/* Adds n bytes to it at offset, which must be where it ends (else EINVAL); folders above are made. 0 or errno. */
int mull_exports_write(const mull_exports *x, const char *team, const char *path, uint64_t offset, const char *from,
                       size_t n);
/* The file is complete: it takes its name when its bytes have this SHA-256 (hexadecimal), else it goes and EBADMSG is
 * returned. On disk when this returns 0; so it is when it has that name and these bytes already and nothing was sent
 * since, so that a commit may be asked for again. */
int mull_exports_commit(const mull_exports *x, const char *team, const char *path, const char *sha256);
/* A file or a folder with all in it; 0 also when it is not there. */
int mull_exports_remove(const mull_exports *x, const char *team, const char *path);

#endif
