/* See output.h. */
#include "engine/annotate/output.h"

#include "engine/annotate/reader.h"
#include "engine/data/parquet_write.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CHOICES_MAX = 128, COLUMNS = 8 };

static bool is(const mull_job *job, const char *form) {
    return job->output_format && !strcmp(job->output_format, form);
}

const char *mull__output_name(const mull_job *job) {
    return is(job, "parquet") ? "output.parquet" : is(job, "zstd") ? "output.jsonl.zst" : "output.jsonl";
}
bool mull__output_is_packed(const mull_job *job) {
    return is(job, "zstd");
}
bool mull__output_is_parquet(const mull_job *job) {
    return is(job, "parquet");
}

int mull__output_check(const mull_job *job, mull_error *err) {
    if (job->output_format && !is(job, "jsonl") && !is(job, "zstd") && !is(job, "parquet"))
        return mull_fail(err, MULL_EARG, "cannot use the job spec", "output_format", "use jsonl, zstd or parquet",
                         "'%.40s' is no form of output", job->output_format);
    if (is(job, "parquet") && !mull_parquet_available())
        return mull_fail(err, MULL_EUNSUPPORTED, "cannot use the job spec", "output_format",
                         "run ops/deps and build again, or use jsonl", "this build does not write Parquet");
    return MULL_OK;
}

static mull_cell text_cell(const char *name, const json_t *v) {
    if (!json_is_string(v)) return (mull_cell){.kind = MULL_CELL_NULL, .name = name};
    return (mull_cell){
        .kind = MULL_CELL_TEXT, .name = name, .data = json_string_value(v), .len = json_string_length(v)};
}

static mull_cell int_cell(const char *name, const json_t *v) {
    if (!json_is_integer(v)) return (mull_cell){.kind = MULL_CELL_NULL, .name = name};
    return (mull_cell){.kind = MULL_CELL_INT, .name = name, .i = json_integer_value(v)};
}

/* A row of what one record says; it borrows from o and texts. */
static void fill(const json_t *o, mull_cell columns[COLUMNS], mull_cell texts[CHOICES_MAX]) {
    const json_t *body = json_object_get(json_object_get(o, "response"), "body"),
                 *choices = json_object_get(body, "choices"), *first = json_array_get(choices, 0),
                 *usage = json_object_get(body, "usage");
    size_t n = json_array_size(choices) < CHOICES_MAX ? json_array_size(choices) : CHOICES_MAX;
    for (size_t i = 0; i < n; i++)
        texts[i] = text_cell(NULL, json_object_get(json_object_get(json_array_get(choices, i), "message"), "content"));
    columns[0] = text_cell("custom_id", json_object_get(o, "custom_id"));
    columns[1] = int_cell("line", json_object_get(o, "line"));
    columns[2] = text_cell("model", json_object_get(body, "model"));
    columns[3] = text_cell("text", json_object_get(json_object_get(first, "message"), "content"));
    columns[4] = (mull_cell){.kind = MULL_CELL_LIST, .name = "texts", .items = texts, .n = n};
    columns[5] = text_cell("finish_reason", json_object_get(first, "finish_reason"));
    columns[6] = int_cell("prompt_tokens", json_object_get(usage, "prompt_tokens"));
    columns[7] = int_cell("completion_tokens", json_object_get(usage, "completion_tokens"));
}

static int open_writer(const char *path, mull_parquet_writer **out, mull_error *err) {
    mull_cell text = {.kind = MULL_CELL_TEXT, .data = "", .len = 0}, columns[COLUMNS];
    static const char *const NAMES[COLUMNS] = {"custom_id", "line",          "model",         "text",
                                               "texts",     "finish_reason", "prompt_tokens", "completion_tokens"};
    for (int i = 0; i < COLUMNS; i++) {
        columns[i] = text;
        if (i == 1 || i >= 6) columns[i].kind = MULL_CELL_INT;
        if (i == 4) columns[i] = (mull_cell){.kind = MULL_CELL_LIST, .items = &text, .n = 1};
        columns[i].name = NAMES[i];
    }
    const mull_cell like = {.kind = MULL_CELL_STRUCT, .items = columns, .n = COLUMNS};
    return mull_parquet_writer_open(path, &like, out, err);
}

static int write_rows(const mull__annotation *a, const char *from, const char *to, mull_error *err) {
    mull__reader *in = NULL;
    mull_parquet_writer *w = NULL;
    mull__line l;
    mull_error ignored;
    int rc = mull__reader_open(from, NULL, &in, err), got = 1;
    if (!rc) rc = open_writer(to, &w, err);
    while (!rc && (got = mull__reader_next(in, &l, err)) > 0) {
        mull_cell columns[COLUMNS], texts[CHOICES_MAX];
        json_t *o = json_loadb(l.data, l.len, JSON_ALLOW_NUL, NULL);
        const mull_cell row = {.kind = MULL_CELL_STRUCT, .items = columns, .n = COLUMNS};
        if (o) {
            fill(o, columns, texts);
            rc = mull_parquet_writer_add(w, &row, err);
        } else {
            rc =
                mull_fail(err, MULL_EFORMAT, "cannot merge the answers", from, "start it again", "a record is no JSON");
        }
        json_decref(o);
        mull_events_beat(a->ev);
        if (!rc && mull_events_stopped(a->ev)) rc = mull__cancelled(err);
    }
    if (!rc && got < 0) rc = got;
    int closed = mull_parquet_writer_close(w, !rc, rc ? &ignored : err);
    mull__reader_close(in);
    return rc ? rc : closed;
}

int mull__output_parquet(const mull__annotation *a, const char *rows, int64_t *bytes, char hex[65], mull_error *err) {
    const char *name = mull__output_name(a->job);
    char *work = mull_path_join(a->job->out, ".mull"), *from = work ? mull_path_join(work, rows) : NULL,
         *to = mull_path_join(a->job->out, ".output.parquet.tmp");
    struct stat st;
    int rc = from && to ? MULL_OK : mull_fail(err, MULL_ENOMEM, "cannot write", name, "", "out of memory");
    if (!rc) rc = write_rows(a, from, to, err);
    int fd = rc ? -1 : open(to, O_RDONLY | O_CLOEXEC);
    if (!rc && (fd < 0 || fsync(fd) || fstat(fd, &st))) rc = mull__io_fail(err, errno, "cannot write", name);
    if (!rc) rc = mull__digest_file(a, to, hex, err);
    if (!rc) *bytes = (int64_t)st.st_size;
    if (!rc && renameat(a->out, ".output.parquet.tmp", a->out, name))
        rc = mull__io_fail(err, errno, "cannot write", name);
    if (rc && to) unlink(to);
    if (fd >= 0) close(fd);
    unlinkat(a->work, rows, 0);
    free(work);
    free(from);
    free(to);
    return rc;
}
