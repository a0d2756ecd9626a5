/* Video-R1: a JSON array of questions over one image or one video, with a chain of thought. */
#include "engine/data/dataset_internal.h"

#include <stdlib.h>
#include <string.h>

int mull__videor1_open(mull_dataset *d, mull_error *err) {
    const char *location = d->r->video_r1_location;
    bool folder;
    int rc = mull__set_root(d, location, &folder, err);
    if (rc) return rc;
    char *path = folder ? mull_path_join(location, "Video-R1-COT-165k.json") : strdup(location);
    if (!path) return mull__no_memory(d, err);
    rc = mull_json_rows_open(path, &d->json, err);
    free(path);
    if (!rc) d->rows = mull_json_rows_count(d->json);
    return rc;
}

/* Every word, as split at single blanks, behind a latent; the blanks go (or stay, stage1_spaces: keep). */
static int interleave(const mull_recipe *r, const char *s, size_t n, mull_text *out) {
    int rc = MULL_OK;
    for (bool first = true;; first = false) {
        const char *blank = memchr(s, ' ', n);
        size_t len = blank ? (size_t)(blank - s) : n;
        rc = mull__text_special(out, "<|latent_pad|>", 1);
        if (!rc && r->stage1_spaces && !first) rc = mull__text_puts(out, " ");
        if (!rc) rc = mull__text_add(out, s, len);
        if (rc || !blank) return rc;
        s += len + 1;
        n -= len + 1;
    }
}

static int think(const mull_recipe *r, const char *given, size_t len, mull_text *out) {
    mull_buf once = {0}, plain = {0};
    if (r->no_reason_mode) return MULL_OK;
    int rc = mull__without(given, len, "<think>", &once);
    if (!rc) rc = mull__without(once.data, once.len, "</think>", &plain);
    if (!rc) rc = mull__text_puts(out, "<think>");
    if (rc) goto done;
    if (r->mmlatent_mode_stage2) {
        rc = mull__text_special(out, "<|latent_pad|>", r->num_latent_tokens);
        if (!rc && r->use_text_reasoning) {
            rc = mull__text_puts(out, " ");
            if (!rc) rc = mull__text_add(out, given, len); /* with its own tags, as trained */
        }
    } else if (r->mmlatent_mode_stage1) {
        rc = interleave(r, plain.data, plain.len, out);
    } else {
        rc = mull__text_add(out, plain.data, plain.len);
    }
    if (!rc) rc = mull__text_puts(out, "</think>");
done:
    mull_buf_fini(&once);
    mull_buf_fini(&plain);
    return rc;
}

static int read_options(const json_t *list, mull_buf **out, size_t *n) {
    size_t i;
    json_t *v;
    *out = calloc(json_array_size(list) + 1, sizeof **out);
    if (!*out) return MULL_ENOMEM;
    json_array_foreach(list, i, v) {
        if (!json_is_string(v)) return MULL_EFORMAT;
        if (mull_buf_add(&(*out)[i], json_string_value(v), json_string_length(v))) return MULL_ENOMEM;
        *n = i + 1;
    }
    return MULL_OK;
}

static int add_media(mull_dataset *d, const json_t *row, mull_example *e, mull_error *err) {
    const char *type = json_string_value(json_object_get(row, "data_type"));
    const json_t *path = json_object_get(row, "path");
    if (!type || (strcmp(type, "image") && strcmp(type, "video")))
        return mull__bad_row(d, e, err, "data_type is neither image nor video");
    if (!json_is_string(path) || !json_string_length(path) ||
        strlen(json_string_value(path)) != json_string_length(path))
        return mull__bad_row(d, e, err, "path is missing or not a text");
    mull_source *s = mull__add_media(&e->media, &e->nmedia);
    if (!s) return mull__no_memory(d, err);
    s->kind = *type == 'v' ? MULL_MEDIA_VIDEO : MULL_MEDIA_IMAGE;
    s->path = mull__resolve(d->root, json_string_value(path));
    return s->path ? MULL_OK : mull__no_memory(d, err);
}

static int compose(mull_dataset *d, const json_t *row, mull_example *e, mull_error *err) {
    const json_t *problem = json_object_get(row, "problem"), *process = json_object_get(row, "process"),
                 *solution = json_object_get(row, "solution"), *options = json_object_get(row, "options");
    if (!json_is_object(row)) return mull__bad_row(d, e, err, "it is not an object");
    const char *type = json_string_value(json_object_get(row, "problem_type"));
    e->problem_type = mull__problem_type(type);
    if (!e->problem_type)
        return mull__bad_row(d, e, err,
                             "problem_type '%.40s' is none of multiple choice, numerical, OCR, free-form, "
                             "regression",
                             type ? type : "");
    if (!json_is_string(problem)) return mull__bad_row(d, e, err, "problem is missing or not a text");
    if (!json_is_string(process)) return mull__bad_row(d, e, err, "process is missing or not a text");
    if (!json_is_string(solution)) return mull__bad_row(d, e, err, "solution is missing or not a text");
    mull_buf *list = NULL;
    size_t n = 0;
    mull_text thought = {0};
    int rc = json_is_array(options) ? read_options(options, &list, &n) : MULL_OK;
    if (!rc) rc = think(d->r, json_string_value(process), json_string_length(process), &thought);
    if (!rc) {
        mull__row_text t = {json_string_value(problem),  json_string_length(problem), list, n, &thought,
                            json_string_value(solution), json_string_length(solution)};
        rc = mull__compose(d->r, &t, e);
    }
    for (size_t i = 0; list && i < n; i++) mull_buf_fini(&list[i]);
    free(list);
    mull__text_fini(&thought);
    if (rc == MULL_EFORMAT) return mull__bad_row(d, e, err, "an option is not a text");
    return rc ? mull__no_memory(d, err) : MULL_OK;
}

int mull__videor1_get(mull_dataset *d, int64_t i, uint64_t key, mull_example *e, mull_error *err) {
    json_t *row;
    (void)key;
    int rc = mull_json_rows_get(d->json, i, &row, err);
    if (rc) return rc;
    rc = compose(d, row, e, err);
    if (!rc) rc = add_media(d, row, e, err);
    json_decref(row);
    return rc;
}
