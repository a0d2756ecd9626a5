/* Jobs as the commands handle them: ids, reading one, waiting for its end, its exit status, printing. */
#ifndef MULL_CLI_JOBS_H
#define MULL_CLI_JOBS_H

#include "cli/client.h"
#include "cli/term.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

/* Exit statuses of `mull wait` for jobs that did not complete; FAILED gives the job's own. */
enum { MULL_WAIT_CANCELLED = 3, MULL_WAIT_OTHER = 4, MULL_WAIT_TIMEOUT = 124, MULL_WAIT_INTERRUPTED = 130 };

/* One line of compact JSON on stdout; takes the reference. A failed write ends the process with status 1. */
void mull_emit(json_t *json);
/* Says why standard output cannot be written (errno; nothing for a reader that went away); MULL_EXIT_FAILED. */
int mull_output_failed(void);
/* Prints usage and returns nonzero unless text is a job id. */
int mull_id_check(const char *cmd, const char *text);
/* Opens the client or prints why not (NULL). */
mull_client *mull_client_or_complain(void);
/* One call of mull_client_get with a client of its own; everything that goes wrong has been said. */
int mull_ask(const char *method, const char *path, const json_t *body, json_t **out);

/* Waits until the job has ended; *job is its last state, a new reference. It outlasts restarts of the queue: only a
 * queue that was never reached is an error. timeout_s <= 0: for ever. Exit status: 0, MULL_EXIT_FAILED with the words
 * printed, MULL_WAIT_TIMEOUT, MULL_WAIT_INTERRUPTED. */
int mull_wait_job(mull_client *c, const char *id, bool quiet, double timeout_s, json_t **job);
/* Of an ended job. */
int mull_job_exit(const json_t *job);
/* "job 3 COMPLETED in 0:07" and what went wrong, on stderr. */
void mull_job_epilogue(const json_t *job);

/* Prints log lines as they come until the job has ended. */
int mull_follow_logs(mull_client *c, const char *id, bool json, long attempt);

/* Text of an object's key, "" when it is none. */
const char *mull_text(const json_t *o, const char *key);
/* The figures of an evaluation (a job's "eval_results"), with their intervals; nothing when there are none. */
void mull_eval_table(const json_t *results, FILE *f);
/* What mull-engine compare --eval says: a line a task, then what only one of the two has. */
void mull_compare_table(const json_t *compared, FILE *f);
/* What a follower ("follow" of a job) made: a line for each task of each checkpoint. */
void mull_follow_table(const json_t *follow, FILE *f);
/* The members named by keys of each object of the list key in r, under n columns (at most 8); with json the objects
 * themselves. */
void mull_list_show(json_t *r, const char *key, const mull_column *columns, const char *const *keys, size_t n,
                    bool json);
/* mull node ls. */
int mull_nodes_show(bool json, bool watch);
/* Percent-encodes into out. */
void mull_query_encode(const char *text, char *out, size_t cap);
/* The table of ps, on standard output as wide as it is; or anywhere, of that width (0: nothing is cut). */
void mull_jobs_table(const json_t *jobs, bool wide);
void mull_jobs_write(const json_t *jobs, bool wide, FILE *f, int width, bool color);
/* Asks on a terminal and is true for yes; true at once with yes (-y), and where nobody is there to answer. */
bool mull_confirm(bool yes, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Sleeps; returns early on a signal. */
void mull_pause(double seconds);

/* OUT of a training job, malloc'ed; NULL when that was complained about, with what as its first words. */
char *mull_train_folder(const char *id, const char *what);

/* A train job's recipe through the engine's own parser, before the job is queued: 0 when it is right or cannot be
 * looked at from here (no engine beside mull, no such file, an array, whose tasks differ), MULL_EXIT_USAGE when it is
 * wrong; then the engine has said why. spec: with absolute paths. */
int mull_recipe_refused(const json_t *spec);

#endif
