/* Requests: see ask.h. The rules of a row of an annotation hold here too (row.h), so that a request and a batch's row
 * get the same answer. */
#include "engine/serve/ask.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

static int refuse(mull__ask *a, int status, const char *code) {
    a->status = status;
    a->code = code;
    return -1;
}

/* The rules of a row refused it; who sent a request knows of no row. */
static int of_row(mull__ask *a, mull_row_code code) {
    if (!strcmp(a->err.what, MULL_ROW_WHAT)) strcpy(a->err.what, "cannot use the request");
    return refuse(a, code == MULL_ROW_INTERNAL ? 500 : 400, mull_row_code_name(code));
}

static int wrong(mull__ask *a, const char *where, const char *why) {
    mull_fail(&a->err, MULL_EARG, "cannot use the request", where, "", "%s", why);
    return refuse(a, 400, "invalid_request");
}

/* stream and stream_options leave the body: to the rules of a row they are unknown. */
static int take_stream(mull__ask *a, json_t *body) {
    const json_t *stream = json_object_get(body, "stream"), *options = json_object_get(body, "stream_options");
    if (stream && !json_is_boolean(stream) && !json_is_null(stream))
        return wrong(a, "stream", "it must be true or false");
    a->streamed = json_is_true(stream);
    if (options && !json_is_null(options)) {
        const json_t *usage = json_object_get(options, "include_usage");
        if (!json_is_object(options) || !a->streamed)
            return wrong(a, "stream_options", "it is an object, and only for a stream");
        if (usage && !json_is_boolean(usage) && !json_is_null(usage))
            return wrong(a, "stream_options.include_usage", "it must be true or false");
        a->with_usage = json_is_true(usage);
    }
    json_object_del(body, "stream");
    json_object_del(body, "stream_options");
    return 0;
}

int mull__ask_parse(const mull__ask_rules *rules, const char *body, size_t len, mull__ask *a) {
    json_error_t why;
    mull_row_code code;
    json_t *json = json_loadb(body, len, JSON_ALLOW_NUL, &why);
    if (!json_is_object(json)) {
        if (json)
            mull_fail(&a->err, MULL_EFORMAT, "cannot use the request", "body", "", "it is no JSON object");
        else
            mull_fail(&a->err, MULL_EFORMAT, "cannot use the request", "body", "", "line %d column %d: %s", why.line,
                      why.column, why.text);
        json_decref(json);
        return refuse(a, 400, "invalid_json");
    }
    if (take_stream(a, json)) {
        json_decref(json);
        return -1;
    }
    if (mull_row_parse_body(json, &rules->sampling, &a->row, &code, &a->err)) return of_row(a, code);
    if (a->row.model && strcmp(a->row.model, rules->model) != 0) {
        mull_fail(&a->err, MULL_EMISSING, "cannot use the request", "model", "see /v1/models",
                  "the model '%.200s' is not served here; '%.200s' is", a->row.model, rules->model);
        return refuse(a, 404, "model_not_found");
    }
    return 0;
}

static int load_media(const mull__ask_rules *rules, mull__ask *a) {
    const mull_row *r = &a->row;
    mull_media_limits limits = rules->session->limits;
    if (mull_media_limits_override(r->body, "body", &limits, &a->err)) return of_row(a, MULL_ROW_REQUEST);
    a->media = calloc(r->nrefs + 1, sizeof *a->media);
    a->list = calloc(r->nrefs + 1, sizeof *a->list);
    if (!a->media || !a->list) {
        mull_fail(&a->err, MULL_ENOMEM, "cannot load the media", "", "", "out of memory");
        return refuse(a, 503, "out_of_memory");
    }
    for (size_t m = 0; m < r->nrefs; m++) {
        if (!rules->roots && strncasecmp(r->refs[m].url, "data:", 5) != 0) {
            mull_fail(&a->err, MULL_EARG, "cannot load a medium", "messages", "send it as a data: URL",
                      "this server reads no files");
            return of_row(a, MULL_ROW_MEDIA);
        }
        int rc = rules->roots ? mull__roots_load(rules->roots, &r->refs[m], &limits, &a->media[m], &a->err)
                              : mull_media_ref_load(&r->refs[m], &limits, &a->media[m], &a->err);
        if (rc) return rc == MULL_ENOMEM ? refuse(a, 503, "out_of_memory") : of_row(a, MULL_ROW_MEDIA);
        a->list[m] = &a->media[m];
        a->nmedia = m + 1;
    }
    return 0;
}

int mull__ask_prepare(const mull__ask_rules *rules, mull__ask *a) {
    if (load_media(rules, a)) return -1;
    int64_t *tokens = calloc(a->nmedia + 1, sizeof *tokens);
    a->choices = calloc((size_t)a->row.choices, sizeof *a->choices);
    int rc = MULL_ENOMEM;
    if (!tokens || !a->choices)
        mull_fail(&a->err, MULL_ENOMEM, "cannot render the prompt", "", "", "out of memory");
    else {
        for (size_t m = 0; m < a->nmedia; m++) tokens[m] = a->media[m].tokens;
        rc = mull_chat_render(rules->session->tok, a->row.messages, tokens, a->nmedia, &rules->session->render, NULL,
                              &a->ids, &a->err);
    }
    free(tokens);
    if (rc) return rc == MULL_ENOMEM ? refuse(a, 503, "out_of_memory") : of_row(a, MULL_ROW_REQUEST);
    a->left = a->row.choices;
    return 0;
}

void mull__ask_fini(mull__ask *a) {
    for (int c = 0; a->choices && c < a->row.choices; c++) free(a->choices[c].text);
    free(a->choices);
    for (size_t m = 0; m < a->nmedia; m++) mull_media_fini(&a->media[m]);
    free(a->media);
    free(a->list);
    mull_ids_fini(&a->ids);
    mull_row_fini(&a->row);
    *a = (mull__ask){0};
}

/* ---- answers */

json_t *mull__serve_error(int status, const char *code, const char *message, const char *param) {
    const char *type = status == 429   ? "rate_limit_error"
                       : status == 401 ? "authentication_error"
                       : status >= 500 ? "server_error"
                                       : "invalid_request_error";
    return json_pack("{s:{s:o, s:s, s:s?, s:s}}", "error", "message", mull_json_text(message, strlen(message)), "type",
                     type, "param", param && *param ? param : NULL, "code", code);
}

json_t *mull__ask_error(const mull__ask *a) {
    char line[sizeof(mull_error) + 64];
    const char *text = mull_error_line(&a->err, line, sizeof line);
    if (!strncmp(text, "error: ", 7)) text += 7;
    return mull__serve_error(a->status, a->code, text, a->err.where);
}

json_t *mull__ask_answer(const mull__ask *a, const char *model) {
    return mull__completion(json_string(a->id), a->created, model, a->choices, a->row.choices, a->prompt_tokens);
}

static int event(json_t *o, mull_buf *out) {
    char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
    json_decref(o);
    int rc = text ? mull_buf_puts(out, "data: ") : MULL_ENOMEM;
    if (!rc) rc = mull_buf_puts(out, text);
    if (!rc) rc = mull_buf_puts(out, "\n\n");
    free(text);
    return rc;
}

/* choices is stolen. */
static json_t *chunk(const mull__ask *a, const char *model, json_t *choices) {
    json_t *o = json_pack("{s:s, s:s, s:I, s:s, s:o}", "id", a->id, "object", "chat.completion.chunk", "created",
                          (json_int_t)a->created, "model", model, "choices", choices);
    if (o && a->with_usage) json_object_set_new(o, "usage", json_null());
    return o;
}

static json_t *delta(int choice, json_t *what, const char *finish) {
    return json_pack("[{s:i, s:o, s:n, s:s?}]", "index", choice, "delta", what, "logprobs", "finish_reason", finish);
}

int mull__ask_chunk_begin(const mull__ask *a, const char *model, int choice, mull_buf *out) {
    return event(chunk(a, model, delta(choice, json_pack("{s:s, s:s}", "role", "assistant", "content", ""), NULL)),
                 out);
}

int mull__ask_chunk_text(const mull__ask *a, const char *model, int choice, const char *text, size_t n, mull_buf *out) {
    return event(chunk(a, model, delta(choice, json_pack("{s:o}", "content", mull_json_text(text, n)), NULL)), out);
}

int mull__ask_chunk_end(const mull__ask *a, const char *model, int choice, mull_buf *out) {
    const char *why = a->choices[choice].finish == MULL_FINISH_STOP ? "stop" : "length";
    return event(chunk(a, model, delta(choice, json_object(), why)), out);
}

int mull__ask_chunk_done(const mull__ask *a, const char *model, mull_buf *out) {
    if (a->with_usage) {
        json_t *o = chunk(a, model, json_array());
        json_int_t tokens = 0;
        for (int c = 0; c < a->row.choices; c++) tokens += a->choices[c].tokens;
        json_object_set_new(o, "usage",
                            json_pack("{s:I, s:I, s:I}", "prompt_tokens", (json_int_t)a->prompt_tokens,
                                      "completion_tokens", tokens, "total_tokens",
                                      (json_int_t)a->prompt_tokens + tokens));
        int rc = event(o, out);
        if (rc) return rc;
    }
    return mull_buf_puts(out, "data: [DONE]\n\n");
}

int mull__ask_chunk_error(const mull__ask *a, mull_buf *out) {
    return event(mull__ask_error(a), out);
}
