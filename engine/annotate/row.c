/* Checking rows; see row.h. */
#include "engine/annotate/row.h"

#include "engine/infer/regex.h"
#include "engine/infer/schema_regex.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const WHAT = MULL_ROW_WHAT;

/* OpenAI's bounds, of requests in its shape; a row of ours has those of a job's sampling (schema/README.md). */
enum { OPENAI_STOPS = 4, OPENAI_TEMPERATURE = 2, OUR_TEMPERATURE = 100 };

const char *mull_row_code_name(mull_row_code code) {
    static const char *const NAMES[] = {"ok",
#define X(symbol, name) name,
                                        MULL_ROW_CODES(X)
#undef X
    };
    return NAMES[code];
}

static int wrong(mull_error *err, const char *where, const char *why) {
    return mull_fail(err, MULL_EARG, WHAT, where, "", "%s", why);
}

/* A member that is there and not null. */
static const json_t *member(const json_t *o, const char *key) {
    const json_t *v = json_object_get(o, key);
    return json_is_null(v) ? NULL : v;
}

/* A text without NUL characters. */
static const char *text_of(const json_t *v) {
    const char *s = json_string_value(v);
    return s && strlen(s) == json_string_length(v) ? s : NULL;
}

static int take_int(const json_t *o, const char *key, json_int_t lo, json_int_t hi, json_int_t *out, bool *given,
                    mull_error *err) {
    const json_t *v = member(o, key);
    *given = v != NULL;
    if (!v) return MULL_OK;
    json_int_t x = json_integer_value(v);
    double d = json_real_value(v);
    if (json_is_real(v) && d == floor(d) && fabs(d) < 9e15) {
        x = (json_int_t)d; /* 16.0 */
    } else if (!json_is_integer(v)) {
        return wrong(err, key, "it must be a whole number");
    }
    if (x < lo || x > hi)
        return mull_fail(err, MULL_EARG, WHAT, key, "", "it must be from %lld to %lld", (long long)lo, (long long)hi);
    *out = x;
    return MULL_OK;
}

static int take_number(const json_t *o, const char *key, double lo, double hi, double *out, mull_error *err) {
    const json_t *v = member(o, key);
    if (!v) return MULL_OK;
    double x = json_number_value(v);
    if (!json_is_number(v) || !(x >= lo && x <= hi))
        return mull_fail(err, MULL_EARG, WHAT, key, "", "it must be a number from %g to %g", lo, hi);
    *out = x;
    return MULL_OK;
}

static int take_stop(mull_row *row, mull_error *err) {
    const json_t *v = member(row->body, "stop");
    if (!v) return MULL_OK;
    size_t n = json_is_array(v) ? json_array_size(v) : 1;
    if (n > MULL_ROW_STOPS_MAX) return wrong(err, "stop", "there are more than 64 texts");
    if (row->openai && n > OPENAI_STOPS) return wrong(err, "stop", "there are more than 4 texts");
    for (size_t i = 0; i < n; i++) {
        row->stops[i] = text_of(json_is_array(v) ? json_array_get(v, i) : v);
        if (!row->stops[i] || !*row->stops[i])
            return wrong(err, "stop", "it must be a text, or a list of texts, that are not empty");
    }
    row->sampling.stop = row->stops;
    row->sampling.nstop = (int)n;
    return MULL_OK;
}

/* OpenAI's structured outputs. */
static int take_json(mull_row *row, const json_t *format, const char *type, mull_error *err) {
    mull_buf b = {0};
    mull_regex *r = NULL;
    const json_t *schema = json_object_get(member(format, "json_schema"), "schema");
    int rc;
    if (!strcmp(type, "json_object"))
        rc = mull_json_regex(&b, err);
    else if (strcmp(type, "json_schema") != 0)
        rc = wrong(err, "response_format", "its type is not one of text, json_object, json_schema");
    else if (!json_is_object(schema))
        rc = wrong(err, "response_format", "json_schema needs a schema");
    else
        rc = mull_schema_regex(schema, &b, err);
    if (!rc) rc = mull_regex_create(b.data, b.len, &r, err);
    mull_regex_destroy(r);
    if (rc)
        mull_buf_fini(&b);
    else
        row->sampling.regex = row->regex = b.data;
    return rc;
}

/* guided_regex and guided_choice, names that other servers of OpenAI's shape use. */
static int take_form(mull_row *row, mull_error *err) {
    const json_t *regex = member(row->body, "guided_regex"), *choices = member(row->body, "guided_choice");
    const json_t *format = member(row->body, "response_format");
    const char *type = text_of(member(format, "type"));
    if (format && !type) return wrong(err, "response_format", "it must be an object with a type");
    if (type && !strcmp(type, "text")) format = NULL;
    if (format && (regex || choices))
        return wrong(err, "response_format", "it excludes guided_regex and guided_choice");
    if (format) return take_json(row, format, type, err);
    if (!regex && !choices) return MULL_OK;
    if (regex && choices) return wrong(err, "guided_choice", "give guided_regex or guided_choice, not both");
    if (regex && !text_of(regex)) return wrong(err, "guided_regex", "it must be a text");
    row->regex = regex ? strdup(text_of(regex)) : mull_choices_regex(choices);
    if (!row->regex)
        return regex ? mull_fail(err, MULL_ENOMEM, WHAT, "", "", "out of memory")
                     : wrong(err, "guided_choice", "it must be a list of texts that are not empty");
    mull_regex *r = NULL;
    int rc = mull_regex_create(row->regex, strlen(row->regex), &r, err);
    mull_regex_destroy(r);
    row->sampling.regex = row->regex;
    return rc;
}

static int take_sampling(mull_row *row, mull_error *err) {
    const json_t *b = row->body;
    mull_sampling *s = &row->sampling;
    json_int_t max = 0, k = 0, n = 1, seed = 0;
    bool given, completion;
    int rc = take_int(b, "max_tokens", 1, 1 << 24, &max, &given, err);
    if (!rc) rc = take_int(b, "max_completion_tokens", 1, 1 << 24, &max, &completion, err);
    if (rc) return rc;
    if (given || completion) s->max_new_tokens = (int)max;
    double hottest = row->openai ? OPENAI_TEMPERATURE : OUR_TEMPERATURE;
    if ((rc = take_number(b, "temperature", 0, hottest, &s->temperature, err))) return rc;
    if ((rc = take_number(b, "top_p", 0, 1, &s->top_p, err))) return rc;
    if (s->top_p < 1e-9) s->top_p = 1e-9; /* 0 is allowed there and means the most likely token only */
    if ((rc = take_int(b, "top_k", -1, 1 << 24, &k, &given, err))) return rc;
    if (given) s->top_k = k < 0 ? 0 : (int)k;
    if ((rc = take_number(b, "repetition_penalty", 1e-3, 1000, &s->repetition_penalty, err))) return rc;
    if ((rc = take_int(b, "seed", INT64_MIN, INT64_MAX, &seed, &row->seeded, err))) return rc;
    if (row->seeded) s->seed = (uint64_t)seed;
    if ((rc = take_int(b, "n", 1, MULL_ROW_CHOICES_MAX, &n, &given, err))) return rc;
    row->choices = (int)n;
    const json_t *eos = member(b, "ignore_eos");
    if (eos && !json_is_boolean(eos)) return wrong(err, "ignore_eos", "it must be true or false");
    if (eos) s->ignore_eos = json_is_true(eos);
    rc = take_form(row, err);
    return rc ? rc : take_stop(row, err);
}

/* Things that would change the answer and that this engine does not do; what says nothing (null, false, 0, empty) may
 * stand there. */
static const char *beyond(const json_t *b) {
    static const char *const NAMES[] = {"tools",  "functions", "logit_bias",      "frequency_penalty",
                                        "stream", "logprobs",  "presence_penalty"};
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
        const json_t *v = member(b, NAMES[i]);
        if (!v || json_is_false(v) || (json_is_number(v) && json_number_value(v) == 0.0)) continue;
        if ((json_is_array(v) && !json_array_size(v)) || (json_is_object(v) && !json_object_size(v))) continue;
        return NAMES[i];
    }
    return NULL;
}

/* The envelope: which kind of row, its id, its body. */
static int take_envelope(mull_row *row, mull_error *err) {
    const json_t *o = row->json, *id = member(o, "custom_id");
    if (id && !(row->custom_id = text_of(id))) return wrong(err, "custom_id", "it must be a text");
    if (id && json_string_length(id) > 512) return wrong(err, "custom_id", "it has more than 512 bytes");
    row->batch = json_object_get(o, "body") || json_object_get(o, "url") || json_object_get(o, "method");
    if (!row->batch) {
        row->body = o;
        return MULL_OK;
    }
    const char *method = text_of(member(o, "method")), *url = text_of(member(o, "url"));
    if (!id) return wrong(err, "custom_id", "it is missing");
    if (!method || strcmp(method, "POST")) return wrong(err, "method", "it must be POST");
    if (!url || strcmp(url, "/v1/chat/completions")) return wrong(err, "url", "it must be /v1/chat/completions");
    row->body = json_object_get(o, "body");
    return json_is_object(row->body) ? MULL_OK : wrong(err, "body", "it must be an object");
}

static int take_messages(mull_row *row, mull_error *err) {
    const json_t *messages = json_object_get(row->body, "messages");
    if (!messages) return wrong(err, "messages", "it is missing");
    row->messages = messages;
    int rc = mull_chat_media(messages, &row->refs, &row->nrefs, err);
    for (size_t i = 0; !rc && i < row->nrefs; i++) {
        /* A NUL inside would cut the path that is checked, or the one that is opened. */
        const json_t *part = row->refs[i].part;
        const char *key;
        json_t *v;
        json_object_foreach((json_t *)(uintptr_t)part, key, v) {
            const json_t *s = json_is_object(v) ? json_object_get(v, "url") : v;
            if (json_is_string(s) && !text_of(s)) rc = wrong(err, "messages", "a medium's name holds a NUL character");
        }
    }
    return rc;
}

static int take_body(mull_row *row, mull_row_code *code, mull_error *err) {
    int rc = take_messages(row, err);
    if (!rc) rc = take_sampling(row, err);
    if (rc) return rc;
    const char *model = text_of(member(row->body, "model"));
    if (member(row->body, "model") && !model) return wrong(err, "model", "it must be a text");
    row->model = model;
    const char *more = beyond(row->body);
    if (more) {
        *code = MULL_ROW_UNSUPPORTED;
        return mull_fail(err, MULL_EUNSUPPORTED, WHAT, more, "leave it out", "this engine does not offer it");
    }
    *code = MULL_ROW_OK;
    return MULL_OK;
}

int mull_row_parse(const char *data, size_t len, const mull_sampling *base, mull_row *row, mull_row_code *code,
                   mull_error *err) {
    json_error_t why;
    *row = (mull_row){.sampling = *base, .choices = 1};
    *code = MULL_ROW_JSON;
    row->json = json_loadb(data, len, JSON_ALLOW_NUL, &why);
    if (!row->json) return mull_fail(err, MULL_EFORMAT, WHAT, "", "", "column %d: %s", why.column, why.text);
    if (!json_is_object(row->json)) return mull_fail(err, MULL_EFORMAT, WHAT, "", "", "it is no JSON object");
    *code = MULL_ROW_REQUEST;
    int rc = take_envelope(row, err);
    row->openai = row->batch;
    return rc ? rc : take_body(row, code, err);
}

int mull_row_parse_body(json_t *body, const mull_sampling *base, mull_row *row, mull_row_code *code, mull_error *err) {
    *row = (mull_row){.json = body, .body = body, .sampling = *base, .choices = 1, .openai = true};
    *code = MULL_ROW_REQUEST;
    return take_body(row, code, err);
}
void mull_row_fini(mull_row *row) {
    json_decref(row->json);
    free(row->refs);
    free(row->regex);
    *row = (mull_row){0};
}
