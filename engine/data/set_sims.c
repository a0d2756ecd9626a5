/* SIMS: JSON lines of questions over a video; conversations[0] asks, conversations[1] answers. */
#include "engine/data/dataset_internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int mull__sims_open(mull_dataset *d, mull_error *err) {
    const char *location = d->r->sims_location;
    bool folder;
    int rc = mull__set_root(d, location, &folder, err);
    if (rc) return rc;
    const char *name = d->r->use_3q_40k ? "sims_3q/sims_3q_40k.jsonl"
                       : d->r->use_200k ? "sims_200k.jsonl"
                                        : "llava_vid_sims_combined_20k.jsonl";
    char *path = folder ? mull_path_join(location, name) : strdup(location);
    struct stat st;
    if (folder && path && stat(path, &st)) { /* a folder with one file of its own says what is meant */
        char **paths;
        size_t n;
        rc = mull__paths(location, "", ".jsonl", &paths, &n, err);
        if (!rc && n == 1) {
            free(path);
            path = strdup(paths[0]);
        }
        mull__paths_fini(paths, n);
    }
    if (!rc && !path) rc = mull__no_memory(d, err);
    if (!rc) rc = mull_json_rows_open(path, &d->json, err);
    if (!rc) d->rows = mull_json_rows_count(d->json);
    free(path);
    return rc;
}

static const json_t *said(const json_t *row, size_t i) {
    return json_object_get(json_array_get(json_object_get(row, "conversations"), i), "value");
}

static int compose(mull_dataset *d, const json_t *row, mull_example *e, mull_error *err) {
    const json_t *ask = said(row, 0), *reply = said(row, 1), *options = json_object_get(row, "options");
    const char *type = json_string_value(json_object_get(row, "type"));
    if (ask && !json_is_string(ask) && !json_is_null(ask))
        return mull__bad_row(d, e, err, "the question is not a text");
    if (!ask || !json_is_string(reply))
        return mull__bad_row(d, e, err, "conversations[0].value or conversations[1].value is missing");
    e->problem_type = mull__problem_type(type && !strcmp(type, "mc")   ? "multiple choice"
                                         : type && !strcmp(type, "oe") ? "numerical"
                                                                       : "free-form");
    mull_buf problem = {0}, solution = {0}, *list = calloc(json_array_size(options) + 1, sizeof *list);
    mull_text process = {0};
    size_t n = 0, i;
    json_t *v;
    int rc = list ? mull_buf_puts(&problem, "") : MULL_ENOMEM;
    if (!rc && json_is_string(ask))
        rc = mull__without(json_string_value(ask), json_string_length(ask), "<image>", &problem);
    /* The answer ends at the first full stop: "A. chair" is A. */
    const char *text = json_string_value(reply), *dot = memchr(text, '.', json_string_length(reply));
    if (!rc) rc = mull_buf_puts(&solution, "<answer>");
    if (!rc) rc = mull_buf_add(&solution, text, dot ? (size_t)(dot - text) : json_string_length(reply));
    if (!rc) rc = mull_buf_puts(&solution, "</answer>");
    if (!rc && d->r->mmlatent_mode_stage2) rc = mull__text_special(&process, "<|latent_pad|>", d->r->num_latent_tokens);
    json_array_foreach(options, i, v) {
        if (rc || !json_is_string(v)) break;
        rc = mull_buf_add(&list[n++], json_string_value(v), json_string_length(v));
    }
    if (!rc) {
        mull__row_text t = {problem.data,  problem.len, json_is_array(options) ? list : NULL, n, &process,
                            solution.data, solution.len};
        rc = mull__compose(d->r, &t, e);
    }
    for (i = 0; i < n; i++) mull_buf_fini(&list[i]);
    free(list);
    mull_buf_fini(&problem);
    mull_buf_fini(&solution);
    mull__text_fini(&process);
    return rc ? mull__no_memory(d, err) : MULL_OK;
}

int mull__sims_get(mull_dataset *d, int64_t i, uint64_t key, mull_example *e, mull_error *err) {
    json_t *row;
    (void)key;
    int rc = mull_json_rows_get(d->json, i, &row, err);
    if (rc) return rc;
    const json_t *video = json_object_get(row, "video");
    rc = compose(d, row, e, err);
    if (!rc && (!json_is_string(video) || !json_string_length(video) ||
                strlen(json_string_value(video)) != json_string_length(video)))
        rc = mull__bad_row(d, e, err, "video is missing or not a text");
    mull_source *s = rc ? NULL : mull__add_media(&e->media, &e->nmedia);
    if (s) {
        s->kind = MULL_MEDIA_VIDEO;
        s->path = mull__resolve(d->root, json_string_value(video));
    }
    if (!rc && (!s || !s->path)) rc = mull__no_memory(d, err);
    json_decref(row);
    return rc;
}
