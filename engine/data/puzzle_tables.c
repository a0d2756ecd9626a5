/* Puzzles as parquet, in the columns of SAT and of Zebra-CoT; see puzzle.h. Rows are gathered first: a demo's set has
 * some thousand rows of a few kilobytes. */
#include "engine/data/puzzle_internal.h"

#include "engine/data/parquet_write.h"
#include "engine/media/encode_png.h"

#include <stdlib.h>
#include <string.h>

static const char *const WHAT = "cannot write puzzles";

/* One row's cells and what they point to. */
typedef struct table_row {
    mull_cell columns[6], images[1], picture[2], hint[2], options[MULL_PUZZLE_OPTIONS];
    mull_buf png, hint_png, trace;
    char name[32], hint_name[32], question[256];
} table_row;

static mull_cell text(const char *name, const char *s) {
    return (mull_cell){.kind = MULL_CELL_TEXT, .name = name, .data = s, .len = strlen(s)};
}

/* As Hugging Face stores an image: a struct of its bytes and its file's name. */
static mull_cell image(const char *name, mull_cell fields[2], const mull_buf *png, const char *file) {
    fields[0] = (mull_cell){.kind = MULL_CELL_BYTES, .name = "bytes", .data = png->data, .len = png->len};
    fields[1] = text("path", file);
    return (mull_cell){.kind = MULL_CELL_STRUCT, .name = name, .items = fields, .n = 2};
}

static int draw_png(const uint8_t *rgb, mull_buf *png, mull_error *err) {
    return mull_png_encode(rgb, MULL_PUZZLE_WIDTH, MULL_PUZZLE_WIDTH, png, err);
}

static int sat_row(table_row *r, const mull_puzzle *p, mull_cell *out, mull_error *err) {
    int rc = draw_png(p->rgb, &r->png, err);
    if (rc) return rc;
    for (int i = 0; i < p->noptions; i++) r->options[i] = text(NULL, p->options[i]);
    r->images[0] = image(NULL, r->picture, &r->png, r->name);
    r->columns[0] = text("question", p->question);
    r->columns[1] =
        (mull_cell){.kind = MULL_CELL_LIST, .name = "answers", .items = r->options, .n = (size_t)p->noptions};
    r->columns[2] = text("correct_answer", p->options[p->answer]);
    r->columns[3] = text("question_type", mull_puzzle_name(p->kind));
    r->columns[4] = (mull_cell){.kind = MULL_CELL_LIST, .name = "images", .items = r->images, .n = 1};
    *out = (mull_cell){.kind = MULL_CELL_STRUCT, .items = r->columns, .n = 5};
    return MULL_OK;
}

static int zebra_row(table_row *r, const mull_puzzle *p, mull_cell *out, mull_error *err) {
    int rc = draw_png(p->rgb, &r->png, err);
    if (!rc) rc = draw_png(p->hint, &r->hint_png, err);
    if (!rc && mull_buf_printf(&r->trace, "<image_start>[reasoning_image_1]<image_end> %s", p->thought))
        rc = mull_fail(err, MULL_ENOMEM, WHAT, r->name, "", "out of memory");
    if (rc) return rc;
    snprintf(r->question, sizeof r->question, "<image_start>[problem_image_1]<image_end>%s", p->question);
    r->columns[0] = text("Question", r->question);
    r->columns[1] = text("Text Reasoning Trace", r->trace.data);
    r->columns[2] = text("Final Answer", p->options[p->answer]);
    r->columns[3] = image("problem_image_1", r->picture, &r->png, r->name);
    r->columns[4] = image("reasoning_image_1", r->hint, &r->hint_png, r->hint_name);
    *out = (mull_cell){.kind = MULL_CELL_STRUCT, .items = r->columns, .n = 5};
    return MULL_OK;
}

/* The puzzles whose kind is among only, in order, as one file. None: no file. */
static int write_table(const mull__puzzles *w, unsigned only, const char *path,
                       int (*fill)(table_row *, const mull_puzzle *, mull_cell *, mull_error *), mull_error *err) {
    table_row *rows = calloc((size_t)w->count, sizeof *rows);
    mull_cell *cells = calloc((size_t)w->count, sizeof *cells);
    mull_puzzle *p = malloc(sizeof *p);
    size_t n = 0;
    int rc = rows && cells && p ? MULL_OK : mull_fail(err, MULL_ENOMEM, WHAT, path, "", "out of memory");
    for (int64_t i = 0; i < w->count && !rc; i++) {
        mull_puzzle_draw(w->seed, w->first + i, w->kinds, p);
        if (!(only & 1u << p->kind)) continue;
        snprintf(rows[n].name, sizeof rows[n].name, "%lld.png", (long long)(w->first + i));
        snprintf(rows[n].hint_name, sizeof rows[n].hint_name, "%lld_hint.png", (long long)(w->first + i));
        rc = fill(&rows[n], p, &cells[n], err);
        n++;
    }
    if (!rc && n) rc = mull_parquet_write(path, cells, n, err);
    for (size_t i = 0; rows && i < n; i++) {
        mull_buf_fini(&rows[i].png);
        mull_buf_fini(&rows[i].hint_png);
        mull_buf_fini(&rows[i].trace);
    }
    free(rows);
    free(cells);
    free(p);
    return rc;
}

int mull__puzzles_sat(const mull__puzzles *w, mull_error *err) {
    char *path = mull_path_join(w->dir, "SAT_train.parquet");
    int rc =
        path ? write_table(w, ~0u, path, sat_row, err) : mull_fail(err, MULL_ENOMEM, WHAT, w->dir, "", "out of memory");
    free(path);
    return rc;
}

int mull__puzzles_zebra(const mull__puzzles *w, mull_error *err) {
    static const struct {
        const char *name;
        unsigned kinds;
    } SUBSETS[] = {
        {"2D Visual Reasoning - Visual Search", 1u << MULL_PUZZLE_SIDE | 1u << MULL_PUZZLE_BIGGER},
        {"3D Visual Reasoning - Multi-Hop Objects Counting", 1u << MULL_PUZZLE_COUNT},
        {"Visual Logic & Strategic Games - Maze", 1u << MULL_PUZZLE_MAZE},
    };
    int rc = MULL_OK;
    for (size_t s = 0; !rc && s < sizeof SUBSETS / sizeof *SUBSETS; s++) {
        if (!(w->kinds & SUBSETS[s].kinds)) continue;
        char *dir = mull_path_join(w->dir, SUBSETS[s].name),
             *path = dir ? mull_path_join(dir, "train-00000-of-00001.parquet") : NULL;
        rc = path ? mull__puzzles_folder(dir, err) : mull_fail(err, MULL_ENOMEM, WHAT, w->dir, "", "out of memory");
        if (!rc) rc = write_table(w, SUBSETS[s].kinds, path, zebra_row, err);
        free(dir);
        free(path);
    }
    return rc;
}
