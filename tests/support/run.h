/* Running the programs under test: a command with a deadline, its output and exit status; JSON out of it; folders of
 * the test's own. For tests that drive the real commands (e2e, fault). */
#ifndef MULL_TESTS_SUPPORT_RUN_H
#define MULL_TESTS_SUPPORT_RUN_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

typedef struct mull_run {
    int status; /* exit status, 128 + signal, or -1: the deadline passed and it was killed */
    char *out;  /* stdout, NUL-terminated; the caller's (mull_run_fini) */
    size_t out_len;
    char *err; /* stderr */
} mull_run;

/* Runs argv (NULL-terminated; argv[0] is a path or a name in PATH) in the environment of this process with standard
 * input from /dev/null, and waits at most seconds. Its whole process group is killed at the deadline. */
mull_run mull_run_command(const char *const *argv, int seconds);
void mull_run_fini(mull_run *r);
/* Runs and expects status 0, else prints what it said and ends the test program. The result's text is the caller's. */
char *mull_run_ok(const char *const *argv, int seconds);
/* The first line of stdout as JSON; ends the test program when it is none. A new reference. */
json_t *mull_run_json(const char *const *argv, int seconds);

/* A new folder below $TMPDIR or /tmp, to be removed by mull_tree_remove; malloc'ed. */
char *mull_temp_folder(const char *tag);
void mull_tree_remove(const char *path);
/* Whole file, NUL-terminated; NULL when it cannot be read. */
char *mull_slurp(const char *path, size_t *len);
void mull_write_file(const char *path, const void *data, size_t len);

/* A child (at any depth) of pid whose command line has this word; 0 when there is none. */
pid_t mull_find_descendant(pid_t pid, const char *word);
bool mull_pid_alive(pid_t pid); /* zombies are not */

#endif
