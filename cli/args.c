/* See args.h. */
#include "cli/args.h"

#include "cli/term.h"

#include "schema/jobspec.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OPTS_MAX = 80 };

int mull_usage(const char *cmd, const char *fmt, ...) {
    fprintf(stderr, "error: wrong usage (mull%s%s): ", *cmd ? " " : "", cmd);
    va_list ap;
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fprintf(stderr, "; see mull%s%s --help\n", *cmd ? " " : "", cmd);
    return MULL_EXIT_USAGE;
}

int mull_complain(const char *what, const char *where, const char *todo, const char *why_fmt, ...) {
    mull_err err;
    char why[1200];
    va_list ap;
    va_start(ap, why_fmt);
    vsnprintf(why, sizeof why, why_fmt, ap);
    va_end(ap);
    mull_fail(&err, MULL_ERR_IO, what, where, todo, "%s", why);
    mull_err_print(stderr, &err);
    return MULL_EXIT_FAILED;
}

char *mull_absolute(const char *path) {
    char cwd[4096] = "";
    if (path[0] != '/' && !getcwd(cwd, sizeof cwd)) return NULL;
    size_t cap = strlen(cwd) + strlen(path) + 3;
    char *in = malloc(cap), *out = malloc(cap);
    if (!in || !out) {
        free(in);
        free(out);
        return NULL;
    }
    snprintf(in, cap, "%s/%s", path[0] == '/' ? "" : cwd, path);
    size_t n = 0;
    for (const char *p = in; *p;) {
        p += strspn(p, "/");
        size_t k = strcspn(p, "/");
        if (k == 0 || (k == 1 && p[0] == '.')) {
            /* nothing to add */
        } else if (k == 2 && p[0] == '.' && p[1] == '.') {
            while (n > 0 && out[--n] != '/') {
            }
        } else {
            out[n++] = '/';
            memcpy(out + n, p, k);
            n += k;
        }
        p += k;
    }
    if (n == 0) out[n++] = '/';
    out[n] = 0;
    free(in);
    return out;
}

int mull_spec_set(json_t *spec, const char *at, json_t *v) {
    const char *dot = strchr(at, '.');
    if (!dot) return json_object_set_new(spec, at, v);
    char head[64];
    snprintf(head, sizeof head, "%.*s", (int)(dot - at), at);
    json_t *inner = json_object_get(spec, head);
    if (!json_is_object(inner)) {
        inner = json_object();
        if (json_object_set_new(spec, head, inner) != 0) {
            json_decref(v);
            return -1;
        }
    }
    return json_object_set_new(inner, dot + 1, v);
}

static json_t *spec_list(json_t *spec, const char *at) {
    json_t *list = json_object_get(spec, at);
    if (!json_is_array(list)) {
        list = json_array();
        json_object_set_new(spec, at, list);
    }
    return list;
}

static json_t *path_value(const char *text) {
    char *path = mull_absolute(text);
    json_t *v = path ? json_string(path) : NULL;
    free(path);
    return v;
}

static int number_of(const char *text, bool whole, double *out, long long *out_int) {
    char *end;
    errno = 0;
    if (whole)
        *out_int = strtoll(text, &end, 10);
    else
        *out = strtod(text, &end);
    return errno || end == text || *end || (!whole && !isfinite(*out)) ? -1 : 0;
}

/* Stores one value. 0, or usage. */
static int store(const mull_cmd *cmd, const mull_opt *o, const char *text, void *out) {
    char *base = (char *)out + o->offset;
    json_t *spec = o->type >= MULL_OPT_SPEC_FLAG ? *(json_t **)(void *)base : NULL, *v = NULL;
    double x = 0;
    long long n = 0;
    switch (o->type) {
    case MULL_OPT_FLAG:
        *(bool *)base = true;
        return 0;
    case MULL_OPT_TEXT:
        *(const char **)(void *)base = text;
        return 0;
    case MULL_OPT_INT:
        if (number_of(text, true, &x, &n))
            return mull_usage(cmd->name, "%s takes a whole number, not '%s'", o->name, text);
        *(long *)(void *)base = (long)n;
        return 0;
    case MULL_OPT_SPEC_FLAG:
        v = json_true();
        break;
    case MULL_OPT_SPEC_TEXT:
        v = json_string(text);
        break;
    case MULL_OPT_SPEC_PATH:
        v = path_value(text);
        break;
    case MULL_OPT_SPEC_INT:
        if (number_of(text, true, &x, &n))
            return mull_usage(cmd->name, "%s takes a whole number, not '%s'", o->name, text);
        v = json_integer(n);
        break;
    case MULL_OPT_SPEC_NUMBER:
        if (number_of(text, false, &x, &n)) return mull_usage(cmd->name, "%s takes a number, not '%s'", o->name, text);
        v = json_real(x);
        break;
    case MULL_OPT_SPEC_TEXTS:
    case MULL_OPT_SPEC_PATHS: {
        json_t *item = o->type == MULL_OPT_SPEC_PATHS ? path_value(text) : json_string(text);
        if (!item) return mull_usage(cmd->name, "%s cannot take '%s': it is no UTF-8 text", o->name, text);
        json_array_append_new(spec_list(spec, o->at), item);
        return 0;
    }
    case MULL_OPT_END:
        return 0;
    }
    if (!v) return mull_usage(cmd->name, "%s cannot take '%s': it is no UTF-8 text", o->name, text);
    mull_spec_set(spec, o->at, v);
    return 0;
}

/* What every command with --json takes; see mull_args_opt. */
static const mull_opt output_opt = {"--output", 'o', MULL_OPT_TEXT, 0, NULL, "table|wide|json", "form (default table)"};

const mull_opt *mull_args_opt(const mull_cmd *cmd, size_t i) {
    bool json = false, own = false;
    size_t n = 0;
    for (const mull_opt *o = cmd->opts; o && o->type != MULL_OPT_END; o++, n++) {
        if (n == i) return o;
        json = json || !strcmp(o->name, "--json");
        own = own || !strcmp(o->name, output_opt.name) || o->letter == output_opt.letter;
    }
    return i == n && json && !own ? &output_opt : NULL;
}

static const mull_opt *find(const mull_cmd *cmd, const char *name, size_t len) {
    const mull_opt *o;
    for (size_t i = 0; (o = mull_args_opt(cmd, i)); i++)
        if (strlen(o->name) == len && !strncmp(o->name, name, len)) return o;
    return NULL;
}

static const mull_opt *find_letter(const mull_cmd *cmd, char letter) {
    const mull_opt *o;
    for (size_t i = 0; (o = mull_args_opt(cmd, i)); i++)
        if (o->letter == letter) return o;
    return NULL;
}

static int store_output(const mull_cmd *cmd, const char *form, void *out) {
    static const char *const forms[] = {"table", "wide", "json"};
    if (!strcmp(form, "json")) return store(cmd, find(cmd, "--json", 6), NULL, out);
    if (!strcmp(form, "wide")) mull_term_uncut();
    if (!strcmp(form, "wide") || !strcmp(form, "table")) return 0;
    const char *near = mull_nearest(form, forms, 3);
    return mull_usage(cmd->name, "--output takes table, wide or json, not '%s'%s%s%s", form,
                      near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
}

static bool takes_value(const mull_opt *o) {
    return o->type != MULL_OPT_FLAG && o->type != MULL_OPT_SPEC_FLAG;
}

static int unknown(const mull_cmd *cmd, const char *name) {
    const char *names[OPTS_MAX];
    size_t n = 0;
    names[n++] = "--help";
    const mull_opt *o;
    for (size_t i = 0; (o = mull_args_opt(cmd, i)) && n < OPTS_MAX; i++) names[n++] = o->name;
    const char *near = mull_nearest(name, names, n);
    if (near) return mull_usage(cmd->name, "unknown flag '%s'; did you mean %s?", name, near);
    return mull_usage(cmd->name, "unknown flag '%s'", name);
}

/* One option that starts at argv[*i]; moves *i to its last word. */
static int one(const mull_cmd *cmd, int argc, char **argv, int *i, void *out) {
    const char *word = argv[*i], *value = NULL;
    const mull_opt *o;
    if (word[1] == '-') {
        size_t len = strcspn(word, "=");
        o = find(cmd, word, len);
        char name[64];
        snprintf(name, sizeof name, "%.*s", (int)len, word);
        if (!o) return unknown(cmd, name);
        if (word[len]) value = word + len + 1;
        if (value && !takes_value(o)) return mull_usage(cmd->name, "%s takes no value", o->name);
    } else {
        o = find_letter(cmd, word[1]);
        if (!o) return unknown(cmd, word);
        if (word[2] && takes_value(o)) value = word + 2 + (word[2] == '=');
        for (const char *p = word + 2; *p && !takes_value(o); p++) { /* -fw */
            int rc = store(cmd, o, NULL, out);
            if (rc) return rc;
            o = find_letter(cmd, *p);
            if (!o || takes_value(o)) return unknown(cmd, word);
        }
    }
    if (!takes_value(o)) return store(cmd, o, NULL, out);
    bool many = o->type == MULL_OPT_SPEC_PATHS && !value;
    if (!value) {
        if (*i + 1 >= argc) return mull_usage(cmd->name, "%s needs a value: %s %s", o->name, o->name, o->word);
        value = argv[++*i];
    }
    if (o == &output_opt) return store_output(cmd, value, out);
    int rc = store(cmd, o, value, out);
    while (!rc && many && *i + 1 < argc && argv[*i + 1][0] != '-') rc = store(cmd, o, argv[++*i], out);
    return rc;
}

int mull_args_parse(const mull_cmd *cmd, int argc, char **argv, void *out, int *words) {
    int kept = 0;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
            mull_cmd_help(cmd);
            return -1;
        }
        if (!strcmp(argv[i], "--")) {
            while (++i < argc) argv[1 + kept++] = argv[i];
            break;
        }
        if (argv[i][0] == '-' && argv[i][1]) {
            int rc = one(cmd, argc, argv, &i, out);
            if (rc) return rc;
        } else {
            argv[1 + kept++] = argv[i];
        }
    }
    *words = kept;
    return 0;
}

void mull_cmd_help(const mull_cmd *cmd) {
    printf("usage: mull %s%s%s\n\n%s\n", cmd->name, *cmd->args ? " " : "", cmd->args, cmd->summary);
    const mull_opt *o;
    for (size_t i = 0; (o = mull_args_opt(cmd, i)); i++) {
        if (i == 0) printf("\n");
        char left[80];
        snprintf(left, sizeof left, "%s%c%s%s%s%s", o->letter ? "-" : " ", o->letter ? o->letter : ' ',
                 o->letter ? ", " : "  ", o->name, o->word ? " " : "", o->word ? o->word : "");
        printf("  %-32s %s\n", left, o->help);
    }
    if (cmd->examples) printf("\n%s", cmd->examples);
}
