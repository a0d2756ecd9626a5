/* What an engine may touch. Always: no new privileges, no core files, and without the kernel's calls of seccomp.h; a
 * worker that is root can give engines a user of their own. With roots: the files below them, its own private
 * folder and the system's programs and libraries to read, and nothing else, enforced by the kernel (Landlock), so that
 * neither "..", links, /proc nor a program it starts leads out. */
#ifndef MULL_WORKER_SANDBOX_H
#define MULL_WORKER_SANDBOX_H

#include "schema/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

enum { MULL_MAX_ROOTS = 64 };

/* One --root: a folder that jobs of a team (NULL: of every team) may read and write. */
typedef struct mull_root {
    const char *team, *path;
} mull_root;

/* "DIR" or "TEAM=DIR", an existing folder with an absolute path; text must stay. 0 or negative. */
int mull_root_parse(const char *text, mull_root *root, mull_err *err);
/* Whether this kernel can do it; false: err says what is missing. */
bool mull_sandbox_possible(mull_err *err);
/* The folders of a team's jobs as one text, "/a:/b", with own, the engine's private folder. "" without roots: nothing
 * is confined. -1 when it does not fit. */
int mull_sandbox_paths(const mull_root *roots, size_t n, const char *team, const char *own, char *out, size_t cap);
typedef struct mull_sandbox {
    const char *read, *write; /* texts as above; write NULL: no limit of paths */
    bool network;             /* sockets of the Internet, for ranks that meet and engines that serve */
    uid_t uid;                /* to become, with no other groups than gid; 0: stay who we are */
    gid_t gid;
} mull_sandbox;
/* Confines this process and all it starts. 0 or errno. */
int mull_sandbox_enter(const mull_sandbox *s);
/* The same by what the worker has put into the environment (MULL_SANDBOX_...), which is taken out of it. */
int mull_sandbox_enter_env(void);

#endif
