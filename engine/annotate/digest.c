/* Digests of what the answers follow from; see state.h. */
#include "engine/annotate/output.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { HEAD = 1 << 20 };
static const char *const WHAT = "cannot identify the work";

static json_t *int_or_null(int64_t v) {
    return v < 0 ? json_null() : json_integer((json_int_t)v);
}
static json_t *real_or_null(double v) {
    return isnan(v) ? json_null() : json_real(v);
}
static json_t *text_or_null(const char *v) {
    return v ? json_string(v) : json_null();
}

static int finish(mull__sha *s, char hex[65]) {
    uint8_t md[32];
    mull__sha_done(s, md);
    mull__hex(md, 32, hex);
    return MULL_OK;
}

static int digest_json(const json_t *o, char hex[65], mull_error *err) {
    char *text = json_dumps(o, JSON_COMPACT | JSON_SORT_KEYS | JSON_REAL_PRECISION(17));
    mull__sha *s = mull__sha_create();
    int rc = text && s ? MULL_OK : mull_fail(err, MULL_ENOMEM, WHAT, "spec", "", "out of memory");
    if (!rc) {
        mull__sha_add(s, text, strlen(text));
        finish(s, hex);
    }
    mull__sha_destroy(s);
    free(text);
    return rc;
}

/* Not in it: paths (the content counts), the shard size (it changes no answer), names and times of the job. The folders
 * that media may come from decide which rows are errors, so a resumed run must have the same, but no id depends on
 * where they lie. */
int mull__digest_spec(mull__annotation *a, mull_error *err) {
    const mull_job *j = a->job;
    json_t *o = json_object(), *stop = json_array();
    for (int i = 0; i < j->nstop; i++) json_array_append_new(stop, json_string(j->stop[i]));
    json_object_set_new(o, "dtype", json_string(j->dtype ? j->dtype : "auto"));
    json_object_set_new(o, "fps", real_or_null(j->fps));
    json_object_set_new(o, "ignore_eos", json_boolean(j->ignore_eos));
    json_object_set_new(o, "latents", int_or_null(j->latents));
    json_object_set_new(o, "max_new_tokens", int_or_null(j->max_new_tokens));
    json_object_set_new(o, "max_pixels", int_or_null(j->max_pixels));
    json_object_set_new(o, "min_pixels", int_or_null(j->min_pixels));
    json_object_set_new(o, "mode", text_or_null(j->mode));
    json_object_set_new(o, "nframes", int_or_null(j->nframes));
    json_object_set_new(o, "prompt", text_or_null(j->prompt));
    /* Absent where a job has none, so that what was begun before they existed goes on. */
    if (j->regex) json_object_set_new(o, "regex", json_string(j->regex));
    if (j->choices) json_object_set_new(o, "choices", json_deep_copy(j->choices));
    if (j->prompts) json_object_set_new(o, "prompts", json_deep_copy(j->prompts));
    if (j->image_columns) json_object_set_new(o, "image_columns", json_deep_copy(j->image_columns));
    if (j->video_columns) json_object_set_new(o, "video_columns", json_deep_copy(j->video_columns));
    if (j->id_column) json_object_set_new(o, "id_column", json_string(j->id_column));
    json_object_set_new(o, "prompt_format", text_or_null(j->prompt_format));
    json_object_set_new(o, "repetition_penalty", real_or_null(j->repetition_penalty));
    json_object_set_new(o, "seed", json_integer(j->seed));
    json_object_set_new(o, "stop", stop);
    json_object_set_new(o, "temperature", real_or_null(j->temperature));
    json_object_set_new(o, "top_k", int_or_null(j->top_k));
    json_object_set_new(o, "top_p", real_or_null(j->top_p));
    int rc = digest_json(o, a->ids_hex, err);
    if (strcmp(mull__output_name(j), "output.jsonl") != 0)
        json_object_set_new(o, "output_format", json_string(j->output_format));
    if (j->media_roots) json_object_set_new(o, "media_roots", json_deep_copy(j->media_roots));
    if (!rc) rc = digest_json(o, a->spec_hex, err);
    json_decref(o);
    return rc;
}

int mull__digest_file(const mull__annotation *a, const char *path, char hex[65], mull_error *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), rc = MULL_OK;
    mull__sha *s = mull__sha_create();
    char *buf = malloc(HEAD);
    ssize_t n = 0;
    if (fd < 0)
        rc = mull_fail_errno(err, errno, "cannot read the input", path, "check the path and its permissions");
    else if (!s || !buf)
        rc = mull_fail(err, MULL_ENOMEM, WHAT, path, "", "out of memory");
    while (!rc && (n = read(fd, buf, HEAD)) != 0) {
        if (n < 0 && errno != EINTR)
            rc = mull_fail_errno(err, errno, "cannot read the input", path, "check the file and its disk");
        else if (mull_events_stopped(a->ev))
            rc = mull__cancelled(err);
        else if (n > 0)
            mull__sha_add(s, buf, (size_t)n);
    }
    if (!rc) finish(s, hex);
    mull__sha_destroy(s);
    free(buf);
    if (fd >= 0) close(fd);
    return rc;
}

int mull__digest_model(mull__annotation *a, mull_error *err) {
    int rc = mull_digest_model(a->job->model, a->model_hex, err);
    mull__sha *s = rc ? NULL : mull__sha_create();
    if (rc) return rc;
    if (!s) return mull_fail(err, MULL_ENOMEM, WHAT, "model", "", "out of memory");
    mull__sha_add(s, a->ids_hex, 64);
    mull__sha_add(s, a->model_hex, 64);
    finish(s, a->work_hex);
    mull__sha_destroy(s);
    return MULL_OK;
}
