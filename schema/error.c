/* See error.h. */
#include "schema/error.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

static void set(char *dst, size_t cap, const char *src) {
    snprintf(dst, cap, "%s", src ? src : "");
}

int mull_fail(mull_err *err, int code, const char *what, const char *where, const char *todo, const char *why_fmt,
              ...) {
    if (!err) return code;
    err->code = code;
    set(err->what, sizeof err->what, what);
    set(err->where, sizeof err->where, where);
    set(err->todo, sizeof err->todo, todo);
    va_list ap;
    va_start(ap, why_fmt);
    vsnprintf(err->why, sizeof err->why, why_fmt, ap);
    va_end(ap);
    return code;
}

int mull_fail_errno(mull_err *err, int errnum, const char *what, const char *where, const char *todo) {
    int code = errnum == ENOSPC || errnum == EDQUOT ? MULL_ERR_NOSPACE
               : errnum == ENOENT                   ? MULL_ERR_MISSING
               : errnum == ENOMEM                   ? MULL_ERR_NOMEM
                                                    : MULL_ERR_IO;
    return mull_fail(err, code, what, where, todo, "%s", strerror(errnum));
}

const char *mull_err_text(int code) {
    switch (code) {
#define X(name, value, text)                                                                                           \
    case value:                                                                                                        \
        return text;
        MULL_ERR_LIST(X)
#undef X
    default:
        return code == 0 ? "success" : "unknown error";
    }
}

char *mull_err_line(const mull_err *err, char *buf, size_t cap) {
    snprintf(buf, cap, "error: %s%s%s%s: %s%s%s", err->what[0] ? err->what : "failed", err->where[0] ? " (" : "",
             err->where, err->where[0] ? ")" : "", err->why[0] ? err->why : mull_err_text(err->code),
             err->todo[0] ? "; " : "", err->todo);
    for (char *p = buf; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f) *p = ' ';
    return buf;
}

void mull_err_print(FILE *f, const mull_err *err) {
    char line[sizeof(mull_err) + 64];
    fprintf(f, "%s\n", mull_err_line(err, line, sizeof line));
}
