/* Checking a recipe before it is queued. The parser is the engine's, and only a process boundary leads there. */
#include "cli/args.h"
#include "cli/jobs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* mull-engine beside this program. */
static bool engine_path(char *out, size_t cap) {
    static const char name[] = "mull-engine";
    ssize_t n = readlink("/proc/self/exe", out, cap - sizeof name);
    char *slash = n > 0 ? (out[n] = 0, strrchr(out, '/')) : NULL;
    if (!slash) return false;
    memcpy(slash + 1, name, sizeof name);
    return access(out, X_OK) == 0;
}

int mull_recipe_refused(const json_t *spec) {
    const char *kind = json_string_value(json_object_get(spec, "kind")),
               *config = json_string_value(json_object_get(spec, "config"));
    const json_t *set = json_object_get(spec, "set");
    char engine[4096];
    if (!kind || strcmp(kind, "train") || !config || json_object_get(spec, "array") || access(config, R_OK) ||
        !engine_path(engine, sizeof engine))
        return MULL_EXIT_OK;
    size_t n = 0;
    const char **argv = calloc(2 * json_array_size(set) + 4, sizeof *argv);
    if (!argv) return MULL_EXIT_OK;
    argv[n++] = "mull-engine";
    argv[n++] = "recipe";
    argv[n++] = config;
    for (size_t i = 0; i < json_array_size(set); i++) {
        const char *text = json_string_value(json_array_get(set, i));
        if (!text) continue;
        argv[n++] = "--set";
        argv[n++] = text;
    }
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) {
        int none = open("/dev/null", O_RDWR);
        if (none >= 0) {
            dup2(none, STDIN_FILENO);
            dup2(none, STDOUT_FILENO);
        }
        execv(engine, (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    free(argv);
    return pid > 0 && WIFEXITED(status) && WEXITSTATUS(status) == MULL_EXIT_USAGE ? MULL_EXIT_USAGE : MULL_EXIT_OK;
}
