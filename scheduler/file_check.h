/* Are the files that a spec names there? Looked at by libuv's threads, because a stat on a dead network file system may
 * take minutes. Every fault is found, each with its key, line and what to do. */
#ifndef MULL_SCHEDULER_FILE_CHECK_H
#define MULL_SCHEDULER_FILE_CHECK_H

#include "schema/jobspec.h"

#include <uv.h>

typedef struct mull_file_check mull_file_check;
/* diags lists what is wrong (none: n = 0) and is valid until mull_file_check_free. */
typedef void (*mull_file_check_cb)(const mull_diags *diags, void *arg);

/* Begins looking; cb is called once from the loop. lines may be NULL. The spec is not needed after the call. NULL
 * without memory (cb is then not called). */
mull_file_check *mull_file_check_start(uv_loop_t *loop, const json_t *spec, const json_t *lines, mull_file_check_cb cb,
                                       void *arg);
/* After cb only; accepts NULL. */
void mull_file_check_free(mull_file_check *c);
/* The looking itself, blocking: for tests, and for who has a thread of his own. */
void mull_file_check_run(const json_t *spec, const json_t *lines, mull_diags *diags);

#endif
