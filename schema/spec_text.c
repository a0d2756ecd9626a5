/* See spec_text.h. YAML goes through libyaml's document loader (aliases are node numbers there, so a bomb costs nothing
 * until it is unfolded, and unfolding is counted). JSON goes through jansson, and a light second walk finds the lines.
 */
#include "schema/spec_text.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

void mull__diag(mull_diags *d, const char *path, int line, const char *did_you_mean, const char *fmt, ...) {
    if (d->n == MULL_DIAGS_MAX) {
        d->more++;
        return;
    }
    mull_diag *x = &d->at[d->n++];
    memset(x, 0, sizeof *x);
    snprintf(x->path, sizeof x->path, "%s", path);
    x->line = line;
    snprintf(x->did_you_mean, sizeof x->did_you_mean, "%s", did_you_mean ? did_you_mean : "");
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(x->message, sizeof x->message, fmt, ap);
    va_end(ap);
}

/* path of a child; cut when long, which only blurs a message. */
static void join(char *out, size_t cap, const char *parent, const char *key) {
    int n = snprintf(out, cap, "%s%s", parent, *parent ? "." : "");
    if (n >= 0 && (size_t)n < cap) snprintf(out + n, cap - (size_t)n, "%s", key);
}

/* ---- YAML */
typedef struct yaml_walk {
    yaml_document_t *doc;
    json_t *lines;
    mull_diags *diags;
    int nodes;
} yaml_walk;

static json_t *plain_scalar(const char *s) {
    static const char *const trues[] = {"true", "True", "TRUE"}, *const falses[] = {"false", "False", "FALSE"};
    for (int i = 0; i < 3; i++) {
        if (!strcmp(s, trues[i])) return json_true();
        if (!strcmp(s, falses[i])) return json_false();
    }
    if (!*s || !strcmp(s, "~") || !strcmp(s, "null") || !strcmp(s, "Null") || !strcmp(s, "NULL")) return json_null();
    size_t n = strlen(s), digits = strspn(s, "+-0123456789.eE_");
    char *end;
    if (digits == n && n < 64 && strpbrk(s, "0123456789")) {
        errno = 0;
        long long i = strtoll(s, &end, 10);
        if (!*end && !errno) return json_integer(i);
        double d = strtod(s, &end);
        if (!*end && isfinite(d)) return json_real(d);
    }
    return json_string(s);
}

static json_t *yaml_value(yaml_walk *w, int id, const char *path, int depth);

static json_t *yaml_mapping(yaml_walk *w, yaml_node_t *n, const char *path, int depth) {
    json_t *o = json_object();
    for (yaml_node_pair_t *p = n->data.mapping.pairs.start; p < n->data.mapping.pairs.top; p++) {
        yaml_node_t *k = yaml_document_get_node(w->doc, p->key);
        int line = k ? (int)k->start_mark.line + 1 : 0;
        char child[256];
        if (!k || k->type != YAML_SCALAR_NODE) {
            mull__diag(w->diags, path, line, NULL, "a key must be a plain word");
            continue;
        }
        const char *key = (const char *)k->data.scalar.value;
        join(child, sizeof child, path, key);
        if (json_object_get(o, key)) {
            mull__diag(w->diags, child, line, NULL, "the key %.80s stands there twice", key);
            continue;
        }
        json_object_set_new(w->lines, child, json_integer(line));
        json_t *v = yaml_value(w, p->value, child, depth + 1);
        if (!v || json_object_set_new(o, key, v)) mull__diag(w->diags, child, line, NULL, "the value cannot be read");
    }
    return o;
}

static json_t *yaml_value(yaml_walk *w, int id, const char *path, int depth) {
    yaml_node_t *n = yaml_document_get_node(w->doc, id);
    if (!n) return NULL;
    int line = (int)n->start_mark.line + 1;
    if (++w->nodes > MULL_SPEC_NODES_MAX || depth > MULL_SPEC_DEPTH_MAX) {
        if (w->nodes == MULL_SPEC_NODES_MAX + 1 || depth == MULL_SPEC_DEPTH_MAX + 1)
            mull__diag(w->diags, path, line, NULL, "the document is too large or nested too deep");
        return json_null();
    }
    if (n->type == YAML_SCALAR_NODE) {
        const char *s = (const char *)n->data.scalar.value;
        if (strlen(s) != n->data.scalar.length) return NULL;
        return n->data.scalar.style == YAML_PLAIN_SCALAR_STYLE ? plain_scalar(s) : json_string(s);
    }
    if (n->type == YAML_MAPPING_NODE) return yaml_mapping(w, n, path, depth);
    json_t *a = json_array();
    int i = 0;
    for (yaml_node_item_t *it = n->data.sequence.items.start; it < n->data.sequence.items.top; it++, i++) {
        char child[256];
        snprintf(child, sizeof child, "%.200s[%d]", path, i);
        yaml_node_t *e = yaml_document_get_node(w->doc, *it);
        json_object_set_new(w->lines, child, json_integer(e ? (int)e->start_mark.line + 1 : line));
        json_t *v = yaml_value(w, *it, child, depth + 1);
        if (!v || json_array_append_new(a, v)) mull__diag(w->diags, child, line, NULL, "the value cannot be read");
    }
    return a;
}

/* libyaml's composer recurses on nesting: the depth is bounded on the flat event stream first. */
static bool yaml_depth_ok(const char *text, size_t len, mull_diags *diags) {
    yaml_parser_t p;
    if (!yaml_parser_initialize(&p)) return false;
    yaml_parser_set_input_string(&p, (const unsigned char *)text, len);
    int depth = 0;
    bool ok = true, done = false;
    while (ok && !done) {
        yaml_event_t e;
        if (!yaml_parser_parse(&p, &e)) break; /* told by the loader, with its line */
        if (e.type == YAML_MAPPING_START_EVENT || e.type == YAML_SEQUENCE_START_EVENT) depth++;
        if (e.type == YAML_MAPPING_END_EVENT || e.type == YAML_SEQUENCE_END_EVENT) depth--;
        if (depth > MULL_SPEC_DEPTH_MAX) {
            mull__diag(diags, "", (int)e.start_mark.line + 1, NULL, "nested deeper than %d", MULL_SPEC_DEPTH_MAX);
            ok = false;
        }
        done = e.type == YAML_STREAM_END_EVENT;
        yaml_event_delete(&e);
    }
    yaml_parser_delete(&p);
    return ok;
}

json_t *mull__yaml_read(const char *text, size_t len, json_t *lines, mull_diags *diags) {
    if (!yaml_depth_ok(text, len, diags)) return NULL;
    yaml_parser_t p;
    yaml_document_t doc;
    if (!yaml_parser_initialize(&p)) {
        mull__diag(diags, "", 0, NULL, "out of memory");
        return NULL;
    }
    yaml_parser_set_input_string(&p, (const unsigned char *)text, len);
    json_t *v = NULL;
    if (!yaml_parser_load(&p, &doc)) {
        mull__diag(diags, "", (int)p.problem_mark.line + 1, NULL, "this is no YAML: %s",
                   p.problem ? p.problem : "unreadable");
        yaml_parser_delete(&p);
        return NULL;
    }
    yaml_node_t *root = yaml_document_get_root_node(&doc);
    if (!root)
        mull__diag(diags, "", 1, NULL, "the document is empty");
    else {
        yaml_walk w = {&doc, lines, diags, 0};
        v = yaml_value(&w, 1, "", 0);
    }
    yaml_document_delete(&doc);
    if (v && yaml_parser_load(&p, &doc)) {
        if (yaml_document_get_root_node(&doc))
            mull__diag(diags, "", (int)doc.start_mark.line + 1, NULL, "a second document follows the first");
        yaml_document_delete(&doc);
    }
    yaml_parser_delete(&p);
    return v;
}

/* ---- JSON: the lines of a text that is known to be valid */
typedef struct json_walk {
    const char *p, *end;
    int line;
    json_t *lines;
} json_walk;

static void space(json_walk *w) {
    while (w->p < w->end && strchr(" \t\r\n", *w->p) && *w->p) {
        if (*w->p == '\n') w->line++;
        w->p++;
    }
}

static void text_token(json_walk *w, char *out, size_t cap) {
    size_t n = 0;
    for (w->p++; w->p < w->end && *w->p != '"'; w->p++) {
        if (*w->p == '\\') w->p++;
        if (n + 1 < cap && w->p < w->end) out[n++] = *w->p;
    }
    out[n] = 0;
    w->p++;
}

static void json_lines(json_walk *w, const char *path, int depth) {
    char child[256], key[128];
    space(w);
    if (w->p >= w->end || depth > MULL_SPEC_DEPTH_MAX) return;
    char open = *w->p;
    if (open == '"')
        text_token(w, key, sizeof key);
    else if (open == '{' || open == '[') {
        w->p++;
        for (int i = 0;; i++) {
            space(w);
            if (w->p >= w->end || *w->p == '}' || *w->p == ']') break;
            if (open == '{') {
                int line = w->line;
                text_token(w, key, sizeof key);
                join(child, sizeof child, path, key);
                json_object_set_new(w->lines, child, json_integer(line));
                space(w);
                w->p++; /* : */
            } else {
                snprintf(child, sizeof child, "%.200s[%d]", path, i);
                json_object_set_new(w->lines, child, json_integer(w->line));
            }
            json_lines(w, child, depth + 1);
            space(w);
            if (w->p < w->end && *w->p == ',') w->p++;
        }
        w->p++;
    } else
        do w->p++; /* at least one byte, whatever it is: jansson takes a NUL behind a number for white space */
        while (w->p < w->end && (!*w->p || !strchr(",]} \t\r\n", *w->p)));
}

static bool json_depth_ok(const char *s, size_t n) {
    int depth = 0;
    bool in = false;
    for (size_t i = 0; i < n; i++) {
        if (in) {
            if (s[i] == '\\')
                i++;
            else if (s[i] == '"')
                in = false;
        } else if (s[i] == '"')
            in = true;
        else if ((s[i] == '[' || s[i] == '{') && ++depth > MULL_SPEC_DEPTH_MAX)
            return false;
        else if (s[i] == ']' || s[i] == '}')
            depth--;
    }
    return true;
}

json_t *mull__json_read(const char *text, size_t len, json_t *lines, mull_diags *diags) {
    if (!json_depth_ok(text, len)) {
        mull__diag(diags, "", 0, NULL, "nested deeper than %d", MULL_SPEC_DEPTH_MAX);
        return NULL;
    }
    json_error_t je;
    json_t *v = json_loadb(text, len, JSON_REJECT_DUPLICATES, &je);
    if (!v) {
        mull__diag(diags, "", je.line, NULL, "this is no JSON: %s", je.text);
        return NULL;
    }
    json_walk w = {text, text + len, 1, lines};
    json_lines(&w, "", 0);
    return v;
}
