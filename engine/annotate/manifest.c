/* The two small files that say what a folder holds: manifest.json while work is under way, complete.json once the
 * outputs are written. And the step between them, the merge. */
#include "engine/annotate/output.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { VERSION = 1, SMALL = 1 << 16 };
static const char ERRORS[] = "errors.jsonl";
static const char *const WHAT = "cannot continue";

static int64_t number(const json_t *o, const char *key) {
    return json_integer_value(json_object_get(o, key));
}
static bool same(const json_t *o, const char *key, const char *hex) {
    const char *s = json_string_value(json_object_get(o, key));
    return s && !strcmp(s, hex);
}

static int read_json(mull__annotation *a, const char *name, json_t **out, mull_error *err) {
    mull_buf text = {0};
    int rc = mull__get_file(a->work, name, SMALL, &text, err);
    *out = rc ? NULL : json_loadb(text.data ? text.data : "", text.len, 0, NULL);
    mull_buf_fini(&text);
    if (rc == MULL_EMISSING) return 0;
    if (rc) return rc;
    if (!json_is_object(*out)) {
        json_decref(*out);
        return mull_fail(err, MULL_EFORMAT, WHAT, a->job->out, "remove the folder and start again",
                         ".mull/%s cannot be read", name);
    }
    return 1;
}

static int other(const mull__annotation *a, const char *what, mull_error *err) {
    return mull_fail(err, MULL_EARG, WHAT, a->job->out,
                     "choose another --out, or remove the folder to start this one over",
                     "the folder holds an annotation that began with %s", what);
}

/* Two rows of a resumed run must not come from two different works. */
int mull__manifest_read(mull__annotation *a, mull_error *err) {
    json_t *o = NULL;
    int rc = read_json(a, "manifest.json", &o, err);
    if (rc <= 0) {
        *err = rc ? *err : (mull_error){0};
        return rc;
    }
    if (number(o, "version") != VERSION)
        rc = other(a, "another version of mull", err);
    else if (!same(o, "input_sha256", a->input_hex))
        rc = other(a, "another input", err);
    else if (!same(o, "model", a->model_hex))
        rc = other(a, "another model", err);
    else if (!same(o, "spec", a->spec_hex))
        rc = other(a, "other settings (sampling, latents, dtype, pixels, ...)", err);
    if (rc == 1) {
        a->rows = number(o, "rows");
        int64_t shard_rows = number(o, "shard_rows");
        if (a->rows < 1 || shard_rows < 1)
            rc = mull_fail(err, MULL_EFORMAT, WHAT, a->job->out, "remove the folder and start again",
                           ".mull/manifest.json cannot be read");
        if (shard_rows != a->shard_rows)
            mull_events_log(a->ev, "info", "shards stay at %lld rows, as they began", (long long)shard_rows);
        a->shard_rows = shard_rows;
        a->shards = rc < 0 ? 0 : (a->rows + shard_rows - 1) / shard_rows;
        a->context = number(o, "context_tokens");
    }
    json_decref(o);
    return rc;
}

int mull__manifest_write(const mull__annotation *a, mull_error *err) {
    char text[1024];
    int n = snprintf(text, sizeof text,
                     "{\"version\":%d,\"input_sha256\":\"%s\",\"model\":\"%s\",\"spec\":\"%s\",\"rows\":%lld,"
                     "\"shard_rows\":%lld,\"context_tokens\":%lld}\n",
                     VERSION, a->input_hex, a->model_hex, a->spec_hex, (long long)a->rows, (long long)a->shard_rows,
                     (long long)a->context);
    return mull__put_file(a->work, "manifest.json", text, (size_t)n, err);
}

static json_t *artifact(const mull__annotation *a, const char *name, int64_t bytes, const char *hex) {
    char *path = mull_path_join(a->job->out, name);
    json_t *o = json_pack("{s:o, s:I, s:s}", "path", mull_json_text(path ? path : name, strlen(path ? path : name)),
                          "bytes", (json_int_t)bytes, "sha256", hex);
    free(path);
    return o;
}

/* The result of a job, and its artifacts as events. */
static json_t *announce(mull__annotation *a, const json_t *complete, bool before) {
    static const char *const KEYS[] = {"rows", "ok", "errors", "prompt_tokens", "output_tokens"};
    json_t *result = json_object();
    for (size_t i = 0; i < 5; i++) json_object_set(result, KEYS[i], json_object_get(complete, KEYS[i]));
    const char *const FILES[] = {mull__output_name(a->job), ERRORS};
    json_t *list = json_array();
    for (size_t i = 0; i < 2; i++) {
        const json_t *f = json_object_get(complete, FILES[i]);
        json_t *o = artifact(a, FILES[i], number(f, "bytes"), json_string_value(json_object_get(f, "sha256")));
        mull_events_emit(a->ev, "artifact", json_deep_copy(o));
        json_array_append_new(list, o);
    }
    json_object_set_new(result, "artifacts", list);
    json_object_set_new(result, "resumed_rows", json_integer((json_int_t)(before ? a->rows : a->resumed)));
    int64_t tokens = number(complete, "prompt_tokens") + number(complete, "output_tokens");
    mull_events_errors(a->ev, number(complete, "errors"));
    mull_events_progress(a->ev, a->rows, a->rows, "rows", tokens, 0, true);
    return result;
}

static void clean(mull__annotation *a) {
    static const char *const NAMES[] = {"plan", "twice", "folder.jsonl", "merge", "merged.jsonl"};
    for (int64_t i = 0; i < a->shards; i++) mull__shard_remove(a->work, i);
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) unlinkat(a->work, NAMES[i], 0);
}

bool mull__complete_there(const mull__annotation *a) {
    struct stat st;
    return fstatat(a->work, "complete.json", &st, 0) == 0;
}

int mull__complete_read(mull__annotation *a, json_t **result, mull_error *err) {
    json_t *o = NULL;
    int rc = read_json(a, "complete.json", &o, err);
    if (rc <= 0) {
        *err = rc ? *err : (mull_error){0};
        return rc;
    }
    const char *const FILES[] = {mull__output_name(a->job), ERRORS};
    for (size_t i = 0; i < 2; i++) {
        struct stat st;
        int missing = fstatat(a->out, FILES[i], &st, 0);
        if (!missing && st.st_size == number(json_object_get(o, FILES[i]), "bytes")) continue;
        rc = mull_fail(err, MULL_EARG, WHAT, a->job->out,
                       "remove the folder to answer all rows again, or choose another --out",
                       missing ? "it was completed, and %s has been removed since"
                               : "it was completed, and %s has been changed since",
                       FILES[i]);
        break;
    }
    if (rc == 1) {
        clean(a);
        *result = announce(a, o, true);
    }
    json_decref(o);
    return rc;
}

/* Rows that become Parquet pass through a file of .mull. */
static const char PARQUET_ROWS[] = "merged.jsonl";

static int merge_files(mull__annotation *a, mull__sink *ok, mull__sink *bad, mull_error *err) {
    const char *name = mull__output_name(a->job);
    bool parquet = mull__output_is_parquet(a->job);
    int rc = mull__sink_open(ok, parquet ? a->work : a->out, parquet ? PARQUET_ROWS : name, err);
    if (!rc && mull__output_is_packed(a->job)) rc = mull__sink_pack(ok, err);
    if (!rc) rc = mull__sink_open(bad, a->out, ERRORS, err);
    for (int64_t i = 0; i < a->shards && !rc; i++) {
        rc = mull__shard_merge(a->work, i, mull__shard_first(a, i), mull__shard_size(a, i), ok, bad, err);
        mull_events_beat(a->ev);
        if (!rc && mull_events_stopped(a->ev)) rc = mull__cancelled(err);
    }
    return rc;
}

static int write_complete(mull__annotation *a, int64_t ok_bytes, const mull__sink *bad, const char *ok_hex,
                          const char *bad_hex, json_t **result, mull_error *err) {
    const mull__counts *c = &a->counts;
    json_t *o =
        json_pack("{s:I, s:I, s:I, s:I, s:I, s:{s:I, s:s}, s:{s:I, s:s}}", "rows", (json_int_t)c->rows, "ok",
                  (json_int_t)c->ok, "errors", (json_int_t)c->errors, "prompt_tokens", (json_int_t)c->prompt_tokens,
                  "output_tokens", (json_int_t)c->output_tokens, mull__output_name(a->job), "bytes",
                  (json_int_t)ok_bytes, "sha256", ok_hex, ERRORS, "bytes", (json_int_t)bad->bytes, "sha256", bad_hex);
    char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
    int rc = text ? mull__put_file(a->work, "complete.json", text, strlen(text), err)
                  : mull_fail(err, MULL_ENOMEM, "cannot merge the answers", "", "", "out of memory");
    if (!rc) *result = announce(a, o, false);
    free(text);
    json_decref(o);
    return rc;
}

int mull__merge(mull__annotation *a, json_t **result, mull_error *err) {
    mull__sink ok = {.fd = -1}, bad = {.fd = -1};
    char ok_hex[65], bad_hex[65];
    int rc = merge_files(a, &ok, &bad, err);
    if (!rc) rc = mull__sink_commit(&bad, bad_hex, err);
    if (!rc) rc = mull__sink_commit(&ok, ok_hex, err);
    int64_t ok_bytes = ok.bytes;
    if (!rc && mull__output_is_parquet(a->job)) rc = mull__output_parquet(a, PARQUET_ROWS, &ok_bytes, ok_hex, err);
    if (!rc && fsync(a->out)) rc = mull__io_fail(err, errno, "cannot merge the answers", a->job->out);
    if (!rc) rc = write_complete(a, ok_bytes, &bad, ok_hex, bad_hex, result, err);
    if (!rc) clean(a);
    mull__sink_fini(&ok);
    mull__sink_fini(&bad);
    return rc;
}
