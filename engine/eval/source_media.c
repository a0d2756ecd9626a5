/* From a row's media columns to what the media loader takes: paths that exist, or data URLs. */
#include "engine/eval/source_internal.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const WHAT = "cannot find a medium of the dataset";

/* dir/name when it is there */
static char *there(const char *dir, const char *name) {
    char *path = mull_path_join(dir, name);
    if (path && !access(path, R_OK)) return path;
    free(path);
    return NULL;
}

/* A relative path starts at the rows' file, the dataset's folder or the data folder, in it or in its usual subfolders.
 */
static char *resolve(const mull_source *s, const char *name) {
    static const char *const SUB[] = {"", "images/", "videos/", "video/", "data/", "test/", "val/", "train/"};
    const char *sat = strstr(name, "SAT_new/"), *last = strrchr(s->parts[0].path, '/');
    if (name[0] == '/' && !access(name, R_OK)) return strdup(name);
    char *dir = last ? strndup(s->parts[0].path, (size_t)(last - s->parts[0].path)) : strdup(".");
    const char *dirs[] = {dir, s->folder, s->data}, *names[] = {name, sat ? sat + 8 : NULL};
    char *found = NULL;
    for (size_t k = 0; k < 2 && !found; k++)
        for (size_t d = 0; names[k] && d < 3 && !found; d++)
            for (size_t i = 0; dirs[d] && i < sizeof SUB / sizeof *SUB && !found; i++) {
                mull_buf b = {0};
                if (!mull_buf_printf(&b, "%s%s", SUB[i], names[k])) found = there(dirs[d], b.data);
                mull_buf_fini(&b);
            }
    free(dir);
    return found;
}

/* Text that is neither a path nor a data URL but long base64, as MME-RealWorld keeps its images. */
static bool base64(const char *s) {
    size_t n = strlen(s);
    return n >= 64 && strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=\r\n") == n;
}

static int add(const mull_source *s, json_t *parts, const char *kind, const char *name, mull_error *err) {
    mull_buf url = {0};
    char *path = NULL;
    int rc = MULL_OK;
    if (!strncmp(name, "data:", 5))
        rc = mull_buf_puts(&url, name);
    else if ((path = resolve(s, name)))
        rc = mull_buf_puts(&url, path);
    else if (base64(name))
        rc = mull_buf_printf(&url, "data:application/octet-stream;base64,%s", name);
    else
        rc = mull_fail(err, MULL_EMISSING, WHAT, name, "download the dataset's media too, and unpack its archives",
                       "no such file under %s", s->folder);
    if (!rc && json_array_append_new(parts, json_pack("{s:s, s:s}", "type", kind, kind, url.data)))
        rc = mull_fail(err, MULL_EFORMAT, WHAT, name, "", "its name is no UTF-8");
    free(path);
    mull_buf_fini(&url);
    return rc;
}

/* An image of a row: a string, or {"bytes", "path"}. */
static int add_image(const mull_source *s, json_t *parts, const json_t *v, mull_error *err) {
    const json_t *bytes = json_object_get(v, "bytes");
    if (json_is_object(v)) v = json_is_string(bytes) ? bytes : json_object_get(v, "path");
    if (!json_is_string(v))
        return mull_fail(err, MULL_EFORMAT, WHAT, s->task->name, "see README.md, \"Evaluation data\"",
                         "an image is neither a path, nor base64, nor {\"bytes\", \"path\"}");
    return add(s, parts, "image", json_string_value(v), err);
}

/* "{dataset}/{scene_name}.mp4" with the row's columns in it */
static int add_video(const mull_source *s, json_t *parts, const json_t *doc, mull_error *err) {
    mull_buf name = {0};
    int rc = MULL_OK;
    for (const char *p = s->task->media.video; *p && !rc;) {
        const char *end = *p == '{' ? strchr(p, '}') : NULL;
        char key[40];
        if (!end) {
            rc = mull_buf_add(&name, p++, 1);
            continue;
        }
        snprintf(key, sizeof key, "%.*s", (int)(end - p - 1), p + 1);
        const char *v = json_string_value(json_object_get(doc, key));
        rc = v ? mull_buf_puts(&name, v)
               : mull_fail(err, MULL_EFORMAT, WHAT, key, "download the dataset again",
                           "the column is missing or no text");
        p = end + 1;
    }
    if (!rc) rc = add(s, parts, "video", name.data ? name.data : "", err);
    mull_buf_fini(&name);
    return rc;
}

/* MMMU asks with the images that its question names, "<image 3>" being image_3, and with no other. */
static bool by_name(const mull_source *s) {
    return !strcmp(s->task->name, "mmmu_val");
}

static bool named(const json_t *doc, const char *column) {
    const char *question = json_string_value(json_object_get(doc, "question"));
    char mark[40];
    snprintf(mark, sizeof mark, "<image %.20s>", column + 6);
    return question && strstr(question, mark) != NULL;
}

static int lacks(const mull_source *s, const char *column, mull_error *err) {
    return mull_fail(err, MULL_EMISSING, WHAT, column, "download the dataset again", "the row of %s has nothing there",
                     s->task->name);
}

int mull_source_media(const mull_source *s, const json_t *doc, json_t **parts, mull_error *err) {
    const mull__media_columns *m = &s->task->media;
    int rc = MULL_OK;
    *parts = json_array();
    for (int i = 0; i < 4 && m->lists[i] && !rc; i++) {
        const json_t *v = json_object_get(doc, m->lists[i]);
        if (!v || json_is_null(v)) continue;
        if (!json_is_array(v)) rc = add_image(s, *parts, v, err);
        for (size_t k = 0; k < json_array_size(v) && !rc; k++) rc = add_image(s, *parts, json_array_get(v, k), err);
        break;
    }
    for (int i = 0; i < 9 && m->singles[i] && !rc; i++) {
        const json_t *v = json_object_get(doc, m->singles[i]);
        if (by_name(s) && !named(doc, m->singles[i])) continue;
        if (v && !json_is_null(v))
            rc = add_image(s, *parts, v, err);
        else if (by_name(s))
            rc = lacks(s, m->singles[i], err);
    }
    if (!rc && m->video) rc = add_video(s, *parts, doc, err);
    /* A question about pictures that has none would be answered, and scored, all the same. */
    if (!rc && !json_array_size(*parts) && !by_name(s)) rc = lacks(s, m->lists[0] ? m->lists[0] : m->singles[0], err);
    if (rc) {
        json_decref(*parts);
        *parts = NULL;
    }
    return rc;
}

json_t *mull_source_bare(const mull_source *s, const json_t *doc) {
    const mull__media_columns *m = &s->task->media;
    json_t *copy = json_copy((json_t *)(uintptr_t)doc);
    for (int i = 0; i < 4 && m->lists[i]; i++)
        if (strcmp(m->lists[i], "visual")) json_object_del(copy, m->lists[i]);
    for (int i = 0; i < 9 && m->singles[i]; i++) json_object_del(copy, m->singles[i]);
    return copy;
}
