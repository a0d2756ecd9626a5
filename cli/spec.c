/* See spec.h. */
#include "cli/spec.h"

#include "cli/args.h"
#include "cli/client.h"

#include "schema/spec_text.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { READ_MAX = 64 << 20 };

char *mull_read_whole(const char *path, size_t *len) {
    FILE *f = strcmp(path, "-") ? fopen(path, "rb") : stdin;
    char *text = NULL;
    size_t cap = 0;
    *len = 0;
    int err = f ? 0 : errno;
    while (f) {
        if (*len + 1 >= cap) {
            cap = cap ? 2 * cap : 65536;
            char *grown = cap <= READ_MAX ? realloc(text, cap) : NULL;
            if (!grown) {
                err = EFBIG;
                break;
            }
            text = grown;
        }
        size_t n = fread(text + *len, 1, cap - *len - 1, f);
        *len += n;
        if (!n) {
            err = ferror(f) ? errno : 0;
            break;
        }
    }
    if (f && f != stdin) fclose(f);
    if (!err && text) {
        text[*len] = 0;
        return text;
    }
    free(text);
    mull_complain("cannot read the file", path, "check its name", "%s", strerror(err));
    return NULL;
}

static bool is_json(const char *path, const char *text) {
    const char *dot = strrchr(path, '.');
    if (dot && (!strcmp(dot, ".json") || !strcmp(dot, ".JSON"))) return true;
    return text[strspn(text, " \t\r\n")] == '{';
}

json_t *mull_spec_read(const char *path, json_t *lines, int *rc) {
    size_t len;
    char *text = mull_read_whole(path, &len);
    *rc = MULL_EXIT_FAILED;
    if (!text) return NULL;
    mull_diags d = {0};
    json_t *spec = is_json(path, text) ? mull__json_read(text, len, lines, &d) : mull__yaml_read(text, len, lines, &d);
    free(text);
    if (spec && !json_is_object(spec)) {
        json_decref(spec);
        spec = NULL;
        mull__diag(&d, "", 1, NULL, "a job spec is a mapping of keys");
    }
    if (spec) {
        *rc = MULL_EXIT_OK;
        return spec;
    }
    mull_reply r = {400, json_pack("{s:{s:s,s:s,s:o}}", "error", "code", "bad_spec", "message", "", "details",
                                   mull_diags_json(&d))};
    *rc = mull_client_refused(&r, NULL, path);
    json_decref(r.json);
    return NULL;
}

/* ---- paths ---- */

static void absolute_at(json_t *spec, const char *key) {
    json_t *v = json_object_get(spec, key);
    if (json_is_string(v) && json_string_length(v)) {
        char *path = mull_absolute(json_string_value(v));
        if (path) json_object_set_new(spec, key, json_string(path));
        free(path);
    } else if (json_is_array(v)) {
        for (size_t i = 0; i < json_array_size(v); i++) {
            const char *text = json_string_value(json_array_get(v, i));
            char *path = text && *text ? mull_absolute(text) : NULL;
            if (path) json_array_set_new(v, i, json_string(path));
            free(path);
        }
    }
}

void mull_spec_absolute(json_t *spec) {
    static const char *const keys[] = {"model", "out",    "output", "input",       "config",
                                       "data",  "images", "videos", "media_roots", "key_file"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) absolute_at(spec, keys[i]);
}
