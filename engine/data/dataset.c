/* Opening and reading datasets by kind, and what their files share: errors that name a row, paths, media sources. */
#include "engine/data/dataset_internal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

typedef struct set_functions {
    int (*open)(mull_dataset *d, mull_error *err);
    int (*get)(mull_dataset *d, int64_t i, uint64_t key, mull_example *e, mull_error *err);
} set_functions;

static const set_functions SETS[MULL_SET_COUNT] = {
    [MULL_SET_SAT] = {mull__sat_open, mull__sat_get},
    [MULL_SET_VIDEOR1] = {mull__videor1_open, mull__videor1_get},
    [MULL_SET_ZEBRA] = {mull__zebra_open, mull__zebra_get},
    [MULL_SET_SIMS] = {mull__sims_open, mull__sims_get},
    [MULL_SET_MESSAGES] = {mull__messages_open, mull__messages_get},
};

int mull_dataset_open(const mull_recipe *r, mull_set set, mull_dataset **out, mull_error *err) {
    mull_dataset *d = calloc(1, sizeof *d);
    *out = NULL;
    if (!d) return mull_fail(err, MULL_ENOMEM, "cannot open the dataset", mull_set_name(set), NULL, "out of memory");
    d->r = r;
    d->set = set;
    int rc = SETS[set].open(d, err);
    if (!rc && d->rows <= 0)
        rc = mull_fail(err, MULL_EFORMAT, "cannot open the dataset", mull_recipe_location(r, set),
                       "take it out of mix_datas, or give a folder with data", "%s has no rows", mull_set_name(set));
    if (rc) {
        mull_dataset_close(d);
        return rc;
    }
    *out = d;
    return MULL_OK;
}

void mull_dataset_close(mull_dataset *d) {
    if (!d) return;
    for (size_t i = 0; i < d->nsubsets; i++) {
        mull__table_close(d->subsets[i].table);
        free(d->subsets[i].name);
        free(d->subsets[i].root);
    }
    free(d->subsets);
    mull__table_close(d->table);
    mull_json_rows_close(d->json);
    free(d->root);
    free(d);
}

int64_t mull_dataset_rows(const mull_dataset *d) {
    return d->rows;
}

int mull_dataset_get(mull_dataset *d, int64_t i, uint64_t key, mull_example *out, mull_error *err) {
    memset(out, 0, sizeof *out);
    if (i < 0 || i >= d->rows)
        return mull_fail(err, MULL_EARG, "cannot read a row", mull_set_name(d->set), NULL, "there is no row %lld",
                         (long long)i);
    out->set = d->set;
    out->index = out->row = i;
    int rc = SETS[d->set].get(d, i, key, out, err);
    if (rc) mull_example_fini(out);
    return rc;
}

static void free_sources(mull_source *s, size_t n) {
    for (size_t i = 0; i < n; i++) {
        free(s[i].path);
        free(s[i].data);
    }
    free(s);
}

void mull_example_fini(mull_example *e) {
    free(e->solution);
    mull__text_fini(&e->question);
    mull__text_fini(&e->answer);
    free_sources(e->media, e->nmedia);
    free_sources(e->reasoning, e->nreasoning);
    json_decref(e->messages);
    memset(e, 0, sizeof *e);
}

/* ---- errors */
static void row_name(const mull_dataset *d, const mull_example *e, char *buf, size_t cap) {
    if (e->subset)
        snprintf(buf, cap, "%s row %lld: %s row %lld", mull_set_name(d->set), (long long)e->index, e->subset,
                 (long long)e->row);
    else
        snprintf(buf, cap, "%s row %lld", mull_set_name(d->set), (long long)e->index);
}

int mull__bad_row(const mull_dataset *d, const mull_example *e, mull_error *err, const char *fmt, ...) {
    char where[300], why[300];
    va_list ap;
    row_name(d, e, where, sizeof where);
    va_start(ap, fmt);
    vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    return mull_fail(err, MULL_EFORMAT, "bad row", where, "correct the row", "%s", why);
}

int mull__skip(const mull_dataset *d, const mull_example *e, mull_error *err, const char *why) {
    char where[300];
    row_name(d, e, where, sizeof where);
    mull_fail(err, MULL_ELIMIT, "row left out", where, "", "%s", why);
    return MULL_SKIP;
}

int mull__no_memory(const mull_dataset *d, mull_error *err) {
    return mull_fail(err, MULL_ENOMEM, "cannot read the dataset", mull_set_name(d->set), NULL, "out of memory");
}

/* ---- paths */
int mull__set_root(mull_dataset *d, const char *location, bool *is_folder, mull_error *err) {
    struct stat st;
    if (stat(location, &st)) {
        int e = errno;
        return mull_fail_errno(err, e, "cannot open the dataset", location,
                               "give a folder or file of this machine; a Hugging Face dataset is downloaded first");
    }
    *is_folder = S_ISDIR(st.st_mode);
    const char *slash = strrchr(location, '/');
    if (*is_folder)
        d->root = strdup(location);
    else if (slash)
        d->root = strndup(location, slash == location ? 1 : (size_t)(slash - location));
    else
        d->root = strdup(".");
    return d->root ? MULL_OK : mull__no_memory(d, err);
}

char *mull__resolve(const char *root, const char *path) {
    return *path == '/' ? strdup(path) : mull_path_join(root, path);
}

/* ---- media */
mull_source *mull__add_media(mull_source **list, size_t *n) {
    mull_source *p = realloc(*list, (*n + 1) * sizeof *p);
    if (!p) return NULL;
    *list = p;
    memset(&p[*n], 0, sizeof *p);
    return &p[(*n)++];
}

const char *mull__source_from_cell(const mull_cell *c, const char *root, mull_source *out) {
    if (!c) return "the image is missing";
    if (c->kind == MULL_CELL_STRUCT) {
        const mull_cell *bytes = mull_cell_find(c, "bytes"), *path = mull_cell_find(c, "path");
        if (bytes && bytes->kind != MULL_CELL_NULL) return mull__source_from_cell(bytes, root, out);
        if (path && path->kind != MULL_CELL_NULL) return mull__source_from_cell(path, root, out);
        return "the image has neither bytes nor a path";
    }
    out->kind = MULL_MEDIA_IMAGE;
    if (c->kind == MULL_CELL_BYTES) {
        out->data = malloc(c->len + 1);
        if (!out->data) return "out of memory";
        memcpy(out->data, c->data, c->len + 1);
        out->len = c->len;
        return NULL;
    }
    if (c->kind != MULL_CELL_TEXT) return "the image is neither bytes nor a path";
    if (!c->len || strlen(c->data) != c->len) return "the image's path is empty or broken";
    out->path = mull__resolve(root, c->data);
    return out->path ? NULL : "out of memory";
}
