/* SAT: multiple choice questions over one or two images, parquet. The images come as structs {bytes, path}, as bytes,
 * or as paths; the release reads paths only. Options are shuffled by the draw's key. */
#include "engine/data/dataset_internal.h"

#include "engine/core/rng.h"
#include "engine/text/utf8.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const char *const COLUMNS[] = {"question", "answers", "correct_answer", "images", "image_bytes", "image_paths"};
enum { NCOLUMNS = sizeof COLUMNS / sizeof *COLUMNS };

/* The files of a split: SAT_{split}.parquet, else as Hugging Face names them, in the folder or in its data/. */
static int find_files(const char *dir, const char *split, char ***paths, size_t *n, mull_error *err) {
    char prefix[160];
    *n = 0;
    char *data = mull_path_join(dir, "data");
    int rc = data ? MULL_OK : mull_fail(err, MULL_ENOMEM, "cannot open the dataset", dir, NULL, "out of memory");
    for (int k = 0; !rc && !*n && k < 6; k++) {
        snprintf(prefix, sizeof prefix, k % 3 == 0 ? "SAT_%.100s." : k % 3 == 1 ? "SAT_%.100s-" : "%.100s-", split);
        mull__paths_fini(k ? *paths : NULL, 0);
        rc = mull__paths(k < 3 ? dir : data, prefix, k % 3 ? ".parquet" : "parquet", paths, n, err);
    }
    free(data);
    return rc;
}

int mull__sat_open(mull_dataset *d, mull_error *err) {
    const char *location = d->r->sat_location;
    bool folder;
    char **paths = NULL, *one[1] = {(char *)(uintptr_t)location};
    size_t n = 0;
    int rc = mull__set_root(d, location, &folder, err);
    if (!rc && folder) {
        rc = find_files(location, d->r->split, &paths, &n, err);
        if (!rc && !n)
            rc = mull_fail(err, MULL_EMISSING, "cannot open the dataset", location, "check sat_location and split",
                           "it has no SAT_%s.parquet", d->r->split);
    }
    if (!rc) rc = mull__table_open(folder ? paths : one, folder ? n : 1, COLUMNS, NCOLUMNS, &d->table, err);
    if (!rc) d->rows = mull__table_rows(d->table);
    mull__paths_fini(paths, n);
    return rc;
}

/* What the path column means below the dataset's folder: what follows the last "SAT_new/". */
static const char *local_path(const char *path) {
    static const char mark[] = "SAT_new/";
    for (const char *hit; (hit = strstr(path, mark));) path = hit + sizeof mark - 1;
    return path;
}

static int read_images(mull_dataset *d, const mull_cell *row, mull_example *e, mull_error *err) {
    static const char *const names[] = {"images", "image_bytes", "image_paths"};
    const mull_cell *list = NULL;
    for (int i = 0; i < 3 && !list; i++) {
        const mull_cell *c = mull_cell_find(row, names[i]);
        if (c && c->kind != MULL_CELL_NULL) list = c;
    }
    if (!list) return mull__bad_row(d, e, err, "it has none of the columns images, image_bytes, image_paths");
    if (list->kind != MULL_CELL_LIST) return mull__bad_row(d, e, err, "column %s is not a list", list->name);
    for (size_t i = 0; i < list->n; i++) {
        mull_cell path = list->items[i];
        const mull_cell *image = &list->items[i];
        if (path.kind == MULL_CELL_TEXT) {
            path.data = local_path(path.data);
            path.len = strlen(path.data);
            image = &path;
        }
        mull_source *s = mull__add_media(&e->media, &e->nmedia);
        if (!s) return mull__no_memory(d, err);
        const char *why = mull__source_from_cell(image, d->root, s);
        if (why) return mull__bad_row(d, e, err, "image %zu: %s", i + 1, why);
    }
    return MULL_OK;
}

/* order[0..n) becomes a permutation that key alone decides (Fisher and Yates). */
static void shuffle(int *order, int n, uint64_t key) {
    for (int i = 0; i < n; i++) order[i] = i;
    for (int i = n - 1; i > 0; i--) {
        int j = (int)(mull_uniform(key, 0x5a7, (uint64_t)i) * (i + 1)), t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
}

static const char *check_text(const mull_cell *c) {
    if (!c || c->kind != MULL_CELL_TEXT) return "is missing or not a text";
    return mull_utf8_valid(c->data, c->len) ? NULL : "is not UTF-8";
}

/* options[k] = "A. text" in the shuffled order; *right: the first one that is the correct answer, -1: none. */
static int read_options(const mull_recipe *r, const mull_cell *answers, const mull_cell *correct, mull_example *e,
                        mull_buf *options, int *right) {
    static const char frame[] = "in the first frame";
    mull_buf want = {0};
    int rc = mull__without(correct->data, correct->len, frame, &want);
    *right = -1;
    for (int k = 0; !rc && k < e->norder; k++) {
        const mull_cell *a = &answers->items[e->order[k]];
        rc = mull_buf_printf(&options[k], "%c. ", 'A' + k);
        if (!rc) rc = mull__without(a->data, a->len, frame, &options[k]);
        if (!rc && *right < 0 && options[k].len == want.len + 3 && !memcmp(options[k].data + 3, want.data, want.len))
            *right = k;
    }
    (void)r;
    mull_buf_fini(&want);
    return rc;
}

static int compose(mull_dataset *d, const mull_cell *row, uint64_t key, mull_example *e, mull_error *err) {
    const mull_cell *question = mull_cell_find(row, "question"), *answers = mull_cell_find(row, "answers"),
                    *correct = mull_cell_find(row, "correct_answer");
    const char *why;
    if ((why = check_text(question))) return mull__bad_row(d, e, err, "question %s", why);
    if ((why = check_text(correct))) return mull__bad_row(d, e, err, "correct_answer %s", why);
    if (!answers || answers->kind != MULL_CELL_LIST || !answers->n)
        return mull__bad_row(d, e, err, "answers is missing, empty or not a list");
    if (answers->n > MULL_OPTIONS_MAX)
        return mull__bad_row(d, e, err, "%zu answers; at most %d have letters", answers->n, MULL_OPTIONS_MAX);
    for (size_t i = 0; i < answers->n; i++)
        if ((why = check_text(&answers->items[i]))) return mull__bad_row(d, e, err, "answer %zu %s", i + 1, why);
    e->norder = (int)answers->n;
    shuffle(e->order, e->norder, key);
    e->problem_type = mull__problem_type("multiple choice");

    mull_buf options[MULL_OPTIONS_MAX] = {{0}}, solution = {0};
    mull_text process = {0};
    int right = -1, rc = read_options(d->r, answers, correct, e, options, &right);
    if (rc) goto done;
    if (right < 0) {
        rc = mull__bad_row(d, e, err, "correct_answer is none of the answers");
        goto free;
    }
    rc = mull_buf_printf(&solution, "<answer>%s</answer>", options[right].data);
    if (!rc && d->r->mmlatent_mode_stage2) {
        rc = mull__text_puts(&process, "<think>");
        if (!rc) rc = mull__text_special(&process, "<|latent_pad|>", d->r->num_latent_tokens);
        if (!rc) rc = mull__text_puts(&process, "</think>");
    }
    if (!rc) {
        mull__row_text t = {question->data, question->len, options, answers->n, &process, solution.data, solution.len};
        rc = mull__compose(d->r, &t, e);
    }
done:
    if (rc) rc = mull__no_memory(d, err);
free:
    for (int i = 0; i < MULL_OPTIONS_MAX; i++) mull_buf_fini(&options[i]);
    mull_buf_fini(&solution);
    mull__text_fini(&process);
    return rc;
}

int mull__sat_get(mull_dataset *d, int64_t i, uint64_t key, mull_example *e, mull_error *err) {
    mull_row row;
    int rc = mull__table_read(d->table, i, &row, err);
    if (rc) return rc;
    rc = compose(d, &row.top, key, e, err);
    if (!rc) rc = read_images(d, &row.top, e, err);
    mull_row_free(&row);
    return rc;
}
