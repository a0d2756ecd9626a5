/* Reading specs; see spec.h. One table says where each key goes. */
#include "engine/job/spec.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

static const char *const WHAT = "cannot use the job spec";

typedef enum field_type { T_TEXT, T_WORD, T_INT, T_NUMBER, T_BOOL, T_LIST, T_SKIP } field_type;

typedef struct field {
    const char *name;
    field_type type;
    size_t at; /* in mull_job */
    double lo, hi;
} field;

#define AT(m) offsetof(mull_job, m)
static const field FIELDS[] = {
    {"job", T_TEXT, AT(id), 0, 0},
    {"model", T_TEXT, AT(model), 0, 0},
    {"out", T_TEXT, AT(out), 0, 0},
    {"input", T_TEXT, AT(input), 0, 0},
    {"prompt", T_TEXT, AT(prompt), 0, 0},
    {"dtype", T_WORD, AT(dtype), 0, 0},
    {"mode", T_WORD, AT(mode), 0, 0},
    {"prompt_format", T_WORD, AT(prompt_format), 0, 0},
    {"messages", T_LIST, AT(messages), 0, 0},
    {"images", T_LIST, AT(images), 0, 0},
    {"videos", T_LIST, AT(videos), 0, 0},
    {"media_roots", T_LIST, AT(media_roots), 0, 0},
    {"config", T_TEXT, AT(config), 0, 0},
    {"set", T_LIST, AT(set), 0, 0},
    {"max_steps", T_INT, AT(max_steps), 1, 9e15},
    {"tasks", T_LIST, AT(tasks), 0, 0},
    {"data", T_TEXT, AT(data), 0, 0},
    {"prompt_style", T_WORD, AT(prompt_style), 0, 0},
    {"compat", T_WORD, AT(compat), 0, 0},
    {"replies", T_TEXT, AT(replies), 0, 0},
    {"limit", T_INT, AT(limit), 0, 9e15},
    {"bootstrap", T_INT, AT(bootstrap), 0, 1e6},
    {"step", T_INT, AT(step), 0, 9e15},
    {"vsibench_options", T_BOOL, AT(vsibench_options), 0, 0},
    {"circular", T_BOOL, AT(circular), 0, 0},
    {"shuffle", T_BOOL, AT(shuffle), 0, 0},
    {"prompts", T_LIST, AT(prompts), 0, 0},
    {"image_columns", T_LIST, AT(image_columns), 0, 0},
    {"video_columns", T_LIST, AT(video_columns), 0, 0},
    {"id_column", T_TEXT, AT(id_column), 0, 0},
    {"output_format", T_WORD, AT(output_format), 0, 0},
    {"listen", T_TEXT, AT(listen), 0, 0},
    {"served_name", T_TEXT, AT(served_name), 0, 0},
    {"key_file", T_TEXT, AT(key_file), 0, 0},
    {"max_batch", T_INT, AT(max_batch), 1, 1024},
    {"max_queue", T_INT, AT(max_queue), 0, 100000},
    {"idle_timeout", T_INT, AT(idle_timeout), 0, 9e15},
    {"latents", T_INT, AT(latents), 0, 1 << 16},
    {"min_pixels", T_INT, AT(min_pixels), 1, 1e12},
    {"max_pixels", T_INT, AT(max_pixels), 1, 1e12},
    {"nframes", T_INT, AT(nframes), 2, 1 << 20},
    {"shard_rows", T_INT, AT(shard_rows), 1, 1e7},
    {"fps", T_NUMBER, AT(fps), 1e-6, 1e6},
    {"kind", T_SKIP, 0, 0, 0},
    {"name", T_SKIP, 0, 0, 0},
    {"team", T_SKIP, 0, 0, 0},
    {"priority", T_SKIP, 0, 0, 0},
    {"time_limit", T_SKIP, 0, 0, 0},
    {"time_limit_s", T_SKIP, 0, 0, 0},
    {"gpus", T_INT, AT(gpus), 0, 4096},
    {"ranks", T_SKIP, 0, 0, 0}, /* the worker starts them */
    {"slots", T_SKIP, 0, 0, 0},
    {"labels", T_SKIP, 0, 0, 0},
    {"key", T_SKIP, 0, 0, 0},
    {"after", T_SKIP, 0, 0, 0},
    {"begin", T_SKIP, 0, 0, 0},
    {"begin_ms", T_SKIP, 0, 0, 0},
    {"hold", T_SKIP, 0, 0, 0},
    {"retries", T_SKIP, 0, 0, 0},
    {"preemptible", T_SKIP, 0, 0, 0},
    {"min_run", T_SKIP, 0, 0, 0},
    {"attempt", T_SKIP, 0, 0, 0},
    {"fence", T_SKIP, 0, 0, 0},
    {"array_job", T_SKIP, 0, 0, 0},
    {"array_index", T_SKIP, 0, 0, 0},
    {"array", T_SKIP, 0, 0, 0},
    {"shards", T_SKIP, 0, 0, 0},  /* the processes find each other in the folder */
    {"created", T_SKIP, 0, 0, 0}, /* no part of the answer: the same work gives the same bytes whenever it is done */
    {"sampling", T_SKIP, 0, 0, 0},
    {NULL, T_SKIP, 0, 0, 0},
};

static const field SAMPLING[] = {
    {"max_new_tokens", T_INT, AT(max_new_tokens), 1, 1 << 24},
    {"temperature", T_NUMBER, AT(temperature), 0, 1000},
    {"top_p", T_NUMBER, AT(top_p), 1e-9, 1},
    {"top_k", T_INT, AT(top_k), 0, 1 << 24},
    {"repetition_penalty", T_NUMBER, AT(repetition_penalty), 1e-3, 1000},
    {"seed", T_INT, AT(seed), 0, 9.2e18},
    {"ignore_eos", T_BOOL, AT(ignore_eos), 0, 0},
    {"regex", T_TEXT, AT(regex), 0, 0},
    {"choices", T_LIST, AT(choices), 0, 0},
    {"stop", T_SKIP, 0, 0, 0},
    {NULL, T_SKIP, 0, 0, 0},
};

static int wrong(const char *key, const char *why, mull_error *err) {
    return mull_fail(err, MULL_EARG, WHAT, key, "see the job spec's keys in schema/README.md", "%s", why);
}

static int take(mull_job *j, const field *f, const json_t *v, mull_error *err) {
    char *at = (char *)j + f->at, why[120];
    double x = json_number_value(v);
    snprintf(why, sizeof why, "it must be a %s from %g to %g", f->type == T_INT ? "whole number" : "number", f->lo,
             f->hi);
    switch (f->type) {
    case T_TEXT:
    case T_WORD:
        if (!json_is_string(v) || strlen(json_string_value(v)) != json_string_length(v))
            return wrong(f->name, "it must be a text", err);
        *(const char **)(void *)at = json_string_value(v);
        return MULL_OK;
    case T_INT:
        if (!json_is_integer(v) || x < f->lo || x > f->hi) return wrong(f->name, why, err);
        *(int64_t *)(void *)at = json_integer_value(v);
        return MULL_OK;
    case T_NUMBER:
        if (!json_is_number(v) || !(x >= f->lo && x <= f->hi)) return wrong(f->name, why, err);
        *(double *)(void *)at = x;
        return MULL_OK;
    case T_BOOL:
        if (!json_is_boolean(v)) return wrong(f->name, "it must be true or false", err);
        *(bool *)at = json_is_true(v);
        return MULL_OK;
    case T_LIST:
        if (!json_is_array(v)) return wrong(f->name, "it must be a list", err);
        *(const json_t **)(void *)at = v;
        return MULL_OK;
    case T_SKIP:
        break;
    }
    return MULL_OK;
}

static int take_all(mull_job *j, const json_t *o, const field *table, mull_error *err) {
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)o, key, v) {
        const field *f = table;
        while (f->name && strcmp(f->name, key)) f++;
        size_t used = strlen(j->unknown);
        if (!f->name)
            snprintf(j->unknown + used, sizeof j->unknown - used, "%s%.60s", used ? ", " : "", key);
        else if (!json_is_null(v)) {
            int rc = take(j, f, v, err);
            if (rc) return rc;
        }
    }
    return MULL_OK;
}

static int take_stop(mull_job *j, const json_t *v, mull_error *err) {
    if (!v || json_is_null(v)) return MULL_OK;
    if (!json_is_array(v) || json_array_size(v) > sizeof j->stop / sizeof *j->stop)
        return wrong("sampling.stop", "it must be a list of at most 64 texts", err);
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *s = json_array_get(v, i);
        if (!json_is_string(s) || !json_string_length(s) || strlen(json_string_value(s)) != json_string_length(s))
            return wrong("sampling.stop", "each must be a text that is not empty", err);
        j->stop[j->nstop++] = json_string_value(s);
    }
    return MULL_OK;
}

static int check_strings(const json_t *list, const char *key, bool absolute, mull_error *err) {
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *s = json_array_get(list, i);
        if (!json_is_string(s) || !json_string_length(s) || strlen(json_string_value(s)) != json_string_length(s))
            return wrong(key, "it must be a list of paths", err);
        if (absolute && json_string_value(s)[0] != '/') return wrong(key, "its paths must be absolute", err);
    }
    return MULL_OK;
}

static int check_whole(const mull_job *j, mull_error *err) {
    int rc = check_strings(j->images, "images", false, err);
    if (!rc) rc = check_strings(j->videos, "videos", false, err);
    if (!rc) rc = check_strings(j->media_roots, "media_roots", true, err);
    if (!rc && j->set) rc = check_strings(j->set, "set", false, err);
    if (!rc && j->choices) rc = check_strings(j->choices, "choices", false, err);
    if (!rc && j->choices && j->regex) rc = wrong("choices", "give regex or choices, not both", err);
    if (!rc && j->prompts) rc = check_strings(j->prompts, "prompts", false, err);
    if (!rc && j->image_columns) rc = check_strings(j->image_columns, "image_columns", false, err);
    if (!rc && j->video_columns) rc = check_strings(j->video_columns, "video_columns", false, err);
    if (rc) return rc;
    if (j->kind == MULL_JOB_TRAIN) {
        if (!j->config || !*j->config) return wrong("config", "it is missing", err);
        return j->out && *j->out ? MULL_OK : wrong("out", "it is missing", err);
    }
    if (j->kind == MULL_JOB_ROLLOUT) return j->out && *j->out ? MULL_OK : wrong("out", "it is missing", err);
    bool given = j->kind == MULL_JOB_EVAL && j->replies && *j->replies;
    if (!given && (!j->model || !*j->model)) return wrong("model", "it is missing", err);
    if (j->kind == MULL_JOB_EVAL) {
        rc = check_strings(j->tasks, "tasks", false, err);
        if (!rc && !json_array_size(j->tasks)) rc = wrong("tasks", "it is missing", err);
        if (!rc && (!j->data || !*j->data)) rc = wrong("data", "it is missing", err);
        if (!rc && (!j->out || !*j->out)) rc = wrong("out", "it is missing", err);
        if (!rc && j->compat && strcmp(j->compat, "ours") && strcmp(j->compat, "release"))
            rc = wrong("compat", "it must be ours or release", err);
        if (rc) return rc;
    }
    if (j->kind == MULL_JOB_ANNOTATE && (!j->input || !*j->input)) return wrong("input", "it is missing", err);
    if (j->kind == MULL_JOB_ANNOTATE && (!j->out || !*j->out)) return wrong("out", "it is missing", err);
    if (j->kind == MULL_JOB_GENERATE && (j->prompt != NULL) == (j->messages != NULL))
        return wrong("prompt", "give one of prompt and messages", err);
    if (j->messages && (j->images || j->videos) && json_array_size(j->images) + json_array_size(j->videos) > 0)
        return wrong("messages", "images and videos go with prompt; messages name their own", err);
    if (!isnan(j->fps) && j->nframes > 0) return wrong("nframes", "fps and nframes exclude each other", err);
    return MULL_OK;
}

/* An evaluation is asked as the release asks it: its pixels, and what each task says of tokens and temperature. */
static void eval_defaults(mull_job *j) {
    j->min_pixels = 256 * 784;
    j->max_pixels = 12845056;
    j->max_new_tokens = 0;
    j->temperature = -1;
    j->bootstrap = 1000;
    j->vsibench_options = j->circular = j->shuffle = true;
}

/* The kind, or -1. */
static int kind_of(const char *name) {
    for (int i = 0; i <= MULL_JOB_ROLLOUT; i++)
        if (!strcmp(name, mull_job_kind_name((mull_job_kind)i))) return i;
    return -1;
}

const char *mull_job_kind_name(mull_job_kind kind) {
    static const char *const NAMES[] = {
        [MULL_JOB_GENERATE] = "generate", [MULL_JOB_ANNOTATE] = "annotate", [MULL_JOB_TRAIN] = "train",
        [MULL_JOB_EVAL] = "eval",         [MULL_JOB_SERVE] = "serve",       [MULL_JOB_ROLLOUT] = "rollout"};
    return NAMES[kind];
}

int mull_job_read(json_t *json, mull_job *job, mull_error *err) {
    *job = (mull_job){.json = json,
                      .id = "",
                      .latents = 20,
                      .min_pixels = -1,
                      .max_pixels = -1,
                      .nframes = -1,
                      .shard_rows = 1000,
                      .max_queue = -1,
                      .idle_timeout = -1,
                      .fps = NAN,
                      .max_new_tokens = 512,
                      .top_k = 0,
                      .temperature = 0,
                      .top_p = 1,
                      .repetition_penalty = NAN};
    const char *kind = json_string_value(json_object_get(json, "kind"));
    const json_t *sampling = json_object_get(json, "sampling");
    int rc = MULL_OK;
    if (!json_is_object(json))
        rc = mull_fail(err, MULL_EARG, WHAT, "", "", "it is no JSON object");
    else if (!kind)
        rc = wrong("kind", "it is missing", err);
    else if (kind_of(kind) < 0)
        rc = mull_fail(err, MULL_EUNSUPPORTED, WHAT, "kind", "use generate, annotate, train, eval, serve or rollout",
                       "this engine cannot run jobs of kind %.40s", kind);
    else if (sampling && !json_is_object(sampling) && !json_is_null(sampling))
        rc = wrong("sampling", "it must be a mapping", err);
    if (!rc) {
        job->kind = (mull_job_kind)kind_of(kind);
        if (job->kind == MULL_JOB_EVAL) eval_defaults(job);
        rc = take_all(job, json, FIELDS, err);
    }
    if (!rc && json_is_object(sampling)) rc = take_all(job, sampling, SAMPLING, err);
    if (!rc && job->kind == MULL_JOB_EVAL && job->nframes < 0 && isnan(job->fps)) job->nframes = 32;
    if (!rc) rc = take_stop(job, json_object_get(sampling, "stop"), err);
    if (!rc) rc = check_whole(job, err);
    if (rc) mull_job_fini(job);
    return rc;
}

int mull_job_parse(const char *text, size_t len, mull_job *job, mull_error *err) {
    json_error_t why;
    json_t *json = json_loadb(text, len, JSON_REJECT_DUPLICATES, &why);
    if (json) return mull_job_read(json, job, err);
    *job = (mull_job){0};
    return mull_fail(err, MULL_EARG, WHAT, "", "send one JSON object", "line %d: %s", why.line, why.text);
}

void mull_job_fini(mull_job *job) {
    json_decref(job->json);
    *job = (mull_job){0};
}
