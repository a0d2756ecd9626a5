/* The error list and its printing; see error.h. */
#include "engine/core/error.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

static void put(char *dst, size_t cap, const char *src) {
    snprintf(dst, cap, "%s", src ? src : "");
}

int mull_fail(mull_error *err, int code, const char *what, const char *where, const char *todo, const char *why_fmt,
              ...) {
    if (!err) return code;
    err->code = code;
    put(err->what, sizeof err->what, what);
    put(err->where, sizeof err->where, where);
    put(err->todo, sizeof err->todo, todo);
    va_list ap;
    va_start(ap, why_fmt);
    vsnprintf(err->why, sizeof err->why, why_fmt, ap);
    va_end(ap);
    return code;
}

int mull_fail_errno(mull_error *err, int errnum, const char *what, const char *where, const char *todo) {
    int code = MULL_EIO;
    if (errnum == ENOSPC || errnum == EDQUOT) code = MULL_ENOSPACE;
    if (errnum == ENOENT || errnum == ENOTDIR) code = MULL_EMISSING;
    if (errnum == ENOMEM) code = MULL_ENOMEM;
    /* What the path names is wrong, wherever and however often it is tried. */
    if (errnum == EACCES || errnum == EPERM || errnum == EISDIR || errnum == ELOOP || errnum == ENAMETOOLONG)
        code = MULL_EARG;
    return mull_fail(err, code, what, where, todo, "%s", strerror(errnum));
}

const char *mull_status_name(int code) {
    switch (code) {
#define X(name, value, text)                                                                                           \
    case value:                                                                                                        \
        return #name;
        MULL_STATUS_LIST(X)
#undef X
    default:
        return code == 0 ? "OK" : "UNKNOWN";
    }
}

const char *mull_status_text(int code) {
    switch (code) {
#define X(name, value, text)                                                                                           \
    case value:                                                                                                        \
        return text;
        MULL_STATUS_LIST(X)
#undef X
    default:
        return code == 0 ? "success" : "unknown status";
    }
}

char *mull_error_line(const mull_error *err, char *buf, size_t cap) {
    snprintf(buf, cap, "error: %s%s%s%s: %s%s%s", err->what[0] ? err->what : "failed", err->where[0] ? " (" : "",
             err->where, err->where[0] ? ")" : "", err->why[0] ? err->why : mull_status_text(err->code),
             err->todo[0] ? "; " : "", err->todo);
    /* File names and foreign text may hold newlines; an error stays one line. */
    for (char *p = buf; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f) *p = '?';
    return buf;
}

void mull_error_print(FILE *f, const mull_error *err) {
    char line[sizeof(mull_error) + 64];
    fprintf(f, "%s\n", mull_error_line(err, line, sizeof line));
}
