/* See engine_user.h. */
#include "worker/engine_user.h"

#include <errno.h>
#include <pwd.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int mull_engine_user_find(const char *name, mull_engine_user *out, mull_err *err) {
    static const char what[] = "cannot give engines a user of their own";
    const struct passwd *p = getpwnam(name);
    if (geteuid() != 0)
        return mull_fail(err, MULL_ERR_UNSUPPORTED, what, name, "leave --engine-user out, or start the worker as root",
                         "only root can change users");
    if (!p) return mull_fail(err, MULL_ERR_MISSING, what, name, "make it first (adduser --system)", "no such user");
    if (p->pw_uid == 0 || p->pw_gid == 0)
        return mull_fail(err, MULL_ERR_ARG, what, name, "name an ordinary one", "it is root, or of root's group");
    *out = (mull_engine_user){.uid = p->pw_uid, .gid = p->pw_gid};
    snprintf(out->name, sizeof out->name, "%s", p->pw_name);
    return 0;
}

static bool may_pass(const mull_engine_user *u, const struct stat *st) {
    mode_t bit = st->st_uid == u->uid ? S_IXUSR : st->st_gid == u->gid ? S_IXGRP : S_IXOTH;
    return (st->st_mode & bit) != 0;
}

int mull_engine_user_reach(const mull_engine_user *u, const char *path, const char *own, mull_err *err) {
    static const char what[] = "engines of another user cannot reach the state folder";
    char part[4096];
    struct stat st;
    if (!u->uid) return 0;
    snprintf(part, sizeof part, "%s", path);
    for (char *p = part + 1;; p++) {
        if (*p != '/' && *p) continue;
        char c = *p;
        *p = 0;
        if (stat(part, &st) != 0) return mull_fail_errno(err, errno, what, part, NULL);
        bool ours = strncmp(part, own, strlen(own)) == 0;
        if (!may_pass(u, &st) && (!ours || chmod(part, (st.st_mode & 07777) | S_IXGRP | S_IXOTH) != 0))
            return mull_fail(err, MULL_ERR_ARG, what, part, "chmod o+x it, or choose another folder with --state",
                             "user %s may not pass through it", u->name);
        if (!c) return 0;
        *p = c;
    }
}
