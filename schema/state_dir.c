/* See state_dir.h. */
#include "schema/state_dir.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int mull_state_dir_find(const char *given, mull_state_dir *out, mull_err *err) {
    static const char *const what = "cannot find the state folder";
    char path[2048], cwd[1024];
    const char *env = getenv("MULL_STATE"), *xdg = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    int n;
    if (given && *given)
        n = snprintf(path, sizeof path, "%s", given);
    else if (env && *env)
        n = snprintf(path, sizeof path, "%s", env);
    else if (geteuid() == 0)
        n = snprintf(path, sizeof path, "/var/lib/mull");
    else if (xdg && *xdg)
        n = snprintf(path, sizeof path, "%s/mull", xdg);
    else if (home && *home)
        n = snprintf(path, sizeof path, "%s/.local/state/mull", home);
    else
        return mull_fail(err, MULL_ERR_ARG, what, NULL, "set MULL_STATE or pass --state DIR",
                         "neither MULL_STATE nor HOME is set");
    if (n >= (int)sizeof path)
        return mull_fail(err, MULL_ERR_LIMIT, what, NULL, "choose a shorter path", "the path is too long");
    size_t len = strlen(path);
    while (len > 1 && path[len - 1] == '/') path[--len] = 0;
    if (path[0] == '/')
        snprintf(out->root, sizeof out->root, "%s", path);
    else {
        if (!getcwd(cwd, sizeof cwd))
            return mull_fail(err, MULL_ERR_IO, what, path, "pass an absolute path", "the current folder has no name");
        snprintf(out->root, sizeof out->root, "%s/%s", cwd, path);
    }
    snprintf(out->run, sizeof out->run, "%s/run", out->root);
    snprintf(out->socket, sizeof out->socket, "%s/scheduler.sock", out->run);
    snprintf(out->redis, sizeof out->redis, "%s/redis.sock", out->run);
    snprintf(out->pg_socket, sizeof out->pg_socket, "%s/pg", out->run);
    snprintf(out->file, sizeof out->file, "%s/mull.json", out->root);
    return 0;
}
