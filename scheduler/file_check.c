/* See file_check.h. The spec is copied to plain texts first: the thread shares nothing with the loop. */
#include "scheduler/file_check.h"

#include "schema/array_range.h"

#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* WANT_ROWS: an input that cannot be a folder, for want of a prompt to ask about its files. */
typedef enum want { WANT_MODEL, WANT_INPUT, WANT_ROWS, WANT_FILE, WANT_FOLDER, WANT_OUT } want;

typedef struct item {
    char key[40], *path;
    want want;
    int line;
    bool later; /* the job waits for others, which may make it */
} item;

struct mull_file_check {
    uv_work_t work;
    item *items;
    size_t n;
    mull_diags diags;
    mull_file_check_cb cb;
    void *arg;
};

__attribute__((format(printf, 4, 5))) static void complain(mull_diags *d, const item *it, const char *near,
                                                           const char *fmt, ...) {
    if (d->n == MULL_DIAGS_MAX) {
        d->more++;
        return;
    }
    mull_diag *x = &d->at[d->n++];
    memset(x, 0, sizeof *x);
    snprintf(x->path, sizeof x->path, "%s", it->key);
    x->line = it->line;
    snprintf(x->did_you_mean, sizeof x->did_you_mean, "%s", near ? near : "");
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(x->message, sizeof x->message, fmt, ap);
    va_end(ap);
}

/* A name in the same folder that is nearly the one asked for. */
static const char *near_name(const char *path, char out[64]) {
    enum { MOST = 2000 };
    const char *slash = strrchr(path, '/');
    char *folder = strndup(path, slash == path ? 1 : (size_t)(slash - path));
    DIR *d = folder ? opendir(folder) : NULL;
    const char *best = NULL;
    int seen = 0;
    for (struct dirent *e; d && !best && seen < MOST && (e = readdir(d)); seen++) {
        if (e->d_name[0] == '.' || strlen(e->d_name) >= 64) continue;
        snprintf(out, 64, "%s", e->d_name);
        const char *names[] = {out};
        best = mull_nearest(slash + 1, names, 1);
    }
    if (d) closedir(d);
    free(folder);
    return best;
}

static void absent(mull_diags *d, const item *it, int why) {
    char name[64];
    if (why == ENOENT || why == ENOTDIR) {
        const char *near = near_name(it->path, name);
        complain(d, it, near, "there is no %.250s; check the path%s%s%s", it->path, near ? " (did you mean " : "",
                 near ? near : "", near ? "?)" : "");
    } else {
        complain(d, it, NULL, "%.250s: %s; make it readable for the server", it->path, strerror(why));
    }
}

static void check_model(mull_diags *d, const item *it, const struct stat *st) {
    char config[4200];
    snprintf(config, sizeof config, "%s/config.json", it->path);
    if (!S_ISDIR(st->st_mode))
        complain(d, it, NULL, "%.250s is no folder; name the folder of a checkpoint", it->path);
    else if (access(config, R_OK) != 0)
        complain(d, it, NULL, "%.250s has no config.json that can be read; name the folder of a checkpoint", it->path);
}

/* The folder may be made later; something that can hold it must be there. */
static void check_out(mull_diags *d, const item *it) {
    struct stat st;
    char *path = strdup(it->path);
    if (!path) return;
    while (stat(path, &st) != 0 && errno == ENOENT && strlen(path) > 1) {
        char *slash = strrchr(path, '/');
        slash[slash == path] = 0;
    }
    if (stat(path, &st) != 0)
        complain(d, it, NULL, "%.200s: %s; choose another folder", path, strerror(errno));
    else if (!S_ISDIR(st.st_mode))
        complain(d, it, NULL, "%.250s is no folder; choose another one", path);
    else if (access(path, W_OK | X_OK) != 0)
        complain(d, it, NULL, "%.200s: %s; choose a folder the server may write to", path, strerror(errno));
    free(path);
}

static void look(mull_diags *d, const item *it) {
    struct stat st;
    if (it->want == WANT_OUT) {
        check_out(d, it);
        return;
    }
    if (stat(it->path, &st) != 0) {
        if (!it->later || errno != ENOENT) absent(d, it, errno);
    } else if (it->want == WANT_MODEL)
        check_model(d, it, &st);
    else if (it->want == WANT_ROWS && S_ISDIR(st.st_mode))
        complain(d, it, NULL, "%.250s is a folder; give prompt, the question to ask about each image and video in it",
                 it->path);
    else if (it->want == WANT_FOLDER && !S_ISDIR(st.st_mode))
        complain(d, it, NULL, "%.250s is no folder; name the folder that the datasets lie in", it->path);
    else if (it->want != WANT_FOLDER && !S_ISREG(st.st_mode) && !(it->want == WANT_INPUT && S_ISDIR(st.st_mode)))
        complain(d, it, NULL, "%.250s is no file; name a regular file", it->path);
    else if (access(it->path, R_OK) != 0)
        absent(d, it, errno);
}

/* Of an array the first task's files are looked at. */
static char *of_task(const char *path, const json_t *index) {
    const char *at = json_is_integer(index) ? strstr(path, MULL_ARRAY_WORD) : NULL;
    char *out = NULL;
    if (!at) return strdup(path);
    if (asprintf(&out, "%.*s%lld%s", (int)(at - path), path, (long long)json_integer_value(index),
                 at + strlen(MULL_ARRAY_WORD)) < 0)
        return NULL;
    char *rest = of_task(out, index);
    free(out);
    return rest;
}

static int add(item **items, size_t *n, const char *key, const json_t *path, want w, const json_t *lines) {
    if (!json_is_string(path) || json_string_value(path)[0] != '/') return 0;
    item *grown = realloc(*items, (*n + 1) * sizeof **items);
    if (!grown) return -1;
    *items = grown;
    item *it = &grown[*n];
    *it = (item){.want = w, .line = (int)json_integer_value(json_object_get(lines, key))};
    snprintf(it->key, sizeof it->key, "%s", key);
    it->path = strdup(json_string_value(path));
    if (!it->path) return -1;
    ++*n;
    return 0;
}

static int add_list(item **items, size_t *n, const char *key, const json_t *list, const json_t *lines) {
    size_t i;
    json_t *v;
    json_array_foreach(list, i, v) {
        char name[40];
        snprintf(name, sizeof name, "%s[%zu]", key, i);
        if (add(items, n, name, v, WANT_FILE, lines) != 0) return -1;
    }
    return 0;
}

static int settle_index(item *items, size_t n, const json_t *spec) {
    const char *range = json_string_value(json_object_get(spec, "array"));
    char why[160];
    json_t *array = range ? mull_array_parse(range, why, sizeof why) : NULL;
    int rc = 0;
    for (size_t i = 0; array && i < n && rc == 0; i++) {
        char *path = of_task(items[i].path, json_array_get(json_object_get(array, "los"), 0));
        free(items[i].path);
        items[i].path = path;
        if (!path) rc = -1;
    }
    json_decref(array);
    return rc;
}

/* Dependencies of a checked spec. */
static bool waits(const json_t *spec) {
    return json_string_length(json_object_get(spec, "after")) > 0;
}

static int collect(item **items, size_t *n, const json_t *spec, const json_t *lines) {
    const char *kind = json_string_value(json_object_get(spec, "kind"));
    bool writes = kind && (!strcmp(kind, "annotate") || !strcmp(kind, "eval"));
    int rc = add(items, n, "model", json_object_get(spec, "model"), WANT_MODEL, lines) ||
                     add(items, n, "input", json_object_get(spec, "input"),
                         json_object_get(spec, "prompt") || json_object_get(spec, "prompts") ? WANT_INPUT : WANT_ROWS,
                         lines) ||
                     add(items, n, "config", json_object_get(spec, "config"), WANT_FILE, lines) ||
                     add(items, n, "data", json_object_get(spec, "data"), WANT_FOLDER, lines) ||
                     (writes && add(items, n, "out", json_object_get(spec, "out"), WANT_OUT, lines)) ||
                     add_list(items, n, "images", json_object_get(spec, "images"), lines) ||
                     add_list(items, n, "videos", json_object_get(spec, "videos"), lines) ||
                     settle_index(*items, *n, spec)
                 ? -1
                 : 0;
    for (size_t i = 0; i < *n; i++) (*items)[i].later = waits(spec);
    return rc;
}

static void free_items(item *items, size_t n) {
    for (size_t i = 0; i < n; i++) free(items[i].path);
    free(items);
}

void mull_file_check_run(const json_t *spec, const json_t *lines, mull_diags *diags) {
    item *items = NULL;
    size_t n = 0;
    memset(diags, 0, sizeof *diags);
    if (collect(&items, &n, spec, lines) == 0)
        for (size_t i = 0; i < n; i++) look(diags, &items[i]);
    free_items(items, n);
}

static void work(uv_work_t *w) {
    mull_file_check *c = w->data;
    for (size_t i = 0; i < c->n; i++) look(&c->diags, &c->items[i]);
}

static void done(uv_work_t *w, int status) {
    (void)status;
    mull_file_check *c = w->data;
    c->cb(&c->diags, c->arg);
}

mull_file_check *mull_file_check_start(uv_loop_t *loop, const json_t *spec, const json_t *lines, mull_file_check_cb cb,
                                       void *arg) {
    mull_file_check *c = calloc(1, sizeof *c);
    if (!c) return NULL;
    c->cb = cb;
    c->arg = arg;
    c->work.data = c;
    if (collect(&c->items, &c->n, spec, lines) != 0 || uv_queue_work(loop, &c->work, work, done) != 0) {
        mull_file_check_free(c);
        return NULL;
    }
    return c;
}

void mull_file_check_free(mull_file_check *c) {
    if (!c) return;
    free_items(c->items, c->n);
    free(c);
}
