/* See jsonl.h. */
#include "engine/cmd/jsonl.h"

#include "engine/cmd/cmd.h"
#include "engine/core/buf.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int put(const char *text, size_t n, void *ctx) {
    return mull_buf_add(ctx, text, n);
}

/* Whoever asks line by line gets each answer at once; a file or a full pipe is answered in large pieces. */
static bool more_waits(bool file) {
    struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
    return file || poll(&in, 1, 0) > 0;
}

static void emit(json_t *out, bool flush, mull_buf *text) {
    text->len = 0;
    int rc = json_dump_callback(out, put, text, JSON_COMPACT | JSON_REAL_PRECISION(17));
    if (!rc) rc = mull_buf_puts(text, "\n");
    if (rc || fwrite(text->data, 1, text->len, stdout) != text->len || (flush && fflush(stdout))) {
        fprintf(stderr, "error: cannot write output (stdout): %s; nothing more was written\n",
                rc ? "out of memory" : strerror(errno));
        exit(MULL_EXIT_FAILED);
    }
    json_decref(out);
}

int mull_cmd_jsonl(const char *command, json_t *(*row)(void *, const json_t *, mull_error *), void *ctx) {
    char *line = NULL, text[sizeof(mull_error) + 64];
    size_t cap = 0;
    long number = 0;
    ssize_t n;
    int rc = MULL_EXIT_OK;
    struct stat st;
    bool file = !fstat(STDIN_FILENO, &st) && S_ISREG(st.st_mode);
    mull_buf line_out = {0};
    while ((n = getline(&line, &cap, stdin)) >= 0) {
        number++;
        while (n && (line[n - 1] == '\n' || line[n - 1] == '\r')) n--;
        if (n == 0) continue;
        mull_error err = {0};
        json_error_t je;
        char where[40];
        snprintf(where, sizeof where, "line %ld", number);
        json_t *in = json_loadb(line, (size_t)n, JSON_ALLOW_NUL, &je), *out = NULL;
        if (json_is_object(in))
            out = row(ctx, in, &err);
        else
            mull_fail(&err, MULL_EFORMAT, command, where, "send one JSON object a line", "%s",
                      in ? "it is no JSON object" : je.text);
        if (!out) {
            if (!err.where[0]) snprintf(err.where, sizeof err.where, "%s", where);
            out =
                json_pack("{s:s, s:I}", "error", mull_error_line(&err, text, sizeof text), "line", (json_int_t)number);
            rc = MULL_EXIT_FAILED;
        }
        emit(out, !more_waits(file), &line_out);
        json_decref(in);
    }
    if (fflush(stdout)) rc = MULL_EXIT_FAILED;
    mull_buf_fini(&line_out);
    free(line);
    return rc;
}
