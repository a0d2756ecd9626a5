/* See compare.h. */
#include "engine/eval/compare.h"

#include "engine/eval/stats.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const WHAT = "cannot compare two evaluations";

/* doc_id (as text) -> score, from samples_TASK.jsonl and errors_TASK.jsonl. */
static int read_scores(const char *dir, const char *kind, const char *task, json_t *scores, mull_error *err) {
    mull_buf path = {0};
    char *line = NULL, key[32];
    size_t cap = 0;
    int rc = mull_buf_printf(&path, "%s/%s_%s.jsonl", dir, kind, task);
    FILE *f = rc ? NULL : fopen(path.data, "re");
    if (!rc && !f)
        rc = errno == ENOENT && strcmp(kind, "samples")
                 ? MULL_OK
                 : mull_fail_errno(err, errno, WHAT, path.data, "check the folder");
    for (ssize_t n; f && !rc && (n = getline(&line, &cap, f)) > 0;) {
        json_t *o = json_loadb(line, (size_t)n, JSON_ALLOW_NUL, NULL);
        const json_t *id = json_object_get(o, "doc_id");
        if (!json_is_integer(id))
            rc = mull_fail(err, MULL_EFORMAT, WHAT, path.data, "evaluate again", "a line is no sample");
        snprintf(key, sizeof key, "%lld", (long long)json_integer_value(id));
        if (!rc) json_object_set_new(scores, key, json_real(json_number_value(json_object_get(o, "score"))));
        json_decref(o);
    }
    if (f) fclose(f);
    free(line);
    mull_buf_fini(&path);
    return rc;
}

static json_t *number(double x) {
    return isnan(x) ? json_null() : json_real(x);
}

static int compare_task(const char *dir_a, const char *dir_b, const char *task, int rounds, json_t **out,
                        mull_error *err) {
    json_t *a = json_object(), *b = json_object(), *v;
    const char *id;
    size_t n = 0;
    mull_paired p;
    int rc = read_scores(dir_a, "samples", task, a, err);
    if (!rc) rc = read_scores(dir_a, "errors", task, a, err);
    if (!rc) rc = read_scores(dir_b, "samples", task, b, err);
    if (!rc) rc = read_scores(dir_b, "errors", task, b, err);
    double *x = malloc((json_object_size(a) + 1) * sizeof *x), *y = malloc((json_object_size(a) + 1) * sizeof *y);
    if (!rc && (!x || !y)) rc = mull_fail(err, MULL_ENOMEM, WHAT, task, NULL, "out of memory");
    if (!rc) {
        json_object_foreach(a, id, v) {
            const json_t *other = json_object_get(b, id);
            if (!other) continue;
            x[n] = json_number_value(v);
            y[n++] = json_number_value(other);
        }
        rc = mull_compare_paired(x, y, n, rounds, &p, err);
    }
    if (!rc) {
        *out = json_pack("{s:I, s:o, s:o, s:o, s:o, s:o, s:I, s:I, s:s, s:f, s:I, s:I}", "n", (json_int_t)n, "a",
                         number(p.a), "b", number(p.b), "diff", number(p.diff), "low", number(p.low), "high",
                         number(p.high), "only_a", (json_int_t)p.only_a, "only_b", (json_int_t)p.only_b, "test",
                         p.exact ? "mcnemar_exact" : "sign_flip", "p", p.p, "only_in_a",
                         (json_int_t)(json_object_size(a) - n), "only_in_b", (json_int_t)(json_object_size(b) - n));
        if (!*out) rc = mull_fail(err, MULL_ENOMEM, WHAT, task, NULL, "out of memory");
    }
    free(x);
    free(y);
    json_decref(a);
    json_decref(b);
    return rc;
}

static json_t *results_of(const char *dir, mull_error *err) {
    char *path = mull_path_join(dir, "results.json");
    json_error_t je = {0};
    json_t *o = path ? json_load_file(path, 0, &je) : NULL;
    if (!json_is_object(json_object_get(o, "results"))) {
        mull_fail(err, MULL_EMISSING, WHAT, path ? path : dir, "give folders that mull eval wrote (--out)", "%s",
                  je.text[0] ? je.text : "it has no results");
        json_decref(o);
        o = NULL;
    }
    free(path);
    return o;
}

int mull_compare_evals(const char *a, const char *b, int rounds, json_t **out, mull_error *err) {
    json_t *ra = results_of(a, err), *rb = ra ? results_of(b, err) : NULL, *tasks = json_object(),
           *missing = json_array();
    int rc = ra && rb ? MULL_OK : err->code;
    const char *task;
    json_t *v;
    *out = NULL;
    const json_t *in_b = json_object_get(rb, "results");
    json_object_foreach(json_object_get(ra, "results"), task, v) {
        json_t *one = NULL;
        if (rc) break;
        if (!json_object_get(in_b, task)) {
            json_array_append_new(missing, json_string(task));
            continue;
        }
        rc = compare_task(a, b, task, rounds, &one, err);
        if (!rc) json_object_set_new(tasks, task, one);
    }
    json_object_foreach((json_t *)(uintptr_t)in_b, task, v) if (!json_object_get(json_object_get(ra, "results"), task))
        json_array_append_new(missing, json_string(task));
    if (!rc && !json_object_size(tasks))
        rc = mull_fail(err, MULL_EMISSING, WHAT, b, "evaluate both on the same tasks", "no task is in both folders");
    if (!rc) *out = json_pack("{s:O, s:O}", "tasks", tasks, "missing", missing);
    json_decref(tasks);
    json_decref(missing);
    json_decref(ra);
    json_decref(rb);
    return rc;
}
