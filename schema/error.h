/* Errors of everything outside the engine. 0 is success, negative codes come from the list, and a failing call fills a
 * mull_err with what went wrong, where, why and what the user can do: error: WHAT (WHERE): WHY; WHAT TO DO.
 * (The engine has its own of the same form: it shares no code with the queue, only the process boundary.) */
#ifndef MULL_SCHEMA_ERROR_H
#define MULL_SCHEMA_ERROR_H

#include <stddef.h>
#include <stdio.h>

#define MULL_ERR_LIST(X)                                                                                               \
    X(NOMEM, -1, "out of memory")                                                                                      \
    X(IO, -2, "the operating system refused a read or write")                                                          \
    X(NOSPACE, -3, "the disk is full")                                                                                 \
    X(MISSING, -4, "a file or entry is missing")                                                                       \
    X(FORMAT, -5, "the data is broken or of another format")                                                           \
    X(LIMIT, -6, "a limit is exceeded")                                                                                \
    X(ARG, -7, "an argument is wrong")                                                                                 \
    X(UNSUPPORTED, -8, "not supported by this build or version")                                                       \
    X(UNAVAILABLE, -9, "a server does not answer")                                                                     \
    X(INTERNAL, -10, "a bug in mull")                                                                                  \
    X(BUSY, -11, "somebody else holds it")

enum {
#define X(name, code, text) MULL_ERR_##name = code,
    MULL_ERR_LIST(X)
#undef X
};

typedef struct mull_err {
    int code;
    char what[160];
    char where[512];
    char why[1536];
    char todo[320];
} mull_err;

/* Fills err (which may be NULL) and returns code. what, where, todo may be NULL. */
int mull_fail(mull_err *err, int code, const char *what, const char *where, const char *todo, const char *why_fmt, ...)
    __attribute__((format(printf, 6, 7)));
/* The same from errno. */
int mull_fail_errno(mull_err *err, int errnum, const char *what, const char *where, const char *todo);
const char *mull_err_text(int code);
/* The one line, without newline, control characters replaced. Returns buf. */
char *mull_err_line(const mull_err *err, char *buf, size_t cap);
void mull_err_print(FILE *f, const mull_err *err);

#endif
