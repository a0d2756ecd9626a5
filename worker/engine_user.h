/* A user of their own for engines, where the worker is root: they then own nothing but their private folders, and can
 * neither read the worker's state nor signal anything of it. */
#ifndef MULL_WORKER_ENGINE_USER_H
#define MULL_WORKER_ENGINE_USER_H

#include "schema/error.h"

#include <sys/types.h>

typedef struct mull_engine_user {
    uid_t uid; /* 0: none, engines run as the worker */
    gid_t gid;
    char name[64];
} mull_engine_user;

/* Looks the user up; refused unless this process is root and the user is not. 0 or negative. */
int mull_engine_user_find(const char *name, mull_engine_user *out, mull_err *err);
/* Whether the user can pass through every folder of an absolute path, as it must to reach its own below it. Folders
 * from own on (a prefix of path) are the worker's, and are opened for passing. 0 or negative. */
int mull_engine_user_reach(const mull_engine_user *u, const char *path, const char *own, mull_err *err);

#endif
