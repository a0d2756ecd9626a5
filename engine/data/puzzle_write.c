/* Puzzles in the layouts that training reads; see puzzle.h. */
#include "engine/core/buf.h"
#include "engine/data/puzzle_internal.h"
#include "engine/media/encode_png.h"

#include <errno.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char *const WHAT = "cannot write puzzles";

static json_t *options_json(const mull_puzzle *p) {
    json_t *list = json_array();
    for (int i = 0; i < p->noptions; i++) json_array_append_new(list, json_sprintf("%c. %s", 'A' + i, p->options[i]));
    return list;
}

static json_t *videor1_row(const mull_puzzle *p, int64_t index, const char *picture) {
    return json_pack("{s:I, s:s, s:s, s:s, s:o, s:o, s:o, s:o, s:s}", "problem_id", (json_int_t)index, "problem",
                     p->question, "data_type", "image", "problem_type", "multiple choice", "options", options_json(p),
                     "process", json_sprintf("<think>%s</think>", p->thought), "solution",
                     json_sprintf("<answer>%c</answer>", 'A' + p->answer), "path", json_sprintf("./%s", picture),
                     "data_source", mull_puzzle_name(p->kind));
}

static json_t *task_row(const mull_puzzle *p, int64_t index, const char *picture) {
    char letter[2] = {(char)('A' + p->answer), 0};
    return json_pack("{s:I, s:s, s:o, s:s, s:s, s:s}", "index", (json_int_t)index, "question", p->question, "options",
                     options_json(p), "answer", letter, "question_type", mull_puzzle_name(p->kind), "image", picture);
}

static json_t *messages_row(const mull_puzzle *p, int64_t index, const char *picture) {
    (void)index;
    mull_buf text = {0};
    json_t *row = NULL;
    int rc = mull_buf_printf(&text, "%s Options:", p->question);
    for (int i = 0; !rc && i < p->noptions; i++) rc = mull_buf_printf(&text, " %c. %s", 'A' + i, p->options[i]);
    if (!rc)
        row = json_pack("{s:[{s:s, s:[{s:s, s:s}, {s:s, s:s}]}, {s:s, s:o}], s:s}", "messages", "role", "user",
                        "content", "type", "image", "image", picture, "type", "text", "text", text.data, "role",
                        "assistant", "content", json_sprintf("<answer>%c</answer>", 'A' + p->answer), "kind",
                        mull_puzzle_name(p->kind));
    mull_buf_fini(&text);
    return row;
}

static int write_row(FILE *f, json_t *row, const char *path, mull_error *err) {
    int rc = row ? MULL_OK : mull_fail(err, MULL_ENOMEM, WHAT, path, "", "out of memory");
    if (!rc && json_dumpf(row, f, JSON_COMPACT) != 0)
        rc = mull_fail_errno(err, errno ? errno : EIO, WHAT, path, "free some space");
    json_decref(row);
    return rc;
}

int mull__puzzles_folder(const char *path, mull_error *err) {
    if (mkdir(path, 0777) == 0 || errno == EEXIST) return MULL_OK;
    return mull_fail_errno(err, errno, WHAT, path, "make its parent folder first");
}

/* Rows of one JSON file, with the pictures beside it. */
typedef struct json_layout {
    const char *name, *file;
    json_t *(*row)(const mull_puzzle *p, int64_t index, const char *picture);
    bool array; /* one JSON array, else a row a line */
} json_layout;

static int write_json(const mull__puzzles *w, const json_layout *l, mull_error *err) {
    mull_puzzle *p = malloc(sizeof *p);
    char *table = mull_path_join(w->dir, l->file), *pictures = mull_path_join(w->dir, "puzzles");
    FILE *f = NULL;
    int rc = p && table && pictures ? MULL_OK : mull_fail(err, MULL_ENOMEM, WHAT, w->dir, "", "out of memory");
    if (!rc) rc = mull__puzzles_folder(pictures, err);
    if (!rc && !(f = fopen(table, "we"))) rc = mull_fail_errno(err, errno, WHAT, table, "check the folder");
    if (!rc && l->array) fputs("[", f);
    for (int64_t i = 0; !rc && i < w->count; i++) {
        char name[64];
        snprintf(name, sizeof name, "puzzles/%lld.png", (long long)(w->first + i));
        char *path = mull_path_join(w->dir, name);
        mull_puzzle_draw(w->seed, w->first + i, w->kinds, p);
        rc = path ? mull_png_write(path, p->rgb, MULL_PUZZLE_WIDTH, MULL_PUZZLE_WIDTH, err)
                  : mull_fail(err, MULL_ENOMEM, WHAT, w->dir, "", "out of memory");
        free(path);
        if (!rc && l->array) fputs(i ? ",\n" : "\n", f);
        if (!rc) rc = write_row(f, l->row(p, w->first + i, name), table, err);
        if (!rc && !l->array) fputc('\n', f);
    }
    if (!rc && l->array) fputs("\n]\n", f);
    if (f && (fflush(f) != 0 || ferror(f)) && !rc) rc = mull_fail_errno(err, errno, WHAT, table, "free some space");
    if (f) fclose(f);
    free(p);
    free(table);
    free(pictures);
    return rc;
}

int mull_puzzles_write(const char *dir, const char *layout, uint64_t seed, int64_t first, int64_t count, unsigned kinds,
                       mull_error *err) {
    static const json_layout JSON[] = {{"videor1", "Video-R1-COT-165k.json", videor1_row, true},
                                       {"messages", "rows.jsonl", messages_row, false},
                                       {"puzzles", "puzzles_test.jsonl", task_row, false}};
    const mull__puzzles w = {dir, seed, first, count, kinds};
    const json_layout *json = NULL;
    for (size_t i = 0; i < sizeof JSON / sizeof *JSON; i++)
        if (!strcmp(layout, JSON[i].name)) json = &JSON[i];
    bool sat = !strcmp(layout, "sat"), zebra = !strcmp(layout, "zebra");
    if (!json && !sat && !zebra)
        return mull_fail(err, MULL_EARG, WHAT, layout, "use videor1, sat, zebra, messages or puzzles",
                         "there is no such layout");
    int rc = mull__puzzles_folder(dir, err);
    if (rc) return rc;
    return json ? write_json(&w, json, err) : sat ? mull__puzzles_sat(&w, err) : mull__puzzles_zebra(&w, err);
}
