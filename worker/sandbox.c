/* See sandbox.h. The numbers of Landlock's newer rights are written out: the headers of Debian 12 end before them. */
#include "worker/sandbox.h"

#include "worker/seccomp.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/landlock.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define RIGHT(n) (UINT64_C(1) << (n))
static const uint64_t EXECUTE = RIGHT(0), WRITE_FILE = RIGHT(1), READ_FILE = RIGHT(2), READ_DIR = RIGHT(3),
                      TRUNCATE = RIGHT(14);

static int abi(void) {
    return (int)syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
}

/* Everything that this kernel can forbid about files. Not ioctl on devices (15): a GPU is nothing but that. */
static uint64_t all_rights(int version) {
    return version >= 3 ? RIGHT(15) - 1 : version == 2 ? RIGHT(14) - 1 : RIGHT(13) - 1;
}

bool mull_sandbox_possible(mull_err *err) {
    if (abi() >= 1) return true;
    mull_fail(err, MULL_ERR_UNSUPPORTED, "cannot confine jobs", "--root", "boot with lsm=landlock, or leave --root out",
              "this kernel has no Landlock (%s)", strerror(errno));
    return false;
}

int mull_root_parse(const char *text, mull_root *root, mull_err *err) {
    static const char what[] = "cannot confine jobs";
    const char *path = text[0] == '/' ? text : strchr(text, '=');
    struct stat st;
    if (path && path != text) path++;
    if (!path || path[0] != '/' || strchr(path, ':') || (path != text && path == text + 1))
        return mull_fail(err, MULL_ERR_ARG, what, text, "give --root DIR or --root TEAM=DIR",
                         "it is not an absolute path without ':'");
    if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode))
        return mull_fail(err, MULL_ERR_MISSING, what, path, "make the folder first", "there is no such folder");
    *root = (mull_root){NULL, path};
    if (path == text) return 0;
    char *team = strndup(text, (size_t)(path - 1 - text));
    if (!team) return mull_fail(err, MULL_ERR_NOMEM, what, text, "free some memory", "out of memory");
    root->team = team;
    return 0;
}

int mull_sandbox_paths(const mull_root *roots, size_t n, const char *team, const char *own, char *out, size_t cap) {
    out[0] = 0;
    if (n == 0) return 0;
    size_t used = (size_t)snprintf(out, cap, "%s", own);
    for (size_t i = 0; i < n && used < cap; i++)
        if (!roots[i].team || (team && strcmp(roots[i].team, team) == 0))
            used += (size_t)snprintf(out + used, cap - used, ":%s", roots[i].path);
    return used < cap ? 0 : -1;
}

/* Allows rights below path; a path that is not there is no hole and no error. */
static int allow(int rules, const char *path, uint64_t rights) {
    int fd = open(path, O_PATH | O_CLOEXEC), why = 0;
    struct stat st;
    if (fd < 0) return 0;
    if (fstat(fd, &st) == 0 && !S_ISDIR(st.st_mode)) rights &= EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE;
    struct landlock_path_beneath_attr rule = {.allowed_access = rights, .parent_fd = fd};
    if (syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) != 0) why = errno;
    close(fd);
    return why;
}

static int allow_list(int rules, const char *list, uint64_t rights) {
    char path[4096];
    for (const char *at = list; *at;) {
        size_t len = strcspn(at, ":");
        if (len >= sizeof path) return ENAMETOOLONG;
        memcpy(path, at, len);
        path[len] = 0;
        int why = len ? allow(rules, path, rights) : 0;
        if (why) return why;
        at += len + (at[len] == ':');
    }
    return 0;
}

static int limit_paths(const char *read, const char *write) {
    int version = abi();
    if (version < 1) return errno;
    uint64_t all = all_rights(version), look = EXECUTE | READ_FILE | READ_DIR;
    struct landlock_ruleset_attr a = {.handled_access_fs = all};
    int rules = (int)syscall(SYS_landlock_create_ruleset, &a, sizeof a.handled_access_fs, 0);
    if (rules < 0) return errno;
    int why = allow_list(rules, read, look);
    if (!why) why = allow_list(rules, "/dev", (READ_FILE | WRITE_FILE | READ_DIR | TRUNCATE) & all);
    if (!why) why = allow_list(rules, "/dev/shm", all);
    if (!why) why = allow_list(rules, write, all);
    if (!why && syscall(SYS_landlock_restrict_self, rules, 0) != 0) why = errno;
    close(rules);
    return why;
}

/* The order matters: groups while we may, then the user, and what needs no right at all last. */
int mull_sandbox_enter(const mull_sandbox *s) {
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    if (s->uid && (setgroups(0, NULL) || setresgid(s->gid, s->gid, s->gid) || setresuid(s->uid, s->uid, s->uid)))
        return errno;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return errno;
    int why = s->write ? limit_paths(s->read, s->write) : 0;
    if (why || !mull_seccomp_possible()) return why;
    return mull_seccomp_enter(s->network);
}

int mull_sandbox_enter_env(void) {
    const char *user = getenv("MULL_SANDBOX_USER");
    unsigned uid = 0, gid = 0;
    if (user && sscanf(user, "%u:%u", &uid, &gid) != 2) return EINVAL;
    int why = mull_sandbox_enter(&(mull_sandbox){.read = getenv("MULL_SANDBOX_READ"),
                                                 .write = getenv("MULL_SANDBOX_WRITE"),
                                                 .network = getenv("MULL_SANDBOX_NETWORK") != NULL,
                                                 .uid = uid,
                                                 .gid = gid});
    unsetenv("MULL_SANDBOX_READ");
    unsetenv("MULL_SANDBOX_WRITE");
    unsetenv("MULL_SANDBOX_NETWORK");
    unsetenv("MULL_SANDBOX_USER");
    return why;
}
