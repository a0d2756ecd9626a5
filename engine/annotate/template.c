/* See template.h. A template is cut into pieces once; a row then only fills them. */
#include "engine/annotate/template.h"

#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 64 };
static const char *const WHAT = "cannot use the template";

typedef struct piece {
    const char *text; /* of the template, or the column's name */
    size_t len;
    bool column;
    struct piece *next;
} piece;

struct mull__templates {
    piece *at[MOST];
    size_t n;
    const json_t *images, *videos; /* names of columns; NULL: the usual ones */
    const char *id_column;
};

static const char *const IMAGES[] = {"image", "images", NULL}, *const VIDEOS[] = {"video", "videos", NULL},
                         *const IDS[] = {"custom_id", "id", NULL};

static bool in_list(const json_t *list, const char *const *usual, const char *name) {
    if (!list)
        for (; *usual; usual++)
            if (!strcmp(*usual, name)) return true;
    for (size_t i = 0; i < json_array_size(list); i++)
        if (!strcmp(json_string_value(json_array_get(list, i)), name)) return true;
    return false;
}

static int add_piece(piece ***end, const char *text, size_t len, bool column, mull_error *err) {
    if (!len) return MULL_OK;
    piece *p = calloc(1, sizeof *p);
    char *copy = p ? strndup(text, len) : NULL;
    if (!copy) {
        free(p);
        return mull_fail(err, MULL_ENOMEM, WHAT, "", "", "out of memory");
    }
    *p = (piece){copy, len, column, NULL};
    **end = p;
    *end = &p->next;
    return MULL_OK;
}

/* Literal runs end at {{ and }}, which give one brace each. */
static int cut(const char *s, piece **out, mull_error *err) {
    const char *from = s, *whole = s;
    int rc = MULL_OK;
    while (!rc && *s) {
        if ((s[0] == '{' || s[0] == '}') && s[1] == s[0]) {
            rc = add_piece(&out, from, (size_t)(s + 1 - from), false, err);
            from = s += 2;
        } else if (*s == '{') {
            const char *end = strchr(s, '}');
            if (!end || end == s + 1 || memchr(s + 1, '{', (size_t)(end - s - 1)))
                return mull_fail(err, MULL_EARG, WHAT, "prompt", "write {column}, and {{ for a brace",
                                 "a brace at byte %zu is not closed or names nothing", (size_t)(s - whole) + 1);
            rc = add_piece(&out, from, (size_t)(s - from), false, err);
            if (!rc) rc = add_piece(&out, s + 1, (size_t)(end - s - 1), true, err);
            from = s = end + 1;
        } else if (*s == '}') {
            return mull_fail(err, MULL_EARG, WHAT, "prompt", "write {column}, and }} for a brace",
                             "a brace at byte %zu closes nothing", (size_t)(s - whole) + 1);
        } else {
            s++;
        }
    }
    return rc ? rc : add_piece(&out, from, (size_t)(s - from), false, err);
}

int mull__templates_create(const mull_job *job, mull__templates **out, mull_error *err) {
    size_t n = json_array_size(job->prompts);
    *out = NULL;
    if (!n && !job->prompt) return MULL_OK;
    if (n && job->prompt)
        return mull_fail(err, MULL_EARG, WHAT, "prompts", "give one of them", "prompt and prompts exclude each other");
    if (n > MOST) return mull_fail(err, MULL_ELIMIT, WHAT, "prompts", "", "there are more than %d", MOST);
    mull__templates *t = *out = calloc(1, sizeof *t);
    if (!t) return mull_fail(err, MULL_ENOMEM, WHAT, "", "", "out of memory");
    t->images = job->image_columns;
    t->videos = job->video_columns;
    t->id_column = job->id_column;
    int rc = MULL_OK;
    t->n = n ? n : 1;
    for (size_t i = 0; !rc && i < t->n; i++)
        rc = cut(n ? json_string_value(json_array_get(job->prompts, i)) : job->prompt, &t->at[i], err);
    if (!rc) return MULL_OK;
    mull__templates_destroy(t);
    *out = NULL;
    return rc;
}

void mull__templates_destroy(mull__templates *t) {
    if (!t) return;
    for (size_t i = 0; i < t->n; i++)
        for (piece *p = t->at[i], *next; p; p = next) {
            next = p->next;
            free((char *)(uintptr_t)p->text);
            free(p);
        }
    free(t);
}

size_t mull__templates_count(const mull__templates *t) {
    return t->n;
}

static void name(const char *names[MULL__TEMPLATE_COLUMNS], size_t *n, const char *what) {
    for (size_t i = 0; i < *n; i++)
        if (!strcmp(names[i], what)) return;
    if (*n < MULL__TEMPLATE_COLUMNS) names[(*n)++] = what;
}

static void name_all(const char *names[MULL__TEMPLATE_COLUMNS], size_t *n, const json_t *list,
                     const char *const *usual) {
    for (; !list && *usual; usual++) name(names, n, *usual);
    for (size_t i = 0; i < json_array_size(list); i++) name(names, n, json_string_value(json_array_get(list, i)));
}

size_t mull__templates_columns(const mull__templates *t, const char *names[MULL__TEMPLATE_COLUMNS]) {
    size_t n = 0;
    for (size_t i = 0; i < t->n; i++)
        for (const piece *p = t->at[i]; p; p = p->next)
            if (p->column) name(names, &n, p->text);
    name_all(names, &n, t->images, IMAGES);
    name_all(names, &n, t->videos, VIDEOS);
    if (t->id_column)
        name(names, &n, t->id_column);
    else
        name_all(names, &n, NULL, IDS);
    return n;
}

/* ---- filling */

json_t *mull__data_url(const void *data, size_t n) {
    static const char HEAD[] = "data:application/octet-stream;base64,";
    size_t head = sizeof HEAD - 1;
    char *s = n < INT32_MAX / 2 ? malloc(head + (n + 2) / 3 * 4 + 1) : NULL;
    if (!s) return NULL;
    memcpy(s, HEAD, head);
    int k = EVP_EncodeBlock((unsigned char *)s + head, data, (int)n);
    json_t *o = json_stringn_nocheck(s, head + (size_t)k);
    free(s);
    return o;
}

typedef struct fill {
    json_t *parts;
    mull_buf run; /* text that waits to become a part */
    char *problem;
    size_t cap;
    bool memory;
} fill;

static void flush(fill *f) {
    if (f->run.len) {
        json_t *text = json_stringn(f->run.data, f->run.len);
        if (!text || json_array_append_new(f->parts, json_pack("{s:s, s:o}", "type", "text", "text", text)))
            f->memory = true;
    }
    f->run.len = 0;
}

static bool lacks(fill *f, const char *column, const char *why) {
    snprintf(f->problem, f->cap, "column %.200s %s", column, why);
    return false;
}

/* A path or URL, bytes made a URL, {"bytes","path"}, or a list of such. */
static bool add_media(fill *f, const char *column, const json_t *v, bool video) {
    const char *kind = video ? "video" : "image";
    if (json_is_array(v)) {
        for (size_t i = 0; i < json_array_size(v); i++)
            if (!add_media(f, column, json_array_get(v, i), video)) return false;
        return true;
    }
    if (json_is_object(v)) {
        const json_t *bytes = json_object_get(v, "bytes"), *path = json_object_get(v, "path");
        v = json_string_length(bytes) ? bytes : json_string_length(path) ? path : json_object_get(v, "url");
    }
    if (!json_string_length(v)) return lacks(f, column, "holds no medium");
    flush(f);
    if (json_array_append_new(f->parts, json_pack("{s:s, s:O}", "type", kind, kind, v))) f->memory = true;
    return true;
}

static bool add_text(fill *f, const char *column, const json_t *v) {
    int rc = 0;
    if (json_is_string(v)) {
        rc = mull_buf_add(&f->run, json_string_value(v), json_string_length(v));
    } else if (!json_is_null(v)) {
        char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(17));
        rc = text ? mull_buf_puts(&f->run, text) : -1;
        free(text);
    }
    if (rc) f->memory = true;
    (void)column;
    return true;
}

static bool names_column(const piece *p, const char *column) {
    for (; p; p = p->next)
        if (p->column && !strcmp(p->text, column)) return true;
    return false;
}

/* Media that the template does not name, in the order of the lists. */
static bool add_unnamed(fill *f, const mull__templates *t, const piece *p, const json_t *columns, bool video) {
    const json_t *list = video ? t->videos : t->images;
    const char *const *usual = video ? VIDEOS : IMAGES;
    for (size_t i = 0; list ? i < json_array_size(list) : usual[i] != NULL; i++) {
        const char *column = list ? json_string_value(json_array_get(list, i)) : usual[i];
        const json_t *v = json_object_get(columns, column);
        if (!v || json_is_null(v) || names_column(p, column)) continue;
        if (!add_media(f, column, v, video)) return false;
    }
    return true;
}

static bool fill_in(fill *f, const mull__templates *t, const piece *p, const json_t *columns) {
    if (!add_unnamed(f, t, p, columns, false) || !add_unnamed(f, t, p, columns, true)) return false;
    for (; p; p = p->next) {
        const json_t *v = p->column ? json_object_get(columns, p->text) : NULL;
        if (!p->column) {
            if (mull_buf_add(&f->run, p->text, p->len)) f->memory = true;
        } else if (!v) {
            return lacks(f, p->text, "is not there");
        } else if (in_list(t->images, IMAGES, p->text) || in_list(t->videos, VIDEOS, p->text)) {
            if (!add_media(f, p->text, v, in_list(t->videos, VIDEOS, p->text))) return false;
        } else if (!add_text(f, p->text, v)) {
            return false;
        }
    }
    flush(f);
    if (!json_array_size(f->parts)) return lacks(f, "", "gives an empty prompt");
    return true;
}

static json_t *id_of(const mull__templates *t, size_t which, const json_t *columns) {
    const json_t *v = t->id_column ? json_object_get(columns, t->id_column) : json_object_get(columns, IDS[0]);
    if (!v && !t->id_column) v = json_object_get(columns, IDS[1]);
    char *text = json_is_string(v)                       ? strdup(json_string_value(v))
                 : json_is_integer(v) || json_is_real(v) ? json_dumps(v, JSON_ENCODE_ANY)
                                                         : NULL;
    json_t *id = !text ? NULL : t->n > 1 ? json_sprintf("%s#%zu", text, which + 1) : json_string(text);
    free(text);
    return id;
}

int mull__templates_render(const mull__templates *t, size_t which, const json_t *columns, char **text, char *problem,
                           size_t cap, mull_error *err) {
    fill f = {.parts = json_array(), .problem = problem, .cap = cap};
    json_t *id = id_of(t, which, columns), *o = json_object();
    bool good = f.parts && fill_in(&f, t, t->at[which], columns);
    if (id) json_object_set_new(o, "custom_id", id);
    if (good) json_object_set_new(o, "messages", json_pack("[{s:s, s:O}]", "role", "user", "content", f.parts));
    *text = f.memory ? NULL : json_dumps(o, JSON_COMPACT);
    json_decref(o);
    json_decref(f.parts);
    mull_buf_fini(&f.run);
    if (!*text) return mull_fail(err, MULL_ENOMEM, WHAT, "", "", "out of memory");
    return good;
}
