/* See results.h. Everything is read from the merged files, so that what is reported is what lies on the disk. */
#include "engine/eval/results.h"

#include "engine/eval/stats.h"
#include "engine/eval/task_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const WHAT = "cannot evaluate";
enum { CLEAN_MAX = 200 }; /* bytes of a clean answer in a record; the file has all of it */

/* OUT/samples_TASK.jsonl and errors_TASK.jsonl in row order. */
static int write_samples(const mull__eval_task *t, int out, mull_error *err) {
    char good[96], bad[96], hex[65];
    mull__sink ok = {0}, no = {0};
    snprintf(good, sizeof good, "samples_%s.jsonl", t->task->name);
    snprintf(bad, sizeof bad, "errors_%s.jsonl", t->task->name);
    int rc = mull__sink_open(&ok, out, good, err);
    if (rc) return rc;
    rc = mull__sink_open(&no, out, bad, err);
    if (rc) {
        mull__sink_fini(&ok);
        return rc;
    }
    rc = mull__claims_merge(t->claims, &ok, &no, err);
    if (!rc) rc = mull__sink_commit(&ok, hex, err);
    if (!rc) rc = mull__sink_commit(&no, hex, err);
    mull__sink_fini(&ok);
    mull__sink_fini(&no);
    return rc;
}

/* At most n bytes of UTF-8, never half a character. */
static json_t *cut(const json_t *text, size_t n) {
    const char *s = json_string_value(text);
    size_t len = json_string_length(text);
    if (!s || len <= n) return json_incref((json_t *)(uintptr_t)text);
    while (n && ((unsigned char)s[n] & 0xC0) == 0x80) n--;
    return json_stringn(s, n);
}

/* Each line of a file goes to the tally and, short, to records. */
static int read_lines(const mull__eval_task *t, int out, const char *kind, mull_tally *tally, json_t *records,
                      int64_t *lines, mull_error *err) {
    char name[96], *line = NULL;
    size_t cap = 0;
    bool bad = !strcmp(kind, "errors");
    snprintf(name, sizeof name, "%s_%s.jsonl", kind, t->task->name);
    int fd = openat(out, name, O_RDONLY | O_CLOEXEC), rc = MULL_OK;
    FILE *f = fd >= 0 ? fdopen(fd, "r") : NULL;
    if (!f) {
        if (fd >= 0) close(fd);
        return mull_fail_errno(err, errno, WHAT, name, "check the folder");
    }
    for (ssize_t n; !rc && (n = getline(&line, &cap, f)) > 0;) {
        json_t *o = json_loadb(line, (size_t)n, JSON_ALLOW_NUL, NULL), *id = json_object_get(o, "doc_id"), *r = NULL;
        const char *category = bad ? "error" : json_string_value(json_object_get(o, "category"));
        double score = bad ? 0 : json_number_value(json_object_get(o, "score"));
        if (!category || !id || mull_tally_add_score(tally, category, score))
            rc = mull_fail(err, MULL_EFORMAT, WHAT, name, "remove the folder and evaluate again",
                           "a sample cannot be read");
        else if (bad)
            r = json_pack("{s:O, s:i, s:o}", "id", id, "score", 0, "error",
                          cut(json_object_get(o, "error"), 4 * CLEAN_MAX));
        else
            r = json_pack("{s:O, s:f, s:O, s:o, s:O?}", "id", id, "score", score, "category",
                          json_object_get(o, "category"), "clean", cut(json_object_get(o, "clean"), CLEAN_MAX),
                          "output_tokens", json_object_get(o, "output_tokens"));
        if (!rc && json_array_append_new(records, r))
            rc = mull_fail(err, MULL_ENOMEM, WHAT, name, NULL, "out of memory");
        json_decref(o);
        ++*lines;
    }
    free(line);
    fclose(f);
    return rc;
}

static json_t *number(double x) {
    return isnan(x) ? json_null() : json_real(x);
}

static void add_task(const mull__eval_task *t, const mull_tally *tally, const mull_interval *ci, int64_t errors,
                     json_t *results) {
    const char *name = t->task->name;
    char key[128];
    json_t *figures = mull_tally_results(t->task, tally);
    snprintf(key, sizeof key, "%s_stderr,none", t->task->metric);
    json_object_set_new(figures, key, number(ci->stderr_));
    json_object_set_new(json_object_get(results, "results"), name, figures);
    json_object_set_new(json_object_get(results, "group_scores"), name, mull_tally_groups(tally));
    json_object_set_new(json_object_get(results, "confidence"), name,
                        json_pack("{s:s, s:o, s:f, s:o, s:o, s:i}", "metric", t->task->metric, "estimate",
                                  number(ci->estimate), "level", 0.95, "low", number(ci->low), "high", number(ci->high),
                                  "rounds", t->o->bootstrap));
    json_object_set_new(json_object_get(results, "n-samples"), name,
                        json_pack("{s:I, s:I, s:I}", "original", (json_int_t)t->of, "effective", (json_int_t)t->rows,
                                  "errors", (json_int_t)errors));
    json_object_set(json_object_get(results, "configs"), name, (json_t *)(uintptr_t)t->spec);
    json_object_set_new(json_object_get(results, "versions"), name, json_integer(0));
}

int mull__eval_sum_up(const mull__eval_task *t, int out, json_t *results, mull_error *err) {
    mull_tally tally = {0};
    mull_interval ci;
    json_t *records = json_array();
    int64_t good = 0, errors = 0;
    int rc = write_samples(t, out, err);
    if (!rc) rc = read_lines(t, out, "samples", &tally, records, &good, err);
    if (!rc) rc = read_lines(t, out, "errors", &tally, records, &errors, err);
    if (!rc) rc = mull_bootstrap(t->task, &tally, t->o->bootstrap, &ci, err);
    if (!rc) {
        add_task(t, &tally, &ci, errors, results);
        json_t *summary = json_pack("{s:s, s:o, s:o, s:o, s:o, s:f, s:I, s:I, s:o}", "metric", t->task->metric, "value",
                                    number(ci.estimate), "stderr", number(ci.stderr_), "low", number(ci.low), "high",
                                    number(ci.high), "level", 0.95, "n", (json_int_t)t->rows, "errors",
                                    (json_int_t)errors, "groups", mull_tally_groups(&tally));
        if (t->o->task_done) t->o->task_done(t->o->ctx, t->task->name, summary, records);
        json_decref(summary);
    }
    mull_tally_fini(&tally);
    json_decref(records);
    return rc;
}

int mull__eval_write(int out, const json_t *results, mull_error *err) {
    char *text = json_dumps(results, JSON_INDENT(1) | JSON_REAL_PRECISION(17));
    int rc = text ? mull__put_file(out, "results.json", text, strlen(text), err)
                  : mull_fail(err, MULL_ENOMEM, WHAT, "results.json", NULL, "out of memory");
    free(text);
    return rc;
}
