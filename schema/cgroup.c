/* See cgroup.h. /proc/self/mountinfo says where version 2 is mounted, /proc/self/cgroup which group is ours there. */
#include "schema/cgroup.h"

#include <errno.h>
#include <linux/magic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

static const char WHAT[] = "engines cannot be limited by cgroups";

/* The mount point of version 2, "" without one. A mount of a part of the tree (a container's) begins at root. */
static void find_mount(char out[512], char root[512]) {
    char line[4096];
    FILE *f = fopen("/proc/self/mountinfo", "re");
    out[0] = 0;
    while (f && !out[0] && fgets(line, sizeof line, f)) {
        const char *type = strstr(line, " - ");
        if (!type || strncmp(type + 3, "cgroup2 ", 8) != 0) continue;
        if (sscanf(line, "%*d %*d %*s %511s %511s", root, out) != 2) out[0] = 0;
    }
    if (f) fclose(f);
}

/* Our path in version 2: the line "0::/path". */
static bool find_path(char out[2048]) {
    char line[2200];
    FILE *f = fopen("/proc/self/cgroup", "re");
    bool found = false;
    while (f && !found && fgets(line, sizeof line, f)) {
        if (strncmp(line, "0::/", 4) != 0) continue;
        line[strcspn(line, "\n")] = 0;
        found = (size_t)snprintf(out, 2048, "%.2047s", line + 3) < 2047;
    }
    if (f) fclose(f);
    return found;
}

int mull_cgroup_usable(const char *folder, mull_err *err) {
    static const char *const wanted[] = {"cpu", "memory", "pids"};
    char path[4096], have[512] = " ";
    struct statfs fs;
    if (statfs(folder, &fs) != 0) return mull_fail_errno(err, errno, WHAT, folder, "name a group that is there");
    if (fs.f_type != CGROUP2_SUPER_MAGIC)
        return mull_fail(err, MULL_ERR_UNSUPPORTED, WHAT, folder, "boot with systemd.unified_cgroup_hierarchy=1",
                         "it is no group of cgroups version 2");
    snprintf(path, sizeof path, "%s/cgroup.controllers", folder);
    FILE *f = fopen(path, "re");
    size_t n = f ? fread(have + 1, 1, sizeof have - 3, f) : 0;
    if (f) fclose(f);
    have[n + 1] = 0;
    have[strcspn(have, "\n")] = ' ';
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        char word[16];
        snprintf(word, sizeof word, " %s ", wanted[i]);
        if (!strstr(have, word))
            return mull_fail(err, MULL_ERR_UNSUPPORTED, WHAT, folder,
                             "let who manages the machine delegate it (systemd: Delegate=yes)",
                             "the controller %s is not there", wanted[i]);
    }
    snprintf(path, sizeof path, "%s/cgroup.subtree_control", folder);
    if (access(folder, W_OK) != 0 || access(path, W_OK) != 0)
        return mull_fail(err, MULL_ERR_UNSUPPORTED, WHAT, folder,
                         "let who manages the machine delegate it (systemd: Delegate=yes)", "it is not ours to write");
    return 0;
}

int mull_cgroup_own(char *out, size_t cap, mull_err *err) {
    char mount[512], root[512], path[2048];
    find_mount(mount, root);
    if (!mount[0] || !find_path(path))
        return mull_fail(err, MULL_ERR_UNSUPPORTED, WHAT, "/proc/self/cgroup", NULL,
                         "cgroups version 2 are not mounted here");
    /* Paths are told from the root of our namespace; a mount that begins elsewhere shows what is below only. */
    const char *below = path;
    size_t n = strlen(root);
    if (n > 1 && strncmp(path, root, n) == 0) below = path + n;
    if ((size_t)snprintf(out, cap, "%s%s", mount, strcmp(below, "/") ? below : "") >= cap)
        return mull_fail(err, MULL_ERR_UNSUPPORTED, WHAT, mount, NULL, "the path is too long");
    return mull_cgroup_usable(out, err);
}
