/* Puzzles in the layouts that training reads; see puzzle.h. */
#include "engine/core/buf.h"
#include "engine/data/puzzle.h"
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

static json_t *messages_row(const mull_puzzle *p, const char *picture) {
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

static int make_folder(const char *path, mull_error *err) {
    if (mkdir(path, 0777) == 0 || errno == EEXIST) return MULL_OK;
    return mull_fail_errno(err, errno, WHAT, path, "make its parent folder first");
}

int mull_puzzles_write(const char *dir, const char *layout, uint64_t seed, int64_t first, int64_t count, unsigned kinds,
                       mull_error *err) {
    bool videor1 = !strcmp(layout, "videor1");
    if (!videor1 && strcmp(layout, "messages") != 0)
        return mull_fail(err, MULL_EARG, WHAT, layout, "use videor1 or messages", "there is no such layout");
    mull_puzzle *p = malloc(sizeof *p);
    char *table = mull_path_join(dir, videor1 ? "Video-R1-COT-165k.json" : "rows.jsonl");
    char *pictures = mull_path_join(dir, "puzzles");
    FILE *f = NULL;
    int rc = p && table && pictures ? MULL_OK : mull_fail(err, MULL_ENOMEM, WHAT, dir, "", "out of memory");
    if (!rc) rc = make_folder(dir, err);
    if (!rc) rc = make_folder(pictures, err);
    if (!rc && !(f = fopen(table, "we"))) rc = mull_fail_errno(err, errno, WHAT, table, "check the folder");
    if (!rc && videor1) fputs("[", f);
    for (int64_t i = 0; !rc && i < count; i++) {
        char name[64];
        snprintf(name, sizeof name, "puzzles/%lld.png", (long long)(first + i));
        char *path = mull_path_join(dir, name);
        mull_puzzle_draw(seed, first + i, kinds, p);
        rc = path ? mull_png_write(path, p->rgb, MULL_PUZZLE_WIDTH, MULL_PUZZLE_WIDTH, err)
                  : mull_fail(err, MULL_ENOMEM, WHAT, dir, "", "out of memory");
        free(path);
        if (!rc && videor1) fputs(i ? ",\n" : "\n", f);
        if (!rc) rc = write_row(f, videor1 ? videor1_row(p, first + i, name) : messages_row(p, name), table, err);
        if (!rc && !videor1) fputc('\n', f);
    }
    if (!rc && videor1) fputs("\n]\n", f);
    if (f && (fflush(f) != 0 || ferror(f)) && !rc) rc = mull_fail_errno(err, errno, WHAT, table, "free some space");
    if (f) fclose(f);
    free(p);
    free(table);
    free(pictures);
    return rc;
}
