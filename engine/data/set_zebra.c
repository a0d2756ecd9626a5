/* Zebra-CoT: 18 subsets of parquet, each a folder with the files of its split. Images stand in columns of their own,
 * texts point to them by placeholders. The release draws from the first rows only (a bug); here an index runs over all
 * rows of all subsets, in the order of the list below. */
#include "engine/data/dataset_internal.h"

#include "engine/text/utf8.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

static const char *const SUBSETS[] = {
    "2D Visual Reasoning - Visual Jigsaw",
    "2D Visual Reasoning - Visual Search",
    "3D Visual Reasoning - Embodied CoT",
    "3D Visual Reasoning - Multi-Hop Objects Counting",
    "3D Visual Reasoning - Robot Planning",
    "Scientific Reasoning - Chemistry",
    "Scientific Reasoning - Competitive Programming",
    "Scientific Reasoning - Geometry",
    "Scientific Reasoning - Graph Algorithms",
    "Scientific Reasoning - Physics",
    "Visual Logic & Strategic Games - ARC-AGI",
    "Visual Logic & Strategic Games - Checkers",
    "Visual Logic & Strategic Games - Chess",
    "Visual Logic & Strategic Games - Ciphers",
    "Visual Logic & Strategic Games - Connect Four",
    "Visual Logic & Strategic Games - Maze",
    "Visual Logic & Strategic Games - RPM",
    "Visual Logic & Strategic Games - Tetris",
};
enum {
    NSUBSETS = sizeof SUBSETS / sizeof *SUBSETS,
    IMAGES_MAX = 5, /* of a question, and (stage 1) of its reasoning */
    FEW = 2,        /* images that are shown large */
    LARGE = 512,
    SMALL = 128
};

static int open_subset(mull_dataset *d, const char *name, mull_error *err) {
    char **paths = NULL, prefix[160];
    size_t n = 0;
    struct mull__subset *s = &d->subsets[d->nsubsets];
    char *dir = mull_path_join(d->r->zebracot_location, name);
    if (!dir) return mull__no_memory(d, err);
    snprintf(prefix, sizeof prefix, "%.100s-", d->r->split);
    int rc = mull__paths(dir, prefix, ".parquet", &paths, &n, err);
    if (!rc && !n) {
        mull__paths_fini(paths, n);
        rc = mull__paths(dir, "", ".parquet", &paths, &n, err);
    }
    if (!rc && n) {
        /* The image columns differ from subset to subset, so all columns are read. */
        rc = mull__table_open(paths, n, NULL, 0, &s->table, err);
        if (!rc) {
            d->nsubsets++; /* from here on closing frees it */
            s->name = strdup(name);
            s->root = dir;
            s->first = d->rows;
            dir = NULL;
            d->rows += mull__table_rows(s->table);
            if (!s->name) rc = mull__no_memory(d, err);
        }
    }
    mull__paths_fini(paths, n);
    free(dir);
    return rc;
}

int mull__zebra_open(mull_dataset *d, mull_error *err) {
    const char *location = d->r->zebracot_location;
    bool folder;
    int rc = mull__set_root(d, location, &folder, err);
    d->subsets = rc ? NULL : calloc(NSUBSETS, sizeof *d->subsets);
    if (!rc && !d->subsets) rc = mull__no_memory(d, err);
    for (int i = 0; !rc && i < NSUBSETS; i++) rc = open_subset(d, SUBSETS[i], err);
    if (!rc && !d->nsubsets)
        rc = mull_fail(err, MULL_EMISSING, "cannot open the dataset", location, "check zebracot_location",
                       "none of the %d subset folders is there, such as '%s'", NSUBSETS, SUBSETS[0]);
    return rc;
}

/* ---- texts */
/* Python's str.isspace on a whole character. */
static bool is_space(int32_t c) {
    return (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

static bool is_digit(const char *s, size_t n, size_t *len) {
    int32_t c;
    utf8proc_ssize_t k = n ? utf8proc_iterate((const utf8proc_uint8_t *)s, (utf8proc_ssize_t)n, &c) : -1;
    *len = k > 0 ? (size_t)k : 0;
    return k > 0 && utf8proc_category(c) == UTF8PROC_CATEGORY_ND;
}

/* Length of <image_start>[KIND_digits]<image_end> at s, 0 when it is not there. */
static size_t placeholder(const char *s, size_t n, const char *kind) {
    static const char close[] = "]<image_end>";
    char open[64];
    size_t at = (size_t)snprintf(open, sizeof open, "<image_start>[%s_", kind), digits = 0, len;
    if (n < at || memcmp(s, open, at)) return 0;
    while (is_digit(s + at, n - at, &len)) {
        at += len;
        digits++;
    }
    return digits && n - at >= sizeof close - 1 && !memcmp(s + at, close, sizeof close - 1) ? at + sizeof close - 1 : 0;
}

/* The text with its placeholders deleted, or replaced by <|latent_image|>. */
static int replace_images(const char *s, size_t n, const char *kind, bool by_latent, mull_text *out) {
    int rc = mull__text_puts(out, "");
    while (!rc && n) {
        const char *hit = memchr(s, '<', n);
        size_t keep = hit ? (size_t)(hit - s) : n, len = hit ? placeholder(hit, n - keep, kind) : 0;
        if (hit && !len) keep++;
        rc = mull__text_add(out, s, keep);
        if (!rc && len && by_latent) rc = mull__text_special(out, "<|latent_image|>", 1);
        s += keep + len;
        n -= keep + len;
    }
    return rc;
}

/* The words of t (white space between them goes) with a latent between each two. */
static int interleave(const mull_recipe *r, const mull_text *t, mull_text *out) {
    size_t k = 0, words = 0;
    bool inside = false;
    int rc = MULL_OK;
    for (size_t at = 0; !rc && at < t->s.len;) {
        bool special = k < t->nspecial && t->special[k].at == at;
        int32_t c = 0;
        utf8proc_ssize_t got =
            utf8proc_iterate((const utf8proc_uint8_t *)t->s.data + at, (utf8proc_ssize_t)(t->s.len - at), &c);
        size_t len = special ? t->special[k].len : got > 0 ? (size_t)got : 1;
        if (!special && is_space(c)) {
            inside = false;
            at += len;
            continue;
        }
        if (!inside && words++) {
            rc = mull__text_special(out, "<|latent_pad|>", 1);
            if (!rc && r->stage1_spaces && !special) rc = mull__text_puts(out, " ");
        }
        inside = true;
        if (!rc && special)
            rc = mull__text_special(out, "<|latent_image|>", 1);
        else if (!rc)
            rc = mull__text_add(out, t->s.data + at, len);
        k += special;
        at += len;
    }
    return rc;
}

static int think(const mull_recipe *r, const mull_cell *trace, mull_text *out) {
    mull_text plain = {0};
    bool stage1 = r->mmlatent_mode_stage1, stage2 = r->mmlatent_mode_stage2;
    if (!stage1 && !stage2) return MULL_OK;
    int rc = mull__text_puts(out, "<think>");
    if (!rc && stage2) rc = mull__text_special(out, "<|latent_pad|>", r->num_latent_tokens);
    if (!rc && (stage1 || r->use_multimodal_textonly)) {
        rc = replace_images(trace ? trace->data : "", trace ? trace->len : 0, "reasoning_image", stage1, &plain);
        if (!rc) rc = stage1 ? interleave(r, &plain, out) : mull__text_append(out, &plain);
    }
    bool open = stage2 && !r->use_multimodal_textonly && r->wtxt_rl_mode;
    if (!rc && !open) rc = mull__text_puts(out, "</think>");
    mull__text_fini(&plain);
    return rc;
}

/* ---- rows */
static int by_column(const void *a, const void *b) {
    return strcmp((*(const mull_cell *const *)a)->name, (*(const mull_cell *const *)b)->name);
}

/* The images of the columns that begin with prefix, by name as strings; null ones are not there. More than the limit is
 * counted, not kept. */
static int read_images(mull_dataset *d, const struct mull__subset *s, const mull_cell *row, const char *prefix,
                       mull_source **out, size_t *n, size_t *count, mull_example *e, mull_error *err) {
    const mull_cell **cells = calloc(row->n + 1, sizeof *cells);
    int rc = cells ? MULL_OK : mull__no_memory(d, err);
    size_t all = 0;
    for (size_t i = 0; !rc && i < row->n; i++)
        if (!strncmp(row->items[i].name, prefix, strlen(prefix)) && row->items[i].kind != MULL_CELL_NULL) {
            const mull_cell *b = mull_cell_find(&row->items[i], "bytes"), *p = mull_cell_find(&row->items[i], "path");
            /* Some writers store a missing image as a struct of nulls. */
            if (row->items[i].kind == MULL_CELL_STRUCT && (!b || b->kind == MULL_CELL_NULL) &&
                (!p || p->kind == MULL_CELL_NULL))
                continue;
            cells[all++] = &row->items[i];
        }
    if (all) qsort(cells, all, sizeof *cells, by_column);
    for (size_t i = 0; !rc && i < all && all <= IMAGES_MAX; i++) {
        mull_source *src = mull__add_media(out, n);
        const char *why = src ? mull__source_from_cell(cells[i], s->root, src) : "out of memory";
        if (why) rc = mull__bad_row(d, e, err, "%.80s: %s", cells[i]->name, why);
    }
    free(cells);
    *count = all;
    return rc;
}

static int compose(mull_dataset *d, const mull_cell *row, mull_example *e, mull_error *err) {
    const mull_cell *q = mull_cell_find(row, "Question"), *a = mull_cell_find(row, "Final Answer"),
                    *trace = mull_cell_find(row, "Text Reasoning Trace");
    const mull_cell *needed[] = {q, a, trace};
    static const char *const names[] = {"Question", "Final Answer", "Text Reasoning Trace"};
    bool reads_trace = d->r->mmlatent_mode_stage1 || (d->r->mmlatent_mode_stage2 && d->r->use_multimodal_textonly);
    for (int i = 0; i < 3; i++) {
        if (i == 2 && (!reads_trace || !trace)) continue;
        if (!needed[i] || needed[i]->kind != MULL_CELL_TEXT || !mull_utf8_valid(needed[i]->data, needed[i]->len))
            return mull__bad_row(d, e, err, "%s is missing or not a text", names[i]);
    }
    e->problem_type = mull__problem_type("free-form");
    mull_text question = {0}, process = {0};
    mull_buf solution = {0};
    int rc = replace_images(q->data, q->len, "problem_image", false, &question);
    if (!rc) rc = think(d->r, trace, &process);
    if (!rc) rc = mull_buf_puts(&solution, "<answer>");
    if (!rc) rc = mull_buf_add(&solution, a->data, a->len);
    if (!rc) rc = mull_buf_puts(&solution, "</answer>");
    if (!rc) {
        mull__row_text t = {question.s.data, question.s.len, NULL, 0, &process, solution.data, solution.len};
        rc = mull__compose(d->r, &t, e);
    }
    mull__text_fini(&question);
    mull__text_fini(&process);
    mull_buf_fini(&solution);
    return rc ? mull__no_memory(d, err) : MULL_OK;
}

int mull__zebra_get(mull_dataset *d, int64_t i, uint64_t key, mull_example *e, mull_error *err) {
    size_t k = d->nsubsets - 1;
    (void)key;
    while (d->subsets[k].first > i) k--;
    const struct mull__subset *s = &d->subsets[k];
    e->subset = s->name;
    e->row = i - s->first;
    mull_row row;
    int rc = mull__table_read(s->table, e->row, &row, err);
    if (rc) return rc;
    size_t problems = 0, thoughts = 0;
    rc = read_images(d, s, &row.top, "problem_image_", &e->media, &e->nmedia, &problems, e, err);
    if (!rc && !problems) rc = mull__skip(d, e, err, "no problem image");
    if (!rc && problems > IMAGES_MAX) rc = mull__skip(d, e, err, "more than 5 problem images");
    if (!rc && d->r->mmlatent_mode_stage1)
        rc = read_images(d, s, &row.top, "reasoning_image_", &e->reasoning, &e->nreasoning, &thoughts, e, err);
    if (!rc && thoughts > IMAGES_MAX) rc = mull__skip(d, e, err, "more than 5 reasoning images");
    for (size_t m = 0; !rc && m < e->nmedia; m++) e->media[m].side = e->nmedia > FEW ? SMALL : LARGE;
    for (size_t m = 0; !rc && m < e->nreasoning; m++) e->reasoning[m].side = SMALL;
    if (!rc) rc = compose(d, &row.top, e, err);
    mull_row_free(&row);
    return rc;
}
