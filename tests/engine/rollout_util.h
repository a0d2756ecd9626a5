/* Rollout jobs as processes of their own, beside a trainer. */
#ifndef MULL_TESTS_ENGINE_ROLLOUT_UTIL_H
#define MULL_TESTS_ENGINE_ROLLOUT_UTIL_H

#include "tests/engine/grpo_util.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

#define JOBS "rollout_mode=disaggregated", "rollout_groups=3"

/* A rollout job of the run in out, its words into out.log. */
static inline pid_t start_job(const char *out) {
    char spec[160], log[160];
    snprintf(spec, sizeof spec, "{\"kind\":\"rollout\",\"out\":\"%s\",\"idle_timeout\":120}", out);
    snprintf(log, sizeof log, "%s.log", out);
    int in[2];
    assert_int_equal(pipe(in), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        int words = open(log, O_WRONLY | O_CREAT | O_APPEND, 0666);
        dup2(in[0], STDIN_FILENO);
        dup2(words, STDERR_FILENO);
        close(in[0]);
        close(in[1]);
        close(3);
        execl(MULL_BIN_DIR "/mull-engine", "mull-engine", "run", (char *)NULL);
        _exit(127);
    }
    close(in[0]);
    assert_int_equal(write(in[1], spec, strlen(spec)), (ssize_t)strlen(spec));
    close(in[1]);
    return pid;
}

static inline int status_of(pid_t pid) {
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/* The samples that both kept, all their words and numbers. */
static inline void same_samples(const char *a, const char *b) {
    char path[160];
    int n = 0;
    snprintf(path, sizeof path, "%s/rollouts", a);
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (e->d_name[0] == '.') continue;
        char other[160];
        snprintf(other, sizeof other, "%s/rollouts", b);
        same_file(path, other, e->d_name);
        n++;
    }
    if (d) closedir(d);
    assert_true(n > 0);
}

#endif
