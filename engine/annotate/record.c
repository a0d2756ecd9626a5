/* See record.h. */
#include "engine/annotate/record.h"

#include "engine/annotate/fileio.h"
#include "engine/job/events.h"

#include <stdlib.h>
#include <string.h>

static const char *const WHAT = "cannot write a record";

void mull__row_id_make(const char *work_hex, int64_t row, const char *data, size_t len, mull__row_id *out) {
    mull__sha *s = mull__sha_create();
    uint8_t md[32] = {0};
    char number[32];
    if (s) {
        snprintf(number, sizeof number, "\n%lld\n", (long long)row);
        mull__sha_add(s, work_hex, strlen(work_hex));
        mull__sha_add(s, number, strlen(number));
        mull__sha_add(s, data, len);
        mull__sha_done(s, md);
    }
    mull__sha_destroy(s);
    mull__hex(md, 32, out->hex);
}

static json_t *text_or_null(const char *s) {
    return s ? mull_json_text(s, strlen(s)) : json_null();
}

static json_t *prefixed(const char *prefix, const char *hex, int n) {
    return json_sprintf("%s%.*s", prefix, n, hex);
}

json_t *mull__completion(json_t *id, int64_t created, const char *model, const mull__choice *c, int n, int64_t prompt) {
    json_t *list = json_array();
    json_int_t out = 0;
    for (int i = 0; i < n; i++) {
        out += c[i].tokens;
        json_array_append_new(list,
                              json_pack("{s:i, s:{s:s, s:o}, s:n, s:s}", "index", i, "message", "role", "assistant",
                                        "content", mull_json_text(c[i].text ? c[i].text : "", c[i].len), "logprobs",
                                        "finish_reason", c[i].finish == MULL_FINISH_STOP ? "stop" : "length"));
    }
    return json_pack("{s:o, s:s, s:I, s:o, s:o, s:{s:I, s:I, s:I}}", "id", id, "object", "chat.completion", "created",
                     (json_int_t)created, "model", text_or_null(model), "choices", list, "usage", "prompt_tokens",
                     (json_int_t)prompt, "completion_tokens", out, "total_tokens", (json_int_t)prompt + out);
}

static int dump(json_t *o, mull_buf *out, mull_error *err) {
    char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
    json_decref(o);
    int rc = text ? mull_buf_puts(out, text) : MULL_ENOMEM;
    free(text);
    return rc ? mull_fail(err, MULL_ENOMEM, WHAT, "", "", "out of memory") : MULL_OK;
}

int mull__record_answer(const mull__asked *a, const mull__row_id *id, const mull__choice *choices, int n,
                        int64_t prompt_tokens, mull_buf *out, mull_error *err) {
    json_t *o =
        json_pack("{s:o, s:o}", "id", prefixed("batch_req_", id->hex, 32), "custom_id", text_or_null(a->custom_id));
    if (o && !a->batch) json_object_set_new(o, "line", json_integer(a->line));
    if (o) {
        json_object_set_new(
            o, "response",
            json_pack("{s:i, s:o, s:o}", "status_code", 200, "request_id", prefixed("req_", id->hex + 32, 32), "body",
                      mull__completion(prefixed("chatcmpl-", id->hex, 24), 0, a->model, choices, n, prompt_tokens)));
        json_object_set_new(o, "error", json_null());
    }
    return dump(o, out, err);
}

int mull__record_error(const mull__asked *a, const mull__row_id *id, const char *code, const mull_error *why,
                       mull_buf *out, mull_error *err) {
    char line[sizeof(mull_error) + 64];
    const char *message = mull_error_line(why, line, sizeof line);
    if (!strncmp(message, "error: ", 7)) message += 7;
    json_t *o =
        json_pack("{s:o, s:o, s:I, s:n, s:{s:s, s:o, s:I}}", "id", prefixed("batch_req_", id->hex, 32), "custom_id",
                  text_or_null(a->custom_id), "line", (json_int_t)a->line, "response", "error", "code", code, "message",
                  mull_json_text(message, strlen(message)), "line", (json_int_t)a->line);
    return dump(o, out, err);
}
