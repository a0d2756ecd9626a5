/* See event_line.h. A table says which fields a message of a type must have; fields beyond it are kept, so that an
 * older reader passes on what a newer writer says (the version rule of README.md). */
#include "schema/event_line.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* One letter a field: s string, i whole number, n whole number or null, o object, a array. */
typedef struct shape {
    const char *type, *fields[10];
} shape;

#define FENCE "s:job", "i:attempt", "i:fence"
static const shape events[] = {
    {"node_hello", {"a:devices"}},
    {"node_heartbeat", {"a:attempts"}},
    {"attempt_started", {FENCE, "i:pid"}},
    {"engine", {FENCE, "i:rank", "o:line"}},
    {"log", {FENCE, "i:rank", "s:stream", "a:lines"}},
    {"attempt_ended", {FENCE, "n:exit_code", "n:exit_signal", "s:class"}},
    {NULL, {NULL}},
};
static const shape inbox[] = {
    {"start", {FENCE, "i:term", "o:spec"}},
    {"cancel", {"s:job", "i:fence", "s:reason"}},
    {"ack", {"i:seq"}},
    {"resync", {"i:from"}},
    {"shutdown_drain", {NULL}},
    {"replaced", {NULL}},
    {NULL, {NULL}},
};
/* clang-format off */
static const shape lines[] = {
    {"hello", {NULL}},
    {"progress", {"i:done", "n:total"}},
    {"run", {"o:config", "o:hashes"}},
    {"metric", {"o:values"}},
    {"metrics", {"a:keys", "a:steps", "a:values"}},
    {"heartbeat", {NULL}},
    {"log", {"s:text"}},
    {"result", {"o:result"}},
    {"artifact", {"s:path"}},
    {"checkpoint", {"s:path"}},
    {"checkpoint_removed", {"s:path"}},
    {"eval", {"s:task"}},
    {"error", {"s:class", "s:what"}},
    {NULL, {NULL}},
};
/* clang-format on */

bool mull_line_depth_ok(const char *s, size_t n) {
    int depth = 0;
    bool text = false;
    for (size_t i = 0; i < n; i++) {
        if (text) {
            if (s[i] == '\\')
                i++;
            else if (s[i] == '"')
                text = false;
        } else if (s[i] == '"')
            text = true;
        else if (s[i] == '[' || s[i] == '{') {
            if (++depth > MULL_LINE_DEPTH) return false;
        } else if (s[i] == ']' || s[i] == '}')
            depth--;
    }
    return true;
}

char *mull_utf8_clean(const char *text, size_t len, size_t *out_len) {
    if (len > SIZE_MAX / 3 - 1) return NULL;
    char *out = malloc(len * 3 + 1);
    if (!out) return NULL;
    const unsigned char *s = (const unsigned char *)text;
    size_t n = 0;
    for (size_t i = 0; i < len;) {
        unsigned c = s[i];
        size_t k = c < 0x80 ? 1 : c >= 0xC2 && c < 0xE0 ? 2 : (c & 0xF0) == 0xE0 ? 3 : c >= 0xF0 && c < 0xF5 ? 4 : 0;
        bool ok = k > 0 && i + k <= len;
        for (size_t j = 1; ok && j < k; j++) ok = (s[i + j] & 0xC0) == 0x80;
        /* Overlong forms, surrogates and what lies above U+10FFFF (Unicode 15, table 3-7). */
        if (ok && ((c == 0xE0 && s[i + 1] < 0xA0) || (c == 0xED && s[i + 1] > 0x9F) || (c == 0xF0 && s[i + 1] < 0x90) ||
                   (c == 0xF4 && s[i + 1] > 0x8F)))
            ok = false;
        if (ok) {
            memcpy(out + n, s + i, k);
            n += k;
            i += k;
        } else {
            memcpy(out + n, "\xEF\xBF\xBD", 3);
            n += 3;
            i++;
        }
    }
    out[n] = 0;
    *out_len = n;
    return out;
}

int mull_utf8_check(const char *text) {
    size_t n, len = strlen(text);
    char *clean = mull_utf8_clean(text, len, &n);
    int rc = clean && n == len && memcmp(clean, text, n) == 0 ? 0 : -1;
    free(clean);
    return rc;
}

/* PostgreSQL's text holds no U+0000: it becomes U+FFFD wherever it stands in a value (jansson refuses it in keys). */
static void replace_nul(json_t *v) {
    size_t i;
    json_t *e;
    const char *key;
    if (json_is_array(v)) {
        json_array_foreach(v, i, e) {
            replace_nul(e);
        }
    } else if (json_is_object(v)) {
        json_object_foreach(v, key, e) {
            replace_nul(e);
        }
    } else if (json_is_string(v) && memchr(json_string_value(v), 0, json_string_length(v))) {
        size_t len = json_string_length(v), n = 0;
        const char *s = json_string_value(v);
        char *out = malloc(len * 3 + 1);
        if (!out) return;
        for (i = 0; i < len; i++) {
            memcpy(out + n, s[i] ? &s[i] : "\xEF\xBF\xBD", s[i] ? 1 : 3);
            n += s[i] ? 1 : 3;
        }
        json_string_setn(v, out, n);
        free(out);
    }
}

static bool field_ok(const json_t *o, const char *f) {
    const json_t *v = json_object_get(o, f + 2);
    switch (f[0]) {
    case 's':
        return json_is_string(v);
    case 'i':
        return json_is_integer(v);
    case 'n':
        return !v || json_is_null(v) || json_is_integer(v);
    case 'o':
        return json_is_object(v);
    default:
        return json_is_array(v);
    }
}

static json_t *parse(const char *text, size_t len, const char *what, const char *key, const shape *shapes,
                     const char *const *common, mull_err *err) {
    json_error_t je;
    if (len > MULL_EVENT_MAX) {
        mull_fail(err, MULL_ERR_LIMIT, what, NULL, NULL, "%zu bytes; at most %d", len, MULL_EVENT_MAX);
        return NULL;
    }
    if (!mull_line_depth_ok(text, len)) {
        mull_fail(err, MULL_ERR_LIMIT, what, NULL, NULL, "nested deeper than %d", MULL_LINE_DEPTH);
        return NULL;
    }
    json_t *o = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &je);
    if (!o) { /* bytes that are no UTF-8 come from programs that print what they like: replaced, not refused */
        size_t n;
        char *clean = mull_utf8_clean(text, len, &n);
        if (clean && (n != len || memcmp(clean, text, n) != 0))
            o = json_loadb(clean, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &je);
        free(clean);
    }
    if (o) replace_nul(o);
    const char *type = json_string_value(json_object_get(o, key));
    if (!type) {
        mull_fail(err, MULL_ERR_FORMAT, what, NULL, NULL, "%s", o ? "it has no type" : je.text);
        json_decref(o);
        return NULL;
    }
    const shape *s = shapes;
    while (s->type && strcmp(s->type, type)) s++;
    const char *missing = NULL;
    for (int i = 0; common[i] && !missing; i++)
        if (!field_ok(o, common[i])) missing = common[i];
    for (int i = 0; s->type && i < 10 && s->fields[i] && !missing; i++)
        if (!field_ok(o, s->fields[i])) missing = s->fields[i];
    if (!s->type)
        mull_fail(err, MULL_ERR_FORMAT, what, NULL, NULL, "the type %.60s is unknown", type);
    else if (missing)
        mull_fail(err, MULL_ERR_FORMAT, what, type, NULL, "%s is missing or of the wrong type", missing + 2);
    if (!s->type || missing) {
        json_decref(o);
        return NULL;
    }
    return o;
}

json_t *mull_event_parse(const char *text, size_t len, mull_err *err) {
    static const char *const common[] = {"i:v", "s:node", "s:boot", "i:seq", "i:at", NULL};
    return parse(text, len, "cannot use an event", "type", events, common, err);
}

json_t *mull_inbox_parse(const char *text, size_t len, mull_err *err) {
    static const char *const common[] = {"i:v", NULL};
    return parse(text, len, "cannot use a command", "type", inbox, common, err);
}

json_t *mull_engine_line_parse(const char *text, size_t len, mull_err *err) {
    static const char *const common[] = {NULL};
    return parse(text, len, "cannot use a line of the engine", "ev", lines, common, err);
}
