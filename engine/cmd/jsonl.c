/* See jsonl.h. */
#include "engine/cmd/jsonl.h"

#include "engine/cmd/cmd.h"

#include <stdlib.h>
#include <string.h>

int mull_cmd_jsonl(const char *command, json_t *(*row)(void *, const json_t *, mull_error *), void *ctx) {
    char *line = NULL, text[sizeof(mull_error) + 64];
    size_t cap = 0;
    long number = 0;
    ssize_t n;
    int rc = MULL_EXIT_OK;
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
        mull_cmd_emit(out);
        json_decref(in);
    }
    free(line);
    return rc;
}
