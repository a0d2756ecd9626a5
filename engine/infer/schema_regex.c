/* See schema_regex.h. */
#include "engine/infer/schema_regex.h"

#include "engine/infer/regex.h"

#include <stdlib.h>
#include <string.h>

enum { DEPTH = 24, MOST = 1000 };

static const char CHARACTER[] = "([^\"\\\\\\x00-\\x1f]|\\\\[\"\\\\/bfnrt]|\\\\u[0-9a-fA-F]{4})";
static const char INTEGER[] = "-?(0|[1-9][0-9]{0,17})";
static const char NUMBER[] = "-?(0|[1-9][0-9]{0,17})(\\.[0-9]{1,17})?([eE][+-]?[0-9]{1,2})?";

typedef struct writer {
    const json_t *root;
    mull_buf *out;
    mull_error *err;
    char where[256];
    int depth;
} writer;

static int wrong(writer *w, int code, const char *why, const char *what) {
    return mull_fail(w->err, code, "cannot use the JSON schema", *w->where ? w->where : "#", "", why, what);
}

static int put(writer *w, const char *text) {
    /* The expression may be large before it is refused, but not without end. */
    if (w->out->len > MULL_REGEX_BYTES) return wrong(w, MULL_ELIMIT, "it is too large%s", "");
    return mull_buf_puts(w->out, text) ? wrong(w, MULL_ENOMEM, "out of memory%s", "") : MULL_OK;
}

static int put_repeat(writer *w, long long lo, long long hi) {
    char text[64];
    if (hi < 0)
        snprintf(text, sizeof text, "{%lld,}", lo);
    else
        snprintf(text, sizeof text, "{%lld,%lld}", lo, hi);
    return put(w, text);
}

/* A value of the schema as it stands in JSON. */
static int put_literal(writer *w, const json_t *v) {
    char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
    int rc = text ? mull_regex_quote(text, strlen(text), w->out) : -1;
    free(text);
    return rc ? wrong(w, MULL_ENOMEM, "out of memory%s", "") : MULL_OK;
}

static int value(writer *w, const json_t *s);

/* Into a part of the schema; the place is for errors. */
static int inside(writer *w, const json_t *s, const char *key, long index) {
    size_t n = strlen(w->where);
    if (index < 0)
        snprintf(w->where + n, sizeof w->where - n, "/%.60s", key);
    else
        snprintf(w->where + n, sizeof w->where - n, "/%.60s/%ld", key, index);
    int rc = value(w, s);
    if (!rc) w->where[n] = 0;
    return rc;
}

/* A whole number of the schema; fallback where it is not there. */
static int bound(writer *w, const json_t *s, const char *key, long long fallback, long long *out) {
    const json_t *v = json_object_get(s, key);
    *out = v ? json_integer_value(v) : fallback;
    if (v && (!json_is_integer(v) || *out < 0 || *out > MOST))
        return wrong(w, MULL_EARG, "%s must be a whole number from 0 to 1000", key);
    return MULL_OK;
}

static int string(writer *w, const json_t *s) {
    long long lo, hi;
    int rc = bound(w, s, "minLength", 0, &lo);
    if (!rc) rc = bound(w, s, "maxLength", -1, &hi);
    if (!rc) rc = put(w, "\"");
    if (!rc) rc = put(w, CHARACTER);
    if (!rc) rc = put_repeat(w, lo, hi);
    return rc ? rc : put(w, "\"");
}

static int array(writer *w, const json_t *s) {
    const json_t *items = json_object_get(s, "items");
    long long lo, hi;
    int rc = bound(w, s, "minItems", 0, &lo);
    if (!rc) rc = bound(w, s, "maxItems", -1, &hi);
    if (rc) return rc;
    if (!json_is_object(items)) return wrong(w, MULL_EUNSUPPORTED, "an array needs %s that say what it holds", "items");
    if (hi == 0) return put(w, "\\[\\]");
    rc = put(w, lo ? "\\[(" : "\\[((");
    if (!rc) rc = inside(w, items, "items", -1);
    if (!rc) rc = put(w, ")(, ?");
    if (!rc) rc = inside(w, items, "items", -1);
    if (!rc) rc = put(w, ")");
    if (!rc) rc = put_repeat(w, lo ? lo - 1 : 0, hi < 0 ? -1 : hi - 1);
    return rc ? rc : put(w, lo ? "\\]" : ")?\\]");
}

static int object(writer *w, const json_t *s) {
    const json_t *properties = json_object_get(s, "properties"), *required = json_object_get(s, "required");
    const char *key;
    json_t *v;
    size_t i;
    if (!json_object_size(properties))
        return wrong(w, MULL_EUNSUPPORTED, "an object needs %s that say what it holds", "properties");
    json_array_foreach((json_t *)(uintptr_t)required, i, v) {
        if (!json_is_string(v) || !json_object_get(properties, json_string_value(v)))
            return wrong(w, MULL_EARG, "required names what is no property%s", "");
    }
    int rc = put(w, "\\{");
    bool first = true;
    json_object_foreach((json_t *)(uintptr_t)properties, key, v) {
        json_t *name = json_string(key);
        if (!rc && !first) rc = put(w, ", ?");
        if (!rc) rc = put_literal(w, name);
        if (!rc) rc = put(w, ": ?");
        json_decref(name);
        if (!rc) rc = inside(w, v, key, -1);
        if (rc) return rc;
        first = false;
    }
    return put(w, "\\}");
}

static int of_type(writer *w, const json_t *s, const char *type) {
    if (!strcmp(type, "string")) return string(w, s);
    if (!strcmp(type, "integer")) return put(w, INTEGER);
    if (!strcmp(type, "number")) return put(w, NUMBER);
    if (!strcmp(type, "boolean")) return put(w, "(true|false)");
    if (!strcmp(type, "null")) return put(w, "null");
    if (!strcmp(type, "array")) return array(w, s);
    if (!strcmp(type, "object")) return object(w, s);
    return wrong(w, MULL_EARG, "%s is no type", type);
}

/* Refuses what would be left unsaid. */
static int known(writer *w, const json_t *s) {
    static const char *const WORDS[] = {
        "type",     "enum",     "const",       "properties", "required",    "additionalProperties",
        "items",    "minItems", "maxItems",    "minLength",  "maxLength",   "anyOf",
        "$ref",     "$defs",    "definitions", "title",      "description", "default",
        "examples", "$schema",  "$id",         "$comment",   "deprecated"};
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)s, key, v) {
        bool found = false;
        for (size_t i = 0; i < sizeof WORDS / sizeof *WORDS && !found; i++) found = !strcmp(WORDS[i], key);
        if (!found) return wrong(w, MULL_EUNSUPPORTED, "the word %.80s is not supported", key);
    }
    return MULL_OK;
}

static int reference(writer *w, const char *ref) {
    static const char *const HOMES[] = {"$defs", "definitions"};
    for (size_t i = 0; i < 2; i++) {
        size_t n = strlen(HOMES[i]);
        if (strncmp(ref, "#/", 2) != 0 || strncmp(ref + 2, HOMES[i], n) != 0 || ref[2 + n] != '/') continue;
        const json_t *s = json_object_get(json_object_get(w->root, HOMES[i]), ref + n + 3);
        return s ? inside(w, s, ref + n + 3, -1) : wrong(w, MULL_EARG, "there is no %.80s", ref);
    }
    return wrong(w, MULL_EUNSUPPORTED, "%.80s does not point into $defs", ref);
}

static int alternatives(writer *w, const json_t *list, const char *key) {
    int rc = put(w, "(");
    if (!json_array_size(list)) return wrong(w, MULL_EARG, "%s must be a list that is not empty", key);
    for (size_t i = 0; i < json_array_size(list) && !rc; i++) {
        const json_t *v = json_array_get(list, i);
        if (i) rc = put(w, "|");
        if (!rc) rc = !strcmp(key, "enum") ? put_literal(w, v) : inside(w, v, key, (long)i);
    }
    return rc ? rc : put(w, ")");
}

static int value_of(writer *w, const json_t *s) {
    const json_t *type = json_object_get(s, "type"), *v;
    int rc = known(w, s);
    if (rc) return rc;
    if ((v = json_object_get(s, "$ref")))
        return json_is_string(v) ? reference(w, json_string_value(v))
                                 : wrong(w, MULL_EARG, "$ref must be a text%s", "");
    if ((v = json_object_get(s, "const"))) return put_literal(w, v);
    if ((v = json_object_get(s, "enum"))) return alternatives(w, v, "enum");
    if ((v = json_object_get(s, "anyOf"))) return alternatives(w, v, "anyOf");
    if (json_is_string(type)) return of_type(w, s, json_string_value(type));
    if (!json_array_size(type)) return wrong(w, MULL_EUNSUPPORTED, "it needs a %s", "type");
    rc = put(w, "(");
    for (size_t i = 0; i < json_array_size(type) && !rc; i++) {
        const char *name = json_string_value(json_array_get(type, i));
        if (i) rc = put(w, "|");
        if (!rc) rc = of_type(w, s, name ? name : "?");
    }
    return rc ? rc : put(w, ")");
}

static int value(writer *w, const json_t *s) {
    if (!json_is_object(s)) return wrong(w, MULL_EARG, "it must be an object%s", "");
    if (++w->depth > DEPTH) return wrong(w, MULL_ELIMIT, "it is nested too deeply, or comes back to itself%s", "");
    int rc = value_of(w, s);
    w->depth--;
    return rc;
}

int mull_schema_regex(const json_t *schema, mull_buf *out, mull_error *err) {
    writer w = {.root = schema, .out = out, .err = err};
    int rc = value(&w, schema);
    return rc || out->len <= MULL_REGEX_BYTES ? rc : wrong(&w, MULL_ELIMIT, "it is too large%s", "");
}

/* Levels from the innermost out: a value of one level is a scalar, or holds values of the level below. */
int mull_json_regex(mull_buf *out, mull_error *err) {
    enum { LEVELS = 3 };
    mull_buf inner = {0};
    int rc = mull_buf_printf(&inner, "(\"%s*\"|%s|true|false|null)", CHARACTER, NUMBER);
    for (int i = 0; i < LEVELS && !rc; i++) {
        mull_buf next = {0};
        const char *v = inner.data;
        rc = mull_buf_printf(&next,
                             "(\"%s*\"|%s|true|false|null|\\[(%s(, ?%s)*)?\\]|\\{(\"%s*\": ?%s(, ?\"%s*\": ?%s)*)?\\})",
                             CHARACTER, NUMBER, v, v, CHARACTER, v, CHARACTER, v);
        mull_buf_fini(&inner);
        inner = next;
        if (i == LEVELS - 1 || rc) break;
    }
    /* The outermost is an object. */
    if (!rc)
        rc = mull_buf_printf(out, "\\{(\"%s*\": ?%s(, ?\"%s*\": ?%s)*)?\\}", CHARACTER, inner.data, CHARACTER,
                             inner.data);
    mull_buf_fini(&inner);
    return rc ? mull_fail(err, MULL_ENOMEM, "cannot use the JSON schema", "", "", "out of memory") : MULL_OK;
}
