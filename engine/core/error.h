/* Errors of the engine. One convention: 0 is success, negative codes come from the list below, and
 * a failing call fills a mull_error with what went wrong, where, why and what the user can do.
 * Printed as the one line that scripts rely on:  error: WHAT (WHERE): WHY; WHAT TO DO */
#ifndef MULL_ENGINE_CORE_ERROR_H
#define MULL_ENGINE_CORE_ERROR_H

#include <stdio.h>

#define MULL_STATUS_LIST(X)                                                                                            \
    X(NOMEM, -1, "out of memory")                                                                                      \
    X(IO, -2, "the operating system refused a read or write")                                                          \
    X(NOSPACE, -3, "the disk is full")                                                                                 \
    X(MISSING, -4, "a file or entry is missing")                                                                       \
    X(FORMAT, -5, "the data is broken or of another format")                                                           \
    X(LIMIT, -6, "a limit is exceeded")                                                                                \
    X(ARG, -7, "an argument is wrong")                                                                                 \
    X(UNSUPPORTED, -8, "not supported by this build or version")                                                       \
    X(CANCELLED, -9, "stopped on request")                                                                             \
    X(INTERNAL, -10, "a bug in mull")

typedef enum mull_status {
    MULL_OK = 0,
#define X(name, code, text) MULL_E##name = code,
    MULL_STATUS_LIST(X)
#undef X
} mull_status;

/* Exit statuses of every command line tool here. */
enum { MULL_EXIT_OK = 0, MULL_EXIT_FAILED = 1, MULL_EXIT_USAGE = 2, MULL_EXIT_REQUEUE = 75 };

typedef struct mull_error {
    int code;        /* a mull_status, 0 when nothing failed */
    char what[160];  /* "cannot load checkpoint" */
    char where[512]; /* file, tensor, key, line */
    char why[6144];  /* the cause */
    char todo[320];  /* what the user can do, may be empty */
} mull_error;

/* Fills err (which may be NULL) and returns code. what/where/todo may be NULL. */
int mull_fail(mull_error *err, int code, const char *what, const char *where, const char *todo, const char *why_fmt,
              ...) __attribute__((format(printf, 6, 7)));
/* The same from errno: ENOSPC/EDQUOT become MULL_ENOSPACE, ENOENT MULL_EMISSING, ENOMEM MULL_ENOMEM, what
 * is wrong about a path (EACCES, EISDIR, ELOOP ...) MULL_EARG, else MULL_EIO. */
int mull_fail_errno(mull_error *err, int errnum, const char *what, const char *where, const char *todo);
/* The symbol's name ("FORMAT") and its one-sentence meaning. */
const char *mull_status_name(int code);
const char *mull_status_text(int code);
/* Writes the one error line without newline; control characters are replaced. Returns buf. */
char *mull_error_line(const mull_error *err, char *buf, size_t cap);
void mull_error_print(FILE *f, const mull_error *err);

#endif
